"""What writing bodies need of a write: the kit's `Write` has this shape. Pure mappings import nothing of the kit."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import Entity
from schemas import canon
from schemas.system import ObjectRef


class Asked(Protocol):
    """A write, as far as a body depends on it."""

    @property
    def document(self) -> Entity:
        """As the kit says."""
        ...

    @property
    def source(self) -> ObjectRef:
        """As the kit says."""
        ...

    @property
    def fields(self) -> frozenset[str] | None:
        """As the kit says."""
        ...

    @property
    def document_type(self) -> str | None:
        """As the kit says."""
        ...

    @property
    def ids(self) -> Mapping[str, str]:
        """As the kit says."""
        ...

    @property
    def facet(self) -> str | None:
        """As the kit says."""
        ...

    @property
    def key(self) -> str:
        """As the kit says."""
        ...

    @property
    def generation(self) -> int:
        """As the kit says."""
        ...

    @property
    def reference(self) -> str | None:
        """As the kit says."""
        ...

    @property
    def reference_field(self) -> str | None:
        """As the kit says."""
        ...

    def value(self, name: str, line_id: str | None = None) -> str | None:
        """A value the flow resolved."""
        ...


class Names(Protocol):
    """Turns a name of a reference list into a reference."""

    def ref(self, entity: str, name: str, *, path: str, must: bool) -> dict[str, str] | None:
        """`{"value": id}`; None when an optional one does not exist. Raises MappingError for a mandatory one."""
        ...


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """What bodies depend on of a company; None while it is not asked (a plan makes no call)."""

    home_currency: str | None = None
    multi_currency: bool | None = None
    custom_numbers: bool | None = None


def named(asked: Asked, names: Names, name: str, entity: str, ref: canon.Ref | None = None) -> dict[str, str] | None:
    """A value of a reference list: mandatory when the flow gave it, else only if the source's own word happens to exist there."""
    if (given := asked.value(name)) is not None:
        return names.ref(entity, given, path=name, must=True)
    if ref is None or not ref.code:
        return None
    return names.ref(entity, ref.code, path=name, must=False)


def cut(text: str | None, length: int) -> str | None:
    """A text no longer than its place; None when there is nothing."""
    return (text or "")[:length].rstrip() or None


def fits(text: str | None, length: int, path: str) -> str | None:
    """A text that may not be cut, because it is compared. Raises MappingError."""
    if text and len(text) > length:
        raise MappingError(
            f"{path} has {len(text)} characters, and QuickBooks holds {length}", hint=f"shorten {path} at the source"
        )
    return text or None


def plain(value: Decimal) -> Decimal:
    """A number without needless zeros, as QuickBooks itself writes it."""
    normal = value.normalize()
    return normal.quantize(Decimal(1)) if normal == normal.to_integral_value() else normal
