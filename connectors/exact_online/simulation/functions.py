"""The calls that are no entity sets: functions with parameters, and actions on orders."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from connectors.exact_online.simulation import orders
from connectors.exact_online.simulation.fields import parse_fields, to_wire
from connectors.exact_online.simulation.odata import holds, literal, parse_filter
from connectors.exact_online.simulation.payloads import read_payload
from connectors.exact_online.simulation.queries import SYNTAX
from connectors.exact_online.simulation.refusals import bad_request, mandatory
from connectors.exact_online.simulation.sets import ITEMS, ORDERS, EntitySet
from connectors.exact_online.simulation.state import Division

EXTRA = parse_fields("ItemID guid R\nNumber int R\nDescription text R\nValue text R\nModified date R")
STAMPED = {
    "SalesOrderHeaders": ORDERS,
    "SalesOrderLines": "salesorder/SalesOrderLines",
    "GoodsDeliveries": "salesorder/GoodsDeliveries",
    "GoodsDeliveryLines": "salesorder/GoodsDeliveryLines",
}
COMPLETE = EntitySet(
    "salesorder/CompleteSalesOrder",
    "SalesOrder.CompleteSalesOrder",
    parse_fields("OrderID guid C! to=salesorder/SalesOrders\nCompleteDelivery flag C\nCompleteInvoice flag C"),
)
INVOICE = EntitySet(
    "salesinvoice/InvoiceSalesOrders",
    "SalesInvoice.InvoiceSalesOrder",
    parse_fields(
        "CreateMode int C\nInvoiceMode int C\nJournalCode text C!\nStartDate date C\nEndDate date C\nSalesOrderIDs children C!"
    ),
)
ORDER_ID = EntitySet(
    "salesinvoice/SalesOrderID", "SalesInvoice.SalesOrderID", parse_fields("ID guid C! to=salesorder/SalesOrders")
)


def _parameters(query: str, *allowed: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if found.keys() - set(allowed):
        raise bad_request(SYNTAX)
    return found


def sync_timestamp(division: Division, query: str) -> dict[str, Any]:
    """The Timestamp a feed is read from to see changes since a moment. Raises Refused (400)."""
    found = _parameters(query, "modified", "endPoint", "$select")
    if not {"modified", "endPoint"} <= found.keys():
        raise bad_request(SYNTAX)
    since, name = literal(found["modified"]), literal(found["endPoint"]).value
    if since.kind != "date" or name not in STAMPED:
        raise bad_request(SYNTAX)
    rows = division.table(STAMPED[name]).after(0)
    stamp = next((row.timestamp - 1 for row in rows if row.values["Modified"] >= since.value), None)
    shown = {"API": name, "Modified": to_wire(EXTRA["Modified"], since.value), "TimeStampAsBigInt": str(stamp or 0)}
    return {"d": {"results": [shown]}}


def item_extra_fields(division: Division, query: str) -> dict[str, Any]:
    """Extra fields of one item, or of those changed since a moment. Raises Refused (400)."""
    found = _parameters(query, "itemId", "$filter", "$select")
    if "itemId" not in found and "$filter" not in found:
        raise bad_request(SYNTAX)
    names = [name.strip() for name in found.get("$select", ",".join(EXTRA)).split(",")]
    if set(names) - EXTRA.keys():
        raise bad_request(SYNTAX)
    wanted = literal(found["itemId"]) if "itemId" in found else None
    condition = parse_filter(found["$filter"], EXTRA, "ItemExtraField") if "$filter" in found else None
    shown = []
    for item in division.table(ITEMS).rows.values():
        if wanted is not None and item.id != wanted.value:
            continue
        for number, text, value in item.values.get("_extra", ()):
            changed = item.values["Modified"]
            extra = {"ItemID": item.id, "Number": number, "Description": text, "Value": value, "Modified": changed}
            if condition is None or holds(condition, extra.__getitem__):
                shown.append({name: to_wire(EXTRA[name], extra[name]) for name in EXTRA if name in names})
    return {"d": {"results": shown}}


def complete_order(division: Division, body: Any) -> dict[str, Any]:
    """Closes the rest of an order. Raises Refused."""
    values = read_payload(division, COMPLETE, body, creating=True).values
    order = division.tables[ORDERS].rows[values["OrderID"]]
    delivery, invoicing = bool(values.get("CompleteDelivery")), bool(values.get("CompleteInvoice"))
    orders.complete(division, order, delivery=delivery, invoicing=invoicing)
    return {"d": {"OrderID": order.id, "CompleteDelivery": delivery, "CompleteInvoice": invoicing, "ErrorMessage": None}}


def invoice_orders(division: Division, body: Any) -> dict[str, Any]:
    """Invoices orders (InvoiceMode 0 what is delivered, 1 what is ordered). Raises Refused."""
    payload = read_payload(division, INVOICE, body, creating=True)
    if not payload.children.get("SalesOrderIDs"):
        raise mandatory("SalesOrderIDs")
    made = failed = 0
    for entry in payload.children["SalesOrderIDs"]:
        key = read_payload(division, ORDER_ID, entry, creating=True).values["ID"]
        order = division.tables[ORDERS].rows[key]
        if orders.invoice(division, order, delivered_only=payload.values.get("InvoiceMode", 0) == 0):
            made += 1
        else:
            failed += 1
    return {"d": {"NumberOfCreatedInvoices": made, "NumberOfFailedInvoices": failed, "Errors": None}}


QUERIES: dict[str, Callable[[Division, str], dict[str, Any]]] = {
    "read/sync/sync/synctimestamp": sync_timestamp,
    "read/logistics/itemextrafield": item_extra_fields,
}
ACTIONS: dict[str, tuple[str, Callable[[Division, Any], dict[str, Any]]]] = {
    "salesorder/completesalesorder": ("salesorder/CompleteSalesOrder", complete_order),
    "salesinvoice/invoicesalesorders": ("salesinvoice/InvoiceSalesOrders", invoice_orders),
}
