"""The records that say how a command ended: standing, result, dead letter, link, object."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from bus.core import topics
from bus.core.errors import RecordError, TotalsMismatch
from bus.core.identity import Hasher, match_keys, told_together
from bus.core.money import TOLERANCE
from bus.kit.connector import StepResult
from bus.runtime.deadletters import HINTS, ORIGINAL_BYTES_MAX
from bus.runtime.state import link_key, object_key, standing_key
from schemas import canon
from schemas.system import (
    Action,
    Cause,
    Command,
    CommandKind,
    DeadLetter,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    Outcome,
    ResultRecord,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.sinks.brake import Said, Verdict
from services.sinks.ledger import Change
from services.sinks.patience import Blame
from services.sinks.waiting import is_held
from services.sinks.writing import Incomplete

DECIDED_BY_HAND = frozenset({Cause.AMBIGUOUS_WRITE, Cause.AMBIGUOUS_MATCH, Cause.LINK_CONFLICT})
"""Causes that a link by hand ends: such a dead command keeps its bytes, so that it can go on then."""

Published = tuple[str, int | None, str, msgspec.Struct]


class Settlement(msgspec.Struct, kw_only=True):
    """How one command ended, and all that becomes true with it."""

    standing: Standing
    outcome: Outcome
    external_id: str | None = None
    number: str | None = None
    detail: str | None = None
    cause: Cause | None = None
    hint: str = ""
    missing: Sequence[str] = ()
    retry_after_s: float | None = None
    applied: Mapping[str, str] | None = None
    """Field hashes of the source as now settled at the target; None keeps what was."""
    otherwise: Mapping[str, str] | None = None
    """Of those, what the target holds in another form (see `bus.system.StandingRecord`); None keeps what was."""
    changes: Sequence[Change] = ()
    outgoing: Sequence[Published] = ()
    totals: tuple[Decimal, Decimal] | None = None
    totals_by_rate: Mapping[str, str] = {}
    conflicts: Sequence[str] = ()
    """Fields that were edited at both ends since they were last settled."""
    calls: int = 0
    kept: StandingRecord | None = None
    """What stood before and stands still, for a version that changes nothing of it (a document is written once)."""
    stage: str = "sink"
    """Who found a record unfit, for its dead letter."""
    failed: Blame = "nothing"
    """What an attempt that is parked speaks against; a dead one speaks against its record."""
    asked_s: float | None = None
    """How long the vendor, or our budget for it, wants to be left alone."""
    tried: bool = True
    """Whether this was an attempt: what an open brake parks was not."""


def said_by(command: Command, end: Settlement) -> Said:
    """What an end says about its flow and about the account, for the brakes."""
    is_bad = end.standing is Standing.DEAD or end.failed == "record"
    is_untried = end.failed == "account" or end.standing is Standing.WAITING or command.action is Action.NONE
    return Said(
        flow=Verdict.BAD if is_bad else Verdict.NEITHER if is_untried or end.standing is Standing.PARKED else Verdict.GOOD,
        account=Verdict.BAD if end.failed == "account" else Verdict.GOOD if end.calls else Verdict.NEITHER,
        cause=end.cause,
        detail=end.detail or "",
        wait_s=end.asked_s,
    )


def held_back(cause: Cause, detail: str) -> Settlement:
    """A command that an open brake parks: nothing is lost, and no next attempt is set."""
    return Settlement(standing=Standing.PARKED, outcome=Outcome.PARKED, cause=cause, detail=detail, tried=False)


def is_stale(command: Command, before: StandingRecord | None) -> bool:
    """Whether a command says less than what is settled (law 3). One that was asked for again may equal it, never precede it."""
    if before is None:
        return False
    rank, settled = (command.seq, command.config_version), (before.seq, before.config_version)
    return rank < settled or (rank == settled and command.request is None)


def is_new_letter(command: Command, end: Settlement, before: StandingRecord | None) -> bool:
    """Whether an end is told by a dead letter: once per version of object and configuration, unless it ends otherwise now."""
    if end.standing is not Standing.DEAD:
        return False
    told = (before.standing, before.seq, before.config_version, before.cause, before.detail) if before is not None else None
    return told != (Standing.DEAD, command.seq, command.config_version, end.cause, end.detail)


def standing_change(
    connection: str,
    command: Command,
    raw: bytes,
    end: Settlement,
    before: StandingRecord | None,
    now: datetime,
    retry_at: datetime | None,
) -> Change:
    """The one standing of (flow, source object) after this command."""
    assert command.flow and command.source
    key = standing_key(connection, command.flow, command.source)
    if end.kept is not None:
        stays = msgspec.structs.replace(end.kept, seq=command.seq, config_version=command.config_version, settled_at=now)
        return key, StateRecord(connection=connection, standing=stays)
    waits = end.standing in (Standing.PARKED, Standing.WAITING)
    again = before is not None and before.seq == command.seq and before.standing in (Standing.PARKED, Standing.WAITING)
    counts_on = again and (not end.tried or not waits or (before is not None and before.cause == end.cause))
    record = StandingRecord(
        flow=command.flow,
        source=command.source,
        seq=command.seq,
        config_version=command.config_version,
        standing=end.standing,
        outcome=end.outcome,
        cause=end.cause,
        detail=end.detail,
        missing=list(end.missing),
        attempts=(before.attempts if before and counts_on else 0) + end.tried,
        parked_at=(waited_since(end, before, now) if again else now) if waits else None,
        retry_at=retry_at,
        command=raw if waits or (end.standing is Standing.DEAD and end.cause in DECIDED_BY_HAND) else None,
        applied=dict(end.applied) if end.applied is not None else dict(before.applied) if before else {},
        otherwise=dict(end.otherwise) if end.otherwise is not None else dict(before.otherwise) if before else {},
        external_id=end.external_id or (before.external_id if before else None),
        settled_at=now,
    )
    return key, StateRecord(connection=connection, standing=record)


def waited_since(end: Settlement, before: StandingRecord | None, now: datetime) -> datetime:
    """Since when a command waits. Patience for another object does not begin behind an open brake."""
    if before is None or before.parked_at is None or (is_held(before) and end.standing is Standing.WAITING):
        return now
    return before.parked_at


def result_record(connection: str, command: Command, end: Settlement, now: datetime) -> Published:
    """What the attempt ended in, for `bus.results`."""
    assert command.source
    source = command.source
    record = ResultRecord(
        command_id=command.id,
        flow=command.flow,
        connection=connection,
        source=source,
        target_entity=command.target_entity or source.entity,
        seq=command.seq,
        config_version=command.config_version,
        outcome=end.outcome,
        external_id=end.external_id,
        number=end.number,
        detail=end.detail,
        resolved=command.resolved,
        source_total=end.totals[0] if end.totals else None,
        target_total=end.totals[1] if end.totals else None,
        totals_by_rate=dict(end.totals_by_rate),
        conflicts=list(end.conflicts),
        calls=end.calls,
        trace=command.trace,
        request=command.request,
        ended_at=now,
    )
    return topics.RESULTS, None, topics.event_key(source.connection, source.entity, source.id), record


def dead_letter(connection: str, command: Command, end: Settlement, now: datetime) -> Published:
    """The dead letter of a command that cannot go on."""
    assert command.source
    source = command.source
    record = DeadLetter(
        stage=end.stage,
        cause=end.cause or Cause.UNKNOWN,
        detail=end.detail or "",
        hint=end.hint or HINTS[end.cause or Cause.UNKNOWN],
        connection=connection,
        flow=command.flow,
        source=source,
        seq=command.seq,
        original=command.event,
        trace=command.trace,
        made_at=now,
    )
    return topics.DEAD_LETTERS, None, topics.event_key(source.connection, source.entity, source.id), record


def refused(error: RecordError) -> Settlement:
    """A record that cannot go on; what was made of it before it was refused is named."""
    return Settlement(
        standing=Standing.DEAD,
        outcome=Outcome.DEAD,
        cause=error.cause,
        detail=str(error),
        hint=error.hint,
        external_id=error.external_id if isinstance(error, Incomplete) else None,
    )


def unwritable(error: Exception) -> RecordError:
    """Why an outcome cannot be written down: too large, or a bug of ours."""
    if isinstance(error, RecordError):
        return error
    return RecordError(f"{type(error).__name__}: its outcome cannot be written down, see the log", cause=Cause.BUG)


def bare(command: Command) -> Command:
    """A command without what may not fit beside its standing."""
    fits = command.event is None or len(command.event) <= ORIGINAL_BYTES_MAX
    return msgspec.structs.replace(command, resolved=[], event=command.event if fits else None)


def link_changes(
    connection: str,
    entity: str,
    source: ObjectRef,
    facet: str | None,
    external_id: str,
    number: str | None,
    how: LinkedBy,
    generation: int = 0,
) -> Change:
    """A link of this account."""
    link = LinkRecord(
        source=source,
        entity=entity,
        facet=facet,
        external_id=external_id,
        number=number,
        state=LinkState.ACTIVE,
        linked_by=how,
        generation=generation,
    )
    return link_key(connection, entity, source, facet), StateRecord(connection=connection, link=link)


def peer_link(
    connection: str, entity: str, source: ObjectRef, external_id: str, currency: str | None, made_at: datetime
) -> Published:
    """Tells the peer account of the link, on its own outbound, in the same transaction."""
    command = Command(
        kind=CommandKind.LINK,
        id=f"link|{connection}|{entity}|{external_id}",
        source=ObjectRef(connection=connection, entity=entity, id=external_id),
        target_entity=source.entity,
        target_id=source.id,
        currency=currency,
        made_at=made_at,
    )
    return topics.outbound(source.connection), 0, topics.event_key(connection, entity, external_id), command


def object_change(
    connection: str,
    entity: str,
    external_id: str,
    document: msgspec.Struct,
    result: StepResult,
    hasher: Hasher,
    now: datetime,
    writer: ObjectRef,
    known: Mapping[str, str] | None,
    sent: frozenset[str] | None,
    written: msgspec.Struct,
    held: Mapping[str, str] | None = None,
) -> Change:
    """What the account's object holds after our write; `held` are the hashes of a look just before it.

    `known` are the hashes that its own poller or an earlier write of ours knew, not those of that look: what a person edited
    unseen must stay news. So must what a read-back shows in place of what we sent, where it is not as sent.
    """
    answered = hasher.fields(document)
    hashes, exact = dict(answered), True
    if known is not None and sent is not None:
        stood = {path for path in answered if held is not None and held.get(path) == answered[path]}
        hashes, exact = ours_among(answered, known, sent, stood)
    if not result.as_sent:
        wanted = hasher.fields(written)
        edited = [path for path in wanted if (sent is None or path in sent) and answered.get(path) != wanted[path]]
        hashes = {path: told for path, told in hashes.items() if path not in edited}
    exact = exact and result.as_sent
    state = ObjectState(
        version=result.record.version if result.record else None,
        content_hash=hasher.content(document) if exact else None,
        field_hashes=hashes,
        match_keys=match_keys(document, hasher),
        active=getattr(document, "active", True),
        by_bus=True,
        written_at=now,
        writer=writer,
    )
    return object_key(connection, entity, external_id), StateRecord(connection=connection, object=state)


def ours_among(
    answered: Mapping[str, str], known: Mapping[str, str], sent: frozenset[str], stood: Collection[str] = ()
) -> tuple[dict[str, str], bool]:
    """Hashes that are our doing, and whether that is all there is (law 9).

    A field we neither sent nor moved by what we sent counts as it was known: if it differs, somebody edited it. Those that
    `stood` as they are before our write were not moved by it.
    """
    hashes, moved = dict(answered), sent | (told_together(sent) - frozenset(stood))
    others = [path for path in answered.keys() | known.keys() if path not in moved and answered.get(path) != known.get(path)]
    for path in others:
        if path in known:
            hashes[path] = known[path]
        else:
            hashes.pop(path, None)
    return hashes, not others


def proof_of_totals(
    source: canon.SalesOrder | canon.SalesInvoice, target: msgspec.Struct
) -> tuple[tuple[Decimal, Decimal] | None, dict[str, str]]:
    """Source and target totals with VAT, and VAT per rate as `source/target`. Raises TotalsMismatch above the limit (law 14)."""
    theirs = getattr(target, "totals", None)
    if source.totals is None or source.totals.incl is None or theirs is None or theirs.incl is None:
        return None, {}
    payable = source.totals.incl
    by_rate = {}
    ours, actual = vat_by_rate(source), vat_by_rate(target)
    off = [f"total {payable} became {theirs.incl}"] if abs(payable - theirs.incl) > TOLERANCE else []
    for rate in sorted(ours.keys() | actual.keys()):
        left, right = ours.get(rate, Decimal(0)), actual.get(rate, Decimal(0))
        by_rate[rate] = f"{left}/{right}"
        if ours and actual and abs(left - right) > TOLERANCE:
            off.append(f"VAT at {rate} % {left} became {right}")
    if off:
        raise TotalsMismatch(
            "; ".join(off), hint="the document exists at the target: correct it there, or correct the source and the VAT table"
        )
    return (payable, theirs.incl), by_rate


def vat_by_rate(document: msgspec.Struct) -> dict[str, Decimal]:
    """VAT of a document per rate in percent, as far as it tells any."""
    rates: dict[str, Decimal] = {}
    for tax in getattr(document, "vat_breakdown", []):
        if tax.amount is not None and tax.rate_pct is not None and tax.amount != 0:
            rate = f"{tax.rate_pct.normalize():f}"
            rates[rate] = rates.get(rate, Decimal(0)) + tax.amount
    return rates
