"""The process dies at every point of every history, and nothing is made twice (P2, laws 5 to 7).

The points are: before and after each commit, before and after each call. Each history is run once per point.
"""

from collections.abc import Callable

import pytest

from schemas import canon
from schemas.system import Action, IdempotencyClass, Standing
from tests.fakes import Deaths, company, order
from tests.unit.sinks.world import World, standing_of


def new_customer(world: World) -> None:
    world.backfilled()
    world.command(company())


def newer_version_behind_a_create(world: World) -> None:
    world.backfilled()
    world.command(company())
    world.command(company("Van Dijk Verlichting", email="new@vandijk.test"))


def order_with_a_new_customer(world: World) -> None:
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1"), "P1"))
    world.command(order("61"), action=Action.CREATE, entity="sales_order", source_entity="sales_invoice", source_id="Invoice:1")
    world.command(company(), source_id="61")


HISTORIES = [new_customer, newer_version_behind_a_create, order_with_a_new_customer]
CLASSES = [IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH]


def points_of(history: Callable[[World], None], kind: IdempotencyClass) -> int:
    import asyncio

    world = build(kind, Deaths())
    history(world)
    asyncio.run(world.live())
    return world.deaths.passed


def build(kind: IdempotencyClass, deaths: Deaths) -> World:
    return World(deaths, classes={"customer": kind, "sales_order": kind})


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("history", HISTORIES)
def test_a_death_at_any_point_makes_nothing_twice(history: Callable[[World], None], kind: IdempotencyClass) -> None:
    import asyncio

    points = points_of(history, kind)
    assert points > 4
    for point in range(1, points + 1):
        deaths = Deaths(at=point)
        world = build(kind, deaths)
        history(world)
        state = asyncio.run(world.survive())
        assert deaths.at is None, "the death was never met"
        where = f"point {point} of {points}: {deaths.names[point - 1]}"
        assert len(world.vendor.objects["customer"]) == 1, where
        assert len(world.vendor.objects["contact"]) == 1, where
        assert len(world.vendor.objects["sales_order"]) == (1 if history is order_with_a_new_customer else 0), where
        for standing in state.standings():
            assert standing.standing in (Standing.WRITTEN, Standing.UNCHANGED), where
        assert not list(state.open_intents()), where
        if history is newer_version_behind_a_create:
            (kept,) = world.vendor.objects["customer"].values()
            assert isinstance(kept, canon.Customer)
            assert kept.company_name == "Van Dijk Verlichting", where
            assert standing_of(state).applied
