"""Is this version news? The poller's only decisions, pure (laws 1, 3 and 9).

A record is unchanged when its content hash is the one known; an echo when it is exactly what our own write left; held while an
open write of ours might have made it; else it is news, with the fields that are our own told apart from those somebody edited.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from bus.core.clock import CLOCKS_APART, micros
from bus.runtime.state import AccountState
from schemas.canon import Origin
from schemas.system import LinkedBy, LinkState, ObjectState, SeenRecord

RESTED = timedelta(seconds=60)
"""A list shows our own write by then."""


class Verdict(StrEnum):
    """What a served version is."""

    UNCHANGED = "unchanged"
    NEWS = "news"
    HELD = "held"


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one version."""

    verdict: Verdict
    seq: int = 0
    origin: Origin | None = None
    echo_fields: tuple[str, ...] = ()
    judged_write: datetime | None = None


def seen_key(entity: str, source_id: str) -> tuple[str, str]:
    """Key of what is known of an object within one account."""
    return entity, source_id


def judge(
    state: AccountState,
    seen: SeenRecord | None,
    entity: str,
    source_id: str,
    content_hash: str,
    fields: Mapping[str, str],
    now: datetime,
    *,
    renew: bool = False,
    asked_at: datetime | None = None,
    version: str | None = None,
    is_list: bool = True,
) -> Judgement:
    """Judges a version against what is known, by a state read to an end offset taken after the page arrived.

    `renew`: somebody asked for the object again; then it is news even if nothing changed. `asked_at` (None: now) is when the
    vendor was asked, `version` the vendor's of what was served: a row that a write of ours has outrun would make its old values
    news, and send them back. It is read anew by itself (`is_list` False).
    """
    if is_held(state, seen, entity, source_id):
        return Judgement(verdict=Verdict.HELD)
    if seen is not None and not seen.deleted and seen.content_hash == content_hash and not renew:
        return Judgement(verdict=Verdict.UNCHANGED)
    known = state.object(entity, source_id)
    if known is not None and _is_outrun(known, content_hash, version, asked_at or now, now, is_list=is_list):
        return Judgement(verdict=Verdict.HELD)
    write = known if known is not None and _is_fresh(known, seen) else None
    is_echo = write is not None and write.content_hash == content_hash
    ours = _own_fields(write, seen, fields) if write is not None else ()
    accounted = write.written_at if write is not None and (is_echo or ours) else seen.judged_write if seen else None
    return Judgement(
        verdict=Verdict.NEWS,
        seq=next_seq(seen, now),
        origin=_origin(state, entity, source_id, write if is_echo else None),
        echo_fields=ours,
        judged_write=accounted,
    )


def next_seq(seen: SeenRecord | None, now: datetime) -> int:
    """max(previous + 1, clock in µs): rises per object whatever the clock does."""
    return max((seen.seq if seen else 0) + 1, micros(now))


def is_held(state: AccountState, seen: SeenRecord | None, entity: str, source_id: str) -> bool:
    """Whether an open write of ours may have made this version.

    An object that was held before, or never mapped, is as unknown as one that was never served: it may come with every poll.
    """
    is_known = seen is not None and bool(seen.content_hash or seen.deleted)
    intents = [intent for intent in state.open_intents() if intent.entity == entity]
    linked = bool(intents) and bool(state.links_to(entity, source_id))  # nearly always there is none: the disk is not asked
    for intent in intents:
        if intent.external_id is not None:
            if intent.external_id == source_id:
                return True
        elif (not is_known and not linked) or any(step.external_id == source_id for step in intent.steps):
            return True
    return False


def _is_outrun(
    known: ObjectState, content_hash: str, version: str | None, asked_at: datetime, now: datetime, *, is_list: bool
) -> bool:
    """Whether what was served may be older than our own last write: by versions that count up, else by the clock.

    What was read by itself long after the write is what there is: the vendor counts from the beginning again.
    """
    if not known.by_bus or known.written_at is None:
        return False
    if _counts(version) and _counts(known.version):
        return is_older(version, known.version) and (is_list or now < known.written_at + RESTED)
    return content_hash != known.content_hash and asked_at < known.written_at + (RESTED if is_list else CLOCKS_APART)


def _counts(version: str | None) -> bool:
    return version is not None and version.isdigit()


def is_older(version: str | None, than: str | None) -> bool:
    """Whether a vendor's version is below another; only whole numbers can be compared ("10" is not below "9")."""
    return _counts(version) and _counts(than) and int(version or 0) < int(than or 0)


def _is_fresh(known: ObjectState, seen: SeenRecord | None) -> bool:
    """A write of ours that no earlier judgement has accounted for."""
    return known.by_bus and known.written_at is not None and (seen is None or seen.judged_write != known.written_at)


def _own_fields(write: ObjectState, seen: SeenRecord | None, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Paths that changed since we looked last and now hold exactly what our write left there."""
    before = seen.field_hashes if seen is not None else {}
    paths = fields.keys() | write.field_hashes.keys()
    return tuple(
        sorted(
            path for path in paths if fields.get(path) == write.field_hashes.get(path) and fields.get(path) != before.get(path)
        )
    )


def _origin(state: AccountState, entity: str, source_id: str, echo_of: ObjectState | None) -> Origin | None:
    """Whose object it is: that of the write it echoes, else the one the bus created it from."""
    created = next(
        (
            link.source
            for link in state.links_to(entity, source_id)
            if link.linked_by is LinkedBy.CREATED and link.state is LinkState.ACTIVE
        ),
        None,
    )
    source = echo_of.writer if echo_of is not None and echo_of.writer is not None else created
    if source is None:
        return None
    return Origin(
        connection=source.connection,
        entity=source.entity,
        source_id=source.id,
        created=created is not None and created.connection == source.connection,
        echo=echo_of is not None,
    )
