"""The division's rows: tables with indexes, one rising Timestamp over all feeds, the log of deletes, and what is visible when."""

import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any, Protocol

from connectors.exact_online.simulation.sets import DELETED_SET, SETS, EntitySet

API_USER = "9e4c1f7a-2b6d-4c83-8a15-0d7e6f5a4b01"
SCREEN_USER = "9e4c1f7a-2b6d-4c83-8a15-0d7e6f5a4b02"
FIRST_TIMESTAMP = 55_123_000_000
TIMESTAMP_STEP = 37
"""Other divisions share the database, so row versions of one division leave gaps."""
NAMESPACE = uuid.UUID("0b1d9c55-6f9f-4c56-9d0b-6b8a6f5c7e10")


class Watch(Protocol):
    """What the state asks of time."""

    def now(self) -> datetime:
        """Aware, UTC."""
        ...


@dataclass
class Row:
    """One entity. `visible_at` holds back all reads of a row, `listed_at` only lists; None holds back nothing."""

    id: str
    values: dict[str, Any]
    timestamp: int
    visible_at: datetime | None
    listed_at: datetime | None
    picture: bytes | None = None


@dataclass
class Table:
    """Rows of one set, found by key, by indexed property, or in the order of their Timestamps."""

    entity_set: EntitySet
    rows: dict[str, Row] = field(default_factory=dict)
    _log: list[tuple[int, str]] = field(default_factory=list)
    _index: dict[str, dict[Any, dict[str, None]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))

    def put(self, row: Row) -> None:
        """Adds a row, or takes notice of its new Timestamp and values."""
        self.rows[row.id] = row
        self._log.append((row.timestamp, row.id))
        for name in self.entity_set.search:
            self._index[name][row.values.get(name)][row.id] = None
        if len(self._log) > 4 * len(self.rows) + 1000:
            self._log = sorted((item.timestamp, item.id) for item in self.rows.values())

    def forget(self, row: Row) -> None:
        """Takes a row out of the indexes, before its values change."""
        for name in self.entity_set.search:
            self._index[name][row.values.get(name)].pop(row.id, None)

    def remove(self, row: Row) -> None:
        """Deletes a row."""
        self.forget(row)
        del self.rows[row.id]

    def by(self, name: str, value: Any) -> list[Row]:
        """Rows with a value in a property."""
        if name in self.entity_set.search:
            return [self.rows[key] for key in self._index[name].get(value, {})]
        return [row for row in self.rows.values() if row.values.get(name) == value]

    def after(self, timestamp: int) -> Iterator[Row]:
        """Rows with a higher Timestamp, lowest first."""
        start = bisect_right(self._log, (timestamp, chr(0x10FFFF)))
        for stamp, key in self._log[start:]:
            row = self.rows.get(key)
            if row is not None and row.timestamp == stamp:
                yield row


class Division:
    """One company's administration."""

    def __init__(self, number: int, watch: Watch, zone: tzinfo) -> None:
        self.number = number
        self.zone = zone
        self.line_delay_s = 0.0
        self.search_lag_s = 0.0
        self.user = API_USER
        self._watch = watch
        self._timestamp = FIRST_TIMESTAMP
        self._guids = 0
        self._sequences: dict[str, int] = {}
        self.tables = {path: Table(entity_set) for path, entity_set in SETS.items()}

    # --- time ----------------------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Aware, UTC."""
        return self._watch.now()

    def local(self) -> datetime:
        """The server's wall clock, without zone, in whole milliseconds."""
        moment = self.now().astimezone(self.zone).replace(tzinfo=None)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def today(self) -> datetime:
        """Midnight of the wall clock."""
        return self.local().replace(hour=0, minute=0, second=0, microsecond=0)

    # --- keys ----------------------------------------------------------------------------------------------------------------

    def guid(self) -> str:
        """A new key, valid in this division only, the same for the same history."""
        self._guids += 1
        return str(uuid.uuid5(NAMESPACE, f"{self.number}:{self._guids}"))

    def next_number(self, series: str, first: int, is_taken: Callable[[int], bool]) -> int:
        """The next free number of a series."""
        number = self._sequences.get(series, first)
        while is_taken(number):
            number += 1
        self._sequences[series] = number + 1
        return number

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def table(self, path: str) -> Table:
        """The rows of a set."""
        return self.tables[path]

    def get(self, path: str, key: str | None) -> Row | None:
        """A row by key."""
        return self.tables[path].rows.get(key) if key else None

    def first(self, path: str, name: str, value: Any) -> Row | None:
        """Some row with a value in a property."""
        return next(iter(self.tables[path].by(name, value)), None)

    def insert(self, path: str, values: dict[str, Any], *, delay_s: float = 0) -> Row:
        """Adds a row with a new key and Timestamp."""
        moment = self.local()
        key = self.guid()
        stamps = {"Created": moment, "Modified": moment, "Creator": self.user, "Modifier": self.user, "Division": self.number}
        own = {**stamps, **values, self.tables[path].entity_set.key: key}
        row = Row(key, own, self._stamp(), self._in(delay_s), self._in(max(delay_s, self.search_lag_s)))
        self.tables[path].put(row)
        return row

    def change(self, path: str, row: Row, values: dict[str, Any]) -> None:
        """Changes a row; its Timestamp rises even when nothing differs, as a row version does."""
        table = self.tables[path]
        table.forget(row)
        row.values.update(values, Modified=self.local(), Modifier=self.user)
        row.timestamp = self._stamp()
        table.put(row)

    def remove(self, path: str, row: Row) -> None:
        """Deletes a row and logs it for `sync/Deleted`."""
        table = self.tables[path]
        table.remove(row)
        if table.entity_set.deleted_type is not None:
            log = {"EntityKey": row.id, "EntityType": table.entity_set.deleted_type, "DeletedBy": self.user}
            self.insert(DELETED_SET, {**log, "DeletedDate": self.local()})

    def is_visible(self, row: Row, *, in_list: bool) -> bool:
        """Whether a read sees a row yet."""
        moment = row.listed_at if in_list else row.visible_at
        return moment is None or self.now() >= moment

    def utc_offset_s(self) -> int:
        """Seconds the wall clock is ahead of UTC."""
        offset = self.now().astimezone(self.zone).utcoffset()
        return int(offset.total_seconds()) if offset else 0

    def _in(self, seconds: float) -> datetime | None:
        return self.now() + timedelta(seconds=seconds) if seconds else None

    def _stamp(self) -> int:
        self._timestamp += TIMESTAMP_STEP
        return self._timestamp
