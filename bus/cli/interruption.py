"""Ctrl-C and SIGTERM for commands that start processes: one orderly end, however often they come."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

T = TypeVar("T")


class Interrupted(Exception):
    """The work was ended by a signal, and everything it had started is stopped."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = 128 + number


def until_interrupted(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the work returns. The first signal cancels it, later ones change nothing; then raises Interrupted."""
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def run() -> T:
        task = asyncio.ensure_future(work())

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            if len(received) == 1:
                click.echo("stopping …", err=True)
                task.cancel()
            else:
                click.echo("still stopping: what was started is being ended", err=True)

        for number in before:
            asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None
    finally:
        for number, handler in before.items():  # the loop leaves the defaults: who ran with them ignored still does
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
