"""The vendor's OData v2 dialect: literals and `$filter` expressions, parsed strictly and evaluated over rows.

The operators and functions are those client code of the vendor uses; everything else is a syntax error.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from connectors.exact_online.simulation.fields import GUID, Field, moment, padded
from connectors.exact_online.simulation.refusals import Refused, bad_request

INT32 = 2**31
DEPTH_MAX = 100
"""Nesting at which an expression is refused."""
_TOKEN = re.compile(
    r"\s*(?:(?P<typed>(?:guid|datetime)'[^']*')|(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?[LlMmDdFf]?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[(),]))"
)
COMPARISONS = {"eq", "ne", "gt", "ge", "lt", "le"}
FUNCTIONS = {"startswith": 2, "substringof": 2, "tolower": 1, "trim": 1}
_CLASS = {"double": "number", "int": "number", "int64": "number", "byte": "number"}


@dataclass(frozen=True)
class Literal:
    """A constant; `kind` is guid, date, text, number, flag or null."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Property:
    """A property of the row."""

    field: Field

    @property
    def kind(self) -> str:
        """The class of its values."""
        return _CLASS.get(self.field.kind, self.field.kind)


@dataclass(frozen=True)
class Call:
    """A function of text."""

    name: str
    arguments: tuple["Node", ...]

    @property
    def kind(self) -> str:
        """The class of its value."""
        return "flag" if self.name in ("startswith", "substringof") else "text"


@dataclass(frozen=True)
class Operation:
    """A comparison, `and`, `or`, `not`."""

    operator: str
    operands: tuple["Node", ...]
    kind: str = "flag"


Node: TypeAlias = Literal | Property | Call | Operation
Values: TypeAlias = Callable[[str], Any]


def literal(text: str) -> Literal:
    """One literal, as it stands in a key, a function's parameter or a `$skiptoken`. Raises Refused (400)."""
    found = _TOKEN.fullmatch(text.strip())
    read = _literal(found.lastgroup or "", found[found.lastgroup or 0]) if found else None
    if read is None:
        raise _syntax(0)
    return read


def _literal(group: str, text: str) -> Literal | None:
    if group == "text":
        return Literal("text", text[1:-1].replace("''", "'"))
    if group == "number":
        return _number(text)
    if group == "name":
        return {"true": Literal("flag", True), "false": Literal("flag", False), "null": Literal("null", None)}.get(text)
    prefix, _, rest = text.partition("'")
    if prefix == "guid":
        return Literal("guid", rest[:-1].lower()) if GUID.fullmatch(rest[:-1]) else None
    when = moment(rest[:-1])
    return Literal("date", when) if when else None


def _number(text: str) -> Literal | None:
    if text[-1] in "LlMmDdFf":
        if text[-1] in "Ll" and "." in text:
            return None
        return Literal("number", Decimal(text[:-1]))
    value = Decimal(text)
    # Without its L a whole number is an Int32 literal.
    return None if "." not in text and not -INT32 <= value < INT32 else Literal("number", value)


class _Parser:
    """Recursive descent over `or`, `and`, `not`, comparison, value."""

    def __init__(self, text: str, fields: dict[str, Field], type_name: str) -> None:
        self._fields = fields
        self._type = type_name
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        """The whole expression."""
        node = self._either()
        if self._peek()[1] or node.kind != "flag":
            raise _syntax(self._peek()[2])
        return node

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._at]

    def _next(self) -> tuple[str, str, int]:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _is_word(self, *words: str) -> bool:
        group, text, _ = self._peek()
        return group == "name" and text in words

    def _either(self) -> Node:
        node = self._both()
        while self._is_word("or"):
            node = self._logical(node, self._both)
        return node

    def _both(self) -> Node:
        node = self._negation()
        while self._is_word("and"):
            node = self._logical(node, self._negation)
        return node

    def _logical(self, left: Node, right: Callable[[], Node]) -> Node:
        _, operator, at = self._next()
        node = right()
        if left.kind != "flag" or node.kind != "flag":
            raise _syntax(at)
        return Operation(operator, (left, node))

    def _negation(self) -> Node:
        if self._is_word("not"):
            _, _, at = self._next()
            node = self._negation()
            if node.kind != "flag":
                raise _syntax(at)
            return Operation("not", (node,))
        return self._comparison()

    def _comparison(self) -> Node:
        left = self._value()
        if not self._is_word(*COMPARISONS):
            return left
        _, operator, at = self._next()
        right = self._value()
        if "null" not in (left.kind, right.kind) and left.kind != right.kind:
            raise bad_request(f"Operator '{operator}' incompatible with operand types '{left.kind}' and '{right.kind}' at {at}.")
        return Operation(operator, (left, right))

    def _value(self) -> Node:
        group, text, at = self._next()
        if text == "(":
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise _syntax(at)
            node = self._either()
            self._expect(")")
            self._depth -= 1
            return node
        if group == "name" and text in FUNCTIONS:
            return self._call(text, at)
        known = _literal(group, text) if group != "mark" and text else None
        if known:
            return known
        if group != "name":
            raise _syntax(at)
        return self._property(text, at)

    def _property(self, name: str, at: int) -> Property:
        if name not in self._fields:
            raise bad_request(f"No property '{name}' exists in type 'Exact.Web.Api.Models.{self._type}' at position {at}.")
        field = self._fields[name]
        if field.kind in ("children", "binary"):
            raise bad_request("This $filter parameter is not supported for this resource")
        return Property(field)

    def _call(self, name: str, at: int) -> Call:
        self._expect("(")
        arguments = [self._value()]
        while self._peek()[1] == ",":
            self._next()
            arguments.append(self._value())
        self._expect(")")
        if len(arguments) != FUNCTIONS[name] or any(argument.kind != "text" for argument in arguments):
            raise bad_request(f"No applicable function found for '{name}' at position {at} with the specified arguments.")
        return Call(name, tuple(arguments))

    def _expect(self, mark: str) -> None:
        _, text, at = self._next() if self._at < len(self._tokens) else ("", "", 0)
        if text != mark:
            raise _syntax(at)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    found = []
    at = 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None:
            raise _syntax(at)
        found.append((token.lastgroup or "", token[token.lastgroup or 0], token.start(token.lastgroup or 0)))
        at = token.end()
    return [*found, ("mark", "", at), ("mark", "", at)]


def _syntax(at: int) -> Refused:
    return bad_request(f"Bad Request - Error in query syntax. Syntax error at position {at}.")


def parse_filter(text: str, fields: dict[str, Field], type_name: str) -> Node:
    """A `$filter` over the properties of a set. Raises Refused (400)."""
    return _Parser(text, fields, type_name).parse()


def properties(node: Node) -> Iterator[str]:
    """The names of the properties an expression speaks of."""
    match node:
        case Property(field):
            yield field.name
        case Call(_, parts) | Operation(_, parts):
            for part in parts:
                yield from properties(part)


def conjuncts(node: Node) -> Iterator[tuple[str, str, Any]]:
    """Comparisons of a property with a constant that must all hold, for index look-ups."""
    match node:
        case Operation("and", (left, right)):
            yield from conjuncts(left)
            yield from conjuncts(right)
        case Operation(operator, (Property(field), Literal(_, value))) if operator in COMPARISONS:
            yield field.name, operator, value


def holds(node: Node, values: Values) -> bool:
    """Whether a row satisfies an expression."""
    return _evaluate(node, values) is True


def _evaluate(node: Node, values: Values) -> Any:
    match node:
        case Literal(_, value):
            return value
        case Property(field):
            value = values(field.name)
            return padded(field, value) if field.kind == "text" and value is not None else value
        case Call(name, arguments):
            return _call(name, [_evaluate(argument, values) for argument in arguments])
        case Operation("not", (inner,)):
            return _evaluate(inner, values) is not True
        case Operation("and", (left, right)):
            return _evaluate(left, values) is True and _evaluate(right, values) is True
        case Operation("or", (left, right)):
            return _evaluate(left, values) is True or _evaluate(right, values) is True
        case Operation(operator, (left, right)):
            return compare(operator, _evaluate(left, values), _evaluate(right, values))
    raise AssertionError(node)


def _call(name: str, arguments: list[Any]) -> Any:
    if any(argument is None for argument in arguments):
        return None
    match name:
        case "tolower":
            return arguments[0].lower()
        case "trim":
            return arguments[0].strip()
        case "startswith":
            return arguments[0].startswith(arguments[1])
    return arguments[0] in arguments[1]


def compare(operator: str, left: Any, right: Any) -> bool:
    """Compares as the vendor's database does: blanks at the end of a text never count, those in front do."""
    if left is None or right is None:
        same = left is right
        return same if operator == "eq" else (not same if operator == "ne" else False)
    left, right = _comparable(left), _comparable(right)
    match operator:
        case "eq":
            return bool(left == right)
        case "ne":
            return bool(left != right)
        case "gt":
            return bool(left > right)
        case "ge":
            return bool(left >= right)
        case "lt":
            return bool(left < right)
    return bool(left <= right)


def _comparable(value: Any) -> Any:
    if isinstance(value, str):
        return value.rstrip(" ")
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value
