"""People's part of a vendor's limits on a real group: one command at a time, whoever came first."""

import asyncio
import contextlib
import time
import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer

from bus.core import topics
from bus.core.errors import BusError, RecordError
from bus.runtime import turns
from bus.runtime.provisioning import ensure_topics
from bus.runtime.settings import BusSettings
from bus.runtime.turns import in_turn
from schemas.system import Cause

pytestmark = pytest.mark.broker

LONG_S = 60


@pytest.fixture
async def settings(cluster: Any) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)


@pytest.fixture
async def names(settings: BusSettings) -> tuple[str, str]:
    first, second = (f"{end}-{uuid.uuid4().hex[:8]}" for end in ("a", "b"))
    await ensure_topics(settings, [topics.outbound_topic(name) for name in (first, second)])
    return first, second


class Command:
    """Work that says when it began, and ends when it is told to."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.end = asyncio.Event()
        self.told: list[str] = []

    async def work(self) -> str:
        self.began.set()
        await self.end.wait()
        return "worked"

    def run(self, settings: BusSettings, *connections: str) -> asyncio.Task[str]:
        return asyncio.create_task(in_turn(settings, connections, self.work, self.told.append))

    async def begins(self) -> None:
        async with asyncio.timeout(LONG_S):
            await self.began.wait()


async def test_a_second_command_waits_says_so_and_follows(
    settings: BusSettings, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 3.0)
    first, second = Command(), Command()
    running = first.run(settings, *names)
    await first.begins()
    waiting = second.run(settings, *reversed(names))
    async with asyncio.timeout(LONG_S):
        while not second.told:
            await asyncio.sleep(0.1)
    assert names[0] in second.told[0]
    assert not second.began.is_set()
    first.end.set()
    assert await running == "worked"
    await second.begins()
    second.end.set()
    assert await waiting == "worked"


async def test_other_connections_need_not_wait(settings: BusSettings, names: tuple[str, str]) -> None:
    first, second = Command(), Command()
    running = first.run(settings, names[0]), second.run(settings, names[1])
    await first.begins()
    await second.begins()
    first.end.set()
    second.end.set()
    assert await asyncio.gather(*running) == ["worked", "worked"]


async def test_a_turn_ends_with_work_that_fails(settings: BusSettings, names: tuple[str, str]) -> None:
    async def fails() -> None:
        raise RecordError("no", cause=Cause.MAPPING_ERROR, hint="")

    with pytest.raises(RecordError):
        await in_turn(settings, names, fails, lambda _text: None)
    after = Command()
    after.end.set()
    assert await after.run(settings, *names) == "worked"


async def test_who_is_interrupted_gives_the_turn_back(settings: BusSettings, names: tuple[str, str]) -> None:
    first, second = Command(), Command()
    running = first.run(settings, *names)
    await first.begins()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    second.end.set()
    assert await second.run(settings, *names) == "worked"


async def test_work_ends_when_its_turn_is_lost(
    settings: BusSettings, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command()

    class Hangs(Consumer):
        """Does not poll for longer than the group waits, once it has its turn."""

        def poll(self, seconds: float) -> Any:
            if command.began.is_set() and not command.told:
                command.told.append("hung")
                time.sleep(8)
            return super().poll(seconds)

    limits = {"session.timeout.ms": 6_000, "max.poll.interval.ms": 6_000}
    monkeypatch.setattr(turns, "Consumer", lambda config: Hangs(config | limits))
    monkeypatch.setattr(turns, "PATIENCE_S", LONG_S)
    with pytest.raises(BusError, match=f"turn to call {names[0]}"):
        await command.run(settings, names[0])
    assert command.began.is_set()
