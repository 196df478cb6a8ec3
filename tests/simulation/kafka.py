"""A Kafka of a few partitions: offsets, transactions, fencing by epochs, and readers that see what is committed.

The laws of the real one that matter here: records of an open transaction hold up readers of their partition (the stable offset);
opening a transactional id bumps its epoch, aborts what an older owner left open and waits for what was already being committed;
a transaction that is open too long is aborted, and its producer fenced; a commit whose answer is lost may have happened.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from bus.core.errors import Unavailable
from bus.runtime import kafka as real
from bus.runtime.kafka import OffsetLost
from bus.runtime.publisher import Outgoing
from bus.runtime.reader import BEGINNING, END, LogReader, Pair, PartitionFacts, Record
from tests.simulation.process import Process

T = TypeVar("T")

TRANSACTION_S_MAX = 20.0
IDLE_S = 30.0
"""A reader that waits for news looks up so often; the real one does it every 0.2 s, which changes nothing but the cost."""


class Transaction:
    """Of one producer; `ended` tells waiting readers."""

    def __init__(self) -> None:
        self.state = "open"

    @property
    def is_over(self) -> bool:
        return self.state in ("committed", "aborted")


class Stored(NamedTuple):
    """One record of a partition."""

    key: str
    value: bytes | None
    headers: Mapping[str, str]
    transaction: Transaction


class Partition:
    """Records in their order."""

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.first = 0
        """Everything below is gone by retention."""
        self._changed = asyncio.Event()
        self._stable = 0

    def stable(self) -> int:
        """The first offset whose transaction is not decided."""
        while self._stable < len(self.records) and self.records[self._stable].transaction.is_over:
            self._stable += 1
        return self._stable

    def committed(self) -> list[Stored]:
        """What a reader of committed records sees."""
        return [record for record in self.records[: self.stable()] if record.transaction.state == "committed"]

    def changed(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> None:
        """Until something is appended or decided, at most so long."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return


class Weather:
    """How the broker behaves now."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.is_away = False
        self.aborts = 0.0
        self.unclear = 0.0
        self.slow = 0.0
        """Parts of commits that are aborted, end unclear, or take seconds."""

    def calm(self) -> None:
        self.is_away, self.aborts, self.unclear, self.slow = False, 0.0, 0.0, 0.0

    def commit_s(self) -> float:
        """Seconds until records are on the broker."""
        return self.dice.uniform(1.0, 9.0) if self.dice.random() < self.slow else self.dice.uniform(0.001, 0.03)


class Broker:
    """All partitions, and who owns which transactional id."""

    def __init__(self, dice: random.Random) -> None:
        self.weather = Weather(dice)
        self.dice = dice
        self.partitions: defaultdict[tuple[str, int], Partition] = defaultdict(Partition)
        self._epochs: defaultdict[str, int] = defaultdict(int)
        self._open: dict[str, Transaction] = {}
        self._places: dict[Transaction, set[tuple[str, int]]] = {}

    # --- transactions --------------------------------------------------------------------------------------------------------

    async def open(self, transactional_id: str) -> int:
        """Fences every older producer of this id."""
        self._epochs[transactional_id] += 1
        epoch = self._epochs[transactional_id]
        left = self._open.get(transactional_id)
        if left is not None and left.state == "open":
            self.decide(left, "aborted")
        while left is not None and not left.is_over:
            await asyncio.sleep(0.01)
        return epoch

    def is_current(self, transactional_id: str, epoch: int) -> bool:
        return self._epochs[transactional_id] == epoch

    def begin(self, transactional_id: str, epoch: int, records: Sequence[Outgoing]) -> Transaction:
        """Appends records of an open transaction; it is aborted when it stays open too long."""
        transaction = Transaction()
        self._open[transactional_id] = transaction
        self._places[transaction] = self._append(records, transaction)
        asyncio.get_running_loop().call_later(TRANSACTION_S_MAX, self._expire, transactional_id, epoch, transaction)
        return transaction

    def _expire(self, transactional_id: str, epoch: int, transaction: Transaction) -> None:
        if transaction.state == "open":
            self.decide(transaction, "aborted")
            if self.is_current(transactional_id, epoch):
                self._epochs[transactional_id] += 1

    def decide(self, transaction: Transaction, state: str) -> None:
        transaction.state = state
        if transaction.is_over:
            for place in self._places.pop(transaction, ()):
                self.partitions[place].changed()

    def plain(self, records: Sequence[Outgoing]) -> None:
        """Records of a producer without transactions."""
        transaction = Transaction()
        transaction.state = "committed"
        self._append(records, transaction)

    def _append(self, records: Sequence[Outgoing], transaction: Transaction) -> set[tuple[str, int]]:
        places = set()
        for record in records:
            place = record.topic, record.partition or 0
            self.partitions[place].records.append(Stored(record.key, record.value, record.headers, transaction))
            places.add(place)
        for place in places:
            self.partitions[place].changed()
        return places

    # --- looking -------------------------------------------------------------------------------------------------------------

    def committed(self, topic: str, partition: int = 0) -> list[Stored]:
        return self.partitions[topic, partition].committed()

    def end(self, topic: str, partition: int = 0) -> int:
        return len(self.partitions[topic, partition].records)


class SimPublisher:
    """A transactional producer of one process."""

    def __init__(self, settings: Any, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._broker: Broker = settings.broker
        self._process: Process = settings.process
        self._epoch = 0
        self._closed = False
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._epoch > 0 and not self._closed

    async def open(self) -> None:
        await self._process.gate()
        self._must_be_here()
        await asyncio.sleep(self._broker.dice.uniform(0.001, 0.05))
        self._epoch = await self._broker.open(self.transactional_id)
        await self._process.gate()

    async def commit(self, records: Sequence[Outgoing]) -> None:
        """Steps: 1 records on the broker; 2 still the owner? 3 the end is decided; 4 the end is visible; 5 the answer."""
        if not records:
            return
        async with self._turn:
            await self._process.gate()
            if self._closed or not self._epoch:
                raise real.CommitUnclear(f"{self.transactional_id} is closed: take over again")
            broker, weather, dice = self._broker, self._broker.weather, self._broker.dice
            if weather.is_away:
                await asyncio.sleep(1.0)
                raise real.CommitAborted("the broker is away")
            self._must_own()
            transaction = broker.begin(self.transactional_id, self._epoch, records)  # 1
            await asyncio.sleep(weather.commit_s())
            await self._process.gate()
            if transaction.state == "aborted":  # 2
                self._closed = True
                raise real.Fenced(f"{self.transactional_id} has a newer owner")
            if dice.random() < weather.aborts:
                broker.decide(transaction, "aborted")
                raise real.CommitAborted("the broker refused a record for a moment")
            answer_lost = dice.random() < weather.unclear
            if answer_lost and dice.random() < 0.5:
                self._closed = True  # the order to commit never arrived: the next owner's fencing aborts it
                raise real.CommitUnclear("no answer to a commit")
            broker.decide(transaction, "committing")  # 3
            asyncio.get_running_loop().call_later(dice.uniform(0.001, 0.02), broker.decide, transaction, "committed")
            if answer_lost:
                self._closed = True
                raise real.CommitUnclear("no answer to a commit")
            while not transaction.is_over:  # 4
                await asyncio.sleep(0.005)
            await self._process.gate()  # 5

    def _must_own(self) -> None:
        if not self._broker.is_current(self.transactional_id, self._epoch):
            self._closed = True
            raise real.Fenced(f"{self.transactional_id} has a newer owner")

    def _must_be_here(self) -> None:
        if self._broker.weather.is_away:
            raise Unavailable("the broker is away", retry_after_s=1.0)

    async def close(self) -> None:
        self._closed = True


class SimReader(LogReader):
    """Reads committed records; `read_to` is the real one."""

    def __init__(self, settings: Any, name: str, **_: Any) -> None:
        self._broker: Broker = settings.broker
        self._process: Process = settings.process
        self.positions: dict[tuple[str, int], int] = {}

    async def partitions(self, topic: str) -> list[int]:
        await self._asked()
        return sorted({partition for name, partition in self._broker.partitions if name == topic} | {0})

    async def assign_many(self, places: Any) -> None:
        await self._process.gate()
        for topic, partition, offset in places:
            log = self._broker.partitions[topic, partition]
            self.positions[topic, partition] = (
                log.stable() if offset == END else max(offset, log.first if offset == BEGINNING else 0)
            )

    async def unassign(self, topic: str, partition: int) -> None:
        self.positions.pop((topic, partition), None)

    async def take(self, records_max: int = 1000, wait_s: float = 0.2) -> list[Record]:
        await self._asked()
        taken = self._ready(records_max)
        if taken is None:
            places = [self._broker.partitions[place] for place in self.positions]
            if len(places) == 1:
                await places[0].wait(IDLE_S)
            else:
                await asyncio.sleep(wait_s)
            await self._asked()
            taken = self._ready(records_max)
        return taken or []

    def _ready(self, records_max: int) -> list[Record] | None:
        """Committed records behind the positions; None when nothing moved."""
        taken: list[Record] = []
        moved = False
        for (topic, partition), position in sorted(self.positions.items()):
            log = self._broker.partitions[topic, partition]
            if position < log.first:
                raise OffsetLost(f"{topic}: offset {position} is gone")
            end = log.stable()
            while position < end and len(taken) < records_max:
                stored = log.records[position]
                if stored.transaction.state == "committed":
                    headers = {name: data.encode() for name, data in stored.headers.items()}
                    taken.append(Record(topic, partition, position, stored.key.encode(), stored.value, headers))
                position += 1
            moved = moved or position != self.positions[topic, partition]
            self.positions[topic, partition] = position
        return taken if moved else None

    async def ends(self, topic: str, partitions: Sequence[int] | None = None) -> dict[int, int]:
        await self._asked()
        if partitions is None:
            partitions = [partition for name, partition in self.positions if name == topic]
        return {partition: self._broker.end(topic, partition) for partition in partitions}

    async def feed(
        self, topic: str, ends: Mapping[int, int], *, patience_s: float = 60.0
    ) -> AsyncIterator[tuple[list[Pair], int]]:
        partition, end = next(iter(ends.items()))
        while self.positions[topic, partition] < end:
            if records := await self.take(5_000):
                yield [(record.key, record.value) for record in records], self.positions[topic, partition]

    async def work(self, do: Callable[[], T]) -> T:
        return do()

    async def facts(self, topic: str, partition: int) -> PartitionFacts:
        await self._asked()
        first = self._broker.partitions[topic, partition].first
        return PartitionFacts("simulated", topic, first, self._broker.end(topic, partition), 86_400.0)

    async def close(self) -> None:
        self.positions.clear()

    async def _asked(self) -> None:
        await self._process.gate()
        if self._broker.weather.is_away:
            await asyncio.sleep(1.0)
            await self._process.gate()
            raise Unavailable("the broker is away", retry_after_s=1.0)
