"""Sales orders: deep inserts, prices, the status flow by deliveries and invoices."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from connectors.exact_online.simulation.payloads import Payload, read_payload
from connectors.exact_online.simulation.refusals import invalid, mandatory, validation
from connectors.exact_online.simulation.sets import (
    ACCOUNTS,
    ADDRESSES,
    CHARGE_LINES,
    DELIVERIES,
    DELIVERY_LINES,
    ITEMS,
    ORDER_LINES,
    ORDERS,
    PRICES,
    SETS,
)
from connectors.exact_online.simulation.state import Division, Row
from connectors.exact_online.simulation.totals import RATES, cents, included_vat, price_line, vat_code

OPEN, PARTIAL, COMPLETE, CANCELLED = 12, 20, 21, 45
FIRST_ORDER, FIRST_DELIVERY = 30_001, 50_001
DISCOUNTS = ("Discount", "AmountDiscount", "AmountDiscountExclVat")
Values = dict[str, Any]


# --- headers ------------------------------------------------------------------------------------------------------------------


def create_order(division: Division, payload: Payload) -> Row:
    """A header with its lines and charges, all or nothing. Raises Refused."""
    values = payload.values
    buyer = _customer(division, values["OrderedBy"], "OrderedBy")
    for name in ("DeliverTo", "InvoiceTo"):
        values[name] = _customer(division, values.get(name) or buyer.id, name).id
    if not payload.children.get("SalesOrderLines"):
        raise mandatory("SalesOrderLines")
    _check_header(division, values)
    _default_header(division, values, buyer)
    lines = [
        _line_values(division, _child(division, ORDER_LINES, line).values, values, buyer)
        for line in payload.children["SalesOrderLines"]
    ]
    charges = [
        _charge_values(division, _child(division, CHARGE_LINES, charge).values, buyer)
        for charge in payload.children.get("SalesOrderOrderChargeLines", [])
    ]
    # Validation is over: what follows cannot refuse, so nothing is left half-written.
    order = division.insert(ORDERS, values)
    for number, line in enumerate(lines, 1):
        division.insert(ORDER_LINES, {**line, "OrderID": order.id, "LineNumber": number}, delay_s=division.line_delay_s)
    for number, charge in enumerate(charges, 1):
        division.insert(CHARGE_LINES, {**charge, "OrderID": order.id, "LineNumber": number}, delay_s=division.line_delay_s)
    return order


def update_order(division: Division, order: Row, values: Values) -> None:
    """Header fields only. Raises Refused."""
    _must_be_open(order)
    _check_header(division, values)
    _discount(values)
    division.change(ORDERS, order, values)


def delete_order(division: Division, order: Row) -> None:
    """Possible while nothing is delivered. Raises Refused."""
    if order.values["DeliveryStatus"] != OPEN or order.values["InvoiceStatus"] != OPEN:
        raise validation("Verkooporder kan niet worden verwijderd: er is al geleverd of gefactureerd.")
    for path in (ORDER_LINES, CHARGE_LINES):
        for row in division.table(path).by("OrderID", order.id):
            division.remove(path, row)
    division.remove(ORDERS, order)


def _customer(division: Division, key: str, name: str) -> Row:
    row = division.get(ACCOUNTS, key)
    if row is None or row.values.get("Status") != "C":
        raise invalid(name)
    return row


def _child(division: Division, path: str, body: Any) -> Payload:
    """A nested line: its parent is the order around it."""
    known = {name: field for name, field in SETS[path].fields.items() if name != "OrderID"}
    nested = type(SETS[path])(path, SETS[path].model, known)
    return read_payload(division, nested, body, creating=True)


def _check_header(division: Division, values: Values) -> None:
    number = values.get("OrderNumber")
    if number is not None and division.first(ORDERS, "OrderNumber", number):
        raise validation("Verkoopordernummer: Bestaat reeds")
    if number is not None and number < 1:
        raise invalid("OrderNumber")
    if values.get("Currency") and values["Currency"] not in RATES:
        raise invalid("Currency")
    condition = values.get("PaymentCondition")
    if condition and division.first("cashflow/PaymentConditions", "Code", condition) is None:
        raise invalid("PaymentCondition")
    if values.get("ApprovalStatus") not in (None, 2):
        raise invalid("ApprovalStatus")


def _default_header(division: Division, values: Values, buyer: Row) -> None:
    today = division.today()
    if values.get("OrderNumber") is None:
        orders = division.table(ORDERS)
        values["OrderNumber"] = division.next_number("order", FIRST_ORDER, lambda n: bool(orders.by("OrderNumber", n)))
    values["OrderDate"] = values.get("OrderDate") or today
    values["DeliveryDate"] = values.get("DeliveryDate") or today
    values["Currency"] = values.get("Currency") or buyer.values.get("SalesCurrency") or "EUR"
    values["PaymentCondition"] = values.get("PaymentCondition") or buyer.values.get("PaymentConditionSales")
    values["ShippingMethod"] = values.get("ShippingMethod") or buyer.values.get("ShippingMethod")
    values["ApprovalStatus"] = values.get("ApprovalStatus") or 1
    for name, account in (("OrderedByContactPerson", "OrderedBy"), ("DeliverToContactPerson", "DeliverTo")):
        party = division.get(ACCOUNTS, values[account])
        values[name] = values.get(name) or (party.values.get("MainContact") if party else None)
    if values.get("WarehouseID") is None:
        main = division.first("inventory/Warehouses", "Main", 1)
        values["WarehouseID"] = main.id if main else None
    if values.get("DeliveryAddress") is None:
        values["DeliveryAddress"] = _delivery_address(division, values["DeliverTo"])
    values.update(Status=OPEN, DeliveryStatus=OPEN, InvoiceStatus=OPEN)
    _discount(values)


def _delivery_address(division: Division, account: str) -> str | None:
    found = [row for row in division.table(ADDRESSES).by("Account", account) if row.values.get("Main")]
    by_kind = {row.values["Type"]: row.id for row in found}
    return by_kind.get(4) or by_kind.get(1)


def _discount(values: Values) -> None:
    """Keeps which of the three discount properties leads; the other two follow from it when read."""
    given = [(name, values.pop(name)) for name in DISCOUNTS if name in values]
    led = [(name, value) for name, value in given if value is not None]
    if led:
        values["_discount"] = led[-1]
    elif given:
        values["_discount"] = ("Discount", Decimal(0))


def _must_be_open(order: Row) -> None:
    if order.values["Status"] in (COMPLETE, CANCELLED):
        raise validation("Verkooporder is volledig: wijzigen is niet toegestaan.")


# --- lines --------------------------------------------------------------------------------------------------------------------


def create_line(division: Division, payload: Payload) -> Row:
    """A line of an existing order. The header's Timestamp stays. Raises Refused."""
    order, buyer = _order_of(division, payload.values)
    values = _line_values(division, payload.values, order.values, buyer)
    number = 1 + max((row.values["LineNumber"] for row in division.table(ORDER_LINES).by("OrderID", order.id)), default=0)
    return division.insert(ORDER_LINES, {**values, "LineNumber": number}, delay_s=division.line_delay_s)


def update_line(division: Division, line: Row, values: Values) -> None:
    """Changes a line and prices it again. Raises Refused."""
    order, buyer = _order_of(division, line.values)
    unchanged = {name: line.values.get(name) for name in ("Quantity", "VATCode", "UnitPrice", "Discount", "Item", "UnitCode")}
    if not values.keys() & {"NetPrice", "UnitPrice", "Discount", "Item"}:
        unchanged["NetPrice"] = line.values["NetPrice"]
    kept = {**line.values, **unchanged}
    if "NetPrice" not in unchanged:
        kept.pop("NetPrice")
    fresh = _line_values(division, {**kept, **values}, order.values, buyer)
    counted = {name: line.values[name] for name in ("QuantityDelivered", "QuantityInvoiced", "DeliveryStatus", "InvoiceStatus")}
    division.change(ORDER_LINES, line, {**fresh, **counted})


def delete_line(division: Division, line: Row) -> None:
    """Possible while nothing of it is delivered. Raises Refused."""
    _order_of(division, line.values)
    if line.values["DeliveryStatus"] != OPEN or line.values["InvoiceStatus"] != OPEN:
        raise validation("Verkooporderregel kan niet worden verwijderd: er is al geleverd of gefactureerd.")
    division.remove(ORDER_LINES, line)


def _order_of(division: Division, values: Values) -> tuple[Row, Row]:
    order = division.get(ORDERS, values["OrderID"])
    if order is None:
        raise mandatory("OrderID")
    _must_be_open(order)
    return order, division.tables[ACCOUNTS].rows[order.values["OrderedBy"]]


def _line_values(division: Division, values: Values, header: Mapping[str, Any], buyer: Row) -> Values:
    """All stored values of a line: defaults from item and buyer, prices, amounts, VAT. Raises Refused."""
    item = division.tables[ITEMS].rows[values["Item"]]
    code = values.get("VATCode") or buyer.values.get("SalesVATCode") or item.values.get("SalesVatCode")
    vat_code(division, code)
    quantity = Decimal(1) if values.get("Quantity") is None else values["Quantity"]
    line = {**values, "VATCode": code, "Quantity": quantity}
    line.update(_prices(values, _default_price(division, item, header, buyer.id)))
    line["Description"] = values.get("Description") or item.values["Description"]
    line["UnitCode"] = values.get("UnitCode") or item.values.get("Unit")
    line["DeliveryDate"] = values.get("DeliveryDate") or header.get("DeliveryDate")
    counted = {"QuantityDelivered": Decimal(0), "QuantityInvoiced": Decimal(0), "DeliveryStatus": OPEN, "InvoiceStatus": OPEN}
    return {**line, **price_line(division, line), **counted}


def _prices(values: Values, default: Decimal) -> Values:
    """NetPrice leads; else UnitPrice less Discount; else the default price."""
    unit, net, discount = values.get("UnitPrice"), values.get("NetPrice"), values.get("Discount")
    unit = default if unit is None else unit
    if net is None:
        discount = discount or Decimal(0)
        return {"UnitPrice": unit, "Discount": discount, "NetPrice": unit * (1 - discount)}
    return {"UnitPrice": unit, "NetPrice": net, "Discount": 1 - net / unit if unit else Decimal(0)}


def _default_price(division: Division, item: Row, header: Mapping[str, Any], buyer: str) -> Decimal:
    today = division.today()
    found: list[tuple[bool, Any, Decimal]] = []
    for price in division.table(PRICES).by("Item", item.id):
        values = price.values
        if values["Currency"] != header["Currency"] or values["Quantity"] > 1 or values["StartDate"] > today:
            continue
        if values.get("Account") not in (None, buyer) or (values.get("EndDate") and values["EndDate"] < today):
            continue
        found.append((values.get("Account") == buyer, values["StartDate"], values["Price"]))
    return max(found)[2] if found else Decimal(0)


# --- charges ------------------------------------------------------------------------------------------------------------------


def create_charge(division: Division, payload: Payload) -> Row:
    """A charge of an existing order; the header's Timestamp rises, since charges have no feed. Raises Refused."""
    order, buyer = _order_of(division, payload.values)
    number = 1 + max((row.values["LineNumber"] for row in division.table(CHARGE_LINES).by("OrderID", order.id)), default=0)
    values = {**_charge_values(division, payload.values, buyer), "LineNumber": number}
    row = division.insert(CHARGE_LINES, values, delay_s=division.line_delay_s)
    division.change(ORDERS, order, {})
    return row


def update_charge(division: Division, charge: Row, values: Values) -> None:
    """Changes a charge. Raises Refused."""
    order, buyer = _order_of(division, charge.values)
    amounts = ("AmountFCExclVAT", "AmountFCInclVAT")
    kept = {name: value for name, value in charge.values.items() if name not in amounts}
    if not any(name in values for name in amounts):
        kept["AmountFCExclVAT"] = charge.values["AmountFCExclVAT"]
    division.change(CHARGE_LINES, charge, _charge_values(division, {**kept, **values}, buyer))
    division.change(ORDERS, order, {})


def delete_charge(division: Division, charge: Row) -> None:
    """Takes a charge off. Raises Refused."""
    order, _ = _order_of(division, charge.values)
    division.remove(CHARGE_LINES, charge)
    division.change(ORDERS, order, {})


def _charge_values(division: Division, values: Values, buyer: Row) -> Values:
    """Of the two amounts one suffices; with both, the one without VAT counts."""
    charge = division.tables["sales/OrderCharges"].rows[values["OrderCharge"]]
    code = values.get("VATCode") or buyer.values.get("SalesVATCode") or charge.values.get("VATCode")
    row = vat_code(division, code)
    fraction = row.values["Percentage"] if row else Decimal(0)
    excl, incl = values.get("AmountFCExclVAT"), values.get("AmountFCInclVAT")
    if excl is None and incl is None:
        raise mandatory("AmountFCExclVAT")
    if excl is not None:
        excl = cents(excl)
        vat = cents(excl * fraction)
    else:
        gross = cents(incl if incl is not None else Decimal(0))
        vat = included_vat(gross, fraction)
        excl = gross - vat
    shipping = bool(values.get("IsShippingCost"))
    amounts = {"AmountFCExclVAT": excl, "AmountFCInclVAT": excl + vat, "VATPercentage": fraction}
    return {**values, "VATCode": code, "IsShippingCost": shipping, **amounts}


# --- deliveries and invoices --------------------------------------------------------------------------------------------------


def create_delivery(division: Division, payload: Payload) -> Row:
    """A goods delivery moves the order's statuses at once. Raises Refused."""
    bodies = payload.children.get("GoodsDeliveryLines")
    if not bodies:
        raise mandatory("GoodsDeliveryLines")
    parts = [read_payload(division, SETS[DELIVERY_LINES], body, creating=True).values for body in bodies]
    rows = division.table(ORDER_LINES).rows
    for part in parts:
        line = rows[part["SalesOrderLineID"]]
        if part["QuantityDelivered"] > line.values["Quantity"] - line.values["QuantityDelivered"]:
            raise invalid("QuantityDelivered")
    order = division.tables[ORDERS].rows[rows[parts[0]["SalesOrderLineID"]].values["OrderID"]]
    number = division.next_number("delivery", FIRST_DELIVERY, lambda _n: False)
    head = {
        "DeliveryNumber": number,
        "EntryNumber": number,
        "DeliveryAccount": order.values["DeliverTo"],
        "DeliveryAddress": order.values.get("DeliveryAddress"),
        "Warehouse": order.values.get("WarehouseID"),
    }
    delivery = division.insert(DELIVERIES, {**payload.values, **head})
    for part in parts:
        _deliver_line(division, delivery, part)
    refresh_status(division, order)
    return delivery


def _deliver_line(division: Division, delivery: Row, part: Values) -> None:
    line = division.table(ORDER_LINES).rows[part["SalesOrderLineID"]]
    order = division.tables[ORDERS].rows[line.values["OrderID"]]
    facts = {
        "EntryID": delivery.id,
        "Item": line.values["Item"],
        "LineNumber": line.values["LineNumber"],
        "QuantityOrdered": line.values["Quantity"],
        "SalesOrderNumber": order.values["OrderNumber"],
        "SalesOrderLineNumber": line.values["LineNumber"],
    }
    division.insert(DELIVERY_LINES, {**part, **facts})
    count(division, line, "Delivered", line.values["QuantityDelivered"] + part["QuantityDelivered"])


def deliver(division: Division, order: Row) -> None:
    """Delivers what is left of an order."""
    lines = division.table(ORDER_LINES).by("OrderID", order.id)
    left = [
        {"SalesOrderLineID": line.id, "QuantityDelivered": line.values["Quantity"] - line.values["QuantityDelivered"]}
        for line in lines
        if line.values["QuantityDelivered"] != line.values["Quantity"]
    ]
    if left:
        body = {"DeliveryDate": division.today().date().isoformat(), "GoodsDeliveryLines": left}
        create_delivery(division, read_payload(division, SETS[DELIVERIES], body, creating=True))


def invoice(division: Division, order: Row, *, delivered_only: bool = False) -> bool:
    """Invoices what is ordered (or delivered) and not invoiced yet; whether there was any."""
    found = False
    for line in division.table(ORDER_LINES).by("OrderID", order.id):
        due = line.values["QuantityDelivered"] if delivered_only else line.values["Quantity"]
        if due != line.values["QuantityInvoiced"]:
            count(division, line, "Invoiced", due)
            found = True
    if found:
        refresh_status(division, order)
    return found


def count(division: Division, line: Row, what: str, quantity: Decimal) -> None:
    """Sets QuantityDelivered or QuantityInvoiced with the status that follows."""
    done = COMPLETE if quantity == line.values["Quantity"] else PARTIAL if quantity else OPEN
    status = {"Delivered": "DeliveryStatus", "Invoiced": "InvoiceStatus"}[what]
    division.change(ORDER_LINES, line, {f"Quantity{what}": quantity, status: done})


def refresh_status(division: Division, order: Row) -> None:
    """The header's statuses from those of its lines."""
    lines = division.table(ORDER_LINES).by("OrderID", order.id)
    states = {name: _overall([line.values[name] for line in lines]) for name in ("DeliveryStatus", "InvoiceStatus")}
    division.change(ORDERS, order, {**states, "Status": _overall(list(states.values()))})


def _overall(states: list[int]) -> int:
    if all(state == COMPLETE for state in states):
        return COMPLETE
    return OPEN if all(state == OPEN for state in states) else PARTIAL


def complete(division: Division, order: Row, *, delivery: bool, invoicing: bool) -> None:
    """Closes the rest of an order; nothing is delivered or invoiced by it."""
    states = {}
    if delivery:
        states["DeliveryStatus"] = COMPLETE
    if invoicing:
        states["InvoiceStatus"] = COMPLETE
    for line in division.table(ORDER_LINES).by("OrderID", order.id):
        division.change(ORDER_LINES, line, states)
    both = [states.get(name, order.values[name]) for name in ("DeliveryStatus", "InvoiceStatus")]
    division.change(ORDERS, order, {**states, "Status": _overall(both)})
