"""The whole bus, one process of each service, between two simulators: an order's price, a change's way, the memory of it all.

Two parts: 1. what the simulators hold is carried over, which prices orders; 2. then customers change at a steady rate, each once,
and the time from the change to the write at the other side is taken from the simulators' own records.
"""

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from bench.example import FOLDER, SOURCE, TARGET, applied
from bench.measure import MIB, Figure, quantile
from bus.runtime.books import Books
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey
from bus.runtime.quiet import wait_quiet
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings, load_settings
from services.demonstration.stage import SimulatorProcess, read_documents, systems_of
from services.node import Node

ORDERS_PER_SIZE = 40
"""The simulators get one document per so many objects of the other figures."""
SINCE = timedelta(days=60)
POLL_S = 2
CHANGES_PER_S = 20
CHANGING_S = 30
QUIET_S = 1_800.0
IDENTIFIER = re.compile(r"guid'([0-9a-f-]{36})'")
Simulators = dict[str, SimulatorProcess]


@dataclass
class Stage:
    """Everything that runs, and what is asked of it."""

    simulators: Simulators
    settings: BusSettings
    codec: Codec

    async def quiet(self) -> Books:
        """Waits until nothing is on its way for several looks."""
        books, is_quiet = await wait_quiet(self.settings, self.codec, QUIET_S)
        if not is_quiet:
            raise RuntimeError(f"not quiet after {QUIET_S:.0f} s: {books.in_flight()} on their way")
        return books

    async def calls(self) -> int:
        """Vendor calls so far, at both sides."""
        return sum([(await simulator.ask("calls", since="0"))["next"] for simulator in self.simulators.values()])


async def figures(size: int) -> list[Figure]:
    """Costs of orders, times of changes, memory."""
    with tempfile.TemporaryDirectory() as folder:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        async with _simulators(Path(folder), max(60, size // ORDERS_PER_SIZE)) as simulators:
            apart = before | {child.pid for child in psutil.Process().children(recursive=True)}
            async with _stage(Path(folder), simulators) as stage:
                orders = await _orders(stage, apart)
                ways = await _changes(stage)
                return [*orders, *ways, _memory(apart)]


# --- 1: orders ----------------------------------------------------------------------------------------------------------------


async def _orders(stage: Stage, apart: set[int]) -> list[Figure]:
    cpu, calls, began = _cpu_s(apart), await stage.calls(), time.perf_counter()
    books = await stage.quiet()
    seconds = time.perf_counter() - began
    made = sum(book.outcomes.get("CREATED", 0) for book in books.flows if "orders" in book.flow)
    if not made or any(book.read != book.settled for book in books.flows):
        raise RuntimeError(f"nothing was measured: {books}")
    used, asked = (_cpu_s(apart) - cpu) / made * 1_000, (await stage.calls() - calls) / made * 1_000
    note = f"{made:,} orders both ways in {seconds:.0f} s, with the first read of everything and the debtors they need"
    return [
        Figure(name="CPU per 1,000 orders", value=used, unit="s", note=note),
        Figure(name="vendor calls per 1,000 orders", value=asked, unit="calls", note="both sides, reads included"),
    ]


def _ours(apart: set[int]) -> list[psutil.Process]:
    """Kafka, registry and services: children that are no simulators."""
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in apart]


def _cpu_s(apart: set[int]) -> float:
    used = 0.0
    for process in _ours(apart):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _memory(apart: set[int]) -> Figure:
    found: dict[str, float] = {}
    for process in _ours(apart):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = next((part for part in reversed(process.cmdline()) if part.startswith("services.")), process.name())
            found[name] = found.get(name, 0.0) + process.memory_info().rss / MIB
    note = ", ".join(f"{name.removeprefix('services.')} {mib:,.0f}" for name, mib in sorted(found.items()))
    return Figure(name="memory of `bus up`", value=sum(found.values()), unit="MiB", aim=1_536, at_least=False, note=note)


# --- 2: changes ---------------------------------------------------------------------------------------------------------------


async def _changes(stage: Stage) -> list[Figure]:
    for number in range(CHANGES_PER_S * CHANGING_S):
        name = f"Gestage klant {number} B.V."
        fields = {"DisplayName": name, "CompanyName": name, "PrimaryEmailAddr": {"Address": f"klant{number}@bench.test"}}
        await stage.simulators[SOURCE].tell("edit", {"entity": "customer", "id": "new", "fields": fields})
    await asyncio.sleep(2 * POLL_S)  # quiet is only what has been read
    await stage.quiet()
    pairs = await _pairs(stage)
    since = (await stage.simulators[TARGET].ask("calls", since="0"))["next"]
    changed: dict[str, datetime] = {}
    began = time.monotonic()
    for number, (source, target) in enumerate(pairs[: CHANGES_PER_S * CHANGING_S]):
        await asyncio.sleep(max(0.0, began + number / CHANGES_PER_S - time.monotonic()))
        fields = {"PrimaryPhone": {"FreeFormNumber": f"+3110{number:07}"}}
        await stage.simulators[SOURCE].tell("edit", {"entity": "customer", "id": source, "fields": fields})
        changed[target] = datetime.now(UTC)
    rate = len(changed) / (time.monotonic() - began)
    await asyncio.sleep(2 * POLL_S)
    await stage.quiet()
    seconds = await _ways(stage.simulators[TARGET], since, changed)
    note = f"{len(changed):,} changed customers at {rate:.0f}/s, polls every {POLL_S} s"
    aim = POLL_S + 1
    return [
        Figure(name="change to write, p50", value=quantile(seconds, 0.5), unit="s", aim=aim, at_least=False, note=note),
        Figure(name="change to write, p99", value=quantile(seconds, 0.99), unit="s"),
    ]


async def _pairs(stage: Stage) -> list[tuple[str, str]]:
    """Customers that are one at both sides by their only address: id at the source, id at the target."""
    sides = []
    for name in (SOURCE, TARGET):
        rows = (await stage.simulators[name].ask("books"))["customers"]
        by_email: dict[str, list[str]] = {}
        for row in rows:
            if row["email"] and row["active"]:
                by_email.setdefault(row["email"].lower(), []).append(row["id"])
        sides.append({email: ids[0] for email, ids in by_email.items() if len(ids) == 1})
    both = sorted(sides[0].keys() & sides[1].keys())
    if not both:
        raise RuntimeError("no customer stands at both sides")
    return [(sides[0][email], sides[1][email]) for email in both]


async def _ways(target: SimulatorProcess, since: int, changed: dict[str, datetime]) -> list[float]:
    """Seconds from each change to the write of its object, by the target's call log. Raises when one never came."""
    seconds: dict[str, float] = {}
    for call in (await target.ask("calls", since=str(since)))["calls"]:
        found = next(iter(IDENTIFIER.findall(call["path"])), "")
        if call["write"] and call["status"] < 300 and found in changed and found not in seconds:
            seconds[found] = (datetime.fromisoformat(call["at"]) - changed[found]).total_seconds()
    if len(seconds) != len(changed):
        raise RuntimeError(f"{len(changed)} changes made {len(seconds)} writes")
    return list(seconds.values())


# --- the stage ----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _simulators(folder: Path, orders: int) -> AsyncIterator[Simulators]:
    simulators: Simulators = {}
    try:
        for name, system in systems_of(read_documents(FOLDER)).items():
            log = folder / f"{name}.log"
            simulators[name] = await SimulatorProcess.start(system, orders=orders, seed=1, real_limits=False, log=log)
        yield simulators
    finally:
        for simulator in simulators.values():
            await simulator.stop()


@asynccontextmanager
async def _stage(folder: Path, simulators: Simulators) -> AsyncIterator[Stage]:
    settings, stop = _settings(folder), asyncio.Event()
    environment = {
        "BUS_DATA_DIR": str(folder),
        "BUS_SECRETS_DIR": str(settings.secrets_dir),
        "BUS_MASTER_KEY_FILE": str(settings.master_key_file),
        "BUS_HTTP_PORT": "0",
    }
    node = Node(settings, kafka_port=0, registry_port=0, environment=environment, logs=folder)
    await node.start()
    try:
        async with RegistryClient.of(node.settings) as registry:
            codec = Codec(registry)
            await codec.open()
            infos = {name: simulator.info for name, simulator in simulators.items()}
            await applied(node.settings, codec, infos, start=(datetime.now(UTC) - SINCE).date(), poll_s=POLL_S)
            serving = asyncio.ensure_future(node.serve(stop))
            try:
                yield Stage(simulators, node.settings, codec)
            finally:
                stop.set()
                await serving
    finally:
        await node.close()


def _settings(folder: Path) -> BusSettings:
    key = folder / "master.key"
    key.write_text(MasterKey.generate())
    own = {"data_dir": folder, "secrets_dir": folder / "secrets", "master_key_file": key, "http_port": 0}
    return load_settings().model_copy(update=own)
