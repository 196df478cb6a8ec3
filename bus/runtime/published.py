"""What configuration is published, for those who look once and do not follow."""

import msgspec

from bus.core.configuration import Configuration
from bus.core.configuration.documents import from_published
from bus.runtime.codec import Codec
from bus.runtime.follow import ConfigFollower
from bus.runtime.settings import BusSettings


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What is published."""

    version: int
    digest: str | None
    configuration: Configuration


async def read_published(settings: BusSettings, codec: Codec) -> Published:
    """The newest complete version. Raises TransientError when Kafka is away, SettingsError when nothing can read it."""
    follower = ConfigFollower(settings, codec)
    try:
        await follower.start()
        current = follower.current
    finally:
        await follower.stop()
    configuration = from_published(current.tables, current.connections, current.flows)
    return Published(version=current.version, digest=current.digest, configuration=configuration)
