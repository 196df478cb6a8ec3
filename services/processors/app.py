"""Composition root of the processors.

Order of the start: 1. schemas; 2. Kafka and its topics; 3. configuration, to its end; 4. only then the consumer group (law 19).
"""

import asyncio
import logging
import time

from bus.core import topics
from bus.runtime import metrics, reachability, service
from bus.runtime.codec import Codec
from bus.runtime.follow import ConfigFollower
from bus.runtime.registry import RegistryClient
from bus.runtime.service import Service
from services.processors.engine.application import Engine, build_engine
from services.processors.engine.watch import Watch
from services.processors.handler import STAGE, TOPICS
from services.processors.processing import Processing

LAG_EVERY_S = 5.0
STUCK_S = 300.0
"""An engine that moves nothing for so long is ended and starts anew; readiness tells much sooner."""

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
    for topic in (topics.CONFIG, topics.DEAD_LETTERS, *TOPICS):  # 2
        await here.broker(topic)
    processing = Processing(codec, here.wait_for)
    follower = ConfigFollower(here.settings, codec, processing.take)
    processing.versions = follower
    here.health.watch("configuration", lambda: follower.reason)
    await follower.start()  # 3
    try:
        await _process(here, processing, follower)
    finally:
        await follower.stop()


async def _process(here: Service, processing: Processing, follower: ConfigFollower) -> None:
    engine = build_engine(here.settings, TOPICS, processing)
    watch = Watch(time.monotonic)
    await engine.start()  # 4
    here.health.watch("engine", lambda: watch.reason(engine.progress()))
    here.health.started()
    try:
        await here.until_stopped(
            engine.stopped(), follower.failure(), _report(engine), _moves(engine), reachability.watch(here.settings, here.health)
        )
    finally:
        await engine.stop()


async def _moves(engine: Engine) -> None:
    """Raises when nothing moves for STUCK_S: whoever keeps the process running starts it anew."""
    watch = Watch(time.monotonic, stall_s=STUCK_S, fetch_age_s=STUCK_S)
    while (reason := watch.reason(engine.progress())) is None:
        await asyncio.sleep(LAG_EVERY_S)
    raise RuntimeError(f"the engine is stuck: {reason}")


async def _report(engine: Engine) -> None:
    while True:
        for (topic, partition), lag in engine.lags().items():
            metrics.put("bus_processor_lag", lag, topic=topic, partition=str(partition))
        await asyncio.sleep(LAG_EVERY_S)
