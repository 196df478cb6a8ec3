"""Avro decoders compiled from a schema: closures that read straight into Structs. The mirror of `schemas.encoder`.

For bytes written under the very schema they are read with; a writer of another release is resolved by fastavro. Empty optional
fields, lists and maps are not passed on: the Struct's own default is the same value, and most fields of most records are empty.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, TypeAlias

from schemas.encoder import model_of

Get: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value at a place; gives the value and the place behind it."""

_EXACT = Context(prec=60)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.date().toordinal()


class Damaged(ValueError):
    """The bytes are not a record of this schema."""


def get_integer(data: bytes, at: int) -> tuple[int, int]:
    """Zig-zag varint."""
    byte = data[at]
    at += 1
    if byte < 128:
        return (byte >> 1) ^ -(byte & 1), at
    number, shift = byte & 127, 7
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift > 63:
            raise Damaged("a number of more than 64 bits")


def _piece(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = get_integer(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise Damaged("a length beyond the end")
    return data[at:end], end


def _get_string(data: bytes, at: int) -> tuple[str, int]:
    piece, at = _piece(data, at)
    return piece.decode(), at


def _get_boolean(data: bytes, at: int) -> tuple[bool, int]:
    return data[at] == 1, at + 1


def _get_instant(data: bytes, at: int) -> tuple[datetime, int]:
    number, at = get_integer(data, at)
    return _EPOCH + timedelta(microseconds=number), at


def _get_day(data: bytes, at: int) -> tuple[date, int]:
    number, at = get_integer(data, at)
    return date.fromordinal(number + _EPOCH_DAY), at


def _decimal(schema: dict[str, Any]) -> Get:
    shift, steps = _EXACT.scaleb, Decimal(-schema["scale"])

    def get(data: bytes, at: int) -> tuple[Decimal, int]:
        piece, at = _piece(data, at)
        return shift(Decimal(int.from_bytes(piece, "big", signed=True)), steps), at

    return get


def _enum(model: type, symbols: list[str]) -> Get:
    members = tuple(model(symbol) for symbol in symbols)

    def get(data: bytes, at: int) -> tuple[Any, int]:
        index, at = get_integer(data, at)
        if not 0 <= index < len(members):
            raise Damaged(f"no member of {model.__name__}")
        return members[index], at

    return get


def _count(data: bytes, at: int) -> tuple[int, int]:
    """Items of the next block; a negative count is followed by the block's size."""
    count, at = get_integer(data, at)
    if count < 0:
        _, at = get_integer(data, at)
    if abs(count) > len(data):
        raise Damaged("more items than bytes")
    return abs(count), at


def _array(item: Get) -> Get:
    def get(data: bytes, at: int) -> tuple[list[Any], int]:
        found = []
        count, at = _count(data, at)
        while count:
            for _ in range(count):
                value, at = item(data, at)
                found.append(value)
            count, at = _count(data, at)
        return found, at

    return get


def _map(item: Get) -> Get:
    def get(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found = {}
        count, at = _count(data, at)
        while count:
            for _ in range(count):
                name, at = _get_string(data, at)
                found[name], at = item(data, at)
            count, at = _count(data, at)
        return found, at

    return get


def _optional(inner: Get) -> Get:
    def get(data: bytes, at: int) -> tuple[Any, int]:
        branch = data[at]
        if branch == 0:
            return None, at + 1
        if branch != 2:
            raise Damaged("no branch of the union")
        return inner(data, at + 1)

    return get


def _record(model: type, fields: list[tuple[str, str, Get]]) -> Get:
    """`fields`: name, whether an empty value may be left to the default (`union`, `list` or nothing), decoder."""
    members = tuple((name, kind == "union", kind == "list", inner) for name, kind, inner in fields)

    def get(data: bytes, at: int) -> tuple[Any, int]:
        found = {}
        for name, is_union, is_list, inner in members:
            if is_union:
                branch = data[at]
                at += 1
                if branch == 0:
                    continue
                if branch != 2:
                    raise Damaged("no branch of the union")
            elif is_list and data[at] == 0:
                at += 1
                continue
            found[name], at = inner(data, at)
        return model(**found), at

    return get


_SIMPLE: dict[str, Get] = {
    "string": _get_string,
    "bytes": _piece,
    "boolean": _get_boolean,
    "int": get_integer,
    "long": get_integer,
    "timestamp-micros": _get_instant,
    "date": _get_day,
}


class _Compiler:
    """One schema on its way to closures; named types are compiled once."""

    def __init__(self) -> None:
        self._named: dict[str, Get] = {}

    def build(self, schema: Any) -> Get:
        """The decoder of any type."""
        if isinstance(schema, list):
            return _optional(self.build(schema[1]))
        if isinstance(schema, str):
            return _SIMPLE.get(schema) or self._named[schema]
        kind = schema.get("logicalType", schema["type"])
        match kind:
            case "decimal":
                return _decimal(schema)
            case "array":
                return _array(self.build(schema["items"]))
            case "map":
                return _map(self.build(schema["values"]))
            case "enum" | "record":
                return self._named_type(schema)
        return _SIMPLE[kind]

    def _named_type(self, schema: dict[str, Any]) -> Get:
        full = f"{schema['namespace']}.{schema['name']}"
        model = model_of(full)
        if schema["type"] == "enum":
            get = _enum(model, schema["symbols"])
        else:
            get = _record(model, [self._field(field) for field in schema["fields"]])
        self._named[full] = get
        return get

    def _field(self, field: dict[str, Any]) -> tuple[str, str, Get]:
        schema = field["type"]
        if isinstance(schema, list) and field.get("default", ...) is None:
            return field["name"], "union", self.build(schema[1])
        kind = "list" if field.get("default") in ([], {}) else ""
        return field["name"], kind, self.build(schema)


def compile_decoder(schema: dict[str, Any]) -> Callable[[bytes, int], Any]:
    """The decoder of a schema, from a place in the bytes to their end.

    Raises Damaged, IndexError, UnicodeDecodeError or OverflowError for bytes that are no record of it.
    """
    get = _Compiler().build(schema)

    def decode(data: bytes, at: int) -> Any:
        value, end = get(data, at)
        if end != len(data):
            raise Damaged("bytes behind the record")
        return value

    return decode
