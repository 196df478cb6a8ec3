"""Commands that come once more because somebody asked for them."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.core.errors import RecordError, WriteRejected
from bus.core.policy import WritePolicy
from bus.runtime.deadletters import DEAD_HINT, HINTS
from schemas import canon
from schemas.system import Action, Cause, Outcome, Standing
from tests.fakes import company, order
from tests.unit.sinks.world import ORDER, World, letters, results, standing_of, written_order


async def test_what_is_settled_already_is_stale_unless_somebody_asked_for_it() -> None:
    world = World()
    world.backfilled()
    world.connector.fail_next = [WriteRejected("no")]
    raw = world.command(company())
    await world.live()
    world.outbound.append(raw)
    state = await world.live()
    assert world.outcomes[-1] == ("f", Outcome.STALE)
    assert standing_of(state).standing is Standing.DEAD
    world.replay(raw, request="job-7")
    state = await world.live()
    assert standing_of(state).standing is Standing.WRITTEN, "a later success closes what was dead"
    assert standing_of(state).cause is None
    assert [result.request for result in results(world)][-2:] == [None, "job-7"]
    assert len(letters(world)) == 1


async def test_an_older_version_stays_stale_though_somebody_asked_for_it() -> None:
    world = World()
    world.backfilled()
    old = world.command(company("Old B.V."))
    world.command(company("New B.V."))
    await world.live()
    world.replay(old, repair=True)
    await world.live()
    (kept,) = world.vendor.objects["customer"].values()
    assert isinstance(kept, canon.Customer)
    assert kept.company_name == "New B.V."
    assert world.outcomes[-1] == ("f", Outcome.STALE)


async def test_replaying_what_did_not_change_calls_nobody() -> None:
    world = World()
    raw = world.command(company())
    document = await written_order(world)
    calls, writes = list(world.connector.calls), list(world.vendor.writes)
    for _ in range(2):
        world.replay(raw)
        world.replay(document)
        state = await world.live()
    assert world.connector.calls == calls
    assert world.vendor.writes == writes
    assert standing_of(state).standing is Standing.UNCHANGED
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WRITTEN


async def test_a_repair_compares_every_field_the_flow_owns_with_what_the_target_holds() -> None:
    world = World()
    world.backfilled()
    policy = WritePolicy(write="upsert", owner={"language": "target"}, create_only=("vat_number",))
    raw = world.command(company(language="en", vat_number="NL1"), policy=policy)
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    edited = company("Somebody else", language="de", vat_number="NL2")
    world.vendor.put("customer", edited, external_id)
    world.replay(raw)
    await world.live()
    assert world.vendor.objects["customer"][external_id] == edited, "only a repair looks"
    world.replay(raw, repair=True)
    state = await world.live()
    assert standing_of(state).outcome is Outcome.UPDATED
    assert standing_of(state).detail == "fields: company_name"
    assert world.vendor.objects["customer"][external_id] == company(language="de", vat_number="NL2")
    writes = list(world.vendor.writes)
    world.replay(raw, repair=True)
    state = await world.live()
    assert world.vendor.writes == writes
    assert standing_of(state).standing is Standing.UNCHANGED


async def test_a_repair_writes_what_was_only_linked_when_met() -> None:
    world = World()
    external_id = world.vendor.put("customer", company("Van Dijk"))
    world.observe("customer", external_id)
    world.backfilled()
    raw = world.command(company("Van Dijk Holding"), policy=WritePolicy(write="upsert", existing="link"), existing=True)
    await world.live()
    world.replay(raw)
    await world.live()
    assert world.vendor.writes == []
    world.replay(raw, repair=True)
    await world.live()
    assert world.vendor.writes == [("update", "update")]


async def test_what_existed_before_the_start_is_not_sent_when_it_is_replayed_after_an_order_made_it() -> None:
    world = World()
    raw = world.command(company("Holding"), policy=WritePolicy(write="upsert", existing="link"), existing=True)
    world.backfilled()
    state = await world.live()
    assert standing_of(state).standing is Standing.FILTERED
    await written_order(world)
    writes = list(world.vendor.writes)
    world.replay(raw)
    state = await world.live()
    assert world.vendor.writes == writes
    assert standing_of(state).outcome is Outcome.LINKED


@pytest.mark.parametrize("repair", [False, True])
async def test_a_wrong_total_that_was_corrected_at_the_target_is_no_longer_dead(repair: bool) -> None:
    world = World()
    world.connector.total_kept = Decimal("130.00")
    raw = await written_order(world)
    (external_id,) = world.vendor.objects["sales_order"]
    for _ in range(2):
        world.replay(raw, repair=repair)
        state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.TOTALS_MISMATCH
    assert len(letters(world)) == 1, "the same again is not told again"
    held = world.vendor.objects["sales_order"][external_id]
    world.vendor.put("sales_order", msgspec.structs.replace(held, totals=canon.Totals(incl=Decimal("121.00"))), external_id)
    world.replay(raw, repair=repair)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert (standing.standing, standing.cause, standing.outcome) == (Standing.WRITTEN, None, Outcome.CREATED)
    assert len(world.vendor.objects["sales_order"]) == 1


async def test_a_repair_finds_a_total_that_somebody_changed_at_the_target() -> None:
    world = World()
    raw = await written_order(world)
    (external_id,) = world.vendor.objects["sales_order"]
    held = world.vendor.objects["sales_order"][external_id]
    world.vendor.put("sales_order", msgspec.structs.replace(held, totals=canon.Totals(incl=Decimal("1.00"))), external_id)
    world.replay(raw)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WRITTEN
    world.replay(raw, repair=True)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.TOTALS_MISMATCH)
    assert len(letters(world)) == 1


async def test_a_repair_of_a_document_deleted_at_the_target_does_not_make_it_again() -> None:
    world = World()
    raw = await written_order(world)
    world.vendor.objects["sales_order"].clear()
    for _ in range(2):
        world.replay(raw, repair=True)
        await world.live()
    assert world.vendor.objects["sales_order"] == {}


@pytest.mark.parametrize("repair", [False, True])
async def test_a_flow_that_only_creates_updates_nothing(repair: bool) -> None:
    world = World()
    world.backfilled()
    policy = WritePolicy(write="create")
    world.command(company(), policy=policy, action=Action.CREATE)
    await world.live()
    world.command(company("New name"), policy=policy, action=Action.CREATE, repair=repair, request="job")
    state = await world.live()
    (kept,) = world.vendor.objects["customer"].values()
    assert kept == company()
    assert standing_of(state).standing is Standing.UNCHANGED


# --- dead letters of the processors --------------------------------------------------------------------------------------------


async def test_what_the_processors_refuse_is_told_once_by_the_sink() -> None:
    world = World()
    reason = "dead:MISSING_TABLE_ROW:table vat has no row for 3"
    raw = world.command(company(), action=Action.NONE, reason=reason)
    await world.live()
    (letter,) = letters(world)
    command = world.codec.decode("", raw)
    assert (letter.stage, letter.cause, letter.detail) == ("processors", Cause.MISSING_TABLE_ROW, "table vat has no row for 3")
    assert letter.hint == HINTS[Cause.MISSING_TABLE_ROW]
    assert letter.original == command.event
    world.outbound.append(raw)
    world.replay(raw)
    world.replay(raw, request="job-2")
    await world.live()
    assert len(letters(world)) == 1, "a second redrive tells nothing new"
    world.replay(raw, reason="dead:MISSING_TABLE_ROW:table vat has no row for 4")
    await world.live()
    assert [letter.detail[-1] for letter in letters(world)] == ["3", "4"]


async def test_a_hint_of_the_processors_own_is_told_before_that_of_the_cause() -> None:
    world = World()
    resolved = {DEAD_HINT: "mend the row tax_code=7"}
    world.command(company(), action=Action.NONE, reason="dead:SOURCE_INCONSISTENT:x", resolved=resolved)
    await world.live()
    assert [letter.hint for letter in letters(world)] == ["mend the row tax_code=7"]


async def test_a_newer_configuration_that_knows_the_value_closes_the_dead_letter_of_a_written_document() -> None:
    world = World()
    raw = await written_order(world)
    command = world.codec.decode("", raw)
    world.command(order(), action=Action.NONE, reason="dead:MAPPING_ERROR:x", seq=command.seq + 10, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.DEAD
    world.command(order(), action=Action.CREATE, seq=command.seq + 10, version=2, request="job", **ORDER)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert (standing.standing, standing.cause) == (Standing.WRITTEN, None)
    assert len(world.vendor.objects["sales_order"]) == 1


@pytest.mark.parametrize(
    ("error", "cause"), [(RecordError("9 MB", cause=Cause.TOO_LARGE), Cause.TOO_LARGE), (TypeError(), Cause.BUG)]
)
async def test_an_outcome_that_cannot_be_written_down_stops_its_record_only(error: Exception, cause: Cause) -> None:
    world = World()
    encode = world.codec.encode

    def choosy(topic: str, value: Any) -> bytes:
        standing = getattr(value, "standing", None)
        if standing is not None and standing.command is not None:
            raise error
        return encode(topic, value)

    world.codec.encode = choosy  # type: ignore[method-assign]
    world.command(company(email="a@x.test"), source_id="1")  # would be parked: nothing is read yet
    state = await world.live()
    assert (standing_of(state, "1").standing, standing_of(state, "1").cause) == (Standing.DEAD, cause)
    assert len(letters(world)) == 1
