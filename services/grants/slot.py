"""The grants of one slot: takeover, one keeper per connection, and the logins people asked for."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError

from bus.core import topics
from bus.core.configuration import Connection
from bus.core.errors import ManifestError, MappingError, SettingsError, TransientError
from bus.kit.auth import OAuth2
from bus.kit.registry import LoadedConnector, load
from bus.runtime import metrics
from bus.runtime.environment import Environment
from bus.runtime.grants import grants_box, open_login
from bus.runtime.publisher import CommitAborted, Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.retry import wait_s
from bus.runtime.secrets import load_secret, require
from bus.runtime.table import PartitionTable
from schemas.system import GrantRecord, RequestKind, RequestRecord
from services.grants.keeper import Bootstrap, Keeper, Unsaved

T = TypeVar("T")

SECRET_LOOK_S = 30.0
"""How often the secret of a connection that waits is looked at again."""
COMMIT_TRIES_MAX = 5
COMMIT_WAIT_MAX_S = 5.0

Rescue: TypeAlias = dict[str, Unsaved]
"""Tokens the vendor gave and Kafka has not taken, by connection: they outlive a takeover within the process."""

log = logging.getLogger(__name__)


class GrantSlot:
    """The work of one slot (see bus.runtime.slotwork)."""

    def __init__(
        self,
        environment: Environment,
        slot: int,
        rescue: Rescue,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        loader: Callable[[str], LoadedConnector] = load,
    ) -> None:
        self._env = environment
        self._slot = slot
        self._rescue = rescue
        self._transport = transport
        self._loader = loader
        self._publisher = Publisher(environment.settings, f"bus-grants-{slot}")
        self._table = PartitionTable(environment.settings, f"grants-{slot}")
        self._requests = LogReader(environment.settings, f"grants-requests-{slot}")
        self._keepers: dict[str, Keeper] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._waiting_logins: list[tuple[str, RequestRecord, int]] = []

    async def take_over(self) -> None:
        """1. fence the old owner; 2. read its grants to the end asked for after that; 3. requests from their beginning."""
        await self._publisher.open()  # 1
        await self._table.load(topics.GRANTS, self._slot)  # 2
        await self._table.close()
        await self._requests.assign(topics.REQUESTS, {self._slot: BEGINNING})  # 3

    async def run(self) -> None:
        """Keeps every grant of the slot until cancelled; one connection's trouble is its own."""
        async with asyncio.TaskGroup() as group:
            for connection in self._env.connections_of(self._slot):
                self._wakes[connection.name] = asyncio.Event()
                group.create_task(self._serve(connection))
            group.create_task(self._read_requests())

    async def close(self) -> None:
        """Lets everything go; unsaved tokens stay in the rescue."""
        for name, keeper in self._keepers.items():
            if keeper.unsaved is not None:
                self._rescue[name] = keeper.unsaved
        await self._publisher.close()
        await self._table.close()
        await self._requests.close()

    # --- one connection ----------------------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> None:
        name = connection.name
        while True:
            try:
                keeper = self._keepers.get(name) or self._keeper(connection)
                keeper.offer(self._bootstrap(connection))
                wait = min(await _to_its_end(self._advance(keeper, name)), SECRET_LOOK_S)
                metrics.put("bus_connection_paused", 0, service="grants", connection=name)
            except (SettingsError, ManifestError) as error:
                log.error("connection is paused", extra={"connection": name, "reason": str(error)})
                metrics.put("bus_connection_paused", 1, service="grants", connection=name)
                wait = SECRET_LOOK_S
            await self._sleep(name, wait)

    async def _advance(self, keeper: Keeper, name: str) -> float:
        await self._log_in(keeper, name)
        return await keeper.step()

    async def _sleep(self, name: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wakes[name].wait()
        except TimeoutError:
            return
        self._wakes[name].clear()

    def _keeper(self, connection: Connection) -> Keeper:
        loaded = self._loader(connection.system)
        secret = load_secret(self._env.settings, connection.secret)
        desk = OAuth2(
            loaded.manifest.auth,
            token_url=token_url_of(connection, loaded),
            client_id=require(secret, connection.secret, "client_id"),
            client_secret=require(secret, connection.secret, "client_secret"),
            clock=self._env.clock,
            transport=self._transport,
        )
        known = self._table.get(connection.name)
        keeper = Keeper(
            connection.name,
            loaded.manifest.auth,
            desk,
            grants_box(self._env.master),
            clock=self._env.clock,
            commit=self._commit,
            record=self._env.codec.decode(topics.GRANTS, known) if known is not None else None,
            unsaved=self._rescue.pop(connection.name, None),
        )
        self._keepers[connection.name] = keeper
        return keeper

    def _bootstrap(self, connection: Connection) -> Bootstrap | None:
        token = load_secret(self._env.settings, connection.secret).get("refresh_token")
        if token is None or not token.get_secret_value():
            return None
        hasher = self._env.master.tenant_hasher(f"grants|{connection.name}")
        return Bootstrap(token, hasher.hex(token.get_secret_value().encode(), 16))

    async def _commit(self, record: GrantRecord) -> None:
        """Commits one record; an aborted transaction is committed again from memory, never by asking the vendor again."""
        value = self._env.codec.encode(topics.GRANTS, record)
        outgoing = Outgoing(topics.GRANTS, self._slot, record.connection, value)
        for attempt in range(1, COMMIT_TRIES_MAX + 1):
            try:
                await self._publisher.commit([outgoing])
            except CommitAborted:
                if attempt == COMMIT_TRIES_MAX:
                    raise
                await asyncio.sleep(wait_s(attempt, longest_s=COMMIT_WAIT_MAX_S))
            else:
                return

    # --- logins ------------------------------------------------------------------------------------------------------------

    async def _read_requests(self) -> None:
        while True:
            try:
                for record in await self._requests.take(wait_s=0.5):
                    await self._take_request(record)
            except TransientError as error:
                log.warning("requests wait", extra={"slot": self._slot, "reason": str(error)})
                await asyncio.sleep(error.retry_after_s or 1.0)

    async def _take_request(self, record: Record) -> None:
        if record.value is None:
            return
        try:
            request: RequestRecord = await self._env.codec.read(topics.REQUESTS, record.value)
        except MappingError as error:
            log.error("a request does not read", extra={"offset": record.offset, "reason": str(error)})
            return
        if request.kind is RequestKind.LOGIN and request.connection in self._wakes:
            self._waiting_logins.append((request.connection, request, record.offset))
            self._wakes[request.connection].set()

    async def _log_in(self, keeper: Keeper, name: str) -> None:
        """The newest waiting login of a connection; older ones of it are overtaken."""
        mine = [entry for entry in self._waiting_logins if entry[0] == name]
        self._waiting_logins = [entry for entry in self._waiting_logins if entry[0] != name]
        if mine:
            _, request, offset = mine[-1]
            await keeper.login(open_login(self._env.master, request), offset)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end even when cancelled: a refresh that was asked for must be stored, or its tokens are lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the last step before a hand-over failed", extra={"reason": str(error)})
        raise


def token_url_of(connection: Connection, loaded: LoadedConnector) -> str:
    """The connection's own token URL, else the manifest's with its placeholders filled. Raises SettingsError."""
    if connection.token_url:
        return connection.token_url
    try:
        config = loaded.config_class.model_validate(connection.config)
    except ValidationError as error:
        raise SettingsError(f"connection {connection.name}: config: {error.errors()[0]['msg']}") from error
    return loaded.manifest.auth.token_url.format(**config.model_dump())
