"""The edge where librdkafka's errors become the bus's: every code in the table, and what the settings promise."""

import logging

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from bus.core.errors import BusError, NetworkFailure, RecordError, SettingsError, Unavailable
from bus.runtime import kafka
from bus.runtime.settings import BusSettings
from schemas.system import Cause

SETTINGS = BusSettings(kafka_bootstrap="127.0.0.1:1")

TABLE: list[tuple[frozenset[int], type[BusError]]] = [
    (kafka.FENCED, kafka.Fenced),
    (kafka.UNREACHABLE, NetworkFailure),
    (kafka.UNAVAILABLE, Unavailable),
    (kafka.MISSING, Unavailable),
    (kafka.REFUSED, SettingsError),
    (kafka.TOO_LARGE, RecordError),
    (kafka.LOST, kafka.OffsetLost),
]
ROWS = [(code, wanted) for codes, wanted in TABLE for code in sorted(codes)]


@pytest.mark.parametrize(("code", "wanted"), ROWS, ids=lambda value: value if isinstance(value, int) else value.__name__)
def test_every_code_of_the_table_has_its_class(code: int, wanted: type[BusError]) -> None:
    error = kafka.translate(KafkaException(KafkaError(code)), "testing")
    assert type(error) is wanted
    assert str(error).startswith("testing: ")


def test_no_code_stands_twice() -> None:
    codes = [code for row, _ in TABLE for code in row]
    assert len(codes) == len(set(codes))


def test_fenced_is_the_code_of_librdkafka() -> None:
    assert -144 in kafka.FENCED


def test_an_unknown_code_is_fatal_unless_it_may_be_repeated() -> None:
    assert type(kafka.translate(KafkaError(KafkaError.DUPLICATE_SEQUENCE_NUMBER), "testing")) is kafka.KafkaFault
    retriable = KafkaError(KafkaError.DUPLICATE_SEQUENCE_NUMBER, "again", False, True, False)
    assert type(kafka.translate(retriable, "testing")) is Unavailable
    assert type(kafka.translate(KafkaException("odd"), "testing")) is kafka.KafkaFault


def test_a_missing_topic_says_who_makes_it() -> None:
    assert "bus apply" in str(kafka.translate(KafkaError(KafkaError._UNKNOWN_TOPIC), "testing"))


def test_a_large_record_has_its_cause() -> None:
    error = kafka.translate(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "testing")
    assert isinstance(error, RecordError)
    assert error.cause is Cause.TOO_LARGE


def test_client_ids_are_unique() -> None:
    assert len({kafka.client_id(SETTINGS, "same") for _ in range(100)}) == 100


def test_a_consumer_reads_committed_commits_nothing_and_refuses_lost_offsets() -> None:
    config = kafka.consumer_config(SETTINGS, "test")
    assert config["isolation.level"] == "read_committed"
    assert config["enable.auto.commit"] is False
    assert config["auto.offset.reset"] == "error"
    assert config["fetch.queue.backoff.ms"] == 5
    assert config["topic.metadata.propagation.max.ms"] == 1000
    Consumer(config).close()


def test_a_member_is_classic_and_cooperative() -> None:
    config = kafka.consumer_config(SETTINGS, "test", group="bus-test", auto_offset_reset="latest")
    assert (config["group.protocol"], config["partition.assignment.strategy"]) == ("classic", "cooperative-sticky")
    assert config["auto.offset.reset"] == "latest"
    Consumer(config).close()


def test_a_producer_partitions_like_the_java_clients_and_ends_transactions_in_ten_seconds() -> None:
    config = kafka.producer_config(SETTINGS, "test", transactional_id="bus-test-0")
    assert config["partitioner"] == "murmur2_random"
    assert config["transaction.timeout.ms"] == 10_000
    assert config["enable.idempotence"] is True
    Producer(config)
    assert "transactional.id" not in kafka.producer_config(SETTINGS, "test")


def test_a_broker_away_does_not_fill_the_log() -> None:
    moments = iter([0.0, 1.0, 2.0, 2.5, 31.0])
    calm = kafka.Calm(lambda: next(moments))
    texts = ("FAIL a", "FAIL b", "FAIL c", "TERM d", "FAIL e")
    lines = [logging.LogRecord("bus.kafka", logging.ERROR, "", 0, text, (), None) for text in texts]
    assert [calm.filter(line) for line in lines] == [True, False, False, True, True]
    assert lines[-1].getMessage() == "FAIL e (and 2 more of the kind)"
