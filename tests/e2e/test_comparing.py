"""Both ends of the example's flows compared, on a real broker: nothing after a quiet run, and exactly what somebody did."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from bus.cli.group import bus
from schemas.system import LinkState
from services.comparison.difference import Preview, preview
from services.comparison.reconciling import Reconciliation, Scope, ask_repairs, cost, reconcile
from services.comparison.selection import Selection
from tests.e2e.waiting import until
from tests.e2e.world import NEVER_S, World, written

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

CUSTOMERS, SALES, ORDERS = "customers-exact-to-qbo", "qbo-sales-to-exact-orders", "exact-orders-to-qbo"
FLOWS = (
    CUSTOMERS,
    "customers-qbo-to-exact",
    "products-exact-to-qbo",
    "products-qbo-to-exact",
    "categories-exact-to-qbo",
    SALES,
    ORDERS,
)


async def quiet_example(world: World, orders: int = 40) -> None:
    """The example, run until nothing is on its way; from then on it polls by request only."""
    await world.open(FLOWS, orders=orders, poll_s=NEVER_S)
    world.launch()
    await world.quiet()
    await world.poll()  # what the bus wrote is read back
    await world.quiet()


async def reconciled(world: World, flow: str, sample: int | None = None) -> Reconciliation:
    scope = Scope(flow=world.flow(flow), sample=sample)
    return await reconcile(world.settings, world.codec, scope, lambda _name, _count: None, lambda _text: None)


async def unsettled(world: World, flow: str) -> set[str]:
    """Source ids of a flow that the example leaves waiting or set aside."""
    standings = [record.standing for record in await world.state() if record.standing is not None]
    return {
        item.source.id
        for item in standings
        if item.flow == world.flow(flow) and str(item.standing) in ("WAITING", "PARKED", "DEAD")
    }


async def foreseen(world: World, flow: str, *keys: str, connection: str) -> Preview:
    selection = Selection(connection=connection, flows=(world.flow(flow),), keys=keys)
    return await preview(world.settings, world.codec, selection)


async def links(world: World, entity: str, connection: str) -> dict[str, str]:
    """Target id by source id."""
    found = [record.link for record in await world.state() if record.link is not None and record.connection == connection]
    return {link.source.id: link.external_id for link in found if link.entity == entity and link.state is LinkState.ACTIVE}


async def company(world: World, customers: dict[str, str]) -> str:
    """A debtor that is a company, and linked."""
    found = [row["id"] for row in (await world.exact.ask("books"))["customers"] if row["kind"] == "COMPANY"]
    return next(debtor for debtor in sorted(found) if debtor in customers)


async def test_a_quiet_run_agrees_and_what_is_done_behind_its_back_is_found_exactly(world: World) -> None:
    await quiet_example(world)
    await nothing_differs(world)
    await nothing_would_be_written(world)

    # behind the bus's back: a name edited in QuickBooks, an order deleted in Exact, sales that nobody has polled
    customers = await links(world, "customer", world.qbo_name)
    edited = await company(world, customers)
    await world.qbo.tell("edit", {"entity": "customer", "id": customers[edited], "fields": {"CompanyName": "Van Elders B.V."}})
    orders = await links(world, "sales_order", world.exact_name)
    deleted = sorted(orders)[0]
    await world.exact.tell("edit", {"entity": "sales_order", "id": orders[deleted], "fields": {"_delete": True}})
    before = {d["id"] for d in (await world.qbo.ask("books"))["documents"]}
    await world.qbo.tell("seed", {"orders": 6, "seed": 99})
    paid = {
        document["id"]
        for document in (await world.qbo.ask("books"))["documents"]
        if document["id"] not in before and document["status"] == "PAID" and document["kind"] in ("INVOICE", "RECEIPT")
    }
    assert paid

    names = await reconciled(world, CUSTOMERS)
    assert [(item.kind, item.source.id) for item in names.findings] == [("differing", edited)]
    (name,) = names.findings[0].fields
    assert (name.path, name.target) == ("company_name", "Van Elders B.V.")
    sales = await reconciled(world, SALES)
    known = await unsettled(world, SALES)
    missing = {item.source.id: item for item in sales.findings if item.source.id not in known}
    assert set(missing) == {deleted} | paid
    assert {item.kind for item in missing.values()} == {"missing"}
    assert "gone from the target" in missing[deleted].reason
    assert {missing[key].reason for key in paid} == {"was not polled yet"}
    one = await reconciled(world, SALES, sample=5)
    assert sum(one.read.values()) <= 10


async def nothing_differs(world: World) -> None:
    for flow in FLOWS:
        expected = await cost(world.settings, world.codec, Scope(flow=world.flow(flow)))
        found = await reconciled(world, flow)
        assert {item.source.id for item in found.findings} == await unsettled(world, flow), flow
        assert found.agreeing > 0, flow
        for account in expected.accounts:
            assert found.calls[account.connection] <= account.calls + len(found.findings) * account.per_finding, flow


async def nothing_would_be_written(world: World) -> None:
    writes = (await written(world.exact), await written(world.qbo))
    for flow in FLOWS:
        connection = world.exact_name if flow.split("-to-")[0].endswith("exact") or flow.startswith("exact") else world.qbo_name
        found = await foreseen(world, flow, connection=connection)
        told = {item.what for item in found.items}
        assert told <= {"nothing", "filtered", "waits", "dead"}, (
            flow,
            [item for item in found.items if item.what in ("update", "create")],
        )
    assert (await written(world.exact), await written(world.qbo)) == writes


async def test_the_command_shows_its_cost_and_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await quiet_example(world, orders=10)
    environment = {
        "BUS_KAFKA_BOOTSTRAP": world.settings.kafka_bootstrap,
        "BUS_REGISTRY_URL": str(world.settings.registry_url),
        "BUS_DATA_DIR": str(world.folder),
        "BUS_MASTER_KEY_FILE": str(world.settings.master_key_file),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    flow = world.flow("products-exact-to-qbo")

    async def run(*words: str) -> Any:
        import asyncio

        return await asyncio.to_thread(CliRunner().invoke, bus, ["reconcile", *words])

    refused = await run(flow)
    assert refused.exit_code == 2
    assert "calls for" in refused.stderr
    assert "give --yes" in refused.stderr
    agreed = await run(flow, "--yes", "--json")
    assert agreed.exit_code == 0, agreed.output
    said = json.loads(agreed.stdout)
    assert said["agrees"] is True
    assert (said["missing"], said["extra"], said["differing"], said["in_flight"]) == (0, 0, 0, 0)
    assert said["agreeing"] > 0
    unknown = await run("nobody", "--yes")
    assert unknown.exit_code == 78
    assert "unknown flow" in unknown.stderr


async def test_a_repair_mends_what_was_edited_and_the_next_look_is_clean(world: World) -> None:
    await quiet_example(world, orders=10)
    customers = await links(world, "customer", world.qbo_name)
    edited = await company(world, customers)
    await world.qbo.tell("edit", {"entity": "customer", "id": customers[edited], "fields": {"CompanyName": "Van Elders B.V."}})
    found = await reconciled(world, CUSTOMERS)
    assert [item.source.id for item in found.findings] == [edited]
    asked = await ask_repairs(world.settings, world.codec, found)
    assert [str(item.kind) for item in asked] == ["REPLAY"]

    async def mended() -> bool:
        return (await reconciled(world, CUSTOMERS)).agrees

    await until(mended, 60, "the edited name is mended")
    await world.poll()
    await world.quiet()
    assert (await reconciled(world, CUSTOMERS)).agrees
    assert not (await ask_repairs(world.settings, world.codec, await reconciled(world, CUSTOMERS)))
