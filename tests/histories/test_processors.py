"""Histories of the processors: late, twice, and out of order."""

from typing import Any

from bus.core.configuration import parse
from schemas.system import Cause, Outcome, RequestKind, Standing
from services.processors.handler import Handler
from services.processors.routes import Routes, compile_routes
from tests.fakes import company
from tests.unit.pollers.world import Poller
from tests.unit.sinks.world import World, standing_of

CONFIGURATION = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop}
--- {kind: Connection, name: target, tenant: acme, system: some_ledger, secret: target}
--- {kind: Flow, name: f, from: {connection: shop, entity: customer}, to: {connection: target, entity: customer},
     start: {existing: send}, write: upsert}
"""


def emitted(world: World, poller: Poller, *numbers: int, routes: Routes) -> None:
    """A processor of its own maps the events of these numbers and puts their commands on the outbound topic."""
    records = [record for record in poller.log.topic("bus.canon.customer") if record.value is not None]
    for number in numbers:
        record: Any = records[number]
        world.outbound += [
            out.value for out in Handler(world.codec).handle(record.topic, record.key, record.value, routes) if out.value
        ]


async def test_a_late_processor_emits_version_1_after_its_successor_emitted_2_and_the_account_was_braked() -> None:
    """The account stood still, so nothing was written yet that the late version could be compared with: it took the place of the
    newer one, which was parked, and the vendor ended with version 1.

    Processors may emit late, twice and out of order: what is parked counts, and the sink drops what is older (laws 3 and 4).
    """
    world, poller, routes = World(), Poller(), compile_routes(parse(CONFIGURATION).accepted(), 1)
    poller.codec = world.codec
    external_id = poller.vendor.put("customer", company("Version 1"))
    await poller.poll()
    poller.vendor.put("customer", company("Version 2"), external_id)
    await poller.poll()
    world.backfilled()
    world.ask(RequestKind.BRAKE, action="open", flow="")
    await world.live()
    emitted(world, poller, 0, 1, routes=routes)  # the successor
    state = await world.live()
    assert (standing_of(state, external_id).standing, standing_of(state, external_id).cause) == (
        Standing.PARKED,
        Cause.BRAKE_OPEN,
    )
    emitted(world, poller, 0, routes=routes)  # the late one
    await world.live()
    assert world.outcomes[-1] == ("f", Outcome.STALE)
    assert world.vendor.writes == []
    world.ask(RequestKind.BRAKE, action="close", flow="")
    state = await world.live(idle=2)
    (held,) = world.vendor.objects["customer"].values()
    assert getattr(held, "company_name", None) == "Version 2"
    assert [action for action, step in world.vendor.writes if step != "contact"] == ["create"]
    assert standing_of(state, external_id).standing is Standing.WRITTEN
