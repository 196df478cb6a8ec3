"""What the simulation found, each history by itself: what happened, and which law (docs/laws.md) closes it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core.clock import CLOCKS_APART
from bus.core.errors import Unavailable, WriteRejected
from bus.kit.connector import Step, StepResult, Write
from bus.runtime.state import AccountState, intent_key, object_key
from schemas import canon
from schemas.system import (
    Action,
    IdempotencyClass,
    IntentRecord,
    IntentState,
    LinkState,
    ObjectRef,
    ObjectState,
    RequestKind,
    SeenRecord,
    Standing,
    StateRecord,
)
from services.pollers.judging import RESTED, Verdict, judge
from services.sinks.account import Delivered
from tests.fakes import DeathAt, Deaths, Killed, company, order
from tests.simulation.vendor import MANIFEST_HERE, SETTLE_S
from tests.simulation.virtual import START
from tests.unit.sinks.world import ORDER, PEER, World, standing_of

KEYS = [IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH]


def name_at(world: World, external_id: str) -> str | None:
    held: Any = world.vendor.objects["customer"][external_id]
    return held.company_name  # type: ignore[no-any-return]


async def only_customer(world: World) -> str:
    (external_id,) = world.vendor.objects["customer"]
    return external_id


# --- order of versions ---------------------------------------------------------------------------------------------------------


async def test_a_to_b_to_a_whose_b_was_written_and_not_answered_ends_at_a() -> None:
    """Version 3 equalled version 1, which was the last one known as settled, so that nothing was sent and B stayed.

    Law 6: what an older write did is what newer versions are compared with."""
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

    Law 6: an older write ends first, and a definite end of it is no word about the newer one."""
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
async def test_customers_and_orders_of_one_address_never_wait_for_each_other_crosswise(kind: IdempotencyClass) -> None:
    """An order took the key and then its customer, the customer's command took itself and then the key: both waited for ever.

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

    Law 7: a create that has begun and not ended keeps its keys, lock or no lock."""
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


async def test_the_vendors_search_lags_behind_a_create_whose_intent_took_long_to_commit() -> None:
    """The settle time was counted from the intent, whose commit may take seconds, so that it was over before the search had it.

    Law 6: it is counted from the end of the call."""
    world = World(classes={"customer": IdempotencyClass.SEARCH})
    world.connector.manifest = MANIFEST_HERE
    world.backfilled()
    commit, slow_ones = world.log.commit, [9]

    async def slow(records: Any) -> None:
        if slow_ones and any("intent|" in record.key for record in records):
            world.clock.advance(slow_ones.pop())
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
        state,
        None,
        "customer",
        external_id,
        world.hasher.content(document),
        world.hasher.fields(document),
        world.clock.now() + RESTED,
    )
    assert found.verdict is Verdict.NEWS
    assert found.origin is None or not found.origin.echo
    assert "company_name" not in found.echo_fields
    assert "email" in found.echo_fields


async def test_a_person_edits_what_we_made_before_its_standing_was_committed() -> None:
    """The link was durable and its standing was not: the next owner compared all fields, and wrote the source's over the edit.

    Law 5: link, object, standing and offset of a create are one transaction."""
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

    Law 9: an echo is our own write and nothing else; what somebody changed beside it goes on."""
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

    Law 9: what our own write brought counts from the moment it is told."""
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


@pytest.mark.parametrize("kind", KEYS)
async def test_an_order_is_cancelled_while_the_answer_of_its_create_is_lost(kind: IdempotencyClass) -> None:
    """The order stood as filtered although it had been made; and its customer's open write kept others of that address waiting.

    Law 6: what older versions began ends before a withdrawal, too."""
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


def test_an_object_that_was_held_and_is_served_again_stays_held() -> None:
    """The second poll took it for known, because the first had noted that it was held, and told our own create as news.

    Law 9: what was held before is as unknown as what was never served, until the open write has ended."""
    state = AccountState("target")
    source = ObjectRef(connection=PEER, entity="customer", id="61")
    intent = IntentRecord(
        source=source, entity="customer", state=IntentState.OPEN, generation=0, command=b"c", steps=[], deadline_boot_ms=0,
        boot_id="", opened_at=START,
    )  # fmt: skip
    state.apply(intent_key("target", "customer", source, None), StateRecord(connection="target", intent=intent))
    noted = SeenRecord(
        connection="target", entity="customer", source_id="C1", raw_hash="", content_hash="", seq=0, mapping_version=1, held=True
    )
    for seen in (None, noted):
        assert judge(state, seen, "customer", "C1", "content", {"name": "1"}, START).verdict is Verdict.HELD


def test_a_row_that_our_own_write_has_outrun_is_read_anew() -> None:
    """A list from a lagging replica showed what stood before our last write, which was told as somebody's edit and sent back.

    Laws 3 and 9: a version below that of our own last write is never judged; the object itself is asked."""
    state = AccountState("target")
    ours = ObjectState(version="10", field_hashes={"name": "new"}, by_bus=True, written_at=START)
    state.apply(object_key("target", "customer", "C1"), StateRecord(connection="target", object=ours))
    now = START + timedelta(seconds=5)
    assert judge(state, None, "customer", "C1", "old", {"name": "old"}, now, version="9").verdict is Verdict.HELD
    asked = judge(state, None, "customer", "C1", "new", {"name": "new"}, now, version="10", is_list=False)
    assert (asked.verdict, asked.echo_fields) == (Verdict.NEWS, ("name",))
    rested = judge(state, None, "customer", "C1", "x", {"name": "x"}, START + timedelta(days=1), version="1", is_list=False)
    assert rested.verdict is Verdict.NEWS, "a vendor that counts from the beginning again"


async def test_an_order_goes_on_with_the_open_create_of_its_customer_in_that_ones_words() -> None:
    """The order ended the customer's unanswered create with what it knew of the customer itself, and that stood as settled.

    Law 6: an open write ends with the command that began it, whoever finds it."""
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1"), "P1"))
    await world.live()
    world.connector.fail_next = [Unavailable("503", retry_after_s=200)]
    world.command(company("As its own command says"), source_id="61")
    with pytest.raises(AssertionError, match="not quiet"):
        await world.live(rounds=3)
    world.connector.fail_next = ["well", Unavailable("503", retry_after_s=3_600)]
    world.command(order("61"), action=Action.CREATE, **ORDER)
    state = await world.live()
    assert name_at(world, await only_customer(world)) == "As its own command says"
    assert {s.standing for s in state.standings()} <= {Standing.WRITTEN, Standing.UNCHANGED}


def test_a_row_without_a_version_that_our_own_write_may_have_outrun_is_read_anew() -> None:
    """Ten versions of a customer were written within seconds, to a vendor that gives no version; a list asked for before the
    last of them was judged after it, told an older write of ours as somebody's edit, and the source's next versions gave way.

    Laws 3 and 9: what was asked for before our own last write can have been seen is told from it only where it is the same."""
    state = AccountState("target")
    ours = ObjectState(content_hash="new", field_hashes={"name": "new"}, by_bus=True, written_at=START)
    state.apply(object_key("target", "customer", "C1"), StateRecord(connection="target", object=ours))

    def verdict(content: str, asked_at: timedelta, *, is_list: bool) -> Verdict:
        later = START + timedelta(days=1)
        fields = {"name": content}
        return judge(state, None, "customer", "C1", content, fields, later, asked_at=START + asked_at, is_list=is_list).verdict

    second = timedelta(seconds=1)
    assert verdict("old", -second, is_list=False) is Verdict.HELD
    assert verdict("old", CLOCKS_APART - second, is_list=False) is Verdict.HELD
    assert verdict("edited", CLOCKS_APART, is_list=False) is Verdict.NEWS
    assert verdict("old", RESTED - second, is_list=True) is Verdict.HELD
    assert verdict("edited", RESTED, is_list=True) is Verdict.NEWS
    assert verdict("new", -second, is_list=True) is Verdict.NEWS, "an echo need not wait"


def meanwhile(world: World, prefix: str, say: Callable[[], None]) -> asyncio.Event:
    """Something is said to the sink, and met by it, while it commits the first record whose key begins so; set once it was."""
    commit, said = world.log.commit, asyncio.Event()

    async def slowly(records: Any) -> None:
        if not said.is_set() and any(record.key.startswith(prefix) for record in records):
            said.set()
            say()
            world.sink.deliver(Delivered(raw=world.outbound[-1], offset=len(world.outbound) - 1))
            for _ in range(50):
                await asyncio.sleep(0)
        await commit(records)

    world.log.commit = slowly  # type: ignore[method-assign]
    return said


async def test_an_observation_does_not_put_back_what_a_write_on_its_way_has_changed() -> None:
    """The account's lane made the object's record out of what stood there while a write's outcome was being committed, and put
    the write before it back. The next update took our own values for an edit of the target, and gave way to them.

    Law 17 and one writer per record: a record is made anew out of what stands there when nothing of it is on its way."""
    world = World()
    world.backfilled()
    world.command(company("First"))
    await world.live()
    external_id = await only_customer(world)
    observed = meanwhile(world, "standing|", lambda: world.observe("customer", external_id))
    world.command(company("Second"))
    state = await world.live()
    known = state.object("customer", external_id)
    assert observed.is_set()
    assert known is not None
    assert known.field_hashes["company_name"] == world.hasher.fields(company("Second"))["company_name"]


@pytest.mark.parametrize("while_committing", ["intent|", "link|"])
async def test_a_peer_s_link_beside_a_create_is_told_as_a_conflict(while_committing: str) -> None:
    """A link made out of what stood there replaced the create's own, which was being committed; one that came a moment earlier
    was replaced by it. Nobody was told.

    One writer per record: two links of one object are a conflict, whichever comes first."""
    world = World()
    world.backfilled()
    other = world.vendor.put("customer", company("Another", email="another@shop.test"), "C9")
    linked = meanwhile(world, while_committing, lambda: world.linked_by_peer("customer", other))
    world.command(company("Ours"))
    state = await world.live()
    link = state.link("customer", ObjectRef(connection=PEER, entity="customer", id="61"))
    assert linked.is_set()
    assert link is not None
    assert (link.state, link.external_id == other) == (LinkState.CONFLICT, False)
