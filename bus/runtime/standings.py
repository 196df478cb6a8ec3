"""What stands at the accounts, for people: standings chosen by flow, cause, key and time, and brakes. Read from `bus.state`."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.newest import newest_values
from bus.runtime.settings import BusSettings
from schemas.system import BrakeRecord, Cause, Standing, StandingRecord

WAITS = frozenset({Standing.PARKED, Standing.WAITING})
DEAD = frozenset({Standing.DEAD})


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which objects an operator means. What is not given does not choose."""

    connection: str | None = None
    """Target account."""
    flow: str | None = None
    cause: Cause | None = None
    keys: frozenset[str] = frozenset()
    """Source keys, `connection|entity|id`."""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing chooses."""
        return self == Selection()

    def takes(self, *, connection: str, flow: str | None, cause: Cause | None, key: str, at: datetime) -> bool:
        """Whether it means an object of which this is so; `at` is within [since, until)."""
        return (
            self.connection in (None, connection)
            and self.flow in (None, flow)
            and self.cause in (None, cause)
            and (not self.keys or key in self.keys)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


class Stands(msgspec.Struct, frozen=True, kw_only=True):
    """One standing, and the account at which it stands."""

    connection: str
    record: StandingRecord

    @property
    def key(self) -> str:
        """The source object's key."""
        source = self.record.source
        return topics.event_key(source.connection, source.entity, source.id)

    @property
    def since(self) -> datetime:
        """When it came to stand there."""
        return self.record.parked_at or self.record.settled_at


async def standing_objects(
    settings: BusSettings, codec: Codec, wanted: frozenset[Standing], selection: Selection
) -> list[Stands]:
    """The objects that stand so now, oldest first. Times are those since when they wait, or were settled."""
    values = await newest_values(settings, codec, topics.STATE, _keys("standing", selection))
    found = [
        Stands(connection=value.connection, record=value.standing)
        for value in values.values()
        if value.standing is not None and value.standing.standing in wanted
    ]
    chosen = (
        item
        for item in found
        if selection.takes(
            connection=item.connection,
            flow=item.record.flow,
            cause=item.record.cause or Cause.UNKNOWN,
            key=item.key,
            at=item.since,
        )
    )
    return sorted(chosen, key=lambda item: (item.since, item.record.flow, item.key))


def _keys(kind: str, selection: Selection) -> Callable[[str], bool]:
    """Keys of bus.state that may be meant: what they tell already is not decoded."""

    def wanted(key: str) -> bool:
        parts = topics.split_key(key)
        return (
            len(parts) == 6
            and parts[0] == kind
            and selection.connection in (None, parts[1])
            and selection.flow in (None, parts[2])
            and (not selection.keys or topics.event_key(*parts[3:6]) in selection.keys)
        )

    return wanted


class Brake(msgspec.Struct, frozen=True, kw_only=True):
    """One brake, and the account at which it is."""

    connection: str
    record: BrakeRecord


def is_brake_of(connection: str | None) -> Callable[[str], bool]:
    """Keys of brakes, of one account or of all."""

    def wanted(key: str) -> bool:
        parts = topics.split_key(key)
        return parts[0] == "brake" and connection in (None, parts[1])

    return wanted


async def brakes(settings: BusSettings, codec: Codec) -> list[Brake]:
    """All brakes that were ever open, the open ones first."""
    values = await newest_values(settings, codec, topics.STATE, is_brake_of(None))
    found = [Brake(connection=value.connection, record=value.brake) for value in values.values() if value.brake is not None]
    return sorted(found, key=lambda item: (not item.record.open, item.connection, item.record.flow))
