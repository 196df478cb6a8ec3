"""Reads one side of a flow live, whole or object by object, in canonical form."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime

import msgspec

from bus.core.errors import BusError, CredentialError, RecordError, StreamError, TransientError
from bus.core.identity import Entity
from bus.kit.connector import Connector, RawRecord

OBJECTS_MAX = 200_000
"""Of one side, in memory at one time. Larger accounts are compared by sample, or since a day."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One object as its vendor serves it now; `error` where it cannot be read as what it is."""

    id: str
    document: Entity | None = None
    error: str | None = None
    modified_at: datetime | None = None


Progress = Callable[[int], None]
"""Told how many objects were read besides."""


class Side:
    """One account, for one entity."""

    def __init__(self, connector: Connector, entity: str, progress: Progress = lambda _count: None) -> None:
        self._connector = connector
        self.entity = entity
        self._progress = progress

    async def everything(self) -> dict[str, Read]:
        """All objects of the entity, by id. Raises what the vendor's failures raise."""
        stream = next(item for item in self._connector.manifest.streams if self.entity in item.entities)
        found: dict[str, Read] = {}
        async for records in self._pages(stream.name):
            for record in records:
                if record.deleted:
                    found.pop(record.id, None)
            alive = [record for record in records if not record.deleted]
            for record, whole in zip(alive, await self._connector.complete(alive), strict=True):
                read = self._read(record, whole)
                if read is None:
                    found.pop(record.id, None)
                else:
                    found[record.id] = read
            self._progress(len(alive))
        return found

    async def _pages(self, stream: str) -> AsyncIterator[Sequence[RawRecord]]:
        async for page in self._connector.read(stream, None):
            if records := [record for record in page.records if record.entity == self.entity]:
                yield records

    async def some(self, ids: Iterable[str]) -> dict[str, Read]:
        """Objects by id, each asked for by itself; the vanished are absent."""
        found: dict[str, Read] = {}
        for external_id in ids:
            if (read := await self.one(external_id)) is not None:
                found[external_id] = read
            self._progress(1)
        return found

    async def one(self, external_id: str) -> Read | None:
        """One object; None when it is gone."""
        try:
            record = await self._connector.fetch(self.entity, external_id)
        except RecordError as error:
            return Read(id=external_id, error=str(error))
        return self._read(record, record) if record is not None else None

    def _read(self, record: RawRecord, whole: RawRecord | Exception) -> Read | None:
        if isinstance(whole, TransientError | CredentialError | StreamError):
            raise whole
        if isinstance(whole, Exception):
            return Read(id=record.id, error=_words(whole), modified_at=record.modified_at)
        if whole.deleted:
            return None
        try:
            document = self._connector.to_canonical(whole)
        except RecordError as error:
            return Read(id=record.id, error=str(error), modified_at=whole.modified_at)
        return Read(id=record.id, document=document, modified_at=whole.modified_at)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, BusError) else type(error).__name__
