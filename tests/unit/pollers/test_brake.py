"""A page of bad records is the stream's affair, one bad record its own (law 10)."""

from typing import Any

import pytest

from bus.core import topics
from bus.core.errors import MappingError, PageUnmappable
from bus.kit.connector import RawRecord
from services.pollers.account import UNMAPPABLE_MIN
from tests.fakes import company
from tests.unit.pollers.test_poller import cursor
from tests.unit.pollers.world import Poller


def world_of(good: int, bad: int) -> tuple[Poller, set[str]]:
    """An account some of whose customers cannot be mapped."""
    world = Poller()
    spoilt = {world.vendor.put("customer", company(f"Bad {n}", email=f"bad{n}@x.test")) for n in range(bad)}
    for n in range(good):
        world.vendor.put("customer", company(f"Good {n}", email=f"good{n}@x.test"))
    original = world.connector.to_canonical

    def mapped(record: RawRecord) -> Any:
        if record.id in spoilt:
            raise MappingError("Customer.Name is null")
        return original(record)

    world.connector.to_canonical = mapped  # type: ignore[method-assign]
    return world, spoilt


async def test_a_page_most_of_which_cannot_be_mapped_is_not_taken() -> None:
    world, spoilt = world_of(good=UNMAPPABLE_MIN // 2 - 1, bad=UNMAPPABLE_MIN // 2 + 1)
    poller = world.life()
    state = poller.streams[0]
    await poller.turn(state)
    assert world.log.topic(topics.DEAD_LETTERS) == []
    assert world.events() == []
    assert state.paused is not None
    assert "cannot be mapped; the first: Customer.Name is null" in state.paused
    assert cursor(world).position is None, "its cursor stays"
    assert cursor(world).paused == state.paused, "the log says why"
    assert cursor(world).backfilled is False
    spoilt.clear()
    poller.poll_now("all")  # bus poll --now
    await poller.turn(state)
    assert len(world.events()) == UNMAPPABLE_MIN
    assert cursor(world).paused is None


@pytest.mark.parametrize(("good", "bad"), [(499, 1), (UNMAPPABLE_MIN // 2, UNMAPPABLE_MIN // 2), (0, UNMAPPABLE_MIN - 1)])
async def test_fewer_bad_records_go_to_the_dead_letters(good: int, bad: int) -> None:
    world, _ = world_of(good, bad)
    await world.poll()
    assert (len(world.events()), len(world.log.topic(topics.DEAD_LETTERS))) == (good, bad)


async def test_records_that_did_not_change_do_not_dilute_a_bad_page() -> None:
    world, spoilt = world_of(good=200, bad=0)
    await world.poll()
    for number in range(UNMAPPABLE_MIN):
        spoilt.add(world.vendor.put("customer", company(f"New {number}", email=f"new{number}@x.test")))
    with pytest.raises(PageUnmappable):
        await world.poll()


async def test_resync_meets_the_same_brake_and_goes_on_when_the_stream_does() -> None:
    from tests.unit.pollers.test_resync import asked

    world, spoilt = world_of(good=5, bad=0)
    await world.poll()
    for number in range(UNMAPPABLE_MIN):
        world.vendor.put("customer", company(f"New {number}", email=f"new{number}@x.test"))
    spoilt |= set(world.vendor.objects["customer"])
    poller = world.life()
    await asked(world, poller)
    await poller.step()
    assert poller.streams[0].paused is not None
    assert await poller.step() is False, "a stream that stands still is left alone"
    spoilt.clear()
    poller.poll_now(None)
    while await poller.step():
        pass
    assert cursor(world).resync is None
