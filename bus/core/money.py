"""Exact money: `Decimal` from the first byte, HALF_UP everywhere."""

from decimal import ROUND_HALF_UP, Context, Decimal

CENT = Decimal("0.01")
EXACT = Context(prec=50, rounding=ROUND_HALF_UP)
TOLERANCE = CENT
"""Limit of |actual - source| per document and per VAT rate; beyond it nobody may stay silent."""


def rounded(value: Decimal, step: Decimal = CENT) -> Decimal:
    """HALF_UP to a step; away from zero on negatives, so that a credit mirrors its invoice."""
    return value.quantize(step, rounding=ROUND_HALF_UP, context=EXACT)


def vat_in(gross: Decimal, rate_pct: Decimal) -> Decimal:
    """VAT included in a gross amount. The net is gross - VAT; never round both."""
    return rounded(EXACT.divide(gross * rate_pct, 100 + rate_pct))


def vat_on(net: Decimal, rate_pct: Decimal) -> Decimal:
    """VAT on a net amount."""
    return rounded(EXACT.divide(net * rate_pct, Decimal(100)))


def allot(amount: Decimal, weights: list[Decimal], step: Decimal = CENT) -> list[Decimal]:
    """Splits an amount over weights by largest remainder, ties to the lower index; the parts add up exactly."""
    total = sum(weights, Decimal(0))
    if not weights or total == 0:
        raise ValueError(f"cannot allot {amount} over weights that add up to {total}: give at least one weight")
    shares = [EXACT.divide(amount * weight, total) for weight in weights]
    floors = [(share / step).to_integral_value(rounding="ROUND_FLOOR") * step for share in shares]
    missing = int((rounded(amount, step) - sum(floors, Decimal(0))) / step)
    by_remainder = sorted(range(len(weights)), key=lambda index: (floors[index] - shares[index], index))
    for index in by_remainder[:missing]:
        floors[index] += step
    return floors
