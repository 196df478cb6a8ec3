"""Reads: which rows, in which order, in which of the two list envelopes, and the link to the next page."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import total_ordering
from typing import Any
from urllib.parse import quote

from connectors.exact_online.simulation import odata
from connectors.exact_online.simulation.computed import COMPUTED, value_of
from connectors.exact_online.simulation.fields import padded, to_wire
from connectors.exact_online.simulation.queries import Query
from connectors.exact_online.simulation.sets import VIEWS, EntitySet, View
from connectors.exact_online.simulation.state import Division, Row

URL_SAFE = ",'()$*"
PLACEHOLDER = "docs/images/placeholder_item.png"
Served = Callable[[View, Row], None]


@dataclass(frozen=True)
class Reader:
    """Renders rows of a division under the address the caller used."""

    division: Division
    base_url: str
    served: Served

    # --- one row -------------------------------------------------------------------------------------------------------------

    def entity(self, view: View, row: Row, query: Query) -> dict[str, Any]:
        """One row with its metadata; properties in the server's own order."""
        shown: dict[str, Any] = {"__metadata": self._metadata(view, row)}
        for name, known in view.fields.items():
            if known.write_only or (query.select is not None and name not in query.select):
                continue
            if known.kind == "children":
                shown[name] = self._children(view, row, name, query)
            elif name in ("PictureUrl", "PictureThumbnailUrl"):
                shown[name] = self._picture_url(row, 500 if name == "PictureUrl" else 32)
            else:
                shown[name] = to_wire(known, value_of(self.division, view.base, row, name))
        self.served(view, row)
        return shown

    def thin(self, entity_set: EntitySet, row: Row) -> dict[str, Any]:
        """The answer to a create that shows no more than the key and byte flags."""
        view = VIEWS[entity_set.path.lower()]
        shown: dict[str, Any] = {"__metadata": self._metadata(view, row)}
        for name, known in view.fields.items():
            if known.kind == "children":
                shown[name] = self._deferred(view, row, name)
            elif not known.write_only:
                own = name == entity_set.key or known.kind == "byte"
                shown[name] = to_wire(known, value_of(self.division, entity_set, row, name)) if own else None
        return shown

    def _metadata(self, view: View, row: Row) -> dict[str, str]:
        return {"uri": self._uri(view, row), "type": f"Exact.Web.Api.Models.{view.base.model}"}

    def _uri(self, view: View, row: Row) -> str:
        if view.path == "current/Me":
            return f"{self.base_url}/api/v1/current/Me(guid'{row.id}')"
        key = f"{row.timestamp}L" if view.family == "sync" else f"guid'{row.id}'"
        if view.base.fields[view.base.key].kind == "int":
            key = row.id
        return f"{self.base_url}/api/v1/{self.division.number}/{view.path}({key})"

    def _deferred(self, view: View, row: Row, name: str) -> dict[str, Any]:
        return {"__deferred": {"uri": f"{self._uri(view, row)}/{name}"}}

    def _children(self, view: View, row: Row, name: str, query: Query) -> dict[str, Any]:
        if name not in query.expand:
            return self._deferred(view, row, name)
        path, reference = view.base.children[name]
        child_view = VIEWS[path.lower()]
        inner = Query(select=query.child_select.get(name))
        found = self.division.table(path).by(reference, row.id)
        seen = [child for child in found if self.division.is_visible(child, in_list=False)]
        return {"results": [self.entity(child_view, child, inner) for child in seen]}

    def _picture_url(self, row: Row, size: int) -> str:
        if not row.picture:
            return f"{self.base_url}//{PLACEHOLDER}"
        place = f"Table=Items&ID={row.id}&ThumbSize={size}&NoCache=1&OptimizeForWeb=1&_Division_={self.division.number}"
        return f"{self.base_url}/docs/SysImage.aspx?{place}"

    # --- lists ---------------------------------------------------------------------------------------------------------------

    def page(self, view: View, query: Query, options: dict[str, str], rows: Iterable[Row] | None = None) -> dict[str, Any]:
        """One page of a collection, in the bare or the `results` envelope, with `__next` while rows remain."""
        limit = view.page_rows if query.top is None else min(view.page_rows, query.top)
        total = sum(1 for _ in self._matching(view, query, rows)) if query.count else None
        found = self._sorted(view, query, rows, query.skip + limit + 1)[query.skip :]
        shown = [self.entity(view, row, query) for row in found[:limit]]
        bare = query.top is not None and 0 < query.top <= view.page_rows and query.token is None and total is None
        if bare:
            return {"d": shown}
        inner: dict[str, Any] = {"results": shown}
        if total is not None:
            inner["__count"] = str(total)
        left = None if query.top is None else query.top - len(shown)
        if len(found) > limit and left != 0:
            inner["__next"] = self._next(view, query, options, found[limit - 1], left)
        return {"d": inner}

    def count(self, view: View, query: Query) -> int:
        """How many rows match."""
        return sum(1 for _ in self._matching(view, query, None))

    def _matching(self, view: View, query: Query, rows: Iterable[Row] | None) -> Iterator[Row]:
        is_feed = view.family == "sync"
        for row in self._candidates(view, query) if rows is None else rows:
            if not self.division.is_visible(row, in_list=not is_feed):
                continue
            if query.filter is None or odata.holds(query.filter, self._values(view, row)):
                yield row

    def _values(self, view: View, row: Row) -> odata.Values:
        return lambda name: value_of(self.division, view.base, row, name)

    def _candidates(self, view: View, query: Query) -> Iterable[Row]:
        table = self.division.table(view.base.path)
        for name, operator, value in odata.conjuncts(query.filter) if query.filter else ():
            if view.family == "sync" and name == "Timestamp" and operator in ("gt", "ge"):
                return table.after(int(value) - (operator == "ge"))
            if name in view.base.search and operator == "eq" and (view.base.path, name) not in COMPUTED:
                # Codes are stored without blanks; the filter itself decides whether those it brought fit.
                return table.by(name, value.strip() if isinstance(value, str) else value)
        return table.after(0) if view.family == "sync" else table.rows.values()

    def _sorted(self, view: View, query: Query, rows: Iterable[Row] | None, most: int) -> list[Row]:
        if view.family == "sync":
            start = int(query.token[0].value) if query.token else 0
            after = (row for row in self._matching(view, query, rows) if row.timestamp > start)
            return [row for row, _ in zip(after, range(most), strict=False)]
        matching = self._matching(view, query, rows)
        key = self._key(view, query)
        if query.token:
            last = _position([literal.value for literal in query.token], query)
            matching = (row for row in matching if key(row) > last)
        return heapq.nsmallest(most, matching, key=key)

    def _key(self, view: View, query: Query) -> Callable[[Row], "tuple[_Rank, ...]"]:
        names = [name for name, _ in query.order]

        def key(row: Row) -> tuple[_Rank, ...]:
            values = [value_of(self.division, view.base, row, name) for name in names]
            own = [padded(view.fields[n], v) if isinstance(v, str) else v for n, v in zip(names, values, strict=True)]
            return _position([*own, row.id], query)

        return key

    def _next(self, view: View, query: Query, options: dict[str, str], last: Row, left: int | None) -> str:
        if view.family == "sync":
            token = f"{last.timestamp}L"
        else:
            values = [value_of(self.division, view.base, last, name) for name, _ in query.order]
            token = ",".join([*(_literal(value) for value in values), f"guid'{last.id}'"])
        kept = {name: value for name, value in options.items() if name not in ("$top", "$skiptoken", "$skip")}
        if left is not None:
            kept["$top"] = str(left)
        kept["$skiptoken"] = token
        text = "&".join(f"{name}={quote(value, safe=URL_SAFE)}" for name, value in kept.items())
        return f"{self.base_url}/api/v1/{self.division.number}/{view.path}?{text}"


@total_ordering
class _Rank:
    """A value in sort order: null first, descending turned round."""

    def __init__(self, value: Any, descending: bool) -> None:
        filled = value is not None
        self._value = (filled, value.rstrip(" ") if isinstance(value, str) else value if filled else 0)
        self._descending = descending

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rank) and self._value == other._value

    def __lt__(self, other: "_Rank") -> bool:
        return other._value < self._value if self._descending else self._value < other._value

    def __hash__(self) -> int:
        return hash(self._value)


def _position(values: list[Any], query: Query) -> tuple[_Rank, ...]:
    directions = [descending for _, descending in query.order]
    return tuple(_Rank(value, descending) for value, descending in zip(values, [*directions, False], strict=True))


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"datetime'{value.isoformat(timespec='milliseconds')}'"
    if isinstance(value, int | Decimal):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
