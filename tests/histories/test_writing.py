"""Histories that broke earlier drafts, where writes meet: versions, lost answers, searches that lag, people, peers, brakes.

Each test says in its docstring what broke and which law (docs/laws.md) closes it. The table of all is in README.md.
"""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core.clock import micros
from bus.core.errors import Unavailable, WriteRejected
from bus.kit.connector import Step, StepResult, Write
from schemas import canon
from schemas.system import (
    Action,
    Cause,
    IdempotencyClass,
    LinkedBy,
    LinkState,
    ObjectRef,
    ObjectState,
    Outcome,
    RequestKind,
    Standing,
)
from services.pollers.judging import Verdict, judge
from tests.fakes import DeathAt, Deaths, Killed, company, order
from tests.simulation.vendor import MANIFEST_HERE, SETTLE_S
from tests.unit.sinks.world import ORDER, PEER, World, letters, standing_of

KEYS = [IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH]


def name_at(world: World, external_id: str) -> str | None:
    held: Any = world.vendor.objects["customer"][external_id]
    return held.company_name  # type: ignore[no-any-return]


async def only_customer(world: World) -> str:
    (external_id,) = world.vendor.objects["customer"]
    return external_id


# --- order of versions ---------------------------------------------------------------------------------------------------------


async def test_a_late_processor_emits_version_1_after_its_successor_emitted_2_and_the_account_was_braked() -> None:
    """The late version 1 took the place of the parked version 2, and was written when the brake closed.

    Law 3: versions are compared by (seq, configuration) with what stands, parked or not, whatever comes later in the topic."""
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()
    world.ask(RequestKind.BRAKE, action="open", flow="f", reason="a person looks")
    await world.live()
    now = micros(world.clock.now())
    second = world.command(company("Version 2"), seq=now + 2)
    state = await world.live()
    assert standing_of(state).cause is Cause.BRAKE_OPEN
    world.command(company("Version 1"), seq=now + 1)
    state = await world.live()
    assert standing_of(state).command == second
    assert ("f", Outcome.STALE) in world.outcomes
    world.ask(RequestKind.BRAKE, action="close", flow="f", reason="")
    state = await world.live(idle=3)
    assert standing_of(state).standing is Standing.WRITTEN
    assert name_at(world, await only_customer(world)) == "Version 2"


@pytest.mark.parametrize("kind", KEYS)
async def test_a_newer_version_arrives_while_a_creates_answer_is_lost(kind: IdempotencyClass) -> None:
    """Version 2 made a second object, because nobody knew that the first had been made.

    Law 6: an open intent ends, in the way of its class, before anything newer of its object is done."""
    world = World(classes={"customer": kind})
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.command(company("Version 1"))
    world.command(company("Version 2"))
    state = await world.live()
    assert name_at(world, await only_customer(world)) == "Version 2"
    assert standing_of(state).standing is Standing.WRITTEN
    assert not list(state.open_intents())


async def test_a_to_b_to_a_whose_b_was_written_and_not_answered_ends_at_a() -> None:
    """Version 3 equalled version 1, which was the last one known as settled, so that nothing was sent and B stayed.

    Law 6: what an older write did is what newer versions are compared with (found by the simulation)."""
    world = World()
    world.backfilled()
    world.command(company("A"))
    await world.live()
    world.connector.fail_next = ["lost"]
    world.command(company("B"))
    world.command(company("A"))
    await world.live()
    assert name_at(world, await only_customer(world)) == "A"


async def test_the_refusal_of_an_older_version_is_not_that_of_a_newer_one() -> None:
    """A create without an answer was tried again for a newer version, refused, and the newer one, never sent, went to the dead.

    Law 6: an older write ends first, and a definite end of it is no word about the newer one (found by the simulation)."""
    world = World()
    world.backfilled()
    await world.live()
    world.connector.fail_next = [Unavailable("503"), WriteRejected("the name is not valid")]
    world.command(company("Not valid"))
    world.command(company("Valid"))
    state = await world.live()
    assert standing_of(state).standing is Standing.WRITTEN
    assert name_at(world, await only_customer(world)) == "Valid"


# --- one writer per object and key ---------------------------------------------------------------------------------------------


def order_of(number: str) -> dict[str, Any]:
    return {**ORDER, "source_id": f"Invoice:{number}"}


def guest(number: str) -> canon.SalesInvoice:
    """A first order of somebody without an id at the source."""
    made = order("")
    party = msgspec.structs.replace(made.customer, customer=None)
    return msgspec.structs.replace(made, customer=party, number=number)


@pytest.mark.parametrize("kind", KEYS)
async def test_a_customer_command_and_an_order_that_embeds_the_same_customer_run_at_once_and_two_first_orders_with_one_email(
    kind: IdempotencyClass,
) -> None:
    """Both found nobody and made a customer each; later, taking object and key crosswise, they waited for each other for ever.

    Law 7: one writer per object and per key it is searched by, the object's lock before the keys'."""
    world = World(classes={"customer": kind, "sales_order": kind})
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    await world.live()
    world.command(guest("1"), action=Action.CREATE, **order_of("1"))
    world.command(order("61"), action=Action.CREATE, **order_of("2"))
    world.command(company(), source_id="61")
    world.command(guest("3"), action=Action.CREATE, **order_of("3"))
    world.command(order("61"), action=Action.CREATE, **order_of("4"))
    await world.live()
    assert len(world.vendor.objects["customer"]) == 1
    assert len(world.vendor.objects["sales_order"]) == 4


class NotFoundUntil(set[str]):
    """What a lagging search does not show yet."""

    def __init__(self, world: World, seconds: float) -> None:
        super().__init__()
        self._world, self._until = world, world.clock.now() + timedelta(seconds=seconds)

    def __contains__(self, _: object) -> bool:
        return self._world.clock.now() < self._until


@pytest.mark.parametrize("has_died", [False, True])
async def test_two_first_orders_with_one_email_where_the_first_ones_answer_is_lost_and_the_search_lags(has_died: bool) -> None:
    """The first order's customer was made and not found yet, no lock was held any more, and the second order made another.

    Law 7: a create that has begun and not ended keeps its keys, lock or no lock (found by the simulation)."""
    deaths = DeathAt("after customer customer") if has_died else Deaths()
    world = World(deaths, classes={"customer": IdempotencyClass.SEARCH})
    world.connector.manifest = MANIFEST_HERE
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1"), "P1"))
    world.connector.fail_next = [] if has_died else ["lost"]
    world.connector.hidden = NotFoundUntil(world, SETTLE_S - 5)
    world.command(guest("1"), action=Action.CREATE, **order_of("1"))
    world.command(guest("2"), action=Action.CREATE, **order_of("2"))
    state = await survive(world)
    assert len(world.vendor.objects["customer"]) == 1
    assert {s.standing for s in state.standings()} == {Standing.WRITTEN}


async def survive(world: World) -> Any:
    """Lives, with small steps of time, until everything is written."""
    for _ in range(200):
        try:
            state = await world.live(step_s=2)
        except Killed:
            continue
        if not list(state.parked()):
            return state
        world.clock.advance(2)
    raise AssertionError(f"not quiet: {list(world.restored().parked())}")


async def test_the_vendors_search_lags_behind_its_create() -> None:
    """A search that found nothing was taken for "it was not made", and a second object was made before the first showed up.

    Law 6: absence is proven by two searches, the last one a settle time after the call was over, however long its commit took."""
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.connector.manifest = MANIFEST_HERE
    world.backfilled()
    world.connector.fail_next = ["lost"]
    world.connector.hidden = NotFoundUntil(world, SETTLE_S - 1)
    world.command(company())
    state = await survive(world)
    assert len(world.vendor.objects["customer"]) == 1
    assert standing_of(state).outcome is Outcome.CREATED


async def test_the_vendors_search_lags_behind_a_create_whose_intent_took_long_to_commit() -> None:
    """The settle time was counted from the intent, whose commit may take seconds, so that it was over before the search had it.

    Law 6: it is counted from the end of the call (found by the simulation)."""
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.connector.manifest = MANIFEST_HERE
    world.backfilled()
    commit = world.log.commit

    async def slow(records: Any) -> None:
        if any("intent|" in record.key for record in records):
            world.clock.advance(9)
        await commit(records)

    world.log.commit = slow  # type: ignore[method-assign]
    perform = world.connector.perform

    async def slow_call(write: Write, step: Step, done: Any) -> StepResult:
        world.clock.advance(4)
        try:
            return await perform(write, step, done)
        finally:
            if not isinstance(world.connector.hidden, NotFoundUntil):
                world.connector.hidden = NotFoundUntil(world, SETTLE_S - 1)

    world.connector.perform = slow_call  # type: ignore[method-assign]
    world.connector.fail_next = ["lost"]
    world.command(company())
    await survive(world)
    assert len(world.vendor.objects["customer"]) == 1


# --- people ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["create", "update"])
async def test_a_person_edits_between_our_write_and_our_read_back(first: str) -> None:
    """What was read back was taken for our own write, the person's edit with it, and the other side never heard of it.

    Law 9: where a read-back is not as sent, what stands in place of what we sent is somebody's edit."""
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.backfilled()
    if first == "update":
        world.command(company("Before"))
        await world.live()
    perform = world.connector.perform

    async def edited_behind(write: Write, step: Step, done: Any) -> StepResult:
        result = await perform(write, step, done)
        if step.primary:
            held: Any = world.vendor.objects["customer"][result.external_id]
            world.vendor.put("customer", msgspec.structs.replace(held, company_name="A person's"), result.external_id)
            record = world.vendor.record("customer", result.external_id)
            result = msgspec.structs.replace(result, record=record, as_sent=False)
        return result

    world.connector.perform = edited_behind  # type: ignore[method-assign]
    world.command(company("Ours"))
    state = await world.live()
    external_id = await only_customer(world)
    document: Any = world.vendor.objects["customer"][external_id]
    found = judge(
        state, None, "customer", external_id, world.hasher.content(document), world.hasher.fields(document), world.clock.now()
    )
    assert found.verdict is Verdict.NEWS
    assert found.origin is None or not found.origin.echo
    assert "company_name" not in found.echo_fields
    assert "email" in found.echo_fields


async def test_a_person_edits_what_we_made_before_its_standing_was_committed() -> None:
    """The link was durable and its standing was not: the next owner compared all fields, and wrote the source's over the edit.

    Law 5: link, object, standing and offset of a create are one transaction (found by the simulation)."""
    deaths = Deaths()
    world = World(deaths)
    world.backfilled()
    world.command(company("Ours", language="en"))
    commit = world.log.commit
    lives = 0

    async def lost_behind_the_link(records: Any) -> None:
        nonlocal lives
        await commit(records)
        if lives == 0 and any(record.key.startswith("link|") for record in records):
            lives += 1
            raise Killed("behind the link")

    world.log.commit = lost_behind_the_link  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await world.live()
    external_id = await only_customer(world)
    held: Any = world.vendor.objects["customer"][external_id]
    world.vendor.put("customer", msgspec.structs.replace(held, language="nl"), external_id)
    await world.survive()
    kept: Any = world.vendor.objects["customer"][external_id]
    assert kept.language == "nl"


async def test_an_echo_comes_while_an_older_version_still_waits_to_be_written() -> None:
    """The echo withdrew the parked version, and counted as settled what that had never brought to the target.

    Law 9: an echo is our own write and nothing else; what somebody changed beside it goes on (found by the simulation)."""
    world = World()
    world.backfilled()
    world.command(company("Old", language="en"))
    await world.live()
    world.connector.fail_next = [Unavailable("503", retry_after_s=10_000)]
    world.command(company("New", language="en"))
    with pytest.raises(AssertionError, match="not quiet"):
        await world.live(rounds=3)
    echo = company("New", language="nl")  # our own write brought the language
    world.command(echo, action=Action.NONE, reason="echo", echo_fields=("language",))
    state = await world.live()
    held: Any = world.vendor.objects["customer"][await only_customer(world)]
    assert (held.company_name, held.language) == ("New", "en")
    assert standing_of(state).standing in (Standing.WRITTEN, Standing.UNCHANGED)


async def test_what_our_own_write_brought_stays_settled_when_its_version_is_superseded_while_it_waits() -> None:
    """A newer version took the place of a parked one and did not name its echoes again: they were sent over a person's edit.

    Law 9: what our own write brought counts from the moment it is told (found by the simulation)."""
    world = World()
    world.backfilled()
    external_id = world.vendor.put("customer", company("Made by a person", language="en"), "C1")
    world.observe("customer", external_id)
    world.linked_by_peer("customer", external_id)
    world.connector.fail_next = []
    world.ask(RequestKind.BRAKE, action="open", flow="f", reason="wait")
    first = company("Name 1", language="en")
    names = tuple(path for path in world.hasher.fields(first) if path != "company_name")
    world.command(first, echo_fields=names)
    await world.live()
    held: Any = world.vendor.objects["customer"][external_id]
    world.vendor.put("customer", msgspec.structs.replace(held, language="nl"), external_id)
    world.command(company("Name 2", language="en"))
    world.ask(RequestKind.BRAKE, action="close", flow="f", reason="")
    await world.live(idle=3)
    kept: Any = world.vendor.objects["customer"][external_id]
    assert (kept.company_name, kept.language) == ("Name 2", "nl")


# --- withdrawn ---------------------------------------------------------------------------------------------------------------


async def test_an_order_is_cancelled_while_its_paid_version_is_parked() -> None:
    """The parked version was written when its product came, for an order that no longer existed.

    Law 4: each version gives each flow a command, a refusal too, and the newest takes the place of what is parked."""
    world = World()
    world.backfilled()
    world.command(order(sku="B-2"), action=Action.CREATE, **ORDER)
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").cause is Cause.MISSING_DEPENDENCY
    world.command(order(sku="B-2"), action=Action.NONE, reason="when", **ORDER)
    world.observe("product", world.vendor.put("product", canon.Product(sku="B-2")))
    state = await world.live()
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.FILTERED
    assert world.vendor.objects["sales_order"] == {}


@pytest.mark.parametrize("kind", KEYS)
async def test_an_order_is_cancelled_while_the_answer_of_its_create_is_lost(kind: IdempotencyClass) -> None:
    """The order stood as filtered although it had been made; and its customer's open write kept others of that address waiting.

    Law 6: what older versions began ends before a withdrawal, too (found by the simulation)."""
    world = World(classes={"customer": kind, "sales_order": kind})
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    await world.live()
    made = order("61")
    world.connector.fail_next = ["well", "well", "lost"]
    world.command(made, action=Action.CREATE, **ORDER)
    world.command(made, action=Action.NONE, reason="when", **ORDER)
    state = await world.live()
    assert len(world.vendor.objects["sales_order"]) == 1
    assert standing_of(state, "Invoice:1", "sales_invoice").standing is Standing.WRITTEN
    assert not list(state.open_intents())


# --- many accounts, many owners ------------------------------------------------------------------------------------------------


async def test_two_sinks_link_one_pair_differently() -> None:
    """Each side kept its own link, and updates of one object went to two.

    Law 7: a peer's word that contradicts an active link marks it CONFLICT, and nothing is written until a person decides."""
    world = World()
    world.backfilled()
    world.observe("customer", world.vendor.put("customer", company("Ours"), "C1"))
    world.observe("customer", world.vendor.put("customer", company("Another", email="another@vandijk.test"), "C2"))
    world.command(company("Ours"))
    await world.live()
    world.linked_by_peer("customer", "C2")
    state = await world.live()
    link = state.link("customer", ObjectRef(connection=PEER, entity="customer", id="61"))
    assert link is not None
    assert (link.external_id, link.state, link.linked_by) == ("C1", LinkState.CONFLICT, LinkedBy.MATCH)
    world.command(company("Changed at the source"))
    state = await world.live()
    assert standing_of(state).cause is Cause.LINK_CONFLICT
    assert {name_at(world, "C1"), name_at(world, "C2")} == {"Ours", "Another"}


async def test_a_bug_on_one_record_that_would_crash_every_owner_in_turn() -> None:
    """The owner died of the record, the next owner took it up and died of it too, and nothing was written any more.

    Law 10: whatever fails within a record's own step parks that record; every owner goes on with the others."""
    world = World()
    world.backfilled()
    plan = world.connector.plan

    def with_a_bug(write: Write) -> Any:
        if write.source.id == "13":
            raise ZeroDivisionError("a bug of ours")
        return plan(write)

    world.connector.plan = with_a_bug  # type: ignore[method-assign]
    world.command(company("Poison", email="poison@vandijk.test"), source_id="13")
    world.command(company("Well"), source_id="61")
    for _ in range(3):
        with pytest.raises(AssertionError, match="not quiet"):
            await world.live(rounds=3)
    state = world.restored()
    assert standing_of(state, "61").standing is Standing.WRITTEN
    assert standing_of(state, "13").cause is Cause.BUG
    assert state.offset == len(world.outbound)
    assert letters(world) == []


async def test_an_owner_that_lost_its_slot_still_runs_a_task_and_commits_with_fresh_metadata() -> None:
    """A task of the old owner committed its outcome under the group's new generation, over what the new owner had written.

    Laws 5 and 21: outcomes are committed by the slot's one transactional id, and a task of a lost slot ends without applying
    anything. (On a real broker: tests/histories/test_broker.py.)"""
    from bus.runtime.kafka import Fenced
    from bus.runtime.slotwork import OwnershipLost
    from bus.runtime.state import AccountState, object_key
    from schemas.system import StateRecord
    from services.sinks.ledger import Entry, Ledger
    from tests.fakes import FakeCodec

    class Fencing:
        async def commit(self, records: Any) -> None:
            raise Fenced("bus-sinks-0 has a newer owner")

    state = AccountState("target")
    ledger = Ledger(0, Fencing(), FakeCodec())
    writer = asyncio.create_task(ledger.run())
    change = (object_key("target", "customer", "C1"), StateRecord(connection="target", object=ObjectState()))
    for _ in range(2):  # the second one comes when the loss is known
        with pytest.raises(OwnershipLost):
            await ledger.commit(Entry(state=state, changes=[change]))
    with pytest.raises(Fenced):
        await writer
    assert state.object("customer", "C1") is None
