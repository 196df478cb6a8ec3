"""Transactions on a real broker: fencing, invisibility, tables past aborted and open transactions, partitions, sizes."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer

from bus.core.errors import RecordError
from bus.core.topics import TopicShape
from bus.runtime import kafka
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import CommitAborted, CommitUnclear, Fenced, Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings
from bus.runtime.table import PartitionTable
from schemas.system import Cause

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(cluster: Any) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)


@pytest.fixture
async def topic(settings: BusSettings) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await ensure_topics(settings, [TopicShape(name=name, partitions=3, cleanup="compact", max_message_bytes=100_000)])
    return name


class Publishers:
    """Opens publishers and closes them at the end."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self.opened: list[Publisher] = []

    async def open(self, name: str) -> Publisher:
        publisher = Publisher(self.settings, name)
        self.opened.append(publisher)
        await publisher.open()
        return publisher


@pytest.fixture
async def publishers(settings: BusSettings) -> AsyncIterator[Publishers]:
    made = Publishers(settings)
    yield made
    for publisher in made.opened:
        await publisher.close()


async def read_all(settings: BusSettings, topic: str) -> list[Record]:
    reader = LogReader(settings, "test")
    try:
        await reader.assign(topic, dict.fromkeys(await reader.partitions(topic), BEGINNING))
        return [record async for batch in reader.read_to(topic, await reader.ends(topic)) for record in batch]
    finally:
        await reader.close()


def zombie(settings: BusSettings, name: str, topic: str, partition: int, key: str) -> Producer:
    """A process that died between flush and commit: its transaction stands open."""
    producer = Producer(kafka.producer_config(settings, name, transactional_id=name))
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, key=key.encode(), value=b"uncommitted", partition=partition)
    producer.flush(10)
    return producer


async def test_what_is_committed_is_read_with_headers_and_tombstones(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    await publisher.commit([Outgoing(topic, 1, "a", b"1", {"ce_id": "x"}), Outgoing(topic, 1, "b", None)])
    first, second = await read_all(settings, topic)
    assert (first.key, first.value, first.headers) == (b"a", b"1", {"ce_id": b"x"})
    assert (second.key, second.value) == (b"b", None)


async def test_a_newer_owner_fences_the_older(settings: BusSettings, topic: str, publishers: Publishers) -> None:
    name = f"bus-test-{uuid.uuid4()}"
    older = await publishers.open(name)
    await older.commit([Outgoing(topic, 0, "a", b"older")])
    newer = await publishers.open(name)
    with pytest.raises(Fenced):
        await older.commit([Outgoing(topic, 0, "a", b"zombie")])
    assert not older.is_open
    with pytest.raises(CommitUnclear):
        await older.commit([Outgoing(topic, 0, "a", b"zombie")])
    await newer.commit([Outgoing(topic, 0, "a", b"newer")])
    assert [record.value for record in await read_all(settings, topic)] == [b"older", b"newer"]


async def test_an_open_transaction_is_invisible_and_a_takeover_aborts_it(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    name = f"bus-test-{uuid.uuid4()}"
    dead = await asyncio.to_thread(zombie, settings, name, topic, 0, "intent")
    successor = await publishers.open(name)
    await successor.commit([Outgoing(topic, 0, "after", b"2")])
    table = PartitionTable(settings)
    await table.load(topic, 0)
    assert dict(table.items()) == {b"after": b"2"}
    assert table.position >= 4  # the aborted record, two markers and the committed record lie below
    await table.close()
    del dead


async def test_a_table_past_an_aborted_transaction_at_the_very_end(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    name = f"bus-test-{uuid.uuid4()}"
    first = await publishers.open(name)
    await first.commit([Outgoing(topic, 0, "kept", b"1")])
    await first.close()
    dead = await asyncio.to_thread(zombie, settings, name, topic, 0, "intent")
    await publishers.open(name)
    table = PartitionTable(settings)
    await table.load(topic, 0)
    assert dict(table.items()) == {b"kept": b"1"}
    await table.close()
    del dead


async def test_a_table_waits_for_a_transaction_that_is_open_below_its_end(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    """A read_committed end would stop before the open transaction, and the table would miss what it commits."""
    writer = await asyncio.to_thread(zombie, settings, f"bus-test-{uuid.uuid4()}", topic, 0, "intent")
    table = PartitionTable(settings)
    loading = asyncio.ensure_future(table.load(topic, 0))
    await asyncio.sleep(1)
    assert not loading.done()
    await asyncio.to_thread(writer.commit_transaction, 10)
    await loading
    assert dict(table.items()) == {b"intent": b"uncommitted"}
    await table.close()


async def test_a_refresh_brings_what_was_committed_since(settings: BusSettings, topic: str, publishers: Publishers) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    await publisher.commit([Outgoing(topic, 0, "a", b"1"), Outgoing(topic, 0, "b", b"1"), Outgoing(topic, 1, "other", b"1")])
    table = PartitionTable(settings)
    await table.load(topic, 0)
    assert await table.refresh() == []
    await publisher.commit([Outgoing(topic, 0, "a", b"2"), Outgoing(topic, 0, "b", None), Outgoing(topic, 0, "c|d", b"1")])
    assert await table.refresh() == [(b"a", b"2"), (b"b", None), (b"c|d", b"1")]
    assert dict(table.items()) == {b"a": b"2", b"c|d": b"1"}
    assert dict(table.items("c|")) == {b"c|d": b"1"}
    assert (table.get("a"), table.get("b"), len(table)) == (b"2", None, 2)
    await table.close()


async def test_an_empty_partition_is_a_table_at_once(settings: BusSettings, topic: str) -> None:
    table = PartitionTable(settings)
    await table.load(topic, 2)
    assert (len(table), table.position) == (0, 0)
    await table.close()


async def test_keys_go_where_the_java_clients_and_aiokafka_put_them(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    keys = [f"connection|entity|{number}" for number in range(60)]
    await publisher.commit([Outgoing(topic, None, key, b"x") for key in keys])
    found = {record.key: record.partition for record in await read_all(settings, topic)}
    assert found == {key.encode(): (murmur2(key.encode()) & 0x7FFFFFFF) % 3 for key in keys}


async def test_a_record_the_topic_refuses_is_told_and_the_publisher_goes_on(
    settings: BusSettings, topic: str, publishers: Publishers
) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    big = b"".join(uuid.uuid5(uuid.NAMESPACE_OID, str(number)).bytes for number in range(20_000))
    with pytest.raises(RecordError) as caught:
        await publisher.commit([Outgoing(topic, 0, "small", b"1"), Outgoing(topic, 0, "big", big)])
    assert caught.value.cause is Cause.TOO_LARGE
    for _ in range(3):  # librdkafka gives the next transaction up once, to number its records anew
        with contextlib.suppress(CommitAborted):
            await publisher.commit([Outgoing(topic, 0, "after", b"1")])
            break
    assert [record.key for record in await read_all(settings, topic)] == [b"after"]


async def test_many_records_make_one_transaction(settings: BusSettings, topic: str, publishers: Publishers) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    await publisher.commit([Outgoing(topic, number % 3, f"key-{number}", b"v" * 100) for number in range(20_000)])
    assert len(await read_all(settings, topic)) == 20_000


async def test_reading_stops_and_starts_by_partition(settings: BusSettings, topic: str, publishers: Publishers) -> None:
    publisher = await publishers.open(f"bus-test-{uuid.uuid4()}")
    reader = LogReader(settings, "test")
    await publisher.commit([Outgoing(topic, 0, "a", b"1"), Outgoing(topic, 0, "b", b"1"), Outgoing(topic, 1, "c", b"1")])
    await reader.assign(topic, {0: 1})
    await reader.assign(topic, {1: BEGINNING})
    found = [record.key async for batch in reader.read_to(topic, await reader.ends(topic)) for record in batch]
    assert sorted(found) == [b"b", b"c"]
    await reader.unassign(topic, 1)
    await publisher.commit([Outgoing(topic, 0, "d", b"1"), Outgoing(topic, 1, "e", b"1")])
    ends = await reader.ends(topic)
    assert set(ends) == {0}
    assert [record.key async for batch in reader.read_to(topic, ends) for record in batch] == [b"d"]
    await reader.close()


async def take_until_it_raises(reader: LogReader) -> None:
    for _ in range(100):
        await reader.take()


async def test_an_offset_lost_by_retention_is_an_error(settings: BusSettings, topic: str, publishers: Publishers) -> None:
    reader = LogReader(settings, "test")
    await reader.assign(topic, {0: 1000})
    with pytest.raises(kafka.OffsetLost):
        await take_until_it_raises(reader)
    await reader.close()
