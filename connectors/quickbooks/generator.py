"""Seeded data of the simulated company: reference lists, a catalogue, customers of many kinds, documents of every fate."""

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.company import SHIPPING, Company
from connectors.quickbooks.simulation.totals import cents

TAX_CODES = (
    ("NL 21% S", 21), ("NL 9% S", 9), ("NL 0% Z", 0), ("EU goods", 0), ("OSS DE", 19), ("OSS FR", 20), ("OSS SE", 25),
)  # fmt: skip
TERMS = (("Due on receipt", 0), ("Net 14", 14), ("Net 30", 30))
METHODS = ("iDEAL", "Visa", "Cash")
ACCOUNTS = (
    ("Sales of Product Income", "Income"),
    ("Cost of sales", "Cost of Goods Sold"),
    ("Inventory Asset", "Other Current Asset"),
    ("1105 PSP clearing", "Bank"),
    ("Undeposited Funds", "Other Current Asset"),
    ("Accounts Receivable", "Accounts Receivable"),
)
CATALOGUE = 10
"""Items the company has; Exact has forty of the same SKUs, and the product flow brings the rest."""
BUYERS = 30
ADJECTIVES = ("oak", "steel", "dotted", "blue", "large", "folding", "woollen", "round", "matt", "garden")
PEOPLE = (
    ("Zoë", "de Boer"), ("José", "Núñez"), ("Małgorzata", "Żółć"), ("Ελένη", "Παπαδοπούλου"), ("Иван", "Петров"),
    ("花子", "山田"), ("Åsa", "Öberg"), ("Jürgen", "Groß"), ("Anaïs", "Lefèvre"), ("Pieter-Jan", "van 't Hof"),
)  # fmt: skip
PLACES = {
    "NL": ("Keizersgracht 12", "1015 CN", "Amsterdam"),
    "BE": ("Meir 24", "2000", "Antwerpen"),
    "DE": ("Torstraße 140", "10119", "Berlin"),
    "FR": ("Rue de Rivoli 18", "75004", "Paris"),
    "SE": ("Storgatan 5", "114 55", "Stockholm"),
}
COUNTRIES = ("NL", "NL", "NL", "BE", "DE", "FR", "SE")
OSS = {"DE": "OSS DE", "FR": "OSS FR", "SE": "OSS SE"}


def references(company: Company) -> None:
    """Tax codes and rates, terms, methods, accounts."""
    for name, percent in TAX_CODES:
        rate = company.create("TaxRate", {"Name": f"{name} (Sales)", "RateValue": Decimal(percent), "Active": True})
        detail = {"TaxRateRef": {"value": rate["Id"], "name": rate["Name"]}, "TaxTypeApplicable": "TaxOnAmount", "TaxOrder": 0}
        company.create(
            "TaxCode", {"Name": name, "Active": True, "Taxable": True, "SalesTaxRateList": {"TaxRateDetail": [detail]}}
        )
    for name, days in TERMS:
        company.create("Term", {"Name": name, "Active": True, "Type": "STANDARD", "DueDays": days})
    for name in METHODS:
        company.create("PaymentMethod", {"Name": name, "Active": True, "Type": "NON_CREDIT_CARD"})
    for name, kind in ACCOUNTS:
        company.create("Account", {"Name": name, "Active": True, "AccountType": kind, "FullyQualifiedName": name})


def seed(company: Company, orders: int, seed_value: int) -> None:
    """The same data for the same seed."""
    draw = random.Random(seed_value)  # noqa: S311 - test data
    items = _items(company)
    customers = [_customer(company, number, draw) for number in range(1, BUYERS + 1)]
    _pair(company, customers)
    for number in range(1, orders + 1):
        _document(company, number, draw, items, customers)


def _id(company: Company, entity: str, name: str) -> str:
    return str(next(row["Id"] for row in company.tables[entity].values() if row["Name"] == name))


def _items(company: Company) -> list[dict[str, Any]]:
    income = {"value": _id(company, "Account", "Sales of Product Income")}
    category = company.create("Item", {"Name": "Webshop", "Type": "Category"})
    items = []
    for number in range(1, CATALOGUE + 1):
        body: dict[str, Any] = {
            "Name": f"Product {number} {ADJECTIVES[number % len(ADJECTIVES)]}",
            "Sku": f"BUS-{number:04}",
            "Type": "Service" if number % 7 == 0 else "NonInventory",
            "Description": f"Product {number}",
            "UnitPrice": Decimal(number * 5) - Decimal("0.05"),
            "IncomeAccountRef": dict(income),
        }
        if number % 3 == 0:
            body |= {"SubItem": True, "ParentRef": {"value": category["Id"]}}
        items.append(company.create("Item", body))
    return items


def _customer(company: Company, number: int, draw: random.Random) -> dict[str, Any]:
    country = COUNTRIES[number % len(COUNTRIES)]
    given, family = PEOPLE[number % len(PEOPLE)]
    line, postal_code, city = PLACES[country]
    body: dict[str, Any] = {
        "PrimaryEmailAddr": {"Address": f"buyer{number}@example{number % 7}.test"},
        "BillAddr": {"Line1": f"{line}-{number}", "PostalCode": postal_code, "City": city, "Country": country},
        "SalesTermRef": {"value": _id(company, "Term", TERMS[number % len(TERMS)][0])},
    }
    if number % 3 == 0:
        body |= {"CompanyName": f"{family} & Co {number}", "DisplayName": f"{family} & Co {number}"}
    else:
        body |= {"GivenName": given, "FamilyName": f"{family} {number}", "DisplayName": f"{given} {family} {number}"}
    if number in (10, 20):
        body["CurrencyRef"] = {"value": "SEK" if number == 10 else "USD"}
    if draw.random() < 0.7:
        body["PrimaryPhone"] = {"FreeFormNumber": f"+3120555{number:04}"}
    return company.create("Customer", body)


def _pair(company: Company, customers: list[dict[str, Any]]) -> None:
    """A company and a person under one e-mail address."""
    email = customers[0]["PrimaryEmailAddr"]
    body = {"CompanyName": "De Vries Bakkerij B.V.", "DisplayName": "De Vries Bakkerij B.V.", "PrimaryEmailAddr": dict(email)}
    address = dict(customers[0]["BillAddr"])
    customers.append(company.create("Customer", {**body, "BillAddr": address}))


def _tax_code(company: Company, customer: dict[str, Any] | None, item: int) -> str:
    country = customer["BillAddr"]["Country"] if customer else "NL"
    if country in OSS:
        name = "EU goods" if country == "DE" and customer and customer.get("CompanyName") else OSS[country]
    else:
        name = "NL 9% S" if item % 5 == 0 else "NL 21% S"
    return _id(company, "TaxCode", name)


def _lines(
    company: Company, draw: random.Random, items: list[dict[str, Any]], customer: dict[str, Any] | None
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for _ in range(draw.randint(1, 3)):
        index = draw.randrange(len(items))
        item, quantity = items[index], Decimal(draw.randint(1, 4))
        detail = {
            "ItemRef": {"value": item["Id"]},
            "Qty": quantity,
            "UnitPrice": item["UnitPrice"],
            "TaxCodeRef": {"value": _tax_code(company, customer, index + 1)},
        }
        amount = cents(quantity * item["UnitPrice"])
        lines.append(
            {"DetailType": "SalesItemLineDetail", "Amount": amount, "Description": item["Name"], "SalesItemLineDetail": detail}
        )
    if draw.random() < 0.3:
        detail = {"ItemRef": {"value": SHIPPING}, "TaxCodeRef": {"value": _tax_code(company, customer, 1)}}
        lines.append({"DetailType": "SalesItemLineDetail", "Amount": Decimal("6.50"), "SalesItemLineDetail": detail})
    if draw.random() < 0.2:
        total = sum((line["Amount"] for line in lines), Decimal(0))
        detail = {"PercentBased": True, "DiscountPercent": Decimal(10)}
        lines.append({"DetailType": "DiscountLineDetail", "Amount": cents(total / 10), "DiscountLineDetail": detail})
    if draw.random() < 0.1:
        lines.append({"DetailType": "DescriptionOnly", "Description": "Thank you", "DescriptionLineDetail": {}})
    return lines


def _document(
    company: Company, number: int, draw: random.Random, items: list[dict[str, Any]], customers: list[dict[str, Any]]
) -> None:
    is_receipt = draw.random() < 0.35
    anonymous = is_receipt and draw.random() < 0.2
    customer = None if anonymous else draw.choice(customers)
    days = draw.randint(0, 13) if draw.random() < 0.85 else draw.randint(20, 40)
    body: dict[str, Any] = {
        "DocNumber": f"WEB-{number:05}",
        "TxnDate": (company.clock.now() - timedelta(days=days)).date().isoformat(),
        "GlobalTaxCalculation": "TaxExcluded",
        "Line": _lines(company, draw, items, customer),
    }
    if customer:
        body |= {"CustomerRef": {"value": customer["Id"]}, "BillAddr": dict(customer["BillAddr"])}
    fate = draw.random()
    if fate < 0.05 and customer:
        company.create("CreditMemo", {**body, "DocNumber": f"CRE-{number:05}"})
    elif fate < 0.08:
        deposit = {"value": _id(company, "Account", "Undeposited Funds")}
        company.create("RefundReceipt", {**body, "DocNumber": f"REF-{number:05}", "DepositToAccountRef": deposit})
    elif is_receipt:
        paid = {"PaymentMethodRef": {"value": _id(company, "PaymentMethod", draw.choice(METHODS))}}
        company.create(
            "SalesReceipt", {**body, **paid, "DepositToAccountRef": {"value": _id(company, "Account", "1105 PSP clearing")}}
        )
    else:
        term = {"SalesTermRef": {"value": _id(company, "Term", draw.choice(TERMS)[0])}}
        _settled(company, company.create("Invoice", {**body, **term}), draw)


def _settled(company: Company, invoice: dict[str, Any], draw: random.Random) -> None:
    """Paid, part paid, voided, or left open."""
    fate = draw.random()
    if fate < 0.08:
        company.void("Invoice", {"Id": invoice["Id"], "SyncToken": invoice["SyncToken"]})
        return
    if fate > 0.75 or not invoice["TotalAmt"]:
        return
    amount = invoice["TotalAmt"] if fate < 0.65 else cents(invoice["TotalAmt"] / 2)
    link = [{"TxnId": invoice["Id"], "TxnType": "Invoice"}]
    company.create(
        "Payment",
        {
            "CustomerRef": invoice["CustomerRef"],
            "CurrencyRef": invoice["CurrencyRef"],
            "TotalAmt": amount,
            "TxnDate": invoice["TxnDate"],
            "Line": [{"Amount": amount, "LinkedTxn": link}],
        },
    )
