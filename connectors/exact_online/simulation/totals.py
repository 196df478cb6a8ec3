"""What an order comes to: lines, charges, header discount, VAT per rate. Exact decimals, half a cent goes up."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from connectors.exact_online.simulation.refusals import invalid
from connectors.exact_online.simulation.sets import CHARGE_LINES, ORDER_LINES
from connectors.exact_online.simulation.state import Division, Row

CENT = Decimal("0.01")
RATES = {"EUR": Decimal(1), "SEK": Decimal("11.2"), "USD": Decimal("1.08"), "GBP": Decimal("0.85")}
"""Document currency per unit of division currency; invented and constant."""


@dataclass(frozen=True)
class Totals:
    """Amounts of an order in document currency."""

    excl: Decimal
    vat_by_rate: dict[Decimal, Decimal]
    discount_excl: Decimal
    discount_incl: Decimal
    discount: Decimal
    rate: Decimal

    @property
    def incl(self) -> Decimal:
        """The amount to pay."""
        return self.excl + sum(self.vat_by_rate.values(), Decimal(0))

    def in_division_currency(self, amount: Decimal) -> Decimal:
        """An amount at the order's rate."""
        return cents(amount / self.rate)


def cents(value: Decimal) -> Decimal:
    """Two decimals; half goes away from zero."""
    return value.quantize(CENT, rounding=ROUND_HALF_UP)


def included_vat(gross: Decimal, fraction: Decimal) -> Decimal:
    """The VAT inside a gross amount."""
    return cents(gross * fraction / (1 + fraction))


def vat_code(division: Division, code: str | None) -> Row | None:
    """The row of a VAT code. Raises Refused when there is none or it is blocked."""
    if code is None:
        return None
    row = division.first("vat/VATCodes", "Code", code)
    if row is None or row.values["IsBlocked"]:
        raise invalid("VATCode")
    return row


def split(division: Division, amount: Decimal, code: str | None) -> tuple[Decimal, Decimal, Decimal]:
    """(excl., VAT, fraction) of an amount that is gross under a code of type I, net under any other."""
    row = vat_code(division, code)
    fraction = row.values["Percentage"] if row else Decimal(0)
    amount = cents(amount)
    if row is not None and row.values["Type"] == "I":
        vat = included_vat(amount, fraction)
        return amount - vat, vat, fraction
    return amount, cents(amount * fraction), fraction


def price_line(division: Division, values: dict[str, Any]) -> dict[str, Any]:
    """AmountFC (excl. VAT), VATAmount and VATPercentage of a line."""
    excl, vat, fraction = split(division, values["Quantity"] * values["NetPrice"], values.get("VATCode"))
    return {"AmountFC": excl, "VATAmount": vat, "VATPercentage": fraction}


def totals(division: Division, order: Row) -> Totals:
    """The order's amounts from all its rows, visible or not."""
    values = order.values
    vats: dict[Decimal, Decimal] = defaultdict(Decimal)
    lines = division.table(ORDER_LINES).by("OrderID", order.id)
    for line in lines:
        vats[line.values["VATPercentage"]] += line.values["VATAmount"]
    lines_excl = sum((line.values["AmountFC"] for line in lines), Decimal(0))
    rate = RATES[values["Currency"]]
    less_excl, less_incl, fraction = _discount(values, lines_excl, lines_excl + sum(vats.values(), Decimal(0)), rate)
    _take_off(vats, less_incl - less_excl, fraction)
    excl = lines_excl - less_excl
    for charge in division.table(CHARGE_LINES).by("OrderID", order.id):
        excl += charge.values["AmountFCExclVAT"]
        vats[charge.values["VATPercentage"]] += charge.values["AmountFCInclVAT"] - charge.values["AmountFCExclVAT"]
    return Totals(excl, dict(vats), less_excl, less_incl, fraction, rate)


def _discount(values: dict[str, Any], excl: Decimal, incl: Decimal, rate: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """The header discount: a fraction, or an amount in division currency with or without VAT; the last one written leads."""
    kind, value = values.get("_discount", ("Discount", Decimal(0)))
    base = excl if kind == "AmountDiscountExclVat" else incl
    if kind == "Discount" or not base:
        fraction = value if kind == "Discount" else Decimal(0)
        return cents(excl * fraction), cents(incl * fraction), fraction
    less = cents(value * rate)
    fraction = less / base
    if kind == "AmountDiscountExclVat":
        return less, cents(incl * fraction), fraction
    return cents(excl * fraction), less, fraction


def _take_off(vats: dict[Decimal, Decimal], amount: Decimal, fraction: Decimal) -> None:
    """Spreads the discount's VAT over the rates; the last rate with VAT takes what rounding leaves."""
    taxed = [percentage for percentage, vat in sorted(vats.items()) if vat]
    for percentage in taxed[:-1]:
        part = cents(vats[percentage] * fraction)
        vats[percentage] -= part
        amount -= part
    if taxed:
        vats[taxed[-1]] -= amount
