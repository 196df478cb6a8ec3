"""What holds for the members of every entity: types, lengths, enumerations, required members, references."""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, NESTED_LENGTHS, READ_ONLY, Entity
from connectors.quickbooks.simulation.refusals import bad_enumeration, bad_format, missing, too_long

NUMBERS = frozenset(
    (
        "Amount",
        "Qty",
        "Quantity",
        "UnitPrice",
        "PurchaseCost",
        "TaxInclusiveAmt",
        "DiscountPercent",
        "DiscountRate",
        "DiscountAmt",
        "TotalAmt",
        "Deposit",
        "ExchangeRate",
        "QtyOnHand",
        "ReorderPoint",
        "DueDays",
        "DiscountDays",
        "TaxPercent",
        "NetAmountTaxable",
        "OverrideDeltaAmount",
        "RateValue",
        "TotalTax",
    )
)
FLAGS = frozenset(
    (
        "Active",
        "SubItem",
        "Job",
        "BillWithParent",
        "IsProject",
        "Taxable",
        "SalesTaxIncluded",
        "PurchaseTaxIncluded",
        "TrackQtyOnHand",
        "PercentBased",
        "ApplyTaxAfterDiscount",
        "AutoDocNumber",
        "IncludeOnSend",
        "SubClass",
        "SubDepartment",
        "SubAccount",
    )
)
DATES = frozenset(("TxnDate", "DueDate", "ShipDate", "InvStartDate", "ExpirationDate", "AcceptedDate", "ServiceDate"))
TEXTS = frozenset(
    (
        "DisplayName",
        "Name",
        "Sku",
        "DocNumber",
        "PrivateNote",
        "Description",
        "CompanyName",
        "GivenName",
        "FamilyName",
        "PaymentRefNum",
        "PrimaryTaxIdentifier",
        "DetailType",
        "FileName",
    )
)


def typed(body: Mapping[str, Any]) -> Row:
    """A body with exact numbers, without members that are null or empty. Raises Refused 2080."""
    return {name: _typed(name, value) for name, value in body.items() if value is not None and value != ""}


def _typed(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return typed(value)
    if isinstance(value, list):
        return [_typed(name, item) for item in value]
    if name in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise bad_format(name, value)
        return Decimal(value)
    if name in FLAGS and not isinstance(value, bool):
        raise bad_format(name, value)
    if name in TEXTS and not isinstance(value, str):
        raise bad_format(name, value)
    if name in DATES:
        _check_date(name, value)
    return value


def _check_date(name: str, value: Any) -> None:
    try:
        is_date = re.fullmatch(r"\d{4}-\d\d-\d\d", value) and date.fromisoformat(value)
    except (TypeError, ValueError):
        is_date = None
    if not is_date:
        raise bad_format(name, value)


def writable(entity: Entity, body: Mapping[str, Any]) -> Row:
    """The members a body may set, and those it sets to null; what the server writes is left out silently."""
    ignored = READ_ONLY - {"TotalAmt"} if entity.name == "Payment" else READ_ONLY
    return {name: value for name, value in body.items() if name not in ignored and not name.startswith("_")}


def check(company: Company, entity: Entity, row: Row, old: Row | None) -> None:
    """Raises Refused 2020, 2050, 2170, 2500 or 610. A reference the row had before may be inactive by now."""
    for name in entity.required:
        if row.get(name) is None or row[name] == []:
            raise missing(name)
    for name, length_max in entity.lengths.items():
        _check_length(name, row.get(name), length_max)
    for name, lengths in NESTED_LENGTHS.items():
        for member, length_max in lengths.items():
            _check_length(f"{name}.{member}", _nested(row, name).get(member), length_max)
    for name, values in entity.enumerations.items():
        if name in row and row[name] not in values:
            raise bad_enumeration(name, row[name])
    for name, target in entity.references.items():
        if name in row and _nested(row, name).get("value") != _nested(old or {}, name).get("value"):
            company.referred(target, row[name], name)


def _nested(row: Row, name: str) -> Row:
    value = row.get(name)
    if value is not None and not isinstance(value, dict):
        raise bad_format(name, value)
    return value or {}


def _check_length(name: str, value: Any, length_max: int) -> None:
    if isinstance(value, str) and len(value) > length_max:
        raise too_long(name, length_max, len(value))


def check_targets(company: Company, row: Row) -> None:
    """What an attachment hangs on must be there. Raises Refused."""
    for reference in row.get("AttachableRef") or []:
        target = reference.get("EntityRef") or {}
        name = next((known for known in ENTITIES if known.lower() == str(target.get("type", "")).lower()), None)
        if name is None:
            raise bad_format("EntityRef.type", target.get("type"))
        company.referred(name, target, "EntityRef")
