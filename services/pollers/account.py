"""One account: polls its streams when they are due, judges what was held, keeps its cursors.

One reader per account: streams take turns, so that two polls never judge one object at the same time (law 3). What was asked to
be read again and comparisons of ids go on page by page between the polls (`background`).
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import (
    AccessRevoked,
    CredentialError,
    CursorInvalid,
    PageUnmappable,
    RecordError,
    StreamError,
    TransientError,
)
from bus.kit.budget import priority
from bus.kit.client import gather_limited
from bus.kit.connector import Connector, Page, RawRecord
from bus.kit.manifest import Stream
from bus.runtime.codec import Codec
from bus.runtime.publisher import Outgoing
from bus.runtime.retry import wait_s
from schemas.system import CursorRecord, RequestKind, RequestRecord
from services.pollers.background import Background
from services.pollers.judging import is_held
from services.pollers.pictures import Joined, parts
from services.pollers.publishing import Batch, Counts, PageBuilder, Seen, is_stale
from services.pollers.resyncing import JOBS_MAX, ResyncRefused, accepted, jobs_of, with_jobs
from services.pollers.scanning import Comparison, Ids, Missing, living_of, rule, ruled, served

log = logging.getLogger(__name__)

TICK_S = 0.2
HOLD_LOOK_S, HOLD_LOOKS_MAX = 0.25, 8
"""A page whose objects are being written waits so long, so often, for the end of those writes; what is still open is held."""
FAILURES_MAX = 5
"""After so many failures in a row that are not the vendor's passing trouble, a stream stands still until it is polled by hand."""
CREDENTIAL_RETRY_S = 30.0
HELD_MAX = 50
"""Held objects judged in one transaction."""
FETCHES_MAX = 4
"""Objects asked for side by side."""
DELETES_MAX = 500
"""Deletes told in one transaction."""
UNMAPPABLE_MIN = 20
"""A page of so many records, most of which cannot be mapped, is not taken (law 10)."""
ALOUD_EVERY = 1_000
"""Ids compared before others of this process get their turn."""
CHANGES, BACKFILL = 1, 3
"""Priorities of calls: a back-fill can wait, and so can what was asked to be read again."""

Commit = Callable[[Sequence[Outgoing]], Awaitable[None]]


class StreamState(msgspec.Struct, kw_only=True):
    """How one stream fares in this process."""

    facts: Stream
    every_s: float
    due_at: datetime
    failures: int = 0
    paused: str | None = None


class AccountPoller:
    """The poller of one account."""

    def __init__(
        self,
        *,
        connection: str,
        connector: Connector,
        builder: PageBuilder,
        seen: Seen,
        cursors: dict[str, CursorRecord],
        poll_s: Mapping[str, float],
        codec: Codec,
        commit: Commit,
        refresh_state: Callable[[], Awaitable[None]],
        holds: Callable[[str, str], bool],
        slot: int,
        clock: Clock,
        usage: Callable[[], Mapping[str, int]],
        on_poll: Callable[[str, str, Counts], None],
        on_failure: Callable[[str, str, str], None],
        on_turn: Callable[[str, str, float], None] = lambda _connection, _stream, _seconds: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self._connector = connector
        self._builder = builder
        self._seen = seen
        self._cursors = cursors
        self._codec = codec
        self._commit = commit
        self._refresh_state = refresh_state
        self._holds = holds
        self._slot = slot
        self._clock = clock
        self._usage = usage
        self._on_poll = on_poll
        self._on_failure = on_failure
        self._on_turn = on_turn
        self._sleep = sleep
        self._asked: deque[tuple[RequestRecord, int]] = deque()
        self._background = Background(self, connector, clock, on_failure)
        now = clock.now()
        self.streams = [
            StreamState(facts=facts, every_s=poll_s.get(facts.name, facts.poll_s), due_at=now)
            for facts in connector.manifest.streams
        ]

    def poll_now(self, stream: str | None) -> None:
        """Makes a stream (or all) due, paused ones included."""
        for state in self.streams:
            if stream in (None, "", state.facts.name):
                state.due_at, state.paused, state.failures = self._clock.now(), None, 0
                self._background.at_once(state.facts.name)

    def ask(self, request: RequestRecord, offset: int) -> None:
        """Takes a request, which is acted on between two polls; those of an offset known to be done are passed over."""
        self._asked.append((request, offset))

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await self.take_requests()
            for state in self.streams:
                if state.paused is None and state.due_at <= self._clock.now():
                    await self.turn(state)
            if self._seen.held:
                await self._guarded(None, self.judge_held())
            await self._background.step()
            await asyncio.sleep(TICK_S)

    async def turn(self, state: StreamState) -> None:
        """One poll of one stream, and when the next is due."""
        started = self._clock.now()
        ended_well = await self._guarded(state, self.poll(state.facts))
        if ended_well:
            if state.failures:
                log.info("stream reads again", extra={"connection": self.connection, "stream": state.facts.name})
            state.failures = 0
            state.due_at = max(self._clock.now(), started + timedelta(seconds=state.every_s))
            self._on_turn(self.connection, state.facts.name, (self._clock.now() - started).total_seconds())

    async def step(self) -> bool:
        """One page of what goes on between the polls; False when there is nothing to do."""
        return await self._background.step()

    async def take_requests(self) -> None:
        """Acts on what was asked since. A resync is on its stream's cursor before anything newer is looked at."""
        while self._asked:
            request, offset = self._asked[0]
            if offset > self._done_up_to():
                if request.kind is RequestKind.POLL_NOW:
                    self.poll_now(request.args.get("stream"))
                elif request.kind is RequestKind.RESYNC:
                    await self._accept(request, offset)
            self._asked.popleft()

    def _done_up_to(self) -> int:
        """Offset of the last request that left a trace; none is below 0."""
        done = self._cursors.get(topics.REQUESTS_CURSOR)
        return done.pages - 1 if done is not None else -1

    async def _accept(self, request: RequestRecord, offset: int) -> None:
        """A resync onto the cursors of its streams; a request nobody can carry out is passed over, with a word."""
        changed: list[CursorRecord] = []
        try:
            for name, job in accepted(request, [state.facts for state in self.streams], self._clock.now()).items():
                cursor = self.cursor(name)
                jobs = jobs_of(cursor)
                if len(jobs) >= JOBS_MAX:
                    raise ResyncRefused(f"{len(jobs)} of them wait already")
                changed.append(with_jobs(cursor, [*jobs, job]))
        except ResyncRefused as refusal:
            log.warning("not read again: %s", refusal, extra={"connection": self.connection, "request": request.id})
            changed = []
        log.info("to be read again", extra={"connection": self.connection, "streams": [cursor.stream for cursor in changed]})
        done = CursorRecord(connection=self.connection, stream=topics.REQUESTS_CURSOR, pages=offset + 1)
        await self.put_cursors([*changed, done])

    def is_paused(self, stream: str) -> bool:
        """Whether a stream stands still."""
        return any(state.facts.name == stream and state.paused is not None for state in self.streams)

    def backfilled(self, entities: Sequence[str]) -> list[Outgoing]:
        """The word that all objects of these entities are known."""
        return self._builder.backfilled(entities)

    def deletes_refused(self, stream: str) -> int:
        """Objects that are missing at the vendor and wait for a person's word."""
        return self.cursor(stream).deletes_refused

    def held(self) -> int:
        """Objects whose echo cannot be judged yet."""
        return len(self._seen.held)

    def deletes_are_proven(self, stream: str) -> bool:
        """Whether every delete at the vendor is known to be told."""
        cursor = self._cursors.get(stream)
        return cursor is None or cursor.deletes_unproven_since is None

    def age_s(self, stream: str) -> float | None:
        """Seconds since the last good poll of a stream; None before the first."""
        cursor = self._cursors.get(stream)
        return (self._clock.now() - cursor.polled_at).total_seconds() if cursor is not None and cursor.polled_at else None

    async def _guarded(self, state: StreamState | None, work: Awaitable[None]) -> bool:
        """Runs a poll; its failures concern this stream (or, for credentials, this connection) only."""
        try:
            await work
        except TransientError as error:
            self._failed(state, error, error.retry_after_s)
        except CredentialError as error:
            kind = "a person must log in" if isinstance(error, AccessRevoked) else "the token is not taken"
            log.error("connection paused: %s", kind, extra={"connection": self.connection})
            self._failed(state, error, CREDENTIAL_RETRY_S)
        except StreamError as error:
            self._failed(state, error, None)
            if state is not None and (state.failures >= FAILURES_MAX or isinstance(error, PageUnmappable)):
                await self.stop(state.facts.name, error)
        else:
            return True
        return False

    async def stop(self, stream: str, error: Exception) -> None:
        """A stream stands still, and says why, until it is polled by hand or the process starts anew."""
        for state in self.streams:
            if state.facts.name == stream:
                state.paused = f"{type(error).__name__}: {error}"
        log.error("stream stopped: %s", error, extra={"connection": self.connection, "stream": stream})
        with contextlib.suppress(TransientError):
            await self.put_cursors([msgspec.structs.replace(self.cursor(stream), paused=f"{type(error).__name__}: {error}")])

    def _failed(self, state: StreamState | None, error: Exception, retry_after_s: float | None) -> None:
        self._on_failure(self.connection, state.facts.name if state else "held", type(error).__name__)
        if state is None:
            return
        state.failures += 1
        if state.failures == 1:
            log.warning(
                "poll failed: %s: %s",
                type(error).__name__,
                error,
                extra={"connection": self.connection, "stream": state.facts.name},
            )
        delay = retry_after_s if retry_after_s is not None else wait_s(state.failures)
        state.due_at = self._clock.now() + timedelta(seconds=delay)

    # --- one poll ------------------------------------------------------------------------------------------------------------

    async def poll(self, stream: Stream) -> None:
        """Reads a stream from its cursor to what is there now, page by page."""
        cursor = self.cursor(stream.name)
        priority.set(CHANGES if cursor.backfilled else BACKFILL)
        position = msgspec.json.decode(cursor.position) if cursor.position is not None else None
        is_remapped = False
        if position is None and self._seen.knows_any(stream.entities):
            cursor = self._unproven(cursor)  # the cursor was removed: it reads everything again
        elif position is not None and cursor.backfilled and cursor.mapping_version != self._connector.manifest.mapping_version:
            log.info("mapping changed: reading everything again", extra={"connection": self.connection, "stream": stream.name})
            is_remapped = True
        try:
            await self._pages(stream, cursor, position, ends_remapping=not is_remapped)
        except CursorInvalid as error:
            log.warning("full read: %s", error, extra={"connection": self.connection, "stream": stream.name})
            await self._pages(stream, self._unproven(cursor), None)
        else:
            if is_remapped:  # behind the changes: a full read knows no deletes
                await self._pages(stream, self._cursors[stream.name], None)

    def _unproven(self, cursor: CursorRecord) -> CursorRecord:
        """Nobody can say what was deleted before now; the first such time counts."""
        return msgspec.structs.replace(cursor, deletes_unproven_since=cursor.deletes_unproven_since or self._clock.now())

    async def _pages(self, stream: Stream, cursor: CursorRecord, position: Any, *, ends_remapping: bool = True) -> None:
        snapshot = not cursor.backfilled
        pages = 0
        began_at = asked_at = self._clock.now()
        async for page in self._connector.read(stream.name, position):
            pages += 1
            cursor = self._moved(self._unproven(cursor) if page.deletes_unproven else cursor, page, pages, ends_remapping)
            ended = self._builder.backfilled(stream.entities) if cursor.backfilled and not self._is_backfilled(stream) else []
            cursor = await self.publish(stream, page, cursor, asked_at=asked_at, snapshot=snapshot, ended=ended)
            await self.compare_page(stream, page, began_at)
            cursor = self.cursor(stream.name)
            asked_at = self._clock.now()

    def _is_backfilled(self, stream: Stream) -> bool:
        return self.cursor(stream.name).backfilled

    def _moved(self, cursor: CursorRecord, page: Page, pages: int, ends_remapping: bool) -> CursorRecord:
        now = self._clock.now()
        has_all = not page.more and ends_remapping
        return msgspec.structs.replace(
            cursor,
            position=msgspec.json.encode(page.position),
            backfilled=cursor.backfilled or not page.more,
            mapping_version=self._connector.manifest.mapping_version if has_all else cursor.mapping_version,
            polled_at=cursor.polled_at if page.more else now,
            pages=pages,
            paused=None,
        )

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
        ended: Iterable[Outgoing] = (),
    ) -> CursorRecord:
        """Steps: 1 drop what has the known bytes (not with `force`); 2 join the rest whole; 3 if there is any, read the state to
        its end now; 4 map, hash, judge, seal, encode; 5 refuse a page most of which cannot be mapped; 6 commit events, the
        pictures they name, knowledge and cursor in one transaction; 7 apply to memory.

        A page with more pictures than one transaction takes goes in several, each with its own events, and the cursor with the
        last: a crash between them reads the page again and finds the first ones known. `ended`: what is said behind it all.
        """
        # 1
        unknown = self._builder.unknown(page, force=force)
        # 2
        completed = await self._complete(unknown)
        # 3
        if unknown:
            await self._settled_state(unknown)
        # 4
        *ahead, last = parts(unknown, completed)
        batches = [await self._built(len(part), part, asked_at, snapshot, renewed_at) for part in ahead]
        count = len(page.records) - sum(map(len, ahead))
        batches.append(await self._built(count, last, asked_at, snapshot, renewed_at))
        # 5
        self._brake(len(unknown), batches)
        # 6, 7
        for batch in batches[:-1]:
            await self._commit(batch.outgoing)
            self._builder.committed(batch)
        batches[-1].outgoing += ended
        here = served(cursor, ((record.entity, record.id) for record in page.records if not record.deleted))
        cursor = await self.commit(batches[-1], here)
        counts = Counts()
        for batch in batches:
            counts.add(batch.counts)
        self._on_poll(self.connection, stream.name, counts)
        return cursor

    async def _built(
        self,
        count: int,
        part: Sequence[Joined],
        asked_at: datetime,
        snapshot: bool,
        renewed_at: datetime | None,
        *,
        is_list: bool = True,
    ) -> Batch:
        records, wholes = [record for record, _ in part], [whole for _, whole in part]
        return await self._builder.build(
            count, records, wholes, asked_at=asked_at, snapshot=snapshot, renewed_at=renewed_at, is_list=is_list
        )

    def _brake(self, records: int, batches: Sequence[Batch]) -> None:
        """One bad record is its own affair, a page of them is not: an answer that changed would end thousands (law 10)."""
        dead = sum(batch.counts.dead for batch in batches)
        if records >= UNMAPPABLE_MIN and 2 * dead > records:
            why = next((batch.why for batch in batches if batch.why), "")
            raise PageUnmappable(f"{dead} of {records} records of a page cannot be mapped; the first: {why}")

    async def commit(self, batch: Batch, cursor: CursorRecord) -> CursorRecord:
        """A batch and the cursor behind it in one transaction, with what is known then; returns the cursor as committed."""
        counted = self._counted(cursor, batch)
        batch.outgoing.append(self._record(counted))
        await self._commit(batch.outgoing)
        self._builder.committed(batch)
        self._cursors[counted.stream] = counted
        return counted

    async def put_cursors(self, cursors: Sequence[CursorRecord]) -> None:
        """Cursors that moved without a page."""
        counted = [self._counted(cursor) for cursor in cursors]
        await self._commit([self._record(cursor) for cursor in counted])
        self._cursors.update((cursor.stream, cursor) for cursor in counted)

    def cursor(self, stream: str) -> CursorRecord:
        """Where a stream stands, as committed."""
        return self._cursors.get(stream) or CursorRecord(connection=self.connection, stream=stream)

    def _counted(self, cursor: CursorRecord, batch: Batch | None = None) -> CursorRecord:
        now = self._clock.now()
        return msgspec.structs.replace(
            cursor,
            known=self._seen.known_after(batch.seen if batch is not None else ()),
            known_at=now,
            budgets=dict(self._usage()),
            budget_day=now.date(),
        )

    async def _settled_state(self, records: Sequence[RawRecord]) -> None:
        """The state as of now; where writes of the page's own objects are under way, of a moment later.

        Most end by then, and what is judged with its page is not read once more by itself.
        """
        await self._refresh_state()
        for _ in range(HOLD_LOOKS_MAX):
            if not any(self._holds(record.entity, record.id) for record in records):
                return
            await self._sleep(HOLD_LOOK_S)
            await self._refresh_state()

    async def _complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        """Whole objects; rows older than the one known are asked for themselves."""
        if not records:
            return []
        fresh: list[RawRecord] = []
        for record in records:
            if is_stale(record, self._seen.get(record.entity, record.id)) and not record.deleted:
                fresh.append(await self._connector.fetch(record.entity, record.id) or record)
            else:
                fresh.append(record)
        return await self._connector.complete(fresh)

    def _record(self, cursor: CursorRecord) -> Outgoing:
        return Outgoing(
            topic=topics.CURSORS,
            partition=self._slot,
            key=topics.key(self.connection, cursor.stream),
            value=self._codec.encode(topics.CURSORS, cursor),
        )

    # --- held ----------------------------------------------------------------------------------------------------------------

    async def judge_held(self) -> None:
        """Judges objects whose intent has closed, from a fresh read of each: some of them now, others with the next look."""
        await self._refresh_state()
        free = sorted(key for key in self._seen.held if not self._holds(*key))[:HELD_MAX]
        if not free:
            return
        priority.set(CHANGES)
        asked_at = self._clock.now()
        found = await self.fetched(free)
        gone = [RawRecord(entity=entity, id=source_id, raw=b"", deleted=True) for entity, source_id in free]
        await self.publish_whole([(record, whole or lost) for (record, whole), lost in zip(found, gone, strict=True)], asked_at)

    async def fetched(self, keys: Sequence[tuple[str, str]]) -> list[tuple[RawRecord, RawRecord | Exception | None]]:
        """Single objects as they are now, whole; None where the vendor knows none, an error where one cannot be read."""
        asked = await gather_limited(FETCHES_MAX, *(self._fetched(*key) for key in keys))
        there = [item for item in asked if isinstance(item, RawRecord)]
        wholes = iter(await self._connector.complete(there) if there else [])
        found: list[tuple[RawRecord, RawRecord | Exception | None]] = []
        for (entity, source_id), item in zip(keys, asked, strict=True):
            record = item if isinstance(item, RawRecord) else RawRecord(entity=entity, id=source_id, raw=b"")
            found.append((record, next(wholes) if isinstance(item, RawRecord) else item))
        return found

    async def _fetched(self, entity: str, source_id: str) -> RawRecord | RecordError | None:
        try:
            return await self._connector.fetch(entity, source_id)
        except RecordError as error:
            return error

    async def publish_whole(
        self,
        found: Sequence[Joined],
        asked_at: datetime,
        *,
        cursor: CursorRecord | None = None,
        renewed_at: datetime | None = None,
    ) -> None:
        """Objects that were asked for one by one, with the cursor given or, where their number changed, that of a stream.

        They are judged by a state that is read after they were: a write of ours may have gone between.
        """
        await self._refresh_state()
        *ahead, last = parts([record for record, _ in found], [whole for _, whole in found])
        for part in ahead:
            batch = await self._built(len(part), part, asked_at, False, renewed_at, is_list=False)
            await self._commit(batch.outgoing)
            self._builder.committed(batch)
        batch = await self._built(len(last), last, asked_at, False, renewed_at, is_list=False)
        if cursor is None and self._seen.known_after(batch.seen) == self.cursor(stream := self._stream_of(found)).known:
            await self._commit(batch.outgoing)
            self._builder.committed(batch)
            return
        await self.commit(batch, cursor or self.cursor(stream))

    def _stream_of(self, found: Sequence[Joined]) -> str:
        """A stream that gives the first of some objects: every cursor counts them all."""
        entity = found[0][0].entity
        return next(state.facts.name for state in self.streams if entity in state.facts.entities)

    # --- deletes -------------------------------------------------------------------------------------------------------------

    async def compare_page(self, stream: Stream, page: Page, began_at: datetime) -> None:
        """A read that named all there is is a comparison as well."""
        if page.complete_ids is None:
            return
        here: dict[str, Ids] = {}
        for entity, ids in page.complete_ids.items():
            here[entity] = Ids()
            here[entity].add(ids)
        await self.compare(stream, here, began_at)

    async def compare(self, stream: Stream, here: Mapping[str, Ids], began_at: datetime, *, confirmed: bool = False) -> bool:
        """Ends a complete comparison of ids: tells what it proves deleted, and remembers the rest (law 15). False where the
        vendor named nothing of an entity that is known."""
        await self._refresh_state()
        silent = [entity for entity, ids in here.items() if not ids and self._seen.living[entity] and not confirmed]
        for entity in silent:
            log.warning("no %s was named: that proves nothing", entity, extra=self._place(stream))
        missing = [item for entity, ids in here.items() if entity not in silent for item in await self._missing(entity, ids)]
        found = Comparison(
            began_at=began_at,
            ended_at=self._clock.now(),
            missing=missing,
            living=living_of(self._seen.living, here),
            silent=silent,
        )
        cursor = self.cursor(stream.name)
        ruling = rule(cursor, found, confirmed=confirmed)
        if ruling.refused:
            log.error(
                "%d objects are missing at the vendor: too many to be taken for deleted; look, then bus resync --confirm-deletes",
                ruling.refused,
                extra=self._place(stream),
            )
        await self._tell_deletes(ruling.deletes, began_at)
        after = ruled(self.cursor(stream.name), found, ruling)
        if stream.kind == "full" and not missing and after == msgspec.structs.replace(cursor, scanned_at=after.scanned_at):
            return True  # with every poll: nothing to remember
        await self.put_cursors([after])
        return not silent

    async def _missing(self, entity: str, ids: Ids) -> list[Missing]:
        """Known objects of an entity that are not among some ids."""
        missing = []
        for number, source_id in enumerate(self._seen.ids(entity)):
            if number % ALOUD_EVERY == 0:
                await asyncio.sleep(0)
            if source_id in ids:
                continue
            seen = self._seen.get(entity, source_id)
            if seen is not None and seen.content_hash and not seen.deleted:
                held = seen.held or self._holds(entity, source_id)
                missing.append(Missing(entity=entity, id=source_id, seq=seen.seq, held=held))
        return missing

    async def _tell_deletes(self, deletes: Sequence[Missing], asked_at: datetime) -> None:
        """Before the cursor forgets that they are absent: after a crash between, what was told is known to be gone."""
        for start in range(0, len(deletes), DELETES_MAX):
            some = deletes[start : start + DELETES_MAX]
            records = [RawRecord(entity=item.entity, id=item.id, raw=b"", deleted=True) for item in some]
            await self.publish_whole([(record, record) for record in records], asked_at)

    def _place(self, stream: Stream) -> dict[str, str]:
        return {"connection": self.connection, "stream": stream.name}


def holds(state: Any, seen: Seen) -> Callable[[str, str], bool]:
    """Whether an object must still be held, by the state as last read."""
    return lambda entity, source_id: is_held(state, _known(seen, entity, source_id), entity, source_id)


def _known(seen: Seen, entity: str, source_id: str) -> Any:
    record = seen.get(entity, source_id)
    return record if record is not None and record.content_hash else None
