"""Pictures of articles cross once each, through processes of their own and a real broker."""

from typing import Any

import pytest

from bus.core import topics
from bus.runtime.reader import BEGINNING, LogReader
from services.demonstration.stage import SimulatorProcess
from tests.e2e.world import NEVER_S, World, written

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

FLOWS = ("products-exact-to-qbo", "categories-exact-to-qbo")


async def products(simulator: SimulatorProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await simulator.ask("books"))["products"]
    return rows


async def test_every_picture_is_attached_once(world: World) -> None:
    """To the items the bus makes: the example leaves the pictures of those that exist alone."""
    await world.open(FLOWS, poll_s=NEVER_S)
    there = {row["sku"] for row in await products(world.qbo)}
    pictured = {row["sku"] for row in await products(world.exact) if row["has_picture"]}
    assert pictured - there
    world.launch()
    await world.quiet()
    assert (await written(world.qbo))["attachable.create"] == len(pictured - there)
    assert await published(world) >= {image for event in await named(world) for image in event}
    world.running("sinks").kill()
    world.launch("sinks")
    await world.exact.tell("edit", {"entity": "product", "id": min(pictured - there), "fields": {"Description": "Renamed"}})
    await world.poll()
    await world.quiet()
    assert "Renamed" in {row["name"] for row in await products(world.qbo)}
    assert (await written(world.qbo))["attachable.create"] == len(pictured - there)


async def named(world: World) -> list[set[str]]:
    """The pictures that each event names."""
    found = [event for _, event in await world.events("product") if event is not None and event.after is not None]
    images = [{image.sha256 for image in event.after.images} for event in found]
    assert any(images)
    return images


async def published(world: World) -> set[str]:
    """The pictures on the topic."""
    reader = LogReader(world.settings, "test")
    try:
        await reader.assign(topics.PICTURES, dict.fromkeys(await reader.partitions(topics.PICTURES), BEGINNING))
        ends = await reader.ends(topics.PICTURES)
        return {record.key.decode() async for batch in reader.read_to(topics.PICTURES, ends) for record in batch}
    finally:
        await reader.close()
