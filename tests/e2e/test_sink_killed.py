"""A sink killed between the vendor's answer and its commit: nothing is created twice, nothing is lost."""

from collections import Counter
from typing import Any

import pytest

from schemas.system import Standing
from tests.e2e.waiting import until
from tests.e2e.world import World, hold, plan, written

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

CALL_OVER_S = 140
"""Longer than a call of a dead owner can be under way (10 s commit, two time-outs of 60 s)."""
SALES = "qbo-sales-to-exact-orders"
CUSTOMERS = "customers-qbo-to-exact"


def person(number: int) -> dict[str, Any]:
    """A customer as a QuickBooks user types it, with goods going elsewhere than the bill."""
    return {
        "DisplayName": f"Nieuwe Klant {number}",
        "GivenName": "Nieuwe",
        "FamilyName": f"Klant {number}",
        "PrimaryEmailAddr": {"Address": f"nieuw{number}@klant.test"},
        "BillAddr": {"Line1": f"Gracht {number}", "PostalCode": "1015 CN", "City": "Amsterdam", "Country": "NL"},
        "ShipAddr": {"Line1": f"Loods {number}", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"},
    }


async def test_between_every_two_steps_of_a_customer(world: World) -> None:
    """One customer's call is done and unanswered in each step; the sink dies; its successor finds each and goes on behind it."""
    await world.open([CUSTOMERS])
    world.launch()
    await world.quiet()
    crm = f"/api/v1/{world.exact.info['config']['division']}/crm"
    steps = [("POST", f"{crm}/Accounts"), ("POST", f"{crm}/Contacts"), ("PUT", f"{crm}/Accounts"), ("POST", f"{crm}/Addresses")]
    await plan(world.exact, *(hold(method, path) for method, path in steps))
    before = await written(world.exact)
    for number in range(5):
        await world.qbo.tell("edit", {"entity": "customer", "id": "new", "fields": person(number)})

    async def all_held() -> bool:
        return (await world.books()).open_intents.get(world.exact_name) == len(steps)

    await until(all_held, 60, "one customer stands in each step")
    world.running("sinks").kill()
    await plan(world.exact)
    world.launch("sinks", boot_later=CALL_OVER_S)
    await world.quiet()
    made = [c for c in (await world.exact.ask("books"))["customers"] if (c["email"] or "").endswith("@klant.test")]
    assert sorted(customer["email"] for customer in made) == [f"nieuw{number}@klant.test" for number in range(5)]
    assert {(customer["contacts"], customer["addresses"]) for customer in made} == {(1, made[0]["addresses"])}
    made_calls = Counter(await written(world.exact)) - Counter(before)
    assert [made_calls[f"crm/{name}.POST"] for name in ("Accounts", "Contacts", "Addresses")] == [5, 5, 5]


async def test_an_order_made_and_never_answered_is_found(world: World) -> None:
    await world.open([SALES], orders=12)
    orders = f"/api/v1/{world.exact.info['config']['division']}/salesorder/SalesOrders"
    await plan(world.exact, hold("POST", orders))
    world.launch()

    async def one_held() -> bool:
        books = await world.books()
        written = sum(flow.standings.get(Standing.WRITTEN.value, 0) for flow in books.flows)
        return books.open_intents.get(world.exact_name, 0) == 1 and written > 1 and bool(references(await orders_of(world)))

    await until(one_held, 60, "an order that nobody heard of again")
    world.running("sinks").kill()
    world.launch("sinks", boot_later=CALL_OVER_S)
    books = await world.quiet()
    (flow,) = books.flows
    found = references(await orders_of(world))
    assert set(found.values()) == {1}
    assert flow.standings[Standing.WRITTEN.value] == len(found)
    assert flow.read == flow.settled == 12


async def orders_of(world: World) -> list[dict[str, Any]]:
    """Exact's documents."""
    documents: list[dict[str, Any]] = (await world.exact.ask("books"))["documents"]
    return documents


def references(documents: list[dict[str, Any]]) -> Counter[str]:
    """How often each reference of the bus is there."""
    return Counter(d["reference"] for d in documents if (d["reference"] or "").startswith("QBO-"))
