"""Faust's offset arithmetic replaced: each test is one fact that the stock consumer gets wrong (faust-streaming 0.15.3)."""

import asyncio

import pytest
from faust.types import TP, ConsumerMessage

from bus.runtime.settings import BusSettings
from services.processors.engine.application import build_engine, credentials
from services.processors.engine.transport import CommittedThread, IdempotentProducer, SafeConsumer

PARTITION = TP("bus.canon.customer", 0)


class NoWork:
    def handle(self, topic, key, value):
        return []

    async def wait(self, error):
        raise AssertionError


@pytest.fixture
async def engine(tmp_path, monkeypatch):
    loops = []
    new_loop = asyncio.new_event_loop

    def remembered():
        loops.append(new_loop())
        return loops[-1]

    monkeypatch.setattr("mode.threads.asyncio.new_event_loop", remembered)  # Faust gives each thread a loop when it is made
    settings = BusSettings(kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1", data_dir=tmp_path)
    yield build_engine(settings, ["bus.canon.customer"], NoWork())
    for loop in loops:
        loop.close()


@pytest.fixture
async def consumer(engine):
    consumer = engine.consumer
    engine.app.topics._acking_topics.add("bus.canon.customer")
    engine.app.consumer_generation_id = 1

    async def deliver(message):
        return None

    wrapped = SafeConsumer(consumer.transport, deliver, consumer._on_partitions_revoked, consumer._on_partitions_assigned)
    wrapped._committed_offset[PARTITION] = 0
    return wrapped


def message(offset: int, generation: int = 1) -> ConsumerMessage:
    made = ConsumerMessage(
        PARTITION.topic, PARTITION.partition, offset, 0.0, 0, [], b"k", b"v", None, 1, 1, PARTITION, generation_id=generation
    )
    made.incref()
    return made


async def deliver(consumer: SafeConsumer, *offsets: int) -> list[ConsumerMessage]:
    messages = [message(offset) for offset in offsets]
    for item in messages:
        await consumer.callback(item)
    return messages


async def test_one_open_event_holds_the_commit(consumer):
    messages = await deliver(consumer, *range(10))
    for item in messages:
        if item.offset != 4:
            consumer.ack(item)
    assert consumer._new_offset(PARTITION) == 4
    assert consumer._new_offset(PARTITION) is None
    consumer.ack(messages[4])
    assert consumer._new_offset(PARTITION) == 10
    assert consumer.open_events() == 0


async def test_an_open_first_event_holds_the_commit(consumer):
    messages = await deliver(consumer, *range(3))
    consumer.ack(messages[1])
    consumer.ack(messages[2])
    assert consumer._new_offset(PARTITION) is None


async def test_markers_between_transactions_hold_nothing(consumer):
    messages = await deliver(consumer, 0, 1, 3, 4, 60, 61, 63)
    await consumer._add_gap(PARTITION, 2, 3)
    for item in messages:
        consumer.ack(item)
    assert consumer._new_offset(PARTITION) == 64


async def test_an_acknowledgement_of_an_older_generation_counts_for_nothing(consumer):
    stale = message(0, generation=0)
    await consumer.callback(stale)
    assert consumer.ack(stale) is False
    assert stale.acked
    assert consumer._new_offset(PARTITION) is None


async def test_after_a_seek_everything_is_delivered_again(consumer, monkeypatch):
    messages = await deliver(consumer, 0, 1)
    consumer.ack(messages[0])

    async def committed():
        return {PARTITION: 0}

    monkeypatch.setattr(consumer, "seek_to_committed", committed)
    await consumer.perform_seek()
    assert consumer.open_events() == 0
    assert consumer._new_offset(PARTITION) is None


async def test_partitions_go_after_settling_and_committing(consumer, monkeypatch):
    steps = []

    async def settle():
        steps.append("settle")

    async def commit():
        steps.append(f"commit with {consumer.open_events()} open")

    async def revoked(self, partitions):
        steps.append(f"revoked with {self.open_events()} open")

    await deliver(consumer, 0)
    consumer.before_revoke = settle
    monkeypatch.setattr(consumer, "commit", commit)
    monkeypatch.setattr("faust.transport.consumer.Consumer.on_partitions_revoked", revoked)
    await consumer.on_partitions_revoked({PARTITION})
    assert steps == ["settle", "commit with 1 open", "revoked with 0 open"]
    assert not consumer.flow_active


async def test_a_settling_that_hangs_does_not_hold_the_rebalance(consumer, monkeypatch):
    async def revoked(self, partitions):
        return None

    consumer.before_revoke = asyncio.Event().wait
    monkeypatch.setattr("services.processors.engine.transport.REVOKE_TIMEOUT_S", 0.001)
    monkeypatch.setattr("faust.transport.consumer.Consumer.on_partitions_revoked", revoked)
    await consumer.on_partitions_revoked({PARTITION})


async def test_only_committed_records_are_read(engine):
    thread = engine.consumer._new_consumer_thread()
    assert isinstance(thread, CommittedThread)
    made = thread._create_worker_consumer(engine.app.transport)
    assert made._isolation_level == "read_committed"
    await made.stop()


async def test_the_producer_is_idempotent(engine):
    producer = engine.app.producer
    assert isinstance(producer, IdempotentProducer)
    assert producer._settings_extra() == {"acks": "all", "enable_idempotence": True}


async def test_settings_that_keep_it_safe(engine):
    conf = engine.app.conf
    assert conf.web_enabled is False
    assert conf.topic_allow_declare is False
    assert conf.topic_disable_leader is True
    assert str(conf.processing_guarantee.value) == "at_least_once"
    assert conf.broker_session_timeout <= conf.broker_request_timeout
    assert conf.broker_commit_interval == 1.0


def test_sasl_and_tls_are_passed_through(tmp_path):
    settings = BusSettings(kafka_security="SASL_PLAINTEXT", kafka_sasl_username="bus", kafka_sasl_password="s3cret")
    found = credentials(settings)
    assert (found.username, found.password, found.mechanism.value) == ("bus", "s3cret", "SCRAM-SHA-512")
    assert found.ssl_context is None
    both = credentials(BusSettings(kafka_security="SASL_SSL", kafka_sasl_username="bus", kafka_sasl_password="s3cret"))
    assert both.protocol.value == "SASL_SSL"
    assert both.ssl_context.check_hostname
    assert credentials(BusSettings(kafka_security="SSL")).context.check_hostname
    assert credentials(BusSettings()) is None
    assert "s3cret" not in repr(found)


async def test_partitions_are_told_of_before_anything_is_fetched_from_them(consumer, monkeypatch):
    order = []
    consumer.transport.on_assigned = lambda: order.append("told")

    async def taken(self, assigned, generation_id=0):
        order.append(("taken", assigned))

    monkeypatch.setattr(SafeConsumer.__mro__[1], "on_partitions_assigned", taken)
    await consumer.on_partitions_assigned({PARTITION}, 3)
    assert order == ["told", ("taken", {PARTITION})]
