"""Paths into canonical entities, as configuration writes them, checked against the generated models.

`source.customer.kind`, `lines.[].sku`, `custom.IsWebshopItem`. Personal data has no path: it is sealed where expressions run.
"""

import enum
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

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
def _types(struct: type[msgspec.Struct]) -> dict[str, inspect.Type]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)  # noqa: S101  (msgspec's own promise)
    return {field.name: field.type for field in info.fields}


def _plain(kind: inspect.Type) -> inspect.Type:
    """A type without its null."""
    if isinstance(kind, inspect.UnionType):
        rest = [item for item in kind.types if not isinstance(item, inspect.NoneType)]
        return next((item for item in rest if isinstance(item, inspect.StructType)), rest[0])
    return kind


def resolve(entity: str, parts: tuple[str, ...]) -> Leaf:
    """Checks a path below `source`; raises `UnknownField`. Parts `[]` step into lists."""
    if parts and parts[0] in _SOURCE_NAMES and parts[0] not in _types(ENTITY_TYPES[entity]):
        return Leaf(path=parts, is_text=True)
    kind: inspect.Type = inspect.type_info(ENTITY_TYPES[entity])
    stored: list[str] = []
    waiting = list(parts)
    while waiting:
        part = waiting.pop(0)
        kind = _plain(kind)
        match kind:
            case inspect.StructType():
                alias = ALIASES.get(kind.cls, {}).get(part)
                if alias is not None:
                    waiting = [*alias, *waiting]
                    continue
                kind = _field(kind.cls, part, stored)
            case inspect.ListType():
                if part != ITEM:
                    fix = f"Write {'.'.join(stored)}[0].{part}, or {'.'.join(stored)}|map(attribute='{part}')."
                    raise UnknownField(f"{'.'.join(stored)} is a list and has no {part!r}", fix)
                kind = kind.item_type
            case inspect.DictType():
                kind = kind.value_type if kind.value_type != inspect.type_info(canon.CustomValue) else inspect.AnyType()
            case _:
                if part == ITEM or isinstance(kind, inspect.AnyType):
                    continue
                if isinstance(kind, inspect.DateType | inspect.DateTimeType) and part in ("year", "month", "day"):
                    continue
                raise UnknownField(f"{'.'.join(stored)} is a plain value and has no {part!r}", f"Write {'.'.join(stored)}.")
        stored.append(part)
    kind = _plain(kind)
    if isinstance(kind, inspect.StructType) and kind.cls in SEALED_TYPES:
        raise _sealed(".".join(parts))
    members = tuple(str(item) for item in kind.cls) if isinstance(kind, inspect.EnumType) else ()
    return Leaf(path=tuple(stored), members=members, is_text=isinstance(kind, inspect.StrType))


def _field(struct: type[msgspec.Struct], part: str, stored: list[str]) -> inspect.Type:
    here = _types(struct)
    found = here.get(part)
    if part in PERSONAL or (found is not None and _is_sealed(found)):
        raise _sealed(".".join([*stored, part]))
    if found is None:
        where = ".".join(stored) or struct.__name__
        known = [*here, *ALIASES.get(struct, {})]
        raise UnknownField(f"{where} has no field {part!r}", closest(part, [name for name in known if name not in PERSONAL]))
    return found


def _is_sealed(kind: inspect.Type) -> bool:
    plain = _plain(kind)
    return isinstance(plain, inspect.StructType) and plain.cls in SEALED_TYPES


def _sealed(path: str) -> UnknownField:
    fix = "Use a field that is no personal data, such as customer.kind, customer.number or customer.country_code."
    return UnknownField(f"{path} is personal data, which is sealed where expressions run", fix)


def scalar_fields(entity: str) -> Iterator[tuple[str, bool]]:
    """Top-level fields that a table's key column can be, and whether each is a reference."""
    for name, kind in _types(ENTITY_TYPES[entity]).items():
        plain = _plain(kind)
        if name in PERSONAL or isinstance(plain, inspect.ListType | inspect.DictType):
            continue
        if isinstance(plain, inspect.StructType):
            if plain.cls is canon.Ref:
                yield name, True
            continue
        yield name, False


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
