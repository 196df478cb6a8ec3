"""What polling knows is counted as it is committed (law 17), by the rule of the books."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.core import topics
from bus.core.errors import MappingError
from bus.kit.connector import RawRecord
from schemas.system import IntentState, SeenRecord
from services.pollers.publishing import Seen
from tests.fakes import Deaths, Killed, company, order
from tests.unit.pollers.test_poller import cursor, intent, wrote
from tests.unit.pollers.world import HERE, Poller


def by_the_books(world: Poller) -> dict[str, int]:
    """`known` as `bus/runtime/books.py` counts it, from the topic alone."""
    newest = {record.key: world.codec.decode("", record.value) for record in world.log.topic(topics.SEEN)}
    return dict(Counter(seen.entity for seen in newest.values() if seen.content_hash or seen.deleted))


async def test_every_cursor_counts_what_is_known_with_it() -> None:
    world = Poller()
    world.vendor.put("customer", company("One"))
    world.vendor.put("customer", company("Two", email="two@x.test"))
    world.vendor.put("sales_order", order())
    await world.poll()
    assert cursor(world).known == by_the_books(world) == {"customer": 2, "sales_order": 1}
    assert cursor(world).known_at == world.clock.now()
    world.vendor.put("customer", company("Three", email="three@x.test"))
    await world.poll(world.life())  # counted anew at the start of a process
    assert cursor(world).known == by_the_books(world) == {"customer": 3, "sales_order": 1}


async def test_what_is_set_aside_or_held_does_not_count_until_it_is_judged() -> None:
    world = Poller()
    bad = world.vendor.put("customer", company("Bad"))
    original = world.connector.to_canonical

    def mapped(record: RawRecord) -> object:
        if record.id == bad:
            raise MappingError("no name")
        return original(record)

    world.connector.to_canonical = mapped  # type: ignore[method-assign, assignment]
    intent(world, IntentState.OPEN)
    held = world.vendor.put("customer", company("Held", email="held@x.test"))
    poller = world.life()
    await world.poll(poller)
    assert cursor(world).known == by_the_books(world) == {}
    wrote(world, held, company("Held", email="held@x.test"))
    intent(world, IntentState.CLOSED)
    await poller.judge_held()
    assert cursor(world).known == by_the_books(world) == {"customer": 1}, "judging what was held counts it, in a cursor"


@pytest.mark.parametrize("point", [1, 2])
async def test_a_death_around_the_commit_leaves_counts_and_knowledge_as_one(point: int) -> None:
    world = Poller(Deaths(at=point))
    world.vendor.put("customer", company())
    with pytest.raises(Killed):
        await world.poll()
    committed = world.log.topic(topics.CURSORS)
    assert (cursor(world).known if committed else {}) == by_the_books(world)
    await world.poll()
    assert cursor(world).known == by_the_books(world) == {"customer": 1}


@settings(deadline=None)
@given(
    changes=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["hash", "", "deleted", "held"])), max_size=4), max_size=8
    )
)
def test_counts_kept_up_are_counts_made_anew(changes: list[list[tuple[str, str]]]) -> None:
    world = Poller()
    seen = Seen(HERE, world.codec, {})
    newest: dict[str, bytes] = {}
    for batch in changes:
        records = []
        for source_id, kind in batch:
            record = SeenRecord(
                connection=HERE,
                entity="customer",
                source_id=source_id,
                raw_hash="",
                content_hash="h" if kind == "hash" else "",
                seq=1,
                mapping_version=1,
                deleted=kind == "deleted",
                held=kind == "held",
            )
            records.append((seen.key("customer", source_id), world.codec.encode(topics.SEEN, record), record))
        told = seen.known_after(records)
        for key, raw, record in records:
            seen.put(key, raw, record)
            newest[key] = raw
        fresh = Seen(HERE, world.codec, {key.encode(): raw for key, raw in newest.items()})
        fresh.recall_held()
        assert told == {name: count for name, count in seen.known.items() if count} == +fresh.known
        assert +seen.living == +fresh.living


async def test_one_that_vanished_still_counts() -> None:
    world = Poller()
    gone = world.vendor.put("customer", company())
    await world.poll()
    del world.vendor.objects["customer"][gone]
    record = RawRecord(entity="customer", id=gone, raw=b"", deleted=True)
    poller = world.life()
    page_of = world.connector.read

    async def read(stream: str, position: object) -> object:  # type: ignore[misc]
        async for page in page_of(stream, position):
            yield msgspec.structs.replace(page, records=[record])

    world.connector.read = read  # type: ignore[method-assign, assignment]
    await world.poll(poller)
    assert cursor(world).known == by_the_books(world) == {"customer": 1}
