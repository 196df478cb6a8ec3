"""Rules of sales: customers and their currencies, lines, numbers, closed periods, totals."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation import lines
from connectors.quickbooks.simulation.company import EXCHANGE_RATES, Company, Row
from connectors.quickbooks.simulation.refusals import bad_reference, business, duplicate_number, missing, period_closed
from connectors.quickbooks.simulation.totals import cents, settle

ONE_CURRENCY = "You can only use one foreign currency per transaction."
OVERRIDES = "_overrides"
"""Tax by rate id, as a client stated it."""
ESTIMATES = "_estimates"
"""Links to estimates, as a client stated them."""


def check_period(company: Company, row: Row) -> None:
    """Raises Refused 6210 for a date in a closed period."""
    if company.close_date is not None and row["TxnDate"] <= company.close_date:
        raise period_closed(company.close_date)


def prepare(company: Company, entity: str, row: Row, old: Row | None, *, may_repeat_number: bool) -> None:
    """Checks a sale and completes it. Raises Refused."""
    row.setdefault("TxnDate", company.now().date().isoformat())
    check_period(company, row)
    customer = _customer(company, row)
    _prepare_currency(company, row, customer)
    row.setdefault("GlobalTaxCalculation", "TaxExcluded")
    lines.prepare(company, row, old)
    _number(company, entity, row, old, may_repeat=may_repeat_number)
    _prepare_form(company, entity, row, customer)
    _prepare_taxes(company, row, old)
    settle(row, company.rates(), row[OVERRIDES])
    if row["CurrencyRef"]["value"] != company.home:
        row["HomeTotalAmt"] = cents(row["TotalAmt"] * row["ExchangeRate"])
    row[ESTIMATES] = _estimates(company, entity, row)
    row.setdefault("Balance", old["Balance"] if old else Decimal(0))


def _customer(company: Company, row: Row) -> Row | None:
    return company.find("Customer", row["CustomerRef"]["value"]) if "CustomerRef" in row else None


def _prepare_currency(company: Company, row: Row, customer: Row | None) -> None:
    """A customer's documents are all in the customer's currency; without a customer the home currency is meant."""
    own = customer["CurrencyRef"]["value"] if customer else company.home
    code = (row.get("CurrencyRef") or {"value": own})["value"]
    row["CurrencyRef"] = company.currency(code)
    if code != own:
        raise business(ONE_CURRENCY)
    if code == company.home:
        row.pop("ExchangeRate", None)
    else:
        row.setdefault("ExchangeRate", EXCHANGE_RATES.get(code, Decimal(1)))


def _number(company: Company, entity: str, row: Row, old: Row | None, *, may_repeat: bool) -> None:
    """With custom numbers a number is the client's and unique per type; without them the server alone gives numbers."""
    if not company.custom_txn_numbers:
        row["DocNumber"] = old["DocNumber"] if old else company.next_number()
        return
    if row.pop("AutoDocNumber", False) and "DocNumber" not in row:
        row["DocNumber"] = company.next_number()
    other = company.numbers.get((entity, row["DocNumber"])) if "DocNumber" in row else None
    if other is not None and not may_repeat and (old is None or other != old["Id"]):
        raise duplicate_number(row["DocNumber"], entity, other)


def _prepare_form(company: Company, entity: str, row: Row, customer: Row | None) -> None:
    """What a sales form fills in by itself: addresses, due date, statuses, the account money goes to."""
    for name in ("BillAddr", "ShipAddr"):
        if name not in row and customer and isinstance(customer.get(name), dict):
            row[name] = {member: value for member, value in customer[name].items() if member != "Id"}
        if name in row:
            row[name].setdefault("Id", company.next_address())
    row.setdefault("EmailStatus", "NotSet")
    if row["EmailStatus"] == "NeedToSend" and not (row.get("BillEmail") or {}).get("Address"):
        raise missing("BillEmail")
    row.setdefault("PrintStatus", "NeedToPrint")
    row.setdefault("CustomField", [])
    if entity == "Invoice":
        row.setdefault("Deposit", Decimal(0))
        row.setdefault("DueDate", _due(company, row))
    elif entity == "SalesReceipt" and "DepositToAccountRef" not in row:
        row["DepositToAccountRef"] = {"value": company.id_named("Account", "Undeposited Funds")}
    elif entity == "Estimate":
        row.setdefault("TxnStatus", "Pending")


def _due(company: Company, row: Row) -> str:
    term = company.find("Term", row["SalesTermRef"]["value"]) if "SalesTermRef" in row else None
    days = int(term.get("DueDays", 0)) if term else 0
    return (date.fromisoformat(row["TxnDate"]) + timedelta(days=days)).isoformat()


def _prepare_taxes(company: Company, row: Row, old: Row | None) -> None:
    """Stated tax lines override; they last until new ones, or new lines, are sent."""
    detail = row.get("TxnTaxDetail")
    if detail is None or (old is not None and detail is old.get("TxnTaxDetail")):
        is_kept = old is not None and row["Line"] is old["Line"]
        row[OVERRIDES] = old[OVERRIDES] if old is not None and is_kept else {}
        return
    stated: dict[str, Decimal] = {}
    for tax in detail.get("TaxLine", []):
        rate_id = str((tax.get("TaxLineDetail", {}).get("TaxRateRef") or {}).get("value", ""))
        if company.find("TaxRate", rate_id) is None:
            raise bad_reference("TaxRate", rate_id, "TaxRateRef")
        stated[rate_id] = stated.get(rate_id, Decimal(0)) + cents(tax["Amount"])
    row[OVERRIDES] = stated


def _estimates(company: Company, entity: str, row: Row) -> list[dict[str, Any]]:
    """Of its links an invoice may write those to estimates."""
    found = []
    for link in row.get("LinkedTxn", []):
        if entity == "Invoice" and link.get("TxnType") == "Estimate":
            company.row("Estimate", link.get("TxnId"))
            found.append({"TxnId": str(link["TxnId"]), "TxnType": "Estimate"})
    return found
