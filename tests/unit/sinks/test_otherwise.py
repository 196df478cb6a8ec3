"""What a target makes of what it is sent is told with the standing, so that nobody takes it for an edit."""

from typing import Any

from bus.core.identity import Hasher
from bus.core.policy import WritePolicy
from services.sinks.desired import kept_otherwise, unlike
from tests.fakes import company
from tests.unit.sinks.world import World, standing_of

LONG = "Van Dijk Verlichting en Aanverwante Artikelen"


async def linked(world: World, there: Any, here: Any) -> Any:
    """A customer that existed on both sides before the start."""
    world.vendor.put("customer", there, "C1")
    world.observe("customer", "C1")
    world.backfilled()
    world.command(here, policy=WritePolicy(write="upsert", existing="link"), existing=True)
    return standing_of(await world.live())


def hashes(world: World, document: Any) -> dict[str, str]:
    return world.hasher.fields(document)


async def test_a_name_the_vendor_cuts_is_told() -> None:
    world = World()
    world.connector.name_max = 10
    world.backfilled()
    world.command(company(LONG))
    standing = standing_of(await world.live())
    cut = company(LONG[:10])
    assert standing.otherwise == {"company_name": hashes(world, cut)["company_name"]}
    (external_id,) = world.vendor.objects["customer"]
    held = hashes(world, world.vendor.objects["customer"][external_id])
    assert unlike(hashes(world, company(LONG)), held, standing.applied, standing.otherwise) == set()


async def test_what_differed_when_it_was_linked_is_told_and_an_edit_is_not() -> None:
    world = World()
    standing = await linked(world, company("Dijk"), company("Van Dijk B.V.", language="nl"))
    assert standing.otherwise == {"company_name": hashes(world, company("Dijk"))["company_name"], "language": ""}
    now = hashes(world, company("Van Dijk B.V.", language="nl"))
    there = hashes(world, company("Dijk"))
    assert unlike(now, there, standing.applied, standing.otherwise) == set()
    assert unlike(now, {**there, "company_name": "edited"}, standing.applied, standing.otherwise) == {"company_name"}
    assert unlike({**now, "company_name": "new"}, there, standing.applied, standing.otherwise) == {"company_name"}


async def test_an_update_of_one_field_keeps_what_is_told_of_the_others() -> None:
    world = World()
    await linked(world, company("Dijk"), company("Van Dijk B.V."))
    world.command(company("Van Dijk B.V.", language="nl"), policy=WritePolicy(write="upsert", existing="link"))
    standing = standing_of(await world.live())
    assert standing.otherwise == {"company_name": hashes(world, company("Dijk"))["company_name"]}
    world.command(company("Dijk Licht", language="nl"), policy=WritePolicy(write="upsert", existing="link"))
    assert standing_of(await world.live()).otherwise == {}, "what was sent and kept is in the source's own form"


def test_only_what_was_looked_at_is_told_anew() -> None:
    hasher = Hasher(b"t")
    now = hasher.fields(company("A", language="nl"))
    before = {"company_name": "x", "gone": "y"}
    kept = kept_otherwise(now, {"language": "en"}, {"language"}, before)
    assert kept == {"company_name": "x", "language": "en"}


def test_a_field_that_vanished_at_the_source_and_stands_at_the_target_is_unlike() -> None:
    assert unlike({}, {"phone": "1"}, {"phone": "1"}, {}) == {"phone"}
    assert unlike({}, {"phone": "1"}, {}, {}) == set(), "what the source never held is the target's own"
