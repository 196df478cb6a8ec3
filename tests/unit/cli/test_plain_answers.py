"""What `--json` prints parses and has the members that scripts rely on; tables fit a hundred columns."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from bus.cli import looking, session
from bus.cli.group import bus
from bus.core import topics
from bus.core.errors import MissingDependency
from bus.runtime.books import Books, FlowBook, OpenBrake, StreamBook
from bus.runtime.deadletters import dead_letter
from bus.runtime.reader import Record
from schemas.system import ObjectRef

NOW = datetime(2026, 11, 21, 12, 4, 46, 130_000, tzinfo=UTC)
KEY = "exact-nl|sales_order|7"
FLOWS = ("qbo-sales-to-exact-orders", "customers-exact-to-qbo")


def books() -> Books:
    standings = {"WRITTEN": 20_000, "UNCHANGED": 10_000, "FILTERED": 10_000, "WAITING": 10_000, "PARKED": 10_000, "DEAD": 10_000}
    flows = [
        FlowBook(flow=flow, source="qbo-nl/sales_invoice", target="exact-nl/sales_order", read=79_999, standings=standings)
        for flow in FLOWS
    ]
    stream = StreamBook(connection="exact-nl", stream="product_category", backfilled=True, polled_at=NOW)
    return Books(version=3, flows=flows, streams=[stream], outbound_lag={"exact-nl": 2}, processor_lag=5)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' work runs, on records of this file."""
    letter = dead_letter(
        MissingDependency("no product for SKU A-1", missing=["sku:A-1"]),
        stage="sink",
        connection="qbo-nl",
        flow=FLOWS[0],
        source=ObjectRef(connection="exact-nl", entity="sales_order", id="7"),
        made_at=NOW,
    )

    async def read_all(_settings: Any, _codec: Any, topic: str, wanted: Any = bool) -> AsyncIterator[tuple[Record, Any]]:
        if topic == topics.DEAD_LETTERS and wanted(KEY):
            yield Record(topic, 4, 11, KEY.encode(), b"", {}), letter

    async def current(_settings: Any, _codec: Any) -> Books:
        return books()

    monkeypatch.setattr("bus.runtime.tail.read_all", read_all)
    monkeypatch.setattr("bus.runtime.quiet.current_books", current)
    monkeypatch.setattr(looking, "connected", lambda work: asyncio.run(work(None, None)))
    monkeypatch.setattr(session, "PIPE_WIDTH", 100)


def said(*words: str) -> str:
    found = CliRunner().invoke(bus, words)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def plain(*words: str) -> Any:
    return msgspec.json.decode(said(*words, "--json"))


def test_status() -> None:
    found = plain("status")
    assert found.keys() == {
        *("version", "flows", "streams", "processor_lag", "outbound_lag", "open_intents", "retrying", "held", "replaying"),
        *("dead_letters", "set_aside", "in_flight", "quiet", "brakes", "balanced"),
    }
    assert (found["in_flight"], found["quiet"], found["outbound_lag"]) == (7, True, {"exact-nl": 2})
    flow = found["flows"][0]
    assert flow.keys() >= {"flow", "source", "target", "read", "standings", "outcomes", "causes", "reasons"}
    assert (flow["flow"], flow["read"], flow["standings"]["WRITTEN"]) == (FLOWS[0], 79_999, 20_000)
    assert found["streams"][0].keys() >= {
        "connection",
        "stream",
        "backfilled",
        "polled_at",
        "deletes_unproven_since",
        "deletes_refused",
    }


def test_trace() -> None:
    found = plain("trace", KEY)
    assert (found["key"], [step["step"] for step in found["steps"]]) == (KEY, ["dead letter"])
    assert found["steps"][0].keys() == {"step", "seq", "at", "stage", "cause", "detail", "hint"}
    assert plain("trace", "exact-nl|sales_order|8") == {"key": "exact-nl|sales_order|8", "steps": []}
    unknown = CliRunner().invoke(bus, ["trace", "exact-nl|sales_order|8"])
    assert (unknown.exit_code, "nothing is known of exact-nl|sales_order|8" in unknown.output) == (1, True)


def test_connectors() -> None:
    found = plain("connectors", "list")["connectors"]
    assert {item["id"] for item in found} == {path.parent.name for path in Path("connectors").glob("*/manifest.toml")}
    assert all(item.keys() == {"id", "name", "reads", "writes"} for item in found)
    assert plain("connectors", "show", found[0]["id"]).keys() >= {"id", "streams", "writes", "limits", "cannot"}


def test_values_added_are_told_once_and_together() -> None:
    rate = {"name": "vat_code", "line": "1", "value": "2", "rule": "table exact-vat"}
    step = {
        "step": "result",
        "seq": 1,
        "at": NOW.isoformat(),
        "added": [rate, {**rate, "line": "2"}],
        "totals": {"source": "1.00"},
    }
    assert looking._what(step, None) == ["totals: source 1.00", "vat_code = 2  (table exact-vat, 2 times)"]
    assert looking._what(step, step["added"]) == ["totals: source 1.00", "added: the same 2 values"]


@pytest.mark.parametrize("words", [("status",), ("trace", KEY)], ids=" ".join)
def test_tables_fit_a_hundred_columns(words: tuple[str, ...]) -> None:
    lines = said(*words).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    if words == ("status",):
        row = next(line for line in lines if FLOWS[0] in line)
        assert row.split() == [FLOWS[0], "79999", "20000", *["10000"] * 5, "9999", "open"], "a row is one line"
        assert any("2026-11-21 12:04:46" in line for line in lines)


def test_what_somebody_has_to_look_at() -> None:
    found = books()
    found.flows[0].oldest_waiting = NOW
    found.brakes = [
        OpenBrake(connection="exact-nl", flow="", by_hand=True, reason="closing the year", opened_at=NOW),
        OpenBrake(connection="exact-nl", flow=FLOWS[0], by_hand=False, reason="10 failed", opened_at=NOW),
    ]
    found.streams[0].deletes_refused = 412
    found.streams[0].paused, found.streams[0].resync = "AccessDenied: scope", True
    assert looking.remarks(found) == [
        f"oldest waiting: since 2026-11-21 12:04:46 in {FLOWS[0]} (`bus parked list --flow {FLOWS[0]}`)",
        "BRAKE OPEN by hand: exact-nl: since 2026-11-21 12:04:46: closing the year",
        f"BRAKE OPEN by itself: exact-nl, flow {FLOWS[0]}: since 2026-11-21 12:04:46: 10 failed",
        "DELETES REFUSED: exact-nl: 412 objects of stream product_category are missing there, too many to believe: "
        "`bus resync exact-nl --stream product_category --confirm-deletes` if they are gone",
        "STREAM STANDS STILL: exact-nl, product_category: AccessDenied: scope",
        "being read anew: exact-nl, product_category",
    ]
    assert looking.remarks(books()) == []


def test_whether_the_books_balance_is_a_line() -> None:
    found = books()
    assert looking.balance(found).startswith("the books are open: 19998 objects without a standing")
    found.processor_lag, found.outbound_lag = 0, {}
    assert looking.balance(found).startswith("THE BOOKS DO NOT BALANCE: 19998")
    for book in found.flows:
        book.read = book.settled
    assert looking.balance(found).startswith("the books balance: 140000 objects read")
    assert "the books are open" in said("status").splitlines()[-1]
