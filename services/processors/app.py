"""Composition root of the processors.

Order of the start: 1. schemas; 2. Kafka and its topics; 3. configuration, to its end; 4. only then the consumer group (law 19);
5. replays, which are slots of their own in the same process.
"""

import asyncio
import logging
import time

from bus.core import topics
from bus.runtime import metrics, reachability, service
from bus.runtime.codec import Codec
from bus.runtime.follow import ConfigFollower, Documents
from bus.runtime.health import HealthServer
from bus.runtime.registry import RegistryClient
from bus.runtime.service import Service
from bus.runtime.slotwork import SlotWorker
from services.processors.engine.application import GROUP, Engine, build_engine
from services.processors.engine.watch import ENGINE, Stuck, Watch
from services.processors.handler import STAGE, TOPICS
from services.processors.processing import Processing
from services.processors.replaying.worker import SERVICE, ReplayAround, ReplaySlot
from services.processors.reporting import Reporter, Reports

LAG_EVERY_S = 5.0

log = logging.getLogger(__name__)


def main() -> None:
    """Runs the service until a signal."""
    service.run(STAGE, serve)


async def serve(here: Service) -> None:
    """Runs until `here.stop` is set; what crashed the engine is raised."""
    async with RegistryClient.of(here.settings) as registry:
        codec = Codec(registry)
        await here.wait_for("registry", codec.open)  # 1
        await _serve(here, codec)


async def _serve(here: Service, codec: Codec) -> None:
    for topic in (topics.CONFIG, topics.DEAD_LETTERS, topics.SLOTS, topics.JOBS, topics.REQUESTS, *TOPICS):  # 2
        await here.broker(topic)
    processors = Processors(here, codec)
    here.health.watch("configuration", lambda: processors.follower.reason)
    await processors.follower.start()  # 3
    try:
        await processors.run()
    finally:
        await processors.follower.stop()


class Processors:
    """The parts of one process, put together."""

    def __init__(self, here: Service, codec: Codec) -> None:
        self._here = here
        self._processing = Processing(codec, here.wait_for)
        self.follower = ConfigFollower(here.settings, codec, self._configured)
        self._processing.versions = self.follower
        self._replays = ReplayAround(here.settings, codec, self._processing, self.follower, Reports(here.settings, GROUP))
        self._engine = build_engine(here.settings, TOPICS, self._processing, on_assigned=self._assigned)
        self._reporter = Reporter(
            here.settings, self._engine.client_id, lambda: self._processing.routes.version, self._engine.held
        )

    async def _configured(self, documents: Documents) -> None:
        await self._processing.take(documents)
        self._reporter.wake()
        await self._replays.changed(documents)

    def _assigned(self) -> None:
        self._processing.assigned()
        self._reporter.wake()

    async def run(self) -> None:
        """Until the service is told to stop; what crashed a part is raised."""
        here, engine, watch = self._here, self._engine, Watch(time.monotonic)
        await engine.start()  # 4
        here.health.watch(ENGINE, lambda: watch.reason(engine.progress()))
        worker = SlotWorker(here, self._replays, ReplaySlot, name=SERVICE)
        await worker.ownership.start()  # 5
        here.health.watch(SERVICE, worker.not_ready)
        here.health.started()
        background = [asyncio.ensure_future(work) for work in (_report(engine), _moves(here.health), self._reporter.run())]
        try:
            await here.until_stopped(
                engine.stopped(), self.follower.failure(), worker.failure(), worker.ownership.failure(), *background,
                reachability.watch(here.settings, here.health),
            )  # fmt: skip
        finally:
            for task in background:
                task.cancel()
            await worker.ownership.stop()
            await self._reporter.close()
            await engine.stop()


async def _moves(health: HealthServer) -> None:
    """Raises when the engine is stuck: whoever keeps the process running starts it anew."""
    stuck = Stuck(time.monotonic)
    while (reason := stuck.reason(health.reasons())) is None:
        await asyncio.sleep(LAG_EVERY_S)
    raise RuntimeError(f"the engine is stuck: {reason}")


async def _report(engine: Engine) -> None:
    while True:
        for (topic, partition), lag in engine.lags().items():
            metrics.put("bus_processor_lag", lag, topic=topic, partition=str(partition))
        await asyncio.sleep(LAG_EVERY_S)
