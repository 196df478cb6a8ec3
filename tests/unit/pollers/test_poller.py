"""What a poller publishes, and what it holds back."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.core.errors import CursorInvalid, MappingError
from bus.kit.connector import Page, RawRecord
from bus.runtime.state import intent_key, link_key, object_key
from schemas import canon
from schemas.canon import Operation
from schemas.system import (
    CommandKind,
    CursorRecord,
    IntentRecord,
    IntentState,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    StateRecord,
)
from services.pollers.judging import RESTED
from services.pollers.loops import TURNS_MAX
from tests.fakes import Deaths, Killed, company
from tests.unit.pollers.world import HERE, Poller

PEER = ObjectRef(connection="ledger", entity="customer", id="A1")


def wrote(world: Poller, external_id: str, document: canon.Customer, *, exact: bool = True, created: bool = False) -> None:
    """What the account's sink would have committed after a write, long enough ago for any list to show it."""
    state = ObjectState(
        content_hash=world.hasher.content(document) if exact else None,
        field_hashes=world.hasher.fields(document),
        by_bus=True,
        written_at=world.clock.now() - RESTED,
        writer=PEER,
    )
    world.written.append((object_key(HERE, "customer", external_id), StateRecord(connection=HERE, object=state)))
    link = LinkRecord(
        source=PEER,
        entity="customer",
        external_id=external_id,
        state=LinkState.ACTIVE,
        linked_by=LinkedBy.CREATED if created else LinkedBy.MATCH,
    )
    world.written.append((link_key(HERE, "customer", PEER, None), StateRecord(connection=HERE, link=link)))


def intent(world: Poller, state: IntentState, external_id: str | None = None) -> None:
    record = IntentRecord(
        source=PEER,
        entity="customer",
        state=state,
        command=b"",
        steps=[],
        external_id=external_id,
        deadline_boot_ms=0,
        boot_id="",
        opened_at=world.clock.now(),
    )
    world.written.append((intent_key(HERE, "customer", PEER, None), StateRecord(connection=HERE, intent=record)))


async def test_a_second_poll_of_the_same_objects_publishes_nothing() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    assert [event.meta.op for event in await world.poll()] == [Operation.SNAPSHOT]
    assert await world.poll() == []
    assert world.counts.read == world.counts.unchanged + world.counts.published == 2


async def test_bytes_that_change_without_meaning_are_no_event() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    original = world.connector.vendor.record

    def served(entity: str, i: str) -> RawRecord | None:
        record = original(entity, i)
        return msgspec.structs.replace(record, raw=record.raw + b" ") if record else None

    world.connector.vendor.record = served  # type: ignore[method-assign]
    assert external_id
    assert await world.poll() == []


async def test_a_changed_mapping_reads_equal_bytes_again() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    world.connector.manifest = world.connector.manifest.model_copy(update={"mapping_version": 2})
    original = world.connector.to_canonical
    world.connector.to_canonical = lambda record: msgspec.structs.replace(original(record), language="nl")  # type: ignore[method-assign]
    (event,) = await world.poll()
    assert event.meta.mapping_version == 2
    assert event.meta.op is Operation.UPDATED


async def test_the_order_of_an_object_rises_whatever_the_clock_does() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    (first,) = await world.poll()
    world.clock.advance(-3600)
    world.vendor.put("customer", company("Other"), external_id)
    (second,) = await world.poll()
    assert second.meta.seq == first.meta.seq + 1
    assert second.meta.event_id != first.meta.event_id


async def test_the_end_of_the_backfill_follows_all_observations() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    kinds = [world.codec.decode("", record.value).kind for record in world.log.topic(topics.outbound(HERE))]
    assert kinds[0] is CommandKind.OBSERVE
    assert set(kinds[1:]) == {CommandKind.BACKFILLED}
    await world.poll()
    assert len(world.commands(CommandKind.BACKFILLED)) == 2


@pytest.mark.parametrize("point", [1, 2])
async def test_a_death_around_the_commit_repeats_or_goes_on_but_never_skips_or_doubles(point: int) -> None:
    world = Poller(Deaths(at=point))
    world.vendor.put("customer", company())
    with pytest.raises(Killed):
        await world.poll()
    await world.poll()
    assert len(world.events()) == 1


async def test_events_knowledge_and_cursor_are_one_transaction() -> None:
    commits: list[set[str]] = []
    world = Poller()
    world.vendor.put("customer", company())
    inner = world.log.commit

    async def commit(records: Any) -> None:
        commits.append({record.topic for record in records})
        await inner(records)

    world.log.commit = commit  # type: ignore[method-assign]
    await world.poll()
    assert commits == [{"bus.canon.customer", topics.SEEN, topics.CURSORS, topics.outbound(HERE)}]


async def test_our_own_write_is_an_echo_whole() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    changed = company(email="new@vandijk.test")
    world.vendor.put("customer", changed, external_id)
    wrote(world, external_id, changed)
    (event,) = await world.poll()
    assert event.meta.origin.echo
    assert event.meta.origin.connection == "ledger"


async def test_an_edit_after_our_write_is_news_but_our_fields_are_not() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    ours = company(email="new@vandijk.test")
    wrote(world, external_id, ours)
    world.vendor.put("customer", msgspec.structs.replace(ours, language="de"), external_id)
    (event,) = await world.poll()
    assert event.meta.origin is None or not event.meta.origin.echo
    assert event.meta.echo_fields == ["email"]


async def test_going_back_to_what_we_wrote_is_news() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    ours = company(email="new@vandijk.test")
    wrote(world, external_id, ours)
    world.vendor.put("customer", ours, external_id)
    await world.poll()
    world.vendor.put("customer", company(email="third@vandijk.test"), external_id)
    await world.poll()
    world.vendor.put("customer", ours, external_id)
    (event,) = await world.poll()
    assert event.meta.origin is None
    assert event.meta.echo_fields == []


async def test_an_echo_is_known_by_any_later_process_and_accounted_for_once() -> None:
    """Killed after our write and before the poll, killed again after it: each process reads what it knows from the log."""
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll(world.life())
    ours = company(email="new@vandijk.test")
    wrote(world, external_id, ours)
    world.vendor.put("customer", ours, external_id)
    (event,) = await world.poll(world.life())
    assert event.meta.origin.echo
    world.vendor.put("customer", msgspec.structs.replace(ours, language="de"), external_id)
    (event,) = await world.poll(world.life())
    assert event.meta.origin is None
    assert event.meta.echo_fields == [], "our write was accounted for by the process before"
    world.vendor.put("customer", ours, external_id)
    (event,) = await world.poll(world.life())
    assert event.meta.origin is None, "somebody went back to what we wrote: that is an edit"


async def test_a_person_who_overwrites_our_field_at_the_same_time_is_news_whole() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    wrote(world, external_id, company(email="ours@vandijk.test"))
    world.vendor.put("customer", company(email="theirs@vandijk.test", language="de"), external_id)
    (event,) = await world.poll()
    assert event.meta.origin is None
    assert event.meta.echo_fields == []


async def test_an_edit_met_while_our_write_is_open_is_told_from_it_after_a_restart() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    intent(world, IntentState.OPEN, external_id)
    ours = company(email="ours@vandijk.test")
    world.vendor.put("customer", msgspec.structs.replace(ours, language="de"), external_id)
    assert await world.poll() == []
    wrote(world, external_id, ours)
    intent(world, IntentState.CLOSED, external_id)
    await world.life().judge_held()
    event = world.events()[-1]
    assert (event.meta.origin, event.meta.echo_fields) == (None, ["email"])
    assert event.after.language == "de"


async def test_an_object_under_an_open_update_is_held_until_the_intent_closes() -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    await world.poll()
    intent(world, IntentState.OPEN, external_id)
    changed = company(email="new@vandijk.test")
    world.vendor.put("customer", changed, external_id)
    poller = world.life()
    assert await world.poll(poller) == []
    assert world.counts.held == 1
    await poller.judge_held()
    assert len(world.events()) == 1
    wrote(world, external_id, changed)
    intent(world, IntentState.CLOSED, external_id)
    poller = world.life()  # what is held survives a restart
    await poller.judge_held()
    assert world.events()[-1].meta.origin.echo


async def test_an_unknown_object_is_held_while_a_create_is_open() -> None:
    world = Poller()
    intent(world, IntentState.OPEN)
    external_id = world.vendor.put("customer", company())
    poller = world.life()
    assert await world.poll(poller) == []
    wrote(world, external_id, company(), created=True)
    intent(world, IntentState.CLOSED)
    await poller.judge_held()
    (event,) = world.events()
    assert event.meta.origin.echo
    assert event.meta.origin.created


async def test_a_write_that_ends_while_its_page_waits_is_judged_with_the_page() -> None:
    world = Poller()
    intent(world, IntentState.OPEN)
    external_id = world.vendor.put("customer", company())
    poller = world.life()

    async def ends(_seconds: float) -> None:
        wrote(world, external_id, company(), created=True)
        intent(world, IntentState.CLOSED)

    poller._sleep = ends
    (event,) = await world.poll(poller)
    assert event.meta.origin.echo
    assert world.counts.held == 0


async def test_a_record_that_cannot_be_mapped_is_set_aside_with_its_bytes_once() -> None:
    world = Poller()
    bad = world.vendor.put("customer", company("Bad"))
    world.vendor.put("customer", company("Good", email="good@x.test"))
    original = world.connector.to_canonical

    def mapped(record: RawRecord) -> Any:
        if record.id == bad:
            raise MappingError("Customer.Name is null", hint="give it a name")
        return original(record)

    world.connector.to_canonical = mapped  # type: ignore[method-assign]
    events = await world.poll()
    assert [event.after.company_name for event in events] == ["Good"]
    (letter,) = [world.codec.decode("", record.value) for record in world.log.topic(topics.DEAD_LETTERS)]
    assert b"Bad" in letter.original
    assert letter.hint == "give it a name"
    await world.poll()
    assert len(world.log.topic(topics.DEAD_LETTERS)) == 1
    assert world.counts.read == world.counts.published + world.counts.unchanged + world.counts.dead


async def test_the_next_poll_of_a_stream_is_one_interval_after_its_begin() -> None:
    world = Poller()
    poller = world.life()
    state = poller.streams[0]
    await poller.turn(state)
    assert state.due_at == world.clock.now() + timedelta(seconds=60)


# --- deletes nobody can tell ---------------------------------------------------------------------------------------------------


def cursor(world: Poller) -> CursorRecord:
    return world.codec.decode("", world.log.topic(topics.CURSORS)[-1].value)


async def test_deletes_of_a_span_the_vendor_cannot_tell_are_unproven_from_then_on() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    assert cursor(world).deletes_unproven_since is None, "a first reading misses nothing"
    original = world.connector.read

    async def capped(stream: str, position: Any) -> AsyncIterator[Page]:
        async for page in original(stream, position):
            yield msgspec.structs.replace(page, deletes_unproven=True)

    world.connector.read = capped  # type: ignore[method-assign]
    await world.poll()
    since = cursor(world).deletes_unproven_since
    assert since is not None
    await world.poll()
    world.connector.read = original  # type: ignore[method-assign]
    await world.poll()
    assert cursor(world).deletes_unproven_since == since


async def test_a_position_the_vendor_forgot_leaves_deletes_unproven() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    original = world.connector.read

    async def forgetful(stream: str, position: Any) -> AsyncIterator[Page]:
        if position is not None:
            raise CursorInvalid("forgotten")
        async for page in original(stream, position):
            yield page

    world.connector.read = forgetful  # type: ignore[method-assign]
    await world.poll()
    assert cursor(world).deletes_unproven_since is not None


async def test_a_removed_cursor_leaves_deletes_unproven() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    world.log.records = [record for record in world.log.records if record.topic != topics.CURSORS]
    await world.poll()
    assert cursor(world).deletes_unproven_since is not None


async def test_a_changed_mapping_reads_the_changes_first_so_that_no_delete_is_missed() -> None:
    world = Poller()
    world.vendor.put("customer", company())
    await world.poll()
    asked: list[Any] = []
    original = world.connector.read

    def noted(stream: str, position: Any) -> AsyncIterator[Page]:
        asked.append(position)
        return original(stream, position)

    world.connector.read = noted  # type: ignore[method-assign]
    world.connector.manifest = world.connector.manifest.model_copy(update={"mapping_version": 2})
    await world.poll()
    assert asked == [{"at": 1}, None]
    assert (cursor(world).mapping_version, cursor(world).deletes_unproven_since) == (2, None)


async def test_what_changes_again_after_every_write_of_ours_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = Poller()
    external_id = world.vendor.put("customer", company())
    life = world.life()
    await world.poll(life)
    for turn in range(TURNS_MAX):
        wrote(world, external_id, company())
        world.vendor.put("customer", msgspec.structs.replace(company(), company_name=f"Turn {turn}"), external_id)
        await world.poll(life)
    assert [record.levelname for record in caplog.records if "back and forth" in record.message] == ["WARNING"]
