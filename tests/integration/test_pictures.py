"""Pictures on a real broker: what a poller commits with its event, a sink finds by its hash."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from bus.core import topics
from bus.kit.connector import RawRecord
from bus.runtime import kafka
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from services.pollers.pictures import Published
from services.sinks.pictures import KafkaPictureLog, LoggedPictures, Place
from tests.clusters import COMPACT_SOON

pytestmark = pytest.mark.broker

MIB = 1024 * 1024
PATIENCE_S = 60


@pytest.fixture
async def settings(cluster: Any) -> BusSettings:
    found = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)
    shapes = [shape for shape in topics.fixed_topics(found.slots, found.partitions) if shape.name == topics.PICTURES]
    await ensure_topics(found, shapes)
    return found


@pytest.fixture
async def publisher(settings: BusSettings) -> AsyncIterator[Publisher]:
    made = Publisher(settings, f"bus-test-{uuid.uuid4()}")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def pictures(settings: BusSettings) -> AsyncIterator[LoggedPictures]:
    made = LoggedPictures(KafkaPictureLog(settings), kept_bytes_max=0)
    yield made
    await made.close()


def picture(size: int = 100) -> tuple[str, bytes]:
    """Bytes that no other test has and nothing compresses, and their hash."""
    data = os.urandom(size)
    return hashlib.sha256(data).hexdigest(), data


def outgoing(**contents: bytes) -> list[Outgoing]:
    return Published().missing(RawRecord(entity="product", id="1", raw=b"", pictures=contents))


async def test_pictures_of_every_size_come_through(publisher: Publisher, pictures: LoggedPictures) -> None:
    """5 MiB is the most a connector reads; the largest record is what the topic takes."""
    made = [picture(size) for size in (1, 2 * MIB, 5 * MIB, kafka.RECORD_BYTES_MAX - 512)]
    await publisher.commit(outgoing(**dict(made)))
    for sha256, data in made:
        assert await pictures.get(sha256) == data


async def test_what_nobody_published_is_none_and_what_came_later_is_found(publisher: Publisher, pictures: LoggedPictures) -> None:
    sha256, data = picture()
    assert await pictures.get(sha256) is None
    await publisher.commit(outgoing(**{sha256: data}))
    assert await pictures.get(sha256) == data


async def test_a_picture_written_twice_is_one(publisher: Publisher, pictures: LoggedPictures) -> None:
    sha256, data = picture()
    for _ in range(2):  # two processes, neither knowing of the other
        await publisher.commit(outgoing(**{sha256: data}))
        assert await pictures.get(sha256) == data


async def test_a_picture_of_an_aborted_transaction_is_none(settings: BusSettings, pictures: LoggedPictures) -> None:
    from confluent_kafka import Producer

    sha256, data = picture()
    producer = Producer(kafka.producer_config(settings, "test", transactional_id=f"bus-test-{uuid.uuid4()}"))
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topics.PICTURES, key=sha256.encode(), value=data)
    producer.flush(10)
    producer.abort_transaction(20)
    assert await pictures.get(sha256) is None


async def test_a_picture_whose_place_was_compacted_away_is_found_further_on(
    settings: BusSettings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    monkeypatch.setattr(topics, "PICTURES", topic)
    admin = kafka.admin(settings)
    shape = NewTopic(topic, num_partitions=1, replication_factor=1, config=COMPACT_SOON)
    await asyncio.to_thread(lambda: admin.create_topics([shape])[topic].result())
    (sha256, data), (other, behind) = picture(), picture()
    log = KafkaPictureLog(settings)
    pictures = LoggedPictures(log, kept_bytes_max=0)
    try:
        await publisher.commit([Outgoing(topic, 0, sha256, data)])
        assert await pictures.get(sha256) == data
        await publisher.commit([Outgoing(topic, 0, other, behind)])
        await publisher.commit([Outgoing(topic, 0, sha256, data)])
        await until_gone(log, publisher, topic)
        assert await pictures.get(sha256) == data
        assert await pictures.get(other) == behind
    finally:
        await log.close()


async def until_gone(log: KafkaPictureLog, publisher: Publisher, topic: str) -> None:
    """Rolls segments until the first record is compacted away, so that its place answers another."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await publisher.commit([Outgoing(topic, 0, "filler", b"x")])
            found = await log.at(Place(0, 0))
            assert found is not None
            if found.place.offset > 0:
                return
            await asyncio.sleep(0.5)
