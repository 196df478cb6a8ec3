"""What all processes of a history share, and who sits on a slot: real slots of services on a fake Kafka, clock and vendor."""

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec

import bus.runtime.table
import services.pollers.account
import services.pollers.slot
import services.sinks.account
import services.sinks.slot
from bus.core import topics
from bus.core.configuration import Connection
from bus.core.errors import TransientError
from bus.core.identity import Hasher
from bus.kit.budget import Budgets
from bus.kit.manifest import Manifest
from bus.runtime.follow import Documents
from bus.runtime.kafka import Fenced
from bus.runtime.publisher import Publisher
from bus.runtime.reader import LogReader
from bus.runtime.state import AccountState
from schemas.system import IdempotencyClass
from tests.fakes import FakeCodec, FakePrivacy
from tests.simulation.disk import Disks, batch
from tests.simulation.kafka import Broker, SimPublisher, SimReader
from tests.simulation.process import Process
from tests.simulation.vendor import MANIFEST_HERE, SimConnector, SimVendor
from tests.simulation.virtual import VirtualClock, VirtualLoop

TENANT = "acme"
AGAIN_S = 2.0
REAL = {"LogReader": LogReader, "Publisher": Publisher}
FAKE = {"LogReader": SimReader, "Publisher": SimPublisher}


class SimPrivacy(FakePrivacy):
    """Seals nothing; one tenant."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher

    def tenant_hasher(self, tenant: str) -> Hasher:
        return self._hasher


class Place(msgspec.Struct, kw_only=True):
    """One account: its vendor, its connection, its slot."""

    vendor: SimVendor
    document: Connection
    slot: int
    classes: dict[str, IdempotencyClass] = {}
    facts: Manifest = MANIFEST_HERE


class Surroundings:
    """The world of one history."""

    def __init__(self, dice: random.Random, loop: VirtualLoop) -> None:
        self.dice = dice
        self.loop = loop
        self.broker = Broker(dice)
        self.disks = Disks(dice)
        self.codec = FakeCodec()
        self.hasher = HASHER
        self.privacy = SimPrivacy(HASHER)
        self.clock = VirtualClock(loop)
        self.places: dict[str, Place] = {}
        self.bugs: list[BaseException] = []
        self.story: list[str] = []
        self.processes: list[Process] = []

    def account(self, name: str, slot: int, **classes: IdempotencyClass) -> Place:
        document = Connection(kind="Connection", name=name, tenant=TENANT, system="fake", secret=name)
        place = Place(vendor=SimVendor(self.dice, self.loop.time), document=document, slot=slot, classes=classes)
        place.vendor.tell = lambda text: self.tell(f"{name}:{text}")
        self.places[name] = place
        return place

    def tell(self, text: str) -> None:
        """For people who read a failed history."""
        self.story.append(f"{self.loop.time():10.3f}  {text}")

    def state(self, name: str) -> AccountState:
        """The state of an account as committed."""
        state = AccountState(name)
        for record in self.broker.committed(topics.STATE, self.places[name].slot):
            if topics.split_key(record.key)[1] == name:
                state.apply(record.key, self.codec.decode(topics.STATE, record.value) if record.value is not None else None)
        return state

    def decoded(self, topic: str, partition: int = 0) -> list[Any]:
        """The committed records of a partition."""
        return [self.codec.decode(topic, r.value) for r in self.broker.committed(topic, partition) if r.value is not None]


class SimEnvironment:
    """What a slot's work asks of `bus.runtime.environment.Environment`, for one process."""

    def __init__(self, world: Surroundings, process: Process, behind_s: float) -> None:
        """`behind_s`: by how much the clock of the second machine is behind."""
        self._world = world
        self._process = process
        folder = world.disks.data_dir(process)
        self.settings = SimpleNamespace(
            client_prefix="bus", slots=8, partitions=1, data_dir=folder, broker=world.broker, process=process
        )
        self.config = SimpleNamespace(current=Documents())
        self.known = SimpleNamespace(count=lambda *_: None)
        off_s = -behind_s if process.machine == "machine-2" else 0.0
        self.clock = VirtualClock(world.loop, process.machine, off_s)
        self.codec = world.codec
        self.privacy = world.privacy

    def connections_of(self, slot: int) -> list[Connection]:
        return [place.document for place in self._world.places.values() if place.slot == slot]

    def open(self, document: Connection, share: str) -> Any:
        place = self._world.places[document.name]
        connector = SimConnector(place.vendor, self._process, place.classes, place.facts)

        async def close() -> None:
            return None

        budgets = Budgets((), clock=self.clock)
        return SimpleNamespace(
            document=document,
            manifest=place.facts,
            connector=connector,
            budgets=budgets,
            report=lambda: None,
            close=close,
            aclose=close,
        )


class Seat:
    """One slot of one service, and the process that owns it."""

    def __init__(
        self, world: Surroundings, service: str, slot: int, make: Callable[[Any, int], Any], behind_s: float = 0.0
    ) -> None:
        self._behind_s = behind_s
        self._world = world
        self._service = service
        self._slot = slot
        self._make = make
        self._count = 0
        self.holder: Process | None = None
        self.works: dict[str, Any] = {}

    def start(self) -> Process:
        """A new process becomes the owner."""
        self._count += 1
        machine = self._world.dice.choice(("machine-1", "machine-1", "machine-2"))
        process = Process(f"{self._service}-{self._slot}#{self._count}", machine)
        self.holder = process
        self._world.processes.append(process)
        self._world.tell(f"{process.name} starts on {machine}")
        process.spawn(self._life(process))
        return process

    async def _life(self, process: Process) -> None:
        """What `SlotWorker` does: take over, work, and take over again after a commit that ended badly, while it is ours."""
        environment = SimEnvironment(self._world, process, self._behind_s)
        while process.alive and self.holder is process:
            work = self._make(environment, self._slot)
            self.works[process.name] = work
            try:
                await work.take_over()
                await work.run()
            except Exception as error:
                leaves = list(_leaves(error))
                self._world.tell(f"{process.name}: {'; '.join(sorted({repr(leaf) for leaf in leaves}))}")
                if bugs := [leaf for leaf in leaves if not isinstance(leaf, Fenced | TransientError)]:
                    self._world.bugs += bugs
                    return
            finally:
                if process.alive:
                    await work.close()
            await asyncio.sleep(AGAIN_S)
            await process.gate()

    def kill(self) -> None:
        if self.holder is not None:
            self._world.tell(f"{self.holder.name} is killed")
            self.holder.kill()

    def freeze(self) -> Process | None:
        if self.holder is not None and self.holder.alive:
            self._world.tell(f"{self.holder.name} is frozen")
            self.holder.freeze()
        return self.holder


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


@contextmanager
def patched(world: Surroundings) -> Iterator[None]:
    """Kafka's readers and producers are the fakes, wherever a service names them; waits that cost only time are long."""
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module in [sys.modules[name] for name in sys.modules if name.startswith(("bus.", "services."))]:
        for name, real in REAL.items():
            if vars(module).get(name) is real:
                put(module, name, FAKE[name])
    put(bus.runtime.table, "open_store", world.disks.open_store)
    put(bus.runtime.table, "batch", batch)
    put(bus.runtime.table, "ABSORB_EVERY_S", 10.0)
    put(services.sinks.account, "TICK_S", 2.0)
    put(services.pollers.account, "TICK_S", 2.0)
    put(services.sinks.slot, "REPORT_EVERY_S", 900.0)
    put(services.pollers.slot, "REPORT_EVERY_S", 900.0)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


HASHER = Hasher(b"tenant")
