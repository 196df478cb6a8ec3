"""One write under one intent: intent, call, outcome (laws 5 and 6).

A write is a list of steps. Before each call the intent says which step is open; after it the answer is in the intent; the last
answer is committed together with whatever the write makes true. Whoever finds an open step, after a crash or an unclear end,
resolves it by its idempotency class before anything newer of the object is done.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from bus.core.clock import Clock
from bus.core.errors import (
    AmbiguousWrite,
    CredentialError,
    NetworkFailure,
    RateLimited,
    StreamError,
    TransientError,
    WriteConflict,
    WriteRejected,
)
from bus.core.identity import Hasher, create_key
from bus.core.topics import event_key
from bus.kit.connector import Connector, Step, StepResult, Write
from bus.runtime.state import AccountState, intent_key
from schemas.system import IdempotencyClass, IntentRecord, IntentState, ObjectRef, StateRecord, StepRecord, StepState
from services.sinks.ledger import Change, Entry, Ledger

COMMIT_TIMEOUT_S = 10
GENERATIONS_MAX = 3
_BODY = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class Settle(TransientError):
    """The end of an open step cannot be told yet; `retry_after_s` says when to look again."""


class Incomplete(WriteRejected):
    """The object was made, a later step of its write was refused: it is linked, so that it is not made again."""

    def __init__(self, external_id: str, step: str, refusal: WriteRejected) -> None:
        super().__init__(f"{step}: {refusal}", hint=refusal.hint, code=refusal.code)
        self.external_id = external_id


class Done(msgspec.Struct, kw_only=True):
    """A finished write, and the change that closes its intent (commit it with what the write made true)."""

    external_id: str
    result: StepResult
    results: Mapping[str, StepResult]
    closing: Change
    generation: int
    document: Any
    """What was to be written."""


class Writer:
    """Carries out the writes of one account."""

    def __init__(self, connector: Connector, state: AccountState, ledger: Ledger, clock: Clock, hasher: Hasher) -> None:
        self._connector = connector
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._hasher = hasher

    async def write(self, write: Write, command: bytes) -> Done:
        """Performs a write, resuming at the first open step of an open intent.

        Raises WriteRejected after a recorded definite refusal, AmbiguousWrite when nobody can tell, TransientError (the intent
        stays open when the call may have happened).
        """
        for _ in range(GENERATIONS_MAX):
            try:
                return await self._attempt(write, command)
            except WriteRejected as refusal:
                if not refusal.regenerate:
                    raise
                last = refusal
        raise last

    async def _attempt(self, write: Write, command: bytes) -> Done:
        before = self._state.intent(write.entity, write.source, write.facet)
        generation = before.generation if before else 0
        write = self._keyed(write, generation)
        steps = list(self._connector.plan(write))
        intent = self._new_intent(write, steps, command, generation)
        if before is not None and before.state is IntentState.OPEN:
            intent = _continued(before, intent, write)
        done: dict[str, StepResult] = {}
        for index, step in enumerate(steps):
            record = intent.steps[index]
            if record.state is StepState.DONE:
                done[step.name] = StepResult(external_id=record.external_id or "", detail=record.detail)
                continue
            try:
                if record.state is StepState.OPEN:
                    result, intent = await self._resolve(write, step, index, intent, done)
                else:
                    result, intent = await self._perform(write, step, index, intent, done)
            except WriteRejected as refusal:
                made = next((done[s.name].external_id for s in steps if s.primary and s.name in done), None)
                await self._refused(self._latest(intent), index)
                if made and not write.external_id:
                    raise Incomplete(made, step.name, refusal) from refusal
                raise
            done[step.name] = result
            intent = _with_step(intent, index, state=StepState.DONE, external_id=result.external_id, detail=dict(result.detail))
        return self._finish(write, steps, intent, done)

    async def _perform(
        self, write: Write, step: Step, index: int, intent: IntentRecord, done: Mapping[str, StepResult]
    ) -> tuple[StepResult, IntentRecord]:
        """Steps: 1 the deadline begins; 2 intent committed; 3 still in time; 4 the call. The caller commits its answer."""
        timeout_ms = int(self._connector.manifest.call_timeout_s * 1000)
        # 1
        deadline = self._clock.boot_ms() + COMMIT_TIMEOUT_S * 1000 + 2 * timeout_ms
        intent = _with_step(intent, index, state=StepState.OPEN, key=step.key)
        intent = msgspec.structs.replace(
            intent,
            deadline_boot_ms=deadline,
            boot_id=self._clock.boot_id(),
            opened_at=self._clock.now(),
            searches_empty=0,
            searched_at=None,
        )
        # 2
        await self._ledger.commit(Entry(state=self._state, changes=[self._change(intent)]))
        # 3
        if self._clock.boot_ms() + timeout_ms > deadline:
            await self._unsent(intent, index)
            raise TransientError("the intent's commit took longer than its deadline allows; nothing was sent", retry_after_s=1)
        # 4
        try:
            return await self._connector.perform(write, step, done), intent
        except TransientError as error:
            if isinstance(error, RateLimited) or (isinstance(error, NetworkFailure) and not error.sent):
                await self._unsent(intent, index)
            else:
                await self._ended(intent)
            raise
        except (CredentialError, StreamError):
            await self._unsent(intent, index)  # the vendor turned the call away before it looked at it
            raise
        except WriteConflict:
            await self._unsent(intent, index)  # it did not happen: what is planned next rests on what is read then
            raise

    async def _ended(self, intent: IntentRecord) -> None:
        """Our call is over, its effect unknown: nobody need wait for the deadline any more."""
        over = msgspec.structs.replace(intent, deadline_boot_ms=self._clock.boot_ms())
        await self._ledger.commit(Entry(state=self._state, changes=[self._change(over)]))

    def _latest(self, intent: IntentRecord) -> IntentRecord:
        """The intent as last committed, which knows which step is open."""
        return self._state.intent(intent.entity, intent.source, intent.facet) or intent

    async def _resolve(
        self, write: Write, step: Step, index: int, intent: IntentRecord, done: Mapping[str, StepResult]
    ) -> tuple[StepResult, IntentRecord]:
        """What an open step ended in, by its class (law 6)."""
        over_s = self._over_s(intent)
        if over_s < 0:
            raise Settle(f"{write.entity} {step.name}: an earlier call may still be under way", retry_after_s=-over_s)
        match step.idempotency:
            case IdempotencyClass.KEY | IdempotencyClass.REPEATABLE:
                return await self._perform(write, step, index, intent, done)
            case IdempotencyClass.CLIENT_ID | IdempotencyClass.SEARCH:
                return await self._search(write, step, index, intent, done)
            case _:
                raise AmbiguousWrite(
                    f"{write.entity} {step.name}: the call ended without an answer and the vendor offers no way to tell",
                    hint=f"look what {write.reference or write.source.id} may have made there, then release or discard it",
                )

    async def _search(
        self, write: Write, step: Step, index: int, intent: IntentRecord, done: Mapping[str, StepResult]
    ) -> tuple[StepResult, IntentRecord]:
        found = await self._connector.search(write, step, done)
        if found is not None:
            return found, intent
        settle_s = next((facts.settle_s for facts in self._facts(write) if facts.name == step.name), 0)
        remaining_s = settle_s - self._over_s(intent)  # from the end of the call, not from the intent: its commit may take long
        if intent.searches_empty == 0 or remaining_s > 0:
            searched = msgspec.structs.replace(intent, searches_empty=intent.searches_empty + 1, searched_at=self._clock.now())
            await self._ledger.commit(Entry(state=self._state, changes=[self._change(searched)]))
            raise Settle(
                f"{write.entity} {step.name}: not found yet; absence is proven after the settle time",
                retry_after_s=max(1.0, remaining_s),
            )
        return await self._perform(write, step, index, intent, done)

    def _facts(self, write: Write) -> Sequence[Any]:
        facts = self._connector.manifest.writes.get(write.entity)
        return facts.steps if facts else ()

    def _over_s(self, intent: IntentRecord) -> float:
        """Seconds since no call of this or an earlier owner can still arrive; negative while one can."""
        if intent.boot_id == self._clock.boot_id() and intent.boot_id:
            return (self._clock.boot_ms() - intent.deadline_boot_ms) / 1000
        span = timedelta(seconds=COMMIT_TIMEOUT_S + 2 * self._connector.manifest.call_timeout_s)
        return (self._clock.now() - intent.opened_at - span).total_seconds()

    async def _refused(self, intent: IntentRecord, index: int) -> None:
        """A definite refusal ends the attempt; the next one has another key."""
        refused = _with_step(intent, index, state=StepState.REFUSED)
        closed = msgspec.structs.replace(refused, state=IntentState.CLOSED, generation=intent.generation + 1)
        await self._ledger.commit(Entry(state=self._state, changes=[self._change(closed)]))

    async def _unsent(self, intent: IntentRecord, index: int) -> None:
        """The request never left: the step is as if never begun."""
        reset = _with_step(intent, index, state=StepState.TODO)
        state = IntentState.CLOSED if index == 0 else IntentState.OPEN
        await self._ledger.commit(Entry(state=self._state, changes=[self._change(msgspec.structs.replace(reset, state=state))]))

    def _finish(self, write: Write, steps: Sequence[Step], intent: IntentRecord, done: Mapping[str, StepResult]) -> Done:
        primary = next((step for step in steps if step.primary), steps[0])
        last = next((done[step.name] for step in reversed(steps) if done[step.name].record is not None), done[primary.name])
        external_id = write.external_id or done[primary.name].external_id
        closed = msgspec.structs.replace(intent, state=IntentState.CLOSED, external_id=external_id)
        number = done[primary.name].number or last.number
        result = msgspec.structs.replace(last, number=number, as_sent=all(result.as_sent for result in done.values()))
        return Done(
            external_id=external_id,
            result=result,
            results=done,
            closing=self._change(closed),
            generation=intent.generation,
            document=write.document,
        )

    def _keyed(self, write: Write, generation: int) -> Write:
        source = write.source
        key = create_key(
            self._state.connection, write.entity, event_key(source.connection, source.entity, source.id), write.facet, generation
        )
        return msgspec.structs.replace(write, key=key, generation=generation)

    def _new_intent(self, write: Write, steps: Sequence[Step], command: bytes, generation: int) -> IntentRecord:
        return IntentRecord(
            source=write.source,
            entity=write.entity,
            facet=write.facet,
            state=IntentState.OPEN,
            generation=generation,
            command=command,
            steps=[
                StepRecord(
                    name=step.name,
                    idempotency=step.idempotency,
                    key=step.key,
                    body_hash=self._hasher.hex(_BODY.encode(step.body)),
                    state=StepState.TODO,
                )
                for step in steps
            ],
            external_id=write.external_id,
            deadline_boot_ms=0,
            boot_id="",
            opened_at=self._clock.now(),
            fields=sorted(write.fields or ()),
        )

    def _change(self, intent: IntentRecord) -> Change:
        key = intent_key(self._state.connection, intent.entity, intent.source, intent.facet)
        return key, StateRecord(connection=self._state.connection, intent=intent)


def _continued(before: IntentRecord, planned: IntentRecord, write: Write) -> IntentRecord:
    """The open intent, if it is of this plan. A create planned anew, because a picture is found or gone, keeps what is done."""
    if [step.name for step in before.steps] == [step.name for step in planned.steps]:
        return msgspec.structs.replace(before, fields=sorted({*before.fields, *planned.fields}))
    if write.action != "create":
        return planned
    begun = {step.name: step for step in before.steps}
    return msgspec.structs.replace(before, steps=[begun.get(step.name, step) for step in planned.steps])


def _with_step(intent: IntentRecord, index: int, **changes: Any) -> IntentRecord:
    steps = list(intent.steps)
    steps[index] = msgspec.structs.replace(steps[index], **changes)
    return msgspec.structs.replace(intent, steps=steps)


def object_ref(connection: str, entity: str, external_id: str) -> ObjectRef:
    """An object of an account."""
    return ObjectRef(connection=connection, entity=entity, id=external_id)
