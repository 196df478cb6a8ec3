"""Fields for people: their paths, what each side holds, and what of it may be shown (law 20)."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.identity import Entity, field_values
from schemas import canon

SHOWN_MAX = 120
"""Characters of a value that are shown."""
PERSONAL = frozenset({"note", "contacts", "customer", "bill_to", "ship_to"})
"""Fields that hold sealed parts, or parties that do."""
_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="string")


class FieldDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a pair. Personal values are never shown: only that they differ."""

    path: str
    source: str | None = None
    target: str | None = None
    personal: bool = False

    def __str__(self) -> str:
        if self.personal:
            return f"{self.path}: differs (personal)"
        return f"{self.path}: {_or_nothing(self.source)} → {_or_nothing(self.target)}"


def _or_nothing(text: str | None) -> str:
    return "nothing" if text is None else text


def is_personal(path: str, entity: Entity) -> bool:
    """Whether a path leads to personal data: what the schema seals has paths that are no fields of the entity."""
    head = path.split(".", 1)[0]
    return head in PERSONAL or head not in entity.__struct_fields__


def differences(paths: Iterable[str], source: Entity, target: Entity | None) -> list[FieldDifference]:
    """The values of both sides at some paths, in order."""
    ours = dict(field_values(source))
    theirs = dict(field_values(target)) if target is not None else {}
    found = []
    for path in sorted(paths):
        if is_personal(path, source):
            found.append(FieldDifference(path=path, personal=True))
        else:
            found.append(FieldDifference(path=path, source=shown(ours.get(path)), target=shown(theirs.get(path))))
    return found


def shown(value: Any) -> str | None:
    """A value as a person reads it, cut where it is long; None for nothing."""
    if value is None or value in ([], {}):
        return None
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, Decimal):
        text = _plain(value)
    elif isinstance(value, str | int | date):
        text = str(value)
    elif isinstance(value, canon.Ref):
        text = value.code or value.name or value.id or "?"
    else:
        text = _ENCODER.encode(_plain(msgspec.to_builtins(value, builtin_types=(Decimal,)))).decode()
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"


def _plain(value: Any) -> Any:
    """Decimals without digits that say nothing: 79.95000000 is 79.95."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
