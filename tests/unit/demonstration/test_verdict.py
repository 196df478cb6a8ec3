"""The verdict sees each way in which two books can disagree."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.demonstration.verdict import Expectation, check_creates, check_documents, read_creates, read_expectations

EXAMPLE = Path(__file__).parents[3] / "examples/quickbooks-exact/expected.toml"
EXPECTED = Expectation(
    flow="f", source="a", target="b", kinds={"INVOICE": ["ORDER"]}, where={"status": ["PAID"]}, reference="QBO-{kind[0]}{id}"
)


def document(**more: Any) -> dict[str, Any]:
    facts = {
        "id": "7",
        "kind": "INVOICE",
        "number": "1",
        "reference": None,
        "date": "2026-11-20",
        "currency": "EUR",
        "status": "PAID",
    }
    return {**facts, "total_incl": "121.00", "vat_by_rate": {"21.00": "21.00"}, **more}


def judge(target: list[dict[str, Any]], source: list[dict[str, Any]] | None = None, allowed: dict[str, str] | None = None) -> Any:
    books = [{"documents": source if source is not None else [document()]}, {"documents": target}]
    return check_documents(EXPECTED, books[0], books[1], "2026-11-01", allowed or {})


GOOD = document(id="x", kind="ORDER", reference="QBO-I7")


def test_equal_books_hold() -> None:
    assert judge([GOOD]).holds


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ([], "missing"),
        ([GOOD, {**GOOD, "id": "y"}], "twice"),
        ([{**GOOD, "total_incl": "121.02"}], "unequal"),
        ([{**GOOD, "vat_by_rate": {"9.00": "21.00"}}], "unequal"),
        ([{**GOOD, "currency": "SEK"}], "unequal"),
        ([GOOD, {**GOOD, "reference": "QBO-I8"}], "unexpected"),
    ],
)
def test_each_disagreement_is_seen(target: list[dict[str, Any]], what: str) -> None:
    finding = judge(target)
    assert not finding.holds
    assert getattr(finding, what)


def test_a_cent_of_rounding_is_within_the_limit() -> None:
    assert judge([{**GOOD, "total_incl": "121.01", "vat_by_rate": {"21.00": "21.01"}}]).holds


@pytest.mark.parametrize("change", [{"status": "OPEN"}, {"date": "2026-10-31"}, {"kind": "CREDIT_NOTE"}])
def test_what_the_flow_filters_must_not_be_there(change: dict[str, Any]) -> None:
    assert judge([], [document(**change)]).holds
    assert judge([GOOD], [document(**change)]).unexpected


def test_a_document_the_bus_made_is_not_expected_back() -> None:
    expected = msgspec.structs.replace(EXPECTED, unless_reference=["EX-"])
    source = {"documents": [document(reference="EX-30001")]}
    assert check_documents(expected, source, {"documents": []}, "2026-11-01", {}).holds


def test_what_waits_with_a_reason_is_not_missing() -> None:
    assert judge([], allowed={"7": "SKU A-1"}).holds


def test_creates_are_held_to_the_call_log() -> None:
    names = {"customer": "crm/Accounts.POST"}
    assert check_creates({"crm/Accounts.POST": 2}, names, Counter(customer=2)) == []
    assert check_creates({"crm/Accounts.POST": 3}, names, Counter(customer=2))


def test_the_example_states_what_it_expects() -> None:
    assert {item.flow for item in read_expectations(EXAMPLE)} == {"qbo-sales-to-exact-orders", "exact-orders-to-qbo"}
    assert set(read_creates(EXAMPLE)) == {"exact-nl", "qbo-nl"}
