"""Which fact of a record answers a table's key column.

Per line, charge and allowance: the VAT (category, country, rate_pct, scheme, tax_code) and the line's own fields (sku, line_type,
charge_type, …). Per document: its plain fields and references (by code), `code` as the field the value is set for, and
a few facts of the parties. A column that nothing answers is refused by `bus validate`, unless the rule's `by` computes it.
"""

import functools
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from bus.core.configuration.fields import ITEM, UnknownField, resolve, scalar_fields, text_of
from bus.core.configuration.problems import closest
from bus.core.topics import DOCUMENTS
from schemas import canon

Level: TypeAlias = Literal["header", "line"]

TAX_COLUMNS: Mapping[str, str] = {
    "category": "category",
    "country": "country",
    "rate_pct": "rate_pct",
    "scheme": "scheme",
    "exemption_code": "exemption_code",
    "tax_code": "source_code",
}
LINE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "sku": ("sku",),
    "line_type": ("line_type",),
    "unit": ("unit",),
    "revenue_account": ("revenue_account",),
    "cost_centre": ("cost_centre",),
    "cost_unit": ("cost_unit",),
    "project": ("project",),
}
CHARGE_TYPE = "charge_type"
PARTY_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "customer_kind": ("customer", "kind"),
    "customer_country": ("customer", "country_code"),
    "customer_number": ("customer", "customer"),
    "ship_country": ("ship_to", "country_code"),
    "bill_country": ("bill_to", "country_code"),
}
Place: TypeAlias = canon.Line | canon.AllowanceCharge


@functools.cache
def header_path(entity: str, name: str, column: str) -> tuple[str, ...] | None:
    """Path below `source` that answers a column for a value `name`; None when there is none."""
    fields = dict(scalar_fields(entity))
    if column == "code":
        column = name
    if column in fields:
        return (column,)
    if column == "category" and entity == "product":
        return ("categories", ITEM)
    if column in PARTY_COLUMNS and entity in DOCUMENTS:
        return PARTY_COLUMNS[column]
    return None


def column_paths(entity: str, level: Level, name: str, column: str) -> list[tuple[str, ...]]:
    """Paths whose filling decides whether a column can ever be answered; raises `UnknownField`."""
    if level == "line":
        if column in TAX_COLUMNS:
            return [("lines", ITEM, "taxes", ITEM, TAX_COLUMNS[column])]
        if column == CHARGE_TYPE:
            return [("charges", ITEM, "type")]
        if column in LINE_COLUMNS:
            return [("lines", ITEM, *LINE_COLUMNS[column])]
    path = header_path(entity, name, column)
    if path is None:
        known = [*dict(scalar_fields(entity)), "code"]
        known += [*PARTY_COLUMNS] if entity in DOCUMENTS else []
        known += [*TAX_COLUMNS, *LINE_COLUMNS, CHARGE_TYPE] if level == "line" else []
        fix = f"{closest(column, known)} Or compute it: by: {{{column}: <expression>}}."
        raise UnknownField(f"nothing of a {entity} answers the key column {column!r}", fix)
    if path[-1] != ITEM:
        resolve(entity, path)
    return [path]


def header_value(entity: msgspec.Struct, kind: str, name: str, column: str) -> str | None:
    """What a document (or customer, product, …) answers to a column."""
    path = header_path(kind, name, column)
    value: object = entity
    for part in path or ():
        value = _first(value) if part == ITEM else getattr(value, part, None)
    return None if path is None else text_of(value)


def _first(items: object) -> object:
    return items[0] if isinstance(items, list) and items else None


def line_value(place: Place, tax: canon.TaxLine | None, column: str) -> str | None:
    """What a line, charge or allowance answers to a column; None when the column is none of theirs or empty."""
    if column in TAX_COLUMNS:
        return text_of(getattr(tax, TAX_COLUMNS[column], None))
    if column == CHARGE_TYPE:
        return text_of(place.type) if isinstance(place, canon.AllowanceCharge) else ""
    if column in LINE_COLUMNS and isinstance(place, canon.Line):
        return text_of(getattr(place, LINE_COLUMNS[column][0]))
    return None


def is_line_column(column: str) -> bool:
    """Whether a column is answered by a line rather than by its document."""
    return column in TAX_COLUMNS or column in LINE_COLUMNS or column == CHARGE_TYPE
