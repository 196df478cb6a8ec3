"""Fields that were edited at both ends since they were last settled, and whose value stands (law 9). Pure.

An edit at the target shows in two ways: it holds something else than its own poller or our last write knew, or something else
than was settled for the source's field (its other form of that included). The flow's ownership decides; without an owner the
last change counts. Both directions of a pair come to the same end, because both compare the same two moments.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from bus.core.policy import WritePolicy


def edited_at_both(
    changed: Collection[str],
    now: Mapping[str, str],
    held: Mapping[str, str],
    known: Mapping[str, str] | None,
    applied: Mapping[str, str],
    otherwise: Mapping[str, str],
) -> set[str]:
    """Those of the source's changed paths whose value at the target changed too and differs from the source's.

    `known` are the hashes our records have of the target's object, None where there are none; `applied` and `otherwise` what was
    settled of the fields that the flow owns: of others nothing is kept to compare with.
    """
    found = set()
    for path in changed:
        holds = held.get(path, "")
        if holds == now.get(path, ""):
            continue  # both ends agree
        is_unseen = known is not None and holds != known.get(path, "")
        is_unlike = path in applied and holds not in (applied[path], otherwise.get(path))
        if is_unseen or is_unlike:
            found.add(path)
    return found


def stays(path: str, policy: WritePolicy, source_at: datetime | None, target_at: datetime | None, is_first: bool) -> bool:
    """Whether the target's value of a field edited at both ends stays.

    `source_at` and `target_at` are when the objects were last changed at their vendors; where one of them does not tell, the
    source's change counts as the newer. `is_first` breaks ties the same way in both directions.
    """
    owner = policy.owner_of(path)
    if owner != "last_change":
        return owner != "source"
    if source_at is None or target_at is None:
        return False
    return target_at > source_at or (target_at == source_at and is_first)
