"""Canonical topics as a replay reads them: ends, and a span of one partition. Knows Kafka, nothing of jobs."""

from collections.abc import AsyncGenerator
from typing import Protocol

from bus.runtime.reader import LogReader, Record
from bus.runtime.settings import BusSettings

READ_AHEAD_KBYTES = 16 * 1024
"""What a replay may have in memory that it has not looked at."""


class Events(Protocol):
    """What a replay reads."""

    async def ends(self, topic: str) -> dict[int, int]:
        """End offsets of all partitions as of now, open transactions included."""
        ...

    def read(self, topic: str, partition: int, first: int, end: int) -> AsyncGenerator[list[Record], None]:
        """Committed records of a partition from `first` on, below `end`."""
        ...

    async def close(self) -> None:
        """Ends reading."""
        ...


class KafkaEvents:
    """Events of the broker, read in a thread of its own."""

    def __init__(self, settings: BusSettings, name: str) -> None:
        self._reader = LogReader(settings, name, queue_kbytes=READ_AHEAD_KBYTES)

    async def ends(self, topic: str) -> dict[int, int]:
        """End offsets of all partitions. Raises TransientError when Kafka is away."""
        return await self._reader.ends(topic, await self._reader.partitions(topic))

    async def read(self, topic: str, partition: int, first: int, end: int) -> AsyncGenerator[list[Record], None]:
        """Records of a partition, in order. Raises TransientError when Kafka is away or a transaction stays open below `end`."""
        end = min(end, (await self._reader.ends(topic, [partition]))[partition])  # a topic made anew may be shorter
        await self._reader.assign(topic, {partition: first})
        try:
            async for batch in self._reader.read_to(topic, {partition: end}):
                yield [record for record in batch if record.offset < end]
        finally:
            await self._reader.unassign(topic, partition)

    async def close(self) -> None:
        """Ends the consumer."""
        await self._reader.close()
