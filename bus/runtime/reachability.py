"""Do Kafka and the registry answer? A service with nothing to do would not notice that they are away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from confluent_kafka import KafkaException

from bus.core import topics
from bus.core.errors import BrokerUnreachable, BusError, TransientError
from bus.runtime import kafka
from bus.runtime.health import HealthServer
from bus.runtime.reader import LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings

EVERY_S = 5.0
COMMAND_S = 5.0
"""How long a command waits for each of them; a service waits for ever."""


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


async def require_answers(settings: BusSettings, registry: RegistryClient) -> None:
    """Returns when both answer, soon. Raises BrokerUnreachable that names the address and the variable, SettingsError."""

    def ask_kafka() -> None:
        try:
            kafka.admin(settings).list_topics(timeout=COMMAND_S)
        except KafkaException as error:
            raise kafka.translate(error, "asking Kafka") from error

    await _answer(asyncio.to_thread(ask_kafka), f"Kafka at {settings.kafka_bootstrap}", "BUS_KAFKA_BOOTSTRAP")
    await _answer(registry.health(), f"the registry at {settings.registry_url}", "BUS_REGISTRY_URL")


async def _answer(asked: Awaitable[None], place: str, variable: str) -> None:
    try:
        await asyncio.wait_for(asked, COMMAND_S + 1)
    except (TransientError, TimeoutError):
        raise BrokerUnreachable(
            f"{place} does not answer: check {variable} and that it runs, "
            "or unset BUS_KAFKA_BOOTSTRAP: then the bus on BUS_DATA_DIR is asked"
        ) from None


async def refusal(ask: Callable[[], Awaitable[Any]]) -> str | None:
    """Why there was no answer; None: there was one."""
    try:
        await ask()
    except BusError as error:
        return str(error)
    return None
