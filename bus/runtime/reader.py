"""Reads partitions by assignment, in a thread of its own; the event loop awaits batches.

No consumer group: who may read what is decided elsewhere (slots), and offsets are kept with the state they belong to.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]

from bus.core.errors import BusError, Unavailable
from bus.runtime import kafka
from bus.runtime.settings import BusSettings

T = TypeVar("T")

FETCH_WAIT_MS = 100
"""How long the broker holds an answer while there is nothing new; the end of a partition is known only after it."""
ASK_TRIES_MAX = 10
ASK_AGAIN_S = 0.2
"""A new topic has no leader for a moment, and a moving leader is away for one."""
ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Of one answer of the broker where reading ahead is limited: the largest record still comes through."""
FEED_RECORDS_MAX = 5_000
"""Of one batch of `feed`."""
BEGINNING = OFFSET_BEGINNING
END = OFFSET_END


class Record(NamedTuple):
    """One record of a topic; a None value is a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: dict[str, bytes]


Pair = tuple[bytes, bytes | None]
"""Key and value; None is a tombstone."""


class PartitionFacts(NamedTuple):
    """What a partition is now."""

    cluster: str
    topic_id: str
    """Given by Kafka at the topic's creation: a topic made anew under the same name has another one."""
    start: int
    end: int
    """Open transactions included."""
    delete_retention_s: float
    """How long a tombstone stays at least."""


class LogReader:
    """Reads committed records of assigned partitions in order."""

    def __init__(
        self, settings: BusSettings, name: str, *, fetch_wait_ms: int = FETCH_WAIT_MS, queue_kbytes: int | None = None
    ) -> None:
        """`queue_kbytes`: what may be read ahead of `take`, plus one answer of the broker; None: as `consumer_config` says."""
        self._settings = settings
        self._over: dict[str, Any] = {"fetch_wait_max_ms": fetch_wait_ms}
        if queue_kbytes is not None:
            self._over |= {"queued_max_messages_kbytes": queue_kbytes, "fetch_max_bytes": ANSWER_BYTES_MAX}
        self._name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"read-{name}")
        self._consumer: Consumer | None = None
        self._admin: AdminClient | None = None
        self.positions: dict[tuple[str, int], int] = {}
        """Next offset per topic and partition: everything below it was returned or is invisible for good."""
        self._closed = False
        self._failure: BusError | None = None
        """An error met behind good records: raised by the next take, because librdkafka reports it once."""

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic. Raises Unavailable when it does not exist."""

        def ask() -> list[int]:
            try:
                found = self._admin_client().list_topics(topic, timeout=kafka.REQUEST_TIMEOUT_S).topics[topic]
            except KafkaException as error:
                raise kafka.translate(error, f"listing {topic}") from error
            if found.error is not None:
                raise kafka.translate(found.error, f"listing {topic}")
            return sorted(found.partitions)

        return await self._run(ask)

    async def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Adds partitions from given offsets (BEGINNING, END or a number). Partitions already read start anew."""
        await self.assign_many([(topic, partition, offset) for partition, offset in offsets.items()])

    async def assign_many(self, places: Iterable[tuple[str, int, int]]) -> None:
        """Adds (topic, partition, offset) places."""
        wanted = [TopicPartition(topic, partition, offset) for topic, partition, offset in places]

        def add() -> None:
            consumer = self._open()
            try:
                if again := [place for place in wanted if (place.topic, place.partition) in self.positions]:
                    consumer.incremental_unassign(again)
                if wanted:
                    consumer.incremental_assign(wanted)
            except KafkaException as error:
                raise kafka.translate(error, f"assigning to {self._name}") from error
            for place in wanted:
                self.positions[place.topic, place.partition] = max(place.offset, 0)

        await self._run(add)

    async def unassign(self, topic: str, partition: int) -> None:
        """Stops reading a partition; unknown ones are ignored."""

        def drop() -> None:
            if self.positions.pop((topic, partition), None) is not None and self._consumer is not None:
                self._consumer.incremental_unassign([TopicPartition(topic, partition)])

        await self._run(drop)

    async def take(self, records_max: int = 1000, wait_s: float = 0.2) -> list[Record]:
        """Up to `records_max` records, waiting at most `wait_s` for the first. Empty: nothing new.

        Raises OffsetLost when retention overtook the position, NetworkFailure and Unavailable when Kafka is away.
        """
        return await self._run(lambda: self._take(records_max, wait_s))

    async def ends(self, topic: str, partitions: Sequence[int] | None = None) -> dict[int, int]:
        """End offsets of partitions of a topic, the assigned ones if none are named; open transactions included
        (read_uncommitted)."""
        partitions = [partition for name, partition in self.positions if name == topic] if partitions is None else partitions
        return await self._offsets(topic, partitions, OffsetSpec.latest)

    async def beginnings(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The oldest offsets that partitions of a topic still hold."""
        return await self._offsets(topic, partitions, OffsetSpec.earliest)

    async def _offsets(self, topic: str, partitions: Sequence[int], which: Callable[[], OffsetSpec]) -> dict[int, int]:
        def ask() -> dict[int, int]:
            places = {TopicPartition(topic, partition): which() for partition in partitions}
            answers = self._admin_client().list_offsets(
                places, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=kafka.REQUEST_TIMEOUT_S
            )
            try:
                return {place.partition: answer.result().offset for place, answer in answers.items()}
            except KafkaException as error:
                if kafka.is_outdated(error):
                    self._admin = None
                raise kafka.translate(error, f"asking the offsets of {topic}") from error

        return await self._patiently(ask) if partitions else {}

    async def _patiently(self, ask: Callable[[], T]) -> T:
        """Asks until there is a leader to answer, for a moment."""
        for _ in range(ASK_TRIES_MAX - 1):
            with contextlib.suppress(Unavailable):
                return await self._run(ask)
            await asyncio.sleep(ASK_AGAIN_S)
        return await self._run(ask)

    async def read_to(self, topic: str, ends: Mapping[int, int], *, patience_s: float = 60.0) -> AsyncIterator[list[Record]]:
        """Yields batches until everything below `ends` is decided and returned, other topics' records included.

        Waits for transactions that are open below an end. Raises Unavailable when nothing moves for `patience_s`.
        """
        now = asyncio.get_running_loop().time
        moved = now()
        while any(self.positions[topic, partition] < end for partition, end in ends.items()):
            before = dict(self.positions)
            if batch := await self.take(10_000, 0.1):
                yield batch
            if batch or self.positions != before:
                moved = now()
            elif now() - moved > patience_s:
                raise Unavailable(f"{topic} stands still before its end: a transaction is open or Kafka is away")

    async def feed(
        self, topic: str, ends: Mapping[int, int], *, patience_s: float = 60.0
    ) -> AsyncIterator[tuple[list[Pair], int]]:
        """`read_to` for one partition that is all this reader has: keys and values only, and the next offset behind them."""
        (partition, end), now = next(iter(ends.items())), asyncio.get_running_loop().time
        moved = now()
        while self.positions[topic, partition] < end:
            before = self.positions[topic, partition]
            pairs, position = await self._run(lambda: self._take_pairs(FEED_RECORDS_MAX, 0.1))
            if pairs:
                yield pairs, position
            if pairs or position != before:
                moved = now()
            elif now() - moved > patience_s:
                raise Unavailable(f"{topic} stands still before its end: a transaction is open or Kafka is away")

    async def work(self, do: Callable[[], T]) -> T:
        """Runs something in the reader's thread, between its reads."""
        return await self._run(do)

    async def facts(self, topic: str, partition: int) -> PartitionFacts:
        """What a partition is now. Raises NetworkFailure, Unavailable, SettingsError."""

        def ask() -> PartitionFacts:
            admin = self._admin_client()
            place, resource = TopicPartition(topic, partition), ConfigResource(ConfigResource.Type.TOPIC, topic)
            try:
                cluster = admin.describe_cluster(request_timeout=kafka.REQUEST_TIMEOUT_S)
                described = admin.describe_topics(TopicCollection([topic]), request_timeout=kafka.REQUEST_TIMEOUT_S)
                configured = admin.describe_configs([resource], request_timeout=kafka.REQUEST_TIMEOUT_S)
                start = admin.list_offsets({place: OffsetSpec.earliest()}, request_timeout=kafka.REQUEST_TIMEOUT_S)  # type: ignore[no-untyped-call]
                end = admin.list_offsets(
                    {place: OffsetSpec.latest()},  # type: ignore[no-untyped-call]
                    isolation_level=IsolationLevel.READ_UNCOMMITTED,
                    request_timeout=kafka.REQUEST_TIMEOUT_S,
                )
                return PartitionFacts(
                    cluster=cluster.result().cluster_id,
                    topic_id=str(described[topic].result().topic_id),
                    start=start[place].result().offset,
                    end=end[place].result().offset,
                    delete_retention_s=int(configured[resource].result()["delete.retention.ms"].value) / 1000,
                )
            except KafkaException as error:
                raise kafka.translate(error, f"describing {topic}") from error

        return await self._patiently(ask)

    async def close(self) -> None:
        """Ends the consumer and its thread. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True

        def end() -> None:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

        await self._run(end)
        self._thread.shutdown(wait=False)

    # --- in the thread -----------------------------------------------------------------------------------------------------

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(kafka.consumer_config(self._settings, self._name, **self._over))
        return self._consumer

    def _admin_client(self) -> AdminClient:
        if self._admin is None:
            self._admin = kafka.admin(self._settings)
        return self._admin

    def _take(self, records_max: int, wait_s: float) -> list[Record]:
        try:
            messages = [] if self._failure is not None else self._next(records_max, wait_s)
        except KafkaException as error:
            raise kafka.translate(error, f"reading {self._name}") from error
        records: list[Record] = []
        for message in messages:
            if (fault := message.error()) is None:
                records.append(_record(message))
            elif fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                self._advance(message, 0)
            else:
                self._failure = kafka.translate(fault, f"reading {message.topic() or self._name}")
                break
        for place, offset in {(record.topic, record.partition): record.offset for record in records}.items():
            if place in self.positions:
                self.positions[place] = max(self.positions[place], offset + 1)
        if self._failure is not None and not records:
            failure, self._failure = self._failure, None
            raise failure
        return records

    def _take_pairs(self, records_max: int, wait_s: float) -> tuple[list[Pair], int]:
        """As `_take`, with as little as can be done per record: what is put together here is put together a million times."""
        place = next(iter(self.positions))
        try:
            messages = [] if self._failure is not None else self._next(records_max, wait_s)
        except KafkaException as error:
            raise kafka.translate(error, f"reading {self._name}") from error
        pairs: list[Pair] = [(message.key() or b"", message.value()) for message in messages if message.error() is None]
        if messages and len(pairs) == len(messages):
            self._advance(messages[-1], 1)
            return pairs, self.positions[place]
        pairs, last = [], None
        for message in messages:
            if (fault := message.error()) is None:
                pairs.append((message.key() or b"", message.value()))
                last = message
            elif fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                self._advance(message, 0)
            else:
                self._failure = kafka.translate(fault, f"reading {message.topic() or self._name}")
                break
        if last is not None:
            self._advance(last, 1)
        if self._failure is not None and not pairs:
            failure, self._failure = self._failure, None
            raise failure
        return pairs, self.positions[place]

    def _next(self, records_max: int, wait_s: float) -> list[Message]:
        """The first within `wait_s`, and whatever else is there: consume alone would wait for the list to fill."""
        consumer = self._open()
        first = consumer.poll(wait_s)
        return [] if first is None else [first, *consumer.consume(records_max - 1, 0)]

    def _advance(self, message: Message, step: int) -> None:
        place = (message.topic() or "", message.partition() or 0)
        if place in self.positions:
            self.positions[place] = max(self.positions[place], (message.offset() or 0) + step)


def _record(message: Message) -> Record:
    headers = message.headers()
    named = {}
    if headers:
        pairs = headers.items() if isinstance(headers, dict) else headers
        named = {name: data.encode() if isinstance(data, str) else data or b"" for name, data in pairs}
    key, value = _bytes(message.key()) or b"", _bytes(message.value())
    return Record(message.topic() or "", message.partition() or 0, message.offset() or 0, key, value, named)


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
