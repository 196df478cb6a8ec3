"""Which slots this process owns: one consumer group per service on bus.slots, whose records nobody reads.

The group only spreads work. What makes a single writer is the fencing that a takeover begins with: a process that lost a slot
without knowing can no longer commit (law 3). `on_gained` and `on_lost` of one slot never overlap.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bus.core import topics
from bus.core.errors import FatalError, TransientError
from bus.runtime import kafka, metrics
from bus.runtime.kafka import Fenced, Replaced
from bus.runtime.settings import BusSettings
from bus.runtime.watchdog import span

OnSlot: TypeAlias = Callable[[int], Awaitable[None]]

POLL_S = 0.2
HAND_OVER_S = 15.0
"""How long a slot may take to end its work before it is given away all the same."""
RETRY_S = 2.0
TWIN_S = 60.0
"""Who is replaced twice within so long has a twin, and goes."""
POLL_LIMIT_S = 60.0
"""A poll and the hand-over in it; the group gives the slots of a member that does not poll for so long to others."""

log = logging.getLogger(__name__)


class SlotOwnership:
    """Membership of one process in a service's group."""

    def __init__(self, settings: BusSettings, service: str, on_gained: OnSlot, on_lost: OnSlot) -> None:
        self.service = service
        self.owned: set[int] = set()
        """Slots assigned by the group, whether their takeover has ended or not."""
        self.assigned = asyncio.Event()
        """Set once the group has given its first answer, even an empty one."""
        self._settings = settings
        self._on_gained = on_gained
        self._on_lost = on_lost
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stop = threading.Event()
        self._failed: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Joins the group; slots come through `on_gained`."""
        self._loop = asyncio.get_running_loop()
        self._failed = self._loop.create_future()
        self._ended = self._loop.create_future()
        threading.Thread(target=self._poll, name=f"slots-{self.service}", daemon=True).start()

    async def stop(self) -> None:
        """Gives all slots away, each after its `on_lost`, and leaves the group."""
        self._stop.set()
        if self._ended is not None:
            await self._ended

    async def failure(self) -> None:
        """Raises what ended this membership, or a takeover's own bug; never returns otherwise."""
        if self._failed is None:
            raise RuntimeError("start comes before failure")
        await asyncio.shield(self._failed)

    async def again(self, slot: int) -> None:
        """A full takeover of a slot that is still owned, after an unclear commit (law 21)."""
        if slot in self.owned:
            await self._lose(slot)
            self._gain(slot)

    # --- on the event loop -------------------------------------------------------------------------------------------------

    def _gain(self, slot: int) -> None:
        self.owned.add(slot)
        self._tasks[slot] = asyncio.ensure_future(self._take_over(slot))
        metrics.put("bus_slots_owned", len(self.owned), service=self.service)

    async def _take_over(self, slot: int) -> None:
        """Repeats `on_gained` while Kafka or the registry is away; a bug in it ends the process.

        Fenced is repeated too: an older owner may have opened late. If the slot has really gone, its loss ends this.
        """
        while True:
            try:
                await self._on_gained(slot)
            except (TransientError, Fenced) as error:
                log.warning("takeover waits", extra={"slot": slot, "reason": str(error)})
                await self._on_lost(slot)
                await asyncio.sleep(getattr(error, "retry_after_s", None) or RETRY_S)
            except Exception as error:
                self._fail(error)
                return
            else:
                log.info("slot is owned", extra={"slot": slot})
                return

    async def _lose(self, slot: int) -> None:
        task = self._tasks.pop(slot, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        try:
            await self._on_lost(slot)
        except Exception as error:
            self._fail(error)
        log.info("slot is given away", extra={"slot": slot})

    async def _lose_all(self, slots: list[int]) -> None:
        self.owned.difference_update(slots)
        metrics.put("bus_slots_owned", len(self.owned), service=self.service)
        await asyncio.gather(*(self._lose(slot) for slot in slots))

    async def _gain_all(self, slots: list[int]) -> None:
        for slot in slots:
            self._gain(slot)
        self.assigned.set()

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    # --- in the thread -----------------------------------------------------------------------------------------------------

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs on the loop and waits, bounded: a hand-over that hangs must not hold the group up."""
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(HAND_OVER_S)
        except TimeoutError:
            log.error("hand-over took longer than %s s: the next owner fences this one", HAND_OVER_S)
            future.cancel()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        self._wait_for(self._gain_all([place.partition for place in partitions]))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._wait_for(self._lose_all([place.partition for place in partitions]))
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("the group went on without this process", extra={"slots": [place.partition for place in partitions]})
        self._revoked(consumer, partitions)

    def _poll(self) -> None:
        """The life of the thread: join, poll until told to stop, leave."""
        assert self._loop is not None
        ended, loop = self._ended, self._loop
        try:
            self._member()
        except Exception as error:
            loop.call_soon_threadsafe(self._fail, error)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed when the process ends in a hurry
                loop.call_soon_threadsafe(lambda: ended.set_result(None) if ended is not None and not ended.done() else None)

    def _member(self) -> None:
        config = kafka.consumer_config(
            self._settings,
            f"slots-{self.service}",
            group=f"bus-{self.service}",
            auto_offset_reset="latest",
            enable_partition_eof=False,
            **({"group_instance_id": self._settings.instance} if self._settings.instance else {}),
        )
        replaced_at = -TWIN_S
        while not self._stop.is_set():
            try:
                self._attend(config)
            except Replaced as error:
                if time.monotonic() - replaced_at < TWIN_S:
                    raise
                replaced_at = time.monotonic()
                log.warning("joining anew", extra={"reason": str(error)})
                self._wait_for(self._lose_all(sorted(self.owned)))

    def _attend(self, config: dict[str, Any]) -> None:
        """Joins and polls until told to stop.

        Raises Replaced. Then a twin is alive, or the broker died behind its answer to a join: it knows this process by a member
        id that it never heard of, and fences it for going by the old one. A twin does it again.
        """
        consumer = Consumer(config)
        try:
            consumer.subscribe([topics.SLOTS], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
            while not self._stop.is_set():
                with span(f"membership of bus-{self.service}", POLL_LIMIT_S):
                    message = consumer.poll(POLL_S)
                if message is not None and (fault := message.error()) is not None:
                    self._judge(fault)
        except KafkaException as error:
            raise kafka.translate(error, f"membership of bus-{self.service}") from error
        finally:
            consumer.close()

    def _judge(self, fault: KafkaError) -> None:
        """Waits out what passes; raises what does not."""
        error = kafka.translate(fault, f"membership of bus-{self.service}")
        if isinstance(error, FatalError):
            raise error
        log.warning("waiting for slots", extra={"reason": str(error)})
