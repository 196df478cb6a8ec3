"""Consumer, producer and transport for Faust: read_committed, idempotent, offsets that never step over an open event.

Touches private names of faust-streaming 0.15.3 and aiokafka 0.14.0, both pinned.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver

REVOKE_TIMEOUT_S = 5.0
"""For settling and committing before partitions are given away; less than the rebalance time-out."""

SILENCE_S = 12.0
"""A produce request unanswered for so long: its connection is taken for lost and made anew, and the batch sent again under its
number. The batch itself waits for `producer_request_timeout`, and aiokafka has one setting for both."""

log = logging.getLogger(__name__)


class IdempotentProducer(driver.Producer):
    """Faust makes the producer idempotent only in its exactly-once mode."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": True}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer = super()._new_producer(transactional_id)
        producer.client._request_timeout_ms = int(SILENCE_S * 1000)  # noqa: SLF001
        return producer


class CommittedThread(driver.AIOKafkaConsumerThread):
    """Faust reads committed records only in its exactly-once mode."""

    fetched_at: float = 0.0
    """Monotonic time of the last answer to a fetch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last: dict[Any, int] = {}
        self.read_to: dict[Any, tuple[int | None, int]] = {}
        """Per partition: offset of the last record fetched, and the position behind it and what nobody is shown after it."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001  (read when the fetcher is made, at start)
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, active_partitions, *args, **kwargs)
        self.fetched_at = time.monotonic()
        assignment = consumer._subscription.subscription.assignment  # noqa: SLF001  (aiokafka tells positions only with a wait)
        for tp in active_partitions:
            if records.get(tp):
                self._last[tp] = records[tp][-1].offset
            state = assignment.state_value(tp) if assignment is not None else None
            if state is not None and state.has_valid_position:
                self.read_to[tp] = self._last.get(tp), state.position
        return records

    def forget(self) -> None:
        """Positions are about to change."""
        self._last.clear()
        self.read_to.clear()

    def highwater(self, tp: Any) -> int:
        """The end a read_committed reader can reach."""
        return int(self._ensure_consumer().last_stable_offset(tp) or 0)


class SafeConsumer(driver.Consumer):
    """Commits, per partition, the offset behind the last event before which everything delivered is acknowledged.

    Where nothing is open that is the position itself, behind markers and aborted records: else a lag would stand there for ever.
    """

    before_revoke: Callable[[], Awaitable[None]] | None = None
    """Set by the pipeline: acknowledges what is delivered already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[Any, deque[int]] = defaultdict(deque)
        self._newest: dict[Any, int] = {}
        deliver = self.callback

        async def callback(message: Any) -> None:
            self._delivered[message.tp].append(message.offset)
            self._newest[message.tp] = message.offset
            await deliver(message)

        self.callback = callback

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def fetched_at(self) -> float:
        """Monotonic time of the last answer to a fetch; 0 before the first."""
        return self._thread.fetched_at if isinstance(self._thread, CommittedThread) else 0.0

    def committed(self) -> dict[Any, int]:
        """Committed offset of each partition held; partitions without one are left out."""
        return {tp: offset for tp, offset in self._committed_offset.items() if offset is not None}

    def open_events(self) -> int:
        """Events delivered and not yet behind a committed offset."""
        return sum(len(offsets) for offsets in self._delivered.values())

    def _forget(self) -> None:
        for book in (self._delivered, self._newest, self._acked, self._acked_index, self._gap):
            book.clear()
        if isinstance(self._thread, CommittedThread):
            self._thread.forget()

    async def perform_seek(self) -> None:
        """Everything after the committed offsets will be delivered again."""
        self._forget()
        await super().perform_seek()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commits before partitions go: without it their next owner repeats up to a commit interval of events."""
        if revoked and not self.app.should_stop:
            self.stop_flow()
            try:
                async with asyncio.timeout(REVOKE_TIMEOUT_S):
                    if self.before_revoke is not None:
                        await self.before_revoke()
                    await self.commit()
            except TimeoutError:
                log.warning("partitions go uncommitted: their next owner repeats some events")
        self._forget()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Says so before the first fetch from them."""
        assert isinstance(self.transport, SafeTransport)
        self.transport.on_assigned()
        await super().on_partitions_assigned(assigned, generation_id)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps (transaction markers, aborted records) are no deliveries: there is nothing to keep."""

    def ack(self, message: Any) -> bool:
        """An acknowledgement from before a rebalance counts for nothing: its partition may be another's."""
        if message.generation_id != self.app.consumer_generation_id:
            message.acked = True
            self._unacked_messages.discard(message)
            return False
        return bool(super().ack(message))

    def _new_offset(self, tp: Any) -> int | None:
        delivered, acked = self._delivered[tp], self._acked_index[tp]
        last: int | None = None
        while delivered and delivered[0] in acked:
            last = delivered.popleft()
            acked.discard(last)
        self._acked[tp].clear()
        if not delivered and (position := self._position(tp)) is not None:
            return position
        return None if last is None else last + 1

    def _position(self, tp: Any) -> int | None:
        """Where reading stands, if all that was fetched before it has been delivered."""
        read_to = self._thread.read_to if isinstance(self._thread, CommittedThread) else {}
        fetched, position = read_to.get(tp, (None, None))
        return position if fetched == self._newest.get(tp) else None

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        """All partitions held: one may have moved without a delivery."""
        return (tp for tp in self.assignment() if topics is None or tp in topics or tp.topic in topics)


class SafeTransport(driver.Transport):
    """The transport of the processors."""

    Consumer = SafeConsumer
    Producer = IdempotentProducer

    on_assigned: Callable[[], None] = staticmethod(lambda: None)
    """Called when partitions are taken."""
