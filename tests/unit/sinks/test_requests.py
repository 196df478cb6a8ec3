"""What operators ask of an account: release, brake, link."""

import json

import pytest

from bus.core import topics
from bus.core.errors import NetworkFailure, WriteRejected
from schemas import canon
from schemas.system import (
    Action,
    Cause,
    IdempotencyClass,
    IntentState,
    LinkedBy,
    LinkState,
    ObjectRef,
    Outcome,
    RequestKind,
    Standing,
)
from tests.fakes import Deaths, company, order
from tests.unit.sinks.world import ORDER, PEER, World, letters, standing_of

CUSTOMER = ObjectRef(connection=PEER, entity="customer", id="61")
SOURCE = topics.event_key(PEER, "customer", "61")


async def waiting_orders(world: World) -> None:
    """Three orders that wait for a product which nobody tells of when it comes."""
    world.backfilled()
    for number in range(3):
        facts = {**ORDER, "source_id": f"Invoice:{number}", "flow": "g" if number == 2 else "f"}
        world.command(order(sku="A-1"), action=Action.CREATE, **facts)
    await world.live()
    world.vendor.put("product", canon.Product(sku="A-1"))


@pytest.mark.parametrize(
    ("args", "written"),
    [
        ({}, 3),
        ({"flow": "f"}, 2),
        ({"flow": "g"}, 1),
        ({"cause": "MISSING_DEPENDENCY"}, 3),
        ({"cause": "CREDENTIAL"}, 0),
        ({"keys": json.dumps([topics.event_key(PEER, "sales_invoice", "Invoice:1")])}, 1),
    ],
)
async def test_a_release_tries_what_fits_now(args: dict[str, str], written: int) -> None:
    world = World()
    await waiting_orders(world)
    assert all(standing.retry_at > world.clock.now() for standing in world.restored().parked() if standing.retry_at)
    world.ask(RequestKind.RELEASE, **args)
    await world.live()
    assert len(world.vendor.objects["sales_order"]) == written


async def test_a_request_is_carried_out_once_whoever_owns_the_slot() -> None:
    world = World()
    world.backfilled()
    world.ask(RequestKind.BRAKE, action="open", flow="f", reason="stock-taking")
    state = await world.live()
    assert state.brakes["f"].by_hand
    assert state.brakes["f"].reason == "stock-taking"
    world.ask(RequestKind.BRAKE, action="close", flow="f")
    await world.live()
    commits = len(world.log.records)
    state = await world.live()
    assert not state.brakes["f"].open, "the first request is not carried out anew"
    assert len(world.log.records) == commits
    assert world.restored().requests == 2


@pytest.mark.parametrize("flow", ["f", ""])
async def test_a_brake_opened_by_hand_holds_everything_until_a_hand_closes_it(flow: str) -> None:
    world = World()
    world.backfilled()
    world.ask(RequestKind.BRAKE, action="open", flow=flow)
    await world.live()
    calls = len(world.connector.calls)
    for number in range(5):
        world.command(company(email=f"{number}@shop.test"), source_id=str(number))
    state = await world.live(idle=2_000, rounds=2_500)
    assert len(world.connector.calls) == calls
    assert {(record.standing, record.cause) for record in state.standings()} == {(Standing.PARKED, Cause.BRAKE_OPEN)}
    world.ask(RequestKind.RELEASE)
    state = await world.live()
    assert len(world.connector.calls) == calls, "a release does not go around a brake"
    world.ask(RequestKind.BRAKE, action="close", flow=flow)
    state = await world.live(idle=2)
    assert {record.standing for record in state.standings()} == {Standing.WRITTEN}


async def ambiguous(world: World) -> None:
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.command(company())
    state = await world.live()
    assert standing_of(state).cause is Cause.AMBIGUOUS_WRITE


async def test_a_link_by_hand_ends_an_ambiguous_write() -> None:
    world = World(classes={"customer": IdempotencyClass.NONE})
    await ambiguous(world)
    (external_id,) = world.vendor.objects["customer"]
    world.ask(RequestKind.LINK, entity="customer", source=SOURCE, external_id=external_id)
    state = await world.live()
    link = state.link("customer", CUSTOMER)
    assert link is not None
    assert (link.external_id, link.linked_by, link.state) == (external_id, LinkedBy.MANUAL, LinkState.ACTIVE)
    assert not list(state.open_intents())
    assert standing_of(state).standing in (Standing.WRITTEN, Standing.UNCHANGED)
    assert list(world.vendor.objects["customer"]) == [external_id]
    told = [world.codec.decode("", record.value) for record in world.log.topic(topics.outbound(PEER))]
    assert [(command.source.id, command.target_id) for command in told] == [(external_id, "61")]


async def test_nothing_was_made_there_so_it_may_be_made_again_under_another_key() -> None:
    world = World(classes={"customer": IdempotencyClass.NONE})
    world.backfilled()
    world.connector.fail_next = [NetworkFailure("no answer")]
    world.command(company())
    state = await world.live()
    assert standing_of(state).cause is Cause.AMBIGUOUS_WRITE
    assert world.vendor.objects["customer"] == {}
    world.ask(RequestKind.LINK, entity="customer", source=SOURCE, external_id="")
    state = await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    link = state.link("customer", CUSTOMER)
    assert link is not None
    assert link.generation == 1
    assert standing_of(state).standing is Standing.WRITTEN


async def test_a_link_by_hand_ends_a_conflict_of_links() -> None:
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    (ours,) = world.vendor.objects["customer"]
    other = world.vendor.put("customer", company("Other", email="other@shop.test"))
    world.observe("customer", other)
    world.linked_by_peer("customer", other)
    await world.live()
    world.command(company("New name"))
    state = await world.live()
    assert standing_of(state).cause is Cause.LINK_CONFLICT
    world.ask(RequestKind.LINK, entity="customer", source=SOURCE, external_id=ours)
    state = await world.live()
    assert standing_of(state).standing is Standing.WRITTEN
    assert world.vendor.objects["customer"][ours].company_name == "New name"  # type: ignore[union-attr]
    assert world.vendor.objects["customer"][other].company_name == "Other"  # type: ignore[union-attr]


async def test_an_order_whose_customer_was_unclear_goes_on_when_a_hand_links_the_customer() -> None:
    world = World(classes={"customer": IdempotencyClass.NONE})
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    world.connector.fail_next = ["lost"]
    world.command(order("61"), action=Action.CREATE, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.AMBIGUOUS_WRITE
    (external_id,) = world.vendor.objects["customer"]
    world.ask(RequestKind.LINK, entity="customer", source=SOURCE, external_id=external_id)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WRITTEN
    assert len(world.vendor.objects["customer"]) == 1


async def test_a_document_linked_by_hand_is_proven_to_the_cent() -> None:
    world = World(classes={"sales_order": IdempotencyClass.NONE})
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    world.connector.fail_next = [NetworkFailure("no answer")]
    world.observe("customer", world.vendor.put("customer", company()))
    world.command(order("61"), action=Action.CREATE, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.AMBIGUOUS_WRITE
    wrong = world.vendor.put("sales_order", order("61", total="1.00"))
    source = topics.event_key(PEER, "sales_invoice", "Invoice:1")
    world.ask(RequestKind.LINK, entity="sales_order", source=source, external_id=wrong)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.TOTALS_MISMATCH


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (RequestKind.BRAKE, {"action": "halfway"}),
        (RequestKind.LINK, {"entity": "customer", "source": "61", "external_id": "C1"}),
        (RequestKind.LINK, {"entity": "starship", "source": SOURCE, "external_id": "C1"}),
        (RequestKind.RELEASE, {"keys": "not json"}),
        (RequestKind.RELEASE, {"keys": json.dumps(["a|b|c"] * 501)}),
    ],
)
async def test_a_request_that_cannot_be_is_passed_by(kind: RequestKind, args: dict[str, str]) -> None:
    world = World()
    world.ask(kind, **args)
    world.ask(RequestKind.BRAKE, action="open", flow="f")
    state = await world.live()
    assert state.brakes["f"].open
    assert world.restored().requests == 2


async def test_what_is_asked_of_other_services_is_left_to_them() -> None:
    world = World()
    world.ask(RequestKind.REPLAY)
    await world.live()
    assert world.restored().requests is None
    assert world.log.records == []


def test_a_death_at_any_point_of_a_link_by_hand_makes_nothing_twice() -> None:
    import asyncio

    def told(deaths: Deaths) -> World:
        world = World(classes={"customer": IdempotencyClass.NONE})
        asyncio.run(ambiguous(world))
        world.ask(RequestKind.LINK, entity="customer", source=SOURCE, external_id=next(iter(world.vendor.objects["customer"])))
        world.deaths = world.log.deaths = world.connector.deaths = deaths
        return world

    whole = told(Deaths())
    asyncio.run(whole.live())
    assert whole.deaths.passed > 2
    for point in range(1, whole.deaths.passed + 1):
        world = told(Deaths(at=point))
        state = asyncio.run(world.survive())
        assert len(world.vendor.objects["customer"]) == 1, point
        assert standing_of(state).standing in (Standing.WRITTEN, Standing.UNCHANGED), point
        intent = state.intent("customer", CUSTOMER)
        assert intent is not None
        assert intent.state is IntentState.CLOSED


async def test_a_dead_command_keeps_its_bytes_only_where_a_hand_may_end_it() -> None:
    world = World()
    world.backfilled()
    world.connector.fail_next = [WriteRejected("no")]
    world.command(company())
    state = await world.live()
    assert standing_of(state).command is None
    assert standing_of(state).outcome is Outcome.DEAD
    assert len(letters(world)) == 1
