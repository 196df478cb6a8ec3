"""Avro encoders compiled from a schema: functions that write Struct attributes straight into a bytearray.

The bytes are those of the Avro specification (https://avro.apache.org/docs/1.12.0/specification/#binary-encoding), several times
faster than fastavro's because no dict is built, and equal to them except that a map's block tells its size. What does not fit is
refused with the path of the field: a float or an excess scale where money should be, a naive instant, a plain record where a
sealed one belongs.
"""

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from typing import Any, TypeAlias

Put: TypeAlias = Callable[[Any, bytearray], None]

_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.date().toordinal()
_MODULES = {"bus.canon": "schemas.canon", "bus.system": "schemas.system"}


class Refused(ValueError):
    """A value that its schema cannot hold. `path` names the field, `why` says what and how to fix it, never the value."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.why = why
        self.path = path

    def below(self, part: str) -> "Refused":
        """The same refusal, seen from the enclosing field."""
        joined = part if not self.path else part + self.path if self.path.startswith("[") else f"{part}.{self.path}"
        return Refused(self.why, joined)


def _zigzag(number: int) -> bytes:
    coded = (number << 1) ^ (number >> 63)
    out = bytearray()
    while coded > 127:
        out.append(coded & 127 | 128)
        coded >>= 7
    out.append(coded)
    return bytes(out)


_SMALL = tuple(_zigzag(number) for number in range(8192))


def put_integer(number: int, out: bytearray) -> None:
    """Zig-zag varint."""
    out += _SMALL[number] if 0 <= number < 8192 else _zigzag(number)


def _kind(value: Any) -> str:
    return type(value).__name__


def _integer(bits: int) -> Put:
    lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1

    def put(value: Any, out: bytearray) -> None:
        if value.__class__ is not int or not lowest <= value <= highest:
            raise Refused(f"needs an int of {bits} bits, got {_kind(value)}")
        put_integer(value, out)

    return put


def _put_string(value: Any, out: bytearray) -> None:
    if not isinstance(value, str):
        raise Refused(f"needs text, got {_kind(value)}")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise Refused("the text holds half a surrogate pair: it is not Unicode") from error
    length = len(data)
    out += _SMALL[length] if length < 8192 else _zigzag(length)  # as `put_integer`, without the call: most values are texts
    out += data


def _put_bytes(value: Any, out: bytearray) -> None:
    if not isinstance(value, bytes):
        raise Refused(f"needs bytes, got {_kind(value)}")
    put_integer(len(value), out)
    out += value


def _put_boolean(value: Any, out: bytearray) -> None:
    if value is True:
        out.append(1)
    elif value is False:
        out.append(0)
    else:
        raise Refused(f"needs true or false, got {_kind(value)}")


def _put_instant(value: Any, out: bytearray) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Refused(f"needs an instant with a time zone, got {_kind(value)}")
    delta = value - _EPOCH
    put_integer((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds, out)


def _put_day(value: Any, out: bytearray) -> None:
    if value.__class__ is not date:
        raise Refused(f"needs a day, got {_kind(value)}")
    put_integer(value.toordinal() - _EPOCH_DAY, out)


def _decimal(schema: dict[str, Any]) -> Put:
    scale, precision = schema["scale"], schema["precision"]
    bound = 10**precision
    shift = _EXACT.scaleb
    steps = Decimal(scale)

    def put(value: Any, out: bytearray) -> None:
        if value.__class__ is not Decimal:
            raise Refused(f"needs a Decimal, got {_kind(value)}: money is never a float")
        try:
            shifted = shift(value, steps)
            number = int(shifted)
        except (DecimalException, ValueError, OverflowError) as error:
            raise Refused(f"needs a finite Decimal of at most {scale} decimals") from error
        if number != shifted:
            raise Refused(f"has more than {scale} decimals: round it where the rule for rounding is known")
        if not -bound < number < bound:
            raise Refused(f"has more than {precision - scale} digits before the point")
        size = (number.bit_length() + 8) >> 3
        out += _SMALL[size]
        out += number.to_bytes(size, "big", signed=True)

    return put


def _enum(schema: dict[str, Any]) -> Put:
    codes = {symbol: _zigzag(index) for index, symbol in enumerate(schema["symbols"])}
    name = schema["name"]

    def put(value: Any, out: bytearray) -> None:
        try:
            out += codes[value]
        except (KeyError, TypeError):
            raise Refused(f"is no member of {name}") from None

    return put


def _array(item: Put) -> Put:
    def put(value: Any, out: bytearray) -> None:
        if not isinstance(value, list | tuple):
            raise Refused(f"needs a list, got {_kind(value)}")
        if value:
            put_integer(len(value), out)
            for index, part in enumerate(value):
                try:
                    item(part, out)
                except Refused as error:
                    raise error.below(f"[{index}]") from None
        out.append(0)

    return put


def _map(item: Put) -> Put:
    def put(value: Any, out: bytearray) -> None:
        if not isinstance(value, dict):
            raise Refused(f"needs a mapping, got {_kind(value)}")
        if value:
            block = bytearray()
            for name, part in value.items():
                try:
                    _put_string(name, block)
                    item(part, block)
                except Refused as error:
                    raise error.below(f"[{name!r}]") from None
            out += _zigzag(-len(value))  # negative: the block tells its size, and a picker steps over it at once
            put_integer(len(block), out)
            out += block
        out.append(0)

    return put


def _optional(inner: Put) -> Put:
    def put(value: Any, out: bytearray) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(2)
            inner(value, out)

    return put


def _record(cls: type, fields: list[tuple[str, bool, Put]]) -> Put:
    """Written out as Python source, a few lines per field: most fields of most records are empty, and what a loop would do for
    them costs more than all the rest."""
    lines = [
        "def put(value, out):",
        "    if value.__class__ is not cls:",
        "        raise misfit(value)",
        "    add, name = out.append, ''",
        "    try:",
    ]
    puts: dict[str, Put] = {}
    for name, nullable, inner in fields:
        puts[f"put_{name}"] = inner
        lines.append(f"        name = {name!r}")  # for the except clause
        if nullable:
            lines.append(f"        if value.{name} is None: add(0)")
            lines.append(f"        else: add(2); put_{name}(value.{name}, out)")
        else:
            lines.append(f"        put_{name}(value.{name}, out)")
    lines += ["        pass", "    except Refused as error:", "        raise error.below(name) from None"]

    def misfit(value: Any) -> Refused:
        fix = ": personal data must be sealed first (bus.runtime.privacy)" if cls.__name__ == "Sealed" else ""
        return Refused(f"needs a {cls.__name__}, got {_kind(value)}{fix}")

    scope: dict[str, Any] = {"cls": cls, "misfit": misfit, "Refused": Refused, **puts}
    exec("\n".join(lines), scope)  # noqa: S102 - names come from our own schemas, which are linted to be plain identifiers
    made: Put = scope["put"]
    return made


def model_of(full_name: str) -> type:
    """The generated class of a named type. Raises KeyError for a foreign namespace."""
    namespace, _, name = full_name.rpartition(".")
    module = _MODULES[namespace]
    __import__(module)
    found: type = getattr(sys.modules[module], name)
    return found


_SIMPLE: dict[str, Put] = {
    "string": _put_string,
    "bytes": _put_bytes,
    "boolean": _put_boolean,
    "int": _integer(32),
    "long": _integer(64),
    "timestamp-micros": _put_instant,
    "date": _put_day,
}


class _Compiler:
    """One schema on its way to closures; named types are compiled once."""

    def __init__(self) -> None:
        self._named: dict[str, Put] = {}

    def build(self, schema: Any) -> Put:
        """The encoder of any type."""
        if isinstance(schema, list):
            return _optional(self.build(self._branch(schema)))
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
            case "enum":
                return self._name(schema, _enum(schema))
            case "record":
                fields = [self._field(field) for field in schema["fields"]]
                return self._name(schema, _record(model_of(f"{schema['namespace']}.{schema['name']}"), fields))
        return _SIMPLE[kind]

    def _field(self, field: dict[str, Any]) -> tuple[str, bool, Put]:
        schema = field["type"]
        if isinstance(schema, list):
            return field["name"], True, self.build(self._branch(schema))
        return field["name"], False, self.build(schema)

    def _branch(self, union: list[Any]) -> Any:
        if len(union) != 2 or union[0] != "null":
            raise ValueError(f"unions are null and one type, null first: {union}")
        return union[1]

    def _name(self, schema: dict[str, Any], put: Put) -> Put:
        self._named[f"{schema['namespace']}.{schema['name']}"] = put
        return put


def compile_encoder(schema: dict[str, Any]) -> Put:
    """The encoder of a schema. It raises Refused, and leaves the bytearray half-written when it does."""
    return _Compiler().build(schema)
