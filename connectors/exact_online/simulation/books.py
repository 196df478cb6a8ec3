"""The state in neutral form, and how many versions of what were served: what the verdict of a demo is taken from."""

from decimal import Decimal
from typing import Any

from bus.simulation.calls import CallLog
from connectors.exact_online.simulation.computed import standard_price
from connectors.exact_online.simulation.sets import (
    ACCOUNTS,
    ADDRESSES,
    CHARGE_LINES,
    CONTACTS,
    ITEMS,
    ORDER_LINES,
    ORDERS,
    PRICES,
    View,
)
from connectors.exact_online.simulation.state import Division, Row
from connectors.exact_online.simulation.totals import totals

STATUSES = {12: "OPEN", 20: "PARTIAL", 21: "COMPLETE", 45: "CANCELLED"}
OBJECTS = {
    "customer": (ACCOUNTS, ((CONTACTS, "Account"), (ADDRESSES, "Account"))),
    "product": (ITEMS, ((PRICES, "Item"),)),
    "sales_order": (ORDERS, ((ORDER_LINES, "OrderID"), (CHARGE_LINES, "OrderID"))),
}
"""What a reader joins: the root set, and the sets whose rows belong to it."""
PARTS = {path: (entity, reference) for entity, (root, parts) in OBJECTS.items() for path, reference in ((root, None), *parts)}


class Served:
    """Counts each version once, however often it is read: rows per feed, whole objects by canonical entity.

    A whole object (`customer`, `product`, `sales_order`) has as version the highest Timestamp among its visible rows at the
    moment a feed serves one of them.
    """

    def __init__(self, division: Division, calls: CallLog) -> None:
        self._division = division
        self._calls = calls
        self._seen: set[tuple[str, str, int]] = set()

    def __call__(self, view: View, row: Row) -> None:
        """A row was shown."""
        if view.family != "sync":
            return
        self._note(view.path, row.id, row.timestamp)
        if view.base.path in PARTS:
            entity, reference = PARTS[view.base.path]
            key = row.id if reference is None else row.values.get(reference)
            root = self._division.get(OBJECTS[entity][0], key)
            if root is not None:
                self._note(entity, root.id, self._version(entity, root))

    def _version(self, entity: str, root: Row) -> int:
        rows = [root]
        for path, reference in OBJECTS[entity][1]:
            rows += self._division.table(path).by(reference, root.id)
        return max(row.timestamp for row in rows if self._division.is_visible(row, in_list=False))

    def _note(self, entity: str, key: str, version: int) -> None:
        if (entity, key, version) not in self._seen:
            self._seen.add((entity, key, version))
            self._calls.serve(entity)


def books(division: Division) -> dict[str, Any]:
    """Documents, customers and products; amounts as strings."""
    return {
        "documents": [_document(division, row) for row in division.table(ORDERS).rows.values()],
        "customers": [_customer(division, row) for row in division.table(ACCOUNTS).rows.values()],
        "products": [_product(division, row) for row in division.table(ITEMS).rows.values()],
    }


def _document(division: Division, order: Row) -> dict[str, Any]:
    values, sums = order.values, totals(division, order)
    account = division.get(ACCOUNTS, values["OrderedBy"])
    items = division.table(ITEMS).rows
    return {
        "id": order.id,
        "kind": "ORDER",
        "number": str(values["OrderNumber"]),
        "reference": values.get("YourRef"),
        "currency": values["Currency"],
        "date": values["OrderDate"].date().isoformat(),
        "total_excl": text(sums.excl),
        "total_incl": text(sums.incl),
        "vat_by_rate": {text(rate * 100): text(vat) for rate, vat in sorted(sums.vat_by_rate.items())},
        "status": STATUSES[values["Status"]],
        "delivery": STATUSES[values["DeliveryStatus"]],
        "invoicing": STATUSES[values["InvoiceStatus"]],
        "customer_id": values["OrderedBy"],
        "customer": account.values["Name"] if account else None,
        "lines": [
            {
                "sku": items[line.values["Item"]].values["Code"],
                "quantity": plain(line.values["Quantity"]),
                "net": text(line.values["AmountFC"]),
                "vat_code": line.values["VATCode"],
            }
            for line in division.table(ORDER_LINES).by("OrderID", order.id)
        ],
        "charges": [
            {"net": text(charge.values["AmountFCExclVAT"]), "vat_code": charge.values["VATCode"]}
            for charge in division.table(CHARGE_LINES).by("OrderID", order.id)
        ],
    }


def _customer(division: Division, account: Row) -> dict[str, Any]:
    values = account.values
    kind = division.get("crm/AccountClassifications", values.get("Classification1"))
    ended = values.get("EndDate") is not None and values["EndDate"] < division.today()
    return {
        "id": account.id,
        "number": values["Code"],
        "name": values["Name"],
        "email": values.get("Email"),
        "vat_number": values.get("VATNumber"),
        "kind": kind.values["Code"] if kind else None,
        "is_customer": values["Status"] == "C",
        "active": not ended and not values.get("Blocked"),
        "contacts": len(division.table(CONTACTS).by("Account", account.id)),
        "addresses": len(division.table(ADDRESSES).by("Account", account.id)),
    }


def _product(division: Division, item: Row) -> dict[str, Any]:
    values = item.values
    ended = values.get("EndDate") is not None and values["EndDate"] < division.today()
    return {
        "id": item.id,
        "sku": values["Code"],
        "name": values["Description"],
        "active": not ended,
        "price": text(standard_price(division, item)),
        "prices": len(division.table(PRICES).by("Item", item.id)),
        "has_picture": bool(item.picture),
    }


def text(amount: Decimal) -> str:
    """Two decimals."""
    return f"{amount:.2f}"


def plain(number: Decimal | int) -> str:
    """A quantity without trailing zeros."""
    shown = f"{Decimal(number):f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
