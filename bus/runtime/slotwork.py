"""The life of a service that owns slots: takeover, work, hand-over, and a new takeover when a commit ended badly."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from bus.core import topics
from bus.core.errors import TransientError
from bus.runtime import reachability
from bus.runtime.environment import Environment
from bus.runtime.follow import Documents
from bus.runtime.kafka import Fenced
from bus.runtime.service import Service
from bus.runtime.settings import BusSettings
from bus.runtime.slots import SlotOwnership

log = logging.getLogger(__name__)

AGAIN_S = 2.0
DRAIN_S = 10.0
"""How long work may take to end what is under way before it is cancelled; below the hand-over's own limit."""


class OwnershipLost(TransientError):
    """The slot's transaction was fenced or ended unclear: everything in memory is void, a full takeover follows."""


class Work(Protocol):
    """What a service does with one slot."""

    async def take_over(self) -> None:
        """Fences the old owner and reads what it left."""
        ...

    async def run(self) -> None:
        """Works until cancelled."""
        ...

    async def close(self) -> None:
        """Lets everything go."""
        ...


@runtime_checkable
class Drained(Protocol):
    """Work that can end gracefully."""

    async def drain(self) -> None:
        """Begins nothing more, and returns when what is under way is done and committed. `run` goes on meanwhile."""
        ...


class Surroundings(Protocol):
    """What keeping the work of slots running needs; an Environment is one."""

    @property
    def settings(self) -> BusSettings:
        """Of the process."""
        ...

    def connections_of(self, slot: int) -> Sequence[Any]:
        """The connections whose slot this is."""
        ...

    def on_configuration(self, listener: Callable[[Documents], Awaitable[None]]) -> None:
        """Calls back after each complete version."""
        ...


Around = TypeVar("Around", bound=Surroundings)


class Idle:
    """A slot without connections: nothing to fence, nothing to read, until the configuration changes."""

    async def take_over(self) -> None:
        """Nothing is written for this slot."""

    async def run(self) -> None:
        """Waits to be cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is open."""


class SlotWorker(Generic[Around]):
    """Keeps the work of all owned slots running. `name`: whose slots, which is the service's own unless it says otherwise."""

    def __init__(
        self, service: Service, environment: Around, make: Callable[[Around, int], Work], *, name: str | None = None
    ) -> None:
        self._env = environment
        self._make = make
        self._works: dict[int, Work] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._served: dict[int, Any] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._background: set[asyncio.Task[None]] = set()
        self.ownership = SlotOwnership(environment.settings, name or service.name, self._gained, self._lost)
        environment.on_configuration(self._configured)

    async def failure(self) -> None:
        """Raises what ended the work of a slot for good; never returns otherwise."""
        await asyncio.shield(self._failed)

    def not_ready(self) -> str | None:
        """Why not every owned slot is worked on."""
        if not self.ownership.assigned.is_set():
            return "waiting for slots"
        missing = sorted(self.ownership.owned - self._tasks.keys())
        return f"slots being taken over: {missing}" if missing else None

    async def _gained(self, slot: int) -> None:
        self._served[slot] = connections = self._env.connections_of(slot)
        work = self._make(self._env, slot) if connections else Idle()
        self._works[slot] = work
        await work.take_over()
        task = asyncio.ensure_future(work.run())
        self._tasks[slot] = task
        task.add_done_callback(lambda ended: self._ended(slot, ended))

    async def _lost(self, slot: int) -> None:
        """Hands a slot over: what is under way ends, within bounds; then everything is let go."""
        task, work = self._tasks.pop(slot, None), self._works.pop(slot, None)
        if task is not None and not task.done() and isinstance(work, Drained):
            await self._drain(slot, work)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if work is not None:
            await work.close()

    async def _drain(self, slot: int, work: Drained) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                await work.drain()
        except TimeoutError:
            log.warning("what is under way did not end in %s s: the next owner resolves it", DRAIN_S, extra={"slot": slot})
        except Exception:
            log.exception("a drain failed; the slot is handed over all the same", extra={"slot": slot})

    def _ended(self, slot: int, task: asyncio.Task[None]) -> None:
        """Fenced or unclear: take over again if the slot is still ours. Anything else is a bug and ends the process."""
        if task.cancelled() or self._tasks.get(slot) is not task:
            return
        error = task.exception()
        reasons = list(_leaves(error)) if error is not None else []
        passing = [reason for reason in reasons if isinstance(reason, Fenced | TransientError)]
        if error is None or len(passing) < len(reasons):
            if not self._failed.done():
                self._failed.set_exception(
                    next((r for r in reasons if r not in passing), RuntimeError(f"slot {slot} ended its work"))
                )
            return
        log.warning("taking over again", extra={"slot": slot, "reason": "; ".join(sorted({str(reason) for reason in passing}))})
        self._later(self._again(slot))

    async def _again(self, slot: int) -> None:
        await asyncio.sleep(AGAIN_S)
        await self.ownership.again(slot)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _configured(self, documents: Documents) -> None:
        """A slot whose connections changed is taken over anew; the others go on."""
        for slot in list(self._tasks):
            if self._env.connections_of(slot) != self._served.get(slot):
                log.info("connections changed", extra={"slot": slot, "version": documents.version})
                self._later(self.ownership.again(slot))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


async def serve(service: Service, make: Callable[[Environment, int], Work]) -> None:
    """A whole service: environment, slots, work, until it is told to stop.

    1. the broker and the registry answer; 2. keys, grants and configuration are read to their ends; 3. slots; 4. work;
    5. on stop all slots are given away, each after its work has ended.
    """
    await service.broker(topics.SLOTS)  # 1
    environment = Environment(service.settings, clock=service.clock)
    await service.wait_for("registry", environment.codec.open)
    await environment.start()  # 2
    worker = SlotWorker(service, environment, make)
    service.health.watch("followers", lambda: "; ".join(environment.not_ready()) or None)
    service.health.watch("slots", worker.not_ready)
    await worker.ownership.start()  # 3
    service.health.started()
    try:
        ends = (worker.failure(), worker.ownership.failure(), environment.failure())
        await service.until_stopped(*ends, reachability.watch(service.settings, service.health))  # 4
    finally:
        await worker.ownership.stop()  # 5
        await environment.stop()
