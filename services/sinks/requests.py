"""What operators ask of one account: try what is parked again, open or close a brake, link an object by hand.

Where the reading of `bus.requests` stands is remembered in the account's state, in the transaction of what was asked for, so a
request made while nobody owned the slot is not lost and none is carried out anew. Those that only try again may come twice.
"""

import json
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from bus.core import topics
from bus.core.errors import RecordError
from bus.runtime.state import intent_key, link_key, requests_key, standing_key
from schemas.system import (
    IntentRecord,
    IntentState,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    OffsetRecord,
    Outcome,
    RequestKind,
    RequestRecord,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.sinks.account import AccountSink
from services.sinks.brake import WHOLE_ACCOUNT
from services.sinks.ledger import Change, Entry, Ledger
from services.sinks.settlement import Published, peer_link
from services.sinks.task import Target

log = logging.getLogger(__name__)

KEYS_MAX = 500


class Effect(NamedTuple):
    """What a request makes true, and what is to be tried then."""

    changes: tuple[Change, ...] = ()
    outgoing: tuple[Published, ...] = ()
    again: tuple[StandingRecord, ...] = ()


class Requests:
    """Carries out what is asked of one account, one after another."""

    def __init__(self, sink: AccountSink, target: Target, ledger: Ledger, flows: Callable[[], Iterable[str]]) -> None:
        """`flows` are the names of the flows that end at this account."""
        self._sink = sink
        self._target = target
        self._state = target.state
        self._ledger = ledger
        self._flows = flows

    async def act(self, offset: int, request: RequestRecord) -> None:
        """Carries out a request that has not been; one that cannot be is told in the log and passed by."""
        if self._state.requests is not None and offset < self._state.requests:
            return
        try:
            match request.kind:
                case RequestKind.RELEASE:
                    await self._commit(offset, self._release(request))
                case RequestKind.BRAKE:
                    await self._commit(offset, self._brake(request))
                case RequestKind.LINK:
                    await self._link(offset, request)
                case _:
                    return  # another service's
        except RecordError as refusal:
            facts = {"connection": self._state.connection, "kind": str(request.kind), "request": request.id}
            log.warning("a request cannot be carried out: %s", refusal, extra=facts)
            await self._commit(offset, Effect())
        else:
            log.info("a request is carried out", extra={"connection": self._state.connection, "kind": str(request.kind)})

    async def _commit(self, offset: int, effect: Effect) -> None:
        """The effect and where reading goes on become true together; then what may go on does."""
        done = StateRecord(connection=self._state.connection, offset=OffsetRecord(offset=offset + 1))
        changes = [*effect.changes, *self._sink.brake_changes(), (requests_key(self._state.connection), done)]
        await self._ledger.commit(Entry(state=self._state, changes=changes, outgoing=effect.outgoing))
        for standing in effect.again:
            self._sink.try_again(standing)

    # --- what waits ----------------------------------------------------------------------------------------------------------

    def _release(self, request: RequestRecord) -> Effect:
        """What is parked and fits is tried now; an open brake still holds it."""
        flow, cause = request.args.get("flow"), request.args.get("cause")
        keys = _keys(request.args.get("keys"))
        for standing in self._state.parked():
            is_meant = (not flow or standing.flow == flow) and (not cause or standing.cause == cause)
            if is_meant and (keys is None or standing.source in keys):
                self._sink.try_again(standing)
        return Effect()

    def _brake(self, request: RequestRecord) -> Effect:
        brake = self._sink.brakes.of(request.args.get("flow") or WHOLE_ACCOUNT)
        match request.args.get("action"):
            case "open":
                brake.open(self._target.clock.now(), request.args.get("reason") or "opened by hand", by_hand=True)
            case "close":
                brake.close()
            case other:
                raise RecordError(f"action {other!r} is neither open nor close")
        self._sink.tell_brake(brake.record)
        return Effect()

    # --- links ---------------------------------------------------------------------------------------------------------------

    async def _link(self, offset: int, request: RequestRecord) -> None:
        """Under the object's lock: no write of it is under way."""
        args = request.args
        entity, source, facet = args.get("entity") or "", _source(args.get("source")), args.get("facet") or None
        if entity not in self._target.connector.manifest.writes:
            raise RecordError(f"this account takes no {entity or 'object without an entity'}")
        async with self._target.locks.hold([f"object|{entity}|{source.connection}|{source.id}"]):
            external_id = args.get("external_id") or ""
            effect = self._joined(entity, source, facet, external_id) if external_id else self._none(entity, source, facet)
            await self._commit(offset, effect)

    def _joined(self, entity: str, source: ObjectRef, facet: str | None, external_id: str) -> Effect:
        """The link is as a person says; what was open or in conflict about it has ended."""
        connection = self._state.connection
        known, intent = self._state.link(entity, source, facet), self._state.intent(entity, source, facet)
        link = LinkRecord(
            source=source,
            entity=entity,
            facet=facet,
            external_id=external_id,
            number=known.number if known is not None and known.external_id == external_id else None,
            state=LinkState.ACTIVE,
            linked_by=LinkedBy.MANUAL,
            generation=intent.generation if intent is not None else 0,
        )
        changes: list[Change] = [(link_key(connection, entity, source, facet), StateRecord(connection=connection, link=link))]
        closed, stood = self._closed(intent, generations=0)
        peer = peer_link(connection, entity, source, external_id, facet, self._target.clock.now())
        again, changed = self._again(source, stood)
        return Effect(changes=(*changes, *closed, *changed), outgoing=(peer,), again=again)

    def _none(self, entity: str, source: ObjectRef, facet: str | None) -> Effect:
        """Nothing was made there: the open attempt has ended, and the next one bears another key."""
        closed, stood = self._closed(self._state.intent(entity, source, facet), generations=1)
        again, changed = self._again(source, stood)
        return Effect(changes=(*closed, *changed), again=again)

    def _closed(self, intent: IntentRecord | None, generations: int) -> tuple[list[Change], StandingRecord | None]:
        """An open intent's end, and the standing of the command that began it: an order may have begun its customer."""
        if intent is None or intent.state is not IntentState.OPEN:
            return [], None
        connection = self._state.connection
        closed = msgspec.structs.replace(intent, state=IntentState.CLOSED, generation=intent.generation + generations)
        key = intent_key(connection, intent.entity, intent.source, intent.facet)
        command = self._target.codec.decode(topics.outbound(connection), intent.command)
        return [(key, StateRecord(connection=connection, intent=closed))], self._state.standing(command.flow, command.source)

    def _again(self, source: ObjectRef, stood: StandingRecord | None) -> tuple[tuple[StandingRecord, ...], list[Change]]:
        """What stands of a source object and waited for the word of a person is parked to be tried at once."""
        found = {flow: standing for flow in self._flows() if (standing := self._state.standing(flow, source)) is not None}
        standings = [*found.values(), *([stood] if stood is not None and stood.source != source else [])]
        connection, now = self._state.connection, self._target.clock.now()
        again: list[StandingRecord] = []
        changes: list[Change] = []
        for standing in standings:
            if standing.command is None:
                continue
            parked = standing
            if standing.standing is Standing.DEAD:
                parked = msgspec.structs.replace(
                    standing, standing=Standing.PARKED, outcome=Outcome.PARKED, attempts=0, parked_at=now, retry_at=now
                )
                key = standing_key(connection, standing.flow, standing.source)
                changes.append((key, StateRecord(connection=connection, standing=parked)))
            again.append(parked)
        return tuple(again), changes


def _source(text: str | None) -> ObjectRef:
    parts = topics.split_key(text or "")
    if len(parts) != 3 or not all(parts):
        raise RecordError(f"{text!r} is no source key: it is connection|entity|id")
    return ObjectRef(connection=parts[0], entity=parts[1], id=parts[2])


def _keys(text: str | None) -> frozenset[ObjectRef] | None:
    if not text:
        return None
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    if not isinstance(keys, list) or len(keys) > KEYS_MAX or not all(isinstance(key, str) for key in keys):
        raise RecordError(f"`keys` must be a JSON list of at most {KEYS_MAX} source keys")
    return frozenset(map(_source, keys))
