"""The world of a scenario: that of the end-to-end tests, with what hurting it needs."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import load
from bus.core.errors import TransientError
from bus.core.topics import slot_of
from bus.runtime.books import Books
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.registry import RegistryClient
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems, secret_check
from services.demonstration.stage import SimulatorProcess, turned, write_configuration, write_secrets
from tests.clusters import RunningCluster
from tests.e2e.processes import ServiceProcess
from tests.e2e.waiting import until
from tests.e2e.world import SERVICES, START_BEFORE_DAYS, OwnBooks, World
from tests.faults.proxy import Proxy
from tests.faults.simulator import Arranged

TARGETS = 4
POLL_S = 5
BOOKS_TRIES_MAX = 5


class Bed(World):
    """A world whose services come back quickly, may stand behind proxies, and may be a broken build."""

    def __init__(
        self,
        cluster: RunningCluster,
        folder: Path,
        name: str,
        *,
        bootstrap: str = "",
        call_timeout_s: float = 5.0,
        settle_s: int = 3,
        broken: str = "",
    ) -> None:
        super().__init__(cluster, folder, name)
        self._bootstrap = bootstrap or cluster.bootstrap
        self._arranged: dict[str, int | float | str] = {"call_timeout": call_timeout_s, "settle": settle_s}
        if broken:
            self._arranged["broken"] = broken
        self._call_over_s = int(10 + 2 * call_timeout_s) + 2
        self._through: Mapping[str, Proxy] = {}
        self._deaths = 0

    # --- up ----------------------------------------------------------------------------------------------------------------

    def stand_behind(self, proxies: Mapping[str, Proxy]) -> None:
        """Before `open`: calls to these connections' vendors go through proxies."""
        self._through = proxies

    async def _apply(self, documents: list[dict[str, Any]], infos: Mapping[str, Mapping[str, Any]], poll_s: int) -> None:
        """As the world does, with vendors behind their proxies."""
        turned = {}
        for name, info in infos.items():
            proxy = self._through.get(name)
            if proxy is not None:
                proxy.turn_to(urlsplit(info["base_url"]).port or 80)
                address = {key: _through(info[key], proxy) for key in ("base_url", "token_url")}
                info = {**info, **address}
            turned[name] = info
        await super()._apply(documents, turned, poll_s)

    def launch(self, *services: str, instance: int = 0, **arranged: Any) -> list[ServiceProcess]:
        """Starts one process of each service. The name of a process outlives it: its successor takes its slots at once."""
        started = []
        for service in services or SERVICES:
            log = self.folder / f"{len(self.processes):03}-{service}.jsonl"
            environment = {
                "BUS_KAFKA_BOOTSTRAP": self._bootstrap,
                "BUS_REGISTRY_URL": self.settings.registry_url,
                "BUS_DATA_DIR": str(self.folder),
                "BUS_SECRETS_DIR": str(self.settings.secrets_dir),
                "BUS_MASTER_KEY_FILE": str(self.settings.master_key_file),
                "BUS_HTTP_PORT": "0",
                "BUS_INSTANCE": f"{service}-{instance}",
            }
            process = ServiceProcess(service, log, environment, **{**self._arranged, **arranged})
            self.processes.append(process)
            started.append(process)
        return started

    def succeed(self, service: str, *, instance: int = 0, **arranged: Any) -> ServiceProcess:
        """A successor of a killed process, on a machine whose clock is further on: no call of the dead one can be under way."""
        if service == "sinks":
            self._deaths += 1
            arranged.setdefault("boot_later", self._call_over_s * self._deaths)
        return self.launch(service, instance=instance, **arranged)[0]

    async def owns(self, process: ServiceProcess, seconds: float = 60) -> None:
        """Waits until a process has taken over the slots of both connections (or has ended)."""
        wanted = set(self.slots())

        def has() -> bool:
            return process.code is not None or wanted <= {line["slot"] for line in process.said("slot is owned")}

        await until(has, seconds, f"{process.service} owns its slots")

    def slots(self) -> list[int]:
        """Slots of the two connections."""
        return [slot_of(name, self.settings.slots) for name in self.connections]

    async def ready(self, *services: str, seconds: float = 90) -> None:
        """Waits until the newest process of each service says it is ready."""
        for service in services or SERVICES:
            await until(self.running(service).is_ready, seconds, f"{service} is ready")

    def ended(self) -> list[str]:
        """What ended by itself, and not as it was arranged."""
        return [
            f"{process.service} with {process.code}: see {process.log}"
            for process in self.processes
            if process.code is not None and not (process.is_doomed and process.code <= 0)
        ]

    def _fail_if_ended(self) -> None:
        assert not self.ended(), f"ended by itself: {', '.join(self.ended())}"

    async def restart(self, service: str, *, instance: int = 0, **arranged: Any) -> ServiceProcess:
        """SIGTERM, a wait for the end, and a successor."""
        old = self.running(service)
        old.end()
        await asyncio.to_thread(old.gone)
        return self.launch(service, instance=instance, **arranged)[0]

    async def books(self) -> Books:
        """As the world reads them; a broker that has just come back is asked again."""
        for _ in range(BOOKS_TRIES_MAX):
            try:
                return await super().books()
            except TransientError:
                await asyncio.sleep(1)
        return await super().books()


class ManyAccounts(Bed):
    """One Exact account as source, and four QuickBooks accounts, each in a slot of its own, as targets."""

    target_names: list[str]
    targets: list[SimulatorProcess]

    async def open(  # type: ignore[override]
        self, flows: Sequence[str], *, real_limits: bool = False, when: Mapping[str, str] | None = None
    ) -> None:
        """As the world does; every flow goes to each target. `when` are filters by flow."""
        self.target_names = names_in_slots(self.qbo_name, TARGETS, self.settings.slots)
        self.connections = (self.exact_name, *self.target_names)  # type: ignore[assignment]
        self.exact = await SimulatorProcess.start(
            "exact_online", orders=0, seed=7, real_limits=False, log=self.folder / "exact.log"
        )
        self.targets = [
            await Arranged.launch(
                "quickbooks", log=self.folder / f"{name}.log", realm=str(9000 + number), real_limits=real_limits
            )
            for number, name in enumerate(self.target_names)
        ]
        self.qbo = self.targets[0]
        self._registry = RegistryClient.of(self.settings)
        await self._registry.register_all()
        await ensure_topics(self.settings, topics.fixed_topics(self.settings.slots, self.settings.partitions))
        self.codec = Codec(self._registry)
        await self.codec.open()
        self._books = OwnBooks(self.settings, self.codec, self.connections)
        infos = {self.exact_name: self.exact.info} | {n: t.info for n, t in zip(self.target_names, self.targets, strict=True)}
        await self._apply(self._to_each(flows, {self.flow(name): text for name, text in (when or {}).items()}), infos, POLL_S)

    async def _apply(self, documents: list[dict[str, Any]], infos: Mapping[str, Mapping[str, Any]], poll_s: int) -> None:
        """As the world does, but the targets keep the limits of their manifest."""
        assert self.settings.secrets_dir is not None
        write_secrets(self.settings.secrets_dir, documents, infos)
        found = turned(documents, infos, date.today() - timedelta(days=START_BEFORE_DAYS), poll_s, real_limits=False)
        for document in found:
            if document.get("name") in self.target_names:
                document.pop("quotas", None)
        path = write_configuration(self.folder / "configuration", found)
        report = validate(load(path), installed_systems(), secret_check(self.settings))
        assert not report.problems, "\n".join(map(str, report.problems))
        self.configuration = report.configuration
        applied = await apply(self.settings, self.codec, report.configuration, SystemClock(), allow_remove=True)
        self.version = applied.version

    def _to_each(self, flows: Sequence[str], when: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for document in self._documents(flows, {}):
            if document.get("name") == self.qbo_name:
                found += [{**document, "name": name, "secret": name} for name in self.target_names]
            elif document["kind"] == "Flow":
                if document["name"] in when:
                    document["when"] = when[document["name"]]
                found += [
                    {**document, "name": f"{document['name']}-{number}", "to": {**document["to"], "connection": name}}
                    for number, name in enumerate(self.target_names)
                ]
            else:
                found.append(document)
        return found

    async def close(self) -> None:
        """Ends the further targets too."""
        await super().close()
        for target in getattr(self, "targets", [])[1:]:
            await target.stop()


def names_in_slots(stem: str, count: int, slots: int) -> list[str]:
    """Names whose slots differ, so that each may have a process of its own."""
    found: dict[int, str] = {}
    for number in range(1_000):
        name = f"{stem}-{number}"
        found.setdefault(slot_of(name, slots), name)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("there are fewer slots than names")


def _through(url: str, proxy: Proxy) -> str:
    return urlunsplit(urlsplit(url)._replace(netloc=proxy.address))
