"""What Kafka does not answer ends in a class of the bus, never in a traceback."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.core import topics
from bus.core.errors import NetworkFailure, Unavailable
from bus.runtime import books, kafka
from bus.runtime.codec import Codec
from bus.runtime.jobs import job_key
from bus.runtime.settings import BusSettings
from schemas.system import JobRecord, JobState


def failed(error: Exception) -> Future[Any]:
    answer: Future[Any] = Future()
    answer.set_exception(error)
    return answer


def test_a_group_that_is_loading_is_unavailable_for_a_while() -> None:
    error = KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
    with pytest.raises(Unavailable, match="asking"):
        kafka.answered(failed(error), "asking")


def test_no_answer_in_time_is_a_failure_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 0)
    with pytest.raises(NetworkFailure, match="no answer"):
        kafka.answered(Future(), "asking")


def test_a_replay_that_waits_or_runs_is_in_flight() -> None:
    reader = books.BookReader(BusSettings(kafka_bootstrap="127.0.0.1:1"), codec := Codec.offline())
    for number, state in enumerate((JobState.WAITING, JobState.RUNNING, JobState.DONE, JobState.REFUSED, JobState.CANCELLED)):
        job = JobRecord(id=str(number), connection="shop", state=state, request_offset=number)
        reader._notes.take(topics.JOBS, job_key(job).encode(), codec.encode(topics.JOBS, job))
    assert reader._replaying() == 2
    assert books.Books(version=1, replaying=2).in_flight() == 2
