"""Grants and processors killed at their worst moment; a broker, a registry and a credential away for a while."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bus.embedded import Cluster
from tests.e2e.test_sink_killed import CALL_OVER_S, SALES, orders_of, references
from tests.e2e.waiting import until
from tests.e2e.world import World, calls, hold, plan

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

ORDERS = 24
NEEDS_A_PERSON = "a person must log in"


async def test_a_refresh_that_nobody_heard_of_needs_a_person_and_stops_nobody_else(world: World) -> None:
    """Exact's refresh tokens work once: killed between refresh and store, the new one is lost, which is said once."""
    await world.open([SALES], orders=ORDERS)
    token_path = urlsplit(world.exact.info["token_url"]).path
    await plan(world.exact, hold("POST", token_path))
    (grants,) = world.launch("grants")

    async def refreshed() -> bool:
        return bool(await calls(world.exact, "POST", token_path))

    await until(refreshed, 30, "the vendor has answered a refresh")
    grants.kill()
    await plan(world.exact)
    world.launch()
    successor = world.running("grants")
    await until(lambda: successor.said(NEEDS_A_PERSON), 60, "the operator is told")

    async def others_go_on() -> bool:
        return any(s.connection == world.qbo_name and s.backfilled for s in (await world.books()).streams)

    await until(others_go_on, 60, "QuickBooks is read all the same")
    assert not references(await orders_of(world))
    assert world.settings.secrets_dir is not None
    consent = (await world.exact.ask("info"))["credentials"]["refresh_token"]
    (world.settings.secrets_dir / world.exact_name / "refresh_token").write_text(consent)
    await assert_everything_is_there_once(world)
    assert len(successor.said(NEEDS_A_PERSON)) == 1


async def test_processors_killed_in_the_middle(world: World) -> None:
    await world.open([SALES], orders=ORDERS)
    world.launch("grants", "pollers", "sinks")
    for _ in range(2):
        (processors,) = world.launch("processors")
        await until(lambda p=processors: p.said("started"), 30, "processors run")
        await asyncio.sleep(4)  # somewhere between joining, reading and committing: each place is a right one to die in
        processors.kill()
    world.launch("processors")
    await assert_everything_is_there_once(world)


async def test_a_revoked_credential_pauses_its_connection_only(world: World) -> None:
    await world.open([SALES], orders=ORDERS)
    world.launch()
    await world.quiet()
    await world.exact.tell("tokens", {"revoke": True})
    pollers = world.running("pollers")
    await until(lambda: pollers.said("connection paused"), 60, "the connection is paused")
    assert {line["connection"] for line in pollers.said("connection paused")} == {world.exact_name}
    invoice = next(d["id"] for d in (await world.qbo.ask("books"))["documents"] if d["id"].startswith("Invoice:"))
    before = len(await world.events("sales_invoice"))
    await world.qbo.tell(
        "edit", {"entity": "Invoice", "id": invoice, "fields": {"CustomerMemo": {"value": "paid at the counter"}}}
    )

    async def read() -> bool:
        return len(await world.events("sales_invoice")) > before

    await until(read, 30, "QuickBooks is read all the same")
    assert all(process.code is None for process in world.processes)


async def test_broker_and_registry_away(fresh_cluster: Cluster, tmp_path: Path) -> None:
    """Services wait, say so, and go on by themselves."""
    world = World(fresh_cluster, tmp_path, "outage")
    try:
        await world.open([SALES], orders=ORDERS)
        world.launch()

        async def on_their_way() -> bool:
            return bool(references(await orders_of(world)))

        await until(on_their_way, 60, "orders are on their way")
        fresh_cluster.stop_kafka()
        for service in ("grants", "pollers", "processors", "sinks"):
            await until(world.running(service).reasons, 60, f"{service} says that it waits")
        fresh_cluster.stop_registry()
        await asyncio.sleep(5)
        fresh_cluster.start_registry()
        fresh_cluster.start_kafka()
        for service in ("grants", "pollers", "processors", "sinks"):
            await until(world.running(service).is_ready, 90, f"{service} goes on")

        async def all_settled_or_unclear() -> bool:
            books = await world.books()
            unclear = sum(books.open_intents.values())
            return not books.processor_lag and not sum(books.outbound_lag.values()) and books.retrying == unclear

        await until(all_settled_or_unclear, 60, "what was not under way at that moment is settled")
        assert all(process.code is None for process in world.processes), "nobody had to be restarted"
        await assert_everything_is_there_once(world, after_calls=True)
    finally:
        await world.close()


async def assert_everything_is_there_once(world: World, *, after_calls: bool = False) -> None:
    """`after_calls`: without waiting here for the time in which a call of before may still be under way."""
    if after_calls and (await world.books()).open_intents:
        world.running("sinks").kill()
        world.launch("sinks", boot_later=CALL_OVER_S)
    books = await world.quiet()
    assert [(flow.read, flow.settled) for flow in books.flows] == [(ORDERS, ORDERS)]
    found = references(await orders_of(world))
    assert set(found.values()) == {1}
    assert len(found) == sum(flow.standings["WRITTEN"] for flow in books.flows)
