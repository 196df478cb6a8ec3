"""What `bus validate` says of the pair, by the manifests that are installed."""

import re
from pathlib import Path

import pytest

from bus.core.configuration import load
from bus.runtime.validation import Report, validate
from bus.runtime.validation.installed import installed_systems
from tests.unit.pair.rig import EXAMPLE, changed, check

BACK = "when: source.fulfilment_status == 'DELIVERED' and source.invoicing_status == 'NONE'"
VAT = "vat_code: {table: qbo-vat}"


def told(report: Report) -> str:
    return "\n".join(str(problem) for problem in report.problems)


def test_the_example_is_valid() -> None:
    assert told(check(changed())) == ""


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ((BACK, "when: source.payment_status == 'PAID'"), "when", "exact_online never fills payment_status"),
        (
            (VAT, f"{VAT}\n  customer_reference: source.payment_status"),
            "set.customer_reference",
            "exact_online never fills payment_status",
        ),
        (("when: source.payment_status == 'PAID' and", "when: source.fulfilment_status == 'NONE' and"), "when", "never fills"),
        ((BACK, "when: source.customer.discount_pct != null"), "when", "discount_pct"),
    ],
)
def test_a_field_the_source_never_fills_is_refused(change: tuple[str, str], key: str, what: str) -> None:
    problems = check(changed(change)).problems
    assert any(problem.key.startswith(key) and what in problem.what for problem in problems), problems


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ((VAT, f"{VAT}\n  revenue_account: {{value: '8000'}}"), "follows the item"),
        (("vat_code: {table: exact-vat}", "vat_code: {table: exact-vat}\n  branch: {value: '20'}"), "no branch"),
        (
            ("vat_code: {table: exact-vat}", "vat_code: {table: exact-vat}\n  revenue_account: {value: '8000'}"),
            "follows its item",
        ),
        (("income_account: {value: Sales of Product Income}", "gtin: source.gtin\n  income_account: {value: x}"), "no EAN"),
        (
            ("income_account: {value: Sales of Product Income}", "attributes: source.name\n  income_account: {value: x}"),
            "attributes",
        ),
        (
            ("income_account: {value: Sales of Product Income}", "stock_tracked: {value: true}\n  income_account: {value: x}"),
            "on a product of quickbooks",
        ),
    ],
)
def test_what_the_target_has_no_place_for_is_refused(change: tuple[str, str], what: str) -> None:
    assert re.search(f"has no place.*{what}|has no place {what}", told(check(changed(change))), re.DOTALL)


def test_a_schedule_above_the_vendors_day_is_refused_and_its_cost_told() -> None:
    poll = "kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    report = check(changed((poll, "kind_field: Classification1\n  poll_s: {customer: 60, product: 60, sales_order: 60}")))
    (problem,) = report.problems
    assert problem.key == "config.poll_s"
    assert "calls a day" in problem.what
    assert "5000" in problem.what
    (forecast,) = [found for found in report.forecasts if found.connection == "exact-nl"]
    (day,) = [limit for limit in forecast.limits if limit.name == "day"]
    assert day.calls > day.limit > day.share


def test_the_examples_own_schedule_fits_and_counts_every_feed() -> None:
    report = check(changed())
    (forecast,) = [found for found in report.forecasts if found.connection == "exact-nl"]
    calls = {stream.name: stream.calls // stream.polls for stream in forecast.streams}
    assert calls["customer"] >= 3, "accounts, contacts, addresses"
    assert calls["product"] >= 2, "items, prices"
    assert calls["sales_order"] >= 2, "headers, lines"
    assert all(limit.fits for limit in forecast.limits)


def test_both_directions_are_warned_of_and_one_is_not() -> None:
    report = validate(load(EXAMPLE), installed_systems(), lambda secret, names: [])
    assert ["both ways" in warning.what for warning in report.warnings] == [True]
    text = changed()
    alone = text[: text.index("# An order that is delivered and not invoiced")]
    assert not any("both ways" in warning.what for warning in check(alone).warnings)


def test_the_example_says_which_system_is_the_ledger_and_who_closes_the_order() -> None:
    text = (EXAMPLE / "README.md").read_text()
    ledger = text[text.index("## Which system is the ledger") :]
    assert ledger.split("\n\n")[1].startswith("**QuickBooks.**")
    assert "must never be invoiced in Exact" in ledger
    assert "closes the Exact order" in ledger


@pytest.mark.parametrize("kind", ["INVOICE", "RECEIPT", "ESTIMATE"])
def test_documents_for_quickbooks_have_three_types(kind: str) -> None:
    type_ = "type: \"'RECEIPT' if value.payment_term.paid else 'INVOICE'\""
    assert told(check(changed((type_, f"type: \"'{kind}'\"")))) == ""
    assert "no sales_invoice of type 'ORDER'" in told(check(changed((type_, "type: \"'ORDER'\""))))


def test_documents_are_written_once() -> None:
    text = changed()
    assert text.count("write: create") == 2
    found = told(check(text.replace("write: create", "write: upsert")))
    assert "exact-nl" not in found
    assert "cannot update a sales_order" in found
    assert "cannot update a sales_invoice" in found


def test_item_groups_are_no_target_and_quickbooks_has_no_orders() -> None:
    group = "to: {connection: qbo-nl, entity: product_category}"
    swapped = ("from: {connection: exact-nl, entity: product_category}", "from: {connection: qbo-nl, entity: product_category}")
    found = told(check(changed(swapped, (group, "to: {connection: exact-nl, entity: product_category}"))))
    assert "takes no product_category" in found
    assert "map to an existing one" in found
    type_ = "to: {connection: qbo-nl, entity: sales_invoice, type: \"'RECEIPT' if value.payment_term.paid else 'INVOICE'\"}"
    found = told(check(changed((type_, "to: {connection: qbo-nl, entity: sales_order}"))))
    assert "ESTIMATE" in found


def test_a_missing_customer_by_default_needs_a_default() -> None:
    found = told(check(changed(("  missing: create\n  found: link\n  suffix", "  missing: default\n  found: link\n  suffix"))))
    assert "there is no default debtor" in found


def test_a_default_debtor_must_be_given_by_code_and_invented_missing_words_are_refused() -> None:
    found = told(check(changed(("  missing: create\n  found: link\n  suffix", "  missing: guess\n  found: link\n  suffix"))))
    assert "customer.missing" in found


MORE = """
--- {kind: Table, name: exact-terms, key: [code], rows: [{code: Net 30, value: "30"}]}
--- {kind: Table, name: qbo-vat, key: [category, country, rate_pct],
     rows: [{category: S, country: NL, rate_pct: 21, value: NL 21% S}]}
--- {kind: Table, name: qbo-income, key: [kind], rows: [{kind: "*", value: Sales}]}
"""


def test_what_an_accountant_would_write_is_valid_for_the_installed_connectors() -> None:
    text = (Path(__file__).parents[1] / "config" / "pair.yaml").read_text() + MORE
    report = check(text)
    assert told(report) == ""
    assert all(limit.fits for forecast in report.forecasts for limit in forecast.limits)
