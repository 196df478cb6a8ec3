"""What was held is judged in numbers, and one that cannot be read stops nobody else."""

from typing import Any

import pytest

from bus.core import topics
from bus.core.errors import MappingError, NetworkFailure
from bus.kit.connector import RawRecord
from schemas.system import IntentState
from services.pollers.account import HELD_MAX
from tests.fakes import Deaths, Killed, company
from tests.unit.pollers.test_poller import intent
from tests.unit.pollers.world import Poller


async def held(world: Poller, count: int) -> tuple[Any, list[str]]:
    """A poller that holds some customers whose create was under way until now."""
    intent(world, IntentState.OPEN)
    ids = [world.vendor.put("customer", company(f"Held {n}", email=f"held{n}@x.test")) for n in range(count)]
    poller = world.life()
    assert await world.poll(poller) == []
    intent(world, IntentState.CLOSED)
    return poller, ids


async def test_many_are_judged_in_few_transactions_each_bounded() -> None:
    world = Poller()
    poller, ids = await held(world, HELD_MAX + 10)
    commits: list[int] = []
    inner = world.log.commit

    async def commit(records: Any) -> None:
        commits.append(sum(record.topic == topics.SEEN for record in records))
        await inner(records)

    poller._commit = commit
    await poller.judge_held()
    assert (commits, poller.held()) == ([HELD_MAX], 10)
    await poller.judge_held()
    assert (commits, poller.held()) == ([HELD_MAX, 10], 0)
    assert sorted(event.meta.source_id for event in world.events()) == sorted(ids)


async def test_what_is_fetched_is_made_whole() -> None:
    world = Poller()
    poller, ids = await held(world, 3)
    completed: list[str] = []
    original = world.connector.complete

    async def complete(records: Any) -> Any:
        completed.extend(record.id for record in records)
        return await original(records)

    world.connector.complete = complete  # type: ignore[method-assign]
    await poller.judge_held()
    assert sorted(completed) == sorted(ids)


async def test_one_that_cannot_be_read_is_set_aside_and_the_others_go_on() -> None:
    world = Poller()
    poller, ids = await held(world, 3)
    original = world.connector.fetch

    async def fetch(entity: str, external_id: str) -> RawRecord | None:
        if external_id == ids[1]:
            raise MappingError("a reference to nothing")
        return await original(entity, external_id)

    world.connector.fetch = fetch  # type: ignore[method-assign]
    await poller.judge_held()
    assert [event.meta.source_id for event in world.events()] == [ids[0], ids[2]]
    (letter,) = [world.codec.decode("", record.value) for record in world.log.topic(topics.DEAD_LETTERS)]
    assert (letter.source.id, letter.detail) == (ids[1], "a reference to nothing")
    assert poller.held() == 0


async def test_a_vendor_that_is_away_leaves_them_held() -> None:
    world = Poller()
    poller, _ = await held(world, 2)

    async def fetch(entity: str, external_id: str) -> RawRecord | None:
        raise NetworkFailure("away")

    world.connector.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(NetworkFailure):
        await poller.judge_held()
    assert (poller.held(), world.events()) == (2, [])


async def test_a_death_between_two_lots_judges_each_once() -> None:
    world = Poller()
    poller, ids = await held(world, HELD_MAX + 5)
    world.log.deaths = Deaths(at=2)  # behind the first commit
    with pytest.raises(Killed):
        await poller.judge_held()
    poller = world.life()
    assert poller.held() == 5
    await poller.judge_held()
    assert sorted(event.meta.source_id for event in world.events()) == sorted(ids)
