"""What the command line asks of the services, on `bus.requests`."""

import uuid

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.errors import SettingsError
from bus.kit.registry import manifest_of
from bus.runtime.codec import Codec
from bus.runtime.publication import read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from schemas.system import RequestKind, RequestRecord


async def poll_now(settings: BusSettings, codec: Codec, connection: str, stream: str | None) -> None:
    """Asks the poller that owns a connection to poll. Raises SettingsError for an unknown connection or stream."""
    known = (await read_published(settings, codec)).configuration.connections
    if connection not in known:
        raise SettingsError(f"unknown connection {connection!r}: there are {', '.join(sorted(known)) or 'none'}")
    streams = [item.name for item in manifest_of(known[connection].system).streams]
    if stream is not None and stream not in streams:
        raise SettingsError(f"{connection} has no stream {stream!r}: there are {', '.join(streams)}")
    request = RequestRecord(
        kind=RequestKind.POLL_NOW,
        id=str(uuid.uuid4()),
        connection=connection,
        args={"stream": stream} if stream else {},
        made_at=SystemClock().now(),
    )
    publisher = Publisher(settings, f"{settings.client_prefix}-requests-{request.id}")
    await publisher.open()
    try:
        record = Outgoing(
            topic=topics.REQUESTS,
            partition=topics.slot_of(connection, settings.slots),
            key=connection,
            value=codec.encode(topics.REQUESTS, request),
        )
        await publisher.commit([record])
    finally:
        await publisher.close()
