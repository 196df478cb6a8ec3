"""Changes as a person makes them in the product's own screens: the same rules, and what the API does not let write."""

from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation import writing
from connectors.quickbooks.simulation.company import Company
from connectors.quickbooks.simulation.entities import ENTITIES, Kind
from connectors.quickbooks.simulation.refusals import Refused

CANONICAL = {
    "customer": ("Customer",),
    "product": ("Item",),
    "product_category": ("Item",),
    "sales_invoice": ("Invoice", "SalesReceipt", "CreditMemo", "RefundReceipt"),
    "estimate": ("Estimate",),
    "payment": ("Payment",),
}
NEW = "new"


def edit(company: Company, entity: str, object_id: str, fields: dict[str, Any]) -> str:
    """Creates (id `new`) or changes a row of a canonical entity or of one of the vendor's; its id is answered.

    `fields` are the vendor's members; `{"deleted": true}` (or `_delete`) deletes a transaction or makes a name inactive,
    `{"void": true}` voids.
    Entity `preferences` sets `BookCloseDate` and `CustomTxnNumbers`. Raises ValueError with the vendor's words.
    """
    values = {name: _exact(value) for name, value in fields.items()}
    if entity.lower() == "preferences":
        return _set_preferences(company, values)
    try:
        name = _entity(company, entity, object_id)
        if object_id == NEW:
            return str(writing.create(company, name, values, is_screen=True)["Id"])
        row = company.row(name, object_id.rpartition(":")[2])
        version = {"Id": row["Id"], "SyncToken": row["SyncToken"]}
        is_deleted = values.pop("deleted", False) or values.pop("_delete", False)
        if values.pop("void", False):
            writing.void(company, name, version)
        elif not is_deleted:
            writing.update(company, name, {**values, **version, "sparse": True}, is_screen=True)
        elif ENTITIES[name].kind is Kind.LIST:
            writing.update(company, name, {**version, "sparse": True, "Active": False}, is_screen=True)
        else:
            writing.delete(company, name, version)
    except Refused as refused:
        raise ValueError(str(refused)) from refused
    return str(row["Id"])


def _entity(company: Company, entity: str, object_id: str) -> str:
    """The vendor's entity: stated in the id, or the first that has the id."""
    candidates = CANONICAL.get(entity) or tuple(name for name in ENTITIES if name.lower() == entity.lower())
    stated = object_id.rpartition(":")[0]
    if stated:
        candidates = tuple(name for name in candidates if name == stated)
    if not candidates:
        raise ValueError(f"unknown entity {entity!r}: one of {', '.join([*CANONICAL, *ENTITIES])}")
    return next((name for name in candidates if company.find(name, object_id.rpartition(":")[2])), candidates[0])


def _set_preferences(company: Company, values: dict[str, Any]) -> str:
    unknown = values.keys() - {"BookCloseDate", "CustomTxnNumbers"}
    if unknown:
        raise ValueError(f"preferences have no {', '.join(sorted(unknown))}")
    company.close_date = values.get("BookCloseDate", company.close_date)
    company.custom_txn_numbers = values.get("CustomTxnNumbers", company.custom_txn_numbers)
    return "1"


def _exact(value: Any) -> Any:
    """The control API reads JSON with floats; their shortest text is what was meant."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    return value
