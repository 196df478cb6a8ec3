"""Seeded data for demonstrations: catalogue, customers, orders. Used by the simulator's `seed` only."""

import random
import struct
import zlib
from datetime import timedelta
from decimal import Decimal
from typing import Any

from connectors.exact_online.simulation import orders, writing
from connectors.exact_online.simulation.sets import (
    ACCOUNTS,
    ADDRESSES,
    CONTACTS,
    ITEMS,
    ORDER_LINES,
    ORDERS,
    PRICES,
    SETS,
)
from connectors.exact_online.simulation.state import API_USER, SCREEN_USER, Division, Row

PRODUCTS = 40
BUYERS = 30
DAYS_BACK_MAX = 3
ADJECTIVES = ("Oak", "Walnut", "Linen", "Brass", "Smoked", "Compact", "Folding", "Woven")
NOUNS = ("lamp", "shelf", "table", "cushion", "vase")
SCRIPTS = ("", " Müller", " 山田太郎", " Ελένη", " Иванова", " Żółć", " Ångström", " Çelebi")
PLACES = (
    ("NL", "Keizersgracht", "1015 CN", "Amsterdam"),
    ("BE", "Meir", "2000", "Antwerpen"),
    ("DE", "Hauptstraße", "10115", "Berlin"),
    ("FR", "Rue de la Paix", "75002", "Paris"),
    ("SE", "Drottninggatan", "111 51", "Stockholm"),
)


def seed(division: Division, order_count: int, number: int) -> None:
    """Fills a division; the same numbers give the same rows. A third of `order_count` becomes orders."""
    chance = random.Random(number)  # noqa: S311 - repeatable data, no secret
    division.user = SCREEN_USER
    try:
        items = [_item(division, n) for n in range(1, PRODUCTS + 1)]
        buyers = [_buyer(division, n) for n in range(1, BUYERS + 1)]
        for n in range(order_count // 3):
            _order(division, chance, n, items, buyers)
    finally:
        division.user = API_USER


def _create(division: Division, path: str, body: dict[str, Any]) -> Row:
    return writing.create(division, SETS[path], body)


def sku(n: int) -> str:
    """Article n of the shared catalogue."""
    return f"BUS-{n:04d}"


def _item(division: Division, n: int) -> Row:
    found = division.first(ITEMS, "Code", sku(n))
    if found is not None:
        return found
    is_service, is_low = n % 7 == 0, n % 5 == 0
    name = f"Product {n} {ADJECTIVES[n % len(ADJECTIVES)]} {'service' if is_service else NOUNS[n % len(NOUNS)]}"
    group = division.first("logistics/ItemGroups", "Code", "DIENST" if is_service else "LAMP" if n % 5 == 1 else "ALG")
    item = {
        "Code": sku(n),
        "Description": name,
        "ExtraDescription": f"{name}, article {n} of the demonstration catalogue",
        "Barcode": _ean(n),
        "ItemGroup": group.id if group else None,
        "Unit": "uur" if is_service else "stuk",
        "SalesVatCode": "1" if is_low else "2",
        "IsSalesItem": True,
        "IsPurchaseItem": not is_service,
        "IsStockItem": not is_service,
        "IsWebshopItem": 0 if n % 10 == 0 else 1,
        "CostPriceStandard": _price(n) / 2,
        "FreeTextField_01": ADJECTIVES[n % len(ADJECTIVES)].lower(),
    }
    row = _create(division, ITEMS, item)
    _create(division, PRICES, {"Item": row.id, "Price": _price(n), "Currency": "EUR", "Quantity": 1, "Unit": item["Unit"]})
    if n % 8 == 1:
        sek = {"Item": row.id, "Price": _price(n) * 11, "Currency": "SEK", "Quantity": 1, "Unit": item["Unit"]}
        _create(division, PRICES, sek)
    if n % 9 == 1:
        row.picture = picture(n)
        division.change(ITEMS, row, {"PictureName": f"{sku(n)}.png"})
        division.change(ITEMS, row, {"_extra": [(1, "Material", ADJECTIVES[n % len(ADJECTIVES)]), (2, "Width", f"{20 + n} cm")]})
    return row


def _price(n: int) -> Decimal:
    return Decimal(n * 5) + Decimal("4.95")


def _ean(n: int) -> str:
    digits = f"87123456{n:04d}"
    total = sum(int(digit) * (3 if at % 2 else 1) for at, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def picture(n: int) -> bytes:
    """A small PNG of one colour, different for every article."""
    width = height = 16
    row = b"\x00" + bytes((n * 5 % 256, n * 11 % 256, n * 23 % 256)) * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(row * height)), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def email(n: int) -> str:
    """Buyer n's address, the same in every simulator of the pair."""
    return f"buyer{n}@example{n % 7}.test"


def vat_number(country: str, n: int) -> str:
    """A VAT number of buyer n with a valid check digit."""
    match country:
        case "NL":
            # The eleven test has no digit for a remainder of ten: take the next base then.
            base = next(b for b in range(81_000_000 + 7 * n, 82_000_000) if _weighted(b) % 11 < 10)
            return f"NL{base}{_weighted(base) % 11}B01"
        case "BE":
            return f"BE0{4_000_000 + n}{97 - (4_000_000 + n) % 97:02d}"
        case "DE":
            return f"DE{_mod_11_10(13_669_000 + n)}"
        case "FR":
            siren = int(_luhn(30_326_000 + n))
            return f"FR{(12 + 3 * (siren % 97)) % 97:02d}{siren}"
    return f"SE{_luhn(556_012_000 + n)}01"


def _weighted(base: int) -> int:
    return sum(int(digit) * weight for digit, weight in zip(str(base), range(9, 1, -1), strict=True))


def _luhn(base: int) -> str:
    doubled = [int(digit) * (2 if at % 2 == 0 else 1) for at, digit in enumerate(reversed(str(base)))]
    return f"{base}{-sum(value // 10 + value % 10 for value in doubled) % 10}"


def _mod_11_10(base: int) -> str:
    check = 5
    for digit in str(base):
        check = (((check or 10) * 2) % 11 + int(digit)) % 10
    return f"{base}{(1 - ((check or 10) * 2) % 11) % 10}"


def _buyer(division: Division, n: int) -> Row:
    """Odd buyers are persons, even ones companies; the first five are registered twice, as company and as person."""
    found = division.first(ACCOUNTS, "SearchCode", f"BUYER{n}")
    if found is not None:
        return found
    if n <= 5:
        _account(division, n, is_company=n % 2 == 1, search_code=f"BUYER{n}-2")
    return _account(division, n, is_company=n % 2 == 0, search_code=f"BUYER{n}")


def _account(division: Division, n: int, *, is_company: bool, search_code: str) -> Row:
    country, street, postcode, city = PLACES[n % len(PLACES)]
    kind = division.first("crm/AccountClassifications", "Code", "COMPANY" if is_company else "PERSON")
    name = f"Buyer {n}{SCRIPTS[n % len(SCRIPTS)]}"
    body = {
        "Name": f"{name} B.V." if is_company else name,
        "Status": "C",
        "SearchCode": search_code,
        "Email": email(n),
        "Phone": f"+3120555{n:04d}",
        "AddressLine1": f"{street} {n}",
        "Postcode": postcode,
        "City": city,
        "Country": country,
        "PaymentConditionSales": ("30", "14", "PI")[n % 3],
        "Classification1": kind.id if kind else None,
        "VATNumber": vat_number(country, n) if is_company else None,
    }
    account = _create(division, ACCOUNTS, body)
    first, last = "Buyer", f"{n}{SCRIPTS[n % len(SCRIPTS)]}"
    contact = _create(division, CONTACTS, {"Account": account.id, "FirstName": first, "LastName": last, "Email": email(n)})
    writing.update(division, SETS[ACCOUNTS], account, {"MainContact": contact.id})
    if n % 4 == 0:
        place = {"AddressLine1": f"Loods {n}, Havenweg 8", "Postcode": "1043 AA", "City": "Amsterdam", "Country": "NL"}
        _create(division, ADDRESSES, {"Account": account.id, "Type": 4, "Main": True, **place})
    return account


def _order(division: Division, chance: random.Random, n: int, items: list[Row], buyers: list[Row]) -> None:
    """Of five orders two are delivered, one is delivered and invoiced, one is half delivered, one is open."""
    buyer = chance.choice(buyers)
    day = division.today() - timedelta(days=chance.randint(0, DAYS_BACK_MAX))
    currency = "SEK" if buyer.values["Country"] == "SE" and n % 2 else "EUR"
    codes = _codes(buyer, is_incl=n % 6 == 5)
    lines = []
    for item in chance.sample(items, chance.randint(1, 3)):
        price = _price(int(item.values["Code"][-4:])) * (11 if currency == "SEK" else 1)
        code = codes.get(item.values["SalesVatCode"], codes["2"])
        line: dict[str, Any] = {"Item": item.id, "Quantity": chance.randint(1, 4), "VATCode": code}
        is_reduced = chance.random() < 0.2
        lines.append({**line, **({"UnitPrice": price, "Discount": Decimal("0.1")} if is_reduced else {"NetPrice": price})})
    body: dict[str, Any] = {
        "OrderedBy": buyer.id,
        "OrderDate": day.date().isoformat(),
        "YourRef": f"EXW-{n + 1:05d}",
        "Description": f"Order {n + 1}",
        "Currency": currency,
        "PaymentCondition": "PI" if n % 2 else "30",
        "SalesOrderLines": lines,
    }
    charge = division.first("sales/OrderCharges", "Code", "VERZEND")
    if n % 3 == 0 and charge:
        shipping = {"OrderCharge": charge.id, "IsShippingCost": True, "AmountFCExclVAT": Decimal("6.95"), "VATCode": codes["2"]}
        body["SalesOrderOrderChargeLines"] = [shipping]
    order = _create(division, ORDERS, body)
    state = n % 5
    if state in (0, 1, 2):
        orders.deliver(division, order)
    if state == 2:
        orders.invoice(division, order)
    if state == 3:
        first = division.table(ORDER_LINES).by("OrderID", order.id)[0]
        orders.count(division, first, "Delivered", first.values["Quantity"] / 2)
        orders.refresh_status(division, order)


def _codes(buyer: Row, *, is_incl: bool) -> dict[str, str]:
    """VAT codes for goods at the high and low rate. Belgian consumers are below the threshold of distance sales."""
    country = buyer.values["Country"]
    if country != "NL" and buyer.values.get("VATNumber"):
        return {"1": "7", "2": "7"}
    abroad = {"DE": "D19", "FR": "F20", "SE": "S25"}.get(country)
    if abroad:
        return {"1": abroad, "2": abroad}
    return {"1": "3", "2": "4"} if is_incl else {"1": "1", "2": "2"}
