"""What the command line asks of the services, on `bus.requests`.

Every argument is text; one that was not given is not there. Requests are idempotent: whoever reads one twice does it once.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import Configuration, Connection, Flow
from bus.core.errors import SettingsError
from bus.kit.manifest import Stream
from bus.kit.registry import manifest_of
from bus.runtime.codec import Codec
from bus.runtime.published import read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from schemas.system import ObjectRef, RequestKind, RequestRecord

KEYS_MAX = 500
"""Keys of one request; more make more requests."""


def request(
    kind: RequestKind, connection: str, args: Mapping[str, str] | None = None, *, sealed: bytes | None = None
) -> RequestRecord:
    """A request with an id of its own. `connection` is the account whose owner acts on it."""
    return RequestRecord(
        kind=kind, id=str(uuid.uuid4()), connection=connection, args=dict(args or {}), sealed=sealed, made_at=SystemClock().now()
    )


def request_records(settings: BusSettings, codec: Codec, requests: Sequence[RequestRecord]) -> list[Outgoing]:
    """Requests as records for the slots of their connections."""
    return [
        Outgoing(
            topic=topics.REQUESTS,
            partition=topics.slot_of(item.connection, settings.slots),
            key=item.connection,
            value=codec.encode(topics.REQUESTS, item),
        )
        for item in requests
    ]


async def ask(settings: BusSettings, codec: Codec, requests: Sequence[RequestRecord]) -> None:
    """Publishes requests, all or none."""
    publisher = Publisher(settings, f"{settings.client_prefix}-requests-{uuid.uuid4()}")
    await publisher.open()
    try:
        await publisher.commit(request_records(settings, codec, requests))
    finally:
        await publisher.close()


# --- one function per request -------------------------------------------------------------------------------------------------


def brake(connection: str, *, close: bool, flow: str | None, reason: str | None) -> RequestRecord:
    """Stops or lets go the writes of a target account, or of one flow to it."""
    return request(RequestKind.BRAKE, connection, _args(action="close" if close else "open", flow=flow, reason=reason))


def release(
    connection: str, *, flow: str | None = None, cause: str | None = None, keys: Sequence[str] = ()
) -> list[RequestRecord]:
    """Tries what waits at a target account now. `keys` are source keys (`connection|entity|id`); none: all of them."""
    return _keyed(RequestKind.RELEASE, connection, _args(flow=flow, cause=cause), keys)


def replay(
    connection: str,
    *,
    flow: str | None = None,
    entity: str | None = None,
    keys: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    rate_per_s: int | None = None,
    repair: bool = False,
    reason: str | None = None,
) -> list[RequestRecord]:
    """Sends what the log holds of a source account through its flows again. `keys` are source ids; none: all objects.

    The ids of the requests are those of the jobs they become.
    """
    args = _args(
        flow=flow,
        entity=entity,
        since=_instant(since),
        until=_instant(until),
        rate_per_s=None if rate_per_s is None else str(rate_per_s),
        repair="true" if repair else None,
        reason=reason,
    )
    return _keyed(RequestKind.REPLAY, connection, args, keys)


def resync(
    connection: str,
    *,
    stream: str | None = None,
    entity: str | None = None,
    keys: Sequence[str] = (),
    since: datetime | None = None,
    publish: str | None = None,
    confirm_deletes: bool = False,
) -> list[RequestRecord]:
    """Reads a source account anew at its vendor. `publish`: `changed` (as good as None) or `all`: an event per object."""
    args = _args(
        stream=stream,
        entity=entity,
        since=_instant(since),
        publish=publish,
        confirm_deletes="true" if confirm_deletes else None,
    )
    return _keyed(RequestKind.RESYNC, connection, args, keys)


def cancel(connection: str, job: str) -> RequestRecord:
    """Ends a job of a source account where it stands."""
    return request(RequestKind.CANCEL, connection, {"id": job})


def link(connection: str, *, entity: str, source: ObjectRef, external_id: str | None, facet: str | None) -> RequestRecord:
    """Joins a source object with an object of a target account; without an id it says that nothing was made there."""
    key = topics.event_key(source.connection, source.entity, source.id)
    return request(
        RequestKind.LINK, connection, _args(entity=entity, source=key, facet=facet) | {"external_id": external_id or ""}
    )


def _args(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value}


def _instant(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at is not None else None


def _keyed(kind: RequestKind, connection: str, args: Mapping[str, str], keys: Sequence[str]) -> list[RequestRecord]:
    if not keys:
        return [request(kind, connection, args)]
    parts = [keys[begin : begin + KEYS_MAX] for begin in range(0, len(keys), KEYS_MAX)]
    return [request(kind, connection, {**args, "keys": msgspec.json.encode(part).decode()}) for part in parts]


# --- what may be asked for ----------------------------------------------------------------------------------------------------


def require_connection(configuration: Configuration, name: str) -> Connection:
    """A published connection. Raises SettingsError naming those there are."""
    if name not in configuration.connections:
        raise SettingsError(f"unknown connection {name!r}: there are {_names(configuration.connections)}")
    return configuration.connections[name]


def require_flow(configuration: Configuration, name: str, *, source: str | None = None, target: str | None = None) -> Flow:
    """A published flow, from and to the connections given. Raises SettingsError that says which flows would do."""
    flows = configuration.flows
    if name not in flows:
        raise SettingsError(f"unknown flow {name!r}: there are {_names(flows)}")
    for wanted, which, end in ((source, "from", flows[name].from_.connection), (target, "to", flows[name].to.connection)):
        if wanted is not None and end != wanted:
            ends = {item.name for item in flows.values() if wanted == (item.from_ if which == "from" else item.to).connection}
            raise SettingsError(
                f"flow {name!r} goes {which} {end}, not {which} {wanted}: the flows {which} {wanted} are {_names(ends)}"
            )
    return flows[name]


def require_stream(connection: Connection, stream: str) -> Stream:
    """A stream of a connection's system. Raises SettingsError naming those there are."""
    streams = {item.name: item for item in manifest_of(connection.system).streams}
    if stream not in streams:
        raise SettingsError(f"{connection.name} has no stream {stream!r}: there are {', '.join(streams)}")
    return streams[stream]


def require_entity(connection: Connection, entity: str) -> str:
    """An entity that is read from a connection. Raises SettingsError naming those there are."""
    entities = sorted({name for item in manifest_of(connection.system).streams for name in item.entities})
    if entity not in entities:
        raise SettingsError(f"nothing called {entity!r} is read from {connection.name}: there are {', '.join(entities)}")
    return entity


def _names(names: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


async def poll_now(settings: BusSettings, codec: Codec, connection: str, stream: str | None) -> None:
    """Asks the poller that owns a connection to poll. Raises SettingsError for an unknown connection or stream."""
    known = require_connection((await read_published(settings, codec)).configuration, connection)
    args = {"stream": require_stream(known, stream).name} if stream else {}
    await ask(settings, codec, [request(RequestKind.POLL_NOW, connection, args)])
