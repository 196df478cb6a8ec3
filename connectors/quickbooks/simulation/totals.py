"""Totals of a sale, exact: tax per rate over the document, HALF_UP; a document discount lowers the bases pro rata.

https://developer.intuit.com/app/developer/qbo/docs/workflows/manage-sales-tax-for-non-us-locales
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

CENT = Decimal("0.01")
ZERO = Decimal(0)
Rates = Mapping[str, tuple[str, Decimal]]
"""Rate id and percent, by tax code id."""


def cents(value: Decimal) -> Decimal:
    """HALF_UP to the cent."""
    return value.quantize(CENT, rounding=ROUND_HALF_UP)


def sales_lines(lines: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The sales lines, those inside bundles included."""
    found: list[Any] = []
    for line in lines:
        if line["DetailType"] == "SalesItemLineDetail":
            found.append(line)
        elif line["DetailType"] == "GroupLineDetail":
            found += sales_lines(line["GroupLineDetail"]["Line"])
    return found


def split(amount: Decimal, weights: list[Decimal]) -> list[Decimal]:
    """An amount of whole cents over weights, by largest remainder; the first of equals takes the cent."""
    total = sum(weights, ZERO)
    if not total:
        return [ZERO for _ in weights]
    exact = [amount * weight / total for weight in weights]
    parts = [share.quantize(CENT, rounding=ROUND_FLOOR) for share in exact]
    left = int((amount - sum(parts, ZERO)) / CENT)
    for index in sorted(range(len(parts)), key=lambda at: (parts[at] - exact[at], at))[:left]:
        parts[index] += CENT
    return parts


@dataclass
class Rated:
    """What one rate taxes: the net of its lines, and the tax they come to before rounding and discount."""

    percent: Decimal
    net: Decimal = ZERO
    tax: Decimal = ZERO


def _rated(lines: list[Any], rates: Rates) -> dict[str, Rated]:
    found: dict[str, Rated] = {}
    for line in lines:
        detail = line["SalesItemLineDetail"]
        code = (detail.get("TaxCodeRef") or {}).get("value")
        if code is None:
            continue
        rate_id, percent = rates[code]
        rated = found.setdefault(rate_id, Rated(percent))
        rated.net += line["Amount"]
        gross = detail.get("TaxInclusiveAmt")
        # A stated gross amount decides the tax; without one the percentage does.
        rated.tax += line["Amount"] * percent / 100 if gross is None else gross - line["Amount"]
    return found


def discount_of(lines: list[dict[str, Any]], subtotal: Decimal) -> Decimal:
    """The document's discount; of a percentage the server computes the amount."""
    total = ZERO
    for line in lines:
        if line["DetailType"] == "DiscountLineDetail":
            detail = line["DiscountLineDetail"]
            if detail.get("PercentBased") and detail.get("DiscountPercent") is not None:
                line["Amount"] = cents(subtotal * detail["DiscountPercent"] / 100)
            total += line["Amount"]
    return total


def settle(row: dict[str, Any], rates: Rates, overrides: Mapping[str, Decimal]) -> None:
    """Writes amounts, tax detail and the subtotal line into a sale. `overrides`: tax by rate id, as the client stated it."""
    lines = [line for line in row["Line"] if line["DetailType"] != "SubTotalLineDetail"]
    sold = sales_lines(lines)
    subtotal = sum((line["Amount"] for line in sold), ZERO)
    discount = discount_of(lines, subtotal)
    rated = _rated(sold, rates) if row.get("GlobalTaxCalculation") != "NotApplicable" else {}
    shares = split(discount, [rate.net for rate in rated.values()])
    taxes, vat = [], ZERO
    for (rate_id, rate), share in zip(rated.items(), shares, strict=True):
        base = rate.net - share
        computed = cents(rate.tax * base / rate.net) if rate.net else cents(rate.tax)
        amount = overrides.get(rate_id, computed)
        detail = {"TaxRateRef": {"value": rate_id}, "PercentBased": True, "TaxPercent": rate.percent, "NetAmountTaxable": base}
        if amount != computed:
            detail["OverrideDeltaAmount"] = amount - computed
        taxes.append({"Amount": amount, "DetailType": "TaxLineDetail", "TaxLineDetail": detail})
        vat += amount
    row["Line"] = [*lines, {"Amount": subtotal, "DetailType": "SubTotalLineDetail", "SubTotalLineDetail": {}}]
    row["TxnTaxDetail"] = {"TotalTax": vat, "TaxLine": taxes}
    row["TotalAmt"] = subtotal - discount + vat
