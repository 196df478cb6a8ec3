"""Group commit of one slot: the only way anything a sink decides becomes true.

Tasks of all accounts of the slot hand in entries; the ledger commits everything that waits in one transaction, then applies it
to the in-memory states, then lets the tasks go on. One writer, one order (laws 5 and 21): memory never runs ahead of the log.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import msgspec

from bus.core import topics
from bus.core.errors import RecordError
from bus.runtime.publisher import Committer, Outgoing, commit_surely
from bus.runtime.slotwork import OwnershipLost
from bus.runtime.state import AccountState, offset_key
from schemas.system import Cause, OffsetRecord, StateRecord

BATCH_RECORDS_MAX = 2_000
"""A transaction stays small enough to commit well within its time-out of 10 s."""

RECORD_BYTES_MAX = 8 * 1024 * 1024 - 64 * 1024
"""Below `max.message.bytes` of every topic, with room for keys and headers."""

Change = tuple[str, StateRecord | None]


class Encoder(Protocol):
    """What the ledger asks of the codec."""

    def encode(self, topic: str, value: msgspec.Struct) -> bytes:
        """Framed Avro bytes."""
        ...


class Offsets:
    """Which outbound offsets of one account are settled; the committed one is the lowest that is not."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._open: set[int] = set()

    def taken(self, offset: int) -> None:
        """A command was handed to a lane."""
        self._open.add(offset)
        self._next = max(self._next, offset + 1)

    def settled(self, offset: int) -> None:
        """Its outcome is in the log, or in the batch being committed."""
        self._open.discard(offset)

    def restart(self, offset: int) -> None:
        """What lay before is gone; commands already taken are still settled one by one."""
        self._next = offset

    def position(self) -> int:
        """Next offset a new owner must read."""
        return min(self._open, default=self._next)

    def __len__(self) -> int:
        return len(self._open)


class Entry(msgspec.Struct, kw_only=True):
    """What one task wants to be true."""

    state: AccountState
    changes: Sequence[Change] = ()
    outgoing: Sequence[tuple[str, int | None, str, msgspec.Struct]] = ()
    """(topic, partition, key, record) beside the state: results, dead letters, commands to peers."""
    settles: int | None = None
    """Outbound offset this entry settles."""
    restarts: int | None = None
    """Where the account's outbound topic is read from now on, because retention took what lay before."""


Handed = tuple[Entry, list[Outgoing], asyncio.Future[None]]


class Ledger:
    """Group commit of one slot."""

    def __init__(self, slot: int, publisher: Committer, codec: Encoder) -> None:
        self._slot = slot
        self._publisher = publisher
        self._codec = codec
        self._offsets: dict[str, Offsets] = {}
        self._waiting: list[Handed] = []
        self._committing: list[Handed] = []
        self._wake = asyncio.Event()
        self._lost: BaseException | None = None
        self.commits = 0

    def offsets(self, state: AccountState) -> Offsets:
        """The offset book of an account."""
        return self._offsets.setdefault(state.connection, Offsets(state.offset or 0))

    async def commit(self, entry: Entry) -> None:
        """Returns once the entry is durable and applied. Raises OwnershipLost, or a RecordError when it cannot be encoded."""
        if self._lost is not None:
            raise OwnershipLost("the slot is no longer ours") from self._lost
        records = self._encode(entry)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, records, future))
        self._wake.set()
        await future

    async def settled(self, state: AccountState, key: str) -> None:
        """Returns when no change of a record is on its way: who makes it anew out of what stands there sees all of it.

        What is handed in at once follows what went before. Raises OwnershipLost.
        """
        while True:
            handed = (*self._committing, *self._waiting)
            found = [
                future for entry, _, future in handed if entry.state is state and any(key == name for name, _ in entry.changes)
            ]
            if not found:
                return
            await asyncio.shield(found[-1])  # whoever waits here may be cancelled, the one that handed it in is not

    def _encode(self, entry: Entry) -> list[Outgoing]:
        records = [
            Outgoing(
                topic=topics.STATE,
                partition=self._slot,
                key=key,
                value=self._codec.encode(topics.STATE, record) if record else None,
            )
            for key, record in entry.changes
        ]
        for topic, partition, key, value in entry.outgoing:
            records.append(Outgoing(topic=topic, partition=partition, key=key, value=self._codec.encode(topic, value)))
        for record in records:
            if record.value is not None and len(record.value) > RECORD_BYTES_MAX:
                raise RecordError(
                    f"a record for {record.topic} has {len(record.value)} bytes, above {RECORD_BYTES_MAX}",
                    hint="shorten the object at the source",
                    cause=Cause.TOO_LARGE,
                )
        return records

    async def run(self) -> None:
        """Commits until cancelled or fenced."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await self._commit_batch()
        except BaseException as error:
            self._lose(error)
            raise

    async def _commit_batch(self) -> None:
        """Steps: 1 take what waits; 2 add the offsets it settles; 3 one transaction; 4 apply to memory; 5 let the tasks go on."""
        # 1
        batch: list[Handed] = []
        self._committing = batch
        size = 0
        while self._waiting and size < BATCH_RECORDS_MAX:
            batch.append(self._waiting.pop(0))
            size += len(batch[-1][1])
        records = [record for _, encoded, _ in batch for record in encoded]
        # 2
        settled: defaultdict[str, list[int]] = defaultdict(list)
        for entry, _, _ in batch:
            if entry.settles is not None:
                settled[entry.state.connection].append(entry.settles)
            if entry.restarts is not None:
                self.offsets(entry.state).restart(entry.restarts)
                settled.setdefault(entry.state.connection, [])
        offset_changes = [self._offset_change(connection, done) for connection, done in settled.items()]
        records += [
            Outgoing(topic=topics.STATE, partition=self._slot, key=key, value=self._codec.encode(topics.STATE, record))
            for key, record in offset_changes
        ]
        # 3
        try:
            await commit_surely(self._publisher, records)
        except BaseException as error:
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(OwnershipLost(f"the commit did not end well: {type(error).__name__}"))
            raise
        self.commits += 1
        # 4
        for entry, _, _ in batch:
            for key, change in entry.changes:
                entry.state.apply(key, change)
        # 5
        self._committing = []
        for _, _, future in batch:
            if not future.done():
                future.set_result(None)

    def _offset_change(self, connection: str, done: list[int]) -> tuple[str, StateRecord]:
        book = self._offsets[connection]
        for offset in done:
            book.settled(offset)
        return offset_key(connection), StateRecord(connection=connection, offset=OffsetRecord(offset=book.position()))

    def _lose(self, error: BaseException) -> None:
        self._lost = error
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(OwnershipLost("the slot is no longer ours"))
        self._waiting.clear()
