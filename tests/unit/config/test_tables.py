"""Look-ups: exact first, fewest wildcards next, never a guess."""

import pytest

from bus.core.configuration import Table
from bus.core.tables import LookupTable, normal
from schemas.system import Cause


def table(*rows, key=("category", "country", "rate_pct", "price_mode")):
    return LookupTable(Table(kind="Table", name="vat", key=key, rows=rows))


ROWS = (
    {"category": "S", "country": "NL", "rate_pct": "21", "price_mode": "EXCL", "value": "2"},
    {"category": "S", "country": "NL", "rate_pct": 21, "price_mode": "INCL", "value": "4"},
    {"category": "K", "country": "*", "rate_pct": "0", "price_mode": "*", "value": "7"},
    {"category": "*", "country": "*", "rate_pct": "0", "price_mode": "*", "value": "0"},
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("S", "NL", "21.0000", "EXCL"), "2"),
        (("S", "NL", "21", "INCL"), "4"),
        (("K", "BE", "0.00", "EXCL"), "7"),
        (("Z", "NL", "0", "EXCL"), "0"),
        (("S", "NL", "6", "EXCL"), None),
        (("S", None, "21", "EXCL"), None),
    ],
)
def test_find(key, value):
    row = table(*ROWS).find(dict(zip(("category", "country", "rate_pct", "price_mode"), key, strict=True)))
    assert (row.columns["value"] if row else None) == value


def test_the_rule_names_what_was_asked_not_the_wildcard():
    row = table(*ROWS).find({"category": "K", "country": "BE", "rate_pct": "0.0000", "price_mode": "EXCL"})
    assert row.rule == "table vat[category=K, country=BE, rate_pct=0, price_mode=EXCL]"


def test_a_missing_row_spells_its_key_out():
    error = table(*ROWS).missing({"category": "S", "country": "NL", "rate_pct": "6.0000", "price_mode": None})
    assert str(error) == "table vat has no row for category=S, country=NL, rate_pct=6, price_mode=(empty)"
    assert error.cause is Cause.MISSING_TABLE_ROW
    assert "bus apply" in error.hint


def test_codes_keep_their_zeros():
    assert normal("code", "014") == "014"
    assert normal("rate_pct", "100") == "100"
    assert normal("rate_pct", "25.50") == "25.5"
