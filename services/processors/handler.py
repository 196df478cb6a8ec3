"""One canonical event → one command per flow. Pure: the same event and configuration give the same bytes (law 4).

What cannot be mapped becomes a command that says so (`dead:<CAUSE>:<detail>`) and carries the event: the sink gives the object
its standing in that flow and publishes the dead letter, under the flow's brake. Only bytes that nobody can read, of which no flow
can be told, go to the dead letters from here. Errors of infrastructure are not caught here: the engine waits or stops.
"""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from bus.core.configuration import Flow
from bus.core.errors import FatalError, MappingError, RecordError, TransientError
from bus.core.expressions import SourceView
from bus.core.identity import Entity, command_id
from bus.core.topics import DEAD_LETTERS, ENTITIES, canonical, event_key, split_key
from bus.runtime.deadletters import DEAD_HINT
from bus.runtime.kafka import RECORD_BYTES_MAX
from bus.runtime.publisher import Outgoing
from schemas.canon import EventMeta, Operation
from schemas.system import Action, Cause, Command, CommandKind, DeadLetter, ObjectRef, Resolved, ValueKind
from services.processors import filters
from services.processors.routes import Route, Routes
from services.processors.taxes import Document, classify
from services.processors.values import Record, resolve

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Stamp of a dead letter of which nothing is known: a clock would make a repeat differ."""
STAGE = "processors"
DETAIL_LENGTH_MAX = 500
_TOO_LARGE_HINT = "make the object smaller at its source (lines, texts), or leave it out by `when`"


class Coder(Protocol):
    """What the handler needs of `bus.runtime.codec.Codec`."""

    def encode(self, topic: str, value: Any) -> bytes:
        """Framed Avro of a topic's schema."""
        ...

    def decode(self, topic: str, data: bytes) -> Any:
        """The record; raises RecordError for bytes that are none, TransientError where the registry is needed and away."""
        ...


class Event(Protocol):
    """What all canonical events share."""

    meta: EventMeta
    after: Entity | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one flow makes of one event."""

    action: Action
    reason: str | None = None
    resolved: list[Resolved] = []
    error: RecordError | None = None


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Marks of commands that are made again, on request."""

    request: str
    """Id of the request."""
    repair: bool = False
    """Compare with what the target holds, not with what was sent to it before."""


class Handler:
    """The mapping of every flow. Holds the codec and nothing of any event.

    `tally` is told (flow, action, when the event was observed) for each command, where DEAD stands for what cannot be mapped;
    `aside` (connection, cause) for each record that nobody can read.
    """

    def __init__(
        self,
        codec: Coder,
        tally: Callable[[Flow, str, datetime], None] = lambda *_: None,
        aside: Callable[[str, Cause], None] = lambda *_: None,
    ) -> None:
        self._codec = codec
        self._tally = tally
        self._aside = aside

    def handle(self, topic: str, key: str, value: bytes | None, routes: Routes) -> list[Outgoing]:
        """Commands for one record of a canonical topic, or one dead letter where nobody can read it; a tombstone gives none."""
        if value is None:
            return []
        try:
            event = self.read(topic, value)
        except (TransientError, FatalError):
            raise
        except Exception as error:
            return [self.unreadable(key, value, error)]
        return self.commands(event, value, routes)

    def read(self, topic: str, value: bytes) -> Event:
        """The event of a record. Raises RecordError for bytes that are none, TransientError where the registry is needed."""
        event: Event = self._codec.decode(topic, value)
        return event

    def commands(self, event: Event, value: bytes, routes: Routes, again: Again | None = None) -> list[Outgoing]:
        """One command per flow. `value`: the event's own bytes; `again`: who asked for them to be made once more."""
        found = routes.of(event.meta.connection, event.meta.entity)
        return [self._through(route, event, value, routes.version, again) for route in found]

    def _through(self, route: Route, event: Event, raw: bytes, version: int, again: Again | None) -> Outgoing:
        try:
            decision = decide(route, event)
        except RecordError as error:
            decision = _dead(error)
        except Exception as error:  # law 10: a bug in one record's own step sets that record aside and stops nothing else
            decision = _dead(RecordError(f"{type(error).__name__} in the mapping", hint="report this", cause=Cause.BUG))
        outgoing = self._outgoing(_command(route, decision, event.meta, raw=raw, version=version, again=again), route, event.meta)
        if outgoing.size() > RECORD_BYTES_MAX:
            decision = _dead(
                RecordError("its command is larger than a record may be", hint=_TOO_LARGE_HINT, cause=Cause.TOO_LARGE)
            )
            command = _command(route, decision, event.meta, raw=None, version=version, again=again)
            outgoing = self._outgoing(command, route, event.meta)
        self._tally(route.flow, "DEAD" if decision.error is not None else str(decision.action), event.meta.observed_at)
        return outgoing

    def _outgoing(self, command: Command, route: Route, meta: EventMeta) -> Outgoing:
        key = event_key(meta.connection, meta.entity, meta.source_id)
        return Outgoing(route.topic, 0, key, self._codec.encode(route.topic, command), _headers(command.id, key, meta))

    def unreadable(self, key: str, raw: bytes, error: Exception) -> Outgoing:
        """A dead letter for bytes of which nothing is known but the key: no flow can be told, so it stands alone."""
        parts = split_key(key)
        source = ObjectRef(connection=parts[0], entity=parts[1], id=parts[2]) if len(parts) == 3 else None
        letter = DeadLetter(
            stage=STAGE,
            cause=error.cause if isinstance(error, RecordError) and error.cause is not Cause.UNKNOWN else Cause.MAPPING_ERROR,
            detail=f"not a readable event: {type(error).__name__}",
            hint="find out who wrote it; a poller's next full read brings the object again",
            connection=parts[0] if len(parts) == 3 else "unknown",
            source=source,
            original=raw,
            made_at=EPOCH,
        )
        self._aside(letter.connection, letter.cause)
        return Outgoing(DEAD_LETTERS, None, key or "unknown", self._codec.encode(DEAD_LETTERS, letter), {})


def decide(route: Route, event: Event) -> Decision:
    """Filters in the order origin, deletion, type, start, `when`; then the added values. Raises RecordError."""
    flow, meta, entity = route.flow, event.meta, event.after
    if (reason := filters.refuses_origin(flow, meta)) is not None:
        return _echo(route, event) if reason == filters.ECHO else _refused(reason)
    if meta.op is Operation.DELETED:
        return _deleted(route)
    if meta.op is Operation.UNKNOWN or entity is None:
        raise MappingError(f"operation {meta.op} without an object cannot be mapped", cause=Cause.UNKNOWN_VALUE)
    if (reason := filters.refuses_type(flow, entity) or filters.refuses_start(flow, entity)) is not None:
        return _refused(reason)
    unknown_tax: MappingError | None = None
    if route.source_tax is not None and isinstance(entity, Document):
        entity, unknown_tax = classify(entity, route.source_tax)
    record = _record(meta, entity)
    if (reason := filters.refuses_when(route, record)) is not None:
        return _refused(reason)
    if unknown_tax is not None:
        raise unknown_tax
    action = Action.CREATE if flow.write == "create" else Action.UPSERT
    return Decision(action=action, resolved=resolve(route, record))


def _record(meta: EventMeta, entity: Any) -> Record:
    source = SourceView(entity, source_id=meta.source_id, connection=meta.connection, system=meta.system)
    return Record(entity=entity, kind=meta.entity, source=source)


def _echo(route: Route, event: Event) -> Decision:
    """Nothing is to be written; the values let the sink know what it now holds, in the terms of this flow."""
    resolved: list[Resolved] = []
    if event.after is not None and not isinstance(event.after, Document):
        with contextlib.suppress(RecordError):  # what cannot be mapped is said when there is something to write
            resolved = resolve(route, _record(event.meta, event.after))
    return Decision(action=Action.NONE, reason=filters.ECHO, resolved=resolved)


def _deleted(route: Route) -> Decision:
    match route.flow.on_delete:
        case "delete":
            return Decision(action=Action.DELETE)
        case "deactivate":
            return Decision(action=Action.DEACTIVATE)
    return _refused(filters.DELETED)


def _refused(reason: str) -> Decision:
    return Decision(action=Action.NONE, reason=reason)


def _dead(error: RecordError) -> Decision:
    detail = str(error)[:DETAIL_LENGTH_MAX]
    hint = [Resolved(name=DEAD_HINT, kind=ValueKind.TEXT, value=error.hint, rule="dead")] if error.hint else []
    return Decision(action=Action.NONE, reason=f"dead:{error.cause}:{detail}", resolved=hint, error=error)


def _command(
    route: Route, decision: Decision, meta: EventMeta, *, raw: bytes | None, version: int, again: Again | None
) -> Command:
    key = event_key(meta.connection, meta.entity, meta.source_id)
    return Command(
        kind=CommandKind.WRITE,
        id=command_id(key, meta.seq, route.flow.name, version),
        flow=route.flow.name,
        config_version=version,
        seq=meta.seq,
        source=ObjectRef(connection=meta.connection, entity=meta.entity, id=meta.source_id),
        target_entity=route.flow.to.entity,
        action=decision.action,
        reason=decision.reason,
        existing=meta.op is Operation.SNAPSHOT,
        event=raw,
        resolved=decision.resolved,
        policy=route.policy,
        trace=meta.correlation_id or meta.event_id,
        request=again.request if again is not None else None,
        repair=again is not None and again.repair,
        made_at=meta.observed_at,  # not the clock: a replay must give the same bytes
    )


def _headers(identity: str, key: str, meta: EventMeta) -> Mapping[str, str]:
    """CloudEvents, binary mode; nothing personal."""
    return {
        "content-type": "application/avro",
        "ce_specversion": "1.0",
        "ce_id": identity,
        "ce_source": f"bus/{STAGE}",
        "ce_type": "bus.command",
        "ce_subject": key,
        "ce_time": meta.observed_at.isoformat(),
        "ce_correlationid": meta.correlation_id or meta.event_id,
        "ce_causationid": meta.event_id,
    }


TOPICS = tuple(canonical(entity) for entity in ENTITIES)
"""What processors read."""
