"""Carries one job out: from the newest record of its job to its end, or to why it cannot.

Order of operations of `run`:
1. the configuration is read to its end, and is at least the version the job was asked for with;
2. what does not exist is refused;
3. every processor of its partitions has reported that version: events behind the ends are theirs to map;
4. ends are taken, open transactions included;
5. per partition: once over it for the newest version of each object, once more for the commands;
6. commands and positions of a batch commit together, so that a job that was killed goes on and repeats nothing (law 18).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import RecordError, TransientError
from bus.runtime import metrics
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.jobs import ENDED
from bus.runtime.publisher import Outgoing
from bus.runtime.reader import BEGINNING, Record
from bus.runtime.retry import wait_s
from bus.runtime.slotwork import OwnershipLost
from schemas.system import JobRecord, JobState
from services.processors.handler import Again, Event, Handler
from services.processors.replaying import job as rules
from services.processors.replaying.events import Events
from services.processors.replaying.job import JobRefused, Newest, Selection
from services.processors.routes import Routes

BATCH_COMMANDS_MAX = 500
BATCH_BYTES_MAX = 16 * 1024 * 1024
"""Of one transaction; a single command may be larger."""
PROGRESS_EVERY_S = 10.0
"""How long a job may look at events that are none of its own before its place is written down."""
LOOK_AGAIN_S = 1.0
"""Between two looks at what a job waits for."""

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """An operator ends the job."""


class Around(Protocol):
    """What a job needs of its process."""

    codec: Codec
    clock: Clock

    @property
    def routes(self) -> Routes:
        """The flows as the newest configuration has them."""
        ...

    async def refresh(self) -> None:
        """Reads the configuration to the end it has now. Raises TransientError when Kafka is away."""
        ...

    async def behind(self, places: Collection[tuple[str, int]], version: int) -> Sequence[tuple[str, int]]:
        """The partitions whose processor has not reported a configuration version."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        ...


Commit = Callable[[JobRecord, Sequence[Outgoing]], Awaitable[None]]
"""One transaction: records and the job as it stands then. Raises OwnershipLost when the slot is no longer ours."""


class Batch:
    """Commands that wait for their transaction."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self.records: list[Outgoing] = []
        self._bytes = 0

    def add(self, records: Sequence[Outgoing]) -> None:
        """Takes the commands of one event."""
        self.records += records
        self._bytes += sum(record.size() for record in records)

    @property
    def is_full(self) -> bool:
        """Whether it is time to commit."""
        return len(self.records) >= self._size_max or self._bytes >= BATCH_BYTES_MAX


class Running:
    """One job on its way."""

    def __init__(self, job: JobRecord, around: Around, events: Events, commit: Commit, room: asyncio.Semaphore) -> None:
        """`room`: how many jobs may read side by side; one that waits takes none."""
        self.job = job
        """As last committed."""
        self._room = room
        self._around = around
        self._events = events
        self._commit = commit
        self._handler = Handler(around.codec)
        self._cancelled: str | None = None
        self._next = job
        """The job as it will be with the batch in hand."""
        self._batch = Batch(1)
        self._routes: Routes | None = None
        self._written_at = around.clock.now()
        self._attempt = 0

    def cancel(self, reason: str) -> None:
        """Ends the job at its next step."""
        self._cancelled = reason

    async def run(self) -> None:
        """Until the job has ended. Raises OwnershipLost when the slot was taken away."""
        while self.job.state not in ENDED:
            try:
                await self._go()
            except OwnershipLost:
                raise
            except JobRefused as error:
                await self._end(JobState.REFUSED, str(error))
            except Cancelled:
                await self._end(JobState.CANCELLED, self._cancelled)
            except TransientError as error:
                await self._again(error)
            except Exception as error:
                log.exception("a bug ended a replay", extra={"job": self.job.id, "connection": self.job.connection})
                await self._end(JobState.REFUSED, f"stopped by a bug of the bus: {type(error).__name__}, see the log")

    async def _again(self, error: TransientError) -> None:
        """From what is committed, after a moment."""
        self._attempt += 1
        log.warning("replay waits: %s", error, extra={"job": self.job.id, "connection": self.job.connection})
        await self._around.sleep(error.retry_after_s or wait_s(self._attempt, longest_s=60))

    async def _go(self) -> None:
        self._next, self._routes, self._written_at = self.job, None, self._around.clock.now()
        selection = rules.selection_of(self.job.connection, self.job.args)
        self._batch = Batch(self._size_max(selection))
        await self._around.refresh()  # 1
        if self.job.state is JobState.WAITING:
            await self._begin(selection)
        async with self._room:
            for entity in selection.entities(selection.routes(self._around.routes)):
                for place in self.job.ends:
                    if place.rpartition(":")[0] == entity:
                        await self._partition(selection, entity, int(place.rpartition(":")[2]))  # 5
            await self._end(JobState.DONE, None)

    def _size_max(self, selection: Selection) -> int:
        """About a second's commands: fewer transactions would be bursts."""
        return min(selection.rate_per_s, BATCH_COMMANDS_MAX)

    # --- waiting ----------------------------------------------------------------------

    async def _begin(self, selection: Selection) -> None:
        """Steps 1 to 4."""
        while self._around.routes.version < selection.after_version:
            await self._wait(f"waits for configuration {selection.after_version}")
        places: list[tuple[str, int]] = []
        for entity in selection.entities(selection.routes(self._around.routes)):  # 2
            topic = topics.canonical(entity)
            places += [(topic, partition) for partition in await self._events.ends(topic)]
        while late := await self._around.behind(places, selection.after_version):  # 3
            topic, partition = late[0]
            await self._wait(
                f"waits for processors to report configuration {selection.after_version}: "
                f"{len(late)} partitions, {topic} {partition} for one"
            )
        ends = {}
        for entity in selection.entities(selection.routes(self._around.routes)):  # 4
            for partition, end in sorted((await self._events.ends(topics.canonical(entity))).items()):
                ends[rules.place(entity, partition)] = end
        self._next = rules.begun(self.job, ends, self._around.routes.version, self._around.clock.now())
        await self._write([])

    async def _wait(self, why: str) -> None:
        self._heed()
        if self.job.detail != why[: rules.DETAIL_LENGTH_MAX]:
            self._next = rules.waits(self.job, why)
            await self._write([])
        await self._around.sleep(LOOK_AGAIN_S)

    def _heed(self) -> None:
        if self._cancelled is not None:
            raise Cancelled

    # --- one partition ----------------------------------------------------------------------

    async def _partition(self, selection: Selection, entity: str, partition: int) -> None:
        place = rules.place(entity, partition)
        end, position = self._next.ends[place], self._next.positions.get(place, 0)
        if position >= end:
            return
        newest = await self._newest(selection, entity, partition, end)
        if (span := newest.span(position)) is not None:
            async with aclosing(self._events.read(topics.canonical(entity), partition, *span)) as batches:
                async for records in batches:
                    for record in records:
                        if newest.is_newest(record.key, record.offset):
                            await self._take(selection, place, record)
                    await self._breathe(selection)
        self._stands(place, end, 0)

    async def _newest(self, selection: Selection, entity: str, partition: int, end: int) -> Newest:
        newest = Newest(selection.wants(entity))
        async with aclosing(self._events.read(topics.canonical(entity), partition, BEGINNING, end)) as batches:
            async for records in batches:
                for record in records:
                    newest.see(record.key, record.offset, record.value is None)
                await self._breathe(selection)
        return newest

    async def _take(self, selection: Selection, place: str, record: Record) -> None:
        """The commands of one event."""
        self._heed()
        assert record.value is not None
        event = await self._event(record, record.value)
        if event is not None and selection.takes(event.meta):
            if self._routes is None:  # the newest configuration, for a whole batch
                self._routes = selection.routes(self._around.routes)
            again = Again(request=self.job.id, repair=selection.repair)
            commands = self._handler.commands(event, record.value, self._routes, again)
            self._batch.add(commands)
            for route in self._routes.of(event.meta.connection, event.meta.entity) if commands else ():
                metrics.count("bus_replayed_total", flow=route.flow.name)
        self._stands(place, record.offset + 1, 1)
        if self._batch.is_full:
            await self._flush(selection)

    async def _event(self, record: Record, value: bytes) -> Event | None:
        """None for what nobody can read: it was set aside when it was live."""
        while True:
            try:
                return self._handler.read(record.topic, value)
            except SchemaUnknown as unknown:
                try:
                    await self._around.codec.learn(unknown.schema_id)
                except RecordError:
                    return None
            except RecordError:
                return None

    # --- commits ----------------------------------------------------------------------

    def _stands(self, place: str, position: int, read: int) -> None:
        self._next = msgspec.structs.replace(
            self._next, positions={**self._next.positions, place: position}, read=self._next.read + read
        )

    async def _flush(self, selection: Selection) -> None:
        """Step 6, and the time that many commands may take."""
        count = len(self._batch.records)
        await self._write(self._batch.records)
        self._batch = Batch(self._size_max(selection))
        self._routes = None
        if count:
            await self._around.sleep(count / selection.rate_per_s)

    async def _breathe(self, selection: Selection) -> None:
        """Between two batches of the reader: heeds a cancellation, and writes down where a long look stands."""
        self._heed()
        await asyncio.sleep(0)  # live events go on meanwhile
        if self._around.clock.now() - self._written_at >= timedelta(seconds=PROGRESS_EVERY_S):
            await self._flush(selection)

    async def _write(self, records: Sequence[Outgoing]) -> None:
        following = msgspec.structs.replace(self._next, published=self._next.published + len(records))
        await self._commit(following, records)
        self.job = self._next = following
        self._written_at, self._attempt = self._around.clock.now(), 0

    async def _end(self, state: JobState, detail: str | None) -> None:
        """What is in hand is published by a job that is done, and void for one that is refused or cancelled."""
        now: datetime = self._around.clock.now()
        done = state is JobState.DONE
        self._next = rules.ended(self._next if done else self.job, state, detail, now)
        await self._write(self._batch.records if done else [])
        log.info(
            "replay ended",
            extra={"job": self.job.id, "connection": self.job.connection, "state": str(state), "commands": self.job.published},
        )
