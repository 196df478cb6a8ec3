"""Two simulated systems, the example configuration between them, and services that a test may kill.

A world stands on the session's cluster: topics are shared, so its connections, flows and tenant have names of their own and it
looks only at what bears them.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import load
from bus.runtime.books import BookReader, Books
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.reader import Record
from bus.runtime.registry import RegistryClient
from bus.runtime.requests import poll_now
from bus.runtime.settings import BusSettings
from bus.runtime.tail import read_all, read_raw
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems, secret_check
from schemas.system import CursorRecord, StateRecord
from services.demonstration.stage import SimulatorProcess, read_documents, systems_of, turned, write_configuration, write_secrets
from tests.clusters import RunningCluster
from tests.e2e.processes import ROOT, ServiceProcess
from tests.e2e.waiting import until

EXAMPLE = ROOT / "examples" / "quickbooks-exact"
SERVICES = ("grants", "pollers", "processors", "sinks")
START_BEFORE_DAYS = 14
LOOKS = 3
QUIET_S = 180.0
NEVER_S = 86_400
"""A poll interval for worlds that poll by request only."""


class OwnBooks(BookReader):
    """The books of some connections: what other tests left in shared topics is not this world's business."""

    def __init__(self, settings: BusSettings, codec: Codec, connections: Iterable[str]) -> None:
        super().__init__(settings, codec)
        self._own = frozenset(connections)

    async def _take(self, record: Record) -> None:
        place = 1 if record.topic == topics.STATE else 0
        if topics.split_key(record.key.decode())[place] in self._own:
            await super()._take(record)

    def cursors(self) -> list[CursorRecord]:
        """As of the last look."""
        return list(self._notes.cursors())


class World:
    """Everything one test needs. `settle` brings it up; the fixture takes it down."""

    def __init__(self, cluster: RunningCluster, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        self.exact_name, self.qbo_name = f"exact-{name}", f"qbo-{name}"
        self.connections = (self.exact_name, self.qbo_name)
        self.exact: SimulatorProcess
        self.qbo: SimulatorProcess
        self.codec: Codec
        self.processes: list[ServiceProcess] = []
        key = folder / "master.key"
        key.write_text(MasterKey.generate())
        self.settings = BusSettings(
            kafka_bootstrap=cluster.bootstrap,
            registry_url=cluster.registry_url,
            data_dir=folder,
            secrets_dir=folder / "secrets",
            master_key_file=key,
            http_port=0,
        )
        self._registry: RegistryClient
        self._books: OwnBooks

    # --- up and down -------------------------------------------------------------------------------------------------------

    async def open(
        self, flows: Sequence[str], *, orders: int = 0, poll_s: int = 1, existing: Mapping[str, str] | None = None
    ) -> None:
        """Simulators, schemas, topics, configuration: everything but the services.

        `flows` are names of the example; `existing` overrides their `start.existing`.
        """
        systems = {self._renamed(name): system for name, system in systems_of(read_documents(EXAMPLE)).items()}
        started = await asyncio.gather(
            *(
                SimulatorProcess.start(system, orders=orders, seed=7, real_limits=False, log=self.folder / f"{name}.log")
                for name, system in systems.items()
            )
        )
        simulators = dict(zip(systems, started, strict=True))
        self.exact, self.qbo = simulators[self.exact_name], simulators[self.qbo_name]
        self._registry = RegistryClient.of(self.settings)
        await self._registry.register_all()
        await ensure_topics(self.settings, topics.fixed_topics(self.settings.slots, self.settings.partitions))
        self.codec = Codec(self._registry)
        await self.codec.open()
        self._books = OwnBooks(self.settings, self.codec, self.connections)
        await self._apply(self._documents(flows, existing or {}), {name: item.info for name, item in simulators.items()}, poll_s)

    def _renamed(self, name: str) -> str:
        return f"{name.removesuffix('-nl')}-{self.name}"

    def flow(self, name: str) -> str:
        """What a flow of the example is called here."""
        return f"{name}-{self.name}"

    def _documents(self, flows: Sequence[str], existing: Mapping[str, str]) -> list[dict[str, Any]]:
        found = []
        for document in read_documents(EXAMPLE):
            item = dict(document)
            if item["kind"] == "Connection":
                name = self._renamed(item["name"])
                item |= {"name": name, "secret": name, "tenant": f"tenant-{self.name}"}
            elif item["kind"] == "Flow":
                if item["name"] not in flows:
                    continue
                if item["name"] in existing:
                    item["start"] = {"existing": existing[item["name"]]}
                for end in ("from", "to"):
                    item[end] = {**item[end], "connection": self._renamed(item[end]["connection"])}
                item["name"] = self.flow(item["name"])
            found.append(item)
        return found

    async def _apply(self, documents: list[dict[str, Any]], infos: Mapping[str, Mapping[str, Any]], poll_s: int) -> None:
        assert self.settings.secrets_dir is not None
        write_secrets(self.settings.secrets_dir, documents, infos)
        start = date.today() - timedelta(days=START_BEFORE_DAYS)
        path = write_configuration(self.folder / "configuration", turned(documents, infos, start, poll_s, real_limits=False))
        report = validate(load(path), installed_systems(), secret_check(self.settings))
        assert not report.problems, "\n".join(map(str, report.problems))
        self.configuration = report.configuration
        applied = await apply(self.settings, self.codec, report.configuration, SystemClock(), allow_remove=True)
        self.version = applied.version

    def launch(self, *services: str, **arranged: int) -> list[ServiceProcess]:
        """Starts one process of each service; `arranged` are options of the launcher."""
        environment = {
            "BUS_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "BUS_REGISTRY_URL": self.settings.registry_url,
            "BUS_DATA_DIR": str(self.folder),
            "BUS_SECRETS_DIR": str(self.settings.secrets_dir),
            "BUS_MASTER_KEY_FILE": str(self.settings.master_key_file),
            "BUS_HTTP_PORT": "0",
        }
        started = []
        for service in services or SERVICES:
            log = self.folder / f"{len(self.processes)}-{service}.jsonl"
            process = ServiceProcess(service, log, environment, **arranged)
            self.processes.append(process)
            started.append(process)
        return started

    def running(self, service: str) -> ServiceProcess:
        """The newest process of a service."""
        return next(process for process in reversed(self.processes) if process.service == service)

    async def close(self) -> None:
        """Ends services and simulators, whatever state they are in."""
        for process in self.processes:
            process.end()
        await asyncio.gather(*(asyncio.to_thread(process.gone) for process in self.processes))
        await asyncio.gather(*(item.stop() for item in (getattr(self, "exact", None), getattr(self, "qbo", None)) if item))
        if hasattr(self, "_books"):
            await self._books.close()
        if hasattr(self, "_registry"):
            await self._registry.close()

    # --- waiting -----------------------------------------------------------------------------------------------------------

    async def books(self) -> Books:
        """This world's books now."""
        return await self._books.read(self.configuration, self.version)

    async def quiet(self, seconds: float = QUIET_S) -> Books:
        """Waits until every stream was read to its end and nothing is in flight, for several looks."""
        seen: list[bytes] = []

        async def look() -> Books | None:
            self._fail_if_ended()
            books = await self.books()
            if not books.is_quiet(self.connections) or any(book.read != book.settled for book in books.flows):
                seen.clear()
                return None
            seen.append(books.fingerprint())
            return books if len(seen) >= LOOKS and len(set(seen[-LOOKS:])) == 1 else None

        try:
            return await until(look, seconds, "quiet")
        except BaseException:
            print(await self.books())  # pytest shows it with the failure
            raise

    async def polls(self, count: int = 2) -> None:
        """Waits for so many further polls of every stream. After two, one has begun later than this call."""
        begun: dict[tuple[str, str], list[datetime | None]] = {}

        async def look() -> bool:
            self._fail_if_ended()
            await self._books._follow()
            for cursor in self._books.cursors():
                known = begun.setdefault((cursor.connection, cursor.stream), [cursor.polled_at])
                if known[-1] != cursor.polled_at:
                    known.append(cursor.polled_at)
            return bool(begun) and all(len(moments) > count for moments in begun.values())

        await until(look, 30 + 5 * count, f"{count} polls")

    async def poll(self) -> None:
        """Asks for one poll of everything, and waits for its end. For worlds that poll by request only."""
        waiting = asyncio.ensure_future(self.polls(1))
        await asyncio.sleep(0)
        await self._books._follow()
        for connection in self.connections:
            await poll_now(self.settings, self.codec, connection, None)
        await waiting

    def _fail_if_ended(self) -> None:
        for process in self.processes:
            assert process.code is None or process.code < 0, f"{process.service} ended by itself: see {process.log}"

    # --- looking -----------------------------------------------------------------------------------------------------------

    async def events(self, entity: str) -> list[tuple[str, Any]]:
        """Key and value of this world's committed canonical events, in the order of each key."""
        found = []
        async for record, event in read_all(self.settings, self.codec, topics.canonical(entity), self._is_own(0)):
            found.append((record.key.decode(), event))
        return found

    async def newest(self, topic: str) -> dict[str, Any]:
        """The newest value by key of a compacted topic, this world's only."""
        found: dict[str, Any] = {}
        async for record, value in read_all(self.settings, self.codec, topic, self._is_own(1 if topic == topics.STATE else 0)):
            found[record.key.decode()] = value
        return {key: value for key, value in found.items() if value is not None}

    def _is_own(self, place: int) -> Callable[[str], bool]:
        """Whether a key is of this world: other tests share the topics, and some leave damage there on purpose."""
        return lambda key: len(parts := topics.split_key(key)) > place and parts[place] in self.connections

    async def state(self) -> list[StateRecord]:
        """What the sinks know."""
        return list((await self.newest(topics.STATE)).values())

    async def records(self, topic: str) -> list[Record]:
        """Every record of a topic as it stands there."""
        return [record async for record in read_raw(self.settings, topic)]


async def written(simulator: SimulatorProcess) -> dict[str, int]:
    """Writes that the vendor carried out, by what its log calls them."""
    counts: dict[str, int] = (await simulator.ask("counts"))["written"]
    return counts


async def calls(simulator: SimulatorProcess, method: str, path_prefix: str) -> list[dict[str, Any]]:
    """Calls in the vendor's log that match; those never handled have status 0."""
    log = await simulator.ask("calls")
    return [call for call in log["calls"] if call["method"] == method and call["path"].startswith(path_prefix)]


async def plan(simulator: SimulatorProcess, *faults: Mapping[str, Any]) -> None:
    """Replaces the planned faults."""
    await simulator.tell("faults", {"faults": list(faults)})


def hold(method: str, path_prefix: str, *, seconds: int = 600, times: int = 1) -> dict[str, Any]:
    """The vendor does it, and its answer does not come."""
    return {"match": {"method": method, "path_prefix": path_prefix}, "action": "hold", "seconds": seconds, "times": times}
