"""`bus parked`: what waits, and having it tried now."""

from datetime import timedelta

import msgspec

from bus.cli import session
from bus.runtime.requests import KEYS_MAX
from schemas.system import Cause, RequestKind, Standing
from tests.unit.cli.board import BOOKS, CUSTOMERS, NOW, ORDERS, SHOP
from tests.unit.cli.conftest import Terminal


def fill(terminal: Terminal) -> None:
    board = terminal.board
    board.standing("1", Standing.WAITING, Cause.MISSING_DEPENDENCY, missing=["sku:A-1"], detail="1 product is not there")
    board.standing("2", Standing.PARKED, Cause.BRAKE_OPEN, attempts=3, retry_at=NOW, at=NOW - timedelta(hours=1))
    board.standing("3", Standing.DEAD, Cause.BUG)
    board.standing("4", Standing.PARKED, Cause.BUG)
    board.standing("4", Standing.WRITTEN)
    board.standing("c", Standing.PARKED, Cause.BRAKE_OPEN, flow=CUSTOMERS, at=NOW - timedelta(hours=2))


def ids(terminal: Terminal, *words: str) -> list[str]:
    return [item["key"].rsplit("|", 1)[1] for item in terminal.plain("parked", "list", *words)["parked"]]


def test_what_waits_is_listed_longest_first(terminal: Terminal) -> None:
    assert terminal.said("parked", "list") == "nothing waits\n"
    fill(terminal)
    assert ids(terminal) == ["c", "2", "1"]
    assert terminal.plain("parked", "list")["parked"][2] == {
        "key": f"{SHOP}|sales_invoice|1",
        "flow": ORDERS,
        "connection": BOOKS,
        "standing": "WAITING",
        "cause": "MISSING_DEPENDENCY",
        "detail": "1 product is not there",
        "missing": ["sku:A-1"],
        "attempts": 0,
        "since": NOW.isoformat(),
        "retry_at": None,
        "seq": 7,
    }
    shown = terminal.said("parked", "list")
    for part in ("3 wait", "product is", "when that", "BRAKE_OPEN 2, MISSING_DEPENDENCY 1"):
        assert part in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100


def test_filters(terminal: Terminal) -> None:
    fill(terminal)
    assert ids(terminal, "--flow", CUSTOMERS) == ["c"]
    assert ids(terminal, "--cause", "brake_open") == ["c", "2"]
    assert ids(terminal, "--connection", BOOKS, "--flow", ORDERS) == ["2", "1"]
    assert ids(terminal, "--connection", SHOP) == []
    assert terminal.said("parked", "list", "--flow", "nope") == "nothing such waits\n"


def test_long_tables_say_what_they_leave_out(terminal: Terminal) -> None:
    for number in range(session.ROWS + 2):
        terminal.board.standing(str(number), Standing.PARKED, Cause.CREDENTIAL)
    assert "… and 2 more" in terminal.said("parked", "list")
    assert "more" not in terminal.said("parked", "list", "--rows", "0")
    assert len(ids(terminal)) == session.ROWS + 2


def test_release_asks_each_account_for_what_is_meant(terminal: Terminal) -> None:
    fill(terminal)
    said = terminal.said("parked", "release", "--flow", ORDERS, "--cause", "BRAKE_OPEN")
    assert said.startswith(f"1 object at {BOOKS} will be tried now")
    [asked] = terminal.board.asked
    assert (asked.kind, asked.connection, asked.args) == (
        RequestKind.RELEASE,
        BOOKS,
        {"flow": ORDERS, "cause": "BRAKE_OPEN"},
    )


def test_release_by_key_names_the_keys(terminal: Terminal) -> None:
    fill(terminal)
    key = f"{SHOP}|sales_invoice|2"
    terminal.said("parked", "release", "--key", key, "--key", f"{SHOP}|sales_invoice|3")
    [asked] = terminal.board.asked
    assert msgspec.json.decode(asked.args["keys"]) == [key], "the other one is dead, and does not wait"


def test_many_keys_make_several_requests(terminal: Terminal) -> None:
    words = []
    for number in range(KEYS_MAX + 1):
        terminal.board.standing(str(number), Standing.PARKED, Cause.CREDENTIAL)
        words += ["--key", f"{SHOP}|sales_invoice|{number}"]
    terminal.said("parked", "release", *words)
    assert [len(msgspec.json.decode(item.args["keys"])) for item in terminal.board.asked] == [KEYS_MAX, 1]


def test_release_of_everything_must_be_meant(terminal: Terminal) -> None:
    fill(terminal)
    assert "--all" in terminal.said("parked", "release", code=2)
    assert terminal.board.asked == []
    terminal.said("parked", "release", "--all")
    assert [item.args for item in terminal.board.asked] == [{}]


def test_nothing_is_asked_for_where_nothing_waits(terminal: Terminal) -> None:
    assert terminal.said("parked", "release", "--all") == "nothing such waits: nothing was asked for\n"
    assert terminal.board.asked == []
    assert "is no key" in terminal.said("parked", "release", "--key", "x", code=2)
