"""`bus dead-letters`: which letters are open, and what a redrive asks for."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.runtime.requests import KEYS_MAX
from schemas.system import Cause, DeadLetter, ObjectRef, RequestKind, Standing
from tests.unit.cli.board import BOOKS, CUSTOMERS, NOW, ORDERS, SHOP
from tests.unit.cli.conftest import Terminal

SECOND = timedelta(seconds=1)
MICROS = int(NOW.timestamp()) * 1_000_000 + NOW.microsecond


def ids(terminal: Terminal, *words: str) -> list[str]:
    return [item["key"].rsplit("|", 1)[1] for item in terminal.plain("dead-letters", "list", *words)["dead_letters"]]


def chosen(terminal: Terminal, *words: str) -> list[str]:
    found = terminal.plain("dead-letters", "redrive", "--dry-run", *words)
    assert terminal.board.asked == [], "a dry run asks for nothing"
    return [item["key"].rsplit("|", 1)[1] for item in found["chosen"]]


def dead(terminal: Terminal, source_id: str, cause: Cause = Cause.BUG, flow: str = ORDERS, seq: int = 7) -> None:
    terminal.board.letter(source_id, cause, flow=flow, seq=seq)
    terminal.board.standing(source_id, Standing.DEAD, cause, flow=flow, seq=seq)


def test_none(terminal: Terminal) -> None:
    assert terminal.said("dead-letters", "list") == "no open dead letters\n"
    assert terminal.said("dead-letters", "list", "--all") == "no dead letters\n"
    assert terminal.said("dead-letters", "list", "--flow", "nope") == "no such open dead letters\n"


def test_a_later_success_closes_a_letter(terminal: Terminal) -> None:
    dead(terminal, "1")
    dead(terminal, "2")
    terminal.board.standing("1", Standing.WRITTEN, seq=8)
    assert ids(terminal) == ["2"]
    assert sorted(ids(terminal, "--all")) == ["1", "2"]
    closed, open_ = sorted(terminal.plain("dead-letters", "list", "--all")["dead_letters"], key=lambda item: item["key"])
    assert (closed["is_open"], open_["is_open"]) == (False, True)
    assert "2 dead letters, 1 of them open" in terminal.said("dead-letters", "list", "--all")


def test_what_waits_again_is_not_dead(terminal: Terminal) -> None:
    dead(terminal, "1")
    terminal.board.standing("1", Standing.PARKED, Cause.CREDENTIAL)
    assert ids(terminal) == []


def test_only_the_newest_letter_of_an_object_is_open(terminal: Terminal) -> None:
    dead(terminal, "1", Cause.BUG, seq=7)
    dead(terminal, "1", Cause.WRITE_REJECTED, seq=8)
    [letter] = terminal.plain("dead-letters", "list")["dead_letters"]
    assert letter["cause"] == "WRITE_REJECTED"
    assert len(ids(terminal, "--all")) == 2


def test_a_standing_whose_letter_is_gone_is_listed_and_redriven(terminal: Terminal) -> None:
    terminal.board.standing("1", Standing.DEAD, Cause.TOTALS_MISMATCH, detail="1.00 and 2.00")
    [letter] = terminal.plain("dead-letters", "list")["dead_letters"]
    assert (letter["id"], letter["cause"], letter["detail"]) == (None, "TOTALS_MISMATCH", "1.00 and 2.00")
    assert chosen(terminal, "--all") == ["1"]


def test_a_flow_s_letter_says_nothing_of_another_flow(terminal: Terminal) -> None:
    dead(terminal, "1", flow=CUSTOMERS)
    assert ids(terminal, "--flow", CUSTOMERS) == ["1"]
    assert ids(terminal, "--flow", ORDERS) == []


def test_a_poller_s_letter_is_open_until_a_version_is_read(terminal: Terminal) -> None:
    board = terminal.board
    for name in ("never", "older", "newer", "reread", "gone"):
        board.letter(name, Cause.MAPPING_ERROR, flow=None, stage="poller")
    board.seen("never", "")
    board.seen("older", "hash", seq=MICROS - 1)
    board.seen("newer", "hash", seq=MICROS + 1)
    board.seen("reread", "")
    board.seen("reread", "hash", seq=MICROS + 1)
    assert sorted(ids(terminal)) == ["never", "older"]


def test_bytes_nobody_could_read_stay_listed_and_are_left_out(terminal: Terminal) -> None:
    board = terminal.board
    key = topics.event_key(BOOKS, "command", "12")
    board.put(
        topics.DEAD_LETTERS,
        key,
        DeadLetter(stage="sink", cause=Cause.MAPPING_ERROR, detail="x", hint="y", connection=BOOKS, made_at=NOW),
    )
    [letter] = terminal.plain("dead-letters", "list")["dead_letters"]
    assert letter["key"] == key
    found = terminal.plain("dead-letters", "redrive", "--all")
    assert (found["chosen"], found["left_out"][0]["why"]) == ([], "nobody could read its bytes, so nobody knows its flow")
    assert board.asked == []


def test_show(terminal: Terminal) -> None:
    dead(terminal, "1")
    [letter] = terminal.plain("dead-letters", "list")["dead_letters"]
    assert letter.keys() == {
        *("id", "made_at", "stage", "cause", "connection", "flow", "key", "detail", "hint", "original_bytes", "is_sealed"),
        "is_open",
    }
    assert terminal.plain("dead-letters", "show", letter["id"]) == letter
    terminal.board.standing("1", Standing.WRITTEN)
    assert terminal.plain("dead-letters", "show", letter["id"])["is_open"] is False
    assert "no dead letter '9:9'" in terminal.said("dead-letters", "show", "9:9", code=78)


def test_redrive_filters(terminal: Terminal) -> None:
    dead(terminal, "1", Cause.BUG)
    dead(terminal, "2", Cause.WRITE_REJECTED)
    dead(terminal, "c", Cause.BUG, flow=CUSTOMERS)
    terminal.board.letter("old", Cause.BUG, at=NOW - timedelta(days=2))
    terminal.board.standing("old", Standing.DEAD, Cause.BUG, at=NOW - timedelta(days=2))
    assert sorted(chosen(terminal, "--cause", "BUG")) == ["1", "c", "old"]
    assert sorted(chosen(terminal, "--flow", ORDERS)) == ["1", "2", "old"]
    assert chosen(terminal, "--key", f"{SHOP}|customer|c") == ["c"]
    assert sorted(chosen(terminal, "--since", "2026-11-21T00:00Z")) == ["1", "2", "c"]
    assert chosen(terminal, "--until", "2026-11-20") == ["old"]
    assert chosen(terminal, "--cause", "WRITE_REJECTED", "--flow", CUSTOMERS) == []


def test_redrive_asks_for_replays_by_source_account_and_flow(terminal: Terminal) -> None:
    for name in ("1", "2"):
        dead(terminal, name)
    dead(terminal, "c", flow=CUSTOMERS)
    said = terminal.said("dead-letters", "redrive", "--all", "--rate", "5")
    for part in ("3 objects to try again", "asked for with 2 requests", "`bus jobs list`"):
        assert part in said
    asked = {item.args["flow"]: item for item in terminal.board.asked}
    assert {(item.kind, item.connection) for item in terminal.board.asked} == {(RequestKind.REPLAY, SHOP)}
    assert asked[ORDERS].args == {
        "flow": ORDERS,
        "entity": "sales_invoice",
        "keys": '["1","2"]',
        "rate_per_s": "5",
        "reason": "redrive",
    }
    assert asked[CUSTOMERS].args["keys"] == '["c"]'


def test_a_second_redrive_after_a_good_one_asks_for_nothing(terminal: Terminal) -> None:
    dead(terminal, "1")
    terminal.board.answer = lambda _request: terminal.board.standing("1", Standing.WRITTEN)
    terminal.said("dead-letters", "redrive", "--all")
    assert "nothing was asked for" in terminal.said("dead-letters", "redrive", "--all")
    assert len(terminal.board.asked) == 1


def test_many_objects_make_several_requests_each_once(terminal: Terminal) -> None:
    for number in range(2 * KEYS_MAX + 1):
        dead(terminal, str(number))
    terminal.said("dead-letters", "redrive", "--all")
    keys = [msgspec.json.decode(item.args["keys"]) for item in terminal.board.asked]
    assert [len(part) for part in keys] == [KEYS_MAX, KEYS_MAX, 1]
    assert len({key for part in keys for key in part}) == 2 * KEYS_MAX + 1


def test_what_a_poller_set_aside_is_read_anew(terminal: Terminal) -> None:
    board = terminal.board
    board.letter("never", Cause.MAPPING_ERROR, flow=None, stage="poller")
    board.letter("older", Cause.MAPPING_ERROR, flow=None, stage="poller")
    board.seen("never", "")
    board.seen("older", "hash", seq=1)
    said = terminal.said("dead-letters", "redrive", "--cause", "MAPPING_ERROR")
    assert f"polling {SHOP}" in said
    args = sorted((item.args["keys"], item.args["publish"]) for item in board.asked)
    assert args == [('["never"]', "changed"), ('["older"]', "all")]
    assert {(item.kind, item.connection, item.args["entity"]) for item in board.asked} == {
        (RequestKind.RESYNC, SHOP, "sales_invoice")
    }


def test_everything_must_be_meant(terminal: Terminal) -> None:
    dead(terminal, "1")
    assert "--all for every open one" in terminal.said("dead-letters", "redrive", code=2)
    assert terminal.board.asked == []


def test_what_is_no_longer_published_is_left_out_with_the_reason(terminal: Terminal) -> None:
    source = ObjectRef(connection="gone", entity="sales_invoice", id="1")
    letter = DeadLetter(
        stage="poller", cause=Cause.MAPPING_ERROR, detail="x", hint="y", connection="gone", source=source, made_at=NOW
    )
    terminal.board.put(topics.DEAD_LETTERS, "gone|sales_invoice|1", letter)
    terminal.board.seen("x", "")
    record = terminal.board.codec.decode(topics.SEEN, terminal.board.records[topics.SEEN][0].value or b"")
    terminal.board.put(topics.SEEN, "gone|sales_invoice|1", msgspec.structs.replace(record, connection="gone"))
    terminal.board.standing("2", Standing.DEAD, Cause.BUG, flow="old-flow")
    said = terminal.said("dead-letters", "redrive", "--all")
    assert "its source gone is no longer published" in said
    assert "its flow old-flow is no longer published" in said
    assert terminal.board.asked == []


def test_moments(terminal: Terminal) -> None:
    said = terminal.said("dead-letters", "redrive", "--since", "yesterday", code=2)
    for part in ("'yesterday' is no moment", "2026-11-21", "3d"):
        assert part in said
    dead(terminal, "1")
    assert chosen(terminal, "--since", "2026-11-21T12:04:46.130+00:00") == ["1"]
    assert chosen(terminal, "--since", "2026-11-21T13:04:46.131+01:00") == []
    assert chosen(terminal, "--until", "2026-11-21T12:04:46.130") == [], "until is the first moment that is not meant"


def test_tables_fit_a_hundred_columns(terminal: Terminal) -> None:
    dead(terminal, "1", Cause.MISSING_DEPENDENCY)
    shown = terminal.said("dead-letters", "list")
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100
    assert "2026-11-21 12:04:46" in shown


def test_a_dry_run_shows_what_would_be_written(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("bus.cli.comparing.show_preview", lambda selections, as_json: shown.extend(selections))
    dead(terminal, "1")
    dead(terminal, "2")
    terminal.board.letter("never", Cause.MAPPING_ERROR, flow=None, stage="poller")
    terminal.board.seen("never", "")
    said = terminal.said("dead-letters", "redrive", "--all", "--dry-run")
    assert "nothing was asked for; without --dry-run this makes 2 requests" in said
    assert terminal.board.asked == []
    [selection] = shown
    assert (selection.connection, selection.flows, selection.entity, selection.asked) == (
        SHOP,
        (ORDERS,),
        "sales_invoice",
        "redrive",
    )
    assert sorted(selection.keys) == ["1", "2"]
