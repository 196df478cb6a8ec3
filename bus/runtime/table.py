"""The newest value per key of one partition of a compacted topic, as raw bytes: in memory, or on disk where there may be many.

Law of takeover: the end is asked for after fencing, with open transactions counted, and the table is whole only when everything
below that end is decided. A read_committed end would stop at the oldest open transaction and hide an intent behind it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from rocksdict import WriteBatch

from bus.core.clock import Clock, SystemClock
from bus.core.errors import SettingsError, TransientError, Unavailable
from bus.runtime import metrics
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.kafka import OffsetLost
from bus.runtime.reader import BEGINNING, FEED_RECORDS_MAX, LogReader, Pair, PartitionFacts
from bus.runtime.settings import BusSettings
from bus.runtime.store import Mark, Store, StoreFailed, batch, open_store

FETCH_WAIT_MS = 20
"""A refresh waits this long for the proof that nothing follows. Eight idle tables cost the broker 0.1 core at 20 ms, 0.3 at 5."""
QUEUE_KBYTES = 32 * 1024
"""Read ahead of a stored table while it loads: more makes it no faster, and eight slots may load at once."""
FORMAT = 1
"""Of what a store holds and how it is indexed: another number throws the stores of before away."""
FLUSH_EVERY_S = 600.0
"""What a killed process read in so long, at most, is read again; its store's age counts from there."""
CONFIRM_EVERY_S = 60.0
"""Between two marks that only say that nothing came."""

ABSORB_EVERY_S = 1.0
RECENT_MAX = 2_000
"""Committed records that are in memory only; above it they are read back at once, else within ABSORB_LATEST_S."""
ABSORB_LATEST_S = 30.0

Change = tuple[bytes, bytes | None]

log = logging.getLogger(__name__)


class PartitionTable:
    """Keeps bytes in memory and leaves decoding to the reader of a value: for what is few by nature (cursors, grants)."""

    def __init__(self, settings: BusSettings, name: str = "table") -> None:
        self._reader = LogReader(settings, name, fetch_wait_ms=FETCH_WAIT_MS)
        self._values: dict[bytes, bytes] = {}
        self._place: tuple[str, int] | None = None

    async def load(self, topic: str, partition: int) -> None:
        """Reads the partition from its beginning to the end it has now. Call it after fencing the old owner.

        1. assign from the beginning; 2. ask the end, open transactions included; 3. read until everything below is decided.
        Raises TransientError when Kafka is away: nothing is half-loaded then, call it again.
        """
        self._values = {}
        self._place = (topic, partition)
        await self._reader.assign(topic, {partition: BEGINNING})  # 1
        await self.refresh()  # 2, 3

    async def refresh(self) -> list[Change]:
        """Reads on to the end the partition has now. Returns what changed, in the order it was committed."""
        if self._place is None:
            raise RuntimeError("load a partition before refreshing it")
        topic, _ = self._place
        changes: list[Change] = []
        ends = await self._reader.ends(topic)
        async for records in self._reader.read_to(topic, ends):
            for record in records:
                self.put(record.key, record.value)
                changes.append((record.key, record.value))
        return changes

    def put(self, key: bytes, value: bytes | None) -> None:
        """Applies one record; the partition's owner calls it for what it committed itself."""
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def get(self, key: bytes | str) -> bytes | None:
        """The newest value of a key."""
        return self._values.get(key.encode() if isinstance(key, str) else key)

    def items(self, prefix: bytes | str = b"") -> Iterator[tuple[bytes, bytes]]:
        """The keys that begin with `prefix` and their values; safe against changes while iterating."""
        start = prefix.encode() if isinstance(prefix, str) else prefix
        return ((key, value) for key, value in list(self._values.items()) if key.startswith(start))

    def __len__(self) -> int:
        return len(self._values)

    @property
    def position(self) -> int:
        """Next offset: everything below it is in the table or invisible for good."""
        return 0 if self._place is None else self._reader.positions.get(self._place, 0)

    async def close(self) -> None:
        """Stops reading; the values stay."""
        await self._reader.close()


class Index(Protocol):
    """What is found by other ways than its key, and what its owner keeps in memory."""

    names: frozenset[str]
    """Connections whose records are indexed; those of others are stored as they are."""

    tallied: bytes
    """What the keys of all counted records begin with: others are not looked at."""
    is_tallied: bool
    """Whether records are counted."""

    def entries(self, key: bytes, value: bytes) -> tuple[Sequence[bytes], bool]:
        """Index keys of a record, and whether it is one of the few that are kept in memory. Called in another thread."""
        ...

    def tally(self, key: bytes, value: bytes) -> str | None:
        """The name under which a record counts; None: it does not. Called in another thread."""
        ...

    def prefixes(self, name: str) -> Sequence[bytes]:
        """What the keys of a connection's records begin with."""
        ...

    def keep(self, key: bytes, value: bytes | None) -> None:
        """A record that is kept in memory; None: it is not any more."""
        ...

    def changed(self, keys: Iterable[bytes]) -> None:
        """Records whose decoded form is no longer true."""
        ...


class Digest(msgspec.Struct):
    """One batch of records, ready to be written."""

    batch: WriteBatch
    kept: list[Change]
    """Those that are kept in memory, or were."""
    tallies: dict[str, int] = {}


RECORD, ENTRY, KEPT = b"r", b"i", b"k"
"""First byte of the store's keys: a record by its key, an index entry, the key of a record that is kept in memory."""


def why_not(mark: Mark, facts: PartitionFacts, topic: str, partition: int, now_s: float) -> str | None:
    """Why a store may not be gone on with; None: it may (law 22).

    A tombstone stays in the topic for `delete.retention.ms` at least. What was read to `position` and is older than that may hold
    keys that were deleted and compacted away meanwhile: half of it is the limit, so that clocks and reading may take their time.
    """
    if mark.format != FORMAT:
        return "another format"
    if (mark.cluster, mark.topic, mark.partition) != (facts.cluster, topic, partition):
        return "of another cluster or partition"
    if mark.topic_id != facts.topic_id:
        return "the topic was made anew"
    if not facts.start <= mark.position <= facts.end:
        return f"its offset {mark.position} is not among {facts.start} to {facts.end}"
    if not 0 <= now_s - mark.written_at <= facts.delete_retention_s / 2:
        return f"its age of {now_s - mark.written_at:.0f} s is above {facts.delete_retention_s / 2:.0f} s, or below nothing"
    return None


class StoredTable:
    """A table on local disk, which a restart goes on with where it may.

    The position moves only by reading: what its owner commits itself is read back like everything else. `written_at` of the mark
    is the time before the end was asked for that was then reached; while a first load is under way, the time before it began. So
    a tombstone above `position` was written after `written_at`, or was still there to be read then.
    """

    def __init__(
        self, settings: BusSettings, codec: Codec, service: str, name: str, index: Index, *, clock: Clock | None = None
    ) -> None:
        self._reader = LogReader(settings, name, fetch_wait_ms=FETCH_WAIT_MS, queue_kbytes=QUEUE_KBYTES)
        self._base = settings.data_dir / "cache"
        self._codec = codec
        self._service = service
        self._index = index
        self._clock = clock or SystemClock()
        self._store: Store | None = None
        self._mark: Mark | None = None
        self._kept: set[bytes] = set()
        self._is_behind = False
        """The reader's place is not the mark's: a refresh was broken off."""
        self._flushed = monotonic()
        self._turn = asyncio.Lock()
        self.is_warm = False
        """Whether the last load went on from a store of before."""

    # --- reading the topic ---------------------------------------------------------------------------------------------------

    async def load(self, topic: str, partition: int) -> None:
        """Reads the partition to the end it has now, from where the local store ends. Call it after fencing the old owner.

        1. what the partition is; 2. the store, if it may be gone on with; 3. read on, by the law of takeover; 4. what is kept in
        memory.
        Raises TransientError when Kafka is away or the disk fails: call it again.
        """
        began = monotonic()
        await self._let_go(keep=True)
        facts = await self._facts(topic, partition)  # 1
        await self._open(topic, partition, facts)  # 2
        self._is_behind = True
        try:
            await self._read_on()  # 3
        except OffsetLost:
            await self._let_go(keep=False)
            raise Unavailable(f"{topic} was cut off below: it is read anew") from None
        await self._reader.work(self._settle)
        for key in list(self._kept):  # 4
            self._index.keep(key, self.get(key))
        took_s = monotonic() - began
        how = "warm" if self.is_warm else "cold"
        metrics.observe("bus_restore_seconds", took_s, service=self._service, topic=topic, how=how)
        log.info("read", extra={"topic": topic, "partition": partition, "from": how, "seconds": round(took_s, 3)})

    def _settle(self) -> None:
        """A load ends. A first one was not counted on its way, which would have looked up every record, nor was one that a kill
        broke off."""
        store = self._store_()
        store.settle()
        if self._index.is_tallied and self._mark_().tallies is None:
            names = (self._index.tally(key[1:], value) for key, value in store.scan(RECORD + self._index.tallied))
            self._mark = msgspec.structs.replace(self._mark_(), tallies=dict(Counter(name for name in names if name)))
            store.write(batch(), self._mark)

    async def refresh(self) -> None:
        """Reads on to the end the partition has now. Raises TransientError, StoreFailed among them."""
        async with self._turn:
            try:
                await self._read_on()
            except OffsetLost as error:  # the topic was made anew beneath: the next takeover sees that
                raise StoreFailed(f"the local copy of state has no place in its topic any more: {error}") from error
        if monotonic() - self._flushed > FLUSH_EVERY_S:
            self._flushed = monotonic()
            await self._reader.work(self._store_().flush)

    async def close(self) -> None:
        """Stops reading and keeps the store for the next start."""
        await self._let_go(keep=True)
        await self._reader.close()

    async def _facts(self, topic: str, partition: int) -> PartitionFacts | None:
        """None where this user may not ask: then no store can be gone on with."""
        try:
            return await self._reader.facts(topic, partition)
        except SettingsError as error:
            log.warning("the local copy of state is not used: %s", error, extra={"topic": topic})
            return None

    async def _open(self, topic: str, partition: int, facts: PartitionFacts | None) -> None:
        now_s = self._clock.now().timestamp()

        def judged(mark: Mark) -> str | None:
            return why_not(mark, facts, topic, partition, now_s) if facts is not None else "the partition cannot be described"

        base = self._base / f"{self._service}-{topic}-{partition}"
        store, mark = await self._reader.work(lambda: open_store(base, judged))
        self._store = store
        self.is_warm = mark is not None
        if mark is None:
            cluster, topic_id = (facts.cluster, facts.topic_id) if facts is not None else ("", "")
            mark = Mark(
                format=FORMAT,
                cluster=cluster,
                topic=topic,
                topic_id=topic_id,
                partition=partition,
                position=0,
                written_at=now_s,
                names=sorted(self._index.names),
            )
            store.write(batch(), mark)
        self._mark = mark
        for schema_id in mark.schema_ids:
            await self._codec.learn(schema_id)
        self._kept = {key[1:] for key, _ in store.scan(KEPT)}
        await self._index_more(self._index.names - set(mark.names))

    async def _index_more(self, names: frozenset[str]) -> None:
        """Indexes what is stored of connections that were not ours to know when it was read."""
        store, mark = self._store_(), self._mark_()
        for prefix in (prefix for name in sorted(names) for prefix in self._index.prefixes(name)):
            found = store.scan(RECORD + prefix)
            while pairs := [(key[1:], value) for key, value in islice(found, FEED_RECORDS_MAX)]:
                digest = await self._digested(pairs, are_new=True)
                mark = self._advanced(mark.position, mark.written_at, digest.tallies)
                store.write(digest.batch, mark)
        if names:
            self._mark = msgspec.structs.replace(mark, names=sorted({*mark.names, *names}))
            store.write(batch(), self._mark)

    async def _read_on(self) -> None:
        store, mark = self._store_(), self._mark_()
        if store.failed is not None:
            raise store.failed
        if self._is_behind:
            await self._reader.assign(mark.topic, {mark.partition: mark.position or BEGINNING})
        self._is_behind = True
        asked_at = self._clock.now().timestamp()
        ends = await self._reader.ends(mark.topic)
        async for pairs, position in self._reader.feed(mark.topic, ends):
            digest = await self._digested(pairs)
            mark = self._advanced(position, self._mark_().written_at, digest.tallies)
            store.write(digest.batch, mark)
            self._index.changed(key for key, _ in pairs)
            for key, value in digest.kept:
                self._index.keep(key, value)
        end = self._reader.positions[mark.topic, mark.partition]
        if end != mark.position or asked_at - mark.written_at > CONFIRM_EVERY_S or asked_at < mark.written_at:
            store.write(batch(), self._advanced(end, asked_at))
        self._is_behind = False

    def _advanced(self, position: int, written_at: float, tallies: Mapping[str, int] = MappingProxyType({})) -> Mark:
        mark = self._mark_()
        counts = None
        if mark.tallies is not None:
            counts = {name: mark.tallies.get(name, 0) + tallies.get(name, 0) for name in mark.tallies.keys() | tallies.keys()}
        self._mark = msgspec.structs.replace(mark, position=position, written_at=written_at, tallies=counts)
        return self._mark

    async def _digested(self, pairs: Sequence[Pair], *, are_new: bool = False) -> Digest:
        """Digests a batch in the reader's thread, learning the schemas of other releases on the way."""
        while True:
            try:
                digest = await self._reader.work(lambda: self._digest(pairs))
                if self._index.is_tallied and self._mark_().tallies is not None:
                    digest.tallies = await self._reader.work(lambda: self._tallied(pairs, are_new=are_new))
            except SchemaUnknown as error:
                await self._codec.learn(error.schema_id)
                mark = self._mark_()
                self._mark = msgspec.structs.replace(mark, schema_ids=sorted({*mark.schema_ids, error.schema_id}))
            else:
                return digest

    def _digest(self, pairs: Sequence[Pair]) -> Digest:
        made, kept, few = batch(), [], set(self._kept)
        put, entries = made.put, self._index.entries
        for key, value in pairs:
            is_kept = False
            if value is None:
                made.delete(RECORD + key)
            else:
                put(RECORD + key, value)
                found, is_kept = entries(key, value)
                for entry in found:
                    put(ENTRY + entry, b"")
            if is_kept:
                put(KEPT + key, b"")
                few.add(key)
                kept.append((key, value))
            elif key in few:
                made.delete(KEPT + key)
                few.discard(key)
                kept.append((key, None))
        self._kept = few
        return Digest(made, kept)

    def _tallied(self, pairs: Sequence[Pair], *, are_new: bool) -> dict[str, int]:
        """How the counts change with a batch."""
        store, tally = self._store_(), self._index.tally
        counts: Counter[str] = Counter()
        newest: dict[bytes, bytes | None] = {}
        for key, value in pairs:
            if not key.startswith(self._index.tallied):
                continue
            before = newest[key] if key in newest else None if are_new else store.get(RECORD + key)
            newest[key] = value
            if before is not None and (name := tally(key, before)):
                counts[name] -= 1
            if value is not None and (name := tally(key, value)):
                counts[name] += 1
        return dict(counts)

    # --- reading the table ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes | str) -> bytes | None:
        """The newest value of a key. Raises StoreFailed."""
        return self._store_().get(RECORD + (key.encode() if isinstance(key, str) else key))

    def scan(self, prefix: bytes | str) -> Iterator[tuple[bytes, bytes]]:
        """The records whose keys begin with `prefix`, in the order of keys. Raises StoreFailed."""
        start = RECORD + (prefix.encode() if isinstance(prefix, str) else prefix)
        return ((key[1:], value) for key, value in self._store_().scan(start))

    def entries(self, prefix: str) -> list[bytes]:
        """What follows `prefix` in index keys that begin with it. An entry is a hint: the record says whether it is still so."""
        start = ENTRY + prefix.encode()
        return [key[len(start) :] for key, _ in self._store_().scan(start)]

    @property
    def tallies(self) -> Mapping[str, int]:
        """How many records of the table count under each name."""
        return self._mark_().tallies or {}

    @property
    def position(self) -> int:
        """Next offset: everything below it is in the table or invisible for good."""
        return self._mark_().position

    # --- parts ---------------------------------------------------------------------------------------------------------------

    def _store_(self) -> Store:
        if self._store is None:
            raise RuntimeError("load a partition before reading its table")
        return self._store

    def _mark_(self) -> Mark:
        if self._mark is None:
            raise RuntimeError("load a partition before reading its table")
        return self._mark

    async def _let_go(self, *, keep: bool) -> None:
        store, self._store, self._mark, self._kept = self._store, None, None, set()
        if store is not None:
            await self._reader.work(lambda: store.close(keep=keep and store.failed is None))


async def load_all(*loads: Coroutine[Any, Any, None]) -> None:
    """Several tables at once. The first that fails ends the others and raises what it raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for load in loads:
                tasks.create_task(load)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def keep_absorbed(recent: Callable[[], int], refresh: Callable[[], Awaitable[None]], slot: int) -> None:
    """Reads back what an owner commits, until cancelled: memory stays small, and local copies young enough to be gone on with.

    `recent` counts what is in memory only. Raises StoreFailed: then the slot is taken over anew, from the topic.
    """
    clock = asyncio.get_running_loop().time
    due = clock() + ABSORB_LATEST_S
    while True:
        await asyncio.sleep(ABSORB_EVERY_S)
        if clock() < due and recent() < RECENT_MAX:
            continue
        due = clock() + ABSORB_LATEST_S
        try:
            await refresh()
        except StoreFailed:
            raise
        except TransientError as error:
            log.warning("reading back waits: %s", error, extra={"slot": slot})
