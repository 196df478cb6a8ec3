"""The first signal ends the work in order, later ones change nothing, and a start of Kafka is given up."""

import asyncio
import os
import signal
import threading

import pytest

from bus.cli.interruption import Interrupted, until_interrupted
from services import node


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_orderly_end_however_often_it_is_asked_for(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    ended = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append("in order")

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(Interrupted) as interrupted:
        until_interrupted(work)
    assert (ended, interrupted.value.exit_code) == (["in order"], 128 + number)
    assert capsys.readouterr().err.splitlines()[0] == "stopping …"
    assert {each: signal.getsignal(each) for each in before} == before


def test_work_that_is_not_interrupted_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert until_interrupted(work) == 7


async def test_a_start_that_is_cancelled_is_given_up_and_waited_for() -> None:
    class Starting:
        """A cluster whose start takes until it is given up."""

        def __init__(self) -> None:
            self.began, self.asked = threading.Event(), threading.Event()
            self.is_ended = False

        def start(self) -> None:
            self.began.set()
            assert self.asked.wait(30)
            self.is_ended = True
            raise RuntimeError("given up")

        def give_up(self) -> None:
            self.asked.set()

    cluster = Starting()
    task = asyncio.ensure_future(node._start(cluster))  # type: ignore[arg-type]
    await asyncio.to_thread(cluster.began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cluster.is_ended
