"""What the command line asks of the services, on `bus.requests`."""

import uuid
from collections.abc import Mapping, Sequence

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.errors import SettingsError
from bus.kit.registry import manifest_of
from bus.runtime.codec import Codec
from bus.runtime.publication import read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from schemas.system import RequestKind, RequestRecord


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


async def poll_now(settings: BusSettings, codec: Codec, connection: str, stream: str | None) -> None:
    """Asks the poller that owns a connection to poll. Raises SettingsError for an unknown connection or stream."""
    known = (await read_published(settings, codec)).configuration.connections
    if connection not in known:
        raise SettingsError(f"unknown connection {connection!r}: there are {', '.join(sorted(known)) or 'none'}")
    streams = [item.name for item in manifest_of(known[connection].system).streams]
    if stream is not None and stream not in streams:
        raise SettingsError(f"{connection} has no stream {stream!r}: there are {', '.join(streams)}")
    await ask(settings, codec, [request(RequestKind.POLL_NOW, connection, {"stream": stream} if stream else {})])
