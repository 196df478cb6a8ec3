"""Changes as a person makes them in the vendor's screens: the same rules, and what the API does not let write."""

from decimal import Decimal
from typing import Any

from connectors.exact_online.simulation import orders, writing
from connectors.exact_online.simulation.fields import from_payload
from connectors.exact_online.simulation.refusals import Refused
from connectors.exact_online.simulation.sets import ACCOUNTS, ITEMS, ORDER_LINES, ORDERS, SETS, EntitySet
from connectors.exact_online.simulation.state import API_USER, SCREEN_USER, Division, Row

ENTITIES = {"customer": ACCOUNTS, "product": ITEMS, "sales_order": ORDERS}
NATURAL_KEYS = {ACCOUNTS: "Code", ITEMS: "Code", ORDERS: "OrderNumber"}
NEW = "new"
DELETE = "_delete"
EXTRA = "_extra"
"""Item extra fields: [[number, description, value], …]."""


def edit(division: Division, entity: str, object_id: str, fields: dict[str, Any]) -> None:
    """Creates (id `new`), changes or deletes (`{"_delete": true}`) a row of a set or of customer, product, sales_order.

    The id is the key, or the debtor code, item code or order number. Orders take DeliveryStatus 20 or 21, InvoiceStatus 21 and
    Status 45, which deliver, invoice and cancel. Raises ValueError with the vendor's words.
    """
    path = ENTITIES.get(entity) or next((known for known in SETS if known.lower() == entity.lower()), None)
    if path is None:
        raise ValueError(f"unknown entity {entity!r}: one of {', '.join([*ENTITIES, *SETS])}")
    division.user = SCREEN_USER
    try:
        _edit(division, SETS[path], object_id, {name: _exact(value) for name, value in fields.items()})
    except Refused as refused:
        raise ValueError(str(refused)) from refused
    finally:
        division.user = API_USER


def _edit(division: Division, entity_set: EntitySet, object_id: str, fields: dict[str, Any]) -> None:
    if object_id == NEW:
        writing.create(division, entity_set, fields)
        return
    row = _find(division, entity_set, object_id)
    if fields.pop(DELETE, False):
        writing.delete(division, entity_set, row)
        return
    if EXTRA in fields:
        division.change(entity_set.path, row, {EXTRA: [tuple(item) for item in fields.pop(EXTRA)]})
    if entity_set.path == ORDERS:
        _move(division, row, fields)
    if fields and "PUT" in entity_set.verbs:
        writing.update(division, entity_set, row, fields)
    elif fields:
        unknown = fields.keys() - entity_set.fields.keys()
        if unknown:
            raise ValueError(f"{entity_set.path} has no {', '.join(sorted(unknown))}")
        values = {name: from_payload(entity_set.fields[name], value) for name, value in fields.items()}
        division.change(entity_set.path, row, values)


def _find(division: Division, entity_set: EntitySet, object_id: str) -> Row:
    row = division.get(entity_set.path, object_id.lower())
    natural = NATURAL_KEYS.get(entity_set.path)
    if row is None and natural:
        value = int(object_id) if natural == "OrderNumber" and object_id.isdigit() else object_id
        row = division.first(entity_set.path, natural, value)
    if row is None:
        raise ValueError(f"{entity_set.path} has no {object_id}")
    return row


def _move(division: Division, order: Row, fields: dict[str, Any]) -> None:
    """Statuses a person reaches by delivering, invoicing or cancelling."""
    delivery, invoicing, status = (fields.pop(name, None) for name in ("DeliveryStatus", "InvoiceStatus", "Status"))
    if delivery == orders.COMPLETE:
        orders.deliver(division, order)
    elif delivery == orders.PARTIAL:
        line = min(division.table(ORDER_LINES).by("OrderID", order.id), key=lambda row: row.values["LineNumber"])
        orders.count(division, line, "Delivered", line.values["Quantity"] / 2)
        orders.refresh_status(division, order)
    elif delivery is not None:
        raise ValueError("DeliveryStatus moves to 20 or 21 only")
    if invoicing == orders.COMPLETE:
        orders.invoice(division, order)
    elif invoicing is not None:
        raise ValueError("InvoiceStatus moves to 21 only")
    if status == orders.CANCELLED:
        states = dict.fromkeys(("DeliveryStatus", "InvoiceStatus"), orders.CANCELLED)
        for line in division.table(ORDER_LINES).by("OrderID", order.id):
            division.change(ORDER_LINES, line, states)
        division.change(ORDERS, order, {**states, "Status": orders.CANCELLED})
    elif status is not None:
        raise ValueError("Status moves to 45 only; the others follow from deliveries and invoices")


def _exact(value: Any) -> Any:
    """The control API reads JSON with floats; their shortest text is what was meant."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    return value
