"""Events in, records out, acknowledged strictly in the order of consumption once every record of an event is delivered.

Deliveries run in a bounded window; any that fails ends the process with nothing behind it acknowledged, so that a restart
repeats and never skips.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from bus.core.errors import TransientError
from bus.runtime.publisher import Outgoing

WINDOW_EVENTS_MAX = 1_000

log = logging.getLogger(__name__)


class Work(Protocol):
    """What the engine is given: the mapping, and how to wait when it cannot go on yet."""

    def handle(self, topic: str, key: bytes | None, value: bytes | None) -> Sequence[Outgoing]:
        """Records for one event. Raises TransientError when it must wait; any other exception ends the process."""
        ...

    async def wait(self, error: TransientError) -> None:
        """Returns when `handle` may be tried again."""
        ...


class Event(Protocol):
    """The part of a Faust event that the engine uses."""

    key: Any
    value: Any
    message: Any

    def ack(self) -> bool:
        """Marks it as done with."""
        ...


Send = Callable[[Outgoing], Awaitable["asyncio.Future[Any]"]]
"""Hands a record to the producer; the future ends with its delivery."""


class InFlight(NamedTuple):
    """An event whose records are on their way."""

    event: Event
    deliveries: Sequence["asyncio.Future[Any]"]


class Pipeline:
    """One stream through the window."""

    def __init__(self, work: Work, send: Send, *, window: int = WINDOW_EVENTS_MAX) -> None:
        self._work = work
        self._send = send
        self._window = window
        self._in_flight: deque[InFlight] = deque()
        self._wake = asyncio.Event()
        self.events = 0
        """Events handled since the start."""

    async def run(self, events: AsyncIterator[Event], crash: Callable[[BaseException], Awaitable[None]]) -> None:
        """Until the stream ends. An error is given to `crash` first, so that Faust stops the process and starts no new agent."""
        reaper = asyncio.ensure_future(self._reap())
        try:
            reading = asyncio.ensure_future(self._read(events))
            done, _ = await asyncio.wait([reading, reaper], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("the pipeline stops the process: nothing unacknowledged is lost")
            await crash(error)
            raise
        finally:
            for task in (reading, reaper):
                task.cancel()
            await asyncio.gather(reading, reaper, return_exceptions=True)

    async def _read(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            outgoing = await self._handled(event)
            deliveries = [await self._send(record) for record in outgoing]
            self._in_flight.append(InFlight(event, deliveries))
            self.events += 1
            for delivery in deliveries:
                delivery.add_done_callback(lambda _: self._wake.set())
            if not deliveries:
                self._wake.set()
            while len(self._in_flight) >= self._window:
                await asyncio.wait(self._in_flight[0].deliveries or [asyncio.ensure_future(asyncio.sleep(0))])
                self.settle()

    async def _handled(self, event: Event) -> Sequence[Outgoing]:
        while True:
            try:
                return self._work.handle(event.message.topic, event.key, event.value)
            except TransientError as error:
                await self._work.wait(error)

    async def _reap(self) -> None:
        """Acknowledges while no new event comes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.settle()

    def settle(self) -> None:
        """Acknowledges the delivered head of the window; raises the error of a delivery that failed."""
        while self._in_flight and all(delivery.done() for delivery in self._in_flight[0].deliveries):
            for delivery in self._in_flight[0].deliveries:
                delivery.result()
            self._in_flight.popleft().event.ack()

    async def drain(self) -> None:
        """Waits for what is on its way, then acknowledges it: before partitions are given away."""
        waiting = [delivery for item in self._in_flight for delivery in item.deliveries]
        if waiting:
            await asyncio.wait(waiting)
        self.settle()
