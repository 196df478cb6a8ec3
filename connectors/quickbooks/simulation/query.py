"""The query language: one entity, AND only, paging from 1.

https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/data-queries
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from connectors.quickbooks.simulation.conditions import COMPARE, Row, Test, condition, member, sortable
from connectors.quickbooks.simulation.entities import COMMON, ENTITIES, LISTS_WITH_ACTIVE
from connectors.quickbooks.simulation.refusals import parser_error, query_error

ROWS_MAX = 1000
ROWS_DEFAULT = 100
TOKEN = re.compile(r"\s*(?:'(?:[^'\\]|\\.)*'|-?\d+(?:\.\d+)?|[A-Za-z_][\w.]*|<=|>=|[=<>(),*])")


@dataclass(frozen=True)
class Query:
    """A statement that was understood. `members` are the projected ones, empty for all."""

    entity: str
    is_count: bool
    members: tuple[str, ...]
    tests: tuple[Test, ...]
    order: str | None
    is_descending: bool
    start: int
    most: int

    def rows(self, rows: list[Row]) -> list[Row]:
        """All rows that pass, in order; rows without an order come by id."""
        found = [row for row in rows if all(test(row) for test in self.tests)]
        order = self.order or "Id"
        return sorted(found, key=lambda row: sortable(order, member(row, order)), reverse=self.is_descending)


class _Tokens:
    """The words of a statement, read from the left."""

    def __init__(self, statement: str) -> None:
        self._tokens = list(_split(statement))
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token

    def takes(self, *words: str) -> bool:
        """Whether the next words are these; takes them then."""
        ahead = [token.lower() for token in self._tokens[self._at : self._at + len(words)]]
        if ahead != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.takes(*words):
            raise parser_error(f'Encountered "{self.peek() or "<EOF>"}". Was expecting: "{" ".join(words)}"')


def _split(statement: str) -> Iterator[str]:
    at, text = 0, statement.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise parser_error(f'Encountered "{text[at : at + 20].strip()}" at column {at + 1}.')
        yield found[0].strip()
        at = found.end()


def parse(statement: str) -> Query:
    """Raises Refused: 4000 for what cannot be read, 4001 for a property or entity that cannot be asked."""
    tokens = _Tokens(statement)
    tokens.expect("select")
    is_count = tokens.takes("count", "(", "*", ")")
    names = () if is_count else tuple(_projected(tokens))
    tokens.expect("from")
    asked = tokens.take()
    entity = next((name for name in ENTITIES if name.lower() == asked.lower()), None)
    if entity is None:
        raise query_error(f"Invalid context declaration: {asked}")
    conditions = list(_conditions(tokens, entity)) if tokens.takes("where") else []
    order, is_descending = _order(tokens, entity)
    start = _whole(tokens, "startposition", 1, None)
    most = _whole(tokens, "maxresults", ROWS_DEFAULT, ROWS_MAX)
    if tokens.peek():
        raise parser_error(f'Encountered "{tokens.peek()}". Was expecting: <EOF>')
    if entity in LISTS_WITH_ACTIVE and not any(name == "Active" for name, _ in conditions):
        conditions.append(("Active", lambda row: row.get("Active", True) is True))
    tests = tuple(test for _, test in conditions)
    return Query(entity, is_count, () if "*" in names else names, tests, order, is_descending, start, most)


def _projected(tokens: _Tokens) -> Iterator[str]:
    while True:
        name = tokens.take()
        if name != "*" and not re.fullmatch(r"[A-Za-z][\w.]*", name):
            raise parser_error(f'Encountered "{name}" in the list of properties.')
        yield name
        if not tokens.takes(","):
            return


def _conditions(tokens: _Tokens, entity: str) -> Iterator[tuple[str, Test]]:
    while True:
        name, sign = tokens.take(), tokens.take().lower()
        if sign not in ("=", "in", "like", *COMPARE):
            raise parser_error(f'Encountered "{sign or "<EOF>"}". Was expecting an operator.')
        name = _known(entity, name)
        values = _values(tokens) if sign == "in" else [_value(tokens)]
        yield name, condition(name, sign, values)
        if not tokens.takes("and"):
            return


def _values(tokens: _Tokens) -> list[Any]:
    tokens.expect("(")
    values = [_value(tokens)]
    while tokens.takes(","):
        values.append(_value(tokens))
    tokens.expect(")")
    return values


def _order(tokens: _Tokens, entity: str) -> tuple[str | None, bool]:
    if not tokens.takes("orderby") and not tokens.takes("order", "by"):
        return None, False
    name = _known(entity, tokens.take())
    if tokens.takes("desc"):
        return name, True
    tokens.takes("asc")
    return name, False


def _whole(tokens: _Tokens, word: str, default: int, most: int | None) -> int:
    if not tokens.takes(word):
        return default
    text = tokens.take()
    if not text.isdigit():
        raise parser_error(f'Encountered "{text}" after {word}. Was expecting: <INTEGER>')
    if int(text) < 1 or (most is not None and int(text) > most):
        raise query_error(f"value {text} of {word} is out of range")
    return int(text)


def _known(entity: str, name: str) -> str:
    """The property as the vendor spells it."""
    for known in (*COMMON, *ENTITIES[entity].queryable):
        if known.lower() == name.lower():
            return known
    raise query_error(f"property '{name}' is not queryable")


def _value(tokens: _Tokens) -> Any:
    token = tokens.take()
    if token.startswith("'"):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if token.lower() in ("true", "false"):
        return token.lower() == "true"
    if re.fullmatch(r"-?\d+(\.\d+)?", token):
        return token
    raise parser_error(f'Encountered "{token or "<EOF>"}". Was expecting a value.')
