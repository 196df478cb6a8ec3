"""Dead letters: a record set aside with a cause from a closed list, what to do about it, and its sealed original."""

import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bus.core import topics
from bus.core.errors import (
    BusError,
    CredentialError,
    MissingDependency,
    RecordError,
    StreamError,
    TransientError,
)
from bus.runtime import logs, metrics
from bus.runtime.codec import Codec
from bus.runtime.newest import newest_values
from bus.runtime.publisher import Outgoing
from bus.runtime.reader import Record
from bus.runtime.settings import BusSettings
from bus.runtime.standings import DEAD, Selection, Stands, standing_objects
from bus.runtime.tail import read_all
from schemas.system import Cause, DeadLetter, ObjectRef, SeenRecord

DETAIL_CHARS_MAX = 2000
ORIGINAL_BYTES_MAX = 4 * 1024 * 1024
"""Longer originals are cut: the dead letter must fit where the record did not."""

POLLER = "poller"
"""Stage of letters whose object never became an event."""
MICROSECONDS = 1_000_000

DEAD_HINT = "dead.hint"
"""Name of the value in which a command `dead:…` says what a person can do, where the error knew better than its cause."""

_AGAIN = "then `bus dead-letters redrive`"

HINTS: dict[Cause, str] = {
    Cause.UNKNOWN: "look at the detail",
    Cause.MAPPING_ERROR: "correct the value at its source, and the change is read by itself; or extend the connector's mapping, "
    f"{_AGAIN}",
    Cause.WRITE_REJECTED: f"the target's own words say why; correct it at the source, which sends it again, or there, {_AGAIN}",
    Cause.WRITE_CONFLICT: f"somebody edits the object at the same time; wait until it rests, {_AGAIN}",
    Cause.AMBIGUOUS_MATCH: f"more than one object answers: merge them at the target, {_AGAIN}; or say which with `bus link`",
    Cause.AMBIGUOUS_WRITE: "look whether the object exists at the target; say so with `bus link`, or that nothing was made there",
    Cause.TOTALS_MISMATCH: f"compare the two documents, whose rounding or tax codes differ: correct the table, {_AGAIN}",
    Cause.MISSING_DEPENDENCY: f"create the objects named at the target, {_AGAIN}",
    Cause.MISSING_TABLE_ROW: f"add the row named to the flow's table and run `bus apply`, {_AGAIN}",
    Cause.UNKNOWN_VALUE: f"unknown to the bus: add it to the table and run `bus apply`, or extend the mapping; {_AGAIN}",
    Cause.BACKFILL_INCOMPLETE: "wait until the target account has been read once; `bus status` says how far it is",
    Cause.SUBJECT_KEY_MISSING: "the key of sealed data is not on bus.subject-keys: check its retention and the master key",
    Cause.CREDENTIAL: "the vendor refuses the credential: `bus grants list` says what it needs; the record goes on by itself",
    Cause.CONNECTION_UNAVAILABLE: "the vendor is away; the record goes on by itself",
    Cause.UNRESOLVED_REFERENCE: f"the record refers to an object that cannot be read; see that it is there, {_AGAIN}",
    Cause.SOURCE_INCONSISTENT: "the source's totals contradict each other; correct the document there, and it is read by itself",
    Cause.TOO_LARGE: "make the object smaller at its source, or leave it out by a filter",
    Cause.LINK_CONFLICT: "two objects claim one: say with `bus link` which it is, or merge them where they are two",
    Cause.BRAKE_OPEN: "nothing is written until a probe succeeds or an operator closes the brake; `bus brake list` says why",
    Cause.BUG: f"a bug of the bus: report it with what `bus dead-letters show` says; its bytes are kept; once mended, {_AGAIN}",
}


def cause_of(error: BaseException) -> Cause:
    """The cause of a failure, from the closed list; what is no BusError is a bug of ours."""
    if isinstance(error, RecordError):
        return error.cause
    if isinstance(error, CredentialError):
        return Cause.CREDENTIAL
    if isinstance(error, TransientError):
        return Cause.CONNECTION_UNAVAILABLE
    if isinstance(error, StreamError):
        return Cause.UNRESOLVED_REFERENCE
    return Cause.UNKNOWN if isinstance(error, BusError) else Cause.BUG


def detail_of(error: BaseException) -> str:
    """What is wrong, without personal data: our own errors speak for themselves, of others only type and place are told."""
    if isinstance(error, BusError):
        text = str(error)
        if isinstance(error, MissingDependency):
            text = f"{text} (missing: {', '.join(error.missing)})"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        text = f"{type(error).__name__}{place}"
    return logs.redacted(text)[:DETAIL_CHARS_MAX]


def hint_of(error: BaseException) -> str:
    """What a person can do."""
    own = error.hint if isinstance(error, RecordError) else ""
    return logs.redacted(own) or HINTS[cause_of(error)]


def dead_letter(
    error: BaseException,
    *,
    stage: str,
    connection: str,
    made_at: datetime,
    flow: str | None = None,
    source: ObjectRef | None = None,
    seq: int = 0,
    original: bytes | None = None,
    key_id: str | None = None,
    trace: str | None = None,
) -> DeadLetter:
    """The dead letter of a failure.

    `original` is framed bytes of one of our own topics (`key_id` None), or vendor bytes already sealed under `key_id` with
    `Privacy.seal_bytes`; plain vendor bytes never go here.
    """
    cause = cause_of(error)
    metrics.count("bus_dead_letters_total", stage=stage, connection=connection, cause=cause.value)
    fits = original is None or len(original) <= ORIGINAL_BYTES_MAX
    return DeadLetter(
        stage=stage,
        cause=cause,
        detail=detail_of(error) if fits else f"{detail_of(error)} (original left out: {len(original or b'')} bytes)",
        hint=hint_of(error),
        connection=connection,
        flow=flow,
        source=source,
        seq=seq,
        original=original if fits else None,
        key_id=key_id if fits else None,
        trace=trace,
        made_at=made_at,
    )


def outgoing(letter: DeadLetter, codec: Codec) -> Outgoing:
    """The record to publish: keyed by the source object where known, so that its letters stay in order."""
    source = letter.source
    key = topics.event_key(source.connection, source.entity, source.id) if source is not None else topics.key(letter.connection)
    return Outgoing(topics.DEAD_LETTERS, None, key, codec.encode(topics.DEAD_LETTERS, letter))


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter for people. The original stays where it is."""

    id: str | None
    """partition:offset; None where retention took the letter and only the standing is left."""
    made_at: datetime
    stage: str
    cause: Cause
    connection: str
    """The account whose part of the bus set it aside: for flows the target's, for pollers the source's."""
    flow: str | None
    key: str
    """Source object."""
    seq: int
    detail: str
    hint: str
    original_bytes: int = 0
    is_sealed: bool = False
    is_open: bool = False
    """Whether it still waits for somebody: a later success of the same object closes it."""
    has_content: bool = False
    """Of a poller's letter: whether an older version of the object went through."""

    def plain(self) -> dict[str, Any]:
        """What `--json` shows."""
        return {
            "id": self.id,
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "stage": self.stage,
            "cause": str(self.cause),
            "connection": self.connection,
            "flow": self.flow,
            "key": self.key,
            "detail": self.detail,
            "hint": self.hint,
            "original_bytes": self.original_bytes,
            "is_sealed": self.is_sealed,
            "is_open": self.is_open,
        }


async def listed(settings: BusSettings, codec: Codec) -> list[dict[str, Any]]:
    """All dead letters that retention has left, open and closed, oldest first."""
    return [item.plain() for item in await all_letters(settings, codec)]


async def all_letters(settings: BusSettings, codec: Codec) -> list[Listed]:
    """All dead letters that retention has left, open and closed, and open ones that it took; oldest first."""
    letters = [
        _listed(record, letter) async for record, letter in read_all(settings, codec, topics.DEAD_LETTERS) if letter is not None
    ]
    dead = await standing_objects(settings, codec, DEAD, Selection())
    keys = {item.key for item in letters if item.stage == POLLER}
    seen = await newest_values(settings, codec, topics.SEEN, keys.__contains__) if keys else {}
    return sorted(judged(letters, dead, seen), key=lambda item: (item.made_at, item.key))


async def open_letters(settings: BusSettings, codec: Codec) -> list[Listed]:
    """The dead letters that wait for somebody, oldest first: what `redrive` chooses from."""
    return [item for item in await all_letters(settings, codec) if item.is_open]


def judged(letters: Sequence[Listed], dead: Sequence[Stands], seen: Mapping[str, SeenRecord]) -> list[Listed]:
    """Which letters are open, by what stands now and not by what was once said.

    - Of a flow: the newest letter of an object whose standing is DEAD; the standing says cause and detail. A standing without a
      letter, because retention took it, is listed all the same.
    - Of a poller: the newest letter of an object of which no version, or only an older one, could be read since.
    - Of neither (bytes that nobody could read): nobody can tell, so it stays open until retention ends it.
    """
    newest = {(item.flow, item.key): item for item in sorted(letters, key=lambda item: (item.seq, item.made_at))}
    standing = {(item.record.flow, item.key): item for item in dead}
    found = []
    for item in letters:
        place = (item.flow, item.key)
        if item.flow is not None:
            is_open = newest[place] is item and place in standing and standing[place].record.seq == item.seq
        elif item.stage == POLLER:
            is_open = newest[place] is item and _is_unread(item, seen.get(item.key))
        else:
            is_open = True
        content = seen[item.key].content_hash if item.key in seen else ""
        found.append(msgspec.structs.replace(item, is_open=is_open, has_content=bool(content)))
    told = {(item.flow, item.key) for item in found if item.is_open}
    return found + [_untold(item) for place, item in standing.items() if place not in told]


def _is_unread(letter: Listed, seen: SeenRecord | None) -> bool:
    """Whether no version was read since the letter. An event's seq is no less than the microsecond it was made in."""
    if seen is None or seen.held or seen.deleted:
        return False
    return not seen.content_hash or seen.seq < int(letter.made_at.timestamp()) * MICROSECONDS + letter.made_at.microsecond


def _listed(record: Record, letter: DeadLetter) -> Listed:
    return Listed(
        id=f"{record.partition}:{record.offset}",
        made_at=letter.made_at,
        stage=letter.stage,
        cause=letter.cause,
        connection=letter.connection,
        flow=letter.flow,
        key=record.key.decode(),
        seq=letter.seq,
        detail=letter.detail,
        hint=letter.hint,
        original_bytes=len(letter.original or b""),
        is_sealed=letter.key_id is not None,
    )


def _untold(item: Stands) -> Listed:
    """The line of a standing whose letter is gone."""
    cause = item.record.cause or Cause.UNKNOWN
    return Listed(
        id=None,
        made_at=item.record.settled_at,
        stage="sink",
        cause=cause,
        connection=item.connection,
        flow=item.record.flow,
        key=item.key,
        seq=item.record.seq,
        detail=item.record.detail or "",
        hint=HINTS[cause],
        is_open=True,
    )
