"""The set-up every simulated division has: VAT codes, terms, charges, groups, units, classifications, the default debtor."""

from decimal import Decimal
from typing import Any

from connectors.exact_online.simulation.sets import ACCOUNTS, ITEMS
from connectors.exact_online.simulation.state import API_USER, Division, Row

DEFAULT_DEBTOR = "900001"
# (Code, Description, percent, Type, OssCountry)
VAT_CODES = (
    ("0", "Btw 0%", "0", "E", None),
    ("1", "Btw laag tarief, exclusief", "9", "E", None),
    ("2", "Btw hoog tarief, exclusief", "21", "E", None),
    ("3", "Btw laag tarief, inclusief", "9", "I", None),
    ("4", "Btw hoog tarief, inclusief", "21", "I", None),
    ("6", "Export buiten de EU", "0", "B", None),
    ("7", "Leveringen binnen de EU (ICL)", "0", "B", None),
    ("8", "Btw verlegd", "0", "B", None),
    ("D19", "OSS Duitsland 19%, exclusief", "19", "E", "DE"),
    ("D20", "OSS Duitsland 19%, inclusief", "19", "I", "DE"),
    ("F20", "OSS Frankrijk 20%, exclusief", "20", "E", "FR"),
    ("F21", "OSS Frankrijk 20%, inclusief", "20", "I", "FR"),
    ("B21", "OSS België 21%, exclusief", "21", "E", "BE"),
    ("B22", "OSS België 21%, inclusief", "21", "I", "BE"),
    ("S25", "OSS Zweden 25%, exclusief", "25", "E", "SE"),
    ("S26", "OSS Zweden 25%, inclusief", "25", "I", "SE"),
)
# (Code, Description, days, PaymentMethod)
CONDITIONS = (("PI", "Vooruitbetaald via PSP", 0, "K"), ("14", "Binnen 14 dagen", 14, "B"), ("30", "Binnen 30 dagen", 30, "B"))
UNITS = (("stuk", "Stuk", "O", 1), ("uur", "Uur", "T", 0), ("kg", "Kilogram", "W", 0))
GROUPS = (("ALG", "Algemeen", 1), ("LAMP", "Lampen", 0), ("DIENST", "Diensten", 0))
GL_ACCOUNTS = (("1300", "Debiteuren", 20, "D", "B"), ("8000", "Omzet", 110, "C", "W"), ("8100", "Omzet diensten", 110, "C", "W"))
JOURNALS = (("70", "Verkoopboek", 20), ("71", "Webshop", 20), ("90", "Memoriaal", 90))
WITHOUT_ENTRY = dict.fromkeys(("UseCostcenter", "UseCostunit", "Matching"), 0)


def fill(division: Division) -> None:
    """Puts the set-up into an empty division."""
    _company(division)
    _finance(division)
    _logistics(division)
    for code, text in (("COMPANY", "Bedrijf"), ("PERSON", "Particulier")):
        division.insert("crm/AccountClassifications", {"Code": code, "Description": text})
    _default_debtor(division)


def _company(division: Division) -> None:
    number = division.number
    division.insert(
        "current/Me",
        {
            "CurrentDivision": number,
            "AccountingDivision": number,
            "UserName": "integratie",
            "FullName": "Integratie Bus",
            "Email": "integratie@webwinkel.example",
            "LanguageCode": "nl-NL",
            "Legislation": 1,
            "DivisionCustomerCode": "1000001",
            "PackageCode": "WDP",
        },
    )
    company: dict[str, Any] = {
        "Description": "Webwinkel B.V.",
        "CustomerName": "Webwinkel B.V.",
        "Country": "NL",
        "Currency": "EUR",
        "Current": True,
        "Hid": 1,
        "Legislation": "1",
        "Status": 1,
        "BlockingStatus": 0,
        "IsMainDivision": True,
        "DivisionMoveDate": None,
    }
    row = division.insert("system/Divisions", company)
    _rekey(division, "system/Divisions", row, str(number))
    row.values["Code"] = number
    _rekey(division, "current/Me", next(iter(division.table("current/Me").rows.values())), API_USER)


def _rekey(division: Division, path: str, row: Row, key: str) -> None:
    table = division.table(path)
    table.remove(row)
    row.id = key
    row.values[table.entity_set.key] = key
    table.put(row)


def _finance(division: Division) -> None:
    for code, text, percent, kind, country in VAT_CODES:
        fraction = Decimal(percent) / 100
        own = {"Percentage": fraction, "Type": kind, "VATTransactionType": "B", "IsBlocked": False, "OssCountry": country}
        division.insert("vat/VATCodes", {"Code": code, "Description": text, **own})
    for code, text, days, method in CONDITIONS:
        own = {"PaymentDays": days, "PaymentEndOfMonths": 0, "PaymentMethod": method, "Percentage": Decimal(1)}
        discount = {"DiscountPercentage": Decimal(0), "DiscountPaymentDays": 0, "DiscountCalculation": "E"}
        division.insert("cashflow/PaymentConditions", {"Code": code, "Description": text, **own, **discount})
    for code, text, number, side, balance in GL_ACCOUNTS:
        own = {"SearchCode": text.upper(), "Type": number, "BalanceSide": side, "BalanceType": balance, "IsBlocked": False}
        division.insert("financial/GLAccounts", {"Code": code, "Description": text, "VATCode": None, **own, **WITHOUT_ENTRY})
    for code, text, number in JOURNALS:
        own = {"Type": number, "AllowVAT": number == 20, "AllowVariableCurrency": True, "Currency": "EUR", "IsBlocked": False}
        division.insert("financial/Journals", {"Code": code, "Description": text, **own})


def _logistics(division: Division) -> None:
    revenue = division.first("financial/GLAccounts", "Code", "8000")
    account = {"GLRevenue": revenue.id, "GLRevenueCode": "8000", "GLRevenueDescription": "Omzet"} if revenue else {}
    for code, text, default in GROUPS:
        division.insert("logistics/ItemGroups", {"Code": code, "Description": text, "IsDefault": default, **account})
    for code, text, kind, main in UNITS:
        division.insert("logistics/Units", {"Code": code, "Description": text, "Type": kind, "Main": main, "Active": True})
    for code, text in (("PNL", "PostNL"), ("DHL", "DHL"), ("AFH", "Afhalen")):
        division.insert("sales/ShippingMethods", {"Code": code, "Description": text, "Active": True})
    division.insert("inventory/Warehouses", {"Code": "1", "Description": "Hoofdmagazijn", "Main": 1, "UseStorageLocations": 0})
    division.insert("sales/OrderCharges", {"Code": "VERZEND", "Description": "Verzendkosten", "VATCode": "2"})
    division.insert("sales/OrderCharges", {"Code": "TOESLAG", "Description": "Toeslag", "VATCode": "2"})


def _default_debtor(division: Division) -> None:
    debtor = {"Code": DEFAULT_DEBTOR, "Name": "Webwinkel consument", "Status": "C", "Type": "A", "Country": "NL"}
    flags = {
        "IsPurchase": True,
        "Blocked": False,
        "IsSupplier": False,
        "IsReseller": False,
        "CostPaid": 0,
        "IsAccountant": 0,
        "DiscountSales": 0,
    }
    moments = {"StartDate": division.today(), "CustomerSince": division.today(), "PaymentConditionSales": "PI"}
    division.insert(ACCOUNTS, {**debtor, **flags, **moments})
    group = division.first("logistics/ItemGroups", "Code", "DIENST")
    for code, text in (("DIVERS", "Diversen"), ("VERZEND", "Verzendkosten")):
        item = {"Code": code, "Description": text, "ItemGroup": group.id if group else None, "Unit": "stuk", "SalesVatCode": "2"}
        kind = {"IsSalesItem": True, "IsPurchaseItem": False, "IsStockItem": False, "IsFractionAllowedItem": True}
        rest = dict.fromkeys(("IsWebshopItem", "IsBatchItem", "IsMakeItem", "IsTime", "IsOnDemandItem"), 0)
        division.insert(ITEMS, {**item, **kind, **rest, "IsSerialItem": False, "Stock": 0, "StartDate": division.today()})
