"""How every service begins and ends: settings, logs, health, signals, drain, exit code."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from bus.core.clock import Clock, SystemClock
from bus.core.errors import BusError, FatalError, TransientError
from bus.runtime import logs, metrics, supervisor
from bus.runtime.codec import Codec
from bus.runtime.health import HealthServer
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.reader import LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings, load_settings
from bus.runtime.watchdog import WATCHDOG

DRAIN_S = 15.0
"""How long a service may take to end after SIGTERM."""
RETRY_S = 1.0

log = logging.getLogger(__name__)


class Service:
    """What the composition root of a service is given."""

    def __init__(self, name: str, settings: BusSettings, *, clock: Clock | None = None) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock or SystemClock()
        self.stop = asyncio.Event()
        """Set on SIGTERM and Ctrl-C: finish what is in hand, begin nothing."""
        self.health = HealthServer(settings, name)

    async def codec(self) -> Codec:
        """A codec with the ids of this release; waits for the registry and says so in /readyz.

        Raises SettingsError when schemas are not registered.
        """
        codec = Codec(RegistryClient.of(self.settings))
        await self.wait_for("registry", codec.open)
        return codec

    def privacy(self) -> tuple[MasterKey, Privacy]:
        """The master key and an empty Privacy. Raises SettingsError without a key: no service runs without one."""
        master = MasterKey.load(self.settings)
        return master, Privacy(master, clock=self.clock)

    async def broker(self, topic: str) -> None:
        """Returns when Kafka answers and a topic exists; says so in /readyz until then."""
        reader = LogReader(self.settings, f"{self.name}-start")
        try:
            await self.wait_for("kafka", lambda: reader.partitions(topic))
        finally:
            await reader.close()

    async def wait_for(self, part: str, attempt: Callable[[], Awaitable[Any]]) -> None:
        """Repeats an attempt while it fails for a passing reason. Other errors go through."""
        while True:
            try:
                await attempt()
            except TransientError as error:
                self.health.set(part, str(error))
                log.warning("waiting", extra={"part": part, "reason": str(error)})
                await asyncio.sleep(error.retry_after_s or RETRY_S)
            else:
                self.health.clear(part)
                return

    async def until_stopped(self, *failures: Awaitable[None]) -> None:
        """Returns when the service is told to stop; raises what the first of `failures` raises."""
        tasks = [asyncio.ensure_future(work) for work in (self.stop.wait(), *failures)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


Main: TypeAlias = Callable[[Service], Coroutine[Any, Any, None]]


def run(name: str, main: Main) -> None:
    """Runs a service and ends the process with its exit code: 0, 78 for settings, 1 for anything else fatal.

    1. settings; 2. logs; 3. orphan guard and watchdog; 4. health; 5. `main` until it returns; on the first signal `service.stop`
    is set, after DRAIN_S or on a second signal it is cancelled.
    """
    try:
        settings = load_settings()  # 1
        settings.require_cluster()
    except FatalError as error:
        logs.configure(name)
        log.critical(str(error))
        sys.exit(error.exit_code)
    logs.configure(name, settings.log_level)  # 2
    for secret in (settings.kafka_sasl_password, settings.kafka_key_password, settings.registry_password, settings.master_key):
        if secret is not None:
            logs.redact_value(secret)
    supervisor.guard()  # 3
    WATCHDOG.guard()
    sys.exit(asyncio.run(_run(Service(name, settings), main)))


async def _run(service: Service, main: Main) -> int:
    try:
        await service.health.start()  # 4
        log.info("started", extra={"http_port": service.health.port})
        await _until_drained(service, main)  # 5
    except FatalError as error:
        log.critical(str(error))
        return error.exit_code
    except BusError:
        log.exception("ended by an error that nobody handled")
        return 1
    except Exception:
        log.exception("ended by a bug")
        return 1
    finally:
        metrics.put("bus_ready", 0, service=service.name)
        await service.health.stop()
    log.info("ended")
    return 0


async def _until_drained(service: Service, main: Main) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main(service))
    beating = asyncio.ensure_future(WATCHDOG.beat())

    def on_signal() -> None:
        if service.stop.is_set():
            task.cancel()
            return
        log.info("draining")
        service.health.set("stop", "draining")
        service.stop.set()
        loop.call_later(DRAIN_S, task.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await task
    except asyncio.CancelledError:
        if not service.stop.is_set():
            raise
        log.error("the drain took longer than %s s: what is open is resolved at the next start", DRAIN_S)
    finally:
        beating.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
