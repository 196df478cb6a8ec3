"""Lines of a sale: which kinds there are, what each needs, how they are numbered."""

import itertools
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.entities import SHIPPING
from connectors.quickbooks.simulation.refusals import bad_enumeration, bad_reference, business, missing, too_long, wrong_amount
from connectors.quickbooks.simulation.totals import cents, sales_lines

NO_TAX_CODE = "Make sure all your transactions have a VAT rate before you save."
DETAILS = {
    "SalesItemLineDetail": "SalesItemLineDetail",
    "DiscountLineDetail": "DiscountLineDetail",
    "GroupLineDetail": "GroupLineDetail",
    "DescriptionOnly": "DescriptionLineDetail",
    "SubTotalLineDetail": "SubTotalLineDetail",
}
LENGTH_MAX = 4000


def prepare(company: Company, row: Row, old: Row | None) -> None:
    """Checks the lines and numbers them. Raises Refused."""
    if old is not None and row["Line"] is old["Line"]:
        return
    sent = [line for line in row["Line"] if _kind(line) != "SubTotalLineDetail"]
    known = _items(old)
    for line in sent:
        _prepare(company, row, line, known)
    if not sales_lines(sent):
        raise missing("Line.SalesItemLineDetail")
    before = {line["Id"] for line in old["Line"] if "Id" in line} if old else set()
    fresh = (str(number) for number in itertools.count(max((int(line_id) for line_id in before), default=0) + 1))
    for number, line in enumerate(sent, 1):
        # An id this row does not know is none: the line is a new one.
        line["Id"] = str(line["Id"]) if str(line.get("Id")) in before else next(fresh)
        line["LineNum"] = number
    row["Line"] = sent


def _kind(line: Any) -> str:
    kind = line.get("DetailType") if isinstance(line, dict) else None
    if kind is None:
        raise missing("Line.DetailType")
    if kind not in DETAILS:
        raise bad_enumeration("DetailType", kind)
    return str(kind)


def _items(old: Row | None) -> set[str]:
    """Items a row had before: they may be inactive by now."""
    details = [line["SalesItemLineDetail"] for line in sales_lines(old["Line"])] if old else []
    return {detail["ItemRef"]["value"] for detail in details if "ItemRef" in detail}


def _prepare(company: Company, row: Row, line: Row, known: set[str]) -> None:
    kind = _kind(line)
    text = line.get("Description", "")
    if len(text) > LENGTH_MAX:
        raise too_long("Description", LENGTH_MAX, len(text))
    if kind == "DescriptionOnly":
        line.setdefault("DescriptionLineDetail", {})
        return
    detail = line.get(DETAILS[kind])
    if not isinstance(detail, dict):
        raise missing(f"Line.{DETAILS[kind]}")
    if kind == "GroupLineDetail":
        _prepare_bundle(company, row, line, detail, known)
    elif kind == "DiscountLineDetail":
        if "Amount" not in line and not (detail.get("PercentBased") and "DiscountPercent" in detail):
            raise missing("Line.Amount")
        line["Amount"] = cents(line.get("Amount", Decimal(0)))
    else:
        _prepare_sale(company, row, line, detail, known)


def _prepare_sale(company: Company, row: Row, line: Row, detail: Row, known: set[str]) -> None:
    if "Amount" not in line:
        raise missing("Line.Amount")
    line["Amount"] = cents(line["Amount"])
    if "Qty" in detail and "UnitPrice" in detail and cents(detail["Qty"] * detail["UnitPrice"]) != line["Amount"]:
        raise wrong_amount(line["Amount"])
    item_id = str((detail.get("ItemRef") or {}).get("value", ""))
    if item_id and item_id != SHIPPING:
        item = company.find("Item", item_id) if item_id in known else company.referred("Item", detail["ItemRef"], "ItemRef")
        if item is not None and item["Type"] in ("Category", "Group"):
            raise business("A category or a bundle cannot be sold on a line.")
        if item is not None and item["Type"] == "Inventory" and row["TxnDate"] < item["InvStartDate"]:
            raise business("Transaction date is prior to start date for inventory item.")
    if item_id:
        detail["ItemRef"] = {"value": item_id}
    if row["GlobalTaxCalculation"] == "NotApplicable":
        detail.pop("TaxCodeRef", None)
        return
    code = str((detail.get("TaxCodeRef") or {}).get("value", ""))
    if not code:
        raise business(NO_TAX_CODE)
    if company.find("TaxCode", code) is None:
        raise bad_reference("TaxCode", code, "TaxCodeRef")
    detail["TaxCodeRef"] = {"value": code}
    if "TaxInclusiveAmt" in detail:
        detail["TaxInclusiveAmt"] = cents(detail["TaxInclusiveAmt"])


def _prepare_bundle(company: Company, row: Row, line: Row, detail: Row, known: set[str]) -> None:
    """A bundle's lines are those sent, or one for each of its items."""
    bundle = company.referred("Item", detail.get("GroupItemRef"), "GroupItemRef")
    if bundle["Type"] != "Group":
        raise bad_reference("Item", bundle["Id"], "GroupItemRef")
    quantity = detail.setdefault("Quantity", Decimal(1))
    if not detail.get("Line"):
        parts = (bundle.get("ItemGroupDetail") or {}).get("ItemGroupLine", [])
        detail["Line"] = [_part(company, part, quantity) for part in parts]
    for number, part in enumerate(detail["Line"], 1):
        if _kind(part) != "SalesItemLineDetail":
            raise bad_enumeration("DetailType", part["DetailType"])
        _prepare_sale(company, row, part, part.get("SalesItemLineDetail") or {}, known)
        part["Id"], part["LineNum"] = str(number), number
    line["Amount"] = sum((part["Amount"] for part in detail["Line"]), Decimal(0))


def _part(company: Company, part: Row, quantity: Decimal) -> Row:
    item = company.referred("Item", part["ItemRef"], "ItemRef")
    number, price = quantity * Decimal(part.get("Qty", 1)), item.get("UnitPrice", Decimal(0))
    detail = {"ItemRef": {"value": item["Id"]}, "Qty": number, "UnitPrice": price, "TaxCodeRef": item.get("SalesTaxCodeRef")}
    return {"DetailType": "SalesItemLineDetail", "Amount": cents(number * price), "SalesItemLineDetail": detail}
