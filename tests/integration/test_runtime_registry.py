"""Codec and registry together: registration, compatibility, writers of another release, keys of personal data, followers."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import fastavro
import httpx
import pytest

from bus.core import topics
from bus.core.topics import TopicShape
from bus.runtime.codec import FRAME, Codec
from bus.runtime.follow import SubjectKeys, TopicFollower
from bus.runtime.privacy import MasterKey, MissingSubjectKey, Privacy
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.registry import COMPATIBILITY, RegistryClient, subjects
from bus.runtime.settings import BusSettings
from schemas import canon, files, history
from schemas.system import RequestKind

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(cluster: Any) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)


@pytest.fixture
async def registry(settings: BusSettings) -> AsyncIterator[RegistryClient]:
    async with RegistryClient.of(settings) as client:
        await client.health()
        yield client


@pytest.fixture
async def codec(registry: RegistryClient) -> Codec:
    await registry.register_all()
    made = Codec(registry)
    await made.open()
    return made


async def test_registering_is_idempotent_and_sets_compatibility(registry: RegistryClient) -> None:
    ids = await registry.register_all()
    assert await registry.register_all() == ids
    assert await registry.ids() == ids
    for subject in subjects():
        assert await registry.compatibility(subject) == COMPATIBILITY


async def test_every_topic_reads_back(codec: Codec) -> None:
    for topic in [*map(topics.canonical, topics.ENTITIES), *topics.SUBJECTS, "bus.outbound.x"]:
        value = history.sample(files.load(topics.schema_of(topic)))
        assert codec.decode(topic, codec.encode(topic, value)) == value


async def test_the_registry_refuses_what_breaks_readers(settings: BusSettings, codec: Codec) -> None:
    schema = files.load("system/cursor")
    schema["fields"].append({"name": "must", "type": "string", "doc": "new and required"})
    async with httpx.AsyncClient(base_url=settings.registry_url) as http:
        answer = await http.post("/subjects/bus.cursors-value/versions", json={"schema": json.dumps(schema)})
    assert answer.status_code == 409


async def test_a_newer_writer_is_read(settings: BusSettings, registry: RegistryClient, codec: Codec) -> None:
    """Registered under a subject of its own, so that the shared one keeps this release's schema."""
    schema = files.load("system/request")
    next(field for field in schema["fields"] if field["name"] == "kind")["type"]["symbols"].append("REWIND")
    async with httpx.AsyncClient(base_url=settings.registry_url) as http:
        answer = await http.post(f"/subjects/test-{uuid.uuid4()}-value/versions", json={"schema": json.dumps(schema)})
    out = BytesIO()
    made_at = history.sample(files.load("system/request")).made_at
    request = {"kind": "REWIND", "id": "1", "connection": "a", "made_at": made_at}
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), request)
    found = await codec.read(topics.REQUESTS, FRAME.pack(0, answer.json()["id"]) + out.getvalue())
    assert (found.kind, found.id, found.made_at) == (RequestKind.UNKNOWN, "1", made_at)


async def test_a_key_is_readable_wherever_its_blob_is(settings: BusSettings, codec: Codec) -> None:
    """Law 20: the key commits with its first blob, so whoever has read the keys after seeing the blob can open it."""
    canon_topic = f"test.{uuid.uuid4().hex}"
    keys_shape = next(shape for shape in topics.fixed_topics(8) if shape.name == topics.SUBJECT_KEYS)
    await ensure_topics(settings, [keys_shape, TopicShape(name=canon_topic, partitions=1, cleanup="compact")])
    master = MasterKey(bytes(32))
    poller, sink = Privacy(master), Privacy(master)
    party = canon.Party(customer=canon.Ref(id=uuid.uuid4().hex), pii=canon.PartyPii(full_name="Zoë de Vries"))
    sealed, new = await poller.seal(canon.SalesOrder(currency="EUR", customer=party), "acme", "shop")
    with pytest.raises(MissingSubjectKey):
        sink.open(sealed)
    publisher = Publisher(settings, f"bus-test-{uuid.uuid4()}")
    await publisher.open()
    event = history.sample(files.load("canon/sales_order"))
    data = codec.encode("bus.canon.sales-order", canon.SalesOrderEvent(meta=event.meta, after=sealed))
    await publisher.commit([*poller.records(new, codec), Outgoing(canon_topic, 0, "order", data)])
    await publisher.close()
    keys = SubjectKeys(settings, codec, sink)
    await keys.start()
    (record,) = await read_all(settings, canon_topic)
    opened = sink.open(codec.decode("bus.canon.sales-order", record.value or b"").after)
    assert opened.customer.pii == party.pii
    assert b"Vries" not in (record.value or b"")
    await keys.stop()


async def read_all(settings: BusSettings, topic: str) -> list[Record]:
    reader = LogReader(settings, "test")
    try:
        await reader.assign(topic, {0: BEGINNING})
        return [record async for batch in reader.read_to(topic, await reader.ends(topic)) for record in batch]
    finally:
        await reader.close()


async def test_a_follower_reads_to_the_end_and_on(settings: BusSettings) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    await ensure_topics(settings, [TopicShape(name=topic, partitions=2, cleanup="compact")])
    publisher = Publisher(settings, f"bus-test-{uuid.uuid4()}")
    await publisher.open()
    await publisher.commit([Outgoing(topic, number % 2, f"k{number}", b"1") for number in range(10)])
    seen: list[bytes] = []
    later = asyncio.Event()

    async def take(record: Record) -> None:
        seen.append(record.key)
        if record.key == b"later":
            later.set()

    follower = TopicFollower(settings, topic, take)
    await follower.start()
    await follower.caught_up()
    assert sorted(seen) == sorted(f"k{number}".encode() for number in range(10))
    await publisher.commit([Outgoing(topic, 0, "later", b"1")])
    async with asyncio.timeout(20):
        await later.wait()
    await follower.stop()
    await publisher.close()


async def test_a_follower_waits_for_its_topic(settings: BusSettings) -> None:
    topic = f"test.{uuid.uuid4().hex}"

    async def take(_record: Record) -> None:
        raise AssertionError("nothing is there")

    follower = TopicFollower(settings, topic, take)
    await follower.start()
    async with asyncio.timeout(30):
        while "bus apply" not in (follower.reason or ""):
            await asyncio.sleep(0.05)
        await ensure_topics(settings, [TopicShape(name=topic, partitions=1, cleanup="compact")])
        await follower.caught_up()
    assert follower.reason is None
    await follower.stop()
