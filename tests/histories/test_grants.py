"""Histories of grants: who may use a token up, and who may say so."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.kafka import Fenced
from bus.runtime.provisioning import ensure_topics
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings
from schemas.system import GrantRecord
from services.grants.keeper import Keeper
from tests.integration.test_grants import World as Slots
from tests.unit.grants.test_keeper import World

PATIENCE_S = 60.0


async def test_a_token_refresh_frozen_before_its_post() -> None:
    """An owner was frozen after its intent and before its POST; it woke when its successor had used the single-use token up, was
    refused, and wrote over the good grant that a person must log in.

    The intent tells the successor that the old token is to be tried once, and the record belongs to whoever owns the slot: the
    frozen owner's word is fenced (law 12).
    """
    world = World(refresh_not_before_s=0)
    await world.keeper().step()
    world.clock.advance(570)
    owner, frozen, woken = "older", asyncio.Event(), asyncio.Event()
    refresh = world.vendor.refresh

    async def thaws(token: Any) -> Any:
        frozen.set()
        await woken.wait()
        return await refresh(token)

    def of(name: str) -> Keeper:
        keeper = world.keeper()
        commit = keeper._commit

        async def fenced(record: GrantRecord) -> None:
            if name != owner:
                raise Fenced("another process owns the slot")
            await commit(record)

        keeper._commit = fenced
        return keeper

    older = of("older")
    world.vendor.refresh = thaws  # type: ignore[method-assign]
    step = asyncio.ensure_future(older.step())
    await frozen.wait()
    assert world.states()[-1] == ("REFRESHING", 1), "the successor sees that a refresh has begun"
    world.vendor.refresh, owner = refresh, "newer"  # type: ignore[method-assign]
    newer = of("newer")
    await newer.step()
    assert world.states()[-1] == ("ACTIVE", 2)
    woken.set()
    with pytest.raises(Fenced):
        await step
    assert world.vendor.calls == ["refresh-first", "refresh-1", "refresh-1"]
    assert world.states()[-1] == ("ACTIVE", 2)
    world.clock.advance(570)
    await newer.step()
    assert (world.states()[-1], world.tokens().refresh_token.get_secret_value()) == (("ACTIVE", 3), world.vendor.valid)


@pytest.fixture
async def slots(cluster: Any, tmp_path: Path) -> AsyncIterator[Slots]:
    settings = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)
    await ensure_topics(settings, topics.fixed_topics(settings.slots, settings.partitions))
    async with RegistryClient.of(settings) as registry:
        await registry.register_all()
        codec = Codec(registry)
        await codec.open()
        made = Slots(settings, codec, tmp_path)
        await made.grants.start()
        yield made
        await made.end()


@pytest.mark.broker
async def test_a_token_refresh_frozen_before_its_post_on_a_broker(slots: Slots) -> None:
    """The same history where the fence is a broker's: the frozen owner is refused by the vendor, and again by Kafka.

    Its word that a person must log in never stands on the topic, and others go on with the successor's token (law 12).
    """
    frozen, woken, vendor = asyncio.Event(), asyncio.Event(), slots.vendor

    async def thaws(request: httpx.Request) -> httpx.Response:
        if not frozen.is_set():
            frozen.set()
            await woken.wait()
        return await vendor(request)

    slots.vendor = thaws  # type: ignore[assignment]
    older = await slots.run(slots.owner())
    await frozen.wait()
    await slots.run(slots.owner())
    token = await slots.token()
    woken.set()
    with pytest.RaisesGroup(Fenced):
        async with asyncio.timeout(PATIENCE_S):
            await older
    assert vendor.refreshed_with == ["refresh-0", "refresh-0"]
    *announced, last = await slots.states()  # more than one when a commit took long: each call is announced freshly
    assert (set(announced), last) == ({("REFRESHING", 0)}, ("ACTIVE", 1))
    assert (await slots.token()).access_token == token.access_token
