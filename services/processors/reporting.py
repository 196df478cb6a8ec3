"""Which configuration every processor works with, so that a new flow's replay knows where live commands begin (law 19).

Each process writes, for the partitions it holds, its configuration version as the committed offset of a group without members,
and its client id beside it. A version counts for a partition only while the coordinator of the real group says that the partition
belongs to the client that wrote it: what a process reports that lost its partitions without knowing is nobody's word. Whoever
takes a partition later reads the configuration to its end first, so it cannot be behind.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.core.errors import TransientError
from bus.runtime import kafka
from bus.runtime.settings import BusSettings

GROUP = "bus-processors-configuration"
REPORT_EVERY_S = 5.0

Place = tuple[str, int]
"""Topic and partition."""

log = logging.getLogger(__name__)


class Reporter:
    """Writes what this process knows."""

    def __init__(
        self, settings: BusSettings, client: str, version: Callable[[], int], held: Callable[[], Collection[Place]]
    ) -> None:
        self._settings = settings
        self._client = client
        self._version = version
        self._held = held
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="report-configuration")
        self._consumer: Consumer | None = None

    def wake(self) -> None:
        """Something changed: report now."""
        self._wake.set()

    async def run(self) -> None:
        """Reports until cancelled: on change, and every REPORT_EVERY_S."""
        while True:
            try:
                await self.report()
            except TransientError as error:
                log.warning("the configuration version is not reported: %s", error)
            try:
                async with asyncio.timeout(REPORT_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def report(self) -> None:
        """One report. Raises TransientError when Kafka is away."""
        version = self._version()
        places = [TopicPartition(topic, partition, version, metadata=self._client) for topic, partition in self._held()]
        if places:
            await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._commit(places))

    async def close(self) -> None:
        """Ends the client."""

        def end() -> None:
            if self._consumer is not None:
                self._consumer.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown(wait=False)

    def _commit(self, places: list[TopicPartition]) -> None:
        if self._consumer is None:
            self._consumer = Consumer(kafka.consumer_config(self._settings, "report-configuration", group_id=GROUP))
        try:
            answers: Any = self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise kafka.translate(error, "reporting the configuration version") from error
        refused = next((place.error for place in answers or () if place.error is not None), None)
        if refused is not None:
            raise kafka.translate(refused, "reporting the configuration version")


class Reports:
    """Reads what the processors reported."""

    def __init__(self, settings: BusSettings, group: str) -> None:
        """`group`: that of the processors."""
        self._settings = settings
        self._group = group
        self._admin: AdminClient | None = None

    async def behind(self, places: Collection[Place], version: int) -> list[Place]:
        """The partitions whose processor has not reported `version` yet. Raises TransientError when Kafka is away."""
        if not places or version <= 0:
            return []
        return await asyncio.to_thread(self._behind, places, version)

    def _behind(self, places: Collection[Place], version: int) -> list[Place]:
        reported = self._reported(places)  # before the owners: a report that comes between the two counts the next time
        return lagging(places, version, reported, self._owners())

    def _reported(self, places: Collection[Place]) -> dict[Place, tuple[str, int]]:
        asked = [ConsumerGroupTopicPartitions(GROUP, [TopicPartition(*place) for place in places])]
        answer = self._admin_client().list_consumer_group_offsets(asked, request_timeout=kafka.REQUEST_TIMEOUT_S)[GROUP]
        found = kafka.answered(answer, "asking what processors reported").topic_partitions
        return {(place.topic, place.partition): (place.metadata or "", place.offset) for place in found}

    def _owners(self) -> dict[Place, str]:
        """The client that holds each partition; nobody's while the group is being balanced."""
        asked = self._admin_client().describe_consumer_groups([self._group], request_timeout=kafka.REQUEST_TIMEOUT_S)
        group = kafka.answered(asked[self._group], "asking who processes")
        if group.state is not ConsumerGroupState.STABLE:
            return {}
        return {
            (place.topic, place.partition): member.client_id
            for member in group.members
            for place in (member.assignment.topic_partitions if member.assignment else None) or ()
        }

    def _admin_client(self) -> AdminClient:
        if self._admin is None:
            self._admin = kafka.admin(self._settings)
        return self._admin


def lagging(
    places: Collection[Place], version: int, reported: Mapping[Place, tuple[str, int]], owners: Mapping[Place, str]
) -> list[Place]:
    """Partitions of which no present owner has reported at least `version`."""
    behind = []
    for place in sorted(places):
        client, known = reported.get(place, ("", -1))
        if known < version or owners.get(place) != client:
            behind.append(place)
    return behind
