"""The one stream: a back-fill by paged queries, then change data capture from the time before the back-fill began.

Nothing is skipped, repeats are expected:
- offsets shift when rows are deleted while paging, so each page overlaps the one before; a page that shows none of the overlap
  steps back;
- change data capture is asked from its own clock less an overlap, and once a day from a day before, so that a row which became
  visible late is met after all;
- an answer at its cap of 1,000 objects is asked again per entity, and an entity that alone stays at the cap is read by a query up
  to the time of that answer; deletes of that span then wait for a proof.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from bus.core.clock import Clock
from bus.core.errors import ApiChanged, CursorInvalid, PageLoop
from bus.kit.connector import Page, Position, RawRecord
from connectors.quickbooks.api import PAGE_SIZE_MAX, Api, Changes, instant, instant_after, quoted
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.product import CATEGORY
from connectors.quickbooks.references import References

log = logging.getLogger(__name__)

ENTITIES = ("Customer", "Item", "Invoice", "SalesReceipt", "CreditMemo", "RefundReceipt")
"""In this order: what others refer to comes first."""
SCANNED = {"Item": ("Id", "Type")}
"""Members that tell what a row is, besides its id."""
CACHED = frozenset({"Customer", "Item"})
DELETED = "Deleted"
OVERLAP_S = 30
SWEEP_S = 86_400
SWEEP_OVERLAP_S = 3_600
OVERLAP_ROWS = 50
WINDOW_DAYS = 30
"""How far back changes are remembered.
https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/change-data-capture"""
PAGES_MAX = 100_000

CHANGED = "MetaData.LastUpdatedTime"

_HEAD = msgspec.json.Decoder(shapes.Head)
_DATED = msgspec.json.Decoder(shapes.DatedHead)


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """A position within the back-fill."""

    since: datetime
    """The server's time before the first page."""
    entity: str
    start: int = 1
    anchors: list[str] = []
    """Ids at the end of the page before: one of them must show up again."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """A position in the changes."""

    since: datetime
    swept: datetime
    """When changes were last asked from a day before."""


class Served:
    """What one poll has served already, as far as it can come again: the page before, and rows as young as the poll."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._young: dict[tuple[str, str], bytes] = {}
        self._page: dict[tuple[str, str], bytes] = {}

    def without_repeats(self, page: Page) -> Page:
        """The page without rows whose very bytes this poll has served."""
        keyed = {(record.entity, record.id): record for record in page.records}
        fresh = [record for key, record in keyed.items() if record.raw not in (self._young.get(key), self._page.get(key))]
        self._page = {key: record.raw for key, record in keyed.items()}
        self._young |= {
            key: record.raw for key, record in keyed.items() if record.modified_at is None or record.modified_at >= self._since
        }
        return msgspec.structs.replace(page, records=fresh)


class Reader:
    """Reads one company."""

    def __init__(self, api: Api, references: References, clock: Clock) -> None:
        self._api = api
        self._references = references
        self._clock = clock

    async def read(self, position: Position | None) -> AsyncIterator[Page]:
        """One poll. Raises CursorInvalid when the position is older than what the vendor remembers."""
        at = _position(position)
        if at is None:
            at = Backfill(since=await self._api.server_time(), entity=ENTITIES[0])
        served = Served(since=at.since - timedelta(seconds=OVERLAP_S))
        if isinstance(at, Backfill):
            since = at.since
            async for page in self._backfill(at):
                yield served.without_repeats(page)
            at = Following(since=since, swept=since)
        async for page in self._changes(at):
            yield served.without_repeats(page)

    # --- back-fill -----------------------------------------------------------------------------------------------------------

    async def _backfill(self, at: Backfill) -> AsyncIterator[Page]:
        for entity in ENTITIES[ENTITIES.index(at.entity) :]:
            place = at if entity == at.entity else Backfill(since=at.since, entity=entity)
            async for page in self._entity(place):
                yield page

    async def _entity(self, place: Backfill) -> AsyncIterator[Page]:
        before: list[str] = []
        for _ in range(PAGES_MAX):
            rows = (await self._api.query(place.entity, start=place.start)).rows
            records = [self._record(place.entity, raw) for raw in rows]
            ids = [record.id for record in records]
            if place.start > 1 and place.anchors and not set(ids) & set(place.anchors):
                place = _stepped_back(place)
                continue
            last = len(rows) < PAGE_SIZE_MAX
            if not last and ids == before:
                raise PageLoop(f"{place.entity}: the page at {place.start} is the one before it")
            before, place = ids, _next_place(place, ids, last=last)
            yield Page(records=records, position=_json(place))
            if last:
                return
        raise PageLoop(f"{place.entity}: more than {PAGES_MAX} pages")

    # --- changes -------------------------------------------------------------------------------------------------------------

    async def _changes(self, at: Following) -> AsyncIterator[Page]:
        now = self._clock.now()
        if now - at.since > timedelta(days=WINDOW_DAYS):
            raise CursorInvalid(
                f"the last poll saw changes up to {at.since:%Y-%m-%d %H:%M}, and QuickBooks remembers {WINDOW_DAYS} days: "
                "everything is read again; deletes of that span stay unproven"
            )
        sweep = now - at.swept >= timedelta(seconds=SWEEP_S)
        since = at.since - timedelta(seconds=OVERLAP_S)
        if sweep:
            since = min(since, at.swept - timedelta(seconds=SWEEP_OVERLAP_S))
        since = max(since, now - timedelta(days=WINDOW_DAYS))
        changes, unproven = await self._api.changes(ENTITIES, since), False
        if changes.count >= PAGE_SIZE_MAX:
            async for records, is_whole in self._capped(since, changes.at):
                unproven = unproven or not is_whole
                yield Page(records=records, position=_json(at))
            records = []
        else:
            records = self._records(changes)
        done = Following(since=changes.at, swept=changes.at if sweep else at.swept)
        yield Page(records=records, position=_json(done), more=False, deletes_unproven=unproven)

    async def _capped(self, since: datetime, until: datetime) -> AsyncIterator[tuple[Sequence[RawRecord], bool]]:
        """All of a span that one answer could not hold, and whether its deletes are among it."""
        for entity in ENTITIES:
            changes = await self._api.changes([entity], since)
            is_whole = changes.count < PAGE_SIZE_MAX
            yield self._records(changes), is_whole
            if not is_whole:
                log.warning("%s changed more than %d times: deletes of that span stay unproven", entity, PAGE_SIZE_MAX)
                async for records in self._span(entity, since, until):
                    yield records, False

    async def _span(self, entity: str, since: datetime, until: datetime) -> AsyncIterator[list[RawRecord]]:
        """Rows changed in a span, page by page from the time of the last row: what changes again meanwhile leaves the span
        without moving the others, and the next poll meets it."""
        lower, start = since, 1
        for _ in range(PAGES_MAX):
            bounds = [f"{CHANGED} >= {quoted(instant(lower))}", f"{CHANGED} <= {quoted(instant_after(until))}"]
            rows = (await self._api.query(entity, bounds, start=start, order=CHANGED)).rows
            records = [self._record(entity, raw) for raw in rows]
            yield records
            if len(rows) < PAGE_SIZE_MAX:
                return
            last = records[-1].modified_at
            if last is not None and last.replace(microsecond=0) > lower:
                lower, start = last.replace(microsecond=0), 1
            else:
                start += PAGE_SIZE_MAX - OVERLAP_ROWS
        raise PageLoop(f"{entity}: more than {PAGES_MAX} pages")

    def _records(self, changes: Changes) -> list[RawRecord]:
        return [self._record(entity, raw) for entity in ENTITIES for raw in changes.rows.get(entity, ())]

    # --- what exists ---------------------------------------------------------------------------------------------------------

    async def ids(self) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """The ids of all objects, a thousand a call. Pages overlap as those of the back-fill do."""
        for entity in ENTITIES:
            place, before = Backfill(since=self._clock.now(), entity=entity), [""]
            for _ in range(PAGES_MAX):
                rows = (await self._api.query(entity, start=place.start, members=SCANNED.get(entity, ("Id",)))).rows
                heads = [_head(entity, bytes(raw)) for raw in rows]
                ids = [head.id for head in heads]
                if place.start > 1 and not set(ids) & set(place.anchors):
                    place = _stepped_back(place)
                    continue
                last = len(rows) < PAGE_SIZE_MAX
                if not last and ids == before:
                    raise PageLoop(f"{entity}: the page at {place.start} is the one before it")
                before, place = ids, _next_place(place, ids, last=last)
                yield _named(entity, heads)
                if last:
                    break
            else:
                raise PageLoop(f"{entity}: more than {PAGES_MAX} pages")

    # --- records -------------------------------------------------------------------------------------------------------------

    def _record(self, entity: str, raw: msgspec.Raw) -> RawRecord:
        data = bytes(raw)
        record = record_of(entity, data)
        if entity in CACHED:
            self._references.remember(f"{entity}:{record.id}", data)
        return record


def record_of(entity: str, data: bytes) -> RawRecord:
    """A served object. Raises ApiChanged when it has no id to file it under; a time nobody can place is left for the mapping to
    refuse, so that it stops its own record only."""
    modified_at = None
    try:
        head: shapes.Head = _DATED.decode(data)
        modified_at = head.meta_data.last_updated_time if isinstance(head, shapes.DatedHead) and head.meta_data else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        head = _head(entity, data)
    return RawRecord(
        entity=canonical_entity(entity, head.type),
        id=head.id if entity in CACHED else f"{entity}:{head.id}",
        raw=data,
        version=head.sync_token,
        modified_at=modified_at,
        deleted=head.status == DELETED,
    )


def _head(entity: str, data: bytes) -> shapes.Head:
    try:
        return _HEAD.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiChanged(f"{entity}: an object without a usable key: {error}") from None


def _named(entity: str, heads: Sequence[shapes.Head]) -> Mapping[str, Sequence[str]]:
    """Ids as the bus knows them. An item that does not say what it is may be a product as well as a category."""
    named: dict[str, list[str]] = {}
    for head in heads:
        kinds: tuple[str, ...] = (canonical_entity(entity, head.type),)
        if entity == "Item" and head.type is None:
            kinds = ("product", "product_category")
        for kind in kinds:
            named.setdefault(kind, []).append(head.id if entity in CACHED else f"{entity}:{head.id}")
    return named


def canonical_entity(entity: str, item_type: str | None = None) -> str:
    """What an object of the vendor is to the bus."""
    if entity == "Customer":
        return "customer"
    if entity == "Item":
        return "product_category" if item_type == CATEGORY else "product"
    return "sales_invoice"


def _next_place(place: Backfill, ids: Sequence[str], *, last: bool) -> Backfill:
    if last:
        following = ENTITIES[min(ENTITIES.index(place.entity) + 1, len(ENTITIES) - 1)]
        if following == place.entity:  # the last entity: a crash here repeats its last page
            return place
        return Backfill(since=place.since, entity=following)
    start = place.start + len(ids) - OVERLAP_ROWS
    return Backfill(since=place.since, entity=place.entity, start=start, anchors=list(ids[-OVERLAP_ROWS:]))


def _stepped_back(place: Backfill) -> Backfill:
    """More rows were deleted than the overlap holds: what moved up is read again."""
    log.info("%s: rows moved while paging, reading a page again", place.entity)
    return Backfill(since=place.since, entity=place.entity, start=max(1, place.start - PAGE_SIZE_MAX))


def _json(at: Backfill | Following) -> Position:
    built: Position = msgspec.to_builtins(at)
    return built


def _position(position: Mapping[str, object] | None) -> Backfill | Following | None:
    if position is None:
        return None
    try:
        return msgspec.convert(position, Backfill) if "entity" in position else msgspec.convert(position, Following)
    except msgspec.ValidationError as error:
        raise CursorInvalid(f"the stored position cannot be read: {error}") from None
