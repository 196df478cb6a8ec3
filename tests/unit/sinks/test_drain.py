"""A sink that is told to stop: what is under way ends and is committed, the rest is the next owner's."""

import asyncio
from typing import Any

from schemas.system import Standing
from services.sinks.account import PARALLEL_OBJECTS_MAX, Delivered
from tests.fakes import company
from tests.unit.sinks.world import World


async def test_calls_under_way_end_and_nothing_more_begins() -> None:
    world = World()
    world.backfilled()
    await world.live()
    perform, is_open, begun = world.connector.perform, asyncio.Event(), 0

    async def slow(write: Any, step: Any, done: Any) -> Any:
        nonlocal begun
        begun += step.name == "customer"
        await is_open.wait()
        return await perform(write, step, done)

    world.connector.perform = slow  # type: ignore[method-assign]
    for number in range(2 * PARALLEL_OBJECTS_MAX):
        world.command(company(email=f"{number}@shop.test"), source_id=str(number))
    life = asyncio.ensure_future(world.live())
    while begun < PARALLEL_OBJECTS_MAX:
        await asyncio.sleep(0)
    drain = asyncio.ensure_future(world.sink.drain())
    await asyncio.sleep(0)
    world.sink.deliver(
        Delivered(raw=world.command(company(email="late@shop.test"), source_id="late"), offset=len(world.outbound) - 1)
    )
    assert not drain.done()
    is_open.set()
    await drain
    state = await life
    assert begun == PARALLEL_OBJECTS_MAX
    assert len(world.vendor.objects["customer"]) == PARALLEL_OBJECTS_MAX
    assert not list(state.open_intents()), "every outcome is committed"
    assert {record.standing for record in state.standings()} == {Standing.WRITTEN}
    state = await world.live()
    assert len(list(state.standings())) == 2 * PARALLEL_OBJECTS_MAX + 1, "the next owner takes up the rest"
    assert len(world.vendor.objects["customer"]) == 2 * PARALLEL_OBJECTS_MAX + 1
