"""Histories of the write side: what is asked of one account, and what stands at its vendor in the end."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.kit.connector import Found, Match, Step, StepResult, Write
from bus.kit.manifest import StepFacts
from bus.runtime.state import AccountState
from schemas import canon
from schemas.system import (
    Action,
    Cause,
    IdempotencyClass,
    LinkState,
    ObjectRef,
    RequestKind,
    SeenRecord,
    Standing,
)
from services.pollers.judging import RESTED, Verdict, judge
from services.sinks.ledger import Ledger
from services.sinks.recovery import Recovery
from tests.fakes import company, order
from tests.unit.sinks.world import ORDER, PEER, TARGET, World, letters, standing_of

CUSTOMER = ObjectRef(connection=PEER, entity="customer", id="61")
SETTLE_S = 120


def kept(world: World) -> list[str | None]:
    """Names of the customers at the vendor."""
    return [getattr(document, "company_name", None) for document in world.vendor.objects["customer"].values()]


def made(world: World, entity: str) -> int:
    """Creates the vendor carried out."""
    return world.vendor.writes.count(("create", entity))


async def with_a_product(world: World) -> None:
    """An account whose only product is known."""
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    await world.live()


def slow(world: World) -> None:
    """A search takes a while, so that others come in between."""
    find = world.connector.find

    async def waited(entity: str, match: Match) -> Sequence[Found]:
        found = await find(entity, match)
        for _ in range(20):
            await asyncio.sleep(0)
        return found

    world.connector.find = waited  # type: ignore[method-assign]


async def test_a_customer_command_and_an_order_that_embeds_the_same_customer_run_at_once() -> None:
    """Two writers each found no customer and each made one: the command's, and the order's first step.

    One writer at a time holds the object, whatever flow or document asks for it (law 7).
    """
    for order_first in (False, True):
        world = World(classes={"customer": IdempotencyClass.SEARCH})
        await with_a_product(world)
        slow(world)
        for is_order in (order_first, not order_first):
            if is_order:
                world.command(order("61"), action=Action.CREATE, **ORDER)
            else:
                world.command(company(), source_id="61")
        state = await world.live()
        assert (made(world, "customer"), made(world, "sales_order")) == (1, 1)
        (debtor,) = world.vendor.objects["customer"]
        assert [item.customer.customer.id for item in world.vendor.objects["sales_order"].values()] == [debtor]  # type: ignore[union-attr]
        assert not list(state.open_intents())


async def test_two_first_orders_with_one_e_mail() -> None:
    """Two guests' first orders bore one address, so each made a debtor of its own.

    The match key is locked from the search to the create, and our own matches are asked before the vendor's search (law 7).
    """
    world = World()
    await with_a_product(world)
    for guest, number in (("61", "Invoice:1"), ("62", "Invoice:2")):
        world.command(order(guest), action=Action.CREATE, **{**ORDER, "source_id": number})
    await world.live()
    assert (made(world, "customer"), made(world, "sales_order")) == (1, 2)
    (debtor,) = world.vendor.objects["customer"]
    assert {item.customer.customer.id for item in world.vendor.objects["sales_order"].values()} == {debtor}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH])
async def test_a_newer_version_arrives_while_a_creates_answer_is_lost(kind: IdempotencyClass) -> None:
    """The newer version created a second object, or was taken for what the unanswered call had written.

    The open intent ends by its own command before anything newer of its object (law 6).
    """
    world = World(classes={"customer": kind})
    world.backfilled()
    await world.live()
    world.connector.fail_next = ["lost"]
    world.command(company("First B.V."))
    world.command(company("Second B.V."))
    state = await world.live()
    assert (made(world, "customer"), kept(world)) == (1, ["Second B.V."])
    assert standing_of(state).standing is Standing.WRITTEN
    assert not list(state.open_intents())


async def test_the_vendors_search_lags_behind_its_create() -> None:
    """The answer was lost, a search found nothing yet, and the create was sent again.

    Absence needs two empty searches, the second after the vendor's own time (law 6).
    """
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    writes = world.connector.manifest.writes["customer"]
    steps = (StepFacts(name="customer", idempotency=IdempotencyClass.SEARCH, settle_s=SETTLE_S),)
    manifest = world.connector.manifest
    world.connector.manifest = manifest.model_copy(
        update={"writes": {**manifest.writes, "customer": writes.model_copy(update={"steps": steps})}}
    )
    shown_at = world.clock.now() + timedelta(seconds=SETTLE_S - 10)
    search, find = world.connector.search, world.connector.find

    async def late(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        return await search(write, step, done) if world.clock.now() >= shown_at else None

    async def found_late(entity: str, match: Match) -> Sequence[Found]:
        return await find(entity, match) if world.clock.now() >= shown_at else []

    world.connector.search, world.connector.find = late, found_late  # type: ignore[method-assign]
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.command(company())
    state = await world.live(step_s=10)
    assert (made(world, "customer"), kept(world)) == (1, ["Van Dijk B.V."])
    assert standing_of(state).standing is Standing.WRITTEN


async def test_a_person_edits_between_our_write_and_our_read_back() -> None:
    """The read-back held our e-mail address and a person's language, and all of it was taken for our own write.

    What we neither sent nor knew is somebody's edit: it stays news, and only our field is an echo (law 9).
    """
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    before = world.hasher.fields(world.vendor.objects["customer"][external_id])
    perform = world.connector.perform

    async def edited_meanwhile(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        result = await perform(write, step, done)
        now = msgspec.structs.replace(world.vendor.objects["customer"][external_id], language="nl")
        world.vendor.put("customer", now, external_id)
        return msgspec.structs.replace(result, record=world.vendor.record("customer", external_id))

    world.connector.perform = edited_meanwhile  # type: ignore[method-assign]
    world.clock.advance(60)
    world.command(company(email="new@vandijk.test"))
    state = await world.live()
    document = world.vendor.objects["customer"][external_id]
    seen = SeenRecord(
        connection=TARGET, entity="customer", source_id=external_id, raw_hash="", content_hash="before", seq=1,
        mapping_version=1, field_hashes=before,
    )  # fmt: skip
    said = judge(
        state,
        seen,
        "customer",
        external_id,
        world.hasher.content(document),
        world.hasher.fields(document),
        world.clock.now() + RESTED,
    )
    assert (said.verdict, said.echo_fields) == (Verdict.NEWS, ("email",))
    assert said.origin is None or not said.origin.echo, "the language must reach the peer"


async def test_an_order_is_cancelled_while_its_paid_version_is_parked() -> None:
    """The paid version waited for its product, the order was cancelled, and the product's arrival wrote the cancelled order.

    What the filter refuses is a command too: it withdraws what is parked for its object (law 4).
    """
    world = World()
    world.backfilled()
    world.command(order(sku="A-1"), action=Action.CREATE, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WAITING
    world.command(order(sku="A-1"), action=Action.NONE, reason="when", **ORDER)
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    state = await world.live(idle=100)
    assert world.vendor.writes == []
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.FILTERED


async def test_an_account_paused_for_100_days() -> None:
    """Retention took its commands; reading on from what was left lost changes, and made again what nobody had told of.

    A lost offset asks for a replay and a full reading, and nothing is created before that reading has ended (laws 7 and 18).
    """
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    world.clock.advance(100 * 86_400)
    theirs = world.vendor.put("customer", company("De Boer", email="boer@x.test"))  # by a person; its OBSERVE was lost
    world.outbound += [b"lost"] * 10
    state = await recovered(world, lost=2, beginning=len(world.outbound))
    asked = [world.codec.decode("", record.value) for record in world.log.topic(topics.REQUESTS)]
    assert [item.kind for item in asked] == [RequestKind.RESYNC], "this account has no flows configured here"
    world.connector.find = no_match  # type: ignore[method-assign]
    world.command(company("Van Dijk Verlichting"), seq=None, request="job-1")
    world.command(company("De Boer", email="boer@x.test"), source_id="62", request="job-1")
    state = await world.live()
    assert standing_of(state, "62").cause is Cause.BACKFILL_INCOMPLETE, "its object may be there"
    for external_id in world.vendor.objects["customer"]:
        world.observe("customer", external_id)
    world.backfilled()
    state = await world.live()
    assert (made(world, "customer"), sorted(map(str, kept(world)))) == (1, ["De Boer", "Van Dijk Verlichting"])
    assert standing_of(state, "62").external_id == theirs


async def no_match(entity: str, match: Match) -> Sequence[Found]:
    """A vendor without a search: only what its poller told is known."""
    return []


async def recovered(world: World, lost: int, beginning: int) -> AccountState:
    """The owner that finds its place gone."""

    async def nothing(topic: str, wanted: Any) -> Any:
        for record in ():
            yield record

    state, ledger = world.restored(), Ledger(0, world.log, world.codec)
    writer = asyncio.create_task(ledger.run())
    recovery = Recovery(slots=8, read_all=nothing, flows=list, clock=world.clock)
    await recovery.recover(state, ledger, lost, beginning)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    return world.restored()


async def test_a_bug_on_one_record_that_would_crash_every_owner_in_turn() -> None:
    """One record's step raised what nobody expected: its owner died, the next owner took it up and died too, and all stood still.

    What goes wrong in one record's own step parks that record with cause BUG; others go on, and so does it once mended (law 10).
    """
    world = World()
    world.backfilled()
    plan, broken = world.connector.plan, [True]

    def buggy(write: Write) -> Sequence[Step]:
        if broken[0] and write.source.id == "1":
            raise ZeroDivisionError("division of a price by its quantity")
        return plan(write)

    world.connector.plan = buggy  # type: ignore[method-assign]
    for number in range(1, 4):
        world.command(company(f"N{number}", email=f"{number}@x.test"), source_id=str(number))
        with pytest.raises(AssertionError, match="not quiet"):  # the parked record has a next attempt, for days
            await world.live(rounds=6)
    state = world.restored()
    assert sorted(map(str, kept(world))) == ["N2", "N3"]
    assert (standing_of(state, "1").standing, standing_of(state, "1").cause) == (Standing.PARKED, Cause.BUG)
    broken[0] = False
    await world.live()
    assert sorted(map(str, kept(world))) == ["N1", "N2", "N3"]
    assert letters(world) == []


async def test_two_sinks_link_one_pair_differently() -> None:
    """Each account's sink linked the same object with another one, and updates of one customer went to two.

    A link a peer tells of is accepted or marked as a conflict; nothing is written to either until a person decides (laws 7, 16).
    """
    world = World()
    world.backfilled()
    ours = world.vendor.put("customer", company())
    world.observe("customer", ours)
    world.command(company())
    await world.live()
    theirs = world.vendor.put("customer", company("Van Dijk Holding", email="holding@vandijk.test"))
    world.observe("customer", theirs)
    world.linked_by_peer("customer", theirs)
    await world.live()
    world.command(company("Van Dijk Verlichting"))
    state = await world.live()
    link = state.link("customer", CUSTOMER)
    assert link is not None
    assert (link.external_id, link.state) == (ours, LinkState.CONFLICT)
    assert (world.vendor.writes, standing_of(state).cause) == ([], Cause.LINK_CONFLICT)
    world.ask(RequestKind.LINK, entity="customer", source=topics.event_key(PEER, "customer", "61"), external_id=theirs)
    await world.live(idle=2)
    names = {external_id: document.company_name for external_id, document in world.vendor.objects["customer"].items()}  # type: ignore[union-attr]
    assert names == {ours: "Van Dijk B.V.", theirs: "Van Dijk Verlichting"}
