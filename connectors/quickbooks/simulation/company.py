"""One simulated company: rows by entity, versions, deletes, remembered request ids, and the rules of writing."""

import copy
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from bus.simulation.clock import SimClock
from connectors.quickbooks.simulation import refusals
from connectors.quickbooks.simulation.query import Query, comparable, member
from connectors.quickbooks.simulation.totals import cents, number, sales_lines, settle

PACIFIC = ZoneInfo("America/Los_Angeles")
SALES = ("Invoice", "SalesReceipt", "CreditMemo", "RefundReceipt", "Estimate")
TRANSACTIONS = (*SALES, "Payment")
PEOPLE = ("Customer", "Vendor", "Employee")
NAMED = ("Item", "Term", "PaymentMethod", "Account", "TaxCode", "TaxRate", "Class", "Department")
ENTITIES = (*PEOPLE, *NAMED, *TRANSACTIONS, "CompanyCurrency", "Attachable")
DELETED = " (deleted)"
SHIPPING = "SHIPPING_ITEM_ID"
LENGTHS = {
    "DisplayName": 500, "CompanyName": 100, "GivenName": 100, "FamilyName": 100, "MiddleName": 100, "Name": 100, "Sku": 100,
    "DocNumber": 21, "PrivateNote": 4000, "Description": 4000,
}  # fmt: skip
ISO3 = {"NL": "NLD", "BE": "BEL", "DE": "DEU", "FR": "FRA", "SE": "SWE", "GB": "GBR", "US": "USA", "DK": "DNK", "LU": "LUX"}
READ_ONLY = frozenset({"MetaData", "domain", "Balance", "FullyQualifiedName", "Level", "sparse", "Id", "SyncToken"})


class Company:
    """The books of one realm."""

    def __init__(self, clock: SimClock, *, custom_txn_numbers: bool = True, country: str = "NL", home: str = "EUR") -> None:
        self.clock = clock
        self.country, self.home = country, home
        self.custom_txn_numbers = custom_txn_numbers
        self.close_date: str | None = None
        self.tables: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.deleted: list[tuple[str, str, datetime]] = []
        self.replays: dict[str, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self._numbers = itertools.count(1001)

    # --- reading -----------------------------------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Now, as MetaData has it."""
        return self.clock.now().astimezone(PACIFIC).isoformat(timespec="seconds")

    def row(self, entity: str, object_id: str) -> dict[str, Any]:
        """A row. Raises Refused 610."""
        found = self.tables[entity].get(str(object_id))
        if found is None:
            raise refusals.not_found(f"{entity} {object_id}")
        return found

    def shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as it is answered: VAT numbers masked, countries with three letters."""
        out = copy.deepcopy(dict(row))
        if number_ := out.get("PrimaryTaxIdentifier"):
            out["PrimaryTaxIdentifier"] = "XXXXXXX" + number_[-4:]
        for name in ("BillAddr", "ShipAddr"):
            if isinstance(out.get(name), dict) and out[name].get("Country"):
                out[name]["Country"] = ISO3.get(out[name]["Country"], out[name]["Country"])
        return out

    def select(self, query: Query) -> list[dict[str, Any]]:
        """Rows a query asks for, all of them; paging is the caller's."""
        rows = [row for row in self.tables[query.entity].values() if all(test(row) for test in query.tests)]
        if query.order:
            order = query.order
            rows.sort(key=lambda row: _key(member(row, order)), reverse=query.is_descending)
        return rows

    def changed(self, entity: str, since: datetime) -> list[dict[str, Any]]:
        """Rows changed at or after a moment, then deletes."""
        rows = [
            self.shown(row) for row in self.tables[entity].values() if comparable(row["MetaData"]["LastUpdatedTime"]) >= since
        ]
        gone = [
            {
                "status": "Deleted",
                "domain": "QBO",
                "Id": i,
                "MetaData": {"LastUpdatedTime": at.astimezone(PACIFIC).isoformat(timespec="seconds")},
            }
            for kind, i, at in self.deleted
            if kind == entity and at.replace(microsecond=0) >= since
        ]
        return rows + gone

    # --- writing -----------------------------------------------------------------------------------------------------------

    def create(self, entity: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A new row. Raises Refused."""
        row = {key: copy.deepcopy(value) for key, value in body.items() if key not in READ_ONLY}
        row |= {"Id": str(next(self._ids)), "SyncToken": "0", "domain": "QBO", "sparse": False}
        row["MetaData"] = {"CreateTime": self.stamp(), "LastUpdatedTime": self.stamp()}
        self._check(entity, row, None)
        self.tables[entity][row["Id"]] = row
        if entity == "Payment":
            self._apply(row, 1)
        return row

    def update(self, entity: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A full or sparse update. Raises Refused."""
        old = self.row(entity, str(body["Id"]))
        if str(body.get("SyncToken")) != old["SyncToken"]:
            raise refusals.stale()
        new = {key: copy.deepcopy(value) for key, value in body.items() if key not in READ_ONLY}
        kept = {k: v for k, v in old.items() if k in READ_ONLY}
        row = (
            {**old, **new}
            if body.get("sparse")
            else {**kept, "Active": old.get("Active", True), **new}
            if "Active" in old
            else {**kept, **new}
        )
        if old.get("Active", True) and row.get("Active") is False:
            self._deactivate(entity, row)
        self._check(entity, row, old["Id"])
        self.touch(row)
        self.tables[entity][row["Id"]] = row
        return row

    def touch(self, row: dict[str, Any]) -> None:
        """A new version."""
        row["SyncToken"] = str(int(row["SyncToken"]) + 1)
        row["MetaData"] = {**row["MetaData"], "LastUpdatedTime": self.stamp()}

    def delete(self, entity: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Transactions only; gone for good, seen in change data capture alone."""
        row = self.row(entity, str(body.get("Id")))
        if str(body.get("SyncToken")) != row["SyncToken"]:
            raise refusals.stale()
        self.remove(entity, row["Id"])
        return {"status": "Deleted", "domain": "QBO", "Id": row["Id"]}

    def remove(self, entity: str, object_id: str) -> None:
        """Takes a transaction out."""
        row = self.tables[entity].pop(object_id)
        if entity == "Payment":
            self._apply(row, -1)
        self.deleted.append((entity, object_id, self.clock.now()))

    def void(self, entity: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The row stays with zeros and a note."""
        row = self.row(entity, str(body.get("Id")))
        if str(body.get("SyncToken")) != row["SyncToken"]:
            raise refusals.stale()
        for line in sales_lines(row):
            line["Amount"] = Decimal(0)
            line["SalesItemLineDetail"] |= {"Qty": Decimal(0)}
        row["Line"] = [line for line in row["Line"] if line["DetailType"] != "DiscountLineDetail"]
        settle(row, self.rates())
        row |= {"Balance": Decimal(0), "PrivateNote": "Voided" + (f" - {note}" if (note := row.get("PrivateNote")) else "")}
        self.touch(row)
        return row

    def rates(self) -> dict[str, tuple[str, Decimal]]:
        """Rate id and percent by tax code id."""
        found = {}
        for code in self.tables["TaxCode"].values():
            rate = code["SalesTaxRateList"]["TaxRateDetail"][0]["TaxRateRef"]["value"]
            found[code["Id"]] = (rate, number(self.tables["TaxRate"][rate]["RateValue"]))
        return found

    # --- rules -------------------------------------------------------------------------------------------------------------

    def _check(self, entity: str, row: dict[str, Any], own_id: str | None) -> None:
        for name, most in LENGTHS.items():
            if isinstance(row.get(name), str) and len(row[name]) > most:
                raise refusals.too_long(name, most)
        if entity in PEOPLE:
            self._check_person(entity, row, own_id)
        elif entity == "Item":
            self._check_item(row, own_id)
        elif entity in SALES:
            self._check_sale(entity, row, own_id)
        elif entity in NAMED and not row.get("Name"):
            raise refusals.missing("Name")

    def _check_person(self, entity: str, row: dict[str, Any], own_id: str | None) -> None:
        parts = [row.get(name) for name in ("Title", "GivenName", "MiddleName", "FamilyName", "Suffix")]
        row["DisplayName"] = row.get("DisplayName") or " ".join(part for part in parts if part)
        if not row["DisplayName"]:
            raise refusals.missing("DisplayName")
        if re.search(r"[:\t\n]", row["DisplayName"]):
            raise refusals.Refused(
                "2040", "Invalid string", "DisplayName must not hold a colon, tab or newline", element="DisplayName"
            )
        for kind in PEOPLE:
            for other in self.tables[kind].values():
                same = (
                    other["DisplayName"].removesuffix(DELETED).casefold() == row["DisplayName"].removesuffix(DELETED).casefold()
                )
                if same and (kind != entity or other["Id"] != own_id):
                    raise refusals.duplicate_name(other if kind == entity else None)
        row["FullyQualifiedName"] = row["PrintOnCheckName"] = row["DisplayName"]
        row.setdefault("Active", True)
        row.setdefault("CurrencyRef", {"value": self.home})
        if own_id is not None and self.tables[entity][own_id].get("CurrencyRef") != row["CurrencyRef"]:
            raise refusals.business("the currency of a customer cannot change")
        row |= {"Job": row.get("Job", False), "IsProject": row.get("IsProject", False), "Balance": row.get("Balance", Decimal(0))}
        self._references(row, {"SalesTermRef": "Term", "PaymentMethodRef": "PaymentMethod"})

    def _check_item(self, row: dict[str, Any], own_id: str | None) -> None:
        if not row.get("Name"):
            raise refusals.missing("Name")
        if row.get("Type") not in ("Inventory", "Service", "NonInventory", "Category", "Group"):
            raise refusals.Refused("2170", "Invalid Enumeration", f"Item.Type {row.get('Type')}", element="Type")
        for other in self.tables["Item"].values():
            if (
                other["Id"] != own_id
                and other["Name"].removesuffix(DELETED).casefold() == row["Name"].removesuffix(DELETED).casefold()
            ):
                raise refusals.duplicate_name(other)
        sold = row["Type"] in ("Inventory", "Service", "NonInventory")
        if sold and not row.get("IncomeAccountRef"):
            raise refusals.missing("IncomeAccountRef")
        if row["Type"] == "Inventory" and not (
            row.get("AssetAccountRef") and row.get("ExpenseAccountRef") and row.get("InvStartDate")
        ):
            raise refusals.missing("AssetAccountRef")
        self._references(
            row,
            {
                "IncomeAccountRef": "Account",
                "ExpenseAccountRef": "Account",
                "AssetAccountRef": "Account",
                "SalesTaxCodeRef": "TaxCode",
            },
        )
        if parent := row.get("ParentRef"):
            if self.tables["Item"].get(parent["value"], {}).get("Type") != "Category":
                raise refusals.bad_reference("Items", parent["value"])
            parent["name"] = self.tables["Item"][parent["value"]]["Name"]
        row.setdefault("Active", True)
        row.setdefault("FullyQualifiedName", row["Name"])

    def _check_sale(self, entity: str, row: dict[str, Any], own_id: str | None) -> None:
        if entity in ("Invoice", "CreditMemo", "Estimate") and not row.get("CustomerRef"):
            raise refusals.missing("CustomerRef")
        if not row.get("Line"):
            raise refusals.missing("Line")
        row.setdefault("TxnDate", self.clock.now().astimezone(PACIFIC).date().isoformat())
        if self.close_date and row["TxnDate"] <= self.close_date:
            raise refusals.Refused(
                "6210", "Account Period Closed", "The account period has closed and the account books cannot be updated."
            )
        self._references(
            row,
            {
                "CustomerRef": "Customer",
                "SalesTermRef": "Term",
                "PaymentMethodRef": "PaymentMethod",
                "DepositToAccountRef": "Account",
            },
        )
        self._check_currency(row)
        for line in sales_lines(row):
            self._check_line(line)
        for index, line in enumerate(row["Line"], 1):
            if line["DetailType"] != "SubTotalLineDetail":
                line.setdefault("Id", str(index))
                line.setdefault("LineNum", index)
        self._check_number(entity, row, own_id)
        settle(row, self.rates())
        paid = self._paid(row["Id"]) if entity == "Invoice" else Decimal(0)
        row["Balance"] = row["TotalAmt"] - paid if entity == "Invoice" else Decimal(0)
        row.setdefault("LinkedTxn", [])

    def _check_currency(self, row: dict[str, Any]) -> None:
        customer = self.tables["Customer"].get((row.get("CustomerRef") or {}).get("value", ""))
        expected = customer["CurrencyRef"]["value"] if customer else self.home
        currency = row.setdefault("CurrencyRef", {"value": expected})
        if currency["value"] != expected:
            raise refusals.business(f"the transaction is in {currency['value']}, the customer in {expected}")

    def _check_line(self, line: dict[str, Any]) -> None:
        detail = line.get("SalesItemLineDetail")
        if detail is None:
            raise refusals.missing("Line.SalesItemLineDetail")
        if line.get("Amount") is None:
            raise refusals.missing("Line.Amount")
        if not (detail.get("TaxCodeRef") or {}).get("value"):
            raise refusals.business("Make sure all your transactions have a VAT rate before you save.")
        if detail["TaxCodeRef"]["value"] not in self.tables["TaxCode"]:
            raise refusals.bad_reference("TaxCode", detail["TaxCodeRef"]["value"])
        item = (detail.get("ItemRef") or {}).get("value")
        if item is not None and item != SHIPPING:
            if item not in self.tables["Item"]:
                raise refusals.bad_reference("Items", item)
            detail["ItemRef"]["name"] = self.tables["Item"][item]["FullyQualifiedName"]
        if detail.get("Qty") is not None and detail.get("UnitPrice") is not None:
            expected = cents(number(detail["Qty"]) * number(detail["UnitPrice"]))
            if expected != cents(number(line["Amount"])):
                text = "Amount calculation incorrect in the request"
                raise refusals.Refused(
                    "6070", text, f"{text} : Amount is not equal to UnitPrice * Qty. Supplied value:{line['Amount']}"
                )

    def _check_number(self, entity: str, row: dict[str, Any], own_id: str | None) -> None:
        if not self.custom_txn_numbers:
            row["DocNumber"] = self.tables[entity][own_id]["DocNumber"] if own_id else str(next(self._numbers))
            return
        for other in self.tables[entity].values():
            if row.get("DocNumber") and other.get("DocNumber") == row["DocNumber"] and other["Id"] != own_id:
                raise refusals.duplicate_number(row["DocNumber"], entity, other["Id"])

    def _references(self, row: dict[str, Any], kinds: Mapping[str, str]) -> None:
        for name, kind in kinds.items():
            ref = row.get(name)
            if not ref:
                continue
            found = self.tables[kind].get(str(ref.get("value")))
            if found is None:
                raise refusals.bad_reference("Names" if kind == "Customer" else f"{kind}s", str(ref.get("value")))
            if name != "SalesTermRef":
                ref["name"] = found.get("DisplayName") or found.get("Name")

    def _deactivate(self, entity: str, row: dict[str, Any]) -> None:
        name = "DisplayName" if entity in PEOPLE else "Name"
        if entity == "Customer" and row.get("Balance"):
            raise refusals.business("a customer with a balance cannot be made inactive")
        if not row[name].endswith(DELETED):
            row[name] += DELETED

    # --- payments ------------------------------------------------------------------------------------------------------------

    def _paid(self, invoice_id: str) -> Decimal:
        return sum(
            (
                number(line["Amount"])
                for payment in self.tables["Payment"].values()
                for line in payment.get("Line", [])
                if any(link == {"TxnId": invoice_id, "TxnType": "Invoice"} for link in line.get("LinkedTxn", []))
            ),
            Decimal(0),
        )

    def _apply(self, payment: Mapping[str, Any], sign: int) -> None:
        """A payment lowers the balance of its invoices and makes them new versions."""
        for line in payment.get("Line", []):
            for link in line.get("LinkedTxn", []):
                invoice = self.tables["Invoice"].get(link["TxnId"]) if link["TxnType"] == "Invoice" else None
                if invoice is None:
                    continue
                invoice["Balance"] -= sign * number(line["Amount"])
                entry = {"TxnId": payment["Id"], "TxnType": "Payment"}
                invoice["LinkedTxn"] = [item for item in invoice["LinkedTxn"] if item != entry] + ([entry] if sign > 0 else [])
                self.touch(invoice)


def _key(value: Any) -> Any:
    value = comparable(value)
    if isinstance(value, str) and value.isdigit():
        return (0, int(value), "")
    return (1, 0, value.isoformat() if isinstance(value, datetime) else str(value or ""))
