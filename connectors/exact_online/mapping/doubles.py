"""Exact serves amounts as doubles, and sums of doubles lie a hair beside what they mean: each is rounded to the digits of its
kind, where it has more. https://start.exactonline.nl/docs/HlpRestAPIResources.aspx
"""

from decimal import Decimal
from typing import TypeVar

import msgspec

from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import PRICE_DIGITS, QUANTITY_DIGITS, settled

THREE_DIGITS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
"""Currencies of a thousand parts. https://www.six-group.com/en/products-services/financial-information/data-standards.html"""
LINE = {"Quantity": QUANTITY_DIGITS, "QuantityDelivered": QUANTITY_DIGITS, "QuantityInvoiced": QUANTITY_DIGITS}
PRICES = {"UnitPrice": PRICE_DIGITS, "NetPrice": PRICE_DIGITS}
T = TypeVar("T", bound=msgspec.Struct)


def amount_digits(currency: str | None) -> int:
    """Decimals of an amount: those of its currency, two where none is stated."""
    return 3 if (currency or "").strip() in THREE_DIGITS else 2


def order_of(raw: bytes) -> shapes.WholeOrder:
    """A whole order of exact amounts. Raises MappingError."""
    whole = shapes.decoded(raw, shapes.WholeOrder, "SalesOrder")
    digits = amount_digits(whole.Order.Currency)
    own = dict.fromkeys(("AmountDC", "AmountFC", "AmountFCExclVat", "AmountDiscountExclVat"), digits)
    of_lines = {**LINE, **PRICES, "AmountFC": digits, "VATAmount": digits}
    of_charges = dict.fromkeys(("AmountFCExclVAT", "AmountFCInclVAT"), digits)
    return msgspec.structs.replace(
        whole,
        Order=_exact(whole.Order, own),
        Lines=[_exact(line, of_lines) for line in whole.Lines],
        Charges=[_exact(charge, of_charges) for charge in whole.Charges],
    )


def item_of(raw: bytes) -> shapes.WholeItem:
    """A whole item of exact prices and quantities. Raises MappingError."""
    whole = shapes.decoded(raw, shapes.WholeItem, "Item")
    of_prices = {"Price": PRICE_DIGITS, "Quantity": QUANTITY_DIGITS}
    return msgspec.structs.replace(
        whole,
        Item=_exact(whole.Item, {"NetWeight": QUANTITY_DIGITS}),
        Prices=[_exact(price, of_prices) for price in whole.Prices],
    )


def _exact(row: T, digits: dict[str, int]) -> T:
    values: dict[str, Decimal | None] = {name: settled(getattr(row, name), count) for name, count in digits.items()}
    return msgspec.structs.replace(row, **values)
