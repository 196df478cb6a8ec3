"""What pollers and sinks share in one process: codec, keys, configuration, grants, clock."""

import asyncio
from collections.abc import Awaitable, Callable

from bus.core.clock import Clock, SystemClock
from bus.core.configuration import Connection
from bus.core.topics import slot_of
from bus.kit.budget import Share
from bus.runtime.codec import Codec
from bus.runtime.connections import OpenConnection, connection_of, open_connection
from bus.runtime.follow import ConfigFollower, Documents, GrantFollower, KnownObjects, SubjectKeys
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings


class Environment:
    """Everything a slot's work needs that is not the slot's own."""

    def __init__(self, settings: BusSettings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.master = MasterKey.load(settings)
        self.registry = RegistryClient.of(settings)
        self.codec = Codec(self.registry)
        self.privacy = Privacy(self.master, clock=self.clock)
        self.keys = SubjectKeys(settings, self.codec, self.privacy)
        self.config = ConfigFollower(settings, self.codec, self._changed)
        self.grants = GrantFollower(settings, self.codec, self.master)
        self.known = KnownObjects(settings, self.codec)
        self._listeners: list[Callable[[Documents], Awaitable[None]]] = []

    async def start(self) -> None:
        """Reads keys, configuration and grants to their ends, with an open codec; waits while Kafka is away."""
        await asyncio.gather(self.keys.start(), self.grants.start(), self.known.start())
        await self.config.start()

    async def stop(self) -> None:
        """Ends following."""
        await asyncio.gather(self.keys.stop(), self.config.stop(), self.grants.stop(), self.known.stop())
        await self.registry.close()

    def on_configuration(self, listener: Callable[[Documents], Awaitable[None]]) -> None:
        """Calls back after each complete version."""
        self._listeners.append(listener)

    async def _changed(self, documents: Documents) -> None:
        for listener in self._listeners:
            await listener(documents)

    def connections_of(self, slot: int) -> list[Connection]:
        """The connections whose slot this is."""
        documents = self.config.current.connections
        return [
            connection_of(document) for name, document in sorted(documents.items()) if slot_of(name, self.settings.slots) == slot
        ]

    def open(self, connection: Connection, share: Share) -> OpenConnection:
        """The connector of a connection."""
        return open_connection(connection, self.grants.tokens(connection.name), self.clock, share)

    def not_ready(self) -> list[str]:
        """Reasons why the process cannot work now."""
        return [reason for reason in (self.keys.reason, self.config.reason, self.grants.reason, self.known.reason) if reason]

    async def failure(self) -> None:
        """Raises what ended a follower; never returns otherwise."""
        waiting = [asyncio.ensure_future(part.failure()) for part in (self.keys, self.config, self.grants, self.known)]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waiting:
                task.cancel()
