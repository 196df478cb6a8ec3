"""Bytes of pictures by their sha256, from the topic the pollers write them to.

Nothing is read before a write needs a picture. Then the topic is gone through once for what lies where, which is all that stays
in memory, with the few pictures used last; the bytes are fetched from their place. A place may be void, because the topic keeps
the newest record of a key only: then the newer one is looked up.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from bus.core import topics
from bus.core.errors import Unavailable
from bus.runtime.kafka import OffsetLost
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.settings import BusSettings

log = logging.getLogger(__name__)

KEPT_BYTES_MAX = 16 * 1024 * 1024
"""Pictures kept, used last: a write that is tried again asks for its picture again."""
QUEUE_KBYTES = 16 * 1024
"""Read ahead while the topic is gone through."""
ONE_KBYTES = 1024
"""Read ahead behind a picture that is fetched: it is not wanted."""
LOOKUPS_MAX = 5
"""A picture that moves this often between looking and fetching is written again and again by somebody."""
SAID_MAX = 10_000


class Pictures(Protocol):
    """Where a sink finds the pictures an object names."""

    async def get(self, sha256: str) -> bytes | None:
        """The bytes; None when nobody published them. Raises TransientError when that cannot be told now."""
        ...


class Place(NamedTuple):
    """Where a record lies."""

    partition: int
    offset: int


class Entry(NamedTuple):
    """One record of the log: which picture lies where; `data` is None for one that was removed."""

    sha256: str
    place: Place
    data: bytes | None


class PictureLog(Protocol):
    """The topic, as far as pictures are looked up in it."""

    def news(self) -> AsyncIterator[Entry]:
        """Committed records that were not returned before, to the end the topic has now."""
        ...

    async def at(self, place: Place) -> Entry | None:
        """The first record at or behind a place of its partition; None when nothing follows."""
        ...

    async def close(self) -> None:
        """Stops reading."""
        ...


class LoggedPictures:
    """The pictures of a log."""

    def __init__(self, pictures: PictureLog, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._log = pictures
        self._kept_bytes_max = kept_bytes_max
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._places: dict[str, Place] = {}
        self._said: set[str] = set()
        self._turn = asyncio.Lock()

    async def get(self, sha256: str) -> bytes | None:
        """The bytes of a picture."""
        async with self._turn:
            if (data := self._kept.get(sha256)) is not None:
                self._kept.move_to_end(sha256)
                return data
            data = await self._looked_up(sha256)
        if data is None and sha256 not in self._said and len(self._said) < SAID_MAX:
            self._said.add(sha256)
            log.warning("no such picture: what names it is written without", extra={"sha256": sha256})
        return data

    async def close(self) -> None:
        """Stops reading."""
        await self._log.close()

    async def _looked_up(self, sha256: str) -> bytes | None:
        """Steps: 1 where it lies, reading on if that is not known; 2 fetch; 3 void: read on, it lies further on or nowhere."""
        if sha256 not in self._places:
            await self._read_on()  # 1
        for _ in range(LOOKUPS_MAX):
            place = self._places.get(sha256)
            if place is None:
                return None
            found = await self._log.at(place)  # 2
            if found is not None and found.place == place and found.sha256 == sha256 and found.data is not None:
                self._keep(sha256, found.data)
                return found.data
            await self._read_on()  # 3
            if self._places.get(sha256) == place:
                del self._places[sha256]
        raise Unavailable(f"{topics.PICTURES}: {sha256} moves faster than it is read")

    async def _read_on(self) -> None:
        async for sha256, place, data in self._log.news():
            if data is None:
                self._places.pop(sha256, None)
            else:
                self._places[sha256] = place

    def _keep(self, sha256: str, data: bytes) -> None:
        self._kept[sha256] = data
        held = sum(map(len, self._kept.values()))
        while held > self._kept_bytes_max:
            _, dropped = self._kept.popitem(last=False)
            held -= len(dropped)


class KafkaPictureLog:
    """`bus.pictures`, read by assignment: one reader goes through it, another fetches from places."""

    def __init__(self, settings: BusSettings) -> None:
        self._through = LogReader(settings, "pictures", queue_kbytes=QUEUE_KBYTES)
        self._one = LogReader(settings, "picture", queue_kbytes=ONE_KBYTES)

    async def news(self) -> AsyncIterator[Entry]:
        """Committed records that were not returned before, to the end the topic has now."""
        reader = self._through
        if not reader.positions:
            await reader.assign(topics.PICTURES, dict.fromkeys(await reader.partitions(topics.PICTURES), BEGINNING))
        try:
            async for batch in reader.read_to(topics.PICTURES, await reader.ends(topics.PICTURES)):
                for record in batch:
                    yield Entry(record.key.decode(), Place(record.partition, record.offset), record.value)
        except OffsetLost as lost:
            await reader.assign(topics.PICTURES, {partition: BEGINNING for _, partition in list(reader.positions)})
            raise Unavailable(f"{topics.PICTURES} is gone through anew: {lost}") from lost

    async def at(self, place: Place) -> Entry | None:
        """The first record at or behind a place of its partition; None when nothing follows."""
        await self._one.assign(topics.PICTURES, {place.partition: place.offset})
        try:
            async for batch in self._one.read_to(topics.PICTURES, {place.partition: place.offset + 1}):
                record = batch[0]
                return Entry(record.key.decode(), Place(record.partition, record.offset), record.value)
        except OffsetLost:
            return None
        finally:
            await self._one.unassign(topics.PICTURES, place.partition)
        return None

    async def close(self) -> None:
        """Stops reading."""
        await self._through.close()
        await self._one.close()
