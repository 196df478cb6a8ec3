"""Payments and what they do to invoices and credit memos: balances, links, new versions."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.refusals import bad_enumeration, bad_format, business, missing
from connectors.quickbooks.simulation.sales import ESTIMATES, ONE_CURRENCY, check_period
from connectors.quickbooks.simulation.totals import ZERO, cents

APPLIED_TO = ("Invoice", "CreditMemo")
TOO_MUCH = "The amount you are applying is more than the open balance of the transaction."

Key = tuple[str, str]


def prepare(company: Company, row: Row, old: Row | None) -> None:
    """Checks a payment and completes it. Raises Refused."""
    row.setdefault("TxnDate", company.now().date().isoformat())
    check_period(company, row)
    if row["TotalAmt"] < 0:
        raise bad_format("TotalAmt", row["TotalAmt"])
    customer = company.row("Customer", row["CustomerRef"]["value"])
    code = customer["CurrencyRef"]["value"]
    if (row.get("CurrencyRef") or {"value": code})["value"] != code:
        raise business(ONE_CURRENCY)
    row["CurrencyRef"] = company.currency(code)
    row["TotalAmt"] = cents(row["TotalAmt"])
    row.setdefault("Line", [])
    row.setdefault("DepositToAccountRef", {"value": company.id_named("Account", "Undeposited Funds")})
    row["ProcessPayment"] = False
    used = ZERO
    for key, amount in applied_by(row).items():
        _check(company, row, old, key, amount)
        used += amount if key[0] == "Invoice" else -amount
    row["UnappliedAmt"] = row["TotalAmt"] - used
    if row["UnappliedAmt"] < 0:
        raise business("The amounts applied come to more than the payment.")


def applied_by(payment: Row) -> dict[Key, Decimal]:
    """What a payment applies to each invoice or credit memo. Raises Refused 2020 or 2170."""
    found: defaultdict[Key, Decimal] = defaultdict(Decimal)
    for line in payment.get("Line", []):
        links = line.get("LinkedTxn")
        if "Amount" not in line or not links:
            raise missing("Line.Amount" if "Amount" not in line else "Line.LinkedTxn")
        line["Amount"] = cents(line["Amount"])
        if links[0].get("TxnType") not in APPLIED_TO:
            raise bad_enumeration("TxnType", links[0].get("TxnType"))
        found[(links[0]["TxnType"], str(links[0].get("TxnId")))] += line["Amount"]
    return found


def _check(company: Company, payment: Row, old: Row | None, key: Key, amount: Decimal) -> None:
    document = company.row(*key)
    if document["CustomerRef"]["value"] != payment["CustomerRef"]["value"]:
        raise business("The transaction belongs to another customer.")
    before = company.links[key].get(old["Id"], ZERO) if old else ZERO
    if amount > _left(company, key, document) + before:
        raise business(TOO_MUCH)


def _left(company: Company, key: Key, document: Row) -> Decimal:
    left: Decimal = document["TotalAmt"] - sum(company.links[key].values(), ZERO)
    return max(left, ZERO)


def apply(company: Company, payment: Row, *, is_gone: bool = False) -> None:
    """Brings links and balances in line with a payment; each document concerned becomes a new version."""
    wanted = {} if is_gone else applied_by(payment)
    held = {key for key, amounts in company.links.items() if payment["Id"] in amounts}
    for key in sorted(held | wanted.keys()):
        if company.links[key].get(payment["Id"]) == wanted.get(key):
            continue
        company.links[key].pop(payment["Id"], None)
        if key in wanted:
            company.links[key][payment["Id"]] = wanted[key]
        document = company.find(*key)
        if document is not None:
            refresh(company, key[0], document)
            company.replace(key[0], document)


def release(company: Company, entity: str, document: Row) -> None:
    """Takes a document out of its payments, whose money is then not applied."""
    for payment_id in company.links.pop((entity, document["Id"]), {}):
        payment = company.row("Payment", payment_id)
        payment["Line"] = [line for line in payment["Line"] if not _is_for(line["LinkedTxn"][0], entity, document["Id"])]
        payment["UnappliedAmt"] = payment["TotalAmt"] - sum(
            (amount if key[0] == "Invoice" else -amount for key, amount in applied_by(payment).items()), ZERO
        )
        company.replace("Payment", payment)


def _is_for(link: Row, entity: str, object_id: str) -> bool:
    return link["TxnType"] == entity and str(link["TxnId"]) == object_id


def refresh(company: Company, entity: str, document: Row) -> None:
    """What is left of a sale, and its links."""
    key = (entity, document["Id"])
    links: Iterable[str] = company.links[key] if entity in APPLIED_TO else ()
    document["LinkedTxn"] = [*document[ESTIMATES], *({"TxnId": payment, "TxnType": "Payment"} for payment in links)]
    document["Balance"] = _left(company, key, document) if entity in APPLIED_TO else ZERO
    if entity == "CreditMemo":
        document["RemainingCredit"] = document["Balance"]


def refresh_customers(company: Company) -> None:
    """Balances of all customers; the vendor makes no new version of a customer for that."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for entity, member, sign in (("Invoice", "Balance", 1), ("CreditMemo", "Balance", -1), ("Payment", "UnappliedAmt", -1)):
        for row in company.tables[entity].values():
            sums[row["CustomerRef"]["value"]] += sign * row[member]
    for customer in company.tables["Customer"].values():
        customer["Balance"] = customer["BalanceWithJobs"] = sums[customer["Id"]]
