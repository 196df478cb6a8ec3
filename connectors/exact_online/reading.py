"""Streams of Exact Online: which objects changed, by the row versions of the sync feeds.

A feed's cursor is its highest Timestamp. It is asked from 1,000 below, because a long write may commit a lower version late;
rows of that span already handed out are known by their Timestamp, which no two versions share. Headers and parts have feeds of
their own: a change in any of them reads the whole object again. Deletes have a feed too and are read last.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from bus.core.errors import CursorInvalid, RecordError
from bus.kit.connector import Page, Position, RawRecord
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.order import is_whole
from connectors.exact_online.odata import OData
from connectors.exact_online.wholes import ACCOUNT, ADDRESS, CONTACT, ITEM, PRICE, Wholes
from schemas.system import Cause

OVERLAP = 1_000
RECENT_MAX = 2_000
OBJECTS_PER_PAGE = 200
STANDSTILL_DAYS = 60
"""Length of the log of deletes: after a longer pause they are unproven."""
AGAIN_TRIES_MAX = 20
AGAIN_MAX = 1_000


class Feed(msgspec.Struct, frozen=True):
    """A sync feed and the member that names the whole object."""

    path: str
    parent: str
    deleted_type: int | None = None
    """Entity type of deletes of the whole object in `sync/Deleted`."""


FEEDS: Mapping[str, tuple[Feed, ...]] = {
    "customer": (Feed("sync/CRM/Accounts", "ID", 2), Feed("sync/CRM/Contacts", "Account"), Feed("sync/CRM/Addresses", "Account")),
    "product": (Feed("sync/Logistics/Items", "ID", 9), Feed("sync/Logistics/SalesItemPrices", "Item")),
    "sales_order": (Feed("sync/SalesOrder/SalesOrderHeaders", "OrderID", 32), Feed("sync/SalesOrder/SalesOrderLines", "OrderID")),
}
SELECTS = {
    "sync/CRM/Accounts": ACCOUNT,
    "sync/CRM/Contacts": CONTACT,
    "sync/CRM/Addresses": ADDRESS,
    "sync/Logistics/Items": ITEM,
    "sync/Logistics/SalesItemPrices": PRICE,
}
"""Feeds whose rows carry all that is needed: a first read needs no further call per object."""


class Reader:
    """Reads the streams of one division."""

    def __init__(self, odata: OData, wholes: Wholes, clock: Any) -> None:
        self._odata = odata
        self._wholes = wholes
        self._clock = clock

    async def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """One poll of a stream."""
        if stream == "product_category":
            records = await self._wholes.groups()
            yield Page(records=records, position={}, more=False, complete_ids={stream: [record.id for record in records]})
            return
        state = self._checked(position)
        if state is None and stream != "sales_order":
            async for page in self._first(stream):
                yield page
            return
        async for page in self._next(stream, state or {"feeds": {}}):
            yield page

    def _checked(self, position: Position | None) -> Position | None:
        """Raises CursorInvalid when the stream stood still longer than deletes are remembered."""
        if position is None:
            return None
        read_at = datetime.fromisoformat(position["read_at"])
        if self._clock.now() - read_at > timedelta(days=STANDSTILL_DAYS):
            raise CursorInvalid(
                f"not read since {read_at:%Y-%m-%d}: deletes older than {STANDSTILL_DAYS} days are forgotten by Exact"
            )
        return position

    # --- a first read --------------------------------------------------------------------------------------------------------

    async def _first(self, stream: str) -> AsyncIterator[Page]:
        """Everything, from the feeds' own rows: a thousand rows a call."""
        position: Position = {"feeds": {}, "read_at": self._clock.now().isoformat(), "day": self._wholes.today()}
        tables: list[dict[str, dict[str, Any]]] = []
        for feed in FEEDS[stream]:
            rows: dict[str, dict[str, Any]] = {}
            cursor = _Cursor.of(position, feed.path)
            async for page in self._odata.pages(feed.path, (*SELECTS[feed.path], "Timestamp"), "Timestamp gt 1L"):
                for row in page:
                    cursor.take(row)
                    rows[row["ID"]] = row  # a later version of the same row replaces the earlier
            position["feeds"][feed.path] = cursor.stored()
            tables.append(rows)
        position["deleted"] = (await self._deletes(stream, None))[1]
        join = self._wholes.join_customers if stream == "customer" else self._wholes.join_products
        heads = list(tables[0].values())
        parts = [list(table.values()) for table in tables[1:]]
        for start in range(0, max(1, len(heads)), OBJECTS_PER_PAGE):
            some = heads[start : start + OBJECTS_PER_PAGE]
            ids = {row["ID"] for row in some}
            chosen = [
                [row for row in rows if row.get(feed.parent) in ids] for feed, rows in zip(FEEDS[stream][1:], parts, strict=True)
            ]
            records = list((await join(some, *chosen)).values())
            more = start + OBJECTS_PER_PAGE < len(heads)
            yield Page(records=records, position=position if not more else {**position, "feeds": {}}, more=more)

    # --- what changed --------------------------------------------------------------------------------------------------------

    async def _next(self, stream: str, before: Position) -> AsyncIterator[Page]:
        position: Position = {"feeds": {}, "read_at": self._clock.now().isoformat(), "day": self._wholes.today()}
        changed: dict[str, None] = {}
        for feed in FEEDS[stream]:
            cursor = _Cursor.of(before, feed.path)
            async for page in self._odata.pages(feed.path, ("ID", feed.parent, "Timestamp"), f"Timestamp gt {cursor.asked()}L"):
                for row in page:
                    if cursor.take(row) and row.get(feed.parent):
                        changed[row[feed.parent]] = None
            position["feeds"][feed.path] = cursor.stored()
        if stream == "product":
            for item in await self._prices_of_the_day(before.get("day"), position["day"]):
                changed[item] = None
        again = before.get("again", {})
        changed |= dict.fromkeys(again)
        gone, position["deleted"] = await self._deletes(stream, before.get("deleted"))
        ids = [object_id for object_id in changed if object_id not in gone]
        waiting: dict[str, int] = {}
        for start in range(0, len(ids), OBJECTS_PER_PAGE):
            records = await self._read(stream, ids[start : start + OBJECTS_PER_PAGE], again, waiting)
            yield Page(records=records, position=before if before.get("feeds") else {**position, "feeds": {}}, more=True)
        position["again"] = dict(list(waiting.items())[:AGAIN_MAX])
        deleted = [RawRecord(entity=stream, id=object_id, raw=b"", deleted=True) for object_id in gone]
        yield Page(records=deleted, position=position, more=False)

    async def _read(self, stream: str, ids: Sequence[str], again: Mapping[str, int], waiting: dict[str, int]) -> list[RawRecord]:
        """Whole objects; orders whose parts are not all there wait for the next poll, and in the end are shown as they are."""
        found = await self._wholes.read(stream, ids)
        records = [found[object_id] for object_id in ids if object_id in found]
        if stream != "sales_order":
            return records
        ready = []
        for record in records:
            tries = again.get(record.id, 0) + 1
            if is_whole(shapes.decoded(record.raw, shapes.WholeOrder, "SalesOrder")) or tries > AGAIN_TRIES_MAX:
                ready.append(record)
            else:
                waiting[record.id] = tries
        return ready

    async def _prices_of_the_day(self, last: str | None, today: str) -> list[str]:
        """Items whose price begins or ended since the last poll: that changes no row."""
        if last is None or last == today:
            return []
        begins = f"(StartDate gt datetime'{last}' and StartDate le datetime'{today}')"
        ends = f"(EndDate ge datetime'{last}' and EndDate lt datetime'{today}')"
        rows = await self._odata.rows("logistics/SalesItemPrices", ("Item",), f"{begins} or {ends}")
        return [row["Item"] for row in rows]

    async def _deletes(self, stream: str, since: int | None) -> tuple[dict[str, None], int]:
        """Whole objects deleted after a Timestamp, and the newest Timestamp of the log."""
        kind = next(feed.deleted_type for feed in FEEDS[stream] if feed.deleted_type is not None)
        gone: dict[str, None] = {}
        newest = since or 1
        async for page in self._odata.pages(
            "sync/Deleted", ("EntityKey", "EntityType", "Timestamp"), f"Timestamp gt {newest}L and EntityType eq {kind}"
        ):
            for row in page:
                newest = max(newest, int(row["Timestamp"]))
                if since is not None:
                    gone[row["EntityKey"]] = None
        return gone, newest


class _Cursor:
    """Where one feed stands."""

    def __init__(self, at: int, recent: set[int]) -> None:
        self._before = recent
        self._at = at
        self._recent = set(recent)

    @classmethod
    def of(cls, position: Position, path: str) -> "_Cursor":
        stored = position.get("feeds", {}).get(path, {"at": 1, "recent": []})
        return cls(stored["at"], set(stored["recent"]))

    def asked(self) -> int:
        return max(1, self._at - OVERLAP)

    def take(self, row: Mapping[str, Any]) -> bool:
        """Notes a row; whether it is a version not handed out before."""
        version = int(row["Timestamp"])
        is_new = version not in self._before
        self._recent.add(version)
        self._at = max(self._at, version)
        return is_new

    def stored(self) -> dict[str, Any]:
        recent = sorted(version for version in self._recent if version > self._at - OVERLAP)[-RECENT_MAX:]
        return {"at": self._at, "recent": recent}


def incomplete(record: RawRecord) -> RecordError | None:
    """Why an order cannot be taken: after many polls its lines still do not add up to its header."""
    if record.entity != "sales_order" or is_whole(shapes.decoded(record.raw, shapes.WholeOrder, "SalesOrder")):
        return None
    return RecordError(
        f"order {record.id}: lines and charges do not add up to its total",
        hint="open the order in Exact and save it again, or correct its lines",
        cause=Cause.SOURCE_INCONSISTENT,
    )
