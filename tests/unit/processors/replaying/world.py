"""A replay without a broker: topics, configuration and commits in memory, time that passes when it is slept away."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from bus.core import topics
from bus.core.clock import FrozenClock
from bus.core.configuration import parse
from bus.core.topics import canonical, event_key
from bus.runtime.codec import Codec
from bus.runtime.publisher import Outgoing
from bus.runtime.reader import Record
from bus.runtime.slotwork import OwnershipLost
from schemas import canon
from schemas.canon import Operation
from schemas.system import Command, JobRecord, JobState
from services.processors.replaying.running import Running
from services.processors.routes import Routes, compile_routes

CONFIGURATION = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop}
--- {kind: Connection, name: ledger, tenant: acme, system: some_ledger, secret: ledger}
--- {kind: Connection, name: till, tenant: acme, system: some_till, secret: till}
--- {kind: Flow, name: customers, from: {connection: shop, entity: customer}, to: {connection: ledger, entity: customer},
     start: {existing: send}, write: upsert}
--- {kind: Flow, name: to-till, from: {connection: shop, entity: customer}, to: {connection: till, entity: customer},
     start: {existing: send}, write: upsert}
--- {kind: Flow, name: orders, from: {connection: shop, entity: sales_order}, to: {connection: ledger, entity: sales_order},
     start: {from: 2026-12-01, by: order_date}, write: create, reference: {to: Ref, value: "'X-' ~ source.id"}}
"""
START = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
PARTITIONS = 3
EVENTS = {
    "customer": (canon.CustomerEvent, canon.Customer()),
    "sales_order": (canon.SalesOrderEvent, canon.SalesOrder(currency="EUR")),
}


def routes_of(version: int = 7, text: str = CONFIGURATION) -> Routes:
    """Compiled flows."""
    return compile_routes(parse(text).accepted(), version)


class Log:
    """Canonical topics; a partition is a list of records or None for what compaction took."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.partitions: dict[tuple[str, int], list[Record | None]] = {}
        self.reads: list[tuple[str, int, int, int]] = []
        self.fault: BaseException | None = None
        """Raised once by the next read."""
        for entity in topics.ENTITIES:
            for partition in range(PARTITIONS):
                self.partitions[canonical(entity), partition] = []

    def event(
        self, entity: str, source_id: str, seq: int = 1, *, partition: int = 0, connection: str = "shop", after=None, **meta
    ) -> Record:
        """Appends an event, seen `seq` hours after START."""
        event_class, plain = EVENTS[entity]
        event = event_class(
            meta=canon.EventMeta(
                event_id=f"{source_id}-{seq}", seq=seq, tenant="acme", system="some_shop", connection=connection, entity=entity,
                source_id=source_id, observed_at=START + timedelta(hours=seq), content_hash="h",
                **({"op": Operation.UPDATED} | meta),
            ),
            after=plain if after is None else after,
        )  # fmt: skip
        topic = canonical(entity)
        return self.put(topic, partition, event_key(connection, entity, source_id), self._codec.encode(topic, event))

    def put(self, topic: str, partition: int, key: str, value: bytes | None) -> Record:
        """Appends anything."""
        place = self.partitions[topic, partition]
        record = Record(topic, partition, len(place), key.encode(), value, {})
        place.append(record)
        return record

    async def ends(self, topic: str) -> dict[int, int]:
        return {number: len(place) for (name, number), place in self.partitions.items() if name == topic}

    async def read(self, topic: str, partition: int, first: int, end: int):
        self.reads.append((topic, partition, first, end))
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        found = [record for record in self.partitions[topic, partition][max(first, 0) : end] if record is not None]
        for start in range(0, len(found), 2):
            yield found[start : start + 2]

    async def close(self) -> None:
        """Nothing is open."""


class World:
    """What a job meets, and what it commits."""

    def __init__(self, version: int = 7) -> None:
        self.codec = Codec.offline()
        self.clock = FrozenClock(START)
        self.routes = routes_of(version)
        self.log = Log(self.codec)
        self.late: list[list[tuple[str, int]]] = []
        """Answers of `behind`, one after the other; then nobody is."""
        self.asked_behind: list[tuple[int, int]] = []
        self.slept: list[float] = []
        self.refreshed = 0
        self.dies_at: int | None = None
        """The commit (from 1) that never becomes true: the process is killed just before it."""
        self.on_commit = None
        self.jobs: list[JobRecord] = []
        self.commits: list[list[Outgoing]] = []

    async def refresh(self) -> None:
        self.refreshed += 1

    async def behind(self, places: Collection[tuple[str, int]], version: int) -> Sequence[tuple[str, int]]:
        self.asked_behind.append((len(places), version))
        return self.late.pop(0) if self.late else []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def commit(self, job: JobRecord, records: Sequence[Outgoing]) -> None:
        if len(self.commits) + 1 == self.dies_at:
            raise OwnershipLost("killed")
        self.jobs.append(job)
        self.commits.append(list(records))
        if self.on_commit is not None:
            self.on_commit(self)

    @property
    def job(self) -> JobRecord:
        """As last committed."""
        return self.jobs[-1]

    def running(self, job: JobRecord, room) -> Running:
        """A job on its way in this world."""
        return Running(job, self, self.log, self.commit, room)

    def commands(self) -> list[Command]:
        """All committed commands, in order."""
        return [self.codec.decode(record.topic, record.value) for records in self.commits for record in records]

    def told(self) -> list[tuple[str, str, int]]:
        """(flow, source id, seq) of all committed commands."""
        return [(command.flow, command.source.id, command.seq) for command in self.commands()]


def new_job(connection: str = "shop", **args: str) -> JobRecord:
    """A job as it begins to be known."""
    return JobRecord(id="r-1", connection=connection, state=JobState.WAITING, args=args, request_offset=3)


def keys(*ids: str) -> str:
    """The argument `keys`."""
    return msgspec.json.encode(list(ids)).decode()
