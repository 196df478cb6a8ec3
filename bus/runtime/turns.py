"""People's part of a vendor's limits belongs to one command at a time (law 13).

The parts of a limit add up to it (`bus.kit.budget`); two commands at once would spend people's part twice. Who wants it joins the
group of the connection, on `bus.outbound.<connection>`: that has one partition, so the group has one owner. Nothing is read.
A command that dies holds its turn until the group has missed it, 8 s later.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bus.core import topics
from bus.core.errors import FatalError, Unavailable
from bus.runtime import kafka
from bus.runtime.settings import BusSettings

T = TypeVar("T")

POLL_S = 0.2
PATIENCE_S = 8.0
"""A turn that has not come by then is somebody else's, and the wait is told."""


async def in_turn(
    settings: BusSettings, connections: Iterable[str], work: Callable[[], Awaitable[T]], told: Callable[[str], None]
) -> T:
    """Runs `work` while no other command calls these connections' vendors; `told` hears of a wait, which has no end of its own.

    Raises what `work` raises, BusError when a turn is lost on the way: the group went on without this process, and somebody else
    may be calling.
    """
    async with contextlib.AsyncExitStack() as stack:
        turns = []
        for name in sorted(set(connections)):  # the same order for everybody: nobody waits for one who waits for him
            turn = await stack.enter_async_context(_Turn(settings, name))
            await turn.come(told)
            turns.append(turn)
        working = asyncio.ensure_future(work())
        stack.push_async_callback(_ended, working)
        ends: list[asyncio.Future[Any]] = [working, *(turn.attending for turn in turns)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for turn in turns:
            if turn.attending.done() and not working.done():
                turn.attending.result()
        return await working


async def _ended(working: "asyncio.Future[Any]") -> None:
    """Whatever happens: no call is made once the turn has been given back."""
    working.cancel()
    await asyncio.wait([working])


class _Turn:
    """Membership in one connection's group of people."""

    attending: "asyncio.Task[None]"
    """Ends with the reason when the turn is lost, or cannot come."""

    def __init__(self, settings: BusSettings, connection: str) -> None:
        self._settings = settings
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._come = asyncio.Event()
        self._is_lost = False
        self._stop = threading.Event()

    async def __aenter__(self) -> "_Turn":
        self.attending = asyncio.create_task(asyncio.to_thread(self._attend))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait([self.attending])

    async def come(self, told: Callable[[str], None]) -> None:
        """Waits for the turn. Raises what keeps it from ever coming."""
        coming = asyncio.create_task(self._come.wait())
        try:
            done, _ = await asyncio.wait([coming, self.attending], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                told(f"{self._connection}: another command is calling this vendor; this one begins when that one has ended")
                await asyncio.wait([coming, self.attending], return_when=asyncio.FIRST_COMPLETED)
            if self.attending.done():
                self.attending.result()
        finally:
            coming.cancel()

    # --- in the thread -----------------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        """Joins, polls until told to stop, leaves."""
        doing = f"turn to call {self._connection}"
        group = f"bus-people-{self._connection}"
        config = kafka.consumer_config(self._settings, group, group=group, auto_offset_reset="latest", enable_partition_eof=False)
        consumer = Consumer(config)
        try:
            consumer.subscribe(
                [topics.outbound(self._connection)], on_assign=self._gained, on_revoke=self._lost, on_lost=self._lost
            )
            while not self._stop.is_set():
                message = consumer.poll(POLL_S)
                if self._is_lost:
                    raise Unavailable(f"{doing}: the group went on without this command, Kafka was away for too long")
                if message is not None and (fault := message.error()) is not None:
                    error = kafka.translate(fault, doing)
                    if isinstance(error, FatalError):
                        raise error
        except KafkaException as error:
            raise kafka.translate(error, doing) from error
        finally:
            self._stop.set()
            consumer.close()

    def _gained(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        if partitions:
            self._loop.call_soon_threadsafe(self._come.set)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        self._is_lost = self._is_lost or bool(partitions)
