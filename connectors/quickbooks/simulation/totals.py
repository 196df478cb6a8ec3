"""Totals of a sale, exact: VAT per rate over the document, HALF_UP; a document discount lowers each base by its part."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

CENT = Decimal("0.01")


def cents(value: Decimal) -> Decimal:
    """HALF_UP to the cent."""
    return value.quantize(CENT, rounding=ROUND_HALF_UP)


def number(value: Any) -> Decimal:
    """A JSON number."""
    return Decimal(str(value)) if value is not None else Decimal(0)


def sales_lines(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sales lines, those inside bundles included."""
    found = []
    for line in row.get("Line", []):
        if line["DetailType"] == "SalesItemLineDetail":
            found.append(line)
        elif line["DetailType"] == "GroupLineDetail":
            found += line["GroupLineDetail"].get("Line", [])
    return found


def split(amount: Decimal, weights: list[Decimal]) -> list[Decimal]:
    """By largest remainder in cents."""
    total = sum(weights, Decimal(0))
    if not total:
        return [Decimal(0) for _ in weights]
    exact = [amount * weight / total for weight in weights]
    floors = [share.quantize(CENT, rounding="ROUND_FLOOR") for share in exact]
    left = int((amount - sum(floors, Decimal(0))) / CENT)
    for index in sorted(range(len(weights)), key=lambda i: (floors[i] - exact[i], i))[:left]:
        floors[index] += CENT
    return floors


def settle(row: dict[str, Any], rates: Mapping[str, tuple[str, Decimal]]) -> None:
    """Writes totals, tax detail and the subtotal line into a sale. `rates`: (rate id, percent) by tax code id."""
    lines = sales_lines(row)
    nets = [number(line["Amount"]) for line in lines]
    subtotal = sum(nets, Decimal(0))
    discount = sum((number(line["Amount"]) for line in row["Line"] if line["DetailType"] == "DiscountLineDetail"), Decimal(0))
    bases: dict[str, Decimal] = {}
    stated: dict[str, Decimal] = {}
    for line, net, share in zip(lines, nets, split(discount, nets), strict=True):
        detail = line["SalesItemLineDetail"]
        code = (detail.get("TaxCodeRef") or {}).get("value")
        if code is None:
            continue
        bases[code] = bases.get(code, Decimal(0)) + net - share
        if detail.get("TaxInclusiveAmt") is not None:
            stated[code] = stated.get(code, Decimal(0)) + number(detail["TaxInclusiveAmt"]) - net
    taxes: list[dict[str, Any]] = []
    by_rate: dict[str, tuple[Decimal, Decimal, Decimal]] = {}
    for code, base in bases.items():
        rate, percent = rates[code]
        tax = stated[code] if code in stated and not discount else None
        old = by_rate.get(rate, (percent, Decimal(0), Decimal(0)))
        by_rate[rate] = (percent, old[1] + base, old[2] + (tax if tax is not None else base * percent / 100))
    for rate, (percent, base, tax) in by_rate.items():
        detail = {"TaxRateRef": {"value": rate}, "PercentBased": True, "TaxPercent": percent, "NetAmountTaxable": cents(base)}
        taxes.append({"Amount": cents(tax), "DetailType": "TaxLineDetail", "TaxLineDetail": detail})
    vat = sum((tax["Amount"] for tax in taxes), Decimal(0))
    row["Line"] = [line for line in row["Line"] if line["DetailType"] != "SubTotalLineDetail"]
    row["Line"].append({"Amount": subtotal, "DetailType": "SubTotalLineDetail", "SubTotalLineDetail": {}})
    row["TxnTaxDetail"] = {"TotalTax": vat, "TaxLine": taxes}
    row["TotalAmt"] = subtotal - discount + vat
