"""The work of the engine: the handler with the configuration of the moment, and what it waits for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import ValidationError

from bus.core.configuration import Flow
from bus.core.configuration.documents import from_published
from bus.core.errors import RecordError, SettingsError, TransientError
from bus.runtime import metrics
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.follow import Documents
from bus.runtime.publisher import Outgoing
from schemas.system import Cause
from services.processors.handler import STAGE, Handler
from services.processors.routes import NOTHING, Routes, compile_routes

BEHIND_S = 5.0
"""How long an event of an unknown connection waits for the configuration that made it."""
RETRY_S = 1.0

log = logging.getLogger(__name__)


class ConfigurationBehind(TransientError):
    """An event of a connection this process has not read of yet."""

    def __init__(self, connection: str) -> None:
        super().__init__(f"connection {connection} is not in the configuration yet")
        self.connection = connection


class ConfigurationUnread(TransientError):
    """Partitions were taken, and the configuration has not been read to its end since."""


class Versions(Protocol):
    """The part of a ConfigFollower that is waited on."""

    async def refresh(self) -> None:
        """Returns when what was committed before the call is taken."""
        ...

    async def wait_version(self, version: int) -> Documents:
        """Returns when the configuration is at least this version."""
        ...


class Processing:
    """Handles events at one configuration version after another."""

    def __init__(self, codec: Codec, wait_for: Callable[[str, Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
        self.routes: Routes = NOTHING
        self.versions: Versions | None = None
        """Set by the composition root once the follower exists."""
        self._codec = codec
        self._wait_for = wait_for
        self._handler = Handler(codec, _tally, _aside)
        self._gone: set[str] = set()
        self._unreadable: dict[int, RecordError] = {}
        self._assignments = 0
        self._read_for = 0
        """The newest assignment the configuration was read to its end for."""

    def assigned(self) -> None:
        """Partitions were taken: no event of them before the configuration is read to the end it has then (law 19)."""
        self._assignments += 1

    async def take(self, documents: Documents) -> None:
        """A complete configuration version. Raises SettingsError when this release cannot read it."""
        try:
            configuration = from_published(documents.tables, documents.connections, documents.flows)
        except (ValidationError, KeyError) as error:
            raise SettingsError(f"configuration {documents.version} cannot be read: run bus apply with this release") from error
        self.routes = compile_routes(configuration, documents.version)
        self._gone.clear()
        log.info("configuration", extra={"version": documents.version, "flows": len(configuration.flows)})

    def handle(self, topic: str, key: bytes | None, value: bytes | None) -> Sequence[Outgoing]:
        """Commands and dead letters of one event. Raises TransientError when it must wait."""
        text = (key or b"").decode("utf-8", "replace")
        connection = text.partition("|")[0]
        if self._read_for < self._assignments:
            raise ConfigurationUnread("the configuration is read to its end first")
        if value is not None and connection not in self.routes.connections and connection not in self._gone:
            raise ConfigurationBehind(connection)
        try:
            return self._handler.handle(topic, text, value, self.routes)
        except SchemaUnknown as unknown:
            error = self._unreadable.get(unknown.schema_id)
            if error is None or value is None:
                raise
            return [self._handler.unreadable(text, value, error)]

    async def wait(self, error: TransientError) -> None:
        """Until `handle` may be tried again."""
        if isinstance(error, ConfigurationUnread):
            await self._read_to_its_end()
        elif isinstance(error, ConfigurationBehind):
            await self._wait_for_configuration(error.connection)
        elif isinstance(error, SchemaUnknown):
            await self._wait_for("registry", lambda: self._learn(error.schema_id))
        else:
            await asyncio.sleep(error.retry_after_s or RETRY_S)

    async def _read_to_its_end(self) -> None:
        begun = self._assignments  # partitions taken meanwhile need another reading
        if self.versions is not None:
            await self._wait_for("end of the configuration", self.versions.refresh)
        self._read_for = max(self._read_for, begun)

    async def _wait_for_configuration(self, connection: str) -> None:
        """A poller may see a new connection before this process does. One that stays unknown was removed: no flow reads it."""
        try:
            async with asyncio.timeout(BEHIND_S):
                if self.versions is not None:
                    await self.versions.wait_version(self.routes.version + 1)
        except TimeoutError:
            log.info("events of a connection that is not configured", extra={"connection": connection})
            self._gone.add(connection)

    async def _learn(self, schema_id: int) -> None:
        try:
            await self._codec.learn(schema_id)
        except RecordError as error:
            self._unreadable[schema_id] = error


def _tally(flow: Flow, action: str, observed_at: datetime) -> None:
    metrics.observe("bus_event_seconds", max(0.0, time.time() - observed_at.timestamp()), flow=flow.name)
    metrics.count("bus_events_total", flow=flow.name, action=action)


def _aside(connection: str, cause: Cause) -> None:
    metrics.count("bus_dead_letters_total", stage=STAGE, connection=connection, cause=str(cause))
