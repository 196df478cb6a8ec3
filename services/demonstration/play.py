"""The demo from curtain to verdict.

1. simulators; 2. cluster, schemas, topics; 3. secrets and configuration; 4. services, until quiet; 5. verdict;
6. cursors deleted, everything read again, nothing written, then the encore; 7. everything stopped.
"""

import asyncio
import base64
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import Configuration, load
from bus.runtime.books import BookReader, Books
from bus.runtime.codec import Codec
from bus.runtime.deadletters import listed
from bus.runtime.publication import apply
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.registry import RegistryClient
from bus.runtime.requests import poll_now
from bus.runtime.settings import BusSettings, load_settings
from bus.runtime.tail import read_all
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems, secret_check
from schemas.system import LinkedBy, Outcome, ResultRecord
from services.demonstration.stage import (
    DemoError,
    SimulatorProcess,
    emptied,
    read_documents,
    systems_of,
    turned,
    write_configuration,
    write_secrets,
)
from services.demonstration.surroundings import Surroundings, read_edit, surroundings
from services.demonstration.verdict import Finding, check_creates, check_documents, read_creates, read_expectations
from services.node import SERVICES, Node

POLL_S = 2
ASK_EVERY_S = 60.0
"""Where the vendors' own limits are kept, the example's schedule stands, and a poll is asked for so often."""
START_BEFORE_DAYS = 14
LOOK_EVERY_S = 0.5
LOOKS = 4
QUIET_S, REAL_QUIET_S = 300.0, 3_600.0
"""Patience with raised limits and with the vendors' own: their minutes decide then."""

Encore = Callable[["Outcomes", Surroundings], None]
Tell = Callable[[str], None]
Show = Callable[[Books], None]


class Outcomes(msgspec.Struct, kw_only=True):
    """What the demo came to."""

    books: Books
    findings: list[Finding]
    writes: dict[str, list[str]]
    """Per connection: where the call log and our claims differ."""
    limits_exceeded: dict[str, int]
    dead_letters: list[dict[str, Any]] = []
    second_run_writes: dict[str, int] | None = None
    example: dict[str, Any] | None = None
    seconds: dict[str, float] = {}

    @property
    def holds(self) -> bool:
        """Whether the books balance, by the simulators' word."""
        return (
            all(finding.holds for finding in self.findings)
            and not any(self.writes.values())
            and not any((self.second_run_writes or {}).values())
            and not any(self.limits_exceeded.values())
            and all(book.read == book.settled for book in self.books.flows)
        )


class Play:
    """One run of the demo."""

    def __init__(self, *, folder: Path, example: Path, orders: int, seed: int, real_limits: bool, tell: Tell, show: Show) -> None:
        self._folder = folder
        self._example = example
        self._orders = orders
        self._seed = seed
        self._real_limits = real_limits
        self._tell = tell
        self._show = show
        self._simulators: dict[str, SimulatorProcess] = {}
        self._start = date.today() - timedelta(days=START_BEFORE_DAYS)  # noqa: DTZ011 - a business day of this machine
        self._clock = SystemClock()

    async def run(self, encore: Encore | None = None) -> Outcomes:
        """Plays; whatever happens, everything that was started is ended.

        With an `encore` the services run again behind the second run, until this is cancelled; it is told where everything is.
        """
        documents = read_documents(self._example)
        with emptied(self._folder):
            return await self._play(documents, encore)

    async def _play(self, documents: list[dict[str, Any]], encore: Encore | None) -> Outcomes:
        began = self._clock.boot_ms()
        node: Node | None = None
        try:
            await self._start_simulators(systems_of(documents))  # 1
            settings = self._settings()
            node = Node(settings, kafka_port=0, registry_port=0, environment=self._environment(settings), logs=self._folder)
            self._tell("starting Kafka and the schema registry")
            await node.start()  # 2
            ready = self._clock.boot_ms()
            async with RegistryClient.of(node.settings) as registry:
                codec = Codec(registry)
                await codec.open()
                configuration, version = await self._apply(node.settings, codec, documents)  # 3
                outcomes = await self._serve(node, codec, configuration, version)  # 4 to 6
                outcomes.seconds["embedded ready"] = (ready - began) / 1000
                outcomes.seconds["all"] = (self._clock.boot_ms() - began) / 1000
                if encore is not None:
                    await self._stay(node, codec, outcomes, encore)
            return outcomes
        finally:
            try:
                if node is not None:
                    await node.close()
            finally:
                for simulator in self._simulators.values():  # 7
                    await simulator.stop()

    # --- 1 to 3 --------------------------------------------------------------------------------------------------------------

    async def _start_simulators(self, systems: Mapping[str, str]) -> None:
        for connection, system in systems.items():
            self._tell(f"starting the simulator of {system}" + ("" if self._real_limits else ", its call limits raised"))
            self._simulators[connection] = await SimulatorProcess.start(
                system,
                orders=self._orders,
                seed=self._seed,
                real_limits=self._real_limits,
                log=self._folder / f"{connection}.simulator.log",
            )

    def _settings(self) -> BusSettings:
        key = self._folder / "master.key"
        key.write_text(base64.b64encode(os.urandom(32)).decode())
        key.chmod(0o600)
        return load_settings().model_copy(
            update={
                "data_dir": self._folder,
                "secrets_dir": self._folder / "secrets",
                "master_key_file": key,
                "master_key": None,
                "http_port": 0,
            }
        )

    def _environment(self, settings: BusSettings) -> dict[str, str]:
        return {
            "BUS_DATA_DIR": str(settings.data_dir),
            "BUS_SECRETS_DIR": str(settings.secrets_dir),
            "BUS_MASTER_KEY_FILE": str(settings.master_key_file),
            "BUS_HTTP_PORT": "0",
            "BUS_LOG_LEVEL": settings.log_level,
        }

    async def _apply(self, settings: BusSettings, codec: Codec, documents: list[dict[str, Any]]) -> tuple[Configuration, int]:
        infos = {name: simulator.info for name, simulator in self._simulators.items()}
        write_secrets(self._folder / "secrets", documents, infos)
        path = write_configuration(
            self._folder / "configuration",
            turned(documents, infos, self._start, None if self._real_limits else POLL_S, real_limits=self._real_limits),
        )
        self._tell(f"applying {path}")
        report = validate(load(path), installed_systems(), secret_check(settings))
        if report.problems:
            raise DemoError("\n".join(["the example is refused:", *map(str, report.problems)]))
        applied = await apply(settings, codec, report.configuration, self._clock)
        return report.configuration, applied.version

    # --- 4 to 6 --------------------------------------------------------------------------------------------------------------

    async def _serve(self, node: Node, codec: Codec, configuration: Configuration, version: int) -> Outcomes:
        self._tell(f"running {', '.join(SERVICES)}")
        books, first_s = await self._until_quiet(node, codec, configuration, version)
        self._tell("quiet: asking the simulators")
        outcomes = await self._judge(node.settings, codec, books)
        outcomes.seconds["first run"] = first_s
        before = await self._written()
        self._tell("second run: cursors deleted, everything is read again")
        await self._forget_cursors(node.settings, codec, configuration)
        _, second_s = await self._until_quiet(node, codec, configuration, version)
        after = await self._written()
        outcomes.second_run_writes = {name: sum(after[name].values()) - sum(before[name].values()) for name in after}
        outcomes.seconds["second run"] = second_s
        return outcomes

    async def _until_quiet(self, node: Node, codec: Codec, configuration: Configuration, version: int) -> tuple[Books, float]:
        """Runs all services until nothing is in flight, then drains them."""
        stop = asyncio.Event()
        began = self._clock.boot_ms()
        services = asyncio.ensure_future(node.serve(stop))
        reader = BookReader(node.settings, codec)
        equal, before, asked = 0, b"", began
        patience_s = REAL_QUIET_S if self._real_limits else QUIET_S
        try:
            while True:
                if services.done():
                    services.result()
                    raise DemoError(f"the services ended: see the messages above and the logs in {self._folder}")
                if self._real_limits and self._clock.boot_ms() - asked > ASK_EVERY_S * 1000:
                    asked = self._clock.boot_ms()
                    for connection in configuration.connections:
                        await poll_now(node.settings, codec, connection, None)
                books = await reader.read(configuration, version)
                self._show(books)
                now = books.fingerprint()
                equal = equal + 1 if books.is_quiet(sorted(configuration.connections)) and now == before else 0
                before = now
                if equal >= LOOKS:
                    return books, (self._clock.boot_ms() - began) / 1000
                if self._clock.boot_ms() - began > patience_s * 1000:
                    raise DemoError(
                        f"not quiet after {patience_s:.0f} s: {books.in_flight()} in flight; the data is in {self._folder}"
                    )
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await reader.close()
            stop.set()
            with contextlib.suppress(Exception):
                await services

    async def _stay(self, node: Node, codec: Codec, outcomes: Outcomes, encore: Encore) -> None:
        """Runs all services until cancelled."""
        results = [result async for _, result in read_all(node.settings, codec, topics.RESULTS) if result is not None]
        places = {name: simulator.base_url for name, simulator in self._simulators.items()}
        edit = read_edit(self._example / "expected.toml")
        services = asyncio.ensure_future(node.serve(asyncio.Event()))
        try:
            encore(outcomes, surroundings(node.settings, places, outcomes.example, edit, results))
            await services
        finally:
            services.cancel()
            await asyncio.gather(services, return_exceptions=True)

    async def _forget_cursors(self, settings: BusSettings, codec: Codec, configuration: Configuration) -> None:
        """Tombstones for every cursor, under the pollers' own identity: whoever still polled would be fenced."""
        for slot in sorted({topics.slot_of(name, settings.slots) for name in configuration.connections}):
            publisher = Publisher(settings, f"{settings.client_prefix}-pollers-{slot}")
            await publisher.open()
            gone = []
            async for record, cursor in read_all(settings, codec, topics.CURSORS):
                if record.partition == slot and cursor is not None:
                    gone.append(Outgoing(topic=topics.CURSORS, partition=slot, key=record.key.decode(), value=None))
            await publisher.commit(gone)
            await publisher.close()

    async def _written(self) -> dict[str, dict[str, int]]:
        return {name: (await simulator.ask("counts"))["written"] for name, simulator in self._simulators.items()}

    # --- 5 -------------------------------------------------------------------------------------------------------------------

    async def _judge(self, settings: BusSettings, codec: Codec, books: Books) -> Outcomes:
        sim_books = {name: await simulator.ask("books") for name, simulator in self._simulators.items()}
        counts = {name: await simulator.ask("counts") for name, simulator in self._simulators.items()}
        results = [result async for _, result in read_all(settings, codec, topics.RESULTS) if result is not None]
        waiting = _not_there(results)
        findings = [
            check_documents(
                item, sim_books[item.source], sim_books[item.target], self._start.isoformat(), waiting.get(item.flow, {})
            )
            for item in read_expectations(self._example / "expected.toml")
        ]
        names = read_creates(self._example / "expected.toml")
        claimed = await self._claimed(settings, codec)
        writes = {name: check_creates(counts[name]["written"], names[name], claimed.get(name, Counter())) for name in counts}
        return Outcomes(
            books=books,
            findings=findings,
            writes=writes,
            limits_exceeded={name: item["limit_exceeded"] for name, item in counts.items()},
            dead_letters=await listed(settings, codec),
            example=_example(results, sim_books),
        )

    async def _claimed(self, settings: BusSettings, codec: Codec) -> dict[str, Counter[str]]:
        """Objects the bus holds as created by it, per connection and entity, debtors made with their orders included."""
        links: dict[bytes, tuple[str, str]] = {}
        async for record, state in read_all(settings, codec, topics.STATE):
            if state is not None and state.link is not None and state.link.linked_by is LinkedBy.CREATED:
                links[record.key] = (state.connection, state.link.entity)
        claimed: dict[str, Counter[str]] = {}
        for connection, entity in links.values():
            claimed.setdefault(connection, Counter())[entity] += 1
        return claimed


def _not_there(results: list[ResultRecord]) -> dict[str, dict[str, str]]:
    """Per flow: source objects whose newest result is parked or dead, with the reason."""
    newest: dict[tuple[str, str], ResultRecord] = {}
    for result in sorted(results, key=lambda item: (item.seq, item.ended_at)):
        newest[result.flow or "", result.source.id] = result
    waiting: dict[str, dict[str, str]] = {}
    for (flow, source_id), result in newest.items():
        if result.outcome in (Outcome.PARKED, Outcome.DEAD):
            waiting.setdefault(flow, {})[source_id] = result.detail or ""
    return waiting


def _example(results: list[ResultRecord], books: Mapping[str, Any]) -> dict[str, Any] | None:
    """One created document with what the flow added and why, the richest there is."""
    created = [r for r in results if r.outcome is Outcome.CREATED and r.target_entity in topics.DOCUMENTS and r.resolved]
    if not created:
        return None
    best = max(created, key=lambda result: (len({item.name for item in result.resolved}), len(result.resolved)))
    source = next((d for d in books[best.source.connection]["documents"] if d["id"] == best.source.id), None)
    target = next((d for d in books[best.connection]["documents"] if d["id"] == best.external_id), None)
    added = [{"line": i.line_id, "name": i.name, "value": i.value, "rule": i.rule} for i in best.resolved]
    key = topics.event_key(best.source.connection, best.source.entity, best.source.id)
    return {"flow": best.flow, "key": key, "source": source, "target": target, "added": added}
