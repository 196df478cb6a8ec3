"""The sync feeds a stream is read from, and where each of them stands.

https://support.exactonline.com/community/s/knowledge-base#All-All-DNO-Content-restapi-synchronization
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from bus.core.errors import CursorInvalid
from bus.kit.connector import Position
from connectors.exact_online.odata import stamp_of
from connectors.exact_online.wholes import ACCOUNT, ADDRESS, CONTACT, ITEM, PRICE

OVERLAP = 1_000
LOG = "sync/Deleted"


class Feed(msgspec.Struct, frozen=True):
    """A feed, the member that names the whole object, and the entity type under which the log of deletes knows its rows."""

    path: str
    parent: str
    deleted_type: int
    windows: tuple[str, ...] = ()
    """Members that begin and end something on a day: that changes no row."""


FEEDS: Mapping[str, tuple[Feed, ...]] = {
    "customer": (
        Feed("sync/CRM/Accounts", "ID", 2, ("EndDate",)),
        Feed("sync/CRM/Contacts", "Account", 5),
        Feed("sync/CRM/Addresses", "Account", 3),
    ),
    "product": (
        Feed("sync/Logistics/Items", "ID", 9, ("StartDate", "EndDate")),
        Feed("sync/Logistics/SalesItemPrices", "Item", 8, ("StartDate", "EndDate")),
    ),
    "sales_order": (
        Feed("sync/SalesOrder/SalesOrderHeaders", "OrderID", 32),
        Feed("sync/SalesOrder/SalesOrderLines", "OrderID", 33),
    ),
}
"""Per stream the feed of the objects themselves, then those of their parts."""
SELECTS: Mapping[str, tuple[str, ...]] = {
    "sync/CRM/Accounts": ACCOUNT,
    "sync/CRM/Contacts": CONTACT,
    "sync/CRM/Addresses": ADDRESS,
    "sync/Logistics/Items": ITEM,
    "sync/Logistics/SalesItemPrices": PRICE,
}
"""Feeds whose rows carry all that is needed: a first read needs no further call per object."""


class Mark(msgspec.Struct, frozen=True):
    """Where a feed stands: its highest Timestamp, and those of the overlap that were handed out."""

    at: int = 1
    recent: tuple[int, ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's position."""

    read_at: datetime
    day: str
    """The business day of the poll."""
    moved: str | None = None
    """When the division last moved, as Exact says it: another value means other Timestamps."""
    feeds: dict[str, Mark] = {}
    """Empty until a first read has ended."""
    log: Mark | None = None
    again: dict[str, int] = {}
    """Orders that were not whole yet, with the number of polls that found them so."""

    def stored(self) -> Position:
        """As plain JSON."""
        found: Position = msgspec.to_builtins(self)
        return found


def place_of(position: Position) -> Place:
    """A stored position. Raises CursorInvalid when it is none of ours."""
    try:
        return msgspec.convert(position, Place)
    except msgspec.ValidationError as error:
        raise CursorInvalid(f"a position that cannot be read: {error}") from None


class Cursor:
    """Where one feed stands while it is read."""

    def __init__(self, mark: Mark | None = None) -> None:
        mark = mark or Mark()
        self._at = mark.at
        self._before = frozenset(mark.recent)
        self._met = set(mark.recent)

    @property
    def asked(self) -> str:
        """The filter: 1,000 below the highest Timestamp, because a long write may commit a lower row version late."""
        return f"Timestamp gt {max(1, self._at - OVERLAP)}L"

    def take(self, row: Mapping[str, Any]) -> bool:
        """Notes a row; whether it is a version not handed out before. No two versions share a Timestamp. Raises ApiChanged."""
        stamp = stamp_of(row)
        self._met.add(stamp)
        self._at = max(self._at, stamp)
        return stamp not in self._before

    def mark(self) -> Mark:
        """To be stored."""
        return Mark(self._at, tuple(sorted(stamp for stamp in self._met if stamp > self._at - OVERLAP)))
