"""What a comparison costs in calls, before it is made, and how long people's part of each limit takes to allow them. Pure."""

import math
from collections.abc import Mapping

import msgspec

from bus.core.configuration import Connection
from bus.kit.manifest import Manifest, Stream

CHECKS = 2
"""Calls that ask who the account is."""
DAY_S = 86_400


class AccountCost(msgspec.Struct, frozen=True, kw_only=True):
    """Calls to one account."""

    connection: str
    objects: int
    """That are read, as far as polling knows."""
    calls: int
    per_finding: int
    """Calls for another look at each object that is found to differ."""
    seconds: int
    """At the part of the vendor's limits that is kept for people."""
    limit: str | None = None
    """The limit that decides."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What it costs at both ends. Both are read side by side."""

    accounts: list[AccountCost]

    @property
    def seconds(self) -> int:
        """Until both are read."""
        return max((item.seconds for item in self.accounts), default=0)


def account_cost(
    connection: Connection, manifest: Manifest, entity: str, counts: Mapping[str, int], sample: int | None
) -> AccountCost:
    """Reading one entity of an account: its whole stream, or a sample object by object."""
    stream = next(item for item in manifest.streams if entity in item.entities)
    if sample is None:
        objects = sum(counts.get(name, 0) for name in stream.entities)
        calls = whole_calls(stream, counts)
    else:
        objects = min(sample, counts.get(entity, 0)) if counts.get(entity) else sample
        calls = objects * stream.calls_per_object
    seconds, limit = duration(connection, manifest, calls + CHECKS)
    return AccountCost(
        connection=connection.name,
        objects=objects,
        calls=calls + CHECKS,
        per_finding=stream.calls_per_object,
        seconds=seconds,
        limit=limit,
    )


def whole_calls(stream: Stream, counts: Mapping[str, int]) -> int:
    """Calls of a full read: what few objects cost, and one for so many more of each entity."""
    share = stream.objects_per_call or stream.page_size_max
    return stream.full_read_calls + sum(math.ceil(counts.get(name, 0) / share) for name in stream.entities)


def duration(connection: Connection, manifest: Manifest, calls: int) -> tuple[int, str | None]:
    """Seconds that people's part of the limits needs for so many calls, and the limit that decides.

    A window's first calls cost no time: what fits into one is allowed at once.
    """
    longest, decides = 0, None
    for limit in manifest.limits:
        if limit.paths:
            continue
        granted = connection.quotas.get(limit.name, limit.calls)
        share = max(1, granted * manifest.reserve_pct // 100)
        seconds = (math.ceil(calls / share) - 1) * limit.per_s
        if seconds > longest:
            longest, decides = seconds, limit.name
    return longest, decides


def spoken(seconds: int) -> str:
    """A length of time for people."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 2 * 3_600:
        return f"about {math.ceil(seconds / 60)} minutes"
    if seconds < 2 * DAY_S:
        return f"about {math.ceil(seconds / 3_600)} hours"
    return f"about {math.ceil(seconds / DAY_S)} days"
