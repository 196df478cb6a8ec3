"""One short transaction at a time (laws 1, 5 and 21).

Order of operations of `commit`:
1. refuse what cannot be sent (size, empty key), before a transaction stands open;
2. begin;
3. hand all records to the producer, waiting for nothing;
4. commit, which waits for their delivery, at most TRANSACTION_TIMEOUT_S;
5. tell how it ended: committed, aborted (nothing is visible, commit again from memory), fenced (another owner: stop), or
   unclear (producer destroyed: only a full takeover tells). `commit` never repeats by itself.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from bus.core.errors import BusError, RecordError
from bus.runtime import kafka, metrics
from bus.runtime.kafka import CommitAborted, CommitUnclear, Fenced
from bus.runtime.retry import wait_s
from bus.runtime.settings import BusSettings
from bus.runtime.watchdog import span
from schemas.system import Cause

__all__ = ["CommitAborted", "CommitUnclear", "Committer", "Fenced", "Outgoing", "Publisher", "commit_surely"]

log = logging.getLogger(__name__)

ABORTED_TRIES_MAX = 5
COMMIT_LIMIT_S = 120.0
"""Every step of a commit has a time-out of its own; all of them together are over long before this."""

RECORDS_MAX = 50_000
"""Records of one transaction."""
BYTES_MAX = 256 * 1024 * 1024
"""Bytes of one transaction: half of the producer's queue."""
HEADER_BYTES = 16
"""Room for lengths around key, value and each header."""


class Outgoing(NamedTuple):
    """A record to publish. `partition` None: chosen by the key's murmur2 hash. `value` None: a tombstone."""

    topic: str
    partition: int | None
    key: str
    value: bytes | None
    headers: Mapping[str, str] = {}

    def size(self) -> int:
        """Bytes on the wire, rounded up."""
        headers = sum(len(name) + len(data) * 4 + HEADER_BYTES for name, data in self.headers.items())
        return len(self.key) * 4 + len(self.value or b"") + headers + HEADER_BYTES


def check(records: Sequence[Outgoing]) -> None:
    """Step 1. Raises RecordError (TOO_LARGE) naming topic and key, ValueError for what only a bug can send."""
    total = 0
    for record in records:
        if not record.key:
            raise ValueError(f"a record for {record.topic} has no key: compaction and order need one")
        size = record.size()
        if size > kafka.RECORD_BYTES_MAX:
            raise RecordError(
                f"{record.topic}: {record.key} has {size} bytes, at most {kafka.RECORD_BYTES_MAX} go through",
                cause=Cause.TOO_LARGE,
                hint="make the object smaller at its source (lines, texts), or leave it out by a filter",
            )
        total += size
    if len(records) > RECORDS_MAX or total > BYTES_MAX:
        raise ValueError(f"{len(records)} records of {total} bytes in one transaction: at most {RECORDS_MAX} and {BYTES_MAX}")


class Committer(Protocol):
    """What a publisher is to those who commit."""

    async def commit(self, records: Sequence[Outgoing]) -> None:
        """One transaction."""
        ...


async def commit_surely(publisher: Committer, records: Sequence[Outgoing]) -> None:
    """Commits again from memory what ended aborted: nothing of it was visible, and no vendor call is repeated."""
    for attempt in range(1, ABORTED_TRIES_MAX + 1):
        try:
            await publisher.commit(records)
        except CommitAborted as error:
            log.warning("commit aborted, try %d: %s", attempt, error)
            if attempt == ABORTED_TRIES_MAX:
                raise
            await asyncio.sleep(wait_s(attempt, longest_s=10))
        else:
            return


class Publisher:
    """A transactional producer under a fixed id; opening it fences every older one with that id."""

    def __init__(self, settings: BusSettings, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"publish-{transactional_id}")
        self._turn = asyncio.Lock()
        self._producer: Producer | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether `commit` may be called."""
        return self._producer is not None

    async def open(self) -> None:
        """Fences and aborts the older owner. Raises TransientError when Kafka is away: call it again."""
        async with self._turn:
            await self._run(self._open)

    async def commit(self, records: Sequence[Outgoing]) -> None:
        """Commits all records or none, in one transaction.

        Raises RecordError (TOO_LARGE) before anything is begun; CommitAborted when nothing is visible; Fenced when another
        process owns the id; CommitUnclear when nobody can tell. After the last two the publisher is closed for good.
        """
        if not records:
            return
        check(records)  # 1
        async with self._turn:
            if self._closed:
                raise CommitUnclear(f"{self.transactional_id} is closed: take over again")
            try:
                with span(f"commit of {self.transactional_id}", COMMIT_LIMIT_S):
                    await self._run(lambda: self._commit(records))
            except BusError as error:
                metrics.count("bus_commits_total", publisher=self._family(), outcome=type(error).__name__)
                raise
            metrics.count("bus_commits_total", publisher=self._family(), outcome="committed")

    async def close(self) -> None:
        """Lets the producer go; an open transaction is left to the next owner's fencing. Closing twice is harmless."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                await self._run(self._destroy)
                self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _family(self) -> str:
        return self.transactional_id.rsplit("-", 1)[0]

    # --- in the thread -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._destroy()
        producer = Producer(kafka.producer_config(self._settings, self.transactional_id, transactional_id=self.transactional_id))
        try:
            producer.init_transactions(kafka.TRANSACTION_TIMEOUT_S * 2)
        except KafkaException as error:
            raise kafka.translate(error, f"opening {self.transactional_id}") from error
        self._producer = producer

    def _commit(self, records: Sequence[Outgoing]) -> None:
        producer = self._producer
        if producer is None:
            raise CommitUnclear(f"{self.transactional_id} is closed: take over again")
        refused: list[KafkaError] = []
        committing = False
        try:
            producer.begin_transaction()  # 2
            for record in records:  # 3
                self._produce(producer, record, refused)
            committing = True
            producer.commit_transaction(kafka.TRANSACTION_TIMEOUT_S)  # 4
        except (KafkaException, BufferError) as error:
            raise self._ended(producer, error, refused, committing=committing) from error  # 5

    def _produce(self, producer: Producer, record: Outgoing, refused: list[KafkaError]) -> None:
        producer.produce(
            record.topic,
            key=record.key.encode(),
            value=record.value,
            partition=-1 if record.partition is None else record.partition,
            headers=[(name, data.encode()) for name, data in record.headers.items()],
            on_delivery=lambda error, _message: refused.append(error) if error is not None else None,
        )

    def _ended(
        self, producer: Producer, error: KafkaException | BufferError, refused: list[KafkaError], *, committing: bool
    ) -> BusError:
        """Step 5: how a transaction that failed has ended. Destroys the producer unless it aborted cleanly."""
        told = kafka.translate(error, f"committing {self.transactional_id}")
        first = error.args[0] if error.args else None
        if isinstance(told, Fenced):
            self._destroy()
            return told
        if committing and isinstance(first, KafkaError) and not first.txn_requires_abort():
            self._destroy()
            return CommitUnclear(str(told))
        return self._aborted(producer, told, refused)

    def _aborted(self, producer: Producer, told: BusError, refused: list[KafkaError]) -> BusError:
        try:
            producer.abort_transaction(kafka.TRANSACTION_TIMEOUT_S)
        except KafkaException as error:
            self._destroy()
            second = kafka.translate(error, f"aborting {self.transactional_id}")
            return second if isinstance(second, Fenced) else CommitUnclear(f"{told}; {second}")
        causes = [kafka.translate(item, f"delivering for {self.transactional_id}") for item in refused]
        record_error = next((cause for cause in [*causes, told] if isinstance(cause, RecordError)), None)
        return record_error or CommitAborted(str(told))

    def _destroy(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()  # and no close: it would abort or flush, which is the next owner's business
