"""Exact money."""

from decimal import Decimal as D

from hypothesis import given
from hypothesis import strategies as st

from bus.core.money import allot, rounded, vat_in, vat_on

CENTS = st.integers(1, 10_000_000).map(lambda cents: D(cents) / 100)
RATES = st.sampled_from([D("9"), D("19"), D("20"), D("21"), D("25"), D("25.5")])


def test_half_up_and_away_from_zero() -> None:
    assert rounded(D("8.085")) == D("8.09")
    assert rounded(D("-8.085")) == D("-8.09")
    assert vat_on(D("38.50"), D(21)) == D("8.09")
    assert vat_in(D("24.99"), D(20)) == D("4.17")


@given(gross=CENTS, rate=RATES)
def test_net_and_vat_add_up_to_the_gross(gross: D, rate: D) -> None:
    vat = vat_in(gross, rate)
    assert abs(vat_on(gross - vat, rate) - vat) <= D("0.01")


@given(amount=CENTS, weights=st.lists(CENTS, min_size=1, max_size=12))
def test_parts_add_up_exactly_and_are_off_by_less_than_a_cent(amount: D, weights: list[D]) -> None:
    parts = allot(amount, weights)
    assert sum(parts) == amount
    total = sum(weights)
    assert all(abs(part - amount * weight / total) < D("0.01") for part, weight in zip(parts, weights, strict=True))


def test_ties_go_to_the_lower_line() -> None:
    assert allot(D("0.01"), [D(1), D(1)]) == [D("0.01"), D("0.00")]
    assert allot(D("7.59"), [D("25.90"), D("49.99")]) == [D("2.59"), D("5.00")]
