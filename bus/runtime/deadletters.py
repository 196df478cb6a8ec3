"""Dead letters: a record set aside with a cause from a closed list, what to do about it, and its sealed original."""

import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

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
from bus.runtime.publisher import Outgoing
from bus.runtime.settings import BusSettings
from bus.runtime.tail import read_all
from schemas.system import Cause, DeadLetter, ObjectRef

DETAIL_CHARS_MAX = 2000
ORIGINAL_BYTES_MAX = 4 * 1024 * 1024
"""Longer originals are cut: the dead letter must fit where the record did not."""

_AGAIN = "then edit the object at its source, which sends it again"

HINTS: dict[Cause, str] = {
    Cause.UNKNOWN: "look at the detail",
    Cause.MAPPING_ERROR: "correct the value at its source, and the change is read by itself; or extend the connector's mapping",
    Cause.WRITE_REJECTED: f"the target's own words say why; correct it there or at the source, {_AGAIN}",
    Cause.WRITE_CONFLICT: f"somebody edits the object at the same time; wait until it rests, {_AGAIN}",
    Cause.AMBIGUOUS_MATCH: f"more than one object answers: merge them at the target, {_AGAIN}",
    Cause.AMBIGUOUS_WRITE: f"look whether the object exists at the target and remove what is half there, {_AGAIN}",
    Cause.TOTALS_MISMATCH: "compare the two documents; the target's rounding or tax codes differ",
    Cause.MISSING_DEPENDENCY: f"create the objects named at the target, {_AGAIN}",
    Cause.MISSING_TABLE_ROW: f"add the row named to the flow's table and run `bus apply`, {_AGAIN}",
    Cause.UNKNOWN_VALUE: f"unknown to the bus: add it to the table and run `bus apply`, or extend the mapping; {_AGAIN}",
    Cause.BACKFILL_INCOMPLETE: "wait until the target account has been read once",
    Cause.SUBJECT_KEY_MISSING: "the key of sealed data is not on bus.subject-keys: check its retention and the master key",
    Cause.CREDENTIAL: "the vendor refuses the credential: put a new one into the secrets folder and it goes on by itself",
    Cause.CONNECTION_UNAVAILABLE: "the vendor is away; the record goes on by itself",
    Cause.UNRESOLVED_REFERENCE: "the record refers to an object that cannot be read",
    Cause.SOURCE_INCONSISTENT: "the source's totals contradict each other; correct the document there",
    Cause.TOO_LARGE: "make the object smaller at its source, or leave it out by a filter",
    Cause.LINK_CONFLICT: f"two objects claim one: merge them where they are two, {_AGAIN}",
    Cause.BRAKE_OPEN: "the brake is open: nothing is written until a probe succeeds or an operator closes it",
    Cause.BUG: "a bug of the bus: report it with what `bus dead-letters show` says; its bytes are kept",
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


async def listed(settings: BusSettings, codec: Codec) -> list[dict[str, Any]]:
    """All dead letters for people, oldest first; `id` is partition:offset. The originals stay where they are."""
    found = []
    async for record, letter in read_all(settings, codec, topics.DEAD_LETTERS):
        if letter is not None:
            found.append(
                {
                    "id": f"{record.partition}:{record.offset}",
                    "made_at": letter.made_at.isoformat(timespec="seconds"),
                    "stage": letter.stage,
                    "cause": str(letter.cause),
                    "connection": letter.connection,
                    "flow": letter.flow,
                    "key": record.key.decode(),
                    "detail": letter.detail,
                    "hint": letter.hint,
                    "original_bytes": len(letter.original or b""),
                    "is_sealed": letter.key_id is not None,
                }
            )
    return sorted(found, key=lambda letter: letter["made_at"])
