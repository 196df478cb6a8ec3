"""Expressions: exact, blind to personal data, bounded."""

from datetime import date
from decimal import Decimal

import pytest

from bus.core.errors import MappingError
from bus.core.expressions import Expression, SourceView, TableValue, values
from bus.core.usage import ExpressionRefused
from schemas import canon


@pytest.fixture
def names():
    invoice = canon.SalesInvoice(
        type=canon.InvoiceType.RECEIPT,
        currency="EUR",
        issue_date=date(2026, 12, 3),
        payment_status=canon.PaymentStatus.PAID,
        lines=[
            canon.Line(line_id="1", line_no=1, quantity=Decimal(2), sku="a", line_excl=Decimal("10.005")),
            canon.Line(line_id="2", line_no=2, quantity=Decimal(1), sku="b", line_excl=Decimal("1.00")),
        ],
        custom_fields={"shop:Colour": canon.CustomValue(number=Decimal("1.50"))},
        customer=canon.Party(
            customer=canon.Ref(id="9", code="C9"), kind=canon.CustomerKind.COMPANY, pii=canon.Sealed(key_id="k", blob=b"x")
        ),
        totals=canon.Totals(incl=Decimal("14.95")),
    )
    source = SourceView(invoice, source_id="12", connection="shop", system="some_shop")
    return {"source": source, "document": source, "value": values({"payment_term": TableValue("Net 30", {"paid": False})})}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'QBO-' ~ source.type[0] ~ source.id", "QBO-R12"),
        ("source.payment_status == 'PAID' and source.status != 'CANCELLED'", True),
        ("'RECEIPT' if value.payment_term.paid else 'INVOICE'", "INVOICE"),
        ("value.payment_term", "Net 30"),
        ("' (' ~ source.customer.number ~ ')'", " (C9)"),
        ("source.customer.kind != 'COMPANY'", False),
        ("source.ship_to.country_code in ['NL', 'BE']", False),
        ("source.ship_to.country_code", None),
        ("source.custom['Colour'] * 1.21", Decimal("1.8150")),
        ("source.custom['shop:Colour']", Decimal("1.50")),
        ("source.custom['Nothing']", None),
        ("1.005|round(2)", Decimal("1.01")),
        ("-1.005|round(2)", Decimal("-1.01")),
        ("(source.lines|sum(attribute='line_excl'))|round(2)", Decimal("11.01")),
        ("source.lines|map(attribute='sku')|join('/')", "a/b"),
        ("(source.lines|selectattr('sku', 'eq', 'b')|first).line_excl", Decimal("1.00")),
        ("source.issue_date|date('%d-%m-%Y')", "03-12-2026"),
        ("source.number|default('none')|upper", "NONE"),
        ("source.number ~ '-x'", "-x"),
        ("1 / 3 * 3 == 1", False),
        ("0.1 + 0.2 == 0.3", True),
        ("document.totals.incl ~ ''", "14.95"),
        ("source.currency.startswith('EU')", True),
    ],
)
def test_what_accountants_write(names, text, expected):
    result = Expression(text)(names)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "source.customer.pii", "source.customer.pii.full_name", "source.lines|map(attribute='nope')|join", "source.nope",
        "value.nope", "value.payment_term.nope", "'a' * 3", "'%099999d' % 1", "source.lines", "source.number * 2", "1 / 0",
        "source.currency.__class__", "'x'|replace('', 'y')", "source.type|round(2)",
    ],
)  # fmt: skip
def test_what_fails_for_one_record_only(names, text):
    with pytest.raises(MappingError):
        Expression(text)(names)


@pytest.mark.parametrize(
    "text",
    ["9 ** 9", "range(9)", "source.x(", "a b", "{{ source.id }}", "source[value.x]", "''.format(1)", "source|pprint", "x|attr('y')",  # noqa: E501
     "source.id is filter", "source.id " + "~ 'a' " * 400, "cycler(1)", "source.lines.append(1)"],
)  # fmt: skip
def test_what_never_compiles(text):
    with pytest.raises(ExpressionRefused) as refused:
        Expression(text)
    assert refused.value.fix


def test_repeated_replacing_cannot_grow(names):
    text = "'a'" + "|replace('a', 'aaaaaaaaaa')" * 30
    with pytest.raises(MappingError, match="10000"):
        Expression(text)(names)


def test_an_empty_part_of_a_reference_is_refused(names):
    with pytest.raises(MappingError, match="empty"):
        Expression("'EX-' ~ source.number", nulls="refuse")(names)


def test_no_message_holds_a_value_of_the_record(names):
    with pytest.raises(MappingError) as failed:
        Expression("source.customer.number * source.currency")(names)
    assert "C9" not in str(failed.value)
    assert "EUR" not in str(failed.value)


def test_usage_is_found_without_running():
    usage = Expression("'X-' ~ (source.lines|sum(attribute='line_excl')) ~ value.term.paid").usage
    assert usage.paths == (("source", "lines", "[]", "line_excl"), ("value", "term", "paid"))
    assert usage.literal_head == "X-"
    assert Expression("'A' if source.id else ('B' if source.number else 'C')").usage.outcomes == ("A", "B", "C")
