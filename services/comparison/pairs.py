"""One source object and what stands for it at the target: do they agree? Pure.

A field agrees when the target holds the source's value, or holds what it held in its place when the source's value was settled: a
cut name, a masked number, what differed when the two were linked. Fields the flow may not write, or that have no place there, are
not compared. A document is compared where it counts.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from bus.core.identity import Entity, Hasher
from bus.core.policy import WritePolicy
from bus.kit.manifest import Writes
from schemas.system import Cause, LinkRecord, LinkState, ObjectRef, SeenRecord, Standing, StandingRecord
from services.comparison.fields import FieldDifference, differences
from services.sinks.desired import owned_paths, unlike

Kind = Literal["missing", "extra", "differing"]
Mend = Literal["replay", "resync"]
"""How a finding may be mended: by the event there is, or by reading the source object anew."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One object that is not on both sides as the flow has it."""

    kind: Kind
    source: ObjectRef
    target: str | None = None
    """Id at the target."""
    reason: str = ""
    standing: Standing | None = None
    cause: Cause | None = None
    fields: list[FieldDifference] = []
    also: list[str] = []
    """Fields that differ by how the target keeps them, or since the two were linked: a repair sends them too."""
    in_flight: bool = False
    """A version of it is on its way: what differs now may not differ soon."""
    mend: Mend | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus knows of one source object in one flow."""

    standing: StandingRecord | None
    seen: SeenRecord | None
    link: LinkRecord | None
    is_open: bool = False
    """Whether a write of it has begun and not ended."""


def master_differences(
    source: Entity, target: Entity, standing: StandingRecord | None, policy: WritePolicy, facts: Writes, hasher: Hasher
) -> tuple[list[FieldDifference], list[str]]:
    """Fields that differ, and those that differ only as the target keeps them."""
    if "update" not in facts.actions:
        return [], []
    applied: Mapping[str, str] = standing.applied if standing is not None else {}
    otherwise: Mapping[str, str] = standing.otherwise if standing is not None else {}
    now, held = hasher.fields(source), hasher.fields(target)
    owned = owned_paths(now.keys() | applied.keys(), policy, facts)
    off = unlike(_only(now, owned), held, _only(applied, owned), otherwise)
    kept = sorted(path for path in owned - off if path in now and now[path] != held.get(path))
    return differences(off, source, target), kept


def _only(hashes: Mapping[str, str], paths: set[str]) -> dict[str, str]:
    return {path: known for path, known in hashes.items() if path in paths}


def is_in_flight(held: Held, young_seq: int) -> bool:
    """Whether a version of the object is on its way: parked, held, being written, or newer than what has settled.

    An object without a standing is on its way if it was read lately (`young_seq`); else it never went through this flow.
    """
    standing, seen = held.standing, held.seen
    if held.is_open or (seen is not None and seen.held):
        return True
    if standing is None:
        return seen is not None and seen.seq >= young_seq
    return standing.standing in (Standing.PARKED, Standing.WAITING) or (seen is not None and seen.seq > standing.seq)


def is_only_linked(held: Held, policy: WritePolicy) -> bool:
    """An object that existed before the flow began, in a flow that sends no such objects: nothing of it was settled."""
    if policy.existing != "link" or held.link is None or held.standing is None:
        return False
    return held.standing.standing is Standing.FILTERED and not held.standing.applied


def missing_reason(held: Held, content_hash: str | None) -> str:
    """Why a wanted object has no target object, as far as the bus can tell."""
    standing = held.standing
    if held.link is not None and held.link.state is LinkState.RETIRED:
        return f"{held.link.external_id} was deleted there; it is not made again"
    if held.seen is None:
        return "was not polled yet"
    if content_hash is not None and held.seen.content_hash != content_hash:
        return "changed at the source after its last poll"
    if standing is None:
        return "has not come through the flow"
    if standing.detail:
        return standing.detail
    return f"stands as {standing.standing}"


def mend_of(held: Held, content_hash: str | None) -> Mend | None:
    """By its event where that says what the source says; else the source object must be read anew. None: nothing would help."""
    if held.link is not None and held.link.state is not LinkState.ACTIVE:
        return None
    current = held.seen is not None and content_hash is not None and held.seen.content_hash == content_hash
    return "replay" if current else "resync"
