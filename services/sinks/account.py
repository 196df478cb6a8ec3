"""One account: takes its commands, keeps each object in order, parks what must wait, settles the rest.

Commands of one object run one after another in their lane; objects run side by side. Waiting is per object: what cannot go on
is parked in `bus.state` with its command and its next attempt, and its lane is free again (law 10).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from bus.core import topics
from bus.core.clock import CLOCKS_APART, Clock
from bus.core.errors import (
    BusError,
    MissingDependency,
    RecordError,
    TransientError,
    WriteConflict,
)
from bus.core.policy import decode_policy
from bus.kit.budget import priority
from bus.kit.client import tallied
from bus.runtime import metrics
from bus.runtime.codec import Codec
from bus.runtime.slotwork import OwnershipLost
from bus.runtime.state import AccountState, backfill_key, brake_key, budget_key, link_key, object_key
from bus.runtime.watchdog import span
from schemas.system import (
    BackfillRecord,
    BrakeRecord,
    BudgetRecord,
    Cause,
    Command,
    CommandKind,
    DeadLetter,
    LinkedBy,
    LinkState,
    ObjectRef,
    Outcome,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.sinks.brake import Brakes, Passage
from services.sinks.carrying import Carrier
from services.sinks.ledger import Change, Entry, Ledger
from services.sinks.locks import KeyLocks
from services.sinks.patience import Blame, next_wait_s, parking_of
from services.sinks.room import Room, rank_of
from services.sinks.settlement import (
    Settlement,
    bare,
    dead_letter,
    held_back,
    is_new_letter,
    is_stale,
    link_changes,
    refused,
    result_record,
    said_by,
    standing_change,
    unwritable,
    waited_since,
)
from services.sinks.waiting import Waiting, is_held

log = logging.getLogger(__name__)

COMMAND_LIMIT_S = 3_600.0
"""Every call and every wait for a budget ends long before; what lasts so long waits for something that will not come."""
CONFLICT_TRIES_MAX = 3
PARALLEL_OBJECTS_MAX = 32
"""Objects under way at one time, which share transactions; the vendor's own bound on calls side by side is the client's. With 8 a
target without delay gets 200 creates/s and with 64 it gets 520, but each single write then ends later (a change at 20/s: 2.0 s
and 4.0 s), and more objects are still open when a poll meets them."""

TICK_S = 0.1
"""Between two looks at what is due."""

Lane = tuple[str, ...]


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """A command as it came from the outbound topic; `offset` is None for a retry of a parked one."""

    raw: bytes
    offset: int | None


class AccountSink:
    """The sink of one account."""

    def __init__(
        self,
        *,
        connection: str,
        state: AccountState,
        ledger: Ledger,
        carrier: Carrier,
        codec: Codec,
        clock: Clock,
        locks: KeyLocks,
        on_outcome: Callable[[str, str, Outcome], None],
        used_today: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.connection = connection
        self.state = state
        self._ledger = ledger
        self._carrier = carrier
        self._codec = codec
        self._clock = clock
        self._locks = locks
        self._on_outcome = on_outcome
        self._used_today = used_today
        self._lanes: dict[Lane, deque[Delivered]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = Room(PARALLEL_OBJECTS_MAX)
        self._is_draining = False
        self._failed: BaseException | None = None
        self.brakes = Brakes(state.brakes)
        self._waiting = Waiting(state, clock, self.brakes, self._retry)

    # --- intake ------------------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Takes up what an earlier owner left parked."""
        for record in self.brakes.records():
            if record.open:
                metrics.put("bus_brake_open", 1, connection=self.connection, flow=record.flow)
        self._waiting.restore()

    def backlog(self) -> int:
        """Commands taken and not yet settled."""
        return len(self._ledger.offsets(self.state))

    def deliver(self, message: Delivered) -> None:
        """Takes a command in offset order."""
        assert message.offset is not None
        if self._is_draining:
            return
        self._ledger.offsets(self.state).taken(message.offset)
        self._enqueue(message)

    def _enqueue(self, message: Delivered) -> None:
        lane = self._lane(message)
        if lane in self._lanes:
            self._lanes[lane].append(message)
            return
        self._lanes[lane] = deque([message])
        task = asyncio.get_running_loop().create_task(self._run_lane(lane), name="|".join(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lane(self, message: Delivered) -> Lane:
        """Commands of one target object share a lane, whatever their flow."""
        try:
            command: Command = self._codec.decode(topics.outbound(self.connection), message.raw)
        except BusError:
            return ("unreadable",)
        if command.kind is CommandKind.WRITE and command.source and command.target_entity:
            return ("write", command.target_entity, command.source.connection, command.source.entity, command.source.id)
        return ("account",)  # links, observations and the end of the back-fill keep their order

    async def _run_lane(self, lane: Lane) -> None:
        queue = self._lanes[lane]
        try:
            while queue and not self._is_draining:
                await self._one(queue[0])
                queue.popleft()
        except OwnershipLost:
            pass  # the owner takes over anew; nothing in memory counts any more
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failed = error
            log.exception("lane failed", extra={"connection": self.connection})
        finally:
            del self._lanes[lane]

    async def run(self) -> None:
        """Releases what is due until cancelled. Raises what broke a lane."""
        try:
            while True:
                if self._failed is not None:
                    raise self._failed
                self._release_due()
                await asyncio.sleep(TICK_S)
        finally:
            for record in self.brakes.records():  # the next owner tells of them
                metrics.put("bus_brake_open", 0, connection=self.connection, flow=record.flow)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Begins nothing more and returns when what is under way has ended and is committed. The caller bounds the time."""
        self._is_draining = True
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _release_due(self) -> None:
        if not self._is_draining:
            self._waiting.release_due()

    # --- one command ---------------------------------------------------------------------------------------------------------

    async def _one(self, message: Delivered) -> None:
        try:
            command: Command = self._codec.decode(topics.outbound(self.connection), message.raw)
        except RecordError as error:
            await self._unreadable(message, error)
            return
        match command.kind:
            case CommandKind.WRITE:
                await self._write(command, message)
            case CommandKind.OBSERVE:
                await self._observe(command, message)
            case CommandKind.LINK:
                await self._link(command, message)
            case CommandKind.BACKFILLED:
                await self._backfilled(command, message)
            case _:
                await self._unreadable(message, RecordError(f"unknown command kind {command.kind}", cause=Cause.UNKNOWN_VALUE))

    async def _write(self, command: Command, message: Delivered) -> None:
        assert command.flow and command.source
        before = self.state.standing(command.flow, command.source)
        retry = message.offset is None
        if not retry and is_stale(command, before):
            self._on_outcome(command.flow, self.connection, Outcome.STALE)
            await self._ledger.commit(Entry(state=self.state, settles=message.offset))
            return
        try:
            if not retry or (before is not None and before.command == message.raw):  # else a newer version took its place
                await self._attempt(command, message, before)
        finally:
            self._waiting.ended(command.flow, command.source)

    async def _attempt(self, command: Command, message: Delivered, before: StandingRecord | None) -> None:
        """Carries a command out, or parks it where a brake is open."""
        assert command.flow and command.source
        news = self._waiting.news
        lock = f"object|{command.target_entity}|{command.source.connection}|{command.source.id}"
        rank = rank_of(command.target_entity)
        async with self._room.hold(rank), self._locks.hold([lock]):
            if self._is_draining:
                return  # nothing of it has begun: the next owner takes it up
            passage = self.brakes.enter(command.flow, self._clock.now())
            if passage.held_by is None:
                priority.set(rank)
                with tallied() as tally:
                    end = await self._carry_out(command, message.raw, before)
                end.calls = tally.calls
                end = self._judged(command, end, passage)
            else:
                reason = passage.held_by.record.reason or ""
                end = self._carrier.settled_before(command) or held_back(passage.held_by.cause, reason)
        if not end.tried and message.offset is None and before is not None and is_held(before) and before.cause == end.cause:
            self._waiting.remember(before)  # as it stands already
            return
        before = self.state.standing(command.flow, command.source)  # the end of an older write may have changed it
        if end.applied is None:
            end.applied = self._carrier.brought(command, message.raw)
        await self._settle(command, message, before, end)
        if end.standing is Standing.WAITING and self._waiting.news != news and any(map(self._waiting.is_there, end.missing)):
            self._retry(command.flow, command.source)  # what it waits for came while it was being parked

    def _judged(self, command: Command, end: Settlement, passage: Passage) -> Settlement:
        """The end, unless a brake opened meanwhile: then what was refused, and nothing made, is parked like the rest."""
        assert command.flow and command.source
        stood = {record.flow: record.open for record in self.brakes.records()}
        held_by = self.brakes.judge(command.flow, command.source, said_by(command, end), passage, self._clock.now())
        for record in self.brakes.records():
            if record.open != stood.get(record.flow, False):
                self.tell_brake(record)
        if held_by is None or end.changes or end.external_id:
            return end
        if held_by is self.brakes.account:
            return msgspec.structs.replace(end, retry_after_s=None)
        return msgspec.structs.replace(held_back(held_by.cause, end.detail or ""), tried=True, calls=end.calls)

    def tell_brake(self, record: BrakeRecord) -> None:
        """Says once that writes stand still, and that they go on."""
        metrics.put("bus_brake_open", record.open, connection=self.connection, flow=record.flow)
        facts = {"connection": self.connection, "flow": record.flow or None, "reason": record.reason}
        if record.open:
            log.error("the brake is open: writes stand still", extra={**facts, "alert": True})
        else:
            log.info("the brake is closed: writes go on", extra=facts)

    async def _carry_out(self, command: Command, raw: bytes, before: StandingRecord | None) -> Settlement:
        """Every way a record's own step can end, as a settlement; nothing of it may stop the others."""
        try:
            for attempt in range(CONFLICT_TRIES_MAX):
                try:
                    with span(f"a command for {self.connection}", COMMAND_LIMIT_S):
                        return await self._carrier.carry_out(command, raw)
                except WriteConflict:
                    if attempt + 1 == CONFLICT_TRIES_MAX:
                        raise
        except (OwnershipLost, asyncio.CancelledError):
            raise
        except MissingDependency as missing:
            return self._waits(command, missing, before)
        except Exception as error:
            if (parking := parking_of(error)) is not None:
                return self._parks(error, *parking, before)
            if isinstance(error, RecordError):
                return refused(error)
            log.exception("a bug stopped one record", extra={"connection": self.connection, "flow": command.flow, "cause": "BUG"})
            return self._parks(RecordError(f"{type(error).__name__}: see the log"), Cause.BUG, "record", before)
        raise AssertionError("unreachable")

    def _parks(self, error: Exception, cause: Cause, failed: Blame, before: StandingRecord | None) -> Settlement:
        """Waits as the cause deserves, or is dead when patience is over."""
        attempts = before.attempts if before is not None and before.standing is Standing.PARKED and before.cause is cause else 0
        asked_s = error.retry_after_s if isinstance(error, TransientError) else None
        wait_s = next_wait_s(cause, attempts + 1, asked_s)
        if wait_s is None:
            return refused(RecordError(str(error), cause=cause))
        return Settlement(
            standing=Standing.PARKED,
            outcome=Outcome.PARKED,
            cause=cause,
            detail=str(error),
            retry_after_s=wait_s,
            asked_s=asked_s,
            failed=failed,
        )

    def _waits(self, command: Command, missing: MissingDependency, before: StandingRecord | None) -> Settlement:
        """Waits for what it names, until its patience (from the first parking) ends."""
        policy = decode_policy(command.policy or b"{}")
        patience = timedelta(seconds=max(policy.product.patience_s, policy.customer.patience_s))
        end = Settlement(
            standing=Standing.WAITING,
            outcome=Outcome.PARKED,
            cause=missing.cause,
            detail=str(missing),
            hint=missing.hint,
            missing=missing.missing,
            retry_after_s=next_wait_s(missing.cause, (before.attempts if before else 0) + 1),
        )
        now = self._clock.now()
        since = waited_since(end, before, now) if before is not None and before.seq == command.seq else now
        is_over = missing.cause is not Cause.BACKFILL_INCOMPLETE and now - since >= patience
        return refused(missing) if is_over else end

    async def _settle(self, command: Command, message: Delivered, before: StandingRecord | None, end: Settlement) -> None:
        """Outcome, link, object, standing, result, dead letter and offset in one transaction (law 5)."""
        try:
            standing = await self._written_down(command, message, before, end)
        except OwnershipLost:
            raise
        except Exception as error:  # nothing was handed over: what cannot be written down must not stop every owner in turn
            log.exception("an outcome cannot be written down", extra={"connection": self.connection, "flow": command.flow})
            end = refused(unwritable(error))
            standing = await self._written_down(bare(command), message, before, end)
        assert command.flow
        self._on_outcome(command.flow, self.connection, end.outcome)
        if end.outcome in (Outcome.CREATED, Outcome.UPDATED):
            took_s = (self._clock.now() - command.made_at).total_seconds()
            metrics.observe("bus_write_seconds", took_s, connection=self.connection, entity=command.target_entity or "")
        self._waiting.remember(standing)
        if end.external_id and end.outcome in (Outcome.CREATED, Outcome.LINKED, Outcome.UPDATED):
            assert command.source
            self._waiting.released_by(command.target_entity or "", end.external_id)
            self._waiting.release(f"{command.target_entity}|source:{command.source.connection}:{command.source.id}")

    async def _written_down(
        self, command: Command, message: Delivered, before: StandingRecord | None, end: Settlement
    ) -> StandingRecord:
        """The standing, once it is durable with all that goes with it."""
        now = self._clock.now()
        retry_at = now + timedelta(seconds=end.retry_after_s) if end.retry_after_s is not None else None
        key, record = standing_change(self.connection, command, message.raw, end, before, now, retry_at)
        outgoing = [*end.outgoing, result_record(self.connection, command, end, now)]
        is_told = is_new_letter(command, end, before)
        if is_told:
            outgoing.append(dead_letter(self.connection, command, end, now))
        changes = [*end.changes, (key, record), *self.brake_changes(), *self._spent(now)]
        await self._ledger.commit(Entry(state=self.state, changes=changes, outgoing=outgoing, settles=message.offset))
        if end.conflicts:
            metrics.count("bus_conflicts_total", len(end.conflicts), connection=self.connection, flow=command.flow or "")
        if is_told and end.stage == "sink":  # the processors count their own
            cause = str(end.cause or Cause.UNKNOWN)
            metrics.count("bus_dead_letters_total", stage=end.stage, connection=self.connection, cause=cause)
        assert record is not None and record.standing is not None
        return record.standing

    def brake_changes(self) -> list[Change]:
        """Brakes that do not stand as the state has it."""
        return [
            (brake_key(self.connection, record.flow), StateRecord(connection=self.connection, brake=record))
            for record in self.brakes.records()
            if self.state.brakes.get(record.flow, BrakeRecord(flow=record.flow, open=False)) != record
        ]

    def _spent(self, now: datetime) -> list[Change]:
        """What the day's limits have been used, where it changed: the next owner goes on from there (law 13)."""
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        records = [BudgetRecord(limit=limit, window_start=day, used=used) for limit, used in self._used_today().items()]
        return [
            (budget_key(self.connection, record.limit), StateRecord(connection=self.connection, budget=record))
            for record in records
            if self.state.budgets.get(record.limit) != record
        ]

    async def _unreadable(self, message: Delivered, error: BusError) -> None:
        """A command nobody can read keeps its bytes as a dead letter."""
        letter = DeadLetter(
            stage="sink",
            cause=getattr(error, "cause", Cause.MAPPING_ERROR),
            detail=str(error),
            hint="the bytes are kept; this is a bug of whoever wrote the command",
            connection=self.connection,
            original=message.raw,
            made_at=self._clock.now(),
        )
        key = topics.event_key(self.connection, "command", str(message.offset))
        await self._ledger.commit(
            Entry(state=self.state, outgoing=[(topics.DEAD_LETTERS, None, key, letter)], settles=message.offset)
        )

    # --- what the account's own poller and the peers say -----------------------------------------------------------------------

    async def _observe(self, command: Command, message: Delivered) -> None:
        """An object of this account as the poller saw it: what can be matched, and what waits for it."""
        assert command.source and command.observed
        entity, external_id = command.source.entity, command.source.id
        seen, key = command.observed, object_key(self.connection, entity, external_id)
        await self._ledger.settled(self.state, key)  # a write of ours may be on its way
        old = self.state.object(entity, external_id)
        ours = old is not None and old.by_bus and old.written_at is not None
        if ours and old and old.written_at and command.made_at <= old.written_at + CLOCKS_APART:
            # It may be older than our write, and only what it can be found by is taken over: the next observation tells more.
            seen = msgspec.structs.replace(old, match_keys=seen.match_keys, active=seen.active)
        change: Change = (key, StateRecord(connection=self.connection, object=seen))
        await self._ledger.commit(Entry(state=self.state, changes=[change], settles=message.offset))
        self._carrier.forget(external_id)
        self._waiting.released_by(entity, external_id)

    async def _link(self, command: Command, message: Delivered) -> None:
        """A peer joined one of its objects with one of ours: accepted, or marked CONFLICT where we know otherwise."""
        assert command.source and command.target_entity and command.target_id
        entity, source, external_id = command.target_entity, command.source, command.target_id
        facet = self._carrier.facet(entity, command.currency)
        await self._ledger.settled(self.state, link_key(self.connection, entity, source, facet))  # it may just be made here
        known = self.state.link(entity, source, facet)
        if known is not None and known.external_id == external_id:
            await self._ledger.commit(Entry(state=self.state, settles=message.offset))
            return
        key, record = link_changes(self.connection, entity, source, facet, external_id, None, LinkedBy.PEER)
        if known is not None and known.state is LinkState.ACTIVE:
            assert record is not None and record.link is not None
            conflict = msgspec.structs.replace(known, state=LinkState.CONFLICT)
            record = StateRecord(connection=self.connection, link=conflict)
            key = link_key(self.connection, entity, source, facet)
            log.warning("two accounts link one pair differently", extra={"connection": self.connection, "entity": entity})
        await self._ledger.commit(Entry(state=self.state, changes=[(key, record)], settles=message.offset))
        self._waiting.released_by(entity, external_id)

    async def _backfilled(self, command: Command, message: Delivered) -> None:
        """All objects of an entity are known: creates may begin."""
        entity = command.target_entity or ""
        record = StateRecord(connection=self.connection, backfill=BackfillRecord(entity=entity, complete=True))
        await self._ledger.commit(
            Entry(state=self.state, changes=[(backfill_key(self.connection, entity), record)], settles=message.offset)
        )
        self._waiting.release(f"backfill|{entity}")

    # --- waiting -------------------------------------------------------------------------------------------------------------

    def try_again(self, standing: StandingRecord) -> None:
        """Tries what stands parked now; an open brake still holds it."""
        self._retry(standing.flow, standing.source)

    def _retry(self, flow: str, source: ObjectRef) -> bool:
        """Tries what is parked again; False when nothing waits there."""
        standing = self.state.standing(flow, source)
        if standing is None or standing.command is None or standing.standing not in (Standing.PARKED, Standing.WAITING):
            return False
        self._enqueue(Delivered(raw=standing.command, offset=None))
        return True
