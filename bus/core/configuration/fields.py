"""Paths into canonical entities, as configuration writes them, checked against the generated models.

`source.customer.kind`, `lines.[].sku`, `custom.IsWebshopItem`. Personal data has no path: it is sealed where expressions run.
"""

import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

import msgspec

from bus.core.configuration.problems import closest
from bus.core.identity import ENTITY_TYPES
from schemas import canon

ITEM = "[]"
"""Path part: any item of a list, or a part of a text."""

SEALED_TYPES = (canon.Sealed, canon.PartyPii, canon.NotePii)
PERSONAL = frozenset(
    {"email", "emails", "email_index", "phone", "phones", "full_name", "given_name", "middle_name", "family_name", "birth_date"}
    | {"address", "addresses", "street", "line1", "line2", "line3", "postal_code", "city", "contact", "contacts"}
    | {"subject", "pii", "note"}
)
"""What people would write for personal data; where a canonical type has a field so named, it is sealed or derived."""

ALIASES: Mapping[type[msgspec.Struct], Mapping[str, tuple[str, ...]]] = {
    canon.Party: {"number": ("customer", "code"), "id": ("customer", "id")},
    **{kind: {"custom": ("custom_fields",)} for kind in ENTITY_TYPES.values()},
}
"""Names that read better than the stored ones."""

_SOURCE_NAMES = ("id", "connection", "system")
"""Facts of the event that `source` answers beside the entity's own fields."""


class UnknownField(ValueError):
    """A path that no canonical entity has; `fix` says what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Leaf(msgspec.Struct, frozen=True):
    """What a path ends in."""

    path: tuple[str, ...]
    """Stored names: aliases replaced."""
    members: tuple[str, ...] = ()
    """Members, when it is an enum."""
    is_text: bool = False


@functools.cache
def _hints(struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Field types; msgspec's own inspection refuses the untagged unions of sealed fields."""
    return typing.get_type_hints(struct)


def _plain(hint: Any) -> Any:
    """A type without its null; of a sealed field its sealed form."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(item for item in typing.get_args(hint) if item is not type(None))
    return hint


def resolve(entity: str, parts: tuple[str, ...]) -> Leaf:
    """Checks a path below `source`; raises `UnknownField`. Parts `[]` step into lists."""
    if parts and parts[0] in _SOURCE_NAMES and parts[0] not in _hints(ENTITY_TYPES[entity]):
        return Leaf(path=parts, is_text=True)
    hint: Any = ENTITY_TYPES[entity]
    stored: list[str] = []
    waiting = list(parts)
    while waiting:
        part = waiting.pop(0)
        if is_struct(hint) and part in ALIASES.get(hint, {}):
            waiting = [*ALIASES[hint][part], *waiting]
            continue
        hint = _plain(_below(hint, part, stored))
        stored.append(part)
    if hint in SEALED_TYPES:
        raise _sealed(".".join(parts))
    members = tuple(str(item) for item in hint) if isinstance(hint, type) and issubclass(hint, enum.Enum) else ()
    return Leaf(path=tuple(stored), members=members, is_text=hint is str)


def _below(hint: Any, part: str, stored: list[str]) -> Any:
    """The type one part further; raises `UnknownField`."""
    if is_struct(hint):
        return _field(hint, part, stored)
    where, origin = ".".join(stored), typing.get_origin(hint)
    if origin is list:
        if part != ITEM:
            raise UnknownField(
                f"{where} is a list and has no {part!r}", f"Write {where}[0].{part}, or {where}|map(attribute='{part}')."
            )
        return typing.get_args(hint)[0]
    if origin is dict:
        value = typing.get_args(hint)[1]
        return Any if value is canon.CustomValue else value
    if hint is Any or part == ITEM or (hint in (date, datetime) and part in ("year", "month", "day")):
        return hint
    raise UnknownField(f"{where} is a plain value and has no {part!r}", f"Write {where}.")


def is_struct(hint: Any) -> bool:
    """Whether a type is one of the generated models."""
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _field(struct: type[msgspec.Struct], part: str, stored: list[str]) -> Any:
    found = _hints(struct).get(part)
    if part in PERSONAL or (found is not None and _plain(found) in SEALED_TYPES):
        raise _sealed(".".join([*stored, part]))
    if found is None:
        where = ".".join(stored) or struct.__name__
        known = [*_hints(struct), *ALIASES.get(struct, {})]
        raise UnknownField(f"{where} has no field {part!r}", closest(part, [name for name in known if name not in PERSONAL]))
    return found


def _sealed(path: str) -> UnknownField:
    fix = "Use a field that is no personal data, such as customer.kind, customer.number or customer.country_code."
    return UnknownField(f"{path} is personal data, which is sealed where expressions run", fix)


def scalar_fields(entity: str) -> Iterator[tuple[str, bool]]:
    """Top-level fields that a table's key column can be, and whether each is a reference."""
    for name, hint in _hints(ENTITY_TYPES[entity]).items():
        plain_hint = _plain(hint)
        if name in PERSONAL or typing.get_origin(plain_hint) in (list, dict):
            continue
        if is_struct(plain_hint) and plain_hint is not canon.Ref:
            continue
        yield name, plain_hint is canon.Ref


def plain(value: Any) -> Any:
    """A canonical value as expressions see it: references keep their parts, custom values lose their wrapper."""
    if isinstance(value, canon.CustomValue):
        return next((item for item in (value.text, value.number, value.flag, value.day) if item is not None), None)
    return value


def text_of(value: Any) -> str | None:
    """A scalar as text for keys and resolved values; None stays None, UNKNOWN of an enum is no value."""
    if value is None:
        return None
    if isinstance(value, enum.Enum):
        return None if value.value == "UNKNOWN" else str(value.value)
    if isinstance(value, canon.Ref):
        return value.code or value.name or value.id
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def is_filled(path: tuple[str, ...], fields: tuple[str, ...], line_fields: tuple[str, ...]) -> bool:
    """Whether a manifest says that a source ever fills a path.

    A listed field covers all below it unless some of those are listed themselves; line fields are listed without `lines.`.
    """
    steps = tuple(part for part in path if part != ITEM)
    if not steps or steps[0] in _SOURCE_NAMES:
        return True
    if steps[0] == "lines" and len(steps) > 1 and line_fields:
        return is_filled(steps[1:], line_fields, ())
    dotted = ".".join(steps)
    if dotted in fields or any(item.startswith(f"{dotted}.") for item in fields):
        return True
    for length in range(len(steps) - 1, 0, -1):
        parent = ".".join(steps[:length])
        if any(item.startswith(f"{parent}.") for item in fields):
            return False
        if parent in fields:
            return True
    return False
