"""All services on one machine, as one supervised process tree (`bus up`)."""

import asyncio
import hashlib
import logging
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bus.core.errors import SettingsError
from bus.core.topics import fixed_topics
from bus.embedded import Cluster
from bus.embedded.artifacts import Progress
from bus.runtime.privacy import MasterKey
from bus.runtime.provisioning import ensure_topics
from bus.runtime.registry import RegistryClient
from bus.runtime.running import Notice, announce
from bus.runtime.settings import BusSettings, load_settings
from bus.runtime.supervisor import Child, Supervisor, python

log = logging.getLogger(__name__)

SERVICES = ("grants", "pollers", "processors", "sinks")


class Node:
    """The embedded cluster, unless one of one's own is named, and the services."""

    def __init__(
        self,
        settings: BusSettings,
        *,
        only: Sequence[str] = SERVICES,
        kafka_port: int = 19092,
        registry_port: int = 18081,
        environment: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        logs: Path | None = None,
    ) -> None:
        MasterKey.load(settings)  # no service starts without one: say so before anything else does
        if not settings.kafka_bootstrap:
            _require_folder(settings.data_dir)
        self._settings = settings
        self._only = only
        self._logs = logs
        self._environment = dict(environment or {})
        self.cluster: Cluster | None = None
        if not settings.kafka_bootstrap:
            self.cluster = Cluster(settings.data_dir, kafka_port=kafka_port, registry_port=registry_port, progress=progress)
        self.supervisor: Supervisor | None = None
        self._notice: Notice | None = None

    @property
    def settings(self) -> BusSettings:
        """Settings that name the cluster in use."""
        return self._settings.model_copy(update=self._addresses("kafka_bootstrap", "registry_url"))

    def _addresses(self, kafka: str, registry: str) -> dict[str, str]:
        if self.cluster is None:
            return {}
        return {kafka: self.cluster.bootstrap, registry: self.cluster.registry_url}

    async def start(self) -> None:
        """Steps: 1 cluster; 2 schemas; 3 topics; 4 the data folder says where. The services come with `run`."""
        if self.cluster is not None:
            await _start(self.cluster)  # 1
            log.info("cluster is ready", extra={"kafka": self.cluster.bootstrap, "registry": self.cluster.registry_url})
        async with RegistryClient.of(self.settings) as registry:
            await registry.register_all()  # 2
        await ensure_topics(self.settings, fixed_topics(self.settings.slots, self.settings.partitions))  # 3
        if self.cluster is not None:
            self._notice = announce(self.settings.data_dir, self.cluster.bootstrap, self.cluster.registry_url)  # 4

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until told to stop, then ends the cluster."""
        try:
            await self.serve(stop)
        finally:
            await self.close()

    async def serve(self, stop: asyncio.Event) -> None:
        """Runs the services until told to stop, then drains them; the cluster goes on."""
        place = {"BUS_INSTANCE": self._settings.instance or _place(self._settings.data_dir)}
        environment = {**place, **self._environment, **self._addresses("BUS_KAFKA_BOOTSTRAP", "BUS_REGISTRY_URL")}
        children: list[Child] = [python(name, f"services.{name}", environment) for name in self._only]
        self.supervisor = Supervisor(children, logs=self._logs)
        await self.supervisor.run(stop)

    async def close(self) -> None:
        """Ends the embedded cluster; its data stays."""
        if self._notice is not None:
            self._notice.withdraw()
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.stop)


def _place(data_dir: Path) -> str:
    """A name that lasts for the services of one data folder on one machine."""
    return f"{socket.gethostname()}-{hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()[:8]}"


def _require_folder(data_dir: Path) -> None:
    """Makes the data folder. Raises SettingsError where that cannot be, or nothing can be written into it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise SettingsError(
            f"data folder {data_dir.absolute()} cannot be used ({error.strerror}): name another with --data-dir or BUS_DATA_DIR"
        ) from None


async def _start(cluster: Cluster) -> None:
    """Starts a cluster; cancelled, it returns when nothing is left of the start."""
    starting = asyncio.ensure_future(asyncio.to_thread(cluster.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        cluster.give_up()
        await asyncio.gather(starting, return_exceptions=True)
        raise


def node_settings(data_dir: Path | None) -> BusSettings:
    """The process's settings, with another data folder where one is given."""
    settings = load_settings()
    return settings.model_copy(update={"data_dir": data_dir}) if data_dir is not None else settings
