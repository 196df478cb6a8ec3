"""What happens on the event loop when slots come and go; the group itself is tested on a broker."""

import asyncio

import pytest

from bus.core.errors import SettingsError, Unavailable
from bus.runtime import slots
from bus.runtime.kafka import CommitUnclear, Fenced
from bus.runtime.settings import BusSettings
from bus.runtime.slots import SlotOwnership


class Work:
    """Records what is called, and checks that gained and lost of a slot never overlap."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.fails: list[Exception] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.busy: set[int] = set()

    async def gained(self, slot: int) -> None:
        assert slot not in self.busy
        self.busy.add(slot)
        try:
            self.calls.append(("gained", slot))
            if self.fails:
                raise self.fails.pop(0)
            await self.hold.wait()
        finally:
            self.busy.discard(slot)

    async def lost(self, slot: int) -> None:
        assert slot not in self.busy
        self.calls.append(("lost", slot))


async def joined(work: Work, monkeypatch: pytest.MonkeyPatch) -> SlotOwnership:
    monkeypatch.setattr(slots, "RETRY_S", 0)
    ownership = SlotOwnership(BusSettings(kafka_bootstrap="x:1"), "test", work.gained, work.lost)
    ownership._failed = asyncio.get_running_loop().create_future()
    return ownership


async def settled(ownership: SlotOwnership) -> None:
    await asyncio.gather(*ownership._tasks.values())


async def test_gained_slots_are_owned_and_lost_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1, 2])
    assert ownership.assigned.is_set()
    await settled(ownership)
    await ownership._lose_all([1])
    assert ownership.owned == {2}
    assert work.calls == [("gained", 1), ("gained", 2), ("lost", 1)]


async def test_a_takeover_waits_out_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    work.fails = [Unavailable("away"), CommitUnclear("?")]
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1])
    await settled(ownership)
    assert work.calls == [("gained", 1), ("lost", 1), ("gained", 1), ("lost", 1), ("gained", 1)]


async def test_fenced_by_a_late_older_owner_is_tried_again_while_the_slot_is_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    work.fails = [Fenced("late older owner")]
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1])
    await settled(ownership)
    assert work.calls == [("gained", 1), ("lost", 1), ("gained", 1)]
    assert ownership._failed is not None
    assert not ownership._failed.done()


@pytest.mark.parametrize("error", [KeyError("a bug"), SettingsError("no key")])
async def test_anything_else_in_a_takeover_ends_the_membership(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    work.fails = [error]
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1])
    with pytest.raises(type(error)):
        await ownership.failure()


async def test_a_slot_lost_in_the_middle_of_its_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    work.hold.clear()
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1])
    await asyncio.sleep(0)
    assert work.busy == {1}
    await ownership._lose_all([1])
    assert work.calls == [("gained", 1), ("lost", 1)]


async def test_taking_over_again_gives_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    ownership = await joined(work, monkeypatch)
    await ownership._gain_all([1])
    await settled(ownership)
    await ownership.again(1)
    await settled(ownership)
    await ownership.again(9)
    assert work.calls == [("gained", 1), ("lost", 1), ("gained", 1)]
    assert ownership.owned == {1}
