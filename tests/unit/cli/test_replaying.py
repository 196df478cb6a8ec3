"""`bus replay`, `bus resync`, `bus jobs`: what is asked for, and how jobs are followed."""

from typing import Any

import msgspec
import pytest

from schemas.system import JobRecord, JobState, RequestKind, RequestRecord
from tests.unit.cli.board import BOOKS, CUSTOMERS, NOW, ORDERS, SHOP
from tests.unit.cli.conftest import Terminal


def only(terminal: Terminal) -> RequestRecord:
    [asked] = terminal.board.asked
    return asked


def job(job_id: str = "j1", state: JobState = JobState.RUNNING, **more: object) -> JobRecord:
    facts = {"connection": SHOP, "request_offset": 1, "ends": {"sales_invoice:0": 100}, "started_at": NOW} | more
    return JobRecord(id=job_id, state=state, **facts)  # type: ignore[arg-type]


def test_a_replay_of_an_account(terminal: Terminal) -> None:
    said = terminal.said("replay", SHOP)
    asked = only(terminal)
    assert (asked.kind, asked.connection, asked.args) == (RequestKind.REPLAY, SHOP, {})
    assert f"1 replay asked for: {asked.id}" in said


def test_all_that_may_be_said_of_a_replay(terminal: Terminal) -> None:
    words = ("--flow", ORDERS, "--entity", "sales_invoice", "--key", "7", "--key", f"{SHOP}|sales_invoice|8", "--rate", "20")
    more = ("--since", "2026-11-20", "--until", "2026-11-21T10:00+01:00", "--repair")
    assert terminal.plain("replay", SHOP, *words, *more) == {"jobs": [only(terminal).id]}
    assert only(terminal).args == {
        "flow": ORDERS,
        "entity": "sales_invoice",
        "keys": '["7","8"]',
        "since": "2026-11-20T00:00:00+00:00",
        "until": "2026-11-21T09:00:00+00:00",
        "rate_per_s": "20",
        "repair": "true",
    }


def test_a_flow_says_its_source(terminal: Terminal) -> None:
    terminal.said("replay", "--flow", ORDERS)
    assert (only(terminal).connection, only(terminal).args) == (SHOP, {"flow": ORDERS})
    assert "SOURCE_CONNECTION, or --flow" in terminal.said("replay", code=2)
    assert "unknown flow 'nope'" in terminal.said("replay", "--flow", "nope", code=78)


def test_keys_of_several_entities_make_a_request_each(terminal: Terminal) -> None:
    terminal.said("replay", SHOP, "--key", f"{SHOP}|customer|1", "--key", f"{SHOP}|sales_invoice|2")
    assert [item.args for item in terminal.board.asked] == [
        {"entity": "customer", "keys": '["1"]'},
        {"entity": "sales_invoice", "keys": '["2"]'},
    ]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("replay", "nope"), 78, ("unknown connection 'nope'", SHOP)),
        (("replay", SHOP, "--flow", "nope"), 78, ("unknown flow 'nope'", CUSTOMERS)),
        (("replay", BOOKS), 78, (f"no flow reads from {BOOKS}",)),
        (("replay", BOOKS, "--flow", ORDERS), 78, (f"goes from {SHOP}, not from {BOOKS}",)),
        (("replay", SHOP, "--flow", ORDERS, "--entity", "customer"), 78, ("reads sales_invoice", "not customer")),
        (("replay", SHOP, "--entity", "nope"), 78, ("'nope'", "customer")),
        (("replay", SHOP, "--key", f"{BOOKS}|customer|1"), 78, (f"is no object of {SHOP}",)),
        (("replay", SHOP, "--rate", "0"), 2, ("--rate",)),
        (("resync", "nope"), 78, ("unknown connection 'nope'",)),
        (("resync", SHOP, "--stream", "nope"), 78, ("no stream 'nope'", "cdc")),
        (("resync", SHOP, "--entity", "nope"), 78, ("'nope'",)),
        (("resync", SHOP, "--stream", "customer", "--entity", "customer"), 2, ("not both",)),
        (("resync", SHOP, "--key", "7"), 78, ("--key 7", "--entity")),
        (("resync", SHOP, "--publish", "some"), 2, ("--publish",)),
        (("jobs", "show", "nope"), 78, ("no job 'nope'", "`bus jobs list`")),
        (("jobs", "cancel", "nope"), 78, ("no job 'nope'",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words_that_are_wrong(terminal: Terminal, words: tuple[str, ...], code: int, parts: tuple[str, ...]) -> None:
    said = terminal.said(*words, code=code)
    assert all(part in said for part in parts), said
    assert terminal.board.asked == []


def test_resync(terminal: Terminal) -> None:
    terminal.said("resync", BOOKS, "--stream", "customer", "--publish", "all", "--since", "2026-11-20", "--confirm-deletes")
    asked = only(terminal)
    assert (asked.kind, asked.connection) == (RequestKind.RESYNC, BOOKS)
    assert asked.args == {
        "stream": "customer",
        "publish": "all",
        "since": "2026-11-20T00:00:00+00:00",
        "confirm_deletes": "true",
    }


def test_resync_by_key(terminal: Terminal) -> None:
    said = terminal.said("resync", SHOP, "--entity", "customer", "--key", "7", "--key", f"{SHOP}|customer|8")
    assert only(terminal).args == {"entity": "customer", "keys": '["7","8"]', "publish": "changed"}
    assert "2 objects will be read anew" in said


def test_jobs(terminal: Terminal) -> None:
    assert "no jobs" in terminal.said("jobs", "list")
    board = terminal.board
    board.job(job(state=JobState.WAITING))
    board.job(
        job(args={"flow": ORDERS, "keys": '["1","2"]', "reason": "redrive"}, positions={"sales_invoice:0": 25}, published=3)
    )
    board.job(job("j0", JobState.REFUSED, detail="no such flow", ended_at=NOW))
    first, second = terminal.plain("jobs", "list")["jobs"]
    assert (first["id"], first["state"], first["offsets_read"], first["offsets"]) == ("j1", "RUNNING", 25, 100)
    assert (second["id"], second["detail"]) == ("j0", "no such flow")
    shown = terminal.said("jobs", "list")
    for part in ("reason redrive", "2 objects", "25 %", "refused"):
        assert part in shown
    assert terminal.plain("jobs", "show", "j1") == first
    assert "state: RUNNING" in terminal.said("jobs", "show", "j1")


def test_waiting_for_a_replay_ends_with_it(terminal: Terminal) -> None:
    board = terminal.board

    def done(request: RequestRecord) -> None:
        board.job(job("another's", JobState.RUNNING))
        board.job(job(request.id, JobState.RUNNING, positions={"sales_invoice:0": 10}))
        board.job(job(request.id, JobState.DONE, read=100, published=4))

    board.answer = done
    assert "done; 100 events looked at, 4 sent" in terminal.said("replay", SHOP, "--wait")


def test_a_refused_replay_ends_with_exit_code_1(terminal: Terminal) -> None:
    board = terminal.board
    board.answer = lambda request: board.job(job(request.id, JobState.REFUSED, detail="the log no longer holds it"))
    assert "refused: the log no longer holds it" in terminal.said("replay", SHOP, "--wait", code=1)
    found = terminal.run("replay", SHOP, "--wait", "--json")
    assert found.exit_code == 1
    assert msgspec.json.decode(found.stdout)["jobs"][0]["state"] == "REFUSED"


def test_cancel(terminal: Terminal) -> None:
    board = terminal.board
    board.job(job())
    board.answer = lambda _request: board.job(job(state=JobState.CANCELLED, read=7))
    assert "j1 cancelled; 7 events looked at" in terminal.said("jobs", "cancel", "j1")
    asked = only(terminal)
    assert (asked.kind, asked.connection, asked.args) == (RequestKind.CANCEL, SHOP, {"id": "j1"})
    assert "has ended already: cancelled" in terminal.said("jobs", "cancel", "j1", code=78)


def test_a_cancel_that_nobody_answers(terminal: Terminal) -> None:
    terminal.board.job(job())
    assert "not done after" in terminal.said("jobs", "cancel", "j1", code=1)


def test_dry_runs_show_what_would_be_written_and_ask_for_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("bus.cli.comparing.show_preview", lambda selections, as_json: shown.append((selections, as_json)))
    terminal.said("replay", SHOP, "--flow", ORDERS, "--key", f"{SHOP}|sales_invoice|7", "--repair", "--dry-run", "--json")
    terminal.said("resync", SHOP, "--entity", "customer", "--dry-run")
    [([replayed], as_json), ([resynced], _)] = shown
    assert (replayed.flows, replayed.entity, replayed.keys, replayed.repair, as_json) == (
        (ORDERS,),
        "sales_invoice",
        ("7",),
        True,
        True,
    )
    assert (resynced.entity, resynced.keys, resynced.asked) == ("customer", (), "resync")
    assert "asks no vendor" in terminal.said("resync", BOOKS, "--stream", "customer", "--dry-run", code=2)
    assert terminal.board.asked == []


def test_a_stream_of_one_entity_says_which_its_keys_are(terminal: Terminal) -> None:
    terminal.said("resync", BOOKS, "--stream", "customer", "--key", "guid-1")
    assert only(terminal).args == {"stream": "customer", "entity": "customer", "keys": '["guid-1"]', "publish": "changed"}
