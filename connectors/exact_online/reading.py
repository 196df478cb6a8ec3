"""Streams of Exact Online: which objects changed, by the row versions of the sync feeds.

Headers and parts have feeds of their own: a change in any of them reads the whole object again. Deletes have a feed too and are
read last; one that is older than the object's own row is void. A deleted part names no whole: the process remembers what it met,
and where it never met the part it reads all customers or products again, or all open orders (no other order loses a line).
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from bus.core.clock import Clock
from bus.core.errors import CursorInvalid, MappingError, RecordError
from bus.kit.connector import Page, Position, RawRecord
from connectors.exact_online.feeds import FEEDS, LOG, SELECTS, Cursor, Feed, Mark, Place, place_of
from connectors.exact_online.mapping.doubles import order_of
from connectors.exact_online.mapping.order import is_whole
from connectors.exact_online.mapping.values import ZONE, iso_day
from connectors.exact_online.odata import OData, any_of, key_of, stamp_of
from connectors.exact_online.parents import Parents
from connectors.exact_online.references import References
from connectors.exact_online.wholes import Wholes
from schemas.system import Cause

log = logging.getLogger(__name__)

OBJECTS_PER_PAGE = 200
GROUPS = "logistics/ItemGroups"
STANDSTILL_DAYS = 60
"""Length of the log of deletes: after a longer pause they are unproven."""
AGAIN_TRIES_MAX = 20
AGAIN_MAX = 1_000
"""Orders that may wait for their lines at one time; each is read again with every poll. Those beyond it are not dropped but shown
at once: as dead letters, with what was served."""
OPEN_STATUSES = ("12", "20")
CLOCKS_APART = timedelta(minutes=2)


class Reader:
    """Reads the streams of one division."""

    def __init__(self, odata: OData, wholes: Wholes, references: References, clock: Clock) -> None:
        self._odata = odata
        self._wholes = wholes
        self._references = references
        self._clock = clock
        self._parents = {stream: Parents() for stream in FEEDS}

    async def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """One poll of a stream."""
        if stream == "product_category":
            records = await self._wholes.groups()
            yield Page(records=records, position={}, more=False, complete_ids={stream: [record.id for record in records]})
            return
        moved = await self._references.moved()
        before = self._checked(place_of(position), moved) if position is not None else None
        place = Place(read_at=self._clock.now(), day=self._references.today(), moved=moved)
        pages = self._changes if stream == "sales_order" or (before and before.feeds) else self._everything
        async for page in pages(stream, before, place):
            yield page

    async def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """The ids of all objects, a thousand a call: a row that changes meanwhile moves behind the pages that were read."""
        if stream == "product_category":
            async for page in self._odata.pages(GROUPS, ("ID",)):
                yield {stream: [key_of(row, "ID") for row in page]}
            return
        feed = FEEDS[stream][0]
        async for page in self._odata.pages(feed.path, tuple(dict.fromkeys((feed.parent, "Timestamp"))), Cursor().asked):
            yield {stream: [key_of(row, feed.parent) for row in page]}

    def _checked(self, before: Place, moved: str | None) -> Place:
        """Raises CursorInvalid when Timestamps began anew, or deletes of the time between are forgotten."""
        if before.moved != moved:
            raise CursorInvalid(f"the division moved to another database ({moved}): its Timestamps began anew")
        if self._clock.now() - before.read_at > timedelta(days=STANDSTILL_DAYS):
            raise CursorInvalid(
                f"not read since {before.read_at:%Y-%m-%d}: deletes older than {STANDSTILL_DAYS} days are forgotten by Exact"
            )
        return before

    # --- everything ----------------------------------------------------------------------------------------------------------

    async def _everything(self, stream: str, before: Place | None, place: Place) -> AsyncIterator[Page]:
        """All objects, from the feeds' own rows: a thousand rows a call. With a position, also what was deleted since."""
        tables: list[dict[str, dict[str, Any]]] = []
        marks: dict[str, Mark] = {}
        for feed in FEEDS[stream]:
            rows: dict[str, dict[str, Any]] = {}
            cursor = Cursor()
            async for page in self._odata.pages(feed.path, (*SELECTS[feed.path], "Timestamp"), cursor.asked):
                for row in page:
                    cursor.take(row)
                    rows[key_of(row, "ID")] = row  # a later version of the same row replaces the earlier
                    self._met(stream, feed, row)
            marks[feed.path] = cursor.mark()
            tables.append(rows)
        extra = await self._wholes.extra_since(datetime(2000, 1, 1)) if stream == "product" else []  # noqa: DTZ001 - a wall clock
        deleted, mark = await self._deleted(stream, before.log if before else None)
        own = FEEDS[stream][0].deleted_type
        gone = {key for kind, key, stamp in deleted if kind == own and stamp >= _stamp(tables[0].get(key))}
        heads = [row for key, row in tables[0].items() if key not in gone]
        begun = msgspec.structs.replace(place, log=mark)
        kept = before if before and before.log else begun  # deletes are handed out last: until then the log stays where it was
        for start in range(0, len(heads), OBJECTS_PER_PAGE):
            records = await self._joined(stream, heads[start : start + OBJECTS_PER_PAGE], tables[1:], extra)
            yield Page(records=records, position=kept.stored(), more=True)
        ended = msgspec.structs.replace(begun, feeds=marks)
        yield Page(
            records=_deletes(stream, gone) if kept is before else [],
            position=ended.stored(),
            more=False,
            complete_ids={stream: [key_of(row, "ID") for row in heads]},
        )

    async def _joined(
        self, stream: str, heads: Sequence[dict[str, Any]], parts: Sequence[Mapping[str, dict[str, Any]]], extra: Sequence[Any]
    ) -> list[RawRecord]:
        ids = {row["ID"] for row in heads}
        first, *rest = (
            [row for row in rows.values() if row.get(feed.parent) in ids]
            for feed, rows in zip(FEEDS[stream][1:], parts, strict=True)
        )
        if stream == "customer":
            return list((await self._wholes.join_customers(heads, first, *rest)).values())
        return list((await self._wholes.join_products(heads, first, extra)).values())

    # --- what changed --------------------------------------------------------------------------------------------------------

    async def _changes(self, stream: str, before: Place | None, place: Place) -> AsyncIterator[Page]:
        """Whole objects of which any row changed, and deletes."""
        changed, newest, marks = await self._changed(stream, before)
        if stream == "product" and before is not None:
            since = before.read_at.astimezone(ZONE).replace(tzinfo=None) - CLOCKS_APART
            changed |= dict.fromkeys(key_of(row, "ItemID") for row in await self._wholes.extra_since(since))
        if before is not None and before.day != place.day:
            changed |= dict.fromkeys(await self._turned(stream, before.day, place.day))
        again = before.again if before else {}
        changed |= dict.fromkeys(again)
        deleted, mark = await self._deleted(stream, before.log if before else None)
        if before is None or before.log is None:
            deleted = []
        own = FEEDS[stream][0].deleted_type
        gone = {key for kind, key, stamp in deleted if kind == own and stamp >= newest.get(key, 0)}
        parts = [key for kind, key, _ in deleted if kind != own]
        parents = [self._parents[stream].of(key) for key in parts]
        if None in parents and stream != "sales_order":
            log.info("%s: a part was deleted that this process never met: all are read again", stream)
            async for page in self._everything(stream, before, place):
                yield page
            return
        changed |= dict.fromkeys(parent for parent in parents if parent)
        if None in parents:
            changed |= dict.fromkeys(await self._open_orders())
        ended = msgspec.structs.replace(place, feeds=marks, log=mark)
        kept = before or msgspec.structs.replace(ended, feeds={})
        ids = [key for key in changed if key not in gone]
        waiting: dict[str, int] = {}
        for start in range(0, len(ids), OBJECTS_PER_PAGE):
            records = await self._read(stream, ids[start : start + OBJECTS_PER_PAGE], again, waiting)
            yield Page(records=records, position=kept.stored(), more=True)
        ended = msgspec.structs.replace(ended, again=waiting)
        yield Page(records=_deletes(stream, gone), position=ended.stored(), more=False)

    async def _changed(self, stream: str, before: Place | None) -> tuple[dict[str, None], dict[str, int], dict[str, Mark]]:
        """Ids of objects with a new row, the newest Timestamp of each object's own row, and where the feeds stand."""
        changed: dict[str, None] = {}
        newest: dict[str, int] = {}
        marks: dict[str, Mark] = {}
        for feed in FEEDS[stream]:
            cursor = Cursor(before.feeds.get(feed.path) if before else None)
            async for page in self._odata.pages(feed.path, _names(feed), cursor.asked):
                for row in page:
                    is_new, parent = cursor.take(row), self._met(stream, feed, row)
                    if is_new and parent:
                        changed[parent] = None
                    if feed is FEEDS[stream][0] and parent:
                        newest[parent] = max(newest.get(parent, 0), stamp_of(row))
            marks[feed.path] = cursor.mark()
        return changed, newest, marks

    def _met(self, stream: str, feed: Feed, row: Mapping[str, Any]) -> str | None:
        """The whole object a row belongs to; an address of a warehouse belongs to none."""
        if feed is FEEDS[stream][0]:
            return key_of(row, feed.parent)
        parent: str | None = row.get(feed.parent) or None
        if parent:
            self._parents[stream].note(key_of(row, "ID"), parent)
        return parent

    async def _turned(self, stream: str, last: str, today: str) -> list[str]:
        """Objects of which something began or ended since the last poll. Once a day, over all rows: no row changed by it."""
        found: list[str] = []
        for feed in FEEDS[stream]:
            if not feed.windows:
                continue
            async for page in self._odata.pages(feed.path, (*_names(feed), *feed.windows), Cursor().asked):
                for row in page:
                    parent = self._met(stream, feed, row)
                    if parent and (last < _day(row, "StartDate") <= today or last <= _day(row, "EndDate") < today):
                        found.append(parent)
        return found

    async def _deleted(self, stream: str, mark: Mark | None) -> tuple[list[tuple[int, str, int]], Mark]:
        """Deleted rows not handed out before, as (entity type, key, Timestamp), and where the log stands."""
        cursor = Cursor(mark)
        kinds = any_of("EntityType", (str(feed.deleted_type) for feed in FEEDS[stream]))
        found: list[tuple[int, str, int]] = []
        async for page in self._odata.pages(LOG, ("EntityKey", "EntityType", "Timestamp"), f"{cursor.asked} and ({kinds})"):
            for row in page:
                if cursor.take(row):
                    found.append((row.get("EntityType", 0), key_of(row, "EntityKey"), stamp_of(row)))
        return found, cursor.mark()

    async def _open_orders(self) -> list[str]:
        """Orders that could have lost a line: complete and cancelled ones cannot."""
        log.info("an order line was deleted that this process never met: all open orders are read again")
        rows = await self._odata.rows("salesorder/SalesOrders", ("OrderID",), any_of("Status", OPEN_STATUSES))
        return [key_of(row, "OrderID") for row in rows]

    async def _read(self, stream: str, ids: Sequence[str], again: Mapping[str, int], waiting: dict[str, int]) -> list[RawRecord]:
        """Whole objects; orders whose parts are not all there wait for the next poll, and in the end are shown as they are."""
        found = await self._wholes.read(stream, ids)
        records = [found[key] for key in ids if key in found]
        if stream != "sales_order":
            return records
        ready = []
        for record in records:
            tries = again.get(record.id, 0) + 1
            if incomplete(record) is None or tries > AGAIN_TRIES_MAX:
                ready.append(record)
            elif len(waiting) >= AGAIN_MAX:
                log.warning("more than %d orders wait for their lines: %s is shown as it is", AGAIN_MAX, record.id)
                ready.append(record)
            else:
                waiting[record.id] = tries
        return ready


def _names(feed: Feed) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("ID", feed.parent, "Timestamp")))


def _stamp(row: Mapping[str, Any] | None) -> int:
    return stamp_of(row) if row is not None else 0


def _day(row: Mapping[str, Any], name: str) -> str:
    """A day to compare; empty when there is none, or none that can be read: the mapping will say so."""
    try:
        return iso_day(row.get(name))
    except MappingError:
        return ""


def _deletes(stream: str, ids: Iterable[str]) -> list[RawRecord]:
    return [RawRecord(entity=stream, id=key, raw=b"", deleted=True) for key in sorted(ids)]


def incomplete(record: RawRecord) -> RecordError | None:
    """Why an order cannot be taken: its lines do not add up to its header. What cannot be read at all is the mapping's matter."""
    if record.entity != "sales_order":
        return None
    try:
        if is_whole(order_of(record.raw)):
            return None
    except MappingError:
        return None
    return RecordError(
        f"order {record.id}: lines and charges do not add up to its total",
        hint="open the order in Exact and save it again, or correct its lines",
        cause=Cause.SOURCE_INCONSISTENT,
    )
