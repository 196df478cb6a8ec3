"""Apply, processors and their topics together on a real broker and registry."""

import asyncio
import uuid
from datetime import UTC, datetime

import pytest

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import ConfigurationRefused, parse
from bus.core.errors import SettingsError
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply, compare, read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.service import Service
from bus.runtime.settings import BusSettings
from schemas import canon
from schemas.system import Action, CursorRecord
from services.processors.app import serve

pytestmark = pytest.mark.broker

PATIENCE_S = 90.0


def configuration(name: str, *, start: str = "now", more: str = ""):
    return parse(f"""
--- {{kind: Connection, name: {name}-shop, tenant: acme, system: some_shop, secret: shop, config: {{realm: {name}}}}}
--- {{kind: Connection, name: {name}-ledger, tenant: acme, system: some_ledger, secret: ledger, config: {{realm: {name}}}}}
--- {{kind: Flow, name: {name}-customers, from: {{connection: {name}-shop, entity: customer}},
     to: {{connection: {name}-ledger, entity: customer}}, start: {{existing: send}}, write: upsert}}
--- {{kind: Flow, name: {name}-orders, from: {{connection: {name}-shop, entity: sales_order}},
     to: {{connection: {name}-ledger, entity: sales_order}}, start: {start}, write: create,
     reference: {{to: Ref, value: "'X-' ~ source.id"}}}}
{more}
""").accepted()


@pytest.fixture
async def settings(cluster, tmp_path) -> BusSettings:
    found = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, data_dir=tmp_path, http_port=0)
    async with RegistryClient.of(found) as registry:
        try:
            await registry.ids()
        except SettingsError:
            await registry.register_all()
    await ensure_topics(found, topics.fixed_topics(found.slots, found.partitions))
    return found


@pytest.fixture
async def codec(settings) -> Codec:
    async with RegistryClient.of(settings) as registry:
        found = Codec(registry)
        await found.open()
        yield found


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


async def publish(settings: BusSettings, *records: Outgoing) -> None:
    publisher = Publisher(settings, f"test-{uuid.uuid4().hex}")
    await publisher.open()
    try:
        await publisher.commit(records)
    finally:
        await publisher.close()


def customer(codec: Codec, name: str, source_id: str) -> Outgoing:
    meta = canon.EventMeta(
        event_id=source_id, seq=1, tenant="acme", system="some_shop", connection=f"{name}-shop", entity="customer",
        source_id=source_id, observed_at=datetime(2026, 12, 1, tzinfo=UTC), op=canon.Operation.CREATED, content_hash="h",
    )  # fmt: skip
    event = canon.CustomerEvent(meta=meta, after=canon.Customer(display_name="Bakkerij"))
    topic = topics.canonical("customer")
    return Outgoing(topic, None, topics.event_key(f"{name}-shop", "customer", source_id), codec.encode(topic, event))


async def commands(settings: BusSettings, codec: Codec, name: str, count: int) -> list:
    """The first `count` commands for the ledger."""
    reader, found = LogReader(settings, "test"), []
    topic = topics.outbound(f"{name}-ledger")
    try:
        await reader.assign(topic, {0: BEGINNING})
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                found += [codec.decode(topic, record.value) for record in await reader.take(wait_s=0.5)]
    finally:
        await reader.close()
    return found


async def ended(service: Service, task: "asyncio.Task[None]") -> None:
    service.stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await task


async def test_an_event_becomes_a_command_and_damage_a_dead_letter(settings, codec, name):
    await apply(settings, codec, configuration(name), SystemClock(), allow_remove=True)
    service = Service("processors", settings)
    task = asyncio.ensure_future(serve(service))
    damaged = Outgoing(topics.canonical("customer"), None, topics.event_key(f"{name}-shop", "customer", "2"), b"damaged")
    await publish(settings, customer(codec, name, "1"), damaged, customer(codec, name, "3"))
    found = await commands(settings, codec, name, 2)
    assert [(command.source.id, command.action, command.flow) for command in sorted(found, key=lambda item: item.source.id)] == [
        ("1", Action.UPSERT, f"{name}-customers"),
        ("3", Action.UPSERT, f"{name}-customers"),
    ]
    async with asyncio.timeout(60):
        while service.health.reasons():  # slots of replays come a moment later than events
            await asyncio.sleep(0.1)
    await ended(service, task)
    reader = LogReader(settings, "test")
    await reader.assign(topics.DEAD_LETTERS, dict.fromkeys(range(settings.partitions), BEGINNING))
    letters = [
        codec.decode(record.topic, record.value)
        async for batch in reader.read_to(topics.DEAD_LETTERS, await reader.ends(topics.DEAD_LETTERS))
        for record in batch
    ]
    await reader.close()
    assert [letter.original for letter in letters if letter.connection == f"{name}-shop"] == [b"damaged"]


async def test_a_connection_applied_while_processors_run_loses_no_event(settings, codec, name):
    service = Service("processors", settings)
    task = asyncio.ensure_future(serve(service))
    await apply(settings, codec, configuration(name), SystemClock(), allow_remove=True)
    await publish(settings, *(customer(codec, name, str(number)) for number in range(20)))
    found = await commands(settings, codec, name, 20)
    assert {command.source.id for command in found} == {str(number) for number in range(20)}
    await ended(service, task)


async def test_apply_publishes_only_what_differs_and_now_stays_what_it_was(settings, codec, name):
    first = await apply(settings, codec, configuration(name), SystemClock(), allow_remove=True)
    assert topics.outbound(f"{name}-ledger") in first.topics
    again = await apply(settings, codec, configuration(name), SystemClock())
    assert (again.version, list(again.changes)) == (first.version, [])
    changes = await compare(settings, codec, configuration(name, start="2026-12-01"), SystemClock())
    assert [(change.what, change.name, change.keys) for change in changes] == [("changed", f"{name}-orders", ("start",))]
    assert (await read_published(settings, codec)).version == first.version


async def test_a_connection_with_state_is_not_removed_or_renamed_by_accident(settings, codec, name):
    await apply(settings, codec, configuration(name), SystemClock(), allow_remove=True)
    connection = f"{name}-shop"
    cursor = CursorRecord(connection=connection, stream="all")
    slot = topics.slot_of(connection, settings.slots)
    await publish(settings, Outgoing(topics.CURSORS, slot, topics.key(connection, "all"), codec.encode(topics.CURSORS, cursor)))
    before = await read_published(settings, codec)
    with pytest.raises(ConfigurationRefused, match="has state"):
        await apply(settings, codec, configuration(f"{name}x"), SystemClock())
    renamed = configuration(name)
    text = renamed.connections[connection].model_copy(update={"name": f"{name}-store"})
    flows = {
        key: flow.model_copy(update={"from_": flow.from_.model_copy(update={"connection": text.name})})
        for key, flow in renamed.flows.items()
    }
    wanted = type(renamed)(
        connections={text.name: text, f"{name}-ledger": renamed.connections[f"{name}-ledger"]}, flows=flows, tables={}
    )
    with pytest.raises(ConfigurationRefused, match="seems renamed"):
        await apply(settings, codec, wanted, SystemClock())
    assert (await read_published(settings, codec)).version == before.version
    assert (await apply(settings, codec, wanted, SystemClock(), allow_remove=True)).version == before.version + 1
