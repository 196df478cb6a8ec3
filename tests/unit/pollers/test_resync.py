"""What is asked to be read again (law 18): all of it, beside the polls, and on behind its last page after a restart."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.core.errors import CursorInvalid, NetworkFailure
from bus.kit.connector import Page, RawRecord
from schemas.canon import Operation
from schemas.system import CommandKind, RequestKind, RequestRecord
from services.pollers.account import AccountPoller
from services.pollers.background import FAILURES_MAX, FETCHED_MAX
from tests.fakes import Deaths, Killed, company, order
from tests.unit.pollers.test_poller import cursor, wrote
from tests.unit.pollers.world import HERE, Poller

PAGE = 4


async def asked(world: Poller, poller: AccountPoller, offset: int = 0, **args: str) -> None:
    """A request, as it stands on the topic."""
    record = RequestRecord(kind=RequestKind.RESYNC, id=f"r{offset}", connection=HERE, args=args, made_at=world.clock.now())
    poller.ask(record, offset)
    await poller.take_requests()


async def done(poller: AccountPoller, steps_max: int = 200) -> int:
    """Steps until nothing is left to do."""
    for step in range(steps_max):
        if not await poller.step():
            return step
    raise AssertionError("it never ends")


def paged(world: Poller, size: int = PAGE, *, resumes: bool = True) -> list[Any]:
    """The vendor serves pages; returns the positions it was asked from. Not every connector can go on within a full read."""
    begun: list[Any] = []

    async def read(stream: str, position: Any) -> AsyncIterator[Page]:
        begun.append(position)
        records = [
            record
            for entity in ("customer", "product", "sales_order")
            for key in sorted(world.vendor.objects[entity])
            if (record := world.vendor.record(entity, key)) is not None
        ]
        at = (position or {}).get("at", 0)
        at = at if at < len(records) and resumes else 0  # a poll repeats, a resync goes on
        while True:
            some = records[at : at + size]
            at += len(some)
            yield Page(records=some, position={"at": at}, more=at < len(records))
            if at >= len(records):
                return

    world.connector.read = read  # type: ignore[method-assign]
    return begun


def shop(world: Poller, customers: int) -> list[str]:
    return [world.vendor.put("customer", company(f"C{n}", email=f"c{n}@x.test")) for n in range(customers)]


async def test_what_did_not_change_is_observed_and_not_published() -> None:
    world = Poller()
    ids = shop(world, 10)
    begun = paged(world)
    await world.poll()
    events, observed, told = len(world.events()), world.commands(CommandKind.OBSERVE), world.commands(CommandKind.BACKFILLED)
    position = cursor(world).position
    poller = world.life()
    await asked(world, poller)
    await done(poller)
    assert len(world.events()) == events
    again = world.commands(CommandKind.OBSERVE)[len(observed) :]
    assert [command.source.id for command in again] == sorted(ids)
    assert len(world.commands(CommandKind.BACKFILLED)) == 2 * len(told)
    assert world.log.topic(topics.outbound(HERE))[-1].key.startswith(f"{HERE}|backfilled"), "behind all observations"
    assert begun == [None, None]
    assert (cursor(world).position, cursor(world).resync) == (position, None), "the stream's own place stays"


async def test_what_changed_unseen_is_published() -> None:
    """The raw bytes are no reason to skip: they are those of a version that was mapped otherwise, or lost."""
    world = Poller()
    ids = shop(world, 3)
    await world.poll()
    original = world.connector.to_canonical
    world.connector.to_canonical = lambda record: (  # type: ignore[method-assign]
        msgspec.structs.replace(original(record), language="nl") if record.id == ids[1] else original(record)
    )
    assert await world.poll() == []
    poller = world.life()
    await asked(world, poller)
    await done(poller)
    assert [event.meta.source_id for event in world.events()[3:]] == [ids[1]]


async def test_all_means_an_event_for_every_object_each_newer_than_the_last_and_no_echo() -> None:
    world = Poller()
    (first, second) = shop(world, 2)
    await world.poll()
    wrote(world, first, company("C0", email="c0@x.test"))
    before = {event.meta.source_id: event.meta.seq for event in world.events()}
    world.clock.advance(5)
    poller = world.life()
    await asked(world, poller, publish="all")
    await done(poller)
    again = world.events()[2:]
    assert [event.meta.source_id for event in again] == [first, second]
    assert all(event.meta.seq > before[event.meta.source_id] for event in again)
    assert {event.meta.op for event in again} == {Operation.UPDATED}


async def test_one_entity_of_a_stream() -> None:
    world = Poller()
    shop(world, 2)
    world.vendor.put("sales_order", order())
    await world.poll()
    told = len(world.commands(CommandKind.BACKFILLED))
    world.clock.advance(5)
    poller = world.life()
    await asked(world, poller, entity="sales_order", publish="all")
    await done(poller)
    assert [event.meta.entity for event in world.events()[3:]] == ["sales_order"]
    assert len(world.commands(CommandKind.BACKFILLED)) == told, "documents are never matched"


async def test_only_what_changed_since() -> None:
    world = Poller()
    ids = shop(world, 3)
    await world.poll()
    moments = {ids[0]: world.clock.now() - timedelta(days=2), ids[1]: world.clock.now(), ids[2]: None}
    original = world.vendor.record

    def dated(entity: str, external_id: str) -> RawRecord | None:
        record = original(entity, external_id)
        return msgspec.structs.replace(record, modified_at=moments.get(external_id)) if record else None

    world.vendor.record = dated  # type: ignore[method-assign]
    told = len(world.commands(CommandKind.BACKFILLED))
    since = world.clock.now() - timedelta(days=1)
    world.clock.advance(5)
    poller = world.life()
    await asked(world, poller, since=since.isoformat(), publish="all")
    await done(poller)
    assert [event.meta.source_id for event in world.events()[3:]] == ids[1:], "one that says no time is meant as well"
    assert len(world.commands(CommandKind.BACKFILLED)) == told, "not everything was read"


async def test_keys_are_asked_for_one_by_one_and_one_that_is_missing_is_not_taken_for_deleted() -> None:
    world = Poller()
    ids = shop(world, FETCHED_MAX + 5)
    await world.poll()
    begun = paged(world)
    del world.vendor.objects["customer"][ids[0]]
    world.clock.advance(5)
    poller = world.life()
    await asked(world, poller, entity="customer", keys=msgspec.json.encode(ids).decode(), publish="all")
    await poller.step()
    assert len(world.events()[len(ids) :]) == FETCHED_MAX - 1, "so many at a time"
    await poller.step()
    assert [event.meta.source_id for event in world.events()[len(ids) :]] == ids[1:]
    assert Operation.DELETED not in {event.meta.op for event in world.events()}
    assert cursor(world).deletes_unproven_since is not None, "but all ids are compared soon"
    assert begun == []


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize("death", range(1, 8))
async def test_a_restart_goes_on_behind_the_last_page_and_publishes_nothing_twice(death: int, resumes: bool) -> None:
    world = Poller()
    ids = shop(world, 3 * PAGE)
    begun = paged(world, resumes=resumes)
    await world.poll()
    world.clock.advance(5)
    poller = world.life()
    await asked(world, poller, publish="all")
    world.log.deaths = Deaths(at=death)
    try:
        await done(poller)
    except Killed:
        world.clock.advance(5)
        poller = world.life()
        await poller.poll(poller.streams[0].facts)
        await done(poller)
    assert sorted(event.meta.source_id for event in world.events()[len(ids) :]) == sorted(ids)
    assert cursor(world).resync is None
    assert begun.count(None) == (3 if death == 1 else 2), "the poll, the resync, and that again only if no page was committed"


async def test_polls_go_on_between_its_pages() -> None:
    world = Poller()
    ids = shop(world, 5 * PAGE)
    paged(world)
    await world.poll()
    poller = world.life()
    await asked(world, poller)
    await poller.step()
    world.vendor.put("customer", company("Changed", email="c0@x.test"), ids[-1])
    events = await world.poll(poller)
    assert [event.after.company_name for event in events] == ["Changed"]
    assert cursor(world).resync is not None, "a poll forgets no resync"
    await done(poller)
    assert cursor(world).resync is None


async def test_a_request_made_while_nobody_was_there_is_carried_out_once() -> None:
    world = Poller()
    shop(world, 2)
    await world.poll()
    record = RequestRecord(kind=RequestKind.RESYNC, id="r", connection=HERE, args={"publish": "all"}, made_at=world.clock.now())
    world.clock.advance(5)
    for _ in range(3):  # each owner reads the requests of the last days from their beginning
        poller = world.life()
        poller.ask(record, 41)
        await poller.take_requests()
        await done(poller)
        world.clock.advance(5)
    assert len(world.events()) == 4
    poller.ask(msgspec.structs.replace(record, id="another"), 42)
    await poller.take_requests()
    await done(poller)
    assert len(world.events()) == 6


async def test_a_death_while_it_is_accepted_loses_it_not() -> None:
    for death in (1, 2):
        world = Poller()
        shop(world, 2)
        await world.poll()
        world.clock.advance(5)
        record = RequestRecord(
            kind=RequestKind.RESYNC, id="r", connection=HERE, args={"publish": "all"}, made_at=world.clock.now()
        )
        world.log.deaths = Deaths(at=death)
        poller = world.life()
        poller.ask(record, 3)
        with pytest.raises(Killed):
            await poller.take_requests()
        poller = world.life()
        poller.ask(record, 3)
        await poller.take_requests()
        await done(poller)
        assert len(world.events()) == 4


@pytest.mark.parametrize(
    "args",
    [
        {"stream": "stock"},
        {"entity": "sales_invoice"},
        {"keys": "[1"},
        {"keys": '["1"]'},
        {"since": "yesterday"},
        {"entity": "customer", "keys": msgspec.json.encode([str(n) for n in range(501)]).decode()},
    ],
)
async def test_a_request_nobody_can_carry_out_is_passed_over_with_a_word(
    args: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    world = Poller()
    shop(world, 1)
    await world.poll()
    poller = world.life()
    await asked(world, poller, **args)
    assert await poller.step() is False
    assert any("not read again" in record.message for record in caplog.records)
    assert cursor(world).stream == topics.REQUESTS_CURSOR


async def test_a_vendor_that_is_away_for_a_while_ends_nothing() -> None:
    world = Poller()
    ids = shop(world, 3 * PAGE)
    paged(world)
    await world.poll()
    world.clock.advance(5)
    served = world.connector.read
    failures = iter([True, False, True])

    async def failing(stream: str, position: Any) -> AsyncIterator[Page]:
        async for page in served(stream, position):
            yield page
            if next(failures, False):
                raise NetworkFailure("away", retry_after_s=30)

    world.connector.read = failing  # type: ignore[method-assign]
    poller = world.life()
    await asked(world, poller, publish="all")
    for _ in range(40):
        if not await poller.step():
            world.clock.advance(30)
    assert sorted(event.meta.source_id for event in world.events()[len(ids) :]) == sorted(ids)
    assert cursor(world).resync is None


async def test_a_position_that_is_over_begins_anew_and_one_that_never_ends_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    world = Poller()
    shop(world, 2 * PAGE)
    begun = paged(world)
    await world.poll()
    served = world.connector.read

    async def forgetful(stream: str, position: Any) -> AsyncIterator[Page]:
        async for page in served(stream, position):
            if position is not None:
                raise CursorInvalid("over")
            yield page
            raise CursorInvalid("over")

    world.connector.read = forgetful  # type: ignore[method-assign]
    poller = world.life()
    await asked(world, poller)
    for _ in range(8 * FAILURES_MAX):
        await poller.step()
        world.clock.advance(600)
    assert begun.count(None) > 2
    assert cursor(world).resync is None
    assert any("given up" in record.message for record in caplog.records)
