"""Follows topics that everybody reads: configuration, subject keys, grants. Each is read to its end first, then on.

A follower waits while Kafka or the registry is away and says so in its `reason`; it never ends a process for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from bus.core import topics
from bus.core.errors import AccessRevoked, TokenExpired, TransientError, Unavailable
from bus.kit.auth import Token
from bus.runtime import metrics
from bus.runtime.codec import Codec
from bus.runtime.grants import GrantState, grants_box, open_grant
from bus.runtime.kafka import OffsetLost
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings
from schemas.system import ConfigKind, ConfigRecord, CursorRecord, GrantRecord

RETRY_S = 1.0
TOKEN_WAIT_S = 30.0
"""How long a call waits for a grant that is being refreshed or not read yet."""

log = logging.getLogger(__name__)


class TopicFollower:
    """Reads all partitions of one topic, from the beginning to the end and on, and hands each record to `take`."""

    def __init__(self, settings: BusSettings, topic: str, take: Callable[[Record], Awaitable[None]]) -> None:
        self.topic = topic
        self.reason: str | None = f"{topic} is not read yet"
        """Why it is behind; None when it follows."""
        self._settings = settings
        self._take = take
        self._reader: LogReader | None = None
        self._task: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._taken: dict[tuple[str, int], int] = {}
        """Per partition the offset below which everything is taken or invisible for good."""
        self._moved = asyncio.Condition()

    async def start(self) -> None:
        """Begins in the background; `caught_up` tells when the first end is reached."""
        self._task = asyncio.ensure_future(self._follow())

    async def caught_up(self) -> None:
        """Returns when everything that stood there at the start has been taken. Raises what ended the follower."""
        waiting = asyncio.ensure_future(self._caught_up.wait())
        try:
            await asyncio.wait([waiting, *([self._task] if self._task is not None else [])], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self._caught_up.is_set():
            await self.failure()

    async def refresh(self) -> None:
        """Returns when everything is taken that stood there at the call, open transactions included.

        Raises TransientError when Kafka is away: call it again.
        """
        reader = self._reader
        if reader is None:
            raise Unavailable(self.reason or f"{self.topic} is not being read")
        ends = await reader.ends(self.topic)

        def there() -> bool:
            return self._reader is not reader or all(
                self._taken.get((self.topic, partition), 0) >= end for partition, end in ends.items()
            )

        async with self._moved:
            await self._moved.wait_for(there)
        if self._reader is not reader:
            raise Unavailable(f"{self.topic} is read anew")

    async def failure(self) -> None:
        """Raises what ended the follower, a bug in `take` for one; never returns while it follows."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
            self._task = None
        await self._close()

    async def _close(self) -> None:
        reader, self._reader = self._reader, None
        await self._tell()
        if reader is not None:
            await reader.close()

    async def _tell(self) -> None:
        """Where reading stands now, for those who wait in `refresh`."""
        self._taken = dict(self._reader.positions) if self._reader is not None else {}
        async with self._moved:
            self._moved.notify_all()

    async def _follow(self) -> None:
        places: dict[int, int] = {}
        while True:
            try:
                await self._read_on(places)
            except OffsetLost:
                places.clear()
                await self._close()
            except TransientError as error:
                self.reason = f"{self.topic}: {error}"
                log.warning("following waits", extra={"topic": self.topic, "reason": str(error)})
                await self._close()
                await asyncio.sleep(error.retry_after_s or RETRY_S)

    async def _read_on(self, places: dict[int, int]) -> None:
        """From `places` (empty: the beginning) on, without end; `places` is moved after a record is taken, so none is skipped."""
        self._reader = reader = LogReader(self._settings, f"follow-{self.topic}")
        for partition in await reader.partitions(self.topic):
            places.setdefault(partition, BEGINNING)
        await reader.assign(self.topic, places)
        async for batch in reader.read_to(self.topic, await reader.ends(self.topic)):
            await self._take_all(batch, places)
        self.reason = None
        self._caught_up.set()
        while True:
            await self._tell()
            await self._take_all(await reader.take(wait_s=0.5), places)

    async def _take_all(self, batch: list[Record], places: dict[int, int]) -> None:
        for record in batch:
            await self._take(record)
            places[record.partition] = record.offset + 1


class Following:
    """What all that keep up with a topic share."""

    def __init__(self, settings: BusSettings, topic: str) -> None:
        self._follower = TopicFollower(settings, topic, self._take)

    @property
    def reason(self) -> str | None:
        """Why it is behind; None when it follows."""
        return self._follower.reason

    async def start(self) -> None:
        """Reads the topic to its end, then on: what was committed before this call is taken when it returns."""
        await self._follower.start()
        await self._follower.caught_up()

    async def failure(self) -> None:
        """Raises what ended following; never returns while it follows."""
        await self._follower.failure()

    async def refresh(self) -> None:
        """Returns when what was committed before this call is taken. Raises TransientError when Kafka is away."""
        await self._follower.refresh()

    async def stop(self) -> None:
        """Ends following."""
        await self._follower.stop()

    async def _take(self, record: Record) -> None:
        raise NotImplementedError


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one complete version: JSON documents by kind and name."""

    version: int = 0
    digest: str | None = None
    connections: Mapping[str, dict[str, Any]] = {}
    flows: Mapping[str, dict[str, Any]] = {}
    tables: Mapping[str, dict[str, Any]] = {}


class ConfigFollower(Following):
    """Follows bus.config. A version counts only when its VERSION record has come: half an apply is never seen (law 19)."""

    def __init__(
        self, settings: BusSettings, codec: Codec, on_change: Callable[[Documents], Awaitable[None]] | None = None
    ) -> None:
        super().__init__(settings, topics.CONFIG)
        self.current = Documents()
        self._codec = codec
        self._on_change = on_change
        self._staged: dict[tuple[ConfigKind, str], dict[str, Any]] = {}
        self._changed = asyncio.Condition()

    async def wait_version(self, version: int) -> Documents:
        """Returns when the configuration is at least this version."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.current.version >= version)
        return self.current

    async def _take(self, record: Record) -> None:
        if record.value is None:
            return
        await self.apply(await self._codec.read(topics.CONFIG, record.value))

    async def apply(self, record: ConfigRecord) -> None:
        """Takes one committed record."""
        if record.kind is ConfigKind.UNKNOWN:
            log.warning("a configuration document of an unknown kind is left out", extra={"document": record.name})
        elif record.kind is not ConfigKind.VERSION:
            place = (record.kind, record.name)
            if record.document is None:
                self._staged.pop(place, None)
            else:
                self._staged[place] = msgspec.json.decode(record.document)
        elif record.version > self.current.version:
            await self._complete(record)

    async def _complete(self, record: ConfigRecord) -> None:
        self.current = Documents(
            version=record.version,
            digest=record.digest,
            connections=self._of(ConfigKind.CONNECTION),
            flows=self._of(ConfigKind.FLOW),
            tables=self._of(ConfigKind.TABLE),
        )
        metrics.put("bus_config_version", record.version)
        if self._on_change is not None:
            await self._on_change(self.current)
        async with self._changed:
            self._changed.notify_all()

    def _of(self, kind: ConfigKind) -> dict[str, dict[str, Any]]:
        return {name: document for (found, name), document in self._staged.items() if found is kind}


class SubjectKeys(Following):
    """Feeds a Privacy with bus.subject-keys."""

    def __init__(self, settings: BusSettings, codec: Codec, privacy: Privacy) -> None:
        super().__init__(settings, topics.SUBJECT_KEYS)
        self._codec = codec
        self._privacy = privacy

    async def _take(self, record: Record) -> None:
        value = None if record.value is None else await self._codec.read(topics.SUBJECT_KEYS, record.value)
        self._privacy.apply(record.key.decode(), value)


class KnownObjects(Following):
    """Follows what pollers count (bus.cursors): how many objects of each entity polling knows, as committed with the cursors.

    One side of the books: the other are the standings of the flows that read these objects (law 17).
    """

    def __init__(self, settings: BusSettings, codec: Codec) -> None:
        super().__init__(settings, topics.CURSORS)
        self._codec = codec
        self._newest: dict[str, CursorRecord] = {}

    def count(self, connection: str, entity: str) -> int | None:
        """Objects of an entity; None before the first count of a connection."""
        record = self._newest.get(connection)
        return record.known.get(entity, 0) if record is not None else None

    async def _take(self, record: Record) -> None:
        if record.value is not None:
            self.apply(await self._codec.read(topics.CURSORS, record.value))

    def apply(self, record: CursorRecord) -> None:
        """Takes one committed record. Every stream of a connection counts all of it: the newest count is right."""
        before = self._newest.get(record.connection)
        if record.known_at is not None and (before is None or before.known_at is None or record.known_at >= before.known_at):
            self._newest[record.connection] = record


class GrantFollower(Following):
    """Follows bus.grants: the newest grant of every connection, opened."""

    def __init__(self, settings: BusSettings, codec: Codec, master: MasterKey) -> None:
        super().__init__(settings, topics.GRANTS)
        self._codec = codec
        self._box = grants_box(master)
        self._records: dict[str, GrantRecord] = {}
        self._tokens: dict[str, Token] = {}
        self._changed = asyncio.Condition()

    def tokens(self, connection: str, *, wait_s: float = TOKEN_WAIT_S) -> "GrantTokens":
        """The TokenSource of one connection."""
        return GrantTokens(self, connection, wait_s=wait_s)

    async def _take(self, record: Record) -> None:
        name = record.key.decode()
        if record.value is None:
            await self.apply(name, None)
        else:
            await self.apply(name, await self._codec.read(topics.GRANTS, record.value))

    async def apply(self, connection: str, record: GrantRecord | None) -> None:
        """Takes one committed record."""
        self._tokens.pop(connection, None)
        if record is None:
            self._records.pop(connection, None)
        else:
            self._records[connection] = record
        async with self._changed:
            self._changed.notify_all()

    def state(self, connection: str) -> GrantRecord | None:
        """The newest record, sealed."""
        return self._records.get(connection)

    def token(self, connection: str) -> Token | None:
        """The newest access token; None while there is none. Raises AccessRevoked when a login is needed."""
        record = self._records.get(connection)
        if record is None:
            return None
        if record.state == GrantState.LOGIN_NEEDED:
            raise AccessRevoked(f"{connection}: a person must log in again ({record.detail or 'no reason given'})")
        found = self._tokens.get(connection)
        if found is None and record.expires_at is not None:
            tokens = open_grant(self._box, record)
            found = Token(version=record.version, access_token=tokens.access_token, expires_at=record.expires_at)
            self._tokens[connection] = found
        return found

    async def wait_token(self, connection: str, older_than: int, wait_s: float) -> Token | None:
        """The token as soon as its version is above `older_than`; None after `wait_s`. Raises AccessRevoked."""

        def ready() -> bool:
            found = self.token(connection)
            return found is not None and found.version > older_than

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(ready)
                return self.token(connection)
        return None


class GrantTokens:
    """TokenSource of one connection: the grants service refreshes, everybody else waits for its record."""

    def __init__(self, grants: GrantFollower, connection: str, *, wait_s: float = TOKEN_WAIT_S) -> None:
        self._grants = grants
        self._connection = connection
        self._wait_s = wait_s

    async def current(self) -> Token:
        """The newest token. Raises AccessRevoked, or Unavailable when none has come in time."""
        found = self._grants.token(self._connection) or await self._grants.wait_token(self._connection, -1, self._wait_s)
        if found is None:
            raise Unavailable(f"{self._connection}: no grant yet: is the grants service running?")
        return found

    async def newer_than(self, version: int) -> Token:
        """A token that replaced `version`. Raises AccessRevoked, or TokenExpired when none has come in time."""
        found = await self._grants.wait_token(self._connection, version, self._wait_s)
        if found is None:
            raise TokenExpired(f"{self._connection}: no newer token than version {version} has come")
        return found
