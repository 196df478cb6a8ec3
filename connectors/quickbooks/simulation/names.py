"""Rules of lists: names that are unique also among inactive rows, the suffix of inactive rows, items and their accounts."""

import re
from decimal import Decimal

from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, PEOPLE, Entity
from connectors.quickbooks.simulation.payments import refresh_customers
from connectors.quickbooks.simulation.refusals import bad_format, bad_reference, business, duplicate_name, missing

DELETED = " (deleted)"
"""What the vendor appends to the name of a row that was made inactive."""
CATEGORY_LEVELS_MAX = 4
PARTS = ("Title", "GivenName", "MiddleName", "FamilyName", "Suffix")
CLASSIFICATIONS = {
    "Bank": "Asset",
    "Accounts Receivable": "Asset",
    "Other Current Asset": "Asset",
    "Fixed Asset": "Asset",
    "Other Asset": "Asset",
    "Equity": "Equity",
    "Income": "Revenue",
    "Other Income": "Revenue",
    "Cost of Goods Sold": "Expense",
    "Expense": "Expense",
    "Other Expense": "Expense",
    "Accounts Payable": "Liability",
    "Credit Card": "Liability",
    "Other Current Liability": "Liability",
    "Long Term Liability": "Liability",
}


def prepare(company: Company, entity: Entity, row: Row, old: Row | None, *, is_screen: bool) -> None:
    """Checks a row of a list and completes it. Raises Refused."""
    row.setdefault("Active", old["Active"] if old else True)
    if entity.name in PEOPLE:
        _prepare_person(company, row, old)
    elif entity.name == "Item":
        _prepare_item(company, row, old, is_screen=is_screen)
    elif entity.name == "Account":
        row["Classification"] = CLASSIFICATIONS.get(row.get("AccountType", ""))
        if row["Classification"] is None:
            raise missing("AccountType")
    elif entity.name == "Term":
        row.setdefault("Type", "STANDARD")
        if "DueDays" not in row and "DayOfMonthDue" not in row:
            raise missing("DueDays")
    _name(company, entity, row, old)
    _qualify(company, entity.name, row)


def _name(company: Company, entity: Entity, row: Row, old: Row | None) -> None:
    member = entity.name_field
    bare = str(row[member]).removesuffix(DELETED)
    if re.search(r"[:\t\n]", bare):
        raise bad_format(member, bare)
    for other_entity in entity.group or (entity.name,):
        for other in company.tables[other_entity].values():
            is_self = old is not None and other_entity == entity.name and other["Id"] == old["Id"]
            if not is_self and other[ENTITIES[other_entity].name_field].removesuffix(DELETED).casefold() == bare.casefold():
                raise duplicate_name(other["Id"] if other_entity == entity.name else None)
    row[member] = bare if row["Active"] or member == "Code" else bare + DELETED


def _prepare_person(company: Company, row: Row, old: Row | None) -> None:
    if "DisplayName" not in row:
        row["DisplayName"] = " ".join(row[part] for part in PARTS if part in row)
    if not row["DisplayName"].strip():
        raise missing("DisplayName")
    code = (row.get("CurrencyRef") or (old or {}).get("CurrencyRef") or {"value": company.home})["value"]
    if old is not None and code != old["CurrencyRef"]["value"]:
        raise business("You can't change the currency of a name after it was created.")
    row["CurrencyRef"] = company.currency(code)
    row["PrintOnCheckName"] = row.get("CompanyName") or row["DisplayName"].removesuffix(DELETED)
    row["Balance"] = old["Balance"] if old else Decimal(0)
    for flag in ("Job", "BillWithParent", "IsProject"):
        row.setdefault(flag, False)
    row.setdefault("Taxable", True)
    row.setdefault("PreferredDeliveryMethod", "None")
    if old and old["Active"] and not row["Active"]:
        refresh_customers(company)
        if old["Balance"]:
            raise business("You can't make a customer with a balance inactive.")
    for name in ("BillAddr", "ShipAddr"):
        if isinstance(row.get(name), dict):
            row[name].setdefault("Id", company.next_address())


def _prepare_item(company: Company, row: Row, old: Row | None, *, is_screen: bool) -> None:
    if old is not None and old["Type"] == "Inventory" and row["Type"] != "Inventory":
        raise business("An inventory item cannot become another type.")
    if row["Type"] == "Group" and old is None and not is_screen:
        raise business("Bundles are made in the product only.")
    if row["Type"] == "Category":
        for name in ("IncomeAccountRef", "ExpenseAccountRef", "AssetAccountRef", "UnitPrice"):
            row.pop(name, None)
    elif row["Type"] != "Group" and "IncomeAccountRef" not in row:
        raise missing("IncomeAccountRef")
    if row["Type"] == "Inventory":
        _prepare_inventory(company, row)
    else:
        row["TrackQtyOnHand"] = False
    if "ParentRef" in row:
        parent = company.find("Item", row["ParentRef"]["value"])
        if parent is None or parent["Type"] != "Category":
            raise bad_reference("Item", row["ParentRef"]["value"], "ParentRef")
        row["SubItem"] = True
    elif row.get("SubItem"):
        raise missing("ParentRef")
    row.setdefault("SubItem", False)
    row.setdefault("SalesTaxIncluded", False)
    row.setdefault("Taxable", False)


def _prepare_inventory(company: Company, row: Row) -> None:
    for name in ("AssetAccountRef", "ExpenseAccountRef", "InvStartDate", "QtyOnHand"):
        if name not in row:
            raise missing(name)
    if row.get("TrackQtyOnHand") is not True:
        raise missing("TrackQtyOnHand")
    wanted = (
        ("IncomeAccountRef", "Income"),
        ("ExpenseAccountRef", "Cost of Goods Sold"),
        ("AssetAccountRef", "Other Current Asset"),
    )
    for name, kind in wanted:
        account = company.find("Account", row[name]["value"])
        if account is not None and account["AccountType"] != kind:
            raise business(f"{name} of an inventory item must be an account of type {kind}.")


def _qualify(company: Company, entity: str, row: Row) -> None:
    """FullyQualifiedName and Level, from the parents."""
    if entity == "CompanyCurrency":
        return
    names, seen, parent = [row[ENTITIES[entity].name_field]], {row.get("Id")}, row.get("ParentRef")
    while parent:
        above = company.find(entity, parent["value"])
        if above is None or above["Id"] in seen:
            raise bad_reference(entity, parent["value"], "ParentRef")
        seen.add(above["Id"])
        names.insert(0, above[ENTITIES[entity].name_field])
        parent = above.get("ParentRef")
    if row.get("Type") == "Category" and len(names) > CATEGORY_LEVELS_MAX:
        raise business(f"A category can be {CATEGORY_LEVELS_MAX} levels deep.")
    row["FullyQualifiedName"] = ":".join(names)
    if len(names) > 1:
        row["Level"] = len(names) - 1
    else:
        row.pop("Level", None)


def requalify(company: Company, entity: str) -> None:
    """Full names of all rows of a list, after one was renamed; no new versions."""
    for row in company.tables[entity].values():
        _qualify(company, entity, row)
