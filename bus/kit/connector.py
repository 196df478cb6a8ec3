"""What the services see of a connector, and what passes between them.

A poller calls `read`, `complete`, `fetch`, `ids` and `to_canonical`; a sink calls `find`, `fetch`, `plan`, `perform` and
`search`; the command line calls `check`. Everything else is the connector's own business. Every method that calls the vendor
raises only errors of `bus.core.errors`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from bus.core.identity import Entity
from bus.kit.manifest import Manifest
from schemas.system import IdempotencyClass, ObjectRef, Resolved

Position: TypeAlias = dict[str, Any]
"""A connector's own cursor: plain JSON. It is stored by the poller after everything it covers is committed."""


class RawRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One object as a vendor served it.

    `raw` is the bytes of the object itself. `joined` holds the bytes of objects it refers to or consists of, by a name the
    mapping knows (`Item:44`, `Contacts`); `complete` fills it.
    """

    entity: str
    id: str
    raw: bytes
    joined: Mapping[str, bytes] = {}
    pictures: Mapping[str, bytes] = {}
    """Pictures the object names, by the sha256 of their bytes: what the vendor served beside the object, never hashed with it."""
    version: str | None = None
    modified_at: datetime | None = None
    deleted: bool = False
    skip_unchanged: bool = True
    """False where `raw` alone does not decide whether the whole object changed: then `complete` is always called."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a stream. Storing `position` must be safe once all records of this page are committed."""

    records: Sequence[RawRecord]
    position: Position
    more: bool = True
    """False on the last page of a poll."""
    deletes_unproven: bool = False
    """The vendor cannot say what was deleted in the span this page ends."""
    complete_ids: Mapping[str, Sequence[str]] | None = None
    """Per entity all ids that exist, when this page ends a full scan; else None."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` found out."""

    vendor_id: str
    """The vendor's id of the account: two connections with the same one are refused."""
    name: str
    country: str | None = None
    currency: str | None = None
    time_zone: str | None = None
    facts: dict[str, str] = {}
    warnings: Sequence[str] = ()


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """What a target object is searched by, in plain form; exactly one member is filled."""

    email: str | None = None
    vat_number: str | None = None
    number: str | None = None
    sku: str | None = None
    gtin: str | None = None
    reference: str | None = None
    name: str | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate a search returned, whole."""

    record: RawRecord
    number: str | None = None
    active: bool = True


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One write to one object of this account, everything the connector needs and nothing it must look up in Kafka."""

    action: Literal["create", "update", "deactivate", "delete"]
    entity: str
    source: ObjectRef
    document: Entity
    """Opened (plain) canonical entity with the flow's `set` values of canonical fields already applied."""
    fields: frozenset[str] | None = None
    """update: the field paths to send (`bus.core.identity.field_values`); None on create: all."""
    document_type: str | None = None
    resolved: Sequence[Resolved] = ()
    ids: Mapping[str, str] = {}
    """External ids at this account: `customer`, `product:<line_id>`, `product:charge:<n>`, `category:<source id>`, …"""
    facet: str | None = None
    key: str = ""
    """UUIDv5 of (target, entity, source object, facet, generation)."""
    generation: int = 0
    """Rises after a recorded definite refusal; a name or number suffix may use it."""
    reference: str | None = None
    """The flow's reference value: what `search` looks for and people see."""
    reference_field: str | None = None
    external_id: str | None = None
    known: RawRecord | None = None
    """update: the object as just fetched."""
    pictures: Mapping[str, bytes] = {}
    """Bytes of the document's images by sha256, as far as the sink holds them; a connector sends only those."""

    def value(self, name: str, line_id: str | None = None) -> str | None:
        """A value the flow resolved, by name and line."""
        return next((item.value for item in self.resolved if item.name == name and item.line_id == line_id), None)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call (or one call and its read-back) of a write."""

    name: str
    idempotency: IdempotencyClass
    key: str | None = None
    """KEY: the idempotency key sent. CLIENT_ID: the id chosen. SEARCH: the natural key, for people."""
    primary: bool = False
    """The step that makes or changes the object itself: its `external_id` is the object's. Exactly one step of a plan."""
    body: Mapping[str, Any] = {}
    """What will be sent, as far as it is known before earlier steps are done; hashed into the intent."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one step ended in."""

    external_id: str
    detail: Mapping[str, str] = {}
    """Facts later steps or people need (ids, numbers); no personal data."""
    number: str | None = None
    record: RawRecord | None = None
    """The written object as answered or read back, ready for `to_canonical`; on the last step of an object."""
    as_sent: bool = True
    """False when a read-back differs from what was sent: somebody edited in between, so it is no echo."""
    replayed: bool = False
    """The vendor replayed an earlier answer, or a search found the object: it was there already."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a written document in document currency, for the proof."""

    incl: Decimal
    vat_by_rate: Mapping[str, Decimal] = {}


class Connector(Protocol):
    """One connection to one account."""

    manifest: Manifest

    async def check(self) -> Account:
        """Reads who and what the account is; refuses accounts the connector cannot serve (WriteRejected with the reason)."""
        ...

    def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """One poll of a stream from a position (None: from the beginning) to what is there now.

        Inclusive with an overlap: repeats are expected, gaps never. Raises CursorInvalid when the vendor no longer knows the
        position, PageLoop when a page token repeats.
        """
        ...

    def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """The ids of all objects of a stream that exist, by entity, in as few calls as the vendor allows; inactive ones too.

        Repeats are harmless, a gap would be taken for a delete: what cannot be read to its end raises. An end without an error
        says that everything was named that existed all the time in between.
        """
        ...

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        """Joins what makes the objects whole, in as few calls as the vendor allows; same length and order as given.

        A record that cannot be completed is answered by a RecordError in its place; a record that vanished meanwhile by itself
        with `deleted`.
        """
        ...

    def to_canonical(self, record: RawRecord) -> Entity:
        """Pure. Plain personal data in sealed fields; the poller seals. Raises MappingError with path, value and fix."""
        ...

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        """One object, complete; None when it is gone."""
        ...

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        """Candidates by one natural key, inactive ones included, at most a handful."""
        ...

    def plan(self, write: Write) -> Sequence[Step]:
        """Pure. The ordered calls of a write; raises MappingError when a value has no place or a mandatory one is missing."""
        ...

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """Makes the call of one step. A definite refusal raises WriteRejected or WriteConflict; anything unclear raises
        Unavailable or NetworkFailure (with `sent=False` when the request never left)."""
        ...

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """Looks for what an unclear step may have made (classes CLIENT_ID and SEARCH); None: not there (yet)."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...
