"""Do Kafka and the registry answer? A service with nothing to do would not notice that they are away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bus.core import topics
from bus.core.errors import BusError
from bus.runtime.health import HealthServer
from bus.runtime.reader import LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings

EVERY_S = 5.0


async def watch(settings: BusSettings, health: HealthServer) -> None:
    """Asks both every EVERY_S seconds and says in /readyz who does not answer. Ends by being cancelled."""
    reader = LogReader(settings, f"{health.service}-watch")
    try:
        async with RegistryClient.of(settings) as registry:
            while True:
                health.set("kafka", await refusal(lambda: reader.partitions(topics.SLOTS)))
                health.set("registry", await refusal(registry.health))
                await asyncio.sleep(EVERY_S)
    finally:
        await reader.close()


async def refusal(ask: Callable[[], Awaitable[Any]]) -> str | None:
    """Why there was no answer; None: there was one."""
    try:
        await ask()
    except BusError as error:
        return str(error)
    return None
