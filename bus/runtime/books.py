"""The books (law 17): what became of every source object in every flow, from committed records only.

Each (flow, source object) has one standing record in `bus.state`, so the counts of a flow add up to the objects polling knows.
Lag is asked of Kafka, so that "quiet" means that nothing is on its way.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from bus.core import topics
from bus.core.configuration import Configuration, Flow
from bus.core.errors import Unavailable
from bus.runtime import kafka
from bus.runtime.bookkeeping import READ, Notes, StandingNote
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.jobs import ENDED
from bus.runtime.kafka import OffsetLost
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings
from schemas.system import BrakeRecord, Standing

PROCESSOR_GROUP = "bus-processors"
MARKERS_MAX = 200
"""Offsets up to which a lag is told by reading: a longer one is no matter of a few markers."""
QUEUE_KBYTES = 32 * 1024
"""Read ahead of what is counted."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNSETTLED = (Standing.DEAD, Standing.PARKED, Standing.WAITING)
"""Standings that have a cause."""


class FlowBook(msgspec.Struct, kw_only=True):
    """One flow: objects by standing, and by how they got there."""

    flow: str
    source: str
    target: str
    read: int = 0
    """Objects of the source entity that polling knows and could map."""
    standings: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    causes: dict[str, int] = {}
    reasons: dict[str, int] = {}
    oldest_waiting: datetime | None = None

    @property
    def settled(self) -> int:
        """Objects with a standing."""
        return sum(self.standings.values())


class StreamBook(msgspec.Struct, kw_only=True):
    """One stream of one connection."""

    connection: str
    stream: str
    backfilled: bool
    polled_at: datetime | None
    deletes_unproven_since: datetime | None = None
    deletes_refused: int = 0
    """Objects missing at the vendor, too many to be taken for deleted without a person's word."""
    paused: str | None = None
    """Why the stream stands still."""
    resync: bool = False
    """Whether something is read again."""


class OpenBrake(msgspec.Struct, kw_only=True):
    """Writes to an account that stand still, of one flow or all (flow empty)."""

    connection: str
    flow: str
    by_hand: bool
    reason: str | None = None
    opened_at: datetime | None = None


class Books(msgspec.Struct, kw_only=True):
    """Everything at one moment."""

    version: int
    flows: list[FlowBook] = []
    streams: list[StreamBook] = []
    processor_lag: int = 0
    outbound_lag: dict[str, int] = {}
    open_intents: dict[str, int] = {}
    retrying: int = 0
    """Parked commands that will be tried again by themselves before long."""
    held: int = 0
    replaying: int = 0
    """Replays that wait or run: a new flow is not quiet before its own has ended."""
    dead_letters: Counter[str] = Counter()
    set_aside: dict[str, int] = {}
    """Objects a poller could not map, by connection."""
    brakes: list[OpenBrake] = []

    @property
    def unsettled(self) -> int:
        """Objects without a standing, over all flows: while any is on its way, or for good when the books do not balance."""
        return sum(abs(book.read - book.settled) for book in self.flows)

    def in_flight(self) -> int:
        """What is on its way. Waiting for a product or a person is not."""
        waiting = sum(self.outbound_lag.values()) + sum(self.open_intents.values())
        return self.processor_lag + waiting + self.retrying + self.held + self.replaying

    def fingerprint(self) -> bytes:
        """Equal for equal counts, whatever the time of the last poll."""
        streams = [msgspec.structs.replace(stream, polled_at=None) for stream in self.streams]
        return msgspec.json.encode(msgspec.structs.replace(self, streams=streams), order="sorted")

    def is_quiet(self, expected: Sequence[str]) -> bool:
        """Whether nothing is on its way and every expected connection was read to its end."""
        read = {stream.connection for stream in self.streams if stream.backfilled}
        return set(expected) <= read and all(stream.backfilled for stream in self.streams) and not self.in_flight()


class BookReader:
    """Reads and follows the records the books are made of."""

    def __init__(self, settings: BusSettings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._reader = LogReader(settings, "books", queue_kbytes=QUEUE_KBYTES)
        self._tails = LogReader(settings, "books-outbound")
        self._admin = kafka.admin(settings)
        self._notes = Notes(codec)
        self._opened = False

    async def read(self, configuration: Configuration, version: int) -> Books:
        """The books as of the end offsets taken now."""
        await self._follow()
        books = Books(version=version, flows=[_book(flow) for flow in configuration.flows.values()])
        self._cursors(books)
        known = self._known(books)
        self._state(books, {book.flow: book for book in books.flows})
        for book in books.flows:
            flow = configuration.flows[book.flow]
            book.read = known[flow.from_.connection, flow.from_.entity]
        books.replaying = self._replaying()
        books.processor_lag = await asyncio.to_thread(self._processor_lag)
        await self._outbound(books, configuration)
        return books

    async def close(self) -> None:
        """Ends reading."""
        await self._reader.close()
        await self._tails.close()

    async def _follow(self) -> None:
        if not self._opened:
            for name in READ:
                await self._reader.assign(name, dict.fromkeys(await self._reader.partitions(name), BEGINNING))
            self._opened = True
        for name in READ:
            async for batch in self._reader.read_to(name, await self._reader.ends(name)):
                for record in batch:
                    await self._take(record)

    async def _take(self, record: Record) -> None:
        while True:
            try:
                self._notes.take(record.topic, record.key, record.value)
            except SchemaUnknown as error:
                await self._codec.learn(error.schema_id)
            else:
                return

    def _replaying(self) -> int:
        return sum(job.state not in ENDED for job in self._notes.jobs())

    def _cursors(self, books: Books) -> None:
        for cursor in self._notes.cursors():
            if cursor.stream == topics.REQUESTS_CURSOR:
                continue
            books.streams.append(
                StreamBook(
                    connection=cursor.connection,
                    stream=cursor.stream,
                    backfilled=cursor.backfilled,
                    polled_at=cursor.polled_at,
                    deletes_unproven_since=cursor.deletes_unproven_since,
                    deletes_refused=cursor.deletes_refused,
                    paused=cursor.paused,
                    resync=cursor.resync is not None,
                )
            )

    def _known(self, books: Books) -> Counter[tuple[str, str]]:
        known: Counter[tuple[str, str]] = Counter()
        aside: Counter[str] = Counter()
        for connection, entity, notes in self._notes.seen():
            for note, count in notes.items():
                books.held += count if note.held else 0
                if note.known:
                    known[connection, entity] += count
                elif not note.held:
                    aside[connection] += count
        books.set_aside = dict(aside)
        return known

    def _state(self, books: Books, flows: Mapping[str, FlowBook]) -> None:
        for record in self._notes.state():
            if record.intent is not None:
                books.open_intents[record.connection] = books.open_intents.get(record.connection, 0) + 1
            elif record.brake is not None and record.brake.open:
                books.brakes.append(_open_brake(record.connection, record.brake))
        for flow, notes in self._notes.standings():
            book = flows.get(flow)
            for note, count in notes.items():
                books.retrying += count if note.retries else 0
                if book is not None:
                    _enter(book, note, count)

    async def _outbound(self, books: Books, configuration: Configuration) -> None:
        settled = {record.connection: record.offset.offset for record in self._notes.state() if record.offset is not None}
        names = sorted(configuration.connections)
        ends = await asyncio.to_thread(self._ends, [TopicPartition(topics.outbound(name), 0) for name in names])
        for name in names:
            begin, end = settled.get(name, 0), ends.get((topics.outbound(name), 0), 0)
            lag = max(0, end - begin)
            books.outbound_lag[name] = lag if lag > MARKERS_MAX else await self._commands(topics.outbound(name), begin, end)

    async def _commands(self, topic: str, begin: int, end: int) -> int:
        """Commands in a short span of an outbound topic: what ends a transaction takes an offset too, and nobody settles it."""
        if begin >= end:
            return 0
        await self._tails.assign(topic, {0: begin})
        try:
            return sum([len(batch) async for batch in self._tails.read_to(topic, {0: end})])
        except OffsetLost:  # retention took what an account that was away has not read: all of it waits
            return end - begin
        finally:
            await self._tails.unassign(topic, 0)

    def _processor_lag(self) -> int:
        places = [
            TopicPartition(topics.canonical(entity), partition)
            for entity in topics.ENTITIES
            for partition in range(self._settings.partitions)
        ]
        ends = self._ends(places)
        asked = [ConsumerGroupTopicPartitions(PROCESSOR_GROUP, places)]
        answer = self._admin.list_consumer_group_offsets(asked, request_timeout=kafka.REQUEST_TIMEOUT_S)
        committed = {
            (place.topic, place.partition): max(place.offset, 0)
            for place in kafka.answered(answer[PROCESSOR_GROUP], "asking what the processors committed").topic_partitions
        }
        return sum(max(0, end - committed.get(place, 0)) for place, end in ends.items())

    def _ends(self, places: Sequence[TopicPartition]) -> dict[tuple[str, int], int]:
        if not places:
            return {}
        wanted = {place: OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]
        answers = self._admin.list_offsets(wanted, request_timeout=kafka.REQUEST_TIMEOUT_S)
        try:
            return {
                (place.topic, place.partition): kafka.answered(answer, f"asking the end of {place.topic}").offset
                for place, answer in answers.items()
            }
        except Unavailable:
            self._admin = kafka.admin(self._settings)  # it may know leaders of before only: see kafka.is_outdated
            raise


def _book(flow: Flow) -> FlowBook:
    return FlowBook(
        flow=flow.name,
        source=f"{flow.from_.connection}/{flow.from_.entity}",
        target=f"{flow.to.connection}/{flow.to.entity}",
    )


def _open_brake(connection: str, brake: BrakeRecord) -> OpenBrake:
    return OpenBrake(
        connection=connection, flow=brake.flow, by_hand=brake.by_hand, reason=brake.reason, opened_at=brake.opened_at
    )


def _enter(book: FlowBook, note: StandingNote, count: int) -> None:
    _count(book.standings, note.standing, count)
    _count(book.outcomes, note.outcome, count)
    if note.cause is not None and note.standing in UNSETTLED:
        _count(book.causes, note.cause, count)
    if note.standing == Standing.FILTERED:
        _count(book.reasons, note.reason, count)
    if note.parked_us is not None:
        parked_at = EPOCH + timedelta(microseconds=note.parked_us)
        book.oldest_waiting = min(book.oldest_waiting or parked_at, parked_at)


def _count(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def as_json(books: Books) -> dict[str, Any]:
    """One JSON object."""
    plain: dict[str, Any] = msgspec.to_builtins(books)
    return {**plain, "in_flight": books.in_flight(), "balanced": not books.unsettled}
