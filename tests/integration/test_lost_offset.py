"""An account paused until retention took what it had not read, on a real broker (law 18)."""

import asyncio
import base64
import contextlib
import uuid
from types import SimpleNamespace

import pytest
from confluent_kafka import TopicPartition

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import parse
from bus.core.errors import SettingsError
from bus.runtime import kafka
from bus.runtime.environment import Environment
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings
from bus.runtime.state import link_key, offset_key
from bus.runtime.tail import read_all
from schemas.system import Command, CommandKind, LinkedBy, LinkRecord, LinkState, ObjectRef, RequestKind, StateRecord
from services.sinks.slot import SinkSlot
from tests.fakes import FakeConnector, FakeVendor

pytestmark = pytest.mark.broker

PATIENCE_S = 60.0


class Lab:
    """A ledger that a shop's customers go to, and its sink."""

    def __init__(self, settings: BusSettings, environment: Environment) -> None:
        self.settings, self.environment, self.codec = settings, environment, environment.codec
        name = f"t{uuid.uuid4().hex[:8]}"
        self.shop, self.ledger, self.flow = f"{name}-shop", f"{name}-ledger", f"{name}-customers"
        self.topic = topics.outbound(self.ledger)
        self.slot = topics.slot_of(self.ledger, settings.slots)

    async def open(self) -> None:
        """Applies the configuration; the ledger's vendor is a fake."""
        wanted = parse(f"""
--- {{kind: Connection, name: {self.shop}, tenant: acme, system: some_shop, secret: shop}}
--- {{kind: Connection, name: {self.ledger}, tenant: acme, system: some_ledger, secret: ledger}}
--- {{kind: Flow, name: {self.flow}, from: {{connection: {self.shop}, entity: customer}},
     to: {{connection: {self.ledger}, entity: customer}}, start: {{existing: send}}, write: upsert}}
""").accepted()
        await apply(self.settings, self.codec, wanted, SystemClock(), allow_remove=True)
        await self.environment.codec.open()
        await self.environment.start()

    async def publish(self, *records: Outgoing) -> None:
        publisher = Publisher(self.settings, f"test-{uuid.uuid4().hex}")
        await publisher.open()
        try:
            await publisher.commit(records)
        finally:
            await publisher.close()

    def word(self, entity: str) -> Outgoing:
        """One command for the ledger."""
        command = Command(kind=CommandKind.BACKFILLED, id=entity, target_entity=entity, made_at=SystemClock().now())
        return Outgoing(self.topic, 0, f"{self.ledger}|backfilled|{entity}", self.codec.encode(self.topic, command))

    @contextlib.asynccontextmanager
    async def sink(self):
        """The sink's slot at work."""
        slot = SinkSlot(self.environment, self.slot)
        await slot.take_over()
        task = asyncio.ensure_future(slot.run())
        try:
            yield slot
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await slot.close()

    async def place(self) -> int | None:
        """The committed place of the ledger."""
        found = None
        async for _, value in read_all(self.settings, self.codec, topics.STATE, offset_key(self.ledger).__eq__):
            found = value.offset.offset
        return found

    async def until_place(self, least: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.place() or 0) < least:
                await asyncio.sleep(0.2)

    async def requests(self) -> list[tuple[str, str, str | None]]:
        """What was asked since the configuration was applied."""
        mine = {self.shop, self.ledger}
        return [
            (str(item.kind), item.connection, item.args.get("flow"))
            async for _, item in read_all(self.settings, self.codec, topics.REQUESTS, mine.__contains__)
            if item.args.get("reason") != "new flow"
        ]

    def forget(self, before: int) -> None:
        """Retention."""
        admin = kafka.admin(self.settings)  # the answer comes as long as somebody holds it
        for answer in admin.delete_records([TopicPartition(self.topic, 0, before)]).values():
            answer.result(30)


@pytest.fixture
async def lab(cluster, monkeypatch):
    settings = BusSettings(
        kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, http_port=0,
        master_key=base64.b64encode(bytes(32)).decode(),
    )  # fmt: skip
    async with RegistryClient.of(settings) as registry:
        try:
            await registry.ids()
        except SettingsError:
            await registry.register_all()
    await ensure_topics(settings, topics.fixed_topics(settings.slots, settings.partitions))
    environment = Environment(settings)
    await environment.codec.open()

    async def nothing() -> None:
        """No client to close."""

    def fake(*_):
        budgets = SimpleNamespace(restore=lambda *_: None, used_today=dict)
        return SimpleNamespace(connector=FakeConnector(FakeVendor()), budgets=budgets, report=lambda: None, close=nothing)

    monkeypatch.setattr(environment, "open", fake)
    found = Lab(settings, environment)
    await found.open()
    yield found
    await environment.stop()


async def test_paused_for_longer_than_commands_are_kept(lab):
    await lab.publish(lab.word("customer"))
    async with lab.sink():
        await lab.until_place(1)
    link = LinkRecord(
        source=ObjectRef(connection=lab.ledger, entity="customer", id="d1"), entity="customer", external_id="c1",
        state=LinkState.ACTIVE, linked_by=LinkedBy.CREATED,
    )  # fmt: skip
    stands = StateRecord(connection=lab.shop, link=link)
    place = topics.slot_of(lab.shop, lab.settings.slots)
    said = Outgoing(
        topics.STATE, place, link_key(lab.shop, "customer", link.source, None), lab.codec.encode(topics.STATE, stands)
    )
    await lab.publish(said, *(lab.word("product") for _ in range(50)))
    await asyncio.to_thread(lab.forget, 40)
    expected = [("REPLAY", lab.shop, lab.flow), ("RESYNC", lab.ledger, None)]
    async with lab.sink() as slot:
        await lab.until_place(54)  # the words that were left, and the peer's link at the end
        assert sorted(await lab.requests()) == expected
        state = slot.accounts[lab.ledger].state
        peer = state.link("customer", ObjectRef(connection=lab.shop, entity="customer", id="c1"))
        assert peer is not None
        assert (peer.external_id, peer.linked_by) == ("d1", LinkedBy.PEER)
        assert state.backfilled == {"product"}, "customers wait until the account is read again; products were told of anew"
    await lab.publish(lab.word("customer"))
    async with lab.sink() as slot:
        await lab.until_place(56)
        assert "customer" in slot.accounts[lab.ledger].state.backfilled
    assert sorted(await lab.requests()) == expected, "asked once"


async def test_lost_before_the_first_read(lab):
    await lab.publish(*(lab.word("product") for _ in range(5)))
    await asyncio.to_thread(lab.forget, 5)
    async with lab.sink():
        await lab.until_place(5)
    assert {kind for kind, _, _ in await lab.requests()} == {RequestKind.REPLAY, RequestKind.RESYNC}
