"""`bus brake`: what is shown, what is asked for, and when it counts as done."""

import msgspec

from schemas.system import RequestKind, RequestRecord
from tests.unit.cli.board import BOOKS, CUSTOMERS, NOW, ORDERS, SHOP
from tests.unit.cli.conftest import Terminal


def test_nothing_was_ever_open(terminal: Terminal) -> None:
    assert terminal.said("brake", "list") == "no brake is open, and none was\n"
    assert terminal.plain("brake", "list") == {"brakes": []}


def test_the_list_tells_open_ones_first_and_the_newest_record_of_each(terminal: Terminal) -> None:
    board = terminal.board
    board.brake(BOOKS, open=True, reason="old")
    board.brake(BOOKS, open=False)
    board.brake(BOOKS, open=True, flow=ORDERS, reason="10 of 10 failed: BUG", probes=2, probe_at=NOW)
    first, second = terminal.plain("brake", "list")["brakes"]
    assert first == {
        "connection": BOOKS,
        "flow": ORDERS,
        "open": True,
        "by_hand": False,
        "since": NOW.isoformat(),
        "reason": "10 of 10 failed: BUG",
        "probes": 2,
        "probe_at": NOW.isoformat(),
    }
    assert (second["flow"], second["open"]) == (None, False)
    shown = terminal.said("brake", "list")
    assert "1 open" in shown
    assert "2026-11-21 12:04:46" in shown
    assert "tried 2 times" in shown


def test_open_asks_the_sinks_and_ends_when_the_state_shows_it(terminal: Terminal) -> None:
    board = terminal.board
    board.answer = lambda _request: board.brake(BOOKS, open=True, by_hand=True, flow=ORDERS)
    said = terminal.said("brake", "open", BOOKS, "--flow", ORDERS, "--reason", "closing the year")
    assert said == f"the brake of {BOOKS}, flow {ORDERS}, is open\n"
    [asked] = board.asked
    assert (asked.kind, asked.connection) == (RequestKind.BRAKE, BOOKS)
    assert asked.args == {"action": "open", "flow": ORDERS, "reason": "closing the year"}


def test_a_brake_that_opened_by_itself_may_still_be_opened_by_hand(terminal: Terminal) -> None:
    terminal.board.brake(BOOKS, open=True)
    assert "will be open" in terminal.said("brake", "open", BOOKS, "--reason", "x", "--no-wait")
    assert len(terminal.board.asked) == 1


def test_what_is_so_already_is_not_asked_for(terminal: Terminal) -> None:
    assert "is closed already" in terminal.said("brake", "close", BOOKS)
    terminal.board.brake(BOOKS, open=True, by_hand=True)
    assert "is open already" in terminal.said("brake", "open", BOOKS, "--reason", "x")
    assert terminal.board.asked == []


def test_the_brake_of_a_flow_is_not_that_of_the_account(terminal: Terminal) -> None:
    board = terminal.board
    board.brake(BOOKS, open=True, by_hand=True, flow=CUSTOMERS)
    board.answer = lambda request: board.brake(BOOKS, open=request.args["action"] == "open", by_hand=True)
    assert "is open\n" in terminal.said("brake", "open", BOOKS, "--reason", "x")
    assert "is closed\n" in terminal.said("brake", "close", BOOKS)
    assert [request.args for request in board.asked] == [{"action": "open", "reason": "x"}, {"action": "close"}]


def test_sinks_that_do_not_answer_are_told_of_and_the_request_stands(terminal: Terminal) -> None:
    terminal.board.brake(BOOKS, open=True)
    said = terminal.said("brake", "close", BOOKS, code=1)
    for part in ("not done after", "sinks", "7 days"):
        assert part in said
    assert len(terminal.board.asked) == 1


def test_names_that_are_wrong(terminal: Terminal) -> None:
    for words, parts in (
        (("brake", "close", "nope"), ("unknown connection 'nope'", "exact-nl, other-nl, qbo-nl")),
        (("brake", "close", BOOKS, "--flow", "nope"), ("unknown flow 'nope'", f"{CUSTOMERS}, {ORDERS}")),
        (("brake", "close", SHOP, "--flow", ORDERS), (f"goes to {BOOKS}, not to {SHOP}", "are none")),
    ):
        said = terminal.said(*words, code=78)
        assert all(part in said for part in parts), said
    assert "--reason" in terminal.said("brake", "open", BOOKS, code=2)
    assert terminal.board.asked == []


def test_a_request_reads_back(terminal: Terminal) -> None:
    terminal.said("brake", "open", BOOKS, "--reason", "x", "--no-wait")
    [asked] = terminal.board.asked
    codec = terminal.board.codec
    assert codec.decode("bus.requests", codec.encode("bus.requests", asked)) == asked
    assert msgspec.structs.asdict(asked)["sealed"] is None
    assert isinstance(asked, RequestRecord)
