"""Properties: their types, who may write them, and the two forms of a value (in a payload, on the wire)."""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from connectors.exact_online.simulation.refusals import conversion

TYPE_NAMES = {
    "guid": "Guid",
    "text": "String",
    "double": "Double",
    "int": "Int32",
    "int64": "Int64",
    "byte": "Byte",
    "flag": "Boolean",
    "date": "DateTime",
    "binary": "Binary",
    "children": "Collection",
}
GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,7})?)?)?")
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive on purpose: the vendor counts its wall clock from here


@dataclass(frozen=True)
class Field:
    """One property of a set. `cut` shortens a longer text in silence, `most` refuses it."""

    name: str
    kind: str
    create: bool
    update: bool
    required: bool = False
    write_only: bool = False
    most: int | None = None
    cut: int | None = None
    left: int | None = None
    right: int | None = None
    to: str | None = None

    @property
    def type_name(self) -> str:
        """The type as error texts call it."""
        return TYPE_NAMES[self.kind]


def parse_fields(table: str) -> dict[str, Field]:
    """Reads a table of `Name kind access [option=value …]`; `{01-10}` in a name repeats the line.

    Access: C may be created, U may be updated, R neither (posting it has no effect), W written and never shown, `!` required.
    """
    fields: dict[str, Field] = {}
    for line in filter(None, table.splitlines()):
        pattern, kind, access, *options = line.split()
        chosen = dict(option.split("=") for option in options)
        sizes = {name: int(value) for name, value in chosen.items() if name != "to"}
        for name in _repeated(pattern):
            fields[name] = Field(
                name=name,
                kind=kind,
                create="C" in access or "W" in access,
                update="U" in access or "W" in access,
                required="!" in access,
                write_only="W" in access,
                to=chosen.get("to"),
                **sizes,
            )
    return fields


def _repeated(pattern: str) -> list[str]:
    found = re.search(r"\{(\d+)-(\d+)\}", pattern)
    if found is None:
        return [pattern]
    width = len(found[1])
    return [pattern.replace(found[0], str(n).zfill(width)) for n in range(int(found[1]), int(found[2]) + 1)]


def from_payload(field: Field, value: Any) -> Any:
    """The value of a property in a request body. Raises Refused (400) when it is not of the type."""
    if value is None:
        return None
    reader = _READERS.get(field.kind)
    read = reader(value) if reader else None
    if read is None:
        raise conversion(field.name, field.type_name)
    if read == "" and field.kind == "text":
        return None
    return read


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _guid(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and GUID.fullmatch(value) else None


def _double(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _whole(low: int, high: int) -> Any:
    def read(value: Any) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None

    return read


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _date(value: Any) -> datetime | None:
    return moment(value) if isinstance(value, str) else None


def _binary(value: Any) -> bytes | None:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except binascii.Error:
        return None


_READERS = {
    "text": _text,
    "guid": _guid,
    "double": _double,
    "int": _whole(-(2**31), 2**31 - 1),
    "int64": _whole(-(2**63), 2**63 - 1),
    "byte": _whole(0, 255),
    "flag": _flag,
    "date": _date,
    "binary": _binary,
}


def moment(text: str) -> datetime | None:
    """A date or time without zone, as the vendor takes it; None when it is neither."""
    if not MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text[:26])
    except ValueError:
        return None


def number(value: Decimal) -> Decimal | int:
    """A Double as JSON shows it: no trailing zeros, no exponent."""
    return int(value) if value == value.to_integral_value() else value.normalize()


def wire_date(value: datetime) -> str:
    """The wall clock counted as if it were UTC."""
    delta = value - EPOCH
    return f"/Date({(delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000})/"


def to_wire(field: Field, value: Any) -> Any:
    """The value of a property in an answer."""
    if value is None:
        return None
    match field.kind:
        case "date":
            return wire_date(value)
        case "double":
            return number(Decimal(value))
        case "int64":
            return str(value)
        case "text":
            return padded(field, value)
    return value


def padded(field: Field, value: str) -> str:
    """Fixed-width codes carry their blanks in answers and in filters."""
    if field.left:
        return value.rjust(field.left)
    return value.ljust(field.right) if field.right else value
