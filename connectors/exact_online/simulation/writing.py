"""What may be written to relations, items and prices, and what follows from it."""

import re
from collections.abc import Callable
from typing import Any

from connectors.exact_online.simulation import orders
from connectors.exact_online.simulation.payloads import Payload, read_payload
from connectors.exact_online.simulation.refusals import Refused, duplicate, invalid, mandatory, validation
from connectors.exact_online.simulation.sets import (
    ACCOUNTS,
    ADDRESSES,
    CHARGE_LINES,
    CONTACTS,
    DELIVERIES,
    ITEMS,
    ORDER_LINES,
    ORDERS,
    PRICES,
    EntitySet,
)
from connectors.exact_online.simulation.state import Division, Row
from connectors.exact_online.simulation.totals import RATES

FIRST_ACCOUNT = 1_000_001
VISIT, POSTAL, INVOICE, DELIVERY = 1, 2, 3, 4
ADDRESS_FIELDS = ("AddressLine1", "AddressLine2", "AddressLine3", "Postcode", "City", "State", "Country", "Phone")
VAT_PREFIXES = {"GR": "EL"}
Values = dict[str, Any]


def create(division: Division, entity_set: EntitySet, body: Any) -> Row:
    """POST. Raises Refused."""
    payload = read_payload(division, entity_set, body, creating=True)
    return _CREATORS[entity_set.path](division, payload)


def update(division: Division, entity_set: EntitySet, row: Row, body: Any) -> None:
    """PUT of the changed properties. Raises Refused."""
    payload = read_payload(division, entity_set, body, creating=False)
    _UPDATERS[entity_set.path](division, row, payload.values)


def delete(division: Division, entity_set: EntitySet, row: Row) -> None:
    """DELETE, with what belongs to the row. Raises Refused while others need it."""
    _DELETERS.get(entity_set.path, _delete_plain(entity_set.path))(division, row)


def _delete_plain(path: str) -> Callable[[Division, Row], None]:
    return lambda division, row: division.remove(path, row)


# --- accounts -----------------------------------------------------------------------------------------------------------------


def _check_account(division: Division, values: Values, country: str | None) -> None:
    if values.get("Code") and division.first(ACCOUNTS, "Code", values["Code"]):
        raise duplicate()
    if values.get("Status") is not None and values["Status"] not in ("C", "P", "S", "A"):
        raise invalid("Status")
    check_code(division, values, "PaymentConditionSales", "cashflow/PaymentConditions")
    check_code(division, values, "SalesVATCode", "vat/VATCodes")
    check_country(values)
    if values.get("SalesCurrency") and values["SalesCurrency"] not in RATES:
        raise invalid("Currency")
    if values.get("Language") and not values["Language"].isupper():
        raise invalid("Language")
    number = values.get("VATNumber")
    if number:
        prefix = VAT_PREFIXES.get(country or "", country or number[:2])
        if not re.fullmatch(rf"{prefix}[0-9A-Z]{{2,13}}", number) or not prefix.isalpha():
            raise invalid("VATNumber")


def _create_account(division: Division, payload: Payload) -> Row:
    values = payload.values
    _check_account(division, values, values.get("Country"))
    values.setdefault("MainContact", None)
    if not values.get("Code"):
        taken = division.table(ACCOUNTS)
        number = division.next_number("account", FIRST_ACCOUNT, lambda n: bool(taken.by("Code", str(n))))
        values["Code"] = str(number)
    values["Status"] = values.get("Status") or "A"
    for name in ("IsSupplier", "IsReseller", "Blocked"):
        values[name] = bool(values.get(name))
    fixed = {"Type": "A", "IsPurchase": True, "CostPaid": 0, "IsAccountant": 0}
    since = division.today() if values["Status"] == "C" else None
    start = values.get("StartDate") or division.today()
    row = division.insert(ACCOUNTS, {"DiscountSales": 0, **fixed, **values, "CustomerSince": since, "StartDate": start})
    if any(values.get(name) for name in ADDRESS_FIELDS):
        _follow_address(division, row, {name: values.get(name) for name in ADDRESS_FIELDS})
    return row


def _update_account(division: Division, row: Row, values: Values) -> None:
    _check_account(division, values, values.get("Country", row.values.get("Country")))
    if values.get("MainContact"):
        contact = division.get(CONTACTS, values["MainContact"])
        if contact is None or contact.values["Account"] != row.id:
            raise invalid("MainContact")
    if values.get("Status") == "C" and not row.values.get("CustomerSince"):
        values["CustomerSince"] = division.today()
    division.change(ACCOUNTS, row, values)
    moved = {name: values[name] for name in ADDRESS_FIELDS if name in values}
    if moved:
        _follow_address(division, row, moved)


def _follow_address(division: Division, account: Row, values: Values) -> None:
    """The account's own address is its main visiting address."""
    visit = main_address(division, account.id, VISIT)
    if visit:
        division.change(ADDRESSES, visit, values)
    else:
        division.insert(ADDRESSES, {"Account": account.id, "Type": VISIT, "Main": True, **values})


def main_address(division: Division, account: str, kind: int) -> Row | None:
    """The main address of a kind."""
    found = division.table(ADDRESSES).by("Account", account)
    return next((row for row in found if row.values["Type"] == kind and row.values.get("Main")), None)


def _delete_account(division: Division, row: Row) -> None:
    if division.first(ORDERS, "OrderedBy", row.id):
        raise validation("Relatie kan niet worden verwijderd: er zijn verkooporders.")
    for path in (CONTACTS, ADDRESSES):
        for child in division.table(path).by("Account", row.id):
            division.remove(path, child)
    division.remove(ACCOUNTS, row)


# --- contacts and addresses ---------------------------------------------------------------------------------------------------


def _create_contact(division: Division, payload: Payload) -> Row:
    values = payload.values
    if not values.get("FirstName") and not values.get("LastName"):
        raise mandatory("LastName")
    values.setdefault("BusinessEmail", values.get("Email"))
    number = division.next_number("contact", 1, lambda _n: False)
    return division.insert(CONTACTS, {**values, "Code": str(number)})


def _update_contact(division: Division, row: Row, values: Values) -> None:
    merged = {**row.values, **values}
    if not merged.get("FirstName") and not merged.get("LastName"):
        raise mandatory("LastName")
    if "Email" in values:
        values.setdefault("BusinessEmail", values["Email"])
    division.change(CONTACTS, row, values)


def _delete_contact(division: Division, row: Row) -> None:
    account = division.get(ACCOUNTS, row.values["Account"])
    division.remove(CONTACTS, row)
    if account and account.values.get("MainContact") == row.id:
        division.change(ACCOUNTS, account, {"MainContact": None})


def _check_address(values: Values) -> None:
    if "Type" in values and values["Type"] not in (VISIT, POSTAL, INVOICE, DELIVERY):
        raise invalid("Type")
    check_country(values)


def _create_address(division: Division, payload: Payload) -> Row:
    values = payload.values
    _check_address(values)
    if values.get("Warehouse") is None and values.get("Account") is None:
        raise mandatory("Account")
    if values.get("Warehouse") is not None and (values["Type"] != DELIVERY or values.get("Account") is not None):
        raise invalid("Warehouse")
    if values.get("Account") and main_address(division, values["Account"], values["Type"]) is None:
        values["Main"] = True
    values["Main"] = bool(values.get("Main"))
    row = division.insert(ADDRESSES, values)
    _main_is_unique(division, row)
    return row


def _update_address(division: Division, row: Row, values: Values) -> None:
    _check_address(values)
    division.change(ADDRESSES, row, values)
    _main_is_unique(division, row)
    account = division.get(ACCOUNTS, row.values.get("Account"))
    moved = {name: values[name] for name in ADDRESS_FIELDS if name in values}
    if account and moved and row.values["Type"] == VISIT and row.values.get("Main"):
        division.change(ACCOUNTS, account, moved)


def _main_is_unique(division: Division, row: Row) -> None:
    if not row.values.get("Main") or not row.values.get("Account"):
        return
    for other in division.table(ADDRESSES).by("Account", row.values["Account"]):
        if other.id != row.id and other.values["Type"] == row.values["Type"] and other.values.get("Main"):
            division.change(ADDRESSES, other, {"Main": False})


# --- items and prices ---------------------------------------------------------------------------------------------------------


def _check_item(division: Division, values: Values) -> None:
    if values.get("Code") and division.first(ITEMS, "Code", values["Code"]):
        raise duplicate()
    check_code(division, values, "Unit", "logistics/Units")
    check_code(division, values, "SalesVatCode", "vat/VATCodes")
    if values.get("Barcode") and not values["Barcode"].isdigit():
        raise invalid("Barcode")


def _picture(row: Row, values: Values) -> Values:
    if "Picture" not in values:
        return values
    row.picture = values["Picture"]
    kind = "png" if (row.picture or b"").startswith(b"\x89PNG") else "jpg"
    kept = {name: value for name, value in values.items() if name != "Picture"}
    return {**kept, "PictureName": f"{row.values['Code']}.{kind}" if row.picture else None}


def _create_item(division: Division, payload: Payload) -> Row:
    values = payload.values
    _check_item(division, values)
    if values.get("ItemGroup") is None:
        group = division.first("logistics/ItemGroups", "IsDefault", 1)
        values["ItemGroup"] = group.id if group else None
    if values.get("Unit") is None:
        unit = division.first("logistics/Units", "Main", 1)
        values["Unit"] = unit.values["Code"] if unit else None
    flags = dict.fromkeys(("IsPurchaseItem", "IsStockItem", "IsFractionAllowedItem", "IsSerialItem"), False)
    bytes_ = dict.fromkeys(("IsWebshopItem", "IsBatchItem", "IsMakeItem", "IsTime", "IsOnDemandItem"), 0)
    start = values.get("StartDate") or division.today()
    given = {name: value for name, value in values.items() if value is not None and name != "Picture"}
    row = division.insert(ITEMS, {"IsSalesItem": True, **flags, **bytes_, "Stock": 0, **given, "StartDate": start})
    row.values.update(_picture(row, {"Picture": values["Picture"]}) if values.get("Picture") else {})
    return row


def _update_item(division: Division, row: Row, values: Values) -> None:
    _check_item(division, values)
    division.change(ITEMS, row, _picture(row, values))


def _delete_item(division: Division, row: Row) -> None:
    if division.first(ORDER_LINES, "Item", row.id):
        raise validation("Artikel kan niet worden verwijderd: er zijn verkooporders.")
    for price in division.table(PRICES).by("Item", row.id):
        division.remove(PRICES, price)
    division.remove(ITEMS, row)


def _check_price(division: Division, values: Values) -> None:
    check_code(division, values, "Unit", "logistics/Units")
    if values.get("Currency") and values["Currency"] not in RATES:
        raise invalid("Currency")
    if values.get("Price") is not None and values["Price"] < 0:
        raise invalid("Price")


def _create_price(division: Division, payload: Payload) -> Row:
    values = payload.values
    _check_price(division, values)
    item = division.get(ITEMS, values["Item"])
    unit = item.values.get("Unit") if item else None
    defaults = {"Currency": "EUR", "Quantity": 1, "Unit": unit, "NumberOfItemsPerUnit": 1, "StartDate": division.today()}
    given = {name: value for name, value in values.items() if value is not None}
    return division.insert(PRICES, {"Account": None, "EndDate": None, **defaults, **given})


def _update_price(division: Division, row: Row, values: Values) -> None:
    _check_price(division, values)
    division.change(PRICES, row, values)


# --- checks and tables --------------------------------------------------------------------------------------------------------


def check_code(division: Division, values: Values, name: str, path: str) -> None:
    """A code must exist in its set. Raises Refused."""
    if values.get(name) is not None and division.first(path, "Code", values[name]) is None:
        raise invalid(name)


def check_country(values: Values) -> None:
    """ISO-2 in capitals. Raises Refused."""
    country = values.get("Country")
    if country is not None and not re.fullmatch("[A-Z]{2}", country):
        raise invalid("Country")


def refused_verb(verb: str, entity_set: EntitySet) -> Refused:
    """The answer to a verb a set does not have."""
    if entity_set.forbidden:
        return Refused(403, "Forbidden")
    return Refused(405, f"The method '{verb}' is not allowed for '{entity_set.segment}'.")


_CREATORS: dict[str, Callable[[Division, Payload], Row]] = {
    ACCOUNTS: _create_account,
    CONTACTS: _create_contact,
    ADDRESSES: _create_address,
    ITEMS: _create_item,
    PRICES: _create_price,
    ORDERS: orders.create_order,
    ORDER_LINES: orders.create_line,
    CHARGE_LINES: orders.create_charge,
    DELIVERIES: orders.create_delivery,
}
_UPDATERS: dict[str, Callable[[Division, Row, Values], None]] = {
    ACCOUNTS: _update_account,
    CONTACTS: _update_contact,
    ADDRESSES: _update_address,
    ITEMS: _update_item,
    PRICES: _update_price,
    ORDERS: orders.update_order,
    ORDER_LINES: orders.update_line,
    CHARGE_LINES: orders.update_charge,
}
_DELETERS: dict[str, Callable[[Division, Row], None]] = {
    ACCOUNTS: _delete_account,
    CONTACTS: _delete_contact,
    ITEMS: _delete_item,
    ORDERS: orders.delete_order,
    ORDER_LINES: orders.delete_line,
    CHARGE_LINES: orders.delete_charge,
}
