"""Histories of the read side: what a poller tells, and what its events make at the other vendor."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from bus.kit.connector import RawRecord, Step, StepResult, Write
from schemas import canon
from schemas.canon import Operation
from tests.fakes import Killed, company
from tests.unit.pair.conftest import furnish
from tests.unit.pair.rig import Pair
from tests.unit.pollers.world import Poller
from tests.unit.sinks.world import World


def names(world: World) -> list[str | None]:
    """Names of the customers at the other vendor."""
    return [getattr(document, "company_name", None) for document in world.vendor.objects["customer"].values()]


async def carried_over(events: list[Any]) -> World:
    """Another account, to which these events of a customer are brought in the order given."""
    world = World()
    world.backfilled()
    await world.live()
    for event in events:
        world.command(event.after, seq=event.meta.seq)
        await world.live()
    return world


async def test_our_own_create_is_polled_before_its_outcome_is_committed() -> None:
    """Our customer was read as somebody's new one before its link was known, and was created back at its own source.

    An object that an open create might have made is held and judged when the intent has closed (law 9).
    """
    pair = furnish(Pair())
    await pair.run()
    before = (len(pair.qbo.books("customers")), len(pair.exact.books("customers")))
    pair.qbo_customer("Van Dijk B.V.")  # without an address nothing matches it: whoever asks makes another
    await pair.poll(pair.qbo)
    pair.process()
    perform = pair.exact.connector.perform

    async def dies(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        await perform(write, step, done)
        raise Killed

    pair.exact.connector.perform = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await pair.sink(pair.exact)
    pair.exact.connector.perform = perform  # type: ignore[method-assign]
    await pair.poll(pair.exact)
    pair.process()
    await pair.sink(pair.qbo)
    await pair.run(rounds=12)
    after = (len(pair.qbo.books("customers")), len(pair.exact.books("customers")))
    assert after == (before[0] + 1, before[1] + 1)
    echoes = [event.meta.origin for event in pair.events("customer", "exact-nl") if event.after.company_name == "Van Dijk B.V."]
    assert [(origin.connection, origin.created) for origin in echoes] == [("qbo-nl", True)]


async def test_vendor_versions_restart() -> None:
    """Versions were compared as the vendor wrote them: "10" stood below "9", and after a division had moved they began anew, so
    that new edits were dropped as old.

    The poller numbers the versions of an object, and later stages compare that number and nothing else (law 3).
    """
    world = Poller()
    external_id = world.vendor.put("customer", company("Nine"), "C1")
    told = []
    for version, name in (("9", "Nine"), ("10", "Ten"), ("2", "Moved"), ("3", "Moved and edited")):
        world.vendor.put("customer", company(name), external_id)
        world.vendor.versions["customer", external_id] = int(version)
        told += await world.poll()
    assert [(event.meta.source_version, event.after.company_name) for event in told] == [
        ("9", "Nine"), ("10", "Ten"), ("2", "Moved"), ("3", "Moved and edited"),
    ]  # fmt: skip
    order = [event.meta.seq for event in told]
    assert order == sorted(set(order))
    assert names(await carried_over(told)) == ["Moved and edited"]
    assert names(await carried_over([told[0], told[3], told[1]])) == ["Moved and edited"], "the late one says less"


async def test_a_mapping_is_fixed_while_raw_bytes_stay_equal() -> None:
    """A mapping that lost a field was mended, but the vendor's bytes were those of before, so nothing was ever read again.

    What is known of an object belongs to a mapping version; another version reads equal bytes once more (law 1).
    """
    world = Poller()
    world.vendor.put("customer", company(language="nl"))
    mapped = world.connector.to_canonical

    def lossy(record: RawRecord) -> Any:
        return msgspec.structs.replace(mapped(record), language=None)

    world.connector.to_canonical = lossy  # type: ignore[method-assign]
    told = await world.poll()
    world.connector.to_canonical = mapped  # type: ignore[method-assign]
    assert await world.poll() == [], "equal bytes under the same mapping cost nothing"
    world.connector.manifest = world.connector.manifest.model_copy(update={"mapping_version": 2})
    told += await world.poll()
    assert [(event.meta.mapping_version, event.meta.op) for event in told] == [(1, Operation.SNAPSHOT), (2, Operation.UPDATED)]
    assert await world.poll() == [], "once"
    target = await carried_over(told)
    (held,) = target.vendor.objects["customer"].values()
    assert isinstance(held, canon.Customer)
    assert (held.language, target.vendor.writes.count(("create", "customer"))) == ("nl", 1)
