"""What a figure stands on: schemas and topics on the cluster of this run, and the bus's own parts on top."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from bus.core import topics
from bus.core.clock import Clock, SystemClock
from bus.kit.auth import StaticTokens, Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.connector import Connector
from bus.kit.registry import Context, load
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.provisioning import ensure_topics
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings, load_settings
from bus.simulation.simulator import InProcess

SYSTEM = "quickbooks"
TENANT = "bench"
SLOT = 0


@dataclass
class Bed:
    """The parts that pollers and sinks share."""

    settings: BusSettings
    codec: Codec
    privacy: Privacy
    clock: Clock


@asynccontextmanager
async def made(clock: Clock | None = None) -> AsyncIterator[Bed]:
    """Everything ready on the cluster that the environment names."""
    settings = load_settings()
    clock = clock or SystemClock()
    async with RegistryClient.of(settings) as registry:
        await registry.register_all()
        await ensure_topics(settings, topics.fixed_topics(settings.slots, settings.partitions))
        codec = Codec(registry)
        await codec.open()
        yield Bed(settings, codec, Privacy(MasterKey.load(settings), clock=clock), clock)


def connector(process: InProcess, transport: httpx.AsyncBaseTransport, clock: Clock, name: str) -> tuple[Connector, VendorClient]:
    """The connector of the bench's system over a transport; budgets are open."""
    loaded = load(SYSTEM)
    info = process.info
    tokens = process.simulator.tokens
    issued = tokens.refresh(tokens.grant().refresh_token)
    client = VendorClient(
        loaded.manifest,
        connection=name,
        base_url=info["base_url"],
        tokens=StaticTokens(Token(1, SecretStr(issued.access_token), issued.expires_at)),
        budgets=Budgets((), clock=clock),
        clock=clock,
        transport=transport,
    )
    config = loaded.config_class.model_validate(info["config"])
    return loaded.connector_class(Context(connection=name, config=config, client=client, clock=clock)), client
