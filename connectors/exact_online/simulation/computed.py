"""Properties that follow from other rows at the moment of reading."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from connectors.exact_online.simulation.sets import (
    ACCOUNTS,
    ADDRESSES,
    CHARGE_LINES,
    CONTACTS,
    DELIVERIES,
    DELIVERY_LINES,
    ITEMS,
    ORDER_LINES,
    ORDERS,
    PRICES,
    EntitySet,
)
from connectors.exact_online.simulation.state import Division, Row
from connectors.exact_online.simulation.totals import totals

COUNTRIES = {
    "NL": "Nederland",
    "BE": "België",
    "DE": "Duitsland",
    "FR": "Frankrijk",
    "SE": "Zweden",
    "US": "Verenigde Staten",
    "GB": "Verenigd Koninkrijk",
}
STATUSES = {12: "Open", 20: "Gedeeltelijk", 21: "Volledig", 45: "Geannuleerd"}
APPROVALS = {0: "Wacht op goedkeuring", 1: "Automatisch", 2: "Goedgekeurd"}
Compute = Callable[[Division, Row], Any]


def standard_price(division: Division, item: Row) -> Decimal:
    """The base price in force today: no customer, division currency, from the first piece, latest start."""
    today = division.today()
    best: tuple[Any, Decimal] | None = None
    for price in division.table(PRICES).by("Item", item.id):
        values = price.values
        if values.get("Account") or values["Currency"] != "EUR" or values["Quantity"] > 1:
            continue
        if values["StartDate"] > today or (values.get("EndDate") and values["EndDate"] < today):
            continue
        if best is None or values["StartDate"] >= best[0]:
            best = (values["StartDate"], values["Price"])
    return best[1] if best else Decimal(0)


def _of(path: str, reference: str, name: str) -> Compute:
    """A property of the row a reference points to."""

    def compute(division: Division, row: Row) -> Any:
        found = division.get(path, row.values.get(reference))
        return found.values.get(name) if found else None

    return compute


def _described(name: str, texts: dict[Any, str]) -> Compute:
    return lambda _division, row: texts.get(row.values.get(name))


def _unit(name: str) -> Compute:
    def compute(division: Division, row: Row) -> Any:
        found = division.first("logistics/Units", "Code", row.values.get("Unit"))
        return found.values[name] if found else None

    return compute


def _total(pick: Callable[[Any], Any]) -> Compute:
    return lambda division, row: pick(totals(division, row))


def _is_main_contact(division: Division, row: Row) -> bool:
    account = division.get(ACCOUNTS, row.values.get("Account"))
    return account is not None and account.values.get("MainContact") == row.id


def _is_customer(division: Division, row: Row) -> bool:
    account = division.get(ACCOUNTS, row.values.get("Account"))
    return account is not None and account.values.get("Status") == "C"


def _full_name(_division: Division, row: Row) -> str:
    return " ".join(row.values[part] for part in ("FirstName", "MiddleName", "LastName") if row.values.get(part))


COMPUTED: dict[tuple[str, str], Compute] = {
    (ACCOUNTS, "CountryName"): _described("Country", COUNTRIES),
    (ACCOUNTS, "IsSales"): lambda _division, row: row.values.get("Status") == "C",
    (CONTACTS, "FullName"): _full_name,
    (CONTACTS, "IsMainContact"): _is_main_contact,
    (CONTACTS, "AccountIsCustomer"): _is_customer,
    (CONTACTS, "AccountName"): _of(ACCOUNTS, "Account", "Name"),
    (ADDRESSES, "AccountName"): _of(ACCOUNTS, "Account", "Name"),
    (ADDRESSES, "CountryName"): _described("Country", COUNTRIES),
    (ITEMS, "StandardSalesPrice"): standard_price,
    (ITEMS, "ItemGroupCode"): _of("logistics/ItemGroups", "ItemGroup", "Code"),
    (ITEMS, "ItemGroupDescription"): _of("logistics/ItemGroups", "ItemGroup", "Description"),
    (ITEMS, "UnitDescription"): _unit("Description"),
    (ITEMS, "UnitType"): _unit("Type"),
    (PRICES, "ItemCode"): _of(ITEMS, "Item", "Code"),
    (PRICES, "ItemDescription"): _of(ITEMS, "Item", "Description"),
    (ORDERS, "OrderedByName"): _of(ACCOUNTS, "OrderedBy", "Name"),
    (ORDERS, "DeliverToName"): _of(ACCOUNTS, "DeliverTo", "Name"),
    (ORDERS, "InvoiceToName"): _of(ACCOUNTS, "InvoiceTo", "Name"),
    (ORDERS, "WarehouseCode"): _of("inventory/Warehouses", "WarehouseID", "Code"),
    (ORDERS, "StatusDescription"): _described("Status", STATUSES),
    (ORDERS, "DeliveryStatusDescription"): _described("DeliveryStatus", STATUSES),
    (ORDERS, "InvoiceStatusDescription"): _described("InvoiceStatus", STATUSES),
    (ORDERS, "ApprovalStatusDescription"): _described("ApprovalStatus", APPROVALS),
    (ORDERS, "AmountFC"): _total(lambda sums: sums.incl),
    (ORDERS, "AmountDC"): _total(lambda sums: sums.in_division_currency(sums.incl)),
    (ORDERS, "AmountFCExclVat"): _total(lambda sums: sums.excl),
    (ORDERS, "Discount"): _total(lambda sums: sums.discount),
    (ORDERS, "AmountDiscount"): _total(lambda sums: sums.in_division_currency(sums.discount_incl)),
    (ORDERS, "AmountDiscountExclVat"): _total(lambda sums: sums.in_division_currency(sums.discount_excl)),
    (ORDER_LINES, "OrderNumber"): _of(ORDERS, "OrderID", "OrderNumber"),
    (ORDER_LINES, "OrderStatus"): _of(ORDERS, "OrderID", "Status"),
    (ORDER_LINES, "ItemCode"): _of(ITEMS, "Item", "Code"),
    (ORDER_LINES, "ItemDescription"): _of(ITEMS, "Item", "Description"),
    (CHARGE_LINES, "OrderChargeCode"): _of("sales/OrderCharges", "OrderCharge", "Code"),
    (CHARGE_LINES, "OrderChargeDescription"): _of("sales/OrderCharges", "OrderCharge", "Description"),
    (DELIVERIES, "DeliveryAccountCode"): _of(ACCOUNTS, "DeliveryAccount", "Code"),
    (DELIVERIES, "DeliveryAccountName"): _of(ACCOUNTS, "DeliveryAccount", "Name"),
    (DELIVERIES, "ShippingMethodCode"): _of("sales/ShippingMethods", "ShippingMethod", "Code"),
    (DELIVERIES, "WarehouseCode"): _of("inventory/Warehouses", "Warehouse", "Code"),
    (DELIVERY_LINES, "ItemCode"): _of(ITEMS, "Item", "Code"),
}


def value_of(division: Division, entity_set: EntitySet, row: Row, name: str) -> Any:
    """The value of a property, computed or stored."""
    if name == "Timestamp":
        return row.timestamp
    compute = COMPUTED.get((entity_set.path, name))
    if compute is not None:
        return compute(division, row)
    if name == "ID" and entity_set.key != "ID":
        return row.id
    return row.values.get(name)
