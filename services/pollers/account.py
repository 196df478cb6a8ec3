"""One account: polls its streams when they are due, judges what was held, keeps its cursors.

One reader per account: streams take turns, so that two polls never judge one object at the same time (law 3).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import AccessRevoked, CredentialError, CursorInvalid, StreamError, TransientError
from bus.kit.connector import Connector, Page, RawRecord
from bus.kit.manifest import Stream
from bus.runtime.codec import Codec
from bus.runtime.publisher import Outgoing
from bus.runtime.retry import wait_s
from schemas.system import CursorRecord
from services.pollers.judging import is_held
from services.pollers.pictures import Joined, parts
from services.pollers.publishing import Counts, PageBuilder, Seen, is_stale

log = logging.getLogger(__name__)

TICK_S = 0.2
HOLD_LOOK_S, HOLD_LOOKS_MAX = 0.25, 8
"""A page whose objects are being written waits so long, so often, for the end of those writes; what is still open is held."""
FAILURES_MAX = 5
"""After so many failures in a row that are not the vendor's passing trouble, a stream stands still until it is polled by hand."""
CREDENTIAL_RETRY_S = 30.0

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

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            for state in self.streams:
                if state.paused is None and state.due_at <= self._clock.now():
                    await self.turn(state)
            if self._seen.held:
                await self._guarded(None, self.judge_held())
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
            if state is not None and state.failures >= FAILURES_MAX:
                state.paused = f"{type(error).__name__}: {error}"
                log.error("stream stopped: %s", error, extra={"connection": self.connection, "stream": state.facts.name})
        else:
            return True
        return False

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
        cursor = self._cursors.get(stream.name) or CursorRecord(connection=self.connection, stream=stream.name)
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
        asked_at = self._clock.now()
        async for page in self._connector.read(stream.name, position):
            pages += 1
            cursor = self._moved(self._unproven(cursor) if page.deletes_unproven else cursor, page, pages, ends_remapping)
            await self._publish(stream, page, cursor, asked_at=asked_at, snapshot=snapshot)
            asked_at = self._clock.now()

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
            budgets=dict(self._usage()),
            budget_day=now.date(),
        )

    async def _publish(self, stream: Stream, page: Page, cursor: CursorRecord, *, asked_at: datetime, snapshot: bool) -> None:
        """Steps: 1 drop what has the known bytes; 2 join the rest whole; 3 if there is any, read the state to its end now;
        4 map, hash, judge, seal, encode; 5 commit events, the pictures they name, knowledge and cursor in one transaction;
        6 apply to memory.

        A page with more pictures than one transaction takes goes in several, each with its own events, and the cursor with the
        last: a crash between them reads the page again and finds the first ones known.
        """
        # 1
        unknown = self._builder.unknown(page)
        # 2
        completed = await self._complete(unknown)
        # 3
        if unknown:
            await self._settled_state(unknown)
        *ahead, last = parts(unknown, completed)
        counts = Counts()
        for part in ahead:  # 4, 5, 6 of all but the last
            counts.add(await self._publish_part(part, asked_at=asked_at, snapshot=snapshot))
        # 4
        served = len(page.records) - sum(map(len, ahead))
        batch = await self._builder.build(served, *_columns(last), asked_at=asked_at, snapshot=snapshot)
        before = self._cursors.get(stream.name)
        if not page.more and not (before and before.backfilled):
            batch.outgoing += self._builder.backfilled(stream.entities)
        batch.outgoing.append(self._cursor(stream.name, cursor))
        # 5
        await self._commit(batch.outgoing)
        # 6
        self._builder.committed(batch)
        self._cursors[stream.name] = cursor
        counts.add(batch.counts)
        self._on_poll(self.connection, stream.name, counts)

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

    async def _publish_part(self, part: Sequence[Joined], *, asked_at: datetime, snapshot: bool) -> Counts:
        """Some objects of a page, without moving its cursor."""
        batch = await self._builder.build(len(part), *_columns(part), asked_at=asked_at, snapshot=snapshot)
        await self._commit(batch.outgoing)
        self._builder.committed(batch)
        return batch.counts

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

    def _cursor(self, stream: str, cursor: CursorRecord) -> Outgoing:
        return Outgoing(
            topic=topics.CURSORS,
            partition=self._slot,
            key=topics.key(self.connection, stream),
            value=self._codec.encode(topics.CURSORS, cursor),
        )

    # --- held ----------------------------------------------------------------------------------------------------------------

    async def judge_held(self) -> None:
        """Judges objects whose intent has closed, from a fresh read of each."""
        await self._refresh_state()
        free = [(entity, source_id) for entity, source_id in self._seen.held if not self._holds(entity, source_id)]
        for entity, source_id in free:
            asked_at = self._clock.now()
            record = await self._connector.fetch(entity, source_id)
            if record is None:
                record = RawRecord(entity=entity, id=source_id, raw=b"", deleted=True)
            batch = await self._builder.build(0, [record], [record], asked_at=asked_at, snapshot=False)
            await self._commit(batch.outgoing)
            self._builder.committed(batch)


def _columns(part: Sequence[Joined]) -> tuple[list[RawRecord], list[RawRecord | Exception]]:
    return [record for record, _ in part], [whole for _, whole in part]


def holds(state: Any, seen: Seen) -> Callable[[str, str], bool]:
    """Whether an object must still be held, by the state as last read."""
    return lambda entity, source_id: is_held(state, _known(seen, entity, source_id), entity, source_id)


def _known(seen: Seen, entity: str, source_id: str) -> Any:
    record = seen.get(entity, source_id)
    return record if record is not None and record.content_hash else None
