"""Which objects are gone, where no feed says so (law 15): by two complete comparisons of ids that agree, below a ceiling.

A comparison proves nothing about an object that was met after it began, about one under an open write of ours, or where the
vendor named no object at all. One that failed on its way never ends here: what an earlier one found stays, because that was
complete, and the next one either agrees or clears it.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from bus.core.clock import micros
from bus.kit.manifest import Stream
from schemas.system import CursorRecord

AGREE_AFTER_S = 60
"""Between the end of a comparison and the begin of the one that agrees."""
AGAIN_S = 600
"""Until the next one where something could not be proven."""
REFUSED_AGAIN_S = 86_400
CEILING_COUNT, CEILING_PCT = 10, 2
"""More deletes at once, and more than this part of what is known, need a person's word."""
AT_ONCE = datetime.min.replace(tzinfo=UTC)
ABSENT_MAX = 2_000
"""Absent objects remembered at a time; the others follow with the next comparisons."""


class Ids:
    """Ids that exist, eight bytes each: a million take 8 MB. Two that fall together would hide a delete, never make one."""

    def __init__(self) -> None:
        self._hashes: array[int] = array("Q")
        self._is_sorted = True

    def add(self, ids: Iterable[str]) -> None:
        """Takes ids; repeats are harmless."""
        self._hashes.extend(map(_hash, ids))
        self._is_sorted = False

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, source_id: str) -> bool:
        if not self._is_sorted:
            self._hashes = array("Q", sorted(self._hashes))
            self._is_sorted = True
        wanted = _hash(source_id)
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


def _hash(source_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(source_id.encode(), digest_size=8).digest(), "big")


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A known object that a complete comparison did not name."""

    entity: str
    id: str
    seq: int
    """Of its last version: the time it was met, in microseconds."""
    held: bool = False
    """Under an open write of ours, or not judged yet."""

    @property
    def name(self) -> str:
        """As the cursor remembers it."""
        return f"{self.entity}|{self.id}"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A complete comparison of ids."""

    began_at: datetime
    ended_at: datetime
    missing: Sequence[Missing]
    living: int
    """Known objects it was about."""
    silent: Sequence[str] = ()
    """Entities of which the vendor named nothing although some are known: that proves nothing."""


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from it."""

    deletes: Sequence[Missing] = ()
    absent: Sequence[str] = ()
    refused: int = 0
    is_proven: bool = False
    """Whether every delete before it began is told."""


def rule(cursor: CursorRecord, found: Comparison, *, confirmed: bool = False) -> Ruling:
    """Steps: 1 what this comparison says is gone; 2 of that, what the one before said as well; 3 the ceiling."""
    # 1
    gone = [item for item in found.missing if not item.held and item.seq < micros(found.began_at)]
    unclear = bool(found.silent) or any(item.held for item in found.missing)
    # 2
    before = frozenset(cursor.absent)
    apart = cursor.scanned_at is not None and found.began_at - cursor.scanned_at >= timedelta(seconds=AGREE_AFTER_S)
    agreed = [item for item in gone if apart and item.name in before and item.seq < micros(cursor.scanned_at or found.began_at)]
    # 3
    if agreed and len(gone) > ceiling(found.living) and not confirmed:
        return Ruling(absent=_names(gone), refused=len(gone))
    told = {item.name for item in agreed}
    left = [item for item in gone if item.name not in told]
    kept = [name for name in cursor.absent if name.partition("|")[0] in found.silent]
    return Ruling(deletes=agreed, absent=[*_names(left), *kept], is_proven=not left and not unclear)


def ceiling(living: int) -> int:
    """Deletes that nobody has to confirm."""
    return max(CEILING_COUNT, living * CEILING_PCT // 100)


def _names(gone: Iterable[Missing]) -> list[str]:
    return sorted(item.name for item in gone)[:ABSENT_MAX]


def ruled(cursor: CursorRecord, found: Comparison, ruling: Ruling) -> CursorRecord:
    """The cursor after a ruling whose deletes are committed with it."""
    since = cursor.deletes_unproven_since
    return msgspec.structs.replace(
        cursor,
        scanned_at=found.ended_at,
        absent=list(ruling.absent),
        deletes_refused=ruling.refused,
        deletes_unproven_since=None if ruling.is_proven and since is not None and since <= found.began_at else since,
    )


def served(cursor: CursorRecord, keys: Iterable[tuple[str, str]]) -> CursorRecord:
    """The cursor after objects were served: they are not absent."""
    if not cursor.absent:
        return cursor
    here = {f"{entity}|{source_id}" for entity, source_id in keys}
    return msgspec.structs.replace(cursor, absent=[name for name in cursor.absent if name not in here])


def due_at(stream: Stream, cursor: CursorRecord | None) -> datetime | None:
    """When ids are to be compared next; None: never of itself. A stream that is read in full each time compares as it polls."""
    if cursor is None or not cursor.backfilled:
        return None
    last = cursor.scanned_at
    if last is not None and cursor.deletes_refused:
        return last + timedelta(seconds=REFUSED_AGAIN_S)
    if last is not None and cursor.absent:
        return last + timedelta(seconds=AGREE_AFTER_S)
    since = cursor.deletes_unproven_since
    if since is not None:
        return since if last is None or last < since else last + timedelta(seconds=AGAIN_S)
    if stream.deletes == "scan" and stream.kind != "full":
        return last + timedelta(seconds=stream.scan_s) if last is not None else AT_ONCE
    return None


def living_of(living: Mapping[str, int], entities: Iterable[str]) -> int:
    """Known objects of some entities."""
    return sum(living.get(entity, 0) for entity in entities)
