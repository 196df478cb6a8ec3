"""The one edge where librdkafka's settings and errors become the bus's.

Group protocol classic with cooperative-sticky; every client id is unique, so that broker logs tell processes apart.
librdkafka's settings: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

import itertools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from bus.core.errors import BusError, FatalError, NetworkFailure, RecordError, SettingsError, TransientError, Unavailable
from bus.runtime.settings import BusSettings
from schemas.system import Cause

T = TypeVar("T")

TRANSACTION_TIMEOUT_S = 10.0
"""Law 21: how long a transaction may stand open; after it the broker aborts it."""
REQUEST_TIMEOUT_S = 10.0
"""Of one admin or metadata request."""
ANSWER_S = REQUEST_TIMEOUT_S + 5
"""How long the answer of an admin request is waited for. The request ends before: a client that is dropped with requests of its
own still open may end the process (an assertion of librdkafka 2.16, when the broker goes away)."""
SILENCE_S = 12.0
"""A request of a reader unanswered for so long: its connection is taken for lost and made anew. librdkafka would wait a minute;
for transactional producers it takes the transaction's own time."""
RECORD_BYTES_MAX = 8 * 1024 * 1024 - 4096
"""Largest record: max.message.bytes of the topics less room for the batch around it."""

LOG_EVERY_S = 30.0
"""A client says the same kind of thing once in so long: a broker away would fill the log with one line per attempt."""

_numbers = itertools.count(1)


class Calm(logging.Filter):
    """Lets one line of a kind through per LOG_EVERY_S; the next one says how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """By the first word, which is librdkafka's name of the kind."""
        kind = record.getMessage().partition(" ")[0]
        now = self._clock()
        if now - self._last.get(kind, -LOG_EVERY_S) < LOG_EVERY_S:
            self._left_out[kind] += 1
            return False
        self._last[kind] = now
        if more := self._left_out.pop(kind, 0):
            record.msg, record.args = f"{record.getMessage()} (and {more} more of the kind)", ()
        return True


_log = logging.getLogger("bus.kafka")
_log.addFilter(Calm())


class Fenced(BusError):
    """Another process owns this transactional id now. Stop working on the slot; never retry."""


class CommitUnclear(TransientError):
    """A transaction may or may not be visible. The producer is destroyed: only a full takeover tells (law 21)."""


class CommitAborted(TransientError):
    """A transaction ended aborted: nothing of it is visible. The same records may be committed again from memory."""


class OffsetLost(BusError):
    """The wanted offset is gone by retention: a replay must be asked for (law 18)."""


class KafkaFault(FatalError):
    """An answer of Kafka for which the bus has no row: see the table in `bus.runtime.kafka`."""


class Replaced(KafkaFault):
    """Another member of the group goes by this one's instance id: another process, or this one under an id it never heard of."""


def _codes(*names: str) -> frozenset[int]:
    return frozenset(getattr(KafkaError, name) for name in names)


FENCED = _codes("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
UNREACHABLE = _codes(
    "_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT", "_WAIT_COORD",
    "NETWORK_EXCEPTION", "REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE",
)  # fmt: skip
UNAVAILABLE = _codes(
    "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR", "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "CONCURRENT_TRANSACTIONS",
    "REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "FENCED_LEADER_EPOCH", "KAFKA_STORAGE_ERROR",
    "_STATE", "_QUEUE_FULL", "_PURGE_QUEUE", "_PURGE_INFLIGHT", "_NOENT", "UNKNOWN_LEADER_EPOCH",
)  # fmt: skip
MISSING = _codes("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
REFUSED = _codes(
    "_AUTHENTICATION", "_SSL", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "_INVALID_ARG",
)  # fmt: skip
FATAL = _codes("_FATAL")
OUTDATED = _codes("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "NOT_LEADER_FOR_PARTITION")
TOO_LARGE = _codes("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")
LOST = _codes("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET")


def translate(error: KafkaError | KafkaException | BaseException, doing: str) -> BusError:
    """The bus's word for a Kafka error. `doing` says what was tried, for the message."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    if not isinstance(inner, KafkaError):
        return KafkaFault(f"{doing}: {type(inner).__name__}: {inner}")
    code, text = inner.code(), f"{doing}: {inner.name()}: {inner.str()}"
    if code in FENCED:
        return Fenced(text)
    if code in UNREACHABLE:
        return NetworkFailure(text)
    if code in UNAVAILABLE:
        return Unavailable(text)
    if code in MISSING:
        return Unavailable(f"{text}: the topic is made by `bus up` or `bus apply`")
    if code in REFUSED:
        return SettingsError(f"{text}: check BUS_KAFKA_* and the user's rights")
    if code in FATAL and "group.instance.id" in inner.str():  # librdkafka wraps FENCED_INSTANCE_ID
        return Replaced(f"{text}: another process of this service has the same BUS_INSTANCE, or this one was away too long")
    if code in TOO_LARGE:
        return RecordError(text, cause=Cause.TOO_LARGE, hint="raise the topic's max.message.bytes, or send less")
    if code in LOST:
        return OffsetLost(text)
    if inner.retriable():
        return Unavailable(text)
    return KafkaFault(text)


def answered(answer: Future[T], doing: str) -> T:
    """What came of an admin request that was made with REQUEST_TIMEOUT_S. Raises what `translate` gives."""
    try:
        return answer.result(ANSWER_S)
    except TimeoutError as error:
        raise NetworkFailure(f"{doing}: no answer within {ANSWER_S:.0f} s") from error
    except KafkaException as error:
        raise translate(error, doing) from error


def is_outdated(error: KafkaException) -> bool:
    """Whether a client asked with a leader's epoch of before: an admin client asks with it again until its memory ends by age,
    after a quarter of an hour, and is better made anew."""
    inner = error.args[0] if error.args else None
    return isinstance(inner, KafkaError) and inner.code() in OUTDATED


def client_id(settings: BusSettings, name: str) -> str:
    """Unique per client: prefix, what it is, host, process, number."""
    return f"{settings.client_prefix}-{name}-{socket.gethostname()}-{os.getpid()}-{next(_numbers)}"


def _connection(settings: BusSettings) -> dict[str, Any]:
    if not settings.kafka_bootstrap:
        raise SettingsError("BUS_KAFKA_BOOTSTRAP is not set: give it, or start everything with `bus up`")
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "topic.metadata.propagation.max.ms": 1000,
        # A client without any broker begins its search anew each time, at the first step of the back-off: with 50 ms forty times
        # a second. The clients of a few services, some hundred, then keep a returning broker from starting.
        "reconnect.backoff.ms": 1000,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 4,
        "logger": _log,
    }
    if settings.kafka_security.endswith("SSL"):
        files = {
            "ssl.ca.location": settings.kafka_ca_file,
            "ssl.certificate.location": settings.kafka_cert_file,
            "ssl.key.location": settings.kafka_key_file,
        }
        config |= {name: str(path) for name, path in files.items() if path is not None}
        if settings.kafka_key_password is not None:
            config["ssl.key.password"] = settings.kafka_key_password.get_secret_value()
    if settings.kafka_security.startswith("SASL"):
        if not settings.kafka_sasl_username or settings.kafka_sasl_password is None:
            raise SettingsError(
                f"BUS_KAFKA_SECURITY={settings.kafka_security} needs BUS_KAFKA_SASL_USERNAME and BUS_KAFKA_SASL_PASSWORD"
            )
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password.get_secret_value()
    return config


def consumer_config(settings: BusSettings, name: str, *, group: str | None = None, **over: Any) -> dict[str, Any]:
    """Settings of a consumer: reads committed records only, commits nothing by itself, reports ends, refuses a lost offset.

    With `group` it joins a consumer group; without, it is meant for `assign`. The queue settings make a state restore of a
    million records take 0.8 s instead of 6.4 s. Keys of `over` are librdkafka's with `_` for `.`.
    """
    config = _connection(settings) | {
        "client.id": client_id(settings, name),
        "group.id": group or f"{settings.client_prefix}-unused",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        "socket.timeout.ms": int(SILENCE_S * 1000),
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 1_000_000,
        "queued.max.messages.kbytes": 262_144 if group is None else 16_384,
        "fetch.message.max.bytes": 8 * 1024 * 1024,
    }
    if group is not None:
        config |= {
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 8_000,
            "heartbeat.interval.ms": 2_000,
            "max.poll.interval.ms": 60_000,
        }
    return config | {key.replace("_", "."): value for key, value in over.items()}


def producer_config(settings: BusSettings, name: str, *, transactional_id: str | None = None, **over: Any) -> dict[str, Any]:
    """Settings of a producer: idempotent, all replicas, the partitioner of the Java clients and aiokafka."""
    config = _connection(settings) | {
        "client.id": client_id(settings, name),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "linger.ms": 1,
        "message.max.bytes": RECORD_BYTES_MAX + 4096,
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 512 * 1024,
    }
    if transactional_id is not None:
        config |= {"transactional.id": transactional_id, "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000)}
    return config | {key.replace("_", "."): value for key, value in over.items()}


def admin(settings: BusSettings) -> AdminClient:
    """An admin client. Its calls block: use it in a thread."""
    silence = {"socket.timeout.ms": int(SILENCE_S * 1000)}
    return AdminClient(_connection(settings) | silence | {"client.id": client_id(settings, "admin")})
