"""`bus link`: whose word joins what."""

import pytest

from schemas.system import (
    IntentRecord,
    IntentState,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    RequestKind,
)
from tests.unit.cli.board import BOOKS, NOW, SHOP, STRANGER
from tests.unit.cli.conftest import Terminal

CUSTOMER = ObjectRef(connection=SHOP, entity="customer", id="7")
INVOICE = ObjectRef(connection=SHOP, entity="sales_invoice", id="8")
SOURCE, TARGET = f"{SHOP}|customer|7", f"{BOOKS}|customer|guid-1"


def linked(by: LinkedBy, external_id: str = "guid-1", facet: str | None = None) -> LinkRecord:
    return LinkRecord(
        source=CUSTOMER, entity="customer", external_id=external_id, state=LinkState.ACTIVE, linked_by=by, facet=facet
    )


def intent(state: IntentState) -> IntentRecord:
    return IntentRecord(
        source=INVOICE, entity="sales_order", state=state, command=b"", deadline_boot_ms=0, boot_id="b", opened_at=NOW
    )


def test_a_link_by_hand(terminal: Terminal) -> None:
    board = terminal.board
    board.object("customer", "guid-1")
    board.link(linked(LinkedBy.CREATED, "guid-0"))
    board.answer = lambda _request: board.link(linked(LinkedBy.MANUAL))
    assert "are linked; what waited for it is tried again" in terminal.said("link", SOURCE, TARGET)
    [asked] = board.asked
    assert (asked.kind, asked.connection) == (RequestKind.LINK, BOOKS)
    assert asked.args == {"entity": "customer", "source": SOURCE, "external_id": "guid-1"}
    assert "are linked already" in terminal.said("link", SOURCE, TARGET)
    assert len(board.asked) == 1


def test_a_facet_has_a_link_of_its_own(terminal: Terminal) -> None:
    board = terminal.board
    board.object("customer", "guid-1")
    board.link(linked(LinkedBy.MANUAL))
    board.answer = lambda _request: board.link(linked(LinkedBy.MANUAL, facet="USD"))
    terminal.said("link", SOURCE, TARGET, "--facet", "USD")
    assert [item.args["facet"] for item in board.asked] == ["USD"]


def test_an_id_nobody_has_seen_is_refused_for_master_data_only(terminal: Terminal) -> None:
    said = terminal.said("link", SOURCE, TARGET, code=78)
    for part in ("no customer 'guid-1' is known at exact-nl", "`bus poll exact-nl --now`"):
        assert part in said
    terminal.said("link", f"{SHOP}|sales_invoice|8", f"{BOOKS}|sales_order|guid-9", "--no-wait")
    assert [item.args["external_id"] for item in terminal.board.asked] == ["guid-9"]


def test_a_link_nobody_carries_out(terminal: Terminal) -> None:
    terminal.board.object("customer", "guid-1")
    assert "not done after" in terminal.said("link", SOURCE, TARGET, code=1)


def test_nothing_was_made(terminal: Terminal) -> None:
    board = terminal.board
    words = ("link", f"{SHOP}|sales_invoice|8", "--nothing-made", "--connection", BOOKS, "--entity", "sales_order")
    assert "is not open" in terminal.said(*words)
    assert board.asked == []
    board.intent(intent(IntentState.OPEN))
    board.answer = lambda _request: board.intent(intent(IntentState.CLOSED))
    assert "is made again" in terminal.said(*words)
    [asked] = board.asked
    assert asked.args == {"entity": "sales_order", "source": f"{SHOP}|sales_invoice|8", "external_id": ""}


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ((SOURCE,), 2, "give TARGET_KEY"),
        ((SOURCE, TARGET, "--nothing-made"), 2, "without TARGET_KEY"),
        ((SOURCE, "--nothing-made"), 2, "--connection and --entity"),
        ((SOURCE, "--nothing-made", "--connection", BOOKS, "--entity", "x"), 2, "--entity 'x'"),
        (("x", TARGET), 2, "'x' is no key"),
        ((SOURCE, f"{SHOP}|customer|9"), 78, f"both keys are of {SHOP}"),
        ((SOURCE, f"{STRANGER}|customer|9"), 78, "is of tenant acme and other-nl of rival"),
        ((SOURCE, "nope|customer|9"), 78, "unknown connection 'nope'"),
    ],
)
def test_words_that_are_wrong(terminal: Terminal, words: tuple[str, ...], code: int, part: str) -> None:
    assert part in terminal.said("link", *words, code=code)
    assert terminal.board.asked == []
