"""Look-ups in mapping tables: exact rows first, then rows with `*`, fewest of them first. No row, no value: never a guess."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

import msgspec

from bus.core.configuration.documents import WILDCARD, Cell, Table
from bus.core.errors import MappingError
from schemas.system import Cause

VALUE = "value"
ANSWERS_MAX = 10_000
"""Answers remembered per table: the same few VAT keys come with every line."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row that answered."""

    table: str
    key: Mapping[str, str]
    """The key as asked for, so that a wildcard row still says what it stood for."""
    columns: Mapping[str, Cell]
    """All columns of the row."""
    rule: str
    """The row in words: `table exact-vat[category=S, country=NL, rate_pct=21]`."""
    extra: Mapping[str, str]
    """Key as asked for and further columns, as text."""


class LookupTable:
    """A table made ready for look-ups."""

    def __init__(self, table: Table) -> None:
        self.name = table.name
        self.key = table.key
        self.columns = table.columns
        self._by_mask: dict[tuple[bool, ...], dict[tuple[str, ...], Mapping[str, Cell]]] = {}
        for row in table.rows:
            cells = tuple(normal(column, row.get(column)) for column in table.key)
            mask = tuple(cell == WILDCARD for cell in cells)
            known = tuple(cell for cell, hidden in zip(cells, mask, strict=True) if not hidden)
            self._by_mask.setdefault(mask, {}).setdefault(known, row)
        self._answers: dict[tuple[str | None, ...], Row | None] = {}
        self._masks = sorted(self._by_mask, key=lambda mask: (sum(mask), mask))

    def find(self, asked: Mapping[str, str | None]) -> Row | None:
        """The row for a key, one value per key column; None when there is none."""
        question = tuple(asked.get(column) for column in self.key)
        if question not in self._answers:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
            self._answers[question] = self._search(question)
        return self._answers[question]

    def _search(self, question: tuple[str | None, ...]) -> Row | None:
        cells = [normal(column, cell) for column, cell in zip(self.key, question, strict=True)]
        for mask in self._masks:
            known = tuple(cell for cell, hidden in zip(cells, mask, strict=True) if not hidden)
            row = self._by_mask[mask].get(known)
            if row is not None:
                key = dict(zip(self.key, cells, strict=True))
                extra = {name: _text(cell) for name, cell in row.items() if cell is not None and name != VALUE} | key
                return Row(table=self.name, key=key, columns=row, rule=f"table {self.name}[{_words(key)}]", extra=extra)
        return None

    def missing(self, asked: Mapping[str, str | None]) -> MappingError:
        """The error that spells the missing key out (law 16)."""
        key = {column: normal(column, asked.get(column)) for column in self.key}
        return MappingError(
            f"table {self.name} has no row for {_words(key)}",
            hint=f"add that row to table {self.name} and run bus apply",
            cause=Cause.MISSING_TABLE_ROW,
        )


def normal(column: str, cell: Cell) -> str:
    """A key cell as it is compared: trimmed; percentages as plain numbers, so that 21, "21" and 21.0000 are one."""
    if cell is None:
        return ""
    text = _text(cell).strip()
    if not column.endswith("_pct") or text == WILDCARD:
        return text
    try:
        return f"{Decimal(text).normalize():f}"
    except InvalidOperation:
        return text


def _text(cell: str | bool) -> str:
    return cell if isinstance(cell, str) else "true" if cell else "false"


def duplicates(table: Table) -> list[tuple[int, int]]:
    """Pairs of rows with one key: (first, again), by position."""
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for index, row in enumerate(table.rows):
        cells = tuple(normal(column, row.get(column)) for column in table.key)
        if cells in seen:
            found.append((seen[cells], index))
        seen.setdefault(cells, index)
    return found


def _words(key: Mapping[str, str]) -> str:
    return ", ".join(f"{column}={cell or '(empty)'}" for column, cell in key.items())
