"""A step that does not end, or a loop that does not turn, ends its process; whatever ends in time does not."""

import asyncio
import subprocess
import sys
import threading

import pytest

from bus.runtime import watchdog
from bus.runtime.watchdog import Watchdog


class Time:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_span_over_its_limit_is_told_and_one_that_ended_is_not() -> None:
    time = Time()
    dog = Watchdog(time)
    with dog.span("commit", 10):
        time.now += 10
        assert dog.stuck() is None
        time.now += 1
        assert dog.stuck() == "commit is over its limit by 1 s"
    assert dog.stuck() is None


def test_the_span_longest_over_its_limit_is_named() -> None:
    time = Time()
    dog = Watchdog(time)
    with dog.span("a page", 900), dog.span("a poll", 60):
        time.now += 1_000
        assert dog.stuck() == "a poll is over its limit by 940 s"


def test_a_span_ends_with_its_error() -> None:
    time = Time()
    dog = Watchdog(time)
    with pytest.raises(ValueError, match="refused"), dog.span("commit", 10):
        raise ValueError("refused")
    time.now += 100
    assert dog.stuck() is None


async def test_a_loop_that_turns_is_not_stuck() -> None:
    time = Time()
    dog = Watchdog(time)
    beating = asyncio.ensure_future(dog.beat())
    await asyncio.sleep(0)
    time.now += watchdog.LOOP_LIMIT_S + 1
    assert dog.stuck() == "event loop is over its limit by 1 s"
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    assert dog.stuck() is None


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.01)


@pytest.mark.usefixtures("often")
def test_the_guard_ends_a_stuck_process(capfd: pytest.CaptureFixture[str]) -> None:
    time, codes = Time(), []
    dog = Watchdog(time)
    ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    with dog.span("commit of bus-sinks-3", 10):
        time.now += 11
        dog.guard(end).join(30)
    assert ended.is_set() and codes == [1]
    assert "most recent call first" in capfd.readouterr().err, "where every thread stands is written down"


HANGS = """
import asyncio, threading
from bus.runtime import watchdog
watchdog.LOOP_BEAT_S, watchdog.LOOP_LIMIT_S, watchdog.LOOK_EVERY_S = 0.01, 0.2, 0.05
async def main():
    beating = asyncio.ensure_future(watchdog.WATCHDOG.beat())
    watchdog.WATCHDOG.guard()
    await asyncio.sleep(0.1)
    threading.Event().wait()  # whatever blocks the loop: a lock, a library without time-out
asyncio.run(main())
"""


def test_a_process_whose_loop_hangs_ends_itself() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert b"event loop is over its limit" in ended.stderr
