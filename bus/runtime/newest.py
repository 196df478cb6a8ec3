"""The newest values of some keys of compacted topics: to the end there is now, and on from there.

Only keys that are wanted are kept and decoded: `bus.state` holds a million objects where an operator asks for one brake.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from bus.runtime.codec import Codec
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings

T = TypeVar("T")

LOOK_S = 0.2


class NewestValues:
    """Decoded values by key. `open` first; `until` keeps up; use it as an async context manager."""

    def __init__(
        self,
        settings: BusSettings,
        codec: Codec,
        topic: str,
        wanted: Callable[[str], bool] = lambda _key: True,
        *,
        partitions: Iterable[int] | None = None,
    ) -> None:
        """`partitions` None: all of them."""
        self.values: dict[str, Any] = {}
        self._codec = codec
        self._topic = topic
        self._wanted = wanted
        self._partitions = None if partitions is None else sorted(set(partitions))
        self._reader = LogReader(settings, f"newest-{topic}")

    async def __aenter__(self) -> "NewestValues":
        try:
            await self.open()
        except BaseException:
            await self._reader.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.close()

    async def open(self) -> None:
        """Reads to the end there is now. Raises TransientError when Kafka is away."""
        found = await self._reader.partitions(self._topic) if self._partitions is None else self._partitions
        await self._reader.assign(self._topic, dict.fromkeys(found, BEGINNING))
        newest: dict[bytes, Record] = {}
        async for batch in self._reader.read_to(self._topic, await self._reader.ends(self._topic)):
            newest.update((record.key, record) for record in batch if self._wanted(_text(record)))
        for record in newest.values():
            await self._take(record)

    async def until(self, look: Callable[[Mapping[str, Any]], T | None], wait_s: float | None) -> T | None:
        """What `look` finds in the values, as soon as it finds something; None after `wait_s` (None: never gives up)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while (found := look(self.values)) is None:
                    for record in await self._reader.take(wait_s=LOOK_S):
                        if self._wanted(_text(record)):
                            await self._take(record)
                return found
        return None

    async def _take(self, record: Record) -> None:
        if record.value is None:
            self.values.pop(_text(record), None)
        else:
            self.values[_text(record)] = await self._codec.read(self._topic, record.value)


def _text(record: Record) -> str:
    return record.key.decode("utf-8", "replace")


async def newest_values(
    settings: BusSettings,
    codec: Codec,
    topic: str,
    wanted: Callable[[str], bool] = lambda _key: True,
    *,
    partitions: Iterable[int] | None = None,
) -> dict[str, Any]:
    """The newest values of the wanted keys of a topic, as of the end there is now."""
    async with NewestValues(settings, codec, topic, wanted, partitions=partitions) as newest:
        return newest.values
