"""Histories of owners that came, went, and did not know it."""

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bus.core import topics
from bus.core.topics import TopicShape
from bus.kit.connector import Step, StepResult, Write
from bus.runtime import kafka
from bus.runtime.kafka import Fenced
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from bus.runtime.table import PartitionTable
from schemas.system import IdempotencyClass, Standing
from tests.fakes import Deaths, FakeLog, Killed, company
from tests.histories.test_sinks import kept, made, no_match
from tests.unit.runtime.test_stored_table import HOUR_S, Place, contents
from tests.unit.sinks.world import World, standing_of

ROUNDS = 10_000_000
"""A life on a broker takes as many turns as its commits take time."""


async def test_a_cache_older_than_the_tombstones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key was deleted while its reader was away, and its tombstone had been compacted when it came back: reading on from its
    local copy it kept the key for ever, and wrote to an object that had long been retired.

    A copy older than half the time a tombstone stays is thrown away and read anew from the topic (law 22).
    """
    place = Place(tmp_path, monkeypatch)
    place.log.commit(("a|link|1", b"C1"), ("a|link|2", b"C2"))
    await (await place.table()).close()
    place.log.commit(("a|link|1", None))
    place.clock.advance(place.log.delete_retention_s / 2 - 1)
    young = await place.table()
    assert (young.is_warm, contents(young)) == (True, {b"a|link|2": b"C2"}), "the tombstone is there and is read"
    await young.close()
    place.log.commit(("a|link|2", None), ("a|link|3", b"C3"))
    place.log.compact(tombstones=True)
    place.clock.advance(12 * HOUR_S + 1)
    old = await place.table()
    assert (old.is_warm, contents(old)) == (False, {b"a|link|3": b"C3"})
    await old.close()


# --- on a broker ---------------------------------------------------------------------------------------------------------------


class Slot(FakeLog):
    """A slot's partition of state on a real broker, as one owner sees it."""

    def __init__(self, settings: BusSettings, topic: str, *, deaths: Deaths | None = None) -> None:
        super().__init__(deaths)
        self.settings, self.topic_name = settings, topic
        self.publisher = Publisher(settings, f"bus-test-{topic}")

    async def take_over(self) -> None:
        """Fences the old owner and reads what it left."""
        await self.publisher.open()
        self.records = [Outgoing(topics.STATE, 0, key, value) for key, value in (await self.stands()).items()]

    async def stands(self) -> dict[str, bytes]:
        """The newest committed value of each key."""
        table = PartitionTable(self.settings)
        await table.load(self.topic_name, 0)
        found = {key.decode(): value for key, value in table.items()}
        await table.close()
        return found

    async def commit(self, records: Any) -> None:
        """State goes to the broker; what is told to others has no part in these histories."""
        self.deaths.point("before commit")
        mine = [record for record in records if record.topic == topics.STATE]
        await self.publisher.commit([Outgoing(self.topic_name, 0, record.key, record.value) for record in mine])
        self.records.extend(records)
        self.deaths.point("after commit")


@pytest.fixture
async def settings(cluster: Any) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)


@pytest.fixture
async def topic(settings: BusSettings) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await ensure_topics(settings, [TopicShape(name=name, partitions=1, cleanup="compact")])
    return name


def with_fresh_metadata(settings: BusSettings, topic: str) -> None:
    """A member of a group commits the place of a partition it does not hold, under a producer of its own: nobody minds."""
    consumer = Consumer(kafka.consumer_config(settings, "member", group=f"{topic}-group"))
    producer = Producer(kafka.producer_config(settings, "draft", transactional_id=f"{topic}-draft"))
    try:
        consumer.subscribe([topics.SLOTS])
        while not consumer.assignment():
            consumer.poll(0.2)
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 7)], consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
    finally:
        consumer.close()


@pytest.mark.broker
async def test_an_owner_that_lost_its_slot_still_runs_a_task_and_commits_with_fresh_metadata(
    settings: BusSettings, topic: str
) -> None:
    """An owner waited for its vendor's answer while its slot went to another; a group's generation is the process's, not the
    slot's, so its commit with fresh metadata came through and stood over what the new owner had done.

    Who owns a slot is said by the slot's transactional id: taking over fences every older owner's commit (laws 3 and 21).
    """
    await ensure_topics(settings, topics.fixed_topics(settings.slots, settings.partitions))
    await asyncio.to_thread(with_fresh_metadata, settings, topic)
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    older, newer = Slot(settings, topic), Slot(settings, topic)
    perform, called, answered = world.connector.perform, asyncio.Event(), asyncio.Event()

    async def answered_late(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        result = await perform(write, step, done)
        if not called.is_set():
            called.set()
            await answered.wait()
        return result

    world.connector.perform = answered_late  # type: ignore[method-assign]
    world.log = older
    await older.take_over()
    world.backfilled()
    await world.live(ROUNDS)
    world.command(company())
    zombie = asyncio.ensure_future(world.live(ROUNDS))
    await called.wait()
    await newer.take_over()
    world.log = newer
    state = await world.live(ROUNDS)
    assert standing_of(state).standing is Standing.WRITTEN
    stands = await newer.stands()
    answered.set()
    with pytest.raises(Fenced):
        await zombie
    assert await newer.stands() == stands
    assert (made(world, "customer"), kept(world)) == (1, ["Van Dijk B.V."])
    for owner in (older, newer):
        await owner.publisher.close()


@pytest.mark.broker
async def test_a_peers_open_transaction_hides_an_intent_from_the_new_owner(settings: BusSettings, topic: str) -> None:
    """The new owner read its state to the end that committed readers see, which lay below a peer's open transaction; the intent
    behind it was not there, so the create was made again.

    State is read to the end taken after fencing, open transactions counted, and is whole when all below is decided (law 5).
    """
    peer = Producer(
        kafka.producer_config(settings, "peer", transactional_id=f"{topic}-peer") | {"transaction.timeout.ms": 120_000}
    )
    await asyncio.to_thread(peer.init_transactions, 30)
    peer.begin_transaction()
    peer.produce(topic, key=b"peer", value=b"#0", partition=0)
    await asyncio.to_thread(peer.flush, 30)
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.connector.find = no_match  # type: ignore[method-assign]  # its list lags behind its creates
    first, second = Slot(settings, topic), Slot(settings, topic)
    world.log = first
    await first.publisher.open()
    world.backfilled()
    await world.live(ROUNDS)
    perform = world.connector.perform

    async def dies(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        await perform(write, step, done)
        raise Killed

    world.connector.perform = dies  # type: ignore[method-assign]
    world.command(company())
    with pytest.raises(Killed):
        await world.live(ROUNDS)
    world.connector.perform = perform  # type: ignore[method-assign]
    taking_over = asyncio.ensure_future(second.take_over())
    done, _ = await asyncio.wait([taking_over], timeout=2)
    await asyncio.to_thread(peer.commit_transaction, 30)
    await taking_over
    second.records = [record for record in second.records if record.key != "peer"]
    assert not done, "it waits for what is open below the end"
    world.log = second
    state = await world.live(ROUNDS)
    assert (made(world, "customer"), kept(world)) == (1, ["Van Dijk B.V."])
    assert standing_of(state).standing is Standing.WRITTEN
    for owner in (first, second):
        await owner.publisher.close()
