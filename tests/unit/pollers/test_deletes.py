"""Deletes that no feed tells: two complete comparisons that agree, below a ceiling (law 15)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.core import topics
from bus.core.errors import NetworkFailure, Unavailable
from bus.kit.connector import Page
from schemas.canon import Operation
from schemas.system import CommandKind, IntentState
from services.pollers.scanning import AGAIN_S, AGREE_AFTER_S, REFUSED_AGAIN_S, Ids, ceiling
from tests.fakes import Deaths, Killed, company, order
from tests.unit.pollers.test_poller import cursor, intent
from tests.unit.pollers.test_resync import asked, done, paged, shop
from tests.unit.pollers.world import Poller

DAY_S = 86_400


def scanned(world: Poller) -> None:
    """The account's stream finds deletes by comparing ids; its polls never do."""
    stream = world.connector.manifest.streams[0].model_copy(update={"deletes": "scan"})
    world.connector.manifest = world.connector.manifest.model_copy(update={"streams": (stream,)})


async def known(customers: int, orders: int = 0) -> tuple[Poller, Any, list[str]]:
    """An account whose first comparison has agreed with what is known, a day ago."""
    world = Poller()
    scanned(world)
    ids = shop(world, customers)
    ids += [world.vendor.put("sales_order", order()) for _ in range(orders)]
    paged(world, 1_000)
    await world.poll()
    poller = world.life()
    world.clock.advance(1)
    await done(poller)
    assert cursor(world).scanned_at is not None
    assert deleted(world) == []
    world.clock.advance(DAY_S)
    return world, poller, ids


def deleted(world: Poller) -> list[str]:
    return [event.meta.source_id for event in world.events() if event.meta.op is Operation.DELETED]


def gone(world: Poller, *ids: str) -> None:
    for entity in ("customer", "product", "sales_order"):
        for key in ids:
            world.vendor.objects[entity].pop(key, None)


async def test_two_comparisons_that_agree_tell_a_delete_documents_too() -> None:
    world, poller, ids = await known(5, orders=3)
    gone(world, ids[1], ids[6])
    await done(poller)
    assert deleted(world) == [], "one alone proves nothing"
    assert cursor(world).absent == sorted([f"customer|{ids[1]}", f"sales_order|{ids[6]}"])
    assert await poller.step() is False, "the second is not made at once"
    world.clock.advance(AGREE_AFTER_S)
    await done(poller)
    assert sorted(deleted(world)) == sorted([ids[1], ids[6]])
    assert cursor(world).absent == []
    assert world.commands(CommandKind.OBSERVE)[-1].observed.active is False
    assert world.log.topic("bus.canon.customer")[-1].value is None, "a tombstone follows"
    world.clock.advance(DAY_S)
    await done(poller)
    assert len(deleted(world)) == 2, "once"


async def test_what_was_remembered_survives_a_restart() -> None:
    world, poller, ids = await known(5)
    gone(world, ids[0])
    await done(poller)
    world.clock.advance(AGREE_AFTER_S)
    await done(world.life())
    assert deleted(world) == [ids[0]]


async def test_one_that_is_there_again_is_not_deleted() -> None:
    world, poller, ids = await known(5)
    lost = world.vendor.objects["customer"][ids[0]]
    gone(world, ids[0], ids[1])
    await done(poller)
    world.clock.advance(AGREE_AFTER_S)
    world.vendor.put("customer", lost, ids[0])
    await done(poller)
    assert deleted(world) == [ids[1]]


async def test_one_that_a_poll_met_in_between_needs_two_comparisons_anew() -> None:
    world, poller, ids = await known(5)
    lost = world.vendor.objects["customer"][ids[0]]
    gone(world, ids[0])
    await done(poller)
    world.vendor.put("customer", lost, ids[0])
    await world.poll(poller)  # served as it was: nothing is published
    assert cursor(world).absent == []
    gone(world, ids[0])
    world.clock.advance(DAY_S)
    await done(poller)
    assert deleted(world) == []


async def test_what_came_after_the_comparison_began_is_never_absent() -> None:
    """Read between two pages of ids, of which the first no longer holds it."""
    world, poller, ids = await known(5)
    original = world.connector.ids
    late: list[str] = []

    async def slow(stream: str) -> AsyncIterator[Any]:
        pages = [page async for page in original(stream)]
        world.clock.advance(1)
        late.append(world.vendor.put("customer", company("Late", email="late@x.test")))
        await poller.poll(poller.streams[0].facts)
        for page in pages:
            yield page

    world.connector.ids = slow  # type: ignore[method-assign]
    await done(poller)
    assert cursor(world).absent == []
    assert deleted(world) == []
    assert late
    assert ids


async def test_an_object_under_an_open_write_is_not_taken_for_deleted() -> None:
    world, poller, ids = await known(5)
    gone(world, ids[0])
    intent(world, IntentState.OPEN, ids[0])
    for _ in range(3):
        await done(poller)
        world.clock.advance(DAY_S)
    assert deleted(world) == []
    assert poller.held() == 0, "nor is it asked for by itself: no version of it was served"
    intent(world, IntentState.CLOSED, ids[0])
    await done(poller)
    world.clock.advance(AGREE_AFTER_S)
    await done(poller)
    assert deleted(world) == [ids[0]]


@pytest.mark.parametrize("failure", ["empty", "unavailable", "half", "exception"])
async def test_a_source_that_answers_nothing_or_fails_deletes_nothing(failure: str) -> None:
    """And what an earlier, complete comparison found stays: the failed one is no evidence either way."""
    world, poller, ids = await known(12)
    gone(world, ids[0])
    await done(poller)
    before = cursor(world).absent
    assert before == [f"customer|{ids[0]}"]
    original = world.connector.ids

    async def failing(stream: str) -> AsyncIterator[Any]:
        if failure == "empty":
            yield {"customer": [], "product": [], "sales_order": []}
            return
        async for page in original(stream):
            yield {entity: some[: len(some) // 2] for entity, some in page.items()}
            if failure == "unavailable":
                raise Unavailable("503")
            if failure == "half":
                raise NetworkFailure("half an answer")
            if failure == "exception":
                raise RuntimeError("a bug of ours")

    world.connector.ids = failing  # type: ignore[method-assign]
    for _ in range(3):
        world.clock.advance(2 * AGREE_AFTER_S)
        try:
            await poller.step()
            await poller.step()
        except RuntimeError:
            poller = world.life()  # the process ended: nothing was committed
    assert deleted(world) == []
    assert cursor(world).absent == before
    world.connector.ids = original  # type: ignore[method-assign]
    for _ in range(4):
        world.clock.advance(DAY_S)
        await done(poller)
    assert deleted(world) == [ids[0]]


async def test_above_the_ceiling_nothing_is_deleted_until_a_person_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world, poller, ids = await known(30)
    gone(world, *ids[:11])
    for _ in range(4):
        await done(poller)
        world.clock.advance(REFUSED_AGAIN_S)
    assert deleted(world) == []
    assert cursor(world).deletes_refused == 11
    assert poller.deletes_refused("all") == 11
    assert any("too many to be taken for deleted" in record.message for record in caplog.records if record.levelname == "ERROR")
    await asked(world, poller, confirm_deletes="true")
    await done(poller)
    assert sorted(deleted(world)) == sorted(ids[:11])
    assert (cursor(world).deletes_refused, cursor(world).resync, cursor(world).absent) == (0, None, [])
    gone(world, *ids[11:25])
    for _ in range(4):
        world.clock.advance(REFUSED_AGAIN_S)
        await done(poller)
    assert len(deleted(world)) == 11, "it was said once"


async def test_a_word_given_beforehand_still_needs_two_comparisons() -> None:
    world, poller, ids = await known(30)
    gone(world, *ids[:20])
    await asked(world, poller, 7, confirm_deletes="true")
    await done(poller)
    assert deleted(world) == []
    world.clock.advance(AGREE_AFTER_S)
    await done(world.life())
    assert len(deleted(world)) == 20


async def test_confirmed_more_than_is_remembered_goes_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.pollers.scanning.ABSENT_MAX", 4)
    world, poller, ids = await known(30)
    gone(world, *ids[:18])
    await asked(world, poller, 7, confirm_deletes="true")
    for _ in range(20):
        await done(poller)
        world.clock.advance(AGREE_AFTER_S)
    assert sorted(deleted(world)) == sorted(ids[:18])
    assert cursor(world).resync is None


def test_the_ceiling_is_ten_or_two_in_a_hundred() -> None:
    assert [ceiling(living) for living in (0, 10, 500, 550, 1_000, 1_000_000)] == [10, 10, 10, 11, 20, 20_000]


async def test_unproven_deletes_are_looked_for_soon_and_proven() -> None:
    """A feed that could not tell a span: both comparisons are made at once, as far apart as they must be."""
    world = Poller()
    ids = shop(world, 5)
    await world.poll()
    assert await world.life().step() is False, "a stream with a feed needs none"
    gone(world, ids[2])
    original = world.connector.read

    async def capped(stream: str, position: Any) -> AsyncIterator[Page]:
        async for page in original(stream, position):
            yield msgspec.structs.replace(page, deletes_unproven=True)

    world.connector.read = capped  # type: ignore[method-assign]
    poller = world.life()
    await world.poll(poller)
    world.connector.read = original  # type: ignore[method-assign]
    assert cursor(world).deletes_unproven_since is not None
    await done(poller)
    assert cursor(world).deletes_unproven_since is not None
    world.clock.advance(AGREE_AFTER_S)
    await done(poller)
    assert deleted(world) == [ids[2]]
    assert cursor(world).deletes_unproven_since is None
    world.clock.advance(10 * DAY_S)
    assert await poller.step() is False


async def test_nothing_missing_proves_at_once_and_a_held_one_is_looked_at_again() -> None:
    world = Poller()
    ids = shop(world, 5)
    await world.poll()
    poller = world.life()
    await poller.put_cursors([msgspec.structs.replace(cursor(world), deletes_unproven_since=world.clock.now())])
    gone(world, ids[0])
    intent(world, IntentState.OPEN, ids[0])
    world.clock.advance(1)
    await done(poller)
    assert cursor(world).deletes_unproven_since is not None
    world.vendor.put("customer", company(), ids[0])
    world.clock.advance(AGAIN_S)
    await done(poller)
    assert cursor(world).deletes_unproven_since is None


async def test_a_full_read_is_a_comparison_without_further_calls() -> None:
    world = Poller()
    ids = shop(world, 5)
    original = world.connector.read
    compared: list[str] = []

    async def whole(stream: str, position: Any) -> AsyncIterator[Page]:
        async for page in original(stream, position):
            named: dict[str, list[str]] = {"customer": [], "product": [], "sales_order": []}
            for record in page.records:
                named[record.entity].append(record.id)
            yield msgspec.structs.replace(page, complete_ids=named)

    async def never(stream: str) -> AsyncIterator[Any]:
        compared.append(stream)
        yield {}

    world.connector.read, world.connector.ids = whole, never  # type: ignore[method-assign]
    stream = world.connector.manifest.streams[0].model_copy(update={"deletes": "scan", "kind": "full"})
    world.connector.manifest = world.connector.manifest.model_copy(update={"streams": (stream,)})
    poller = world.life()
    await world.poll(poller)
    gone(world, ids[4])
    world.clock.advance(DAY_S)
    await world.poll(poller)
    assert (deleted(world), compared) == ([], [])
    world.clock.advance(AGREE_AFTER_S)
    await world.poll(poller)
    assert (deleted(world), compared) == ([ids[4]], [])


@pytest.mark.parametrize("death", [1, 2, 3, 4])
async def test_a_death_while_deletes_are_told_tells_each_once(death: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.pollers.account.DELETES_MAX", 2)
    world, poller, ids = await known(12)
    gone(world, *ids[:4])
    await done(poller)
    world.clock.advance(AGREE_AFTER_S)
    world.log.deaths = Deaths(at=death)
    with pytest.raises(Killed):
        await done(poller)
    poller = world.life()
    for _ in range(3):
        await done(poller)
        world.clock.advance(DAY_S)
    assert sorted(deleted(world)) == sorted(ids[:4])


async def test_a_comparison_waits_for_no_poll_and_polls_wait_a_page_at_most() -> None:
    world, poller, _ = await known(5)
    await poller.step()  # the first page of ids
    world.vendor.put("customer", company("New", email="new@x.test"))
    assert len(await world.poll(poller)) == 1
    await done(poller)
    assert cursor(world).absent == []


@settings(deadline=None, max_examples=60)
@given(data=st.data())
async def test_whatever_happens_only_what_is_gone_is_told_as_deleted(data: st.DataObject) -> None:
    """P1 of deletes: objects come and go, comparisons fail, polls run; nothing that exists is ever told as deleted, and in the
    end everything that is gone is."""
    world, poller, ids = await known(8)
    original = world.connector.ids
    lost: dict[str, Any] = {}
    fails = [False]
    named: set[str] = set()

    async def ids_of(stream: str) -> AsyncIterator[Any]:
        async for page in original(stream):
            if "customer" in page:
                named.clear()
                named.update(page["customer"])
            yield page
            if fails[0]:
                raise Unavailable("503")

    world.connector.ids = ids_of  # type: ignore[method-assign]
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["go", "come", "poll", "step", "fail", "wait", "restart"])):
            case "go" if len(world.vendor.objects["customer"]) > 1:
                key = data.draw(st.sampled_from(sorted(world.vendor.objects["customer"])))
                lost[key] = world.vendor.objects["customer"].pop(key)
            case "come" if lost:
                key = data.draw(st.sampled_from(sorted(lost)))
                world.vendor.put("customer", lost.pop(key), key)
            case "poll":
                await world.poll(poller)
            case "step":
                before = len(deleted(world))
                await poller.step()
                assert not set(deleted(world)[before:]) & named, "the vendor named it"
            case "fail":
                fails[0] = not fails[0]
            case "wait":
                world.clock.advance(data.draw(st.sampled_from([1, 70, DAY_S])))
            case "restart":
                poller = world.life()
    fails[0] = False
    await world.poll(poller)
    for _ in range(4):
        world.clock.advance(DAY_S)
        await done(poller)
    newest = {event.meta.source_id: event.meta.op for event in world.events()}
    assert {key for key, op in newest.items() if op is not Operation.DELETED} == set(world.vendor.objects["customer"])
    assert ids


def test_ids_are_told_from_each_other() -> None:
    here = Ids()
    here.add(str(number) for number in range(0, 5_000, 2))
    assert all((str(number) in here) == (number % 2 == 0) for number in range(5_000))
    here.add(["1"])
    assert "1" in here
    assert "3" not in here


async def test_times_of_comparisons() -> None:
    world, poller, _ = await known(3)
    first = cursor(world).scanned_at
    await done(poller)
    assert cursor(world).scanned_at == first + timedelta(days=1)
    world.clock.advance(DAY_S - 1)
    assert await poller.step() is False
    assert len(world.log.topic(topics.CURSORS)) > 2
