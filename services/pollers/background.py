"""What goes on between the polls, a page at a time: what was asked to be read again, and comparisons of ids.

One piece of work is open at a time. It is dropped when it fails and begun again after a while; what was read again goes on behind
its last committed page, a comparison begins anew.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec

from bus.core.clock import Clock
from bus.core.errors import BusError, CredentialError, CursorInvalid, PageUnmappable, StreamError, TransientError, Unavailable
from bus.kit.budget import priority
from bus.kit.connector import Connector, Page
from bus.kit.manifest import Stream
from bus.runtime.publisher import Outgoing
from bus.runtime.retry import wait_s
from schemas.system import CursorRecord
from services.pollers.pictures import Joined
from services.pollers.resyncing import Job, jobs_of, with_jobs
from services.pollers.scanning import Ids, due_at

FETCHED_MAX = 50
"""Objects asked for by id in one step."""
FAILURES_MAX = 5
"""After so many failures in a row that do not pass by themselves, a resync is given up."""
CREDENTIAL_RETRY_S = 30.0
RESYNC, SCAN = 3, 4
"""Priorities of calls."""

log = logging.getLogger(__name__)


class Account(Protocol):
    """What it asks of the account's poller."""

    connection: str

    def cursor(self, stream: str) -> CursorRecord:
        """Where a stream stands."""
        ...

    def is_paused(self, stream: str) -> bool:
        """Whether a stream stands still."""
        ...

    async def stop(self, stream: str, error: Exception) -> None:
        """Lets a stream stand still."""
        ...

    async def put_cursors(self, cursors: Sequence[CursorRecord]) -> None:
        """Commits cursors."""
        ...

    async def publish(
        self,
        stream: Stream,
        page: Page,
        cursor: CursorRecord,
        *,
        asked_at: datetime,
        snapshot: bool = False,
        force: bool = False,
        renewed_at: datetime | None = None,
        ended: Sequence[Outgoing] = (),
    ) -> CursorRecord:
        """Commits a page and a cursor."""
        ...

    async def fetched(self, keys: Sequence[tuple[str, str]]) -> list[tuple[Any, Any]]:
        """Single objects."""
        ...

    async def publish_whole(
        self,
        found: Sequence[Joined],
        asked_at: datetime,
        *,
        cursor: CursorRecord | None = None,
        renewed_at: datetime | None = None,
    ) -> None:
        """Commits single objects and a cursor."""
        ...

    def backfilled(self, entities: Sequence[str]) -> list[Outgoing]:
        """The word that all is known."""
        ...

    async def compare_page(self, stream: Stream, page: Page, began_at: datetime) -> None:
        """Ends a comparison by a full read."""
        ...

    async def compare(self, stream: Stream, here: Mapping[str, Ids], began_at: datetime, *, confirmed: bool = False) -> bool:
        """Ends a comparison."""
        ...


class Background:
    """The work between the polls of one account."""

    def __init__(self, account: Account, connector: Connector, clock: Clock, on_failure: Callable[[str, str, str], None]) -> None:
        self._account = account
        self._connector = connector
        self._clock = clock
        self._on_failure = on_failure
        self._work: AsyncIterator[None] | None = None
        self._stream: Stream | None = None
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, datetime] = {}

    def at_once(self, stream: str) -> None:
        """Waits no longer after a failure."""
        self._not_before.pop(stream, None)

    async def step(self) -> bool:
        """One page of the work that is open, or of the next; False when there is nothing to do."""
        if self._work is None:
            self._work = self._next()
        if self._work is None or self._stream is None:
            return False
        stream = self._stream
        try:
            await anext(self._work)
        except StopAsyncIteration:
            self._work = None
            self._failures.pop(stream.name, None)
        except (TransientError, CredentialError, StreamError) as error:
            self._work = None
            await self._failed(stream, error)
        return True

    def _next(self) -> AsyncIterator[None] | None:
        """What was asked for comes before what is due by itself."""
        now = self._clock.now()
        streams = [
            stream
            for stream in self._connector.manifest.streams
            if not self._account.is_paused(stream.name) and self._not_before.get(stream.name, now) <= now
        ]
        for stream in streams:
            for job in jobs_of(self._account.cursor(stream.name))[:1]:
                self._stream = stream
                if job.confirm_deletes and not self._waits(stream):
                    return self._compare(stream, job)
                if not job.confirm_deletes:
                    return self._by_keys(stream, job) if job.keys is not None else self._again(stream, job)
        for stream in streams:
            due = due_at(stream, self._account.cursor(stream.name))
            if due is not None and due <= now:
                self._stream = stream
                return self._compare(stream, None)
        return None

    def _waits(self, stream: Stream) -> bool:
        """Whether a comparison would be too soon after the last to agree with it."""
        cursor = self._account.cursor(stream.name)
        soon = due_at(stream, msgspec.structs.replace(cursor, deletes_refused=0))
        return bool(cursor.absent) and soon is not None and soon > self._clock.now()

    # --- reading again -------------------------------------------------------------------------------------------------------

    async def _again(self, stream: Stream, job: Job) -> AsyncIterator[None]:
        """All of a stream, whatever is known of it; the stream's own position stays where it is."""
        priority.set(RESYNC)
        asked_at = self._clock.now()
        async for page in self._connector.read(stream.name, job.position):
            priority.set(RESYNC)
            job = msgspec.structs.replace(job, position=page.position)
            entities = [job.entity] if job.entity is not None else list(stream.entities)
            await self._account.publish(
                stream,
                job.wanted(page),
                self._with(stream, job if page.more else None),
                asked_at=asked_at,
                force=True,
                renewed_at=job.began_at if job.publish_all else None,
                ended=self._account.backfilled(entities) if not page.more and job.since is None else [],
            )
            await self._account.compare_page(stream, page, job.began_at)
            yield
            asked_at = self._clock.now()

    async def _by_keys(self, stream: Stream, job: Job) -> AsyncIterator[None]:
        """Some objects, each asked for by itself. One that is not there is not taken for deleted: all ids are compared soon."""
        while job.keys:
            priority.set(RESYNC)
            asked_at = self._clock.now()
            some, rest = job.keys[:FETCHED_MAX], job.keys[FETCHED_MAX:]
            found = await self._account.fetched([(job.entity or "", key) for key in some])
            there = [(record, whole) for record, whole in found if whole is not None]
            job = msgspec.structs.replace(job, keys=rest)
            cursor = self._with(stream, job if rest else None)
            if len(there) < len(found) and cursor.deletes_unproven_since is None:
                cursor = msgspec.structs.replace(cursor, deletes_unproven_since=asked_at)
            await self._account.publish_whole(
                there, asked_at, cursor=cursor, renewed_at=job.began_at if job.publish_all else None
            )
            yield

    def _with(self, stream: Stream, job: Job | None) -> CursorRecord:
        """The cursor with the job under way as it stands now, or without it."""
        cursor = self._account.cursor(stream.name)
        jobs = jobs_of(cursor)[1:]
        return with_jobs(cursor, [job, *jobs] if job is not None else jobs)

    # --- comparing -----------------------------------------------------------------------------------------------------------

    async def _compare(self, stream: Stream, job: Job | None) -> AsyncIterator[None]:
        """All ids that exist with all that are known. `job`: a person confirmed what it may find."""
        began_at = self._clock.now()
        here = {entity: Ids() for entity in stream.entities}
        priority.set(SCAN)
        async for ids in self._connector.ids(stream.name):
            for entity, some in ids.items():
                here[entity].add(some)
            yield
            priority.set(SCAN)
        if not await self._account.compare(stream, here, began_at, confirmed=job is not None):
            raise Unavailable("the vendor named nothing of what is known to be there")
        if job is not None and not self._account.cursor(stream.name).absent:
            await self._account.put_cursors([self._with(stream, None)])

    # --- failures ------------------------------------------------------------------------------------------------------------

    async def _failed(self, stream: Stream, error: BusError) -> None:
        """It is begun again after a while. A resync that cannot end is given up; a position that is over begins anew."""
        name = stream.name
        self._on_failure(self._account.connection, name, type(error).__name__)
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        delay_s = CREDENTIAL_RETRY_S if isinstance(error, CredentialError) else wait_s(failures)
        if isinstance(error, TransientError) and error.retry_after_s is not None:
            delay_s = error.retry_after_s
        self._not_before[name] = self._clock.now() + timedelta(seconds=delay_s)
        place = {"connection": self._account.connection, "stream": name}
        log.warning("between the polls: %s: %s", type(error).__name__, error, extra=place)
        if isinstance(error, PageUnmappable):
            await self._account.stop(name, error)
            return
        jobs = jobs_of(self._account.cursor(name))
        if isinstance(error, CursorInvalid) and jobs:
            await self._account.put_cursors([self._with(stream, msgspec.structs.replace(jobs[0], position=None))])
        if isinstance(error, StreamError) and failures >= FAILURES_MAX and jobs:
            log.error("given up: ask for it again when it can be read", extra=place)
            self._failures.pop(name)
            await self._account.put_cursors([self._with(stream, None)])
