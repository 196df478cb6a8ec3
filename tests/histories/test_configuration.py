"""Histories of configurations: what was applied while others still knew the old one."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from bus.core import topics
from bus.core.configuration import ConfigurationRefused, parse
from bus.core.configuration.difference import difference
from bus.core.errors import SettingsError
from bus.runtime import publication
from bus.runtime.codec import Codec
from bus.runtime.follow import ConfigFollower, Documents
from bus.runtime.jobs import ENDED
from bus.runtime.provisioning import ensure_topics
from bus.runtime.registry import RegistryClient
from bus.runtime.service import Service
from bus.runtime.settings import BusSettings
from schemas.system import JobState, StateRecord
from services.processors.app import serve
from services.processors.engine.application import Engine, build_engine
from services.processors.handler import TOPICS
from services.processors.processing import Processing
from services.processors.reporting import Reporter
from tests.fakes import company
from tests.integration.test_replay import PATIENCE_S, Bench
from tests.unit.sinks.world import PEER, World

TEXT = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop, config: {realm: "1"}}
--- {kind: Connection, name: target, tenant: acme, system: some_ledger, secret: target, config: {division: 2}}
--- {kind: Flow, name: f, from: {connection: shop, entity: customer}, to: {connection: target, entity: customer},
     start: {existing: send}, write: upsert}
"""


async def test_a_connection_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection got another name; its links went by the old one, so every object was new and was made a second time.

    State goes by the name: a connection that has state is neither renamed nor removed without a person's word (law 19).
    """
    world = World()
    world.backfilled()
    world.command(company())
    await world.live()

    async def has_state(_: Any, connection: str) -> bool:
        records = [world.codec.decode("", record.value) for record in world.log.topic(topics.STATE)]
        links = [record.link for record in records if isinstance(record, StateRecord) and record.link is not None]
        return any(link.source.connection == connection for link in links)

    monkeypatch.setattr(publication, "has_state", has_state)
    assert PEER == "shop"
    published, wanted = parse(TEXT).accepted(), parse(TEXT.replace("name: shop", "name: store").replace(": shop,", ": store,"))
    changes = difference(published, wanted.accepted())
    with pytest.raises(ConfigurationRefused, match="seems renamed to 'store'"):
        await publication._refuse_orphans(BusSettings(), changes, published, wanted.accepted())
    without = parse("---".join(part for part in TEXT.split("---") if "Connection, name: target" in part)).accepted()
    with pytest.raises(ConfigurationRefused, match="has state"):
        await publication._refuse_orphans(BusSettings(), difference(published, without), published, without)
    world.command(company())  # under the name it always had
    await world.live()
    assert len(world.vendor.objects["customer"]) == 1


# --- on a broker ---------------------------------------------------------------------------------------------------------------


class Late:
    """A processor in the real group that hears of a new configuration only when it is told."""

    def __init__(self, settings: BusSettings, codec: Codec, here: Service) -> None:
        self._processing = Processing(codec, here.wait_for)
        self._told = Documents()
        self._follower = ConfigFollower(settings, codec, self._heard)
        self._processing.versions = self  # type: ignore[assignment]
        self.engine: Engine = build_engine(settings, TOPICS, self._processing, on_assigned=self._processing.assigned)
        self._reporter = Reporter(settings, self.engine.client_id, lambda: self._processing.routes.version, self.engine.held)
        self._reporting: asyncio.Task[None] | None = None

    async def _heard(self, documents: Documents) -> None:
        self._told = documents

    async def refresh(self) -> None:
        """Its configuration is what it was at its start."""

    async def hear(self) -> None:
        """The newest configuration reaches it."""
        await self._follower.refresh()
        await self._processing.take(self._told)
        self._reporter.wake()

    async def start(self) -> None:
        await self._follower.start()
        await self.hear()
        await self.engine.start()
        self._reporting = asyncio.ensure_future(self._reporter.run())

    async def stop(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        await self._reporter.close()
        await self.engine.stop()
        await self._follower.stop()


@pytest.fixture
async def settings(cluster: Any, tmp_path: Path) -> BusSettings:
    found = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, data_dir=tmp_path, http_port=0)
    async with RegistryClient.of(found) as registry:
        try:
            await registry.ids()
        except SettingsError:
            await registry.register_all()
    await ensure_topics(found, topics.fixed_topics(found.slots, found.partitions))
    return found


@contextlib.asynccontextmanager
async def running(settings: BusSettings) -> Any:
    """A processors' process as it is shipped, replays included."""
    service = Service("processors", settings)
    task = asyncio.ensure_future(serve(service))
    try:
        yield
    finally:
        service.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await task


@pytest.mark.broker
async def test_a_flow_is_added_while_a_processor_still_has_the_old_configuration(settings: BusSettings) -> None:
    """The new flow's replay ended at once; events behind its end were mapped by a processor that did not know the flow yet, and
    reached it never.

    The replay's ends are taken after every partition's present owner has reported the configuration (laws 18 and 19).
    """
    async with RegistryClient.of(settings) as registry:
        codec = Codec(registry)
        await codec.open()
        bench = Bench(settings, codec)
        await bench.apply("one")
        late = Late(settings, codec, Service("processors", settings))
        await late.start()
        try:
            async with running(settings):
                await both_hold(late, settings.partitions)
                await bench.publish(*(bench.customer(number) for number in range(30)))
                await bench.until_commands(30)
                applied = await bench.apply("one", "two")
                [asked] = applied.replays

                async def is_met() -> bool:
                    job = await bench.job(asked.id)
                    return job is not None and (job.state in ENDED or "processors to report" in (job.detail or ""))

                await bench.until(is_met)
                await bench.publish(*(bench.customer(number) for number in range(30, 60)))

                async def mapped() -> bool:
                    return await of_flow(bench, "one") == set(range(60))

                await bench.until(mapped)  # some of them by the late one, for the old flow alone
                await late.hear()
                assert (await bench.ended(asked.id)).state is JobState.DONE
                await bench.publish(bench.customer(60))
                async with asyncio.timeout(PATIENCE_S):
                    while 60 not in await of_flow(bench, "two"):
                        await asyncio.sleep(0.2)
                assert set(range(61)) - await of_flow(bench, "two") == set()
        finally:
            await late.stop()


async def of_flow(bench: Bench, flow: str) -> set[int]:
    """Source ids of a flow's commands."""
    return {int(command.source.id) for command in await bench.commands() if command.flow == f"{bench.name}-{flow}"}


async def both_hold(late: Late, partitions: int) -> None:
    """Returns when the partitions are shared between the late processor and the other one."""
    customers = topics.canonical("customer")
    async with asyncio.timeout(PATIENCE_S):
        while not 0 < sum(topic == customers for topic, _ in late.engine.held()) < partitions:
            await asyncio.sleep(0.2)
