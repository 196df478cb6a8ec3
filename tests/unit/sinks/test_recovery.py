"""Law 18: what retention took from an account is asked for anew, with its new place, and nothing is made twice meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bus.core import topics
from bus.core.clock import FrozenClock
from bus.core.configuration import parse
from bus.runtime.codec import Codec
from bus.runtime.reader import Record
from bus.runtime.slotwork import OwnershipLost
from bus.runtime.state import AccountState, backfill_key, link_key, offset_key
from schemas import canon
from schemas.system import (
    BackfillRecord,
    CommandKind,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    OffsetRecord,
    RequestKind,
    StateRecord,
)
from services.sinks.ledger import Entry, Ledger
from services.sinks.recovery import Recovery, asked_anew, is_lost
from tests.fakes import Deaths, FakeLog

CONFIGURATION = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop}
--- {kind: Connection, name: till, tenant: acme, system: some_till, secret: till}
--- {kind: Connection, name: ledger, tenant: acme, system: some_ledger, secret: ledger}
--- {kind: Flow, name: customers, from: {connection: shop, entity: customer}, to: {connection: ledger, entity: customer},
     start: {existing: send}, write: upsert}
--- {kind: Flow, name: sales, from: {connection: till, entity: product}, to: {connection: ledger, entity: product},
     start: {existing: send}, write: upsert}
--- {kind: Flow, name: back, from: {connection: ledger, entity: customer}, to: {connection: shop, entity: customer},
     start: {existing: send}, write: upsert}
"""
FLOWS = parse(CONFIGURATION).accepted().flows
SLOTS = 8
"""Of the test's bus."""
LOST, BEGINNING = 40, 900


class Batches(FakeLog):
    """A log that keeps its transactions apart."""

    def __init__(self, deaths: Deaths | None = None) -> None:
        super().__init__(deaths)
        self.batches: list[list[Any]] = []

    async def commit(self, records: Any) -> None:
        await super().commit(records)
        self.batches.append(list(records))


class World:
    """The account `ledger` with what others left on the topics."""

    def __init__(self) -> None:
        self.codec = Codec.offline()
        self.log = Batches()
        self.topics: dict[str, list[Record]] = {}
        self.state = AccountState("ledger")
        self.state.apply(offset_key("ledger"), StateRecord(connection="ledger", offset=OffsetRecord(offset=LOST)))
        for entity in ("customer", "product"):
            known = BackfillRecord(entity=entity, complete=True)
            self.state.apply(backfill_key("ledger", entity), StateRecord(connection="ledger", backfill=known))
        self.recovery = Recovery(slots=SLOTS, read_all=self.read_all, flows=FLOWS.values, clock=FrozenClock())

    async def read_all(self, topic: str, wanted: Callable[[str], bool]) -> AsyncIterator[tuple[Record, Any]]:
        for record in self.topics.get(topic, []):
            if wanted(record.key.decode()):
                yield record, None if record.value is None else self.codec.decode(topic, record.value)

    def put(self, topic: str, key: str, value: Any) -> None:
        raw = None if value is None else self.codec.encode(topic, value)
        self.topics.setdefault(topic, []).append(Record(topic, 0, 0, key.encode(), raw, {}))

    def link(self, peer: str, source: ObjectRef, external_id: str, **changes: Any) -> None:
        """A peer's link to an object."""
        link = LinkRecord(
            source=source, entity=source.entity, external_id=external_id,
            **({"state": LinkState.ACTIVE, "linked_by": LinkedBy.CREATED} | changes),
        )  # fmt: skip
        self.put(topics.STATE, link_key(peer, link.entity, source, None), StateRecord(connection=peer, link=link))

    async def recover(self) -> None:
        ledger = Ledger(0, self.log, self.codec)
        writer = asyncio.create_task(ledger.run())
        try:
            await self.recovery.recover(self.state, ledger, LOST, BEGINNING)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def place(self) -> int:
        """The account's place as a new owner would read it."""
        records = [record for record in self.log.topic(topics.STATE) if record.key == offset_key("ledger")]
        return self.codec.decode(topics.STATE, records[-1].value).offset.offset if records else LOST

    def published(self, topic: str) -> list[Any]:
        return [self.codec.decode(topic, record.value) for record in self.log.topic(topic)]


@pytest.fixture
def world() -> World:
    return World()


def ours(object_id: str, entity: str = "customer") -> ObjectRef:
    return ObjectRef(connection="ledger", entity=entity, id=object_id)


async def test_place_and_requests_become_true_together(world):
    await world.recover()
    [batch] = world.log.batches
    assert [record.topic for record in batch if record.topic == topics.REQUESTS] == [topics.REQUESTS] * 3
    moved = [record for record in batch if record.key == offset_key("ledger")]
    assert [world.codec.decode(topics.STATE, record.value).offset.offset for record in moved] == [BEGINNING]


async def test_every_flow_to_the_account_is_replayed_and_the_account_read_again(world):
    await world.recover()
    asked = world.published(topics.REQUESTS)
    assert [(item.kind, item.connection, item.args.get("flow")) for item in asked] == [
        (RequestKind.REPLAY, "shop", "customers"),
        (RequestKind.REPLAY, "till", "sales"),
        (RequestKind.RESYNC, "ledger", None),
    ]
    assert asked[-1].args["publish"] == "changed"
    assert all("ledger were lost to retention" in item.args["reason"] for item in asked)
    slots = [record.partition for record in world.log.topic(topics.REQUESTS)]
    assert slots == [topics.slot_of(item.connection, SLOTS) for item in asked]
    assert len({item.id for item in asked}) == 3


async def test_nothing_is_created_before_the_account_is_read_again(world):
    await world.recover()
    assert world.state.backfilled == set()
    told = [record for record in world.log.topic(topics.STATE) if record.key.startswith("backfill|")]
    assert [world.codec.decode(topics.STATE, record.value).backfill.complete for record in told] == [False, False]


async def test_what_peers_linked_is_said_again_in_their_words(world):
    world.link("shop", ours("1"), "s1")
    world.link("till", ours("p", "product"), "t7", linked_by=LinkedBy.MATCH)
    world.link("shop", ours("2"), "s2", linked_by=LinkedBy.PEER)
    world.link("shop", ours("3"), "s3", state=LinkState.RETIRED)
    world.link("shop", ObjectRef(connection="other", entity="customer", id="4"), "s4")
    world.link("shop", ours("5"), "old")
    world.link("shop", ours("5"), "s5", linked_by=LinkedBy.MANUAL)
    world.link("shop", ours("6"), "s6")
    world.put(topics.STATE, link_key("shop", "customer", ours("6"), None), None)
    await world.recover()
    words = world.published(topics.outbound("ledger"))
    assert {(word.kind, word.source.connection, word.source.id, word.target_entity, word.target_id) for word in words} == {
        (CommandKind.LINK, "shop", "s1", "customer", "1"),
        (CommandKind.LINK, "till", "t7", "product", "p"),
        (CommandKind.LINK, "shop", "s5", "customer", "5"),
    }
    assert {record.partition for record in world.log.topic(topics.outbound("ledger"))} == {0}


async def test_a_link_bears_the_currency_of_its_customer(world):
    world.link("shop", ours("1"), "s1")
    for number, currency in (("1", "EUR"), ("1", "USD"), ("2", "SEK")):
        meta = canon.EventMeta(
            event_id="e", seq=1, tenant="acme", system="s", connection="ledger", entity="customer", source_id=number,
            observed_at=FrozenClock().now(), content_hash="h",
        )  # fmt: skip
        event = canon.CustomerEvent(meta=meta, after=canon.Customer(currency=currency))
        world.put(topics.canonical("customer"), topics.event_key("ledger", "customer", number), event)
    await world.recover()
    assert [word.currency for word in world.published(topics.outbound("ledger"))] == ["USD"]


async def test_a_death_before_the_end_leaves_the_place_and_the_next_owner_asks(world):
    for number in range(1_500):
        world.link("shop", ours(str(number)), f"s{number}")
    world.log.deaths = Deaths(at=5)  # before the third commit
    with pytest.raises(OwnershipLost):
        await world.recover()
    assert (world.published(topics.REQUESTS), world.place()) == ([], LOST)
    world.log.deaths = Deaths()
    await world.recover()
    assert (len(world.published(topics.REQUESTS)), world.place()) == (3, BEGINNING)
    assert max(len(batch) for batch in world.log.batches) <= 1_001


async def test_commands_taken_before_the_loss_keep_their_place_until_they_are_settled(world):
    ledger = Ledger(0, world.log, world.codec)
    writer = asyncio.create_task(ledger.run())
    ledger.offsets(world.state).taken(LOST)
    await world.recovery.recover(world.state, ledger, LOST + 1, BEGINNING)
    assert world.place() == LOST
    await ledger.commit(Entry(state=world.state, settles=LOST))
    assert world.place() == BEGINNING
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


def test_an_account_without_flows_is_read_again_only():
    assert [item.kind for item in asked_anew("nobody", FLOWS.values())] == [RequestKind.RESYNC]


@pytest.mark.parametrize(("position", "lost"), [(4, True), (5, False), (9, False), (10, False), (11, True)])
def test_a_place_is_lost_before_what_is_kept_and_behind_its_end(position, lost):
    assert is_lost(position, 5, 10) is lost
