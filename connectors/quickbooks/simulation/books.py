"""The company's books in neutral form, from the state alone: what the verdict of a demo is taken from."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.company import Company
from connectors.quickbooks.simulation.entities import SALES, SHIPPING
from connectors.quickbooks.simulation.names import DELETED
from connectors.quickbooks.simulation.totals import ZERO, cents, sales_lines
from connectors.quickbooks.simulation.writing import VOIDED

KINDS = {
    "Invoice": "INVOICE",
    "SalesReceipt": "RECEIPT",
    "CreditMemo": "CREDIT_NOTE",
    "RefundReceipt": "REFUND_RECEIPT",
    "Estimate": "ESTIMATE",
}


def books(company: Company) -> dict[str, Any]:
    """Documents, customers and products; amounts as strings."""
    return {
        "documents": [_document(company, entity, row) for entity in SALES for row in company.tables[entity].values()],
        "customers": [_customer(row) for row in company.tables["Customer"].values()],
        "products": [_product(row) for row in company.tables["Item"].values() if row["Type"] != "Category"],
    }


def _document(company: Company, entity: str, row: Mapping[str, Any]) -> dict[str, Any]:
    customer = company.find("Customer", (row.get("CustomerRef") or {}).get("value"))
    vat: dict[str, Decimal] = {}
    for tax in row["TxnTaxDetail"]["TaxLine"]:
        rate = text(tax["TaxLineDetail"]["TaxPercent"])
        vat[rate] = vat.get(rate, ZERO) + tax["Amount"]
    return {
        "id": f"{entity}:{row['Id']}",
        "kind": KINDS[entity],
        "number": row.get("DocNumber"),
        "reference": row.get("DocNumber"),
        "currency": row["CurrencyRef"]["value"],
        "date": row["TxnDate"],
        "total_excl": text(row["TotalAmt"] - row["TxnTaxDetail"]["TotalTax"]),
        "total_incl": text(row["TotalAmt"]),
        "vat_by_rate": {rate: text(amount) for rate, amount in sorted(vat.items())},
        "status": _status(company, entity, row),
        "customer_id": customer["Id"] if customer else None,
        "customer": customer["DisplayName"].removesuffix(DELETED) if customer else None,
        "private_note": row.get("PrivateNote"),
        "lines": [_line(company, line) for line in sales_lines(row["Line"])],
    }


def _status(company: Company, entity: str, row: Mapping[str, Any]) -> str:
    if not row["TotalAmt"] and str(row.get("PrivateNote", "")).startswith(VOIDED):
        return "VOID"
    if entity in ("SalesReceipt", "RefundReceipt"):
        return "PAID"
    if entity not in ("Invoice", "CreditMemo"):
        return "OPEN"
    links = company.links[(entity, row["Id"])]
    paid = sum((amount for payment, amount in links.items() if entity == "CreditMemo" or _is_money(company, payment)), ZERO)
    if paid <= 0:
        return "OPEN"
    return "PAID" if paid >= row["TotalAmt"] else "PARTIAL"


def _is_money(company: Company, payment_id: str) -> bool:
    """A payment of nothing only sets a credit against an invoice."""
    payment = company.find("Payment", payment_id)
    return payment is not None and payment["TotalAmt"] > 0


def _line(company: Company, line: Mapping[str, Any]) -> dict[str, Any]:
    detail = line["SalesItemLineDetail"]
    item_id = (detail.get("ItemRef") or {}).get("value")
    item = company.find("Item", item_id)
    return {
        "sku": SHIPPING if item_id == SHIPPING else item.get("Sku") if item else None,
        "quantity": plain(detail.get("Qty", Decimal(1))),
        "net": text(line["Amount"]),
    }


def _customer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["Id"],
        "name": row["DisplayName"].removesuffix(DELETED),
        "email": (row.get("PrimaryEmailAddr") or {}).get("Address"),
        "active": row["Active"],
        "currency": row["CurrencyRef"]["value"],
    }


def _product(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["Id"], "sku": row.get("Sku"), "name": row["Name"].removesuffix(DELETED), "active": row["Active"]}


def text(amount: Decimal) -> str:
    """Two decimals."""
    return f"{cents(amount):f}"


def plain(number: Decimal) -> str:
    """A quantity without trailing zeros."""
    shown = f"{number:f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
