"""What the broken builds of rows 1 to 10, 12 and 16 take out of a service process.

Each is applied in the process that runs the service, before it is imported there (`tests/e2e/launcher.py`).
"""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any


def knowledge_first() -> None:
    """What is known of the objects commits before the events that tell of them."""
    _commit_apart(known_first=True)


def events_first() -> None:
    """The events commit before what is then known of their objects."""
    _commit_apart(known_first=False)


def _commit_apart(*, known_first: bool) -> None:
    from bus.core import topics
    from services.pollers.slot import PollerSlot

    real = PollerSlot._commit

    async def commit(self: PollerSlot, records: Sequence[Any]) -> None:
        own = (topics.CURSORS, topics.SEEN)
        parts = [[r for r in records if (r.topic in own) is known] for known in (known_first, not known_first)]
        for part in parts:
            if part:
                await real(self, part)

    PollerSlot._commit = commit  # type: ignore[method-assign]


HELD_S = 3.0
"""How long a broken pipeline keeps records to itself: else the kill would have to hit a few milliseconds."""


def acknowledged_early() -> None:
    """An event counts as done with before its commands are with the broker."""
    from services.processors.engine.pipeline import Pipeline

    real = Pipeline.__init__

    def begin(self: Pipeline, work: Any, send: Any, **named: Any) -> None:
        kept: set[asyncio.Task[None]] = set()

        async def later(record: Any) -> None:
            await asyncio.sleep(HELD_S)
            await send(record)

        async def believed(record: Any) -> asyncio.Future[Any]:
            task = asyncio.ensure_future(later(record))
            kept.add(task)
            task.add_done_callback(kept.discard)
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

        real(self, work, believed, **named)

    Pipeline.__init__ = begin  # type: ignore[method-assign]


def out_of_order() -> None:
    """Commands leave when it suits them."""
    from services.processors.engine.pipeline import Pipeline

    real = Pipeline.__init__

    def begin(self: Pipeline, work: Any, send: Any, **named: Any) -> None:
        async def whenever(record: Any) -> asyncio.Future[Any]:
            async def later() -> Any:
                await asyncio.sleep(random.uniform(0, HELD_S))
                return await (await send(record))

            return asyncio.ensure_future(later())

        real(self, work, whenever, **named)

    Pipeline.__init__ = begin  # type: ignore[method-assign]


def without_guard() -> None:
    """An open write is simply made again: no wait for the call of before, no search for what it did."""
    from services.sinks.writing import Writer

    Writer._resolve = Writer._perform  # type: ignore[method-assign]


def commit_believed() -> None:
    """A commit that failed is taken for one that did not."""
    from bus.core.errors import BusError
    from bus.runtime.publisher import Publisher

    real = Publisher.commit

    async def commit(self: Publisher, records: Sequence[Any]) -> None:
        try:
            await real(self, records)
        except BusError:
            return

    Publisher.commit = commit  # type: ignore[method-assign]


def endless_patience() -> None:
    """Silence of a broker is waited out."""
    import services.processors.engine.transport as transport
    from bus.runtime import kafka

    kafka.SILENCE_S = transport.SILENCE_S = 280.0


def without_budget() -> None:
    """Nobody waits for room in a limit."""
    from bus.kit.budget import Budgets

    async def room(*_: Any, **__: Any) -> None:
        return

    Budgets._room = room  # type: ignore[method-assign]


def blind() -> None:
    """What is stale is not told, and an update sends everything, whatever the target holds."""
    import services.sinks.account as account
    from services.sinks.masters import Masters

    account.is_stale = lambda *_: False  # type: ignore[attr-defined]
    real = Masters._update

    async def update(self: Masters, task: Any, link: Any) -> Any:
        hasher, self._hasher = self._hasher, Nothing(self._hasher)  # type: ignore[assignment]
        try:
            return await real(self, task, link)
        finally:
            self._hasher = hasher

    Masters._update = update  # type: ignore[method-assign]


class Nothing:
    """A hasher by which no two objects are alike."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def fields(self, entity: Any) -> dict[str, str]:
        return {path: os.urandom(8).hex() for path in self._real.fields(entity)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def older_accepted() -> None:
    """The sink takes versions as they come."""
    import services.sinks.account as account

    account.is_stale = lambda *_: False  # type: ignore[attr-defined]


def one_lane() -> None:
    """Commands of all objects wait for one another."""
    from services.sinks.account import AccountSink

    AccountSink._lane = lambda *_: ("all",)  # type: ignore[method-assign, assignment]


def refresh_cancelled() -> None:
    """A hand-over does not wait for a refresh that is under way."""
    import services.grants.slot as slot

    async def at_once(work: Any) -> Any:
        return await work

    slot._to_its_end = at_once  # type: ignore[attr-defined]


def without_fencing() -> None:
    """Every process commits under an id of its own, and does not listen when its slots are taken away."""
    from bus.runtime.publisher import Publisher
    from bus.runtime.slots import SlotOwnership

    real = Publisher.__init__

    def begin(self: Publisher, settings: Any, transactional_id: str) -> None:
        real(self, settings, f"{transactional_id}-{os.getpid()}-{os.urandom(4).hex()}")

    Publisher.__init__ = begin  # type: ignore[method-assign]

    def keep(self: SlotOwnership, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_unassign(partitions)

    SlotOwnership._revoked = SlotOwnership._lost = keep  # type: ignore[method-assign]


BUILDS_OF_GUARDS: dict[str, tuple[str, Callable[[], None]]] = {
    "known-first": ("poller: what is known of objects commits before the events that tell of them", knowledge_first),
    "events-first": ("poller: the events commit before what is known of their objects", events_first),
    "early-ack": ("processors: an event counts as done with before its commands are with the broker", acknowledged_early),
    "any-order": ("processors: commands leave in no order", out_of_order),
    "no-guard": ("sink: an open write is made again without a look for what it did", without_guard),
    "believed": ("all: a commit that failed is taken for one that did not", commit_believed),
    "patient": ("all: the silence of a broker is waited out", endless_patience),
    "no-budget": ("all: nobody waits for room in a vendor's limit", without_budget),
    "blind": ("sink: stale versions are taken, updates send everything", blind),
    "older-taken": ("sink: versions are taken as they come", older_accepted),
    "one-lane": ("sink: commands of all objects wait for one another", one_lane),
    "cancelled": ("grants: a hand-over does not wait for a refresh under way", refresh_cancelled),
    "no-fencing": ("all: transactional ids of each process's own, slots taken away go on", without_fencing),
}
"""By name: in words, and how."""
