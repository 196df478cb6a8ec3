"""How many calls a connection's polling costs a day against the vendor's limits (law 13: going over is a defect of ours)."""

from collections.abc import Iterable, Mapping

import msgspec

from bus.core.configuration import Configuration, Connection
from bus.core.topics import DOCUMENTS
from bus.kit.budget import Part, part_of
from bus.kit.manifest import Limit, Manifest, Stream
from bus.runtime.validation.systems import Checked, Systems

DAY_S = 86_400


class StreamForecast(msgspec.Struct, frozen=True, kw_only=True):
    """Polling of one stream."""

    name: str
    poll_s: int
    polls: int
    """Per day."""
    calls: int
    """Per day, of polls that find nothing."""


class LimitForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One of the vendor's limits, over a day."""

    name: str
    calls: int
    """What polling needs a day."""
    share: int
    """What polling may use a day."""
    limit: int
    """What the vendor allows a day."""

    @property
    def fits(self) -> bool:
        """Whether polling stays within its share."""
        return self.calls <= self.share


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """One connection."""

    connection: str
    system: str
    streams: tuple[StreamForecast, ...]
    limits: tuple[LimitForecast, ...]

    @property
    def calls(self) -> int:
        """Calls a day."""
        return sum(stream.calls for stream in self.streams)


def forecasts(configuration: Configuration, systems: Systems) -> list[Forecast]:
    """One per connection whose system is known."""
    found = []
    for connection in configuration.connections.values():
        system = systems.get(connection.system)
        if system is not None:
            found.append(_forecast(connection, system.manifest, entities_polled(configuration, connection.name)))
    return found


def entities_polled(configuration: Configuration, connection: str) -> frozenset[str]:
    """What must be read of an account: what flows read from it, and what they match or create in it."""
    polled: set[str] = set()
    for flow in configuration.flows.values():
        if flow.from_.connection == connection:
            polled.add(flow.from_.entity)
        if flow.to.connection == connection:
            polled |= {"customer", "product"} if flow.to.entity in DOCUMENTS else {flow.to.entity}
    return frozenset(polled)


def _forecast(connection: Connection, manifest: Manifest, polled: frozenset[str]) -> Forecast:
    streams = tuple(_stream(connection, stream) for stream in manifest.streams if polled & set(stream.entities))
    calls = sum(stream.calls for stream in streams)
    part = part_of(manifest, "poll")
    limits = tuple(_limit(limit, calls, part) for limit in _granted(connection, manifest) if not limit.paths)
    return Forecast(connection=connection.name, system=connection.system, streams=streams, limits=limits)


def _granted(connection: Connection, manifest: Manifest) -> list[Limit]:
    """The vendor's limits, with the quotas it granted this account."""
    return [limit.model_copy(update={"calls": connection.quotas.get(limit.name, limit.calls)}) for limit in manifest.limits]


def _stream(connection: Connection, stream: Stream) -> StreamForecast:
    poll_s = connection.poll_interval_s(stream.name, stream.entities, stream.poll_s)
    polls = -(-DAY_S // poll_s)
    return StreamForecast(name=stream.name, poll_s=poll_s, polls=polls, calls=polls * stream.calls_per_poll)


def _limit(limit: Limit, calls: int, part: Part) -> LimitForecast:
    allowed = limit.calls * DAY_S // limit.per_s
    return LimitForecast(name=limit.name, calls=calls, share=part.a_day(limit), limit=allowed)


def check_forecasts(checked: Checked, found: Iterable[Forecast]) -> None:
    """Refuses a schedule above a limit."""
    connections: Mapping[str, Connection] = checked.configuration.connections
    for forecast in found:
        for limit in forecast.limits:
            if limit.fits:
                continue
            connection = connections[forecast.connection]
            place = checked.loaded.places[connection.kind, connection.name]
            path = ("config", "poll_s") if ("config", "poll_s") in place.lines else ("poll_s",)
            worst = max(forecast.streams, key=lambda stream: stream.calls)
            what = (
                f"polling takes {limit.calls} calls a day, its share of the vendor's limit {limit.name!r} "
                f"({limit.limit} a day) is {limit.share}"
            )
            fix = f"Poll less often: {worst.name} alone takes {worst.calls} calls at every {worst.poll_s} s."
            checked.add(connection, path, what, fix)
