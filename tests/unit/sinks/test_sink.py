"""What a sink does with commands, one account, fake vendor."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.core.errors import AccessDenied, AccessRevoked, Unavailable, WriteConflict, WriteRejected
from bus.core.policy import CustomerPolicy, ProductPolicy, WritePolicy
from bus.runtime.state import AccountState
from bus.runtime.watchdog import Watchdog
from schemas import canon
from schemas.system import Action, Cause, IdempotencyClass, LinkedBy, LinkState, ObjectRef, Outcome, Standing
from services.sinks.account import COMMAND_LIMIT_S, PARALLEL_OBJECTS_MAX
from tests.fakes import company, order
from tests.unit.sinks.world import PEER, World, standing_of

ORDER = {"entity": "sales_order", "source_entity": "sales_invoice", "source_id": "Invoice:1"}


def count_calls(world: World, name: str) -> list[Any]:
    """Arguments of every call of a connector's method from now on."""
    method, calls = getattr(world.connector, name), []

    async def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return await method(*arguments)

    setattr(world.connector, name, counted)
    return calls


async def test_a_new_customer_is_created_once_and_linked() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    world.command(company())
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    link = state.link("customer", ObjectRef(connection=PEER, entity="customer", id="61"))
    assert link is not None
    assert link.linked_by is LinkedBy.CREATED
    assert standing_of(state).standing is Standing.UNCHANGED


async def test_a_command_that_never_ends_is_seen_by_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    world, now_s = World(), 0.0
    dog = Watchdog(lambda: now_s)
    monkeypatch.setattr("services.sinks.account.span", dog.span)

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    world.connector.perform = never  # type: ignore[method-assign]
    world.backfilled()
    world.command(company())
    life = asyncio.ensure_future(world.live(rounds=100))
    while not dog._spans:
        assert not life.done()
        await asyncio.sleep(0)
    now_s = COMMAND_LIMIT_S
    assert dog.stuck() is None
    now_s += 1
    assert dog.stuck() == f"a command for {world.sink.connection} is over its limit by 1 s"
    life.cancel()


async def test_what_a_day_has_been_used_for_is_committed_with_the_outcome() -> None:
    world = World()
    world.backfilled()
    world.used_today = {"day": 41}
    world.command(company())
    await world.live()
    budget = world.restored().budgets["day"]
    assert (budget.used, budget.window_start.date(), budget.window_start.hour) == (41, world.clock.now().date(), 0)
    before = len(world.log.topic(topics.STATE))
    world.command(company())
    await world.live()
    keys = [record.key for record in world.log.topic(topics.STATE)[before:]]
    assert not any(key.startswith("budget|") for key in keys), "nothing was spent since"


async def test_objects_under_way_share_their_transactions() -> None:
    world, commits = World(), 0
    commit = world.log.commit

    async def counted(records: Sequence[Any]) -> None:
        nonlocal commits
        commits += 1
        await commit(records)

    world.log.commit = counted  # type: ignore[method-assign]
    world.backfilled()
    customers = 8 * PARALLEL_OBJECTS_MAX
    for number in range(customers):
        world.command(company(email=f"{number}@shop.test"), source_id=str(number))
    await world.live()
    assert len(world.vendor.objects["customer"]) == customers
    assert commits < customers


async def test_no_create_before_the_backfill_is_complete() -> None:
    world = World()
    world.command(company())
    state = await world.live()
    assert standing_of(state).standing is Standing.WAITING
    assert standing_of(state).cause is Cause.BACKFILL_INCOMPLETE
    assert world.vendor.writes == []
    world.backfilled()
    state = await world.live()
    assert standing_of(state).standing is Standing.WRITTEN


async def test_an_older_version_after_a_newer_one_is_dropped_and_counted() -> None:
    world = World()
    world.backfilled()
    world.command(company("New B.V."), seq=200)
    world.command(company("Old B.V."), seq=100)
    await world.live()
    (kept,) = world.vendor.objects["customer"].values()
    assert isinstance(kept, canon.Customer)
    assert kept.company_name == "New B.V."
    assert ("f", Outcome.STALE) in world.outcomes


async def test_an_update_sends_only_what_the_source_changed() -> None:
    world = World()
    world.connector.name_max = 10
    world.backfilled()
    world.command(company("A very long company name"))
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    edited = msgspec.structs.replace(world.vendor.objects["customer"][external_id], language="nl")
    world.vendor.put("customer", edited, external_id)
    world.command(company("A very long company name", email="new@vandijk.test"))
    state = await world.live()
    kept = world.vendor.objects["customer"][external_id]
    assert isinstance(kept, canon.Customer)
    assert kept.company_name == "A very lon"
    assert kept.language == "nl"
    assert kept.pii.emails[0].value == "new@vandijk.test"  # type: ignore[union-attr]
    assert standing_of(state).detail == "fields: email"


async def test_what_the_target_holds_already_is_not_sent() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    world.vendor.put("customer", company(email="new@vandijk.test"), external_id)
    writes = list(world.vendor.writes)
    world.command(company(email="new@vandijk.test"))
    state = await world.live()
    assert world.vendor.writes == writes
    assert standing_of(state).standing is Standing.UNCHANGED


async def test_an_existing_customer_is_matched_by_email_and_kind() -> None:
    world = World()
    external_id = world.vendor.put("customer", company("Van Dijk"))
    world.observe("customer", external_id)
    world.backfilled()
    world.command(company("Van Dijk"), policy=WritePolicy(write="upsert", existing="link"), existing=True)
    state = await world.live()
    assert list(world.vendor.objects["customer"]) == [external_id]
    assert world.vendor.writes == []
    assert standing_of(state).outcome is Outcome.LINKED


async def test_what_existed_before_the_start_is_not_sent_though_its_peer_linked_it_while_it_waited() -> None:
    world = World()
    external_id = world.vendor.put("customer", company("Van Dijk Holding"))
    world.observe("customer", external_id)
    world.command(company("Van Dijk"), policy=WritePolicy(write="upsert", existing="link"), existing=True)
    state = await world.live()
    assert standing_of(state).standing is Standing.WAITING
    world.linked_by_peer("customer", external_id)
    world.backfilled()
    state = await world.live()
    assert standing_of(state).outcome is Outcome.LINKED
    assert world.vendor.writes == []


async def test_what_a_person_edited_unseen_just_before_our_write_stays_news() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    world.vendor.put("customer", msgspec.structs.replace(company(), language="nl"), external_id)
    world.command(company(email="new@vandijk.test"))
    state = await world.live()
    held = state.object("customer", external_id)
    assert held is not None
    now = world.hasher.fields(world.vendor.objects["customer"][external_id])
    assert held.content_hash is None, "not an exact echo"
    assert held.field_hashes["email"] == now["email"]
    assert "language" in now
    assert "language" not in held.field_hashes


async def test_an_echo_settles_in_the_terms_of_the_flow() -> None:
    """Else the raw code and the table's value would differ for ever, and the next edit would send what nobody changed."""
    world = World()
    world.backfilled()
    terms = {"resolved": {"payment_term": "Net 30"}, "policy": WritePolicy(write="upsert")}
    raw = canon.Ref(code="30")
    world.command(company(payment_term=raw), **terms)
    await world.live()
    world.command(company(payment_term=raw), action=Action.NONE, reason="echo", **terms)
    state = await world.live()
    document = msgspec.structs.replace(company(), payment_term=canon.Ref(code="Net 30"))
    assert standing_of(state).applied == world.hasher.fields(document)


async def test_two_customers_with_one_email_are_for_a_person_to_decide() -> None:
    world = World()
    for name in ("Van Dijk", "Van Dijk Holding"):
        world.observe("customer", world.vendor.put("customer", company(name)))
    world.backfilled()
    world.command(company("Van Dijk"))
    state = await world.live()
    assert standing_of(state).standing is Standing.DEAD
    assert standing_of(state).cause is Cause.AMBIGUOUS_MATCH
    assert world.vendor.writes == []


async def test_company_and_person_under_one_email_stay_two() -> None:
    world = World()
    person = msgspec.structs.replace(company(), kind=canon.CustomerKind.PERSON, company_name=None)
    world.observe("customer", world.vendor.put("customer", person))
    world.backfilled()
    world.command(company())
    await world.live()
    assert len(world.vendor.objects["customer"]) == 2


async def test_an_unknown_kind_matches_by_email_alone_only_when_one_answers() -> None:
    world = World()
    unknown = msgspec.structs.replace(company(), kind=canon.CustomerKind.UNKNOWN)
    external_id = world.vendor.put("customer", unknown)
    world.observe("customer", external_id)
    world.backfilled()
    world.command(company())
    state = await world.live()
    assert standing_of(state).external_id == external_id


async def test_the_filter_withdraws_what_is_parked() -> None:
    world = World()
    world.command(company())
    state = await world.live()
    assert standing_of(state).standing is Standing.WAITING
    world.command(company(), action=Action.NONE, reason="when")
    state = await world.live()
    assert standing_of(state).standing is Standing.FILTERED
    world.backfilled()
    await world.live()
    assert world.vendor.writes == []


async def test_an_order_waits_for_its_products_and_names_them() -> None:
    world = World()
    world.backfilled()
    world.command(order(sku="A-1"), action=Action.CREATE, **ORDER)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert standing.standing is Standing.WAITING
    assert "A-1" in standing.detail
    world.observe("product", world.vendor.put("product", canon.Product(sku="a‑1", kind=canon.ProductKind.SIMPLE)))
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WRITTEN
    assert len(world.vendor.objects["sales_order"]) == 1
    assert len(world.vendor.objects["customer"]) == 1


async def test_a_sku_nobody_knows_is_searched_once_for_all_who_wait_and_again_after_a_while() -> None:
    world = World()
    world.backfilled()
    searched = count_calls(world, "find")
    for number in range(10):
        command = {**ORDER, "source_id": f"Invoice:{number}"}
        world.command(order(sku="A-1"), action=Action.CREATE, **command)
    await world.live()
    assert [(entity, match.sku) for entity, match in searched if entity == "product"] == [("product", "A-1")]
    world.vendor.put("product", canon.Product(sku="A-1"))  # and nobody tells of it
    world.clock.advance(4000)
    state = await world.live()
    assert len([entity for entity, _ in searched if entity == "product"]) == 2
    assert standing_of(state, "Invoice:9", "sales_invoice").standing is Standing.WRITTEN
    assert len(world.vendor.objects["sales_order"]) == 10


@pytest.mark.parametrize(("ours", "theirs", "asked"), [("BE0400000123", None, 0), (None, "BE0400000123", 1), (None, None, None)])
async def test_a_debtor_is_asked_for_its_vat_number_only_where_our_record_tells_none(
    ours: str | None, theirs: str | None, asked: int | None
) -> None:
    """`ours` was observed; `theirs` was entered since."""
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    debtor = world.vendor.put("customer", company(vat_number=ours))
    world.observe("customer", debtor)
    world.linked_by_peer("customer", debtor)
    await world.live()
    world.vendor.put("customer", company(vat_number=theirs), debtor)
    fetched = count_calls(world, "fetch")
    world.command(order("61"), action=Action.CREATE, resolved={"vat_code": "4"}, categories={"vat_code": "K"}, **ORDER)
    state = await world.live()
    is_held = standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WAITING
    assert is_held is (asked is None)
    assert asked is None or len(fetched) == asked


async def test_patience_ends_in_a_dead_letter_with_the_missing_skus() -> None:
    world = World()
    world.backfilled()
    policy = WritePolicy(product=ProductPolicy(patience_s=60), customer=CustomerPolicy(patience_s=60))
    world.command(order(sku="A-1"), action=Action.CREATE, policy=policy, **ORDER)
    await world.live()
    world.clock.advance(4000)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert standing.standing is Standing.DEAD
    assert "A-1" in standing.detail
    assert len(world.log.topic("bus.dead-letters")) == 1


async def test_a_customer_command_and_an_order_with_the_same_customer_make_one() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    world.command(company(), source_id="61")
    world.command(order("61"), action=Action.CREATE, **ORDER)
    world.command(order("61"), action=Action.CREATE, entity="sales_order", source_entity="sales_invoice", source_id="Invoice:2")
    await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert len(world.vendor.objects["sales_order"]) == 2


async def test_an_order_with_a_known_reference_is_skipped_and_linked() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    world.command(order("61"), action=Action.CREATE, resolved={"reference": "QBO-1"}, **ORDER)
    await world.live()
    world.log.records = [
        record for record in world.log.records if not record.key.startswith(("link|target|sales_order", "standing", "intent"))
    ]
    world.outbound.append(world.outbound[-1])
    state = await world.live()
    assert len(world.vendor.objects["sales_order"]) == 1
    assert standing_of(state, "Invoice:1", "sales_invoice").outcome is Outcome.SKIPPED


async def test_a_reference_of_another_debtor_is_a_conflict() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    stranger = msgspec.structs.replace(order("99"), customer_reference="QBO-1")
    world.vendor.put("sales_order", stranger)
    world.command(order("61"), action=Action.CREATE, resolved={"reference": "QBO-1"}, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.AMBIGUOUS_MATCH
    assert len(world.vendor.objects["sales_order"]) == 1


async def test_a_later_version_of_a_written_document_hides_neither_its_creation_nor_its_wrong_total() -> None:
    for total, outcome, standing, letters in (
        ("121.00", Outcome.CREATED, Standing.WRITTEN, 0),
        ("130.00", Outcome.CREATED, Standing.DEAD, 1),
    ):
        world = World()
        world.connector.total_kept = Decimal("121.00")
        world.vendor.put("product", canon.Product(sku="A-1", kind=canon.ProductKind.SIMPLE))
        world.observe("product", next(iter(world.vendor.objects["product"])))
        world.backfilled()
        world.command(order(total=total), **ORDER)
        await world.live()
        world.command(order(total=total), **ORDER)
        state = await world.live()
        record = standing_of(state, "Invoice:1", "sales_invoice")
        assert (record.outcome, record.standing) == (outcome, standing)
        assert record.seq == max(standing.seq for standing in state.standings())
        assert len(world.log.topic(topics.DEAD_LETTERS)) == letters
        assert len(world.vendor.objects["sales_order"]) == 1


async def test_a_refusal_is_a_dead_letter_in_the_vendors_words_and_others_go_on() -> None:
    world = World()
    world.backfilled()
    world.connector.fail_next = [WriteRejected("Verplicht: Naam")]
    world.command(company(email="a@x.test"), source_id="1")
    world.command(company(email="b@x.test"), source_id="2")
    state = await world.live()
    dead = standing_of(state, "1")
    assert dead.standing is Standing.DEAD
    assert "Verplicht: Naam" in dead.detail
    assert standing_of(state, "2").standing is Standing.WRITTEN


async def test_a_bug_parks_its_record_only() -> None:
    world = World()
    world.backfilled()
    world.connector.fail_next = [ZeroDivisionError()]
    world.command(company(email="a@x.test"), source_id="1")
    world.command(company(email="b@x.test"), source_id="2")
    await world.live()
    assert len(world.vendor.objects["customer"]) == 2


async def test_a_conflict_is_read_again_and_repeated() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    world.connector.fail_next = [WriteConflict("stale")]
    world.command(company(email="new@vandijk.test"))
    state = await world.live()
    assert standing_of(state).outcome is Outcome.UPDATED


@pytest.mark.parametrize("kind", [IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH])
async def test_a_lost_answer_makes_no_second_object(kind: IdempotencyClass) -> None:
    world = World(classes={"customer": kind})
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.command(company())
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert standing_of(state).standing is Standing.WRITTEN


async def test_absence_needs_two_searches_and_time() -> None:
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.backfilled()
    world.connector.fail_next = [Unavailable("502")]
    world.command(company())
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert standing_of(state).attempts >= 3


async def test_without_any_key_a_lost_answer_is_for_a_person() -> None:
    world = World(classes={"customer": IdempotencyClass.NONE})
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.command(company())
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert standing_of(state).standing is Standing.DEAD
    assert standing_of(state).cause is Cause.AMBIGUOUS_WRITE


@pytest.mark.parametrize("refusal", [AccessRevoked("log in"), AccessDenied("scope")])
async def test_a_call_turned_away_at_the_door_leaves_no_open_intent(refusal: Exception) -> None:
    world = World(classes={"customer": IdempotencyClass.NONE})
    world.backfilled()
    world.connector.fail_next = [refusal]
    world.command(company())
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert standing_of(state).standing is Standing.WRITTEN
    assert not list(state.open_intents())


async def test_a_refused_name_is_tried_once_more_under_the_next_generation() -> None:
    world = World()
    world.backfilled()
    world.connector.fail_next = [WriteRejected("duplicate name", regenerate=True)]
    world.command(company())
    state = await world.live()
    assert standing_of(state).standing is Standing.WRITTEN
    link = state.link("customer", ObjectRef(connection=PEER, entity="customer", id="61"))
    assert link is not None
    assert link.generation == 1


async def test_a_deleted_target_is_not_made_again() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    world.vendor.objects["customer"].clear()
    world.command(company(email="new@vandijk.test"))
    state = await world.live()
    assert world.vendor.objects["customer"] == {}
    link = state.link("customer", ObjectRef(connection=PEER, entity="customer", id="61"))
    assert link is not None
    assert link.state is LinkState.RETIRED


async def test_fields_the_target_owns_and_create_only_fields_are_left_alone() -> None:
    world = World()
    world.backfilled()
    policy = WritePolicy(write="upsert", owner={"email": "target"}, create_only=("language",))
    world.command(company(language="en"), policy=policy)
    await world.live()
    world.command(company("New name", email="new@vandijk.test", language="de"), policy=policy)
    await world.live()
    (kept,) = world.vendor.objects["customer"].values()
    assert isinstance(kept, canon.Customer)
    assert kept.company_name == "New name"
    assert kept.language == "en"
    assert kept.pii.emails[0].value == "inkoop@vandijk.test"  # type: ignore[union-attr]


async def test_the_peer_learns_of_the_link_in_the_same_transaction() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    (record,) = world.log.topic(f"bus.outbound.{PEER}")
    command = world.codec.decode("", record.value)
    assert command.target_id == "61"
    assert command.source.id in world.vendor.objects["customer"]


def test_a_state_forgets_match_keys_of_what_an_object_was() -> None:
    from bus.runtime.state import object_key
    from schemas.system import ObjectState, StateRecord

    state = AccountState("target")
    state.apply(object_key("target", "product", "1"), StateRecord(connection="target", object=ObjectState(match_keys=["sku:a"])))
    state.apply(object_key("target", "product", "1"), StateRecord(connection="target", object=ObjectState(match_keys=["sku:b"])))
    assert state.candidates("product", "sku:a") == set()
    assert state.candidates("product", "sku:b") == {"1"}
