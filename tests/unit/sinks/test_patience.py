"""How long each cause is waited for."""

from decimal import Decimal
from typing import Any

import pytest

from bus.core.errors import AccessDenied, AccessRevoked, NetworkFailure, RateLimited, RecordError, TransientError, WriteConflict
from bus.core.policy import CustomerPolicy, WritePolicy
from bus.runtime.privacy import MissingSubjectKey
from bus.runtime.state import brake_key
from schemas import canon
from schemas.system import Action, BrakeRecord, Cause, Standing, StateRecord
from services.sinks.patience import OTHERWISE, TABLE, next_wait_s, parking_of
from services.sinks.writing import Settle
from tests.fakes import company, order
from tests.unit.sinks.world import TARGET, World, letters, standing_of

FOR_EVER = [Cause.CONNECTION_UNAVAILABLE, Cause.CREDENTIAL, Cause.SUBJECT_KEY_MISSING, Cause.BACKFILL_INCOMPLETE]


@pytest.mark.parametrize("cause", FOR_EVER)
def test_what_goes_away_by_itself_is_waited_for_for_ever(cause: Cause) -> None:
    assert next_wait_s(cause, 1_000_000) is not None


@pytest.mark.parametrize(("cause", "attempts"), [(Cause.WRITE_CONFLICT, 10), (Cause.BUG, 72)])
def test_what_does_not_go_away_has_an_end(cause: Cause, attempts: int) -> None:
    assert next_wait_s(cause, attempts - 1) is not None
    assert next_wait_s(cause, attempts) is None


@pytest.mark.parametrize("cause", sorted(TABLE))
def test_no_wait_is_longer_than_its_longest(cause: Cause) -> None:
    patience = TABLE[cause]
    waits = [next_wait_s(cause, attempt) or 0 for attempt in range(1, 10) for _ in range(20)]
    assert min(waits) >= 1
    assert max(waits) <= patience.longest_s <= OTHERWISE.longest_s


def test_waits_have_jitter_and_grow() -> None:
    early = {next_wait_s(Cause.CONNECTION_UNAVAILABLE, 6) for _ in range(30)}
    late = [next_wait_s(Cause.CONNECTION_UNAVAILABLE, 12) or 0 for _ in range(200)]
    assert len(early) > 20, "what failed together is not tried together"
    assert max(early, key=lambda wait: wait or 0) < max(late)  # type: ignore[operator]


def test_the_vendors_own_word_counts() -> None:
    assert next_wait_s(Cause.CONNECTION_UNAVAILABLE, 3, 1234.0) == 1234.0


@pytest.mark.parametrize(
    ("error", "parking"),
    [
        (NetworkFailure("x"), (Cause.CONNECTION_UNAVAILABLE, "account")),
        (AccessRevoked("x"), (Cause.CREDENTIAL, "account")),
        (AccessDenied("x"), (Cause.CONNECTION_UNAVAILABLE, "record")),
        (RateLimited("x"), (Cause.CONNECTION_UNAVAILABLE, "nothing")),
        (Settle("x"), (Cause.CONNECTION_UNAVAILABLE, "nothing")),
        (MissingSubjectKey("k"), (Cause.SUBJECT_KEY_MISSING, "nothing")),
        (WriteConflict("x"), (Cause.WRITE_CONFLICT, "nothing")),
        (TransientError("x"), (Cause.CONNECTION_UNAVAILABLE, "account")),
        (RecordError("x"), None),
        (ZeroDivisionError(), None),
    ],
)
def test_whom_an_error_speaks_against(error: Exception, parking: object) -> None:
    assert parking_of(error) == parking


# --- in the sink ---------------------------------------------------------------------------------------------------------------


def failing(world: World, error: Exception) -> None:
    async def fail(write: Any, step: Any, done: Any) -> Any:
        raise error

    world.connector.perform = fail  # type: ignore[method-assign]


async def test_a_conflict_that_never_ends_is_dead_after_its_attempts() -> None:
    world = World()
    world.backfilled()
    raw = world.command(company())
    await world.live()
    failing(world, WriteConflict("edited again"))
    world.command(company("New"))
    state = await world.live(rounds=600)
    standing = standing_of(state)
    assert not list(state.open_intents()), "a conflict is a definite answer"
    assert (standing.standing, standing.cause, standing.attempts) == (Standing.DEAD, Cause.WRITE_CONFLICT, 10)
    assert letters(world)[-1].original == world.codec.decode("", world.outbound[-1]).event
    assert raw != world.outbound[-1]


async def test_a_bug_is_tried_hourly_for_three_days_and_then_kept_as_a_dead_letter() -> None:
    world = World()
    world.backfilled()
    await world.live()
    failing(world, ZeroDivisionError())
    world.command(company())
    begun = world.clock.now()
    state = await world.live(rounds=400, step_s=1_000)
    assert 71 * 3_600 <= (world.clock.now() - begun).total_seconds() <= 85 * 3_600
    assert standing_of(state).cause is Cause.BUG
    assert standing_of(state).standing is Standing.DEAD
    assert letters(world)[-1].original is not None


async def test_what_is_parked_tells_cause_attempts_and_next_attempt() -> None:
    world = World()
    world.backfilled()
    await world.live()
    failing(world, NetworkFailure("refused", sent=False))
    world.command(company())
    with pytest.raises(AssertionError, match="not quiet"):
        await world.live(rounds=40)
    standing = standing_of(world.restored())
    assert standing.standing is Standing.PARKED
    assert standing.cause is Cause.CONNECTION_UNAVAILABLE
    assert standing.attempts >= 3
    assert standing.retry_at > standing.settled_at
    assert standing.parked_at < standing.settled_at


async def test_an_order_waits_for_its_customer_where_the_flow_says_so_and_goes_on_with_it() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    policy = WritePolicy(customer=CustomerPolicy(missing="park"))
    facts: dict[str, Any] = {"entity": "sales_order", "source_entity": "sales_invoice", "action": Action.CREATE, "policy": policy}
    for number in range(3):
        world.command(order("61"), source_id=f"Invoice:{number}", **facts)
    state = await world.live()
    assert {record.standing for record in state.standings()} == {Standing.WAITING}
    assert world.vendor.writes == []
    world.command(company())  # the customer's own flow brings it
    state = await world.live()
    assert {record.standing for record in state.standings()} == {Standing.WRITTEN}
    assert len(world.vendor.objects["customer"]) == 1
    assert len(world.vendor.objects["sales_order"]) == 3


async def test_a_dead_letter_names_exactly_the_missing_skus() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    lines = [
        canon.Line(line_id=str(number), line_no=number, line_type=canon.LineType.ITEM, sku=sku, quantity=Decimal(1))
        for number, sku in enumerate(("A-1", "B-2", "C-3"), 1)
    ]
    document = canon.SalesInvoice(type=canon.InvoiceType.INVOICE, currency="EUR", customer=order().customer, lines=lines)
    world.command(document, action=Action.CREATE, entity="sales_order", source_entity="sales_invoice", source_id="Invoice:1")
    await world.live()
    world.clock.advance(3 * 86_400 + 4_000)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.MISSING_DEPENDENCY)
    assert letters(world)[-1].detail == "no product at the target for SKU B-2, C-3"


async def test_time_behind_an_open_brake_is_no_time_of_patience() -> None:
    world = World()
    world.backfilled()
    await world.live()
    record = StateRecord(connection=TARGET, brake=BrakeRecord(flow="f", open=True, by_hand=True))
    closed = StateRecord(connection=TARGET, brake=BrakeRecord(flow="f", open=False))
    await world.tell_state(brake_key(TARGET, "f"), record)
    world.command(
        order(sku="B-2"), action=Action.CREATE, entity="sales_order", source_entity="sales_invoice", source_id="Invoice:1"
    )
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.BRAKE_OPEN
    world.clock.advance(10 * 86_400)
    await world.tell_state(brake_key(TARGET, "f"), closed)
    state = await world.live(idle=2)
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WAITING
