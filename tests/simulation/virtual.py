"""An event loop whose time is a number: when nothing can go on, it jumps to the next timer.

Equal seeds give equal histories: no thread, no socket, no wall clock, and every delay is drawn by the history itself.
"""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
VIRTUAL_S_MAX = 30 * 86_400.0
TURNS_MAX = 300_000
"""Turns of the loop in one history; a usual one takes a thousand."""


class Standstill(RuntimeError):
    """Nothing is scheduled and nothing is ready: the history would wait for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in their order; `time()` moves only when all of them wait."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turns = 0
        self._selector: Any = self
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Stands for the selector that the base class asks: no sockets, only time."""
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise Standstill("something goes round and round")
        if timeout is None:
            raise Standstill("nothing can happen any more")
        if timeout > 0:
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
            if self._now > VIRTUAL_S_MAX:
                raise Standstill("a history of more than thirty days")
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        return None

    def _write_to_self(self) -> None:
        return None


class VirtualClock:
    """The clock of one machine: wall time may be off, boots differ between machines."""

    def __init__(self, loop: VirtualLoop, machine: str = "machine-1", off_s: float = 0.0) -> None:
        self._loop = loop
        self._machine = machine
        self._off = timedelta(seconds=off_s)

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time()) + self._off

    def boot_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def boot_id(self) -> str:
        return self._machine


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Runs a history to its end and leaves nothing behind."""
    try:
        return loop.run_until_complete(main)
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()
