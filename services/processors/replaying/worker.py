"""One slot of the replays: takeover, then the jobs of its connections until it is given away."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence

from bus.core import topics
from bus.core.clock import Clock, SystemClock
from bus.core.configuration import Connection
from bus.core.errors import RecordError, TransientError
from bus.core.topics import slot_of
from bus.runtime import metrics
from bus.runtime.codec import Codec
from bus.runtime.connections import connection_of
from bus.runtime.follow import ConfigFollower, Documents
from bus.runtime.jobs import ENDED, job_key
from bus.runtime.kafka import OffsetLost
from bus.runtime.publisher import Outgoing, Publisher, commit_surely
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings
from bus.runtime.slotwork import OwnershipLost
from bus.runtime.table import PartitionTable
from schemas.system import JobRecord, RequestKind, RequestRecord
from services.processors.processing import Processing
from services.processors.replaying import job as rules
from services.processors.replaying.events import KafkaEvents
from services.processors.replaying.running import Running
from services.processors.reporting import Reports
from services.processors.routes import Routes

SERVICE = "replays"
SIDE_BY_SIDE_MAX = 4
"""Jobs of one slot that read at one time."""
REQUESTS_WAIT_S = 0.5
REPORT_EVERY_S = 5.0

log = logging.getLogger(__name__)


class ReplayAround:
    """What the replays of all slots share in one process."""

    def __init__(
        self, settings: BusSettings, codec: Codec, processing: Processing, follower: ConfigFollower, reports: Reports
    ) -> None:
        self.settings = settings
        self.codec = codec
        self.clock: Clock = SystemClock()
        self._processing = processing
        self._follower = follower
        self._reports = reports
        self._listeners: list[Callable[[Documents], Awaitable[None]]] = []

    @property
    def routes(self) -> Routes:
        """The flows of the newest configuration."""
        return self._processing.routes

    async def refresh(self) -> None:
        """Reads the configuration to the end it has now. Raises TransientError when Kafka is away."""
        await self._follower.refresh()

    async def behind(self, places: Collection[tuple[str, int]], version: int) -> Sequence[tuple[str, int]]:
        """The partitions whose processor has not reported a version. Raises TransientError when Kafka is away."""
        return await self._reports.behind(places, version)

    async def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        await asyncio.sleep(seconds)

    def connections_of(self, slot: int) -> list[Connection]:
        """The connections whose slot this is."""
        documents = self._follower.current.connections
        return [
            connection_of(document) for name, document in sorted(documents.items()) if slot_of(name, self.settings.slots) == slot
        ]

    def on_configuration(self, listener: Callable[[Documents], Awaitable[None]]) -> None:
        """Calls back after each complete version."""
        self._listeners.append(listener)

    async def changed(self, documents: Documents) -> None:
        """Tells the listeners; the composition root calls it."""
        for listener in self._listeners:
            await listener(documents)


class ReplaySlot:
    """The work of one slot."""

    def __init__(self, around: ReplayAround, slot: int) -> None:
        self.slot = slot
        self._around = around
        settings = around.settings
        self._publisher = Publisher(settings, f"{settings.client_prefix}-{SERVICE}-{slot}")
        self._requests = LogReader(settings, f"{SERVICE}-requests-{slot}")
        self._known: dict[str, JobRecord] = {}
        """All jobs as last committed, by id."""
        self._running: dict[str, Running] = {}
        self._room = asyncio.Semaphore(SIDE_BY_SIDE_MAX)

    async def take_over(self) -> None:
        """Steps: 1 fence the old owner; 2 read the jobs it left; 3 read requests from the oldest there is: one made while nobody
        owned the slot counts, one whose job is known does nothing."""
        # 1
        await self._publisher.open()
        # 2
        table = PartitionTable(self._around.settings, f"jobs-{self.slot}")
        try:
            await table.load(topics.JOBS, self.slot)
            for _, value in table.items():
                job: JobRecord = await self._around.codec.read(topics.JOBS, value)
                self._known[job.id] = job
        finally:
            await table.close()
        # 3
        await self._requests.assign(topics.REQUESTS, {self.slot: BEGINNING})
        log.info("took over replays", extra={"slot": self.slot, "jobs": len(self._known)})

    async def run(self) -> None:
        """Works until cancelled. Raises what ended the intake or a job."""
        await self._forget()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report(), name=f"{SERVICE}-report-{self.slot}")
            for job in self._open():
                self._start(tasks, job)
            tasks.create_task(self._intake(tasks), name=f"{SERVICE}-requests-{self.slot}")

    async def close(self) -> None:
        """Lets readers and the producer go."""
        await self._requests.close()
        await self._publisher.close()

    def _open(self) -> list[JobRecord]:
        jobs = [job for job in self._known.values() if job.state not in ENDED]
        return sorted(jobs, key=lambda job: job.request_offset)

    def _start(self, tasks: asyncio.TaskGroup, job: JobRecord) -> None:
        events = KafkaEvents(self._around.settings, f"{SERVICE}-events-{self.slot}")
        self._running[job.id] = running = Running(job, self._around, events, self._commit, self._room)
        tasks.create_task(self._carry_out(running, events), name=f"{SERVICE}-{job.id}")

    async def _carry_out(self, running: Running, events: KafkaEvents) -> None:
        try:
            await running.run()
        finally:
            del self._running[running.job.id]
            await events.close()

    # --- requests ----------------------------------------------------------------------

    async def _intake(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            try:
                batch = await self._requests.take(100, REQUESTS_WAIT_S)
            except OffsetLost:
                await self._requests.assign(topics.REQUESTS, {self.slot: BEGINNING})
                continue
            except TransientError as error:
                log.warning("requests wait: %s", error)
                await asyncio.sleep(1)
                continue
            for record in batch:
                await self._take(tasks, record)

    async def _take(self, tasks: asyncio.TaskGroup, record: Record) -> None:
        request = await self._read(record)
        if request is None:
            return
        if request.kind is RequestKind.REPLAY and request.id not in self._known:
            job = rules.asked(request, record.offset)
            await self._commit(job, [])
            log.info("replay asked for", extra={"job": job.id, "connection": job.connection, "asked": dict(job.args)})
            self._start(tasks, job)
        elif request.kind is RequestKind.CANCEL:
            running = self._running.get(request.args.get("id", ""))
            if running is not None:
                running.cancel(request.args.get("reason") or "cancelled by request")

    async def _read(self, record: Record) -> RequestRecord | None:
        if record.value is None:
            return None
        while True:
            try:
                request: RequestRecord = await self._around.codec.read(topics.REQUESTS, record.value)
            except TransientError as error:
                log.warning("requests wait: %s", error)
                await asyncio.sleep(error.retry_after_s or 1)
            except RecordError as error:
                log.error("a request that nobody can read: %s", error)
                return None
            else:
                return request

    # --- commits ----------------------------------------------------------------------

    async def _commit(self, job: JobRecord, records: Sequence[Outgoing]) -> None:
        """The job's record and what it made, together."""
        stands = Outgoing(topics.JOBS, self.slot, job_key(job), self._around.codec.encode(topics.JOBS, job))
        await self._surely([*records, stands])
        self._known[job.id] = job

    async def _surely(self, records: Sequence[Outgoing]) -> None:
        try:
            await commit_surely(self._publisher, records)
        except TransientError as error:
            raise OwnershipLost(f"the commit did not end well: {error}") from error

    async def _forget(self) -> None:
        """Jobs that ended long ago leave the topic."""
        now = self._around.clock.now()
        old = [job for job in self._known.values() if rules.is_forgotten(job, now)]
        await self._surely([Outgoing(topics.JOBS, self.slot, job_key(job), None) for job in old])
        for job in old:
            del self._known[job.id]

    async def _report(self) -> None:
        while True:
            counts = Counter(job.connection for job in self._open())
            for connection in self._around.connections_of(self.slot):
                metrics.put("bus_replays_open", counts[connection.name], connection=connection.name)
            await asyncio.sleep(REPORT_EVERY_S)
