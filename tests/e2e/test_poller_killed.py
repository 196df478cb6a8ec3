"""A poller killed between flush and commit, or frozen and replaced: no event is lost, none is there twice."""

from collections import Counter

import pytest

from bus.core import topics
from tests.e2e.test_sink_killed import SALES, orders_of, references
from tests.e2e.waiting import until
from tests.e2e.world import World

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

DEATHS = (1, 2, 3, 5)
SESSION_S = 20
ENTITIES = ("customer", "product", "sales_invoice", "sales_order")


async def test_between_flush_and_commit(world: World) -> None:
    """Every death leaves its records uncommitted at the broker; the successor fences them and publishes them again."""
    await world.open([SALES], orders=24)
    world.launch("grants", "processors", "sinks")
    for number in DEATHS:
        (poller,) = world.launch("pollers", die_at=number)
        assert await poller.died() == -9
    world.launch("pollers")
    books = await world.quiet()
    assert [(flow.read, flow.settled) for flow in books.flows] == [(24, 24)]
    await assert_each_event_once(world)
    assert set(references(await orders_of(world)).values()) == {1}


async def test_a_poller_frozen_in_its_commit_is_fenced(world: World) -> None:
    """Two pollers for one connection: stopped longer than its session lives, awake again, the older one commits nothing."""
    await world.open([SALES], orders=24)
    world.launch("grants", "processors", "sinks")
    (frozen,) = world.launch("pollers", freeze_at=4)
    await until(lambda: frozen.said("struck"), 40, "the first poller is frozen between flush and commit")
    (second,) = world.launch("pollers")
    slots = {topics.slot_of(name, world.settings.slots) for name in world.connections}

    async def taken_over() -> bool:
        return slots <= {line["slot"] for line in second.said("slot is owned")}

    await until(taken_over, SESSION_S + 30, "the second poller owns the slots")
    await world.quiet()
    before = await every_event(world)
    frozen.thaw()
    await until(lambda: frozen.said("went on without") or frozen.said("taking over again"), 30, "the frozen one knows")
    books = await world.quiet()
    assert [(flow.read, flow.settled) for flow in books.flows] == [(24, 24)]
    assert await every_event(world) == before
    await assert_each_event_once(world)
    assert set(references(await orders_of(world)).values()) == {1}


async def every_event(world: World) -> list[str]:
    found = [event.meta.event_id for entity in ENTITIES for _, event in await world.events(entity) if event is not None]
    return sorted(found)


async def assert_each_event_once(world: World) -> None:
    """Among committed records no event id is there twice, and the events of an object grow in seq."""
    for entity in ENTITIES:
        ids: Counter[str] = Counter()
        newest: dict[str, int] = {}
        for key, event in await world.events(entity):
            if event is None:
                continue
            ids[event.meta.event_id] += 1
            assert event.meta.seq > newest.get(key, 0)
            newest[key] = event.meta.seq
        assert set(ids.values()) <= {1}
    assert await world.events("sales_invoice")
