"""Who goes first when more objects wait than may be under way."""

import asyncio
from typing import Any

import pytest

from bus.kit.budget import priority
from schemas import canon
from schemas.system import Action
from services.sinks.account import PARALLEL_OBJECTS_MAX
from services.sinks.room import FAIR_EVERY, Room, rank_of
from tests.fakes import company, order
from tests.unit.sinks.world import World


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def served(room: Room, ranks: list[int]) -> list[int]:
    """The order in which waiters come in, all of them there before the first place is free."""
    order: list[int] = []

    async def visit(number: int, rank: int) -> None:
        async with room.hold(rank):
            order.append(number)
            await turn()

    async with room.hold(0):
        tasks = [asyncio.ensure_future(visit(number, rank)) for number, rank in enumerate(ranks)]
        await turn()
    await asyncio.gather(*tasks)
    return order


async def test_lower_ranks_go_first_and_equal_ones_in_turn() -> None:
    assert await served(Room(1), [3, 1, 0]) == [2, 1, 0]
    assert await served(Room(1), [1, 1]) == [0, 1]


async def test_who_waits_longest_gets_one_place_in_so_many() -> None:
    order = await served(Room(1), [3] + [0] * 40)
    assert order.index(0) <= FAIR_EVERY


async def test_a_waiter_that_gives_up_leaves_no_hole() -> None:
    room = Room(1)
    async with room.hold(0):
        waiter = asyncio.ensure_future(room._enter(0))
        await turn()
        assert len(room) == 1
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert len(room) == 0
    async with asyncio.timeout(1), room.hold(3):
        pass


async def test_a_waiter_let_in_and_cancelled_at_once_gives_its_place_on() -> None:
    room = Room(1)
    async with room.hold(0):
        waiter = asyncio.ensure_future(room._enter(0))
        await turn()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    async with asyncio.timeout(1), room.hold(0):
        pass


@pytest.mark.parametrize(
    ("rank", "entities"),
    [(0, ("sales_order", "sales_invoice")), (1, ("customer", "product")), (2, ("product_category",)), (3, ("stock",))],
)
def test_documents_come_first(rank: int, entities: tuple[str, ...]) -> None:
    assert {rank_of(entity) for entity in entities} == {rank}


async def test_an_order_passes_the_products_that_wait_and_its_calls_bear_its_rank() -> None:
    world = World()
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1")))
    world.observe("customer", world.vendor.put("customer", company()))
    await world.live()
    ranks: dict[str, set[int]] = {}
    perform = world.connector.perform

    async def watched(write: Any, step: Any, done: Any) -> Any:
        ranks.setdefault(write.entity, set()).add(priority.get())
        await turn()
        return await perform(write, step, done)

    world.connector.perform = watched  # type: ignore[method-assign]
    for number in range(10 * PARALLEL_OBJECTS_MAX):
        world.command(canon.Product(sku=f"P-{number}"), entity="product", source_id=f"p{number}")
    world.command(order(), action=Action.CREATE, entity="sales_order", source_entity="sales_invoice", source_id="Invoice:1")
    await world.live()
    steps = [step for _, step in world.vendor.writes]
    assert len(steps) == 10 * PARALLEL_OBJECTS_MAX + 1
    assert steps.index("sales_order") <= 3 * PARALLEL_OBJECTS_MAX
    assert ranks == {"product": {1}, "sales_order": {0}}
