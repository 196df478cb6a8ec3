"""Seeded data of the simulated company: reference lists, the first articles of the catalogue, customers, documents of every fate.

Used by the simulator's `seed` only; everything goes through the company's own rules.
"""

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation import writing
from connectors.quickbooks.simulation.company import CURRENCIES, Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, SHIPPING
from connectors.quickbooks.simulation.totals import cents

TAX_CODES = {"NL 21% S": 21, "NL 9% S": 9, "NL 0% Z": 0, "EU goods": 0, "OSS DE": 19, "OSS FR": 20, "OSS SE": 25}
TERMS = {"Due on receipt": 0, "Net 14": 14, "Net 30": 30}
METHODS = {"iDEAL": "NON_CREDIT_CARD", "Visa": "CREDIT_CARD", "Cash": "NON_CREDIT_CARD"}
ACCOUNTS = {
    "Sales of Product Income": "Income",
    "Cost of sales": "Cost of Goods Sold",
    "Inventory Asset": "Other Current Asset",
    "1105 PSP clearing": "Bank",
    "Undeposited Funds": "Other Current Asset",
    "Accounts Receivable": "Accounts Receivable",
}
CATEGORIES = ("Webshop", "Stationery")
PRODUCTS = 10
"""Of the catalogue's forty; the others come from the other system."""
BUYERS = 30
FOREIGN = {9: "SEK", 19: "SEK", 28: "USD"}
"""Buyers who are invoiced in another currency."""
UNKNOWN_SKU = "QBO-ONLY-1"
ADJECTIVES = ("Oak", "Walnut", "Linen", "Brass", "Smoked", "Compact", "Folding", "Woven")
NAMES = ("de Boer", "Müller", "山田", "Ελένη", "Иванова", "Żółć", "Ångström", "Çelebi", "O'Brien")
PLACES = (
    ("NL", "Keizersgracht", "1015 CN", "Amsterdam"),
    ("BE", "Meir", "2000", "Antwerpen"),
    ("DE", "Hauptstraße", "10115", "Berlin"),
    ("FR", "Rue de la Paix", "75002", "Paris"),
    ("SE", "Drottninggatan", "111 51", "Stockholm"),
)
ABROAD = ("DE", "FR", "SE")
DAYS_LATE, DAYS_BACK_MAX = 13, 40


def references(company: Company) -> None:
    """Tax codes and rates, terms, payment methods, accounts, currencies: as they were before the app was connected."""
    for name, percent in TAX_CODES.items():
        rate = company.add("TaxRate", {"Name": f"{name} (Sales)", "RateValue": Decimal(percent), "Active": True})
        detail = {"TaxTypeApplicable": "TaxOnAmount", "TaxRateRef": {"value": rate["Id"], "name": rate["Name"]}, "TaxOrder": 0}
        lists = {"SalesTaxRateList": {"TaxRateDetail": [detail]}, "PurchaseTaxRateList": {"TaxRateDetail": []}}
        company.add("TaxCode", {"Name": name, "Description": name, "Active": True, "Taxable": True, "TaxGroup": True, **lists})
    for name, days in TERMS.items():
        writing.create(company, "Term", {"Name": name, "Type": "STANDARD", "DueDays": days})
    for name, kind in METHODS.items():
        writing.create(company, "PaymentMethod", {"Name": name, "Type": kind})
    for name, kind in ACCOUNTS.items():
        writing.create(company, "Account", {"Name": name, "AccountType": kind})
    for code in CURRENCIES:
        if code != company.home:
            writing.create(company, "CompanyCurrency", {"Code": code, "Name": CURRENCIES[code]})


def seed(company: Company, order_count: int, number: int, *, missing_products: bool = False) -> None:
    """The same numbers give the same rows. With `missing_products` some documents sell an article no other system has."""
    if not company.tables["TaxCode"]:
        references(company)
    chance = random.Random(number)  # noqa: S311 - repeatable data, no secret
    items = _items(company)
    unknown = _item(company, UNKNOWN_SKU, "Bespoke work", Decimal("40.00"), "Service", None) if missing_products else None
    buyers = [row for n in range(1, BUYERS + 1) for row in _buyers(company, n)]
    for n in range(1, order_count + 1):
        _Document(company, chance, n, items, buyers, unknown if n % 7 == 0 else None).make()


def _known(company: Company, entity: str, name: str) -> Row | None:
    field = ENTITIES[entity].name_field
    return next((row for row in company.tables[entity].values() if row[field] == name), None)


def _items(company: Company) -> list[Row]:
    categories = []
    for name in CATEGORIES:
        categories.append(_known(company, "Item", name) or writing.create(company, "Item", {"Name": name, "Type": "Category"}))
    items = []
    for n in range(1, PRODUCTS + 1):
        kind = "Service" if n % 7 == 0 else "NonInventory"
        parent = categories[n % 2] if n % 3 == 0 else None
        name = f"Product {n} {ADJECTIVES[n % len(ADJECTIVES)]}"
        items.append(_item(company, f"BUS-{n:04d}", name, Decimal(n * 5) + Decimal("4.95"), kind, parent))
    return items


def _item(company: Company, sku: str, name: str, price: Decimal, kind: str, parent: Row | None) -> Row:
    known = _known(company, "Item", name)
    if known is not None:
        return known
    body: Row = {
        "Name": name,
        "Sku": sku,
        "Type": kind,
        "Description": name,
        "UnitPrice": price,
        "IncomeAccountRef": {"value": company.id_named("Account", "Sales of Product Income")},
        "SalesTaxCodeRef": {"value": company.id_named("TaxCode", "NL 9% S" if is_low(sku) else "NL 21% S")},
    }
    if parent is not None:
        body |= {"SubItem": True, "ParentRef": {"value": parent["Id"]}}
    return writing.create(company, "Item", body)


def is_low(sku: str) -> bool:
    """Whether an article of the catalogue is sold at the low rate: each fifth."""
    return sku.startswith("BUS-") and int(sku[-4:]) % 5 == 0


def email(n: int) -> str:
    """Buyer n's address, the same in every simulator of the pair."""
    return f"buyer{n}@example{n % 7}.test"


def _buyers(company: Company, n: int) -> list[Row]:
    """Even buyers are companies, odd ones persons; buyer 2 is registered as a person too, under the same address."""
    made = [_buyer(company, n, is_company=n % 2 == 0)]
    if n == 2:
        made.append(_buyer(company, n, is_company=False))
    return made


def _buyer(company: Company, n: int, *, is_company: bool) -> Row:
    country, street, postcode, city = PLACES[n % len(PLACES)]
    family = f"{NAMES[n % len(NAMES)]} {n}"
    name = f"{family} & Co" if is_company else f"Buyer {family}"
    known = _known(company, "Customer", name)
    if known is not None:
        return known
    body: Row = {
        "DisplayName": name,
        "PrimaryEmailAddr": {"Address": email(n)},
        "PrimaryPhone": {"FreeFormNumber": f"+3120555{n:04d}"},
        "BillAddr": {"Line1": f"{street} {n}", "PostalCode": postcode, "City": city, "Country": country},
        "SalesTermRef": {"value": company.id_named("Term", list(TERMS)[n % len(TERMS)])},
        "CurrencyRef": {"value": FOREIGN.get(n, company.home)},
    }
    if is_company:
        body |= {"CompanyName": name, "PrimaryTaxIdentifier": f"{country}{810_000_000 + n}B01"}
    else:
        body |= {"GivenName": "Buyer", "FamilyName": family}
    if n % 4 == 0:
        body["ShipAddr"] = {"Line1": f"Loods {n}, Havenweg 8", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"}
    return writing.create(company, "Customer", body)


class _Document:
    """One document and what becomes of it."""

    def __init__(
        self, company: Company, chance: random.Random, n: int, items: list[Row], buyers: list[Row], extra: Row | None
    ) -> None:
        self._company, self._chance, self._n, self._items, self._extra = company, chance, n, items, extra
        self._entity = self._kind()
        is_anonymous = self._entity in ("SalesReceipt", "RefundReceipt") and chance.random() < 0.3
        self._buyer = None if is_anonymous else chance.choice(buyers)

    def _kind(self) -> str:
        if self._n % 20 == 0:
            return "CreditMemo"
        if self._n % 20 == 10:
            return "RefundReceipt"
        return "SalesReceipt" if self._chance.random() < 0.35 else "Invoice"

    def make(self) -> None:
        """Creates it, then pays, part pays or voids it."""
        chance, company = self._chance, self._company
        is_late = chance.random() < 0.15
        days = chance.randint(DAYS_LATE + 1, DAYS_BACK_MAX) if is_late and self._n % 5 == 0 else chance.randint(0, DAYS_LATE)
        body: Row = {
            "TxnDate": (company.now() - timedelta(days=days)).date().isoformat(),
            "GlobalTaxCalculation": "TaxExcluded",
            "Line": self._lines(),
        }
        if company.custom_txn_numbers:
            body["DocNumber"] = f"WEB-{self._n:05d}"
        if self._buyer is not None:
            body |= {"CustomerRef": {"value": self._buyer["Id"]}, "CurrencyRef": {"value": self._buyer["CurrencyRef"]["value"]}}
        if self._entity in ("SalesReceipt", "RefundReceipt"):
            method = chance.choice(list(METHODS))
            body["PaymentMethodRef"] = {"value": company.id_named("PaymentMethod", method)}
            body["DepositToAccountRef"] = {"value": company.id_named("Account", "1105 PSP clearing")}
        elif self._entity == "Invoice":
            body["SalesTermRef"] = {"value": company.id_named("Term", chance.choice(list(TERMS)))}
        document = writing.create(company, self._entity, body, may_repeat_number=True)
        if self._entity == "Invoice":
            self._settle(document)

    def _tax_code(self, item: Row | None) -> dict[str, str]:
        """Consumers abroad by the one-stop shop, companies abroad without tax; Belgium counts as here."""
        country = self._buyer["BillAddr"]["Country"] if self._buyer else "NL"
        if country in ABROAD:
            name = "EU goods" if self._buyer and self._buyer.get("CompanyName") else f"OSS {country}"
        else:
            name = "NL 9% S" if item is not None and is_low(item["Sku"]) else "NL 21% S"
        return {"value": self._company.id_named("TaxCode", name)}

    def _lines(self) -> list[Row]:
        chance = self._chance
        sold = chance.sample(self._items, chance.randint(1, 3)) + ([self._extra] if self._extra else [])
        lines: list[Row] = [self._sale(item, Decimal(chance.randint(1, 4))) for item in sold]
        if chance.random() < 0.3:
            detail: dict[str, Any] = {"ItemRef": {"value": SHIPPING}, "TaxCodeRef": self._tax_code(None)}
            lines.append({"DetailType": "SalesItemLineDetail", "Amount": Decimal("6.50"), "SalesItemLineDetail": detail})
        total = sum((line["Amount"] for line in lines), Decimal(0))
        if chance.random() < 0.1:
            lines.append({"DetailType": "DescriptionOnly", "Description": "Gift wrapped, with our thanks"})
        if chance.random() < 0.2:
            by_percent = chance.random() < 0.5
            detail = {"PercentBased": True, "DiscountPercent": Decimal(10)} if by_percent else {"PercentBased": False}
            lines.append({"DetailType": "DiscountLineDetail", "Amount": cents(total / 10), "DiscountLineDetail": detail})
        return lines

    def _sale(self, item: Row, quantity: Decimal) -> Row:
        detail = {
            "ItemRef": {"value": item["Id"]},
            "Qty": quantity,
            "UnitPrice": item["UnitPrice"],
            "TaxCodeRef": self._tax_code(item),
        }
        amount = cents(quantity * item["UnitPrice"])
        return {"DetailType": "SalesItemLineDetail", "Amount": amount, "Description": item["Name"], "SalesItemLineDetail": detail}

    def _settle(self, invoice: Row) -> None:
        fate = self._chance.random()
        if fate >= 0.95:
            writing.void(self._company, "Invoice", invoice)
        elif fate < 0.75:
            amount = invoice["TotalAmt"] if fate < 0.6 else cents(invoice["TotalAmt"] / 2)
            link = {"TxnId": invoice["Id"], "TxnType": "Invoice"}
            body = {
                "CustomerRef": {"value": invoice["CustomerRef"]["value"]},
                "TotalAmt": amount,
                "TxnDate": invoice["TxnDate"],
                "PaymentMethodRef": {"value": self._company.id_named("PaymentMethod", "iDEAL")},
                "Line": [{"Amount": amount, "LinkedTxn": [link]}],
            }
            writing.create(self._company, "Payment", body)
