"""One page, from the vendor's bytes to one committed transaction.

Events, what is known, what can be matched and the cursor become true together (law 1): a crash before the commit repeats the
page, a crash after it goes on behind it.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Protocol

import msgspec

from bus.core import topics
from bus.core.clock import Clock, micros
from bus.core.errors import MappingError, RecordError
from bus.core.identity import Hasher, event_id, match_keys
from bus.kit.connector import Connector, Page, RawRecord
from bus.runtime import metrics
from bus.runtime.codec import Codec
from bus.runtime.privacy import NewKey
from bus.runtime.publisher import Outgoing
from bus.runtime.state import AccountState
from schemas import canon, files
from schemas.canon import EventMeta, Operation
from schemas.picker import compile_picker
from schemas.system import Cause, Command, CommandKind, DeadLetter, ObjectRef, ObjectState, SeenRecord
from services.pollers.judging import Judgement, Verdict, is_held, is_older, judge, next_seq
from services.pollers.loops import Loops
from services.pollers.pictures import Published

log = logging.getLogger(__name__)

EVENT_TYPES: dict[str, type[Any]] = {
    "customer": canon.CustomerEvent,
    "product": canon.ProductEvent,
    "product_category": canon.ProductCategoryEvent,
    "sales_order": canon.SalesOrderEvent,
    "sales_invoice": canon.SalesInvoiceEvent,
}


class Sealer(Protocol):
    """What a poller asks of the privacy layer; new keys are committed with their first blob."""

    async def seal(self, entity: Any, tenant: str, connection: str) -> tuple[Any, list[NewKey]]:
        """The entity with its personal data sealed, and the keys that are new."""
        ...

    def seal_bytes(self, data: bytes, *, tenant: str, connection: str) -> tuple[canon.Sealed, list[NewKey]]:
        """Sealed bytes and the keys that are new."""
        ...

    def records(self, keys: Sequence[NewKey], codec: Codec) -> list[Outgoing]:
        """The key records to commit with the blobs."""
        ...

    def published(self, keys: Sequence[NewKey]) -> None:
        """To be called after that commit."""
        ...


class Counts(msgspec.Struct, kw_only=True):
    """What became of the versions of one page; read is the sum of the others."""

    read: int = 0
    unchanged: int = 0
    published: int = 0
    held: int = 0
    dead: int = 0

    def add(self, other: "Counts") -> None:
        """Adds another page."""
        self.read += other.read
        self.unchanged += other.unchanged
        self.published += other.published
        self.held += other.held
        self.dead += other.dead


PICK_KNOWN = compile_picker(files.load(topics.schema_of(topics.SEEN)), ["content_hash", "deleted"])
"""What of a record says whether it counts."""


class Table(Protocol):
    """What was read from `bus.seen`."""

    def get(self, key: bytes) -> bytes | None:
        """The record of a key."""
        ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The records whose keys begin with `prefix`."""
        ...


class Seen:
    """What polling knows of one account's objects: raw records by key, decoded on look-up.

    `raw` is what was committed lately; it hides the table below and leaves memory when the table has it.
    """

    def __init__(self, connection: str, codec: Codec, raw: dict[bytes, bytes], table: Table | None = None) -> None:
        self._connection = connection
        self._codec = codec
        self._recent: dict[bytes, tuple[int, bytes]] = {key: (0, value) for key, value in raw.items()}
        self._changes = 0
        self._table = table
        self.held: set[tuple[str, str]] = set()
        self.known: Counter[str] = Counter()
        """Objects by entity that could be mapped, deleted ones included: what the books of a flow start from (law 17)."""
        self.living: Counter[str] = Counter()
        """Those of them that exist, as far as polling knows."""

    def knows_any(self, entities: Sequence[str]) -> bool:
        """Whether an object of one of these entities is known."""
        return any(next(self.ids(entity), None) is not None for entity in entities)

    def ids(self, entity: str) -> Iterator[str]:
        """Ids of all objects of an entity that polling has met as of now. Not to be kept half-read: see `Store.scan`."""
        prefix = topics.key(self._connection, entity, "").encode()
        recent = {key for key in self._recent if key.startswith(prefix)}
        below = (key for key, _ in self._table.scan(prefix) if key not in recent) if self._table is not None else ()
        for key in chain(below, recent):
            yield topics.split_key(key.decode())[2]

    def known_after(self, changes: Iterable[tuple[str, bytes, SeenRecord]]) -> dict[str, int]:
        """`known` as it will be once some records are committed."""
        found = Counter(self.known)
        for _, _, record in {change[0]: change for change in changes}.values():
            found[record.entity] += is_known(record) - self._flags(record.entity, record.source_id)[0]
        return {entity: count for entity, count in found.items() if count}

    def _count(self, record: SeenRecord) -> None:
        self.known[record.entity] += is_known(record)
        self.living[record.entity] += is_known(record) and not record.deleted

    def _flags(self, entity: str, source_id: str) -> tuple[bool, bool]:
        """Whether an object is known, and living, without decoding all of its record."""
        raw, frame = self._raw(entity, source_id), self._codec.frame(topics.SEEN)
        if raw is None:
            return False, False
        if raw.startswith(frame):
            content, deleted = PICK_KNOWN(raw, len(frame))
            return bool(content) or deleted, bool(content) and not deleted
        record = self._codec.decode(topics.SEEN, raw)
        return is_known(record), is_known(record) and not record.deleted

    def recall_held(self) -> None:
        """Finds what an earlier process left held, and counts what is known, where all of it is in memory."""
        for _, value in self._recent.values():
            record = self._codec.decode(topics.SEEN, value)
            self._count(record)
            self._note(record)

    def recall_count(self, entity: str, what: str, count: int) -> None:
        """What the table counts of an entity: `living` or `deleted`."""
        self.known[entity] += count
        self.living[entity] += count if what == "living" else 0

    def keep(self, entity: str, source_id: str, *, held: bool) -> None:
        """A record of the table that is held, or is not any more. What was committed since counts instead."""
        if self.key(entity, source_id).encode() in self._recent:
            return
        if held:
            self.held.add((entity, source_id))
        else:
            self.held.discard((entity, source_id))

    def key(self, entity: str, source_id: str) -> str:
        """Key on `bus.seen`."""
        return topics.event_key(self._connection, entity, source_id)

    def holds_raw(self, entity: str, source_id: str, raw_hash: str) -> bool:
        """Whether the known record was made of these very bytes under this very mapping: no decoding on the fast path."""
        known = self._raw(entity, source_id)
        return known is not None and raw_hash.encode() in known

    def get(self, entity: str, source_id: str) -> SeenRecord | None:
        """The decoded record."""
        known = self._raw(entity, source_id)
        return self._codec.decode(topics.SEEN, known) if known is not None else None

    def put(self, key: str, raw: bytes, record: SeenRecord) -> None:
        """Applies a committed record."""
        was_known, was_living = self._flags(record.entity, record.source_id)
        self.known[record.entity] -= was_known
        self.living[record.entity] -= was_living
        self._count(record)
        place = key.encode()
        self._changes += 1
        self._recent.pop(place, None)
        self._recent[place] = (self._changes, raw)
        self._note(record)

    def mark(self) -> int:
        """The number of the last record applied; see `settled`."""
        return self._changes

    def recent(self) -> int:
        """Records in memory that the table does not have yet."""
        return len(self._recent)

    def settled(self, mark: int) -> None:
        """The table was read to an end asked for after `mark`: what was applied until then is in it, and leaves memory."""
        while self._recent:
            key = next(iter(self._recent))
            if self._recent[key][0] > mark:
                return
            del self._recent[key]

    def _raw(self, entity: str, source_id: str) -> bytes | None:
        key = self.key(entity, source_id).encode()
        recent = self._recent.get(key)
        if recent is not None:
            return recent[1]
        return self._table.get(key) if self._table is not None else None

    def _note(self, record: SeenRecord) -> None:
        if record.held:
            self.held.add((record.entity, record.source_id))
        else:
            self.held.discard((record.entity, record.source_id))


def is_known(record: SeenRecord | None) -> bool:
    """Whether an object counts: held ones that were never judged and those set aside do not."""
    return record is not None and (bool(record.content_hash) or record.deleted)


class Batch(msgspec.Struct, kw_only=True):
    """What one page makes true."""

    outgoing: list[Outgoing] = []
    seen: list[tuple[str, bytes, SeenRecord]] = []
    keys: list[NewKey] = []
    pictures: set[str] = set()
    """Hashes of the pictures among `outgoing`."""
    counts: Counts
    aside: list[dict[str, str]] = []
    """Records set aside, for the log."""
    why: str = ""
    """What is wrong with the first record that cannot be mapped."""


class PageBuilder:
    """Turns the pages of one account into transactions."""

    def __init__(
        self,
        *,
        connection: str,
        tenant: str,
        connector: Connector,
        codec: Codec,
        privacy: Sealer,
        hasher: Hasher,
        state: AccountState,
        seen: Seen,
        slot: int,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._connector = connector
        self._codec = codec
        self._privacy = privacy
        self._hasher = hasher
        self._state = state
        self._seen = seen
        self._slot = slot
        self._clock = clock
        self._version = connector.manifest.mapping_version
        self._pictures = Published()
        self._loops = Loops()

    def raw_hash(self, record: RawRecord) -> str:
        """Keyed hash of the served bytes and the mapping version, so that a mapping fix reads everything once more."""
        return self._hasher.hex(b"%d|" % self._version + record.raw, 16)

    def unknown(self, page: Page, *, force: bool = False) -> list[RawRecord]:
        """Records whose bytes are not the ones known; repeats of the overlap end here. `force`: all of them."""
        return [
            record
            for record in page.records
            if force
            or record.deleted
            or not record.skip_unchanged
            or not self._seen.holds_raw(record.entity, record.id, self.raw_hash(record))
        ]

    async def build(
        self,
        served: int,
        records: Sequence[RawRecord],
        completed: Sequence[RawRecord | Exception],
        *,
        asked_at: datetime,
        snapshot: bool = False,
        renewed_at: datetime | None = None,
        is_list: bool = True,
    ) -> Batch:
        """Maps, hashes, judges, seals and encodes; the state must be fresh (read after the page arrived).

        With `renewed_at` an object whose last version is older than that is published even if nothing changed. `is_list`: rows of
        a list, which may be older than what the vendor holds.
        """
        batch = Batch(counts=Counts(read=served, unchanged=served - len(records)))
        for record, whole in zip(records, completed, strict=True):
            try:
                await self._one(batch, record, whole, asked_at, snapshot, renewed_at, is_list=is_list)
            except RecordError as error:
                self._dead(batch, record, error)
        batch.outgoing[:0] = self._privacy.records(list({key.key_id: key for key in batch.keys}.values()), self._codec)
        return batch

    def committed(self, batch: Batch) -> None:
        """Applies a committed batch to memory."""
        self._privacy.published(batch.keys)
        self._pictures.committed(batch.pictures)
        for place in batch.aside:
            log.warning("record set aside", extra=place)
        for key, raw, record in batch.seen:
            self._seen.put(key, raw, record)

    async def _one(
        self,
        batch: Batch,
        record: RawRecord,
        whole: RawRecord | Exception,
        asked_at: datetime,
        snapshot: bool,
        renewed_at: datetime | None,
        *,
        is_list: bool,
    ) -> None:
        if isinstance(whole, RecordError):
            raise whole
        if isinstance(whole, Exception):
            raise MappingError(f"{type(whole).__name__} while joining {record.entity} {record.id}") from whole
        seen = self._seen.get(record.entity, record.id)
        if whole.deleted:
            self._deleted(batch, whole, seen)
            return
        entity = self._connector.to_canonical(whole)
        content = self._hasher.content(entity)
        fields = self._hasher.fields(entity) if record.entity not in topics.DOCUMENTS else {}
        renew = renewed_at is not None and seen is not None and seen.seq < micros(renewed_at)
        verdict = judge(
            self._state,
            seen,
            record.entity,
            record.id,
            content,
            fields,
            self._clock.now(),
            renew=renew,
            asked_at=asked_at,
            version=whole.version,
            is_list=is_list,
        )
        known = SeenRecord(
            connection=self._connection,
            entity=record.entity,
            source_id=record.id,
            raw_hash=self.raw_hash(record),
            content_hash=content,
            seq=verdict.seq or (seen.seq if seen else 0),
            mapping_version=self._version,
            source_version=whole.version,
            judged_write=verdict.judged_write or (seen.judged_write if seen else None),
            field_hashes=fields,
        )
        if verdict.verdict is Verdict.HELD:
            self._hold(batch, record, seen)
        elif verdict.verdict is Verdict.UNCHANGED:
            batch.counts.unchanged += 1
            self._know(batch, known)
        else:
            batch.counts.published += 1
            await self._news(batch, whole, entity, known, verdict, seen, snapshot)
            self._know(batch, known)
        if record.entity not in topics.DOCUMENTS and verdict.verdict is not Verdict.HELD:
            self._observe(batch, entity, known, asked_at)

    async def _news(
        self,
        batch: Batch,
        record: RawRecord,
        entity: Any,
        known: SeenRecord,
        verdict: Judgement,
        seen: SeenRecord | None,
        snapshot: bool,
    ) -> None:
        sealed, keys = await self._privacy.seal(entity, self._tenant, self._connection)
        batch.keys += keys
        fresh = seen is None or seen.deleted or not seen.content_hash
        op = (Operation.SNAPSHOT if snapshot else Operation.CREATED) if fresh else Operation.UPDATED
        meta = self._meta(record, known, op, verdict)
        event = EVENT_TYPES[record.entity](meta=meta, after=sealed)
        self._illustrate(batch, record)
        self._watch(record, verdict)
        self._emit(batch, record.entity, known, event)

    def _watch(self, record: RawRecord, verdict: Judgement) -> None:
        """What changes again after each write of ours, more often than people do, is told."""
        known = self._state.object(record.entity, record.id)
        if known is None or not known.by_bus or known.written_at is None or (verdict.origin is not None and verdict.origin.echo):
            return
        if self._loops.turned(record.entity, record.id, known.written_at):
            metrics.count("bus_loops_total", connection=self._connection, entity=record.entity)
            place = {"connection": self._connection, "entity": record.entity, "id": record.id}
            log.warning("an object goes back and forth: look at what both sides make of each other's values", extra=place)

    def _illustrate(self, batch: Batch, record: RawRecord) -> None:
        """The pictures an event names go with it, each once."""
        for picture in self._pictures.missing(record):
            if picture.key not in batch.pictures:
                batch.pictures.add(picture.key)
                batch.outgoing.append(picture)

    def _meta(self, record: RawRecord, known: SeenRecord, op: Operation, verdict: Judgement | None) -> EventMeta:
        made_id = event_id(self._seen.key(record.entity, record.id), known.seq)
        return EventMeta(
            event_id=made_id,
            seq=known.seq,
            tenant=self._tenant,
            system=self._connector.manifest.id,
            connection=self._connection,
            entity=record.entity,
            source_id=record.id,
            source_version=record.version,
            source_modified_at=record.modified_at,
            observed_at=self._clock.now(),
            op=op,
            content_hash=known.content_hash,
            mapping_version=self._version,
            field_hashes=known.field_hashes,
            echo_fields=list(verdict.echo_fields) if verdict else [],
            origin=verdict.origin if verdict else None,
            correlation_id=made_id,
        )

    def _emit(self, batch: Batch, entity: str, known: SeenRecord, event: Any) -> None:
        topic = topics.canonical(entity)
        key = self._seen.key(entity, known.source_id)
        headers = cloud_event_headers(event.meta)
        batch.outgoing.append(
            Outgoing(topic=topic, partition=None, key=key, value=self._codec.encode(topic, event), headers=headers)
        )

    def _deleted(self, batch: Batch, record: RawRecord, seen: SeenRecord | None) -> None:
        """The vendor says it is gone: an event with op DELETED, then a tombstone."""
        if seen is None or seen.deleted:
            batch.counts.unchanged += 1
            return
        if is_held(self._state, seen, record.entity, record.id):
            self._hold(batch, record, seen)
            return
        known = msgspec.structs.replace(
            seen, seq=next_seq(seen, self._clock.now()), deleted=True, held=False, content_hash="", raw_hash="", field_hashes={}
        )
        event = EVENT_TYPES[record.entity](meta=self._meta(record, known, Operation.DELETED, None), after=None)
        self._emit(batch, record.entity, known, event)
        key = self._seen.key(record.entity, record.id)
        batch.outgoing.append(Outgoing(topic=topics.canonical(record.entity), partition=None, key=key, value=None))
        batch.counts.published += 1
        self._know(batch, known)
        if record.entity not in topics.DOCUMENTS:
            self._command(batch, record.entity, record.id, ObjectState(active=False))

    def _hold(self, batch: Batch, record: RawRecord, seen: SeenRecord | None) -> None:
        """Recorded as held with the cursor; judged when the intent closes."""
        batch.counts.held += 1
        held = (
            msgspec.structs.replace(seen, held=True, raw_hash="")
            if seen is not None
            else SeenRecord(
                connection=self._connection,
                entity=record.entity,
                source_id=record.id,
                raw_hash="",
                content_hash="",
                seq=0,
                mapping_version=self._version,
                held=True,
            )
        )
        self._know(batch, held)

    def _dead(self, batch: Batch, record: RawRecord, error: RecordError) -> None:
        """A record that cannot be mapped is set aside with its sealed bytes; the rest go on. The same bytes do not die twice."""
        batch.counts.dead += 1
        batch.why = batch.why or str(error)
        place = {"connection": self._connection, "entity": record.entity, "id": record.id, "cause": str(error.cause)}
        batch.aside.append(place)
        seen = self._seen.get(record.entity, record.id)
        sealed, keys = self._privacy.seal_bytes(record.raw, tenant=self._tenant, connection=self._connection)
        batch.keys += keys
        letter = DeadLetter(
            stage="poller",
            cause=error.cause if error.cause is not Cause.UNKNOWN else Cause.MAPPING_ERROR,
            detail=str(error),
            hint=error.hint or "correct the object at the source: it is read again when it changes",
            connection=self._connection,
            source=ObjectRef(connection=self._connection, entity=record.entity, id=record.id),
            original=sealed.blob,
            key_id=sealed.key_id,
            made_at=self._clock.now(),
        )
        key = self._seen.key(record.entity, record.id)
        batch.outgoing.append(
            Outgoing(topic=topics.DEAD_LETTERS, partition=None, key=key, value=self._codec.encode(topics.DEAD_LETTERS, letter))
        )
        base = seen or SeenRecord(
            connection=self._connection,
            entity=record.entity,
            source_id=record.id,
            raw_hash="",
            content_hash="",
            seq=0,
            mapping_version=self._version,
        )
        self._know(
            batch, msgspec.structs.replace(base, raw_hash=self.raw_hash(record), held=False, mapping_version=self._version)
        )

    def _know(self, batch: Batch, record: SeenRecord) -> None:
        key = self._seen.key(record.entity, record.source_id)
        raw = self._codec.encode(topics.SEEN, record)
        batch.seen.append((key, raw, record))
        batch.outgoing.append(Outgoing(topic=topics.SEEN, partition=self._slot, key=key, value=raw))

    def _observe(self, batch: Batch, entity: Any, known: SeenRecord, asked_at: datetime) -> None:
        observed = ObjectState(
            version=known.source_version,
            content_hash=known.content_hash,
            field_hashes=known.field_hashes,
            match_keys=match_keys(entity, self._hasher),
            active=getattr(entity, "active", True),
        )
        self._command(batch, known.entity, known.source_id, observed, asked_at)

    def _command(
        self, batch: Batch, entity: str, source_id: str, observed: ObjectState, asked_at: datetime | None = None
    ) -> None:
        """Tells the account's own sink what exists here, in the order it was seen."""
        command = Command(
            kind=CommandKind.OBSERVE,
            id=f"observe|{entity}|{source_id}",
            source=ObjectRef(connection=self._connection, entity=entity, id=source_id),
            target_entity=entity,
            observed=observed,
            made_at=asked_at or self._clock.now(),
        )
        topic = topics.outbound(self._connection)
        key = self._seen.key(entity, source_id)
        batch.outgoing.append(Outgoing(topic=topic, partition=0, key=key, value=self._codec.encode(topic, command)))

    def backfilled(self, entities: Sequence[str]) -> list[Outgoing]:
        """The word that all objects of these entities are known, behind everything observed so far."""
        topic = topics.outbound(self._connection)
        return [
            Outgoing(
                topic=topic,
                partition=0,
                key=self._seen.key("backfilled", entity),
                value=self._codec.encode(
                    topic,
                    Command(
                        kind=CommandKind.BACKFILLED,
                        id=f"backfilled|{entity}",
                        source=ObjectRef(connection=self._connection, entity=entity, id=""),
                        target_entity=entity,
                        made_at=self._clock.now(),
                    ),
                ),
            )
            for entity in entities
            if entity not in topics.DOCUMENTS
        ]


def cloud_event_headers(meta: EventMeta) -> Mapping[str, str]:
    """CloudEvents, binary mode: the value is the data. No personal data. https://github.com/cloudevents/spec"""
    return {
        "ce_specversion": "1.0",
        "ce_id": meta.event_id,
        "ce_source": f"/{meta.tenant}/{meta.connection}",
        "ce_type": f"bus.canon.{meta.entity}",
        "ce_subject": f"{meta.entity}/{meta.source_id}",
        "ce_time": (meta.source_modified_at or meta.observed_at).isoformat(),
        "ce_recordedtime": meta.observed_at.isoformat(),
        "ce_correlationid": meta.correlation_id or meta.event_id,
        "ce_busop": str(meta.op),
        "ce_bushash": meta.content_hash,
        "ce_busorigin": meta.origin.connection if meta.origin else "",
        "content-type": "application/avro",
    }


def is_stale(record: RawRecord, seen: SeenRecord | None) -> bool:
    """Whether a list served an older row than the one known: the object itself must be asked."""
    return seen is not None and is_older(record.version, seen.source_version)
