"""A compacted partition in memory, and a reader of it: what a table asks of Kafka."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from bus.runtime.reader import BEGINNING, PartitionFacts

Record = tuple[int, bytes, bytes | None]


class Log:
    """One partition: records by offset, some of which were compacted away; markers take offsets too."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.end = 0
        self.start = 0
        self.cluster, self.topic_id, self.delete_retention_s = "cluster-1", "topic-1", 86_400.0
        self.refused: Exception | None = None
        self.read = 0
        """Records given out."""

    def commit(self, *pairs: tuple[str | bytes, bytes | None]) -> None:
        """One transaction: its records and its marker."""
        for key, value in pairs:
            self.records.append((self.end, key if isinstance(key, bytes) else key.encode(), value))
            self.end += 1
        self.end += 1

    def compact(self, *, tombstones: bool = False) -> None:
        """Leaves the newest record per key; with `tombstones`, these go too."""
        newest = {key: offset for offset, key, _ in self.records}
        self.records = [r for r in self.records if newest[r[1]] == r[0] and not (tombstones and r[2] is None)]

    def reader(self, *_: Any, **__: Any) -> "Reader":
        """In the place of a LogReader."""
        return Reader(self)


class Reader:
    """Reads a `Log`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.positions: dict[tuple[str, int], int] = {}
        self.batch_max = 3

    async def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        for partition, offset in offsets.items():
            self.positions[topic, partition] = 0 if offset == BEGINNING else offset

    async def ends(self, topic: str) -> dict[int, int]:
        if self._log.refused is not None:
            raise self._log.refused
        return {partition: self._log.end for name, partition in self.positions if name == topic}

    async def feed(self, topic: str, ends: Mapping[int, int]) -> AsyncIterator[tuple[list[tuple[bytes, bytes | None]], int]]:
        ((partition, end),) = ends.items()
        place = (topic, partition)
        while self.positions[place] < end:
            found = [r for r in self._log.records if self.positions[place] <= r[0] < end][: self.batch_max]
            self.positions[place] = found[-1][0] + 1 if found else end
            if found:
                self._log.read += len(found)
                yield [(key, value) for _, key, value in found], self.positions[place]

    async def facts(self, topic: str, partition: int) -> PartitionFacts:
        if self._log.refused is not None:
            raise self._log.refused
        return PartitionFacts(self._log.cluster, self._log.topic_id, self._log.start, self._log.end, self._log.delete_retention_s)

    async def work(self, do: Callable[[], Any]) -> Any:
        return do()

    async def close(self) -> None:
        self.positions.clear()
