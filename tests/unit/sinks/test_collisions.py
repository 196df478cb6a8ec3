"""Fields that were edited at both ends: whose value stands, and that it is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from bus.core.policy import WritePolicy
from bus.kit.connector import RawRecord
from bus.runtime import metrics
from schemas import canon
from schemas.system import Outcome
from services.sinks.collisions import edited_at_both, stays
from tests.fakes import company
from tests.unit.sinks.world import TARGET, World, results, standing_of

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("now", "held", "known", "applied", "otherwise", "both"),
    [
        ("a2", "b2", "old", "old", None, True),  # its poller has not seen it yet
        ("a2", "b2", "b2", "old", None, True),  # it has
        ("a2", "old", "old", "old", None, False),  # nobody edited the target
        ("a2", "cut", "cut", "old", "cut", False),  # the target keeps the value in another form
        ("a2", "b2", "b2", "old", "cut", True),
        ("a2", "a2", "old", "old", None, False),  # both made the same edit
        ("a2", "", "old", "old", None, True),  # the target emptied it
        ("a2", "", "", "old", "", False),  # the target has no value for it
        ("a2", "own", "own", None, None, False),  # the source never spoke of it
        ("a2", "own2", "own", None, None, True),
        (None, "b2", "old", "old", None, True),  # the source emptied what the target edited
    ],
)
def test_what_was_edited_at_both(now: str, held: str, known: str, applied: str, otherwise: str | None, both: bool) -> None:
    def told(value: str | None) -> dict[str, str]:
        return {} if value is None else {"email": value}

    nothing = told(otherwise)
    assert edited_at_both({"email"}, told(now), {"email": held} if held else {}, told(known), told(applied), nothing) == (
        {"email"} if both else set()
    )


@pytest.mark.parametrize(
    ("owner", "source_at", "target_at", "target_stays"),
    [
        ("source", NOON, LATER, False),
        ("target", LATER, NOON, True),
        ("create_only", LATER, NOON, True),
        ("last_change", LATER, NOON, False),
        ("last_change", NOON, LATER, True),
        ("last_change", None, LATER, False),
        ("last_change", NOON, None, False),
    ],
)
def test_ownership_decides(owner: Any, source_at: datetime | None, target_at: datetime | None, target_stays: bool) -> None:
    assert stays("email", WritePolicy(owner={"email": owner}), source_at, target_at, False) is target_stays


def test_both_directions_come_to_the_same_end() -> None:
    policy = WritePolicy()
    for here, there in ((NOON, LATER), (LATER, NOON), (NOON, NOON)):
        assert stays("email", policy, there, here, True) is not stays("email", policy, here, there, False)


# --- in the sink ---------------------------------------------------------------------------------------------------------------


async def both_edited(world: World, policy: WritePolicy, *, seen: bool, target_at: datetime | None = None, **more: Any) -> Any:
    """The same field is edited at both ends; `seen` says whether the target's poller told of its edit before."""
    world.backfilled()
    world.command(company(), policy=policy)
    await world.live()
    (external_id,) = world.vendor.objects["customer"]
    world.clock.advance(60)
    world.vendor.put("customer", company(email="theirs@vandijk.test"), external_id)
    fetch = world.connector.fetch

    async def dated(entity: str, found_id: str) -> RawRecord | None:
        record = await fetch(entity, found_id)
        return msgspec.structs.replace(record, modified_at=target_at) if record is not None else None

    world.connector.fetch = dated  # type: ignore[method-assign]
    if seen:
        world.observe("customer", external_id)
        await world.live()
    world.command(company("New name", email="ours@vandijk.test"), policy=policy, **more)
    state = await world.live()
    assert isinstance(world.vendor.objects["customer"][external_id], canon.Customer)
    return state


def held(world: World) -> tuple[str | None, str]:
    (kept,) = world.vendor.objects["customer"].values()
    assert isinstance(kept, canon.Customer)
    assert isinstance(kept.pii, canon.PartyPii)
    return kept.company_name, kept.pii.emails[0].value


@pytest.mark.parametrize("seen", [False, True])
async def test_the_sources_change_is_written_and_the_conflict_told(seen: bool) -> None:
    world = World()
    state = await both_edited(world, WritePolicy(write="upsert"), seen=seen)
    assert held(world) == ("New name", "ours@vandijk.test")
    assert results(world)[-1].conflicts == ["email"]
    assert standing_of(state).detail == "fields: company_name, email; edited at both ends: email (the source's stands)"
    value = metrics.REGISTRY.get_sample_value("bus_conflicts_total", {"connection": TARGET, "flow": "f"})
    assert value is not None
    assert value >= 1


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize(("source_at", "target_at", "stands"), [(LATER, NOON, "ours"), (NOON, LATER, "theirs")])
async def test_without_an_owner_the_last_change_stands(seen: bool, source_at: datetime, target_at: datetime, stands: str) -> None:
    world = World()
    await both_edited(world, WritePolicy(write="upsert"), seen=seen, target_at=target_at, source_modified_at=source_at)
    assert held(world) == ("New name", f"{stands}@vandijk.test"), "other fields are not held up"
    assert results(world)[-1].conflicts == ["email"]


async def test_the_owner_stands_whoever_was_last() -> None:
    for owner, stands in (("source", "ours"), ("target", "theirs"), ("create_only", "theirs")):
        world = World()
        policy = WritePolicy(write="upsert", owner={"email": owner})  # type: ignore[dict-item]
        at = {"target_at": LATER, "source_modified_at": NOON}
        await both_edited(world, policy, seen=False, **at)
        assert held(world) == ("New name", f"{stands}@vandijk.test"), owner
        assert results(world)[-1].conflicts == ["email"], owner


async def test_what_stayed_at_the_target_is_no_conflict_again() -> None:
    world = World()
    await both_edited(world, WritePolicy(write="upsert"), seen=True, target_at=LATER, source_modified_at=NOON)
    world.command(company("Newer name", email="ours@vandijk.test"))
    await world.live()
    assert held(world) == ("Newer name", "theirs@vandijk.test")
    assert results(world)[-1].conflicts == []
    world.command(company("Newer name", email="ours2@vandijk.test"))
    await world.live()
    assert held(world) == ("Newer name", "ours2@vandijk.test"), "an edit of the source alone is written"
    assert results(world)[-1].conflicts == []


async def test_what_the_target_cuts_is_no_conflict() -> None:
    world = World()
    world.connector.name_max = 5
    world.backfilled()
    world.command(company("A very long name"))
    await world.live()
    world.command(company("Another very long name"))
    state = await world.live()
    assert results(world)[-1].conflicts == []
    assert standing_of(state).outcome is Outcome.UPDATED


async def test_a_repair_says_that_the_source_is_right() -> None:
    world = World()
    more = {"source_modified_at": NOON, "repair": True, "request": "job"}
    await both_edited(world, WritePolicy(write="upsert"), seen=False, target_at=LATER, **more)
    assert held(world) == ("New name", "ours@vandijk.test")
