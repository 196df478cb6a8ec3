"""How the work of a slot ends."""

import asyncio
from typing import Any

import pytest

from bus.runtime import slotwork
from bus.runtime.slotwork import SlotWorker


class Recorded:
    """Work that tells what was asked of it."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.ends = asyncio.Event()

    async def take_over(self) -> None:
        self.calls.append("take over")

    async def run(self) -> None:
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise

    async def close(self) -> None:
        self.calls.append("close")


class Graceful(Recorded):
    """Work that drains."""

    drains: Any = None

    async def drain(self) -> None:
        self.calls.append("drain")
        if self.drains is not None:
            await self.drains()
        self.calls.append("drained")


def worker(work: Recorded) -> SlotWorker:
    found = SlotWorker.__new__(SlotWorker)
    found._tasks, found._works = {}, {3: work}
    found._tasks[3] = asyncio.ensure_future(work.run())
    return found


async def handed_over(work: Recorded) -> list[str]:
    owner = worker(work)
    await asyncio.sleep(0)
    await owner._lost(3)
    assert not owner._tasks
    assert not owner._works
    return work.calls


async def test_work_drains_before_it_is_cancelled() -> None:
    assert await handed_over(Graceful([])) == ["drain", "drained", "cancelled", "close"]


async def test_work_without_a_drain_is_cancelled() -> None:
    assert await handed_over(Recorded([])) == ["cancelled", "close"]


async def test_a_drain_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slotwork, "DRAIN_S", 0)
    work = Graceful([])
    work.drains = asyncio.Event().wait
    assert await handed_over(work) == ["drain", "cancelled", "close"]


async def test_a_drain_that_fails_holds_nothing_up() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    work = Graceful([])
    work.drains = fail
    assert await handed_over(work) == ["drain", "cancelled", "close"]


async def test_work_that_has_ended_is_not_drained() -> None:
    work = Graceful([])
    owner = worker(work)
    work.ends.set()
    await owner._tasks[3]
    await owner._lost(3)
    assert work.calls == ["close"]
