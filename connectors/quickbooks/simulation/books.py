"""The company's books in neutral form, from the state alone."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.company import DELETED, SALES, Company
from connectors.quickbooks.simulation.totals import cents, number, sales_lines

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
    customer = company.tables["Customer"].get((row.get("CustomerRef") or {}).get("value", ""))
    taxes = row["TxnTaxDetail"]["TaxLine"]
    rates: dict[str, Decimal] = {}
    for tax in taxes:
        rate = f"{number(tax['TaxLineDetail']['TaxPercent']):.2f}"
        rates[rate] = rates.get(rate, Decimal(0)) + tax["Amount"]
    return {
        "id": f"{entity}:{row['Id']}",
        "kind": KINDS[entity],
        "number": row.get("DocNumber"),
        "reference": row.get("DocNumber"),
        "date": row["TxnDate"],
        "currency": row["CurrencyRef"]["value"],
        "total_excl": str(cents(row["TotalAmt"] - row["TxnTaxDetail"]["TotalTax"])),
        "total_incl": str(cents(row["TotalAmt"])),
        "vat_by_rate": {rate: str(cents(amount)) for rate, amount in sorted(rates.items())},
        "status": _status(company, entity, row),
        "customer_id": (row.get("CustomerRef") or {}).get("value"),
        "customer": customer["DisplayName"] if customer else None,
        "private_note": row.get("PrivateNote"),
        "lines": [_line(company, line) for line in sales_lines(row)],
    }


def _status(company: Company, entity: str, row: Mapping[str, Any]) -> str:
    if str(row.get("PrivateNote") or "").startswith("Voided"):
        return "VOID"
    if entity in ("SalesReceipt", "RefundReceipt"):
        return "PAID"
    if entity != "Invoice":
        return "OPEN"
    money = sum(
        (_money(company, link["TxnId"], row["Id"]) for link in row["LinkedTxn"] if link["TxnType"] == "Payment"), Decimal(0)
    )
    if row["TotalAmt"] > 0 and money >= row["TotalAmt"]:
        return "PAID"
    return "PARTIAL" if money > 0 else "OPEN"


def _money(company: Company, payment_id: str, invoice_id: str) -> Decimal:
    """Money of a payment that went to an invoice: a credit applied is none."""
    payment = company.tables["Payment"].get(payment_id)
    if payment is None or not number(payment.get("TotalAmt")):
        return Decimal(0)
    return sum(
        (
            number(line["Amount"])
            for line in payment["Line"]
            if any(link["TxnId"] == invoice_id and link["TxnType"] == "Invoice" for link in line["LinkedTxn"])
        ),
        Decimal(0),
    )


def _line(company: Company, line: Mapping[str, Any]) -> dict[str, Any]:
    detail = line["SalesItemLineDetail"]
    item = company.tables["Item"].get((detail.get("ItemRef") or {}).get("value", ""))
    quantity = number(detail.get("Qty") if detail.get("Qty") is not None else 1)
    return {
        "sku": item.get("Sku") if item else (detail.get("ItemRef") or {}).get("value"),
        "quantity": f"{quantity.normalize():f}",
        "net": str(cents(number(line["Amount"]))),
    }


def _customer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["Id"],
        "name": row["DisplayName"].removesuffix(DELETED),
        "email": (row.get("PrimaryEmailAddr") or {}).get("Address"),
        "active": row["Active"],
        "currency": row["CurrencyRef"]["value"],
        "company": bool(row.get("CompanyName")),
    }


def _product(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["Id"], "sku": row.get("Sku"), "name": row["Name"].removesuffix(DELETED), "active": row["Active"]}
