"""A run of the campaign: one cluster, one seed, scenarios one after another, each in a world of its own."""

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bus.embedded import Cluster, DownloadError
from tests.clusters import SERVER_TUNING
from tests.faults.bed import Bed
from tests.faults.figures import Figures
from tests.faults.proxy import Proxy

NOTES_OF_BROKEN = 3
"""What a broken build did is told by examples."""


class CannotRun(Exception):
    """A scenario lacks what it needs; the message says what."""


class FaultCluster(Cluster):
    """An embedded cluster with a second way in, that leads through a proxy: `proxied` is the bootstrap address of that one."""

    def __init__(self, folder: Path) -> None:
        inside, outside, advertised, controller = _free_ports(4)
        self.outside, self.advertised = outside, advertised
        host = "127.0.0.1"
        server = {
            "controller.quorum.voters": f"1@{host}:{controller}",
            "listeners": f"PLAINTEXT://{host}:{inside},PROXIED://{host}:{outside},CONTROLLER://{host}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{host}:{inside},PROXIED://{host}:{advertised}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }
        super().__init__(folder, kafka_port=inside, registry_port=0, server={**SERVER_TUNING, **server})

    @contextlib.asynccontextmanager
    async def proxied(self) -> AsyncIterator[Proxy]:
        """The proxy before the second way in; clients that bootstrap at its address stay behind it."""
        async with Proxy(self.outside, port=self.advertised) as proxy:
            yield proxy

    def kill_kafka(self) -> None:
        """kill -9 of the broker."""
        pid = self.processes["kafka"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@dataclass
class Run:
    """What a scenario is given."""

    number: int
    cluster: FaultCluster
    folder: Path
    seed: int
    is_long: bool = False
    broken: str = ""
    """Name of a deliberately broken build that all services run (tests/faults/broken.py)."""
    say: Callable[[str], None] = print
    found: Figures | None = None
    """As far as the scenario came."""
    _beds: int = field(default=0)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}-{self.number}")

    def count(self, usual: int, long: int, broken: int | None = None) -> int:
        """How often: in `make faults`, in `make faults-long`, with a broken build."""
        if self.broken:
            return broken if broken is not None else usual
        return long if self.is_long else usual

    def figures(self) -> Figures:
        """Where a scenario puts what it finds, so that it is told even if the scenario does not come to its end."""
        self.found = Figures(say=self.say)
        return self.found

    @contextlib.asynccontextmanager
    async def bed(
        self, *, kind: type[Bed] = Bed, bootstrap: str = "", call_timeout_s: float = 5.0, settle_s: int = 3
    ) -> AsyncIterator[Bed]:
        """A world of the scenario's own; it is ended whatever happens."""
        self._beds += 1
        name = f"f{self.number}{chr(96 + self._beds)}{self.seed % 10_000}" + (f"x{self.broken[:4]}" if self.broken else "")
        folder = self.folder / re.sub(r"\W", "-", f"{self.number}-{self._beds}-{self.broken}")
        folder.mkdir(parents=True)
        bed = kind(
            self.cluster, folder, name, bootstrap=bootstrap, call_timeout_s=call_timeout_s, settle_s=settle_s, broken=self.broken
        )
        try:
            yield bed
        finally:
            await bed.close()


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    number: int
    title: str
    oracle: str
    run: Callable[[Run], Awaitable[Figures]]
    broken: tuple[str, ...] = ()
    """Broken builds that this row must catch."""


@dataclass
class Result:
    """How one run of a scenario ended."""

    scenario: Scenario
    figures: Figures
    seconds: float
    broken: str = ""
    error: str = ""
    could_not_run: str = ""

    @property
    def holds(self) -> bool:
        """A sound build passes, a broken one is caught by an oracle (an accident is no catch)."""
        if self.could_not_run or self.error:
            return False
        return not self.figures.holds if self.broken else self.figures.holds

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.could_not_run:
            return f"could not run: {self.could_not_run}"
        if self.error:
            return f"failed: {self.error}"
        if self.broken:
            return "caught" if self.holds else "NOT CAUGHT"
        return "holds" if self.holds else "FAILED"


async def judge(scenario: Scenario, run: Run) -> Result:
    """Runs a scenario; whatever it raises is its verdict, never the end of the campaign."""
    begun = time.monotonic()
    result = Result(scenario, Figures(), 0.0, broken=run.broken)
    try:
        result.figures = await scenario.run(run)
    except CannotRun as reason:
        result.could_not_run = str(reason)
    except (Exception, pytest.fail.Exception) as error:
        result.figures = run.found or result.figures
        result.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        result.figures.notes.append(traceback.format_exc()[-3000:])
    result.seconds = time.monotonic() - begun
    return result


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[FaultCluster]:
    """One cluster for all scenarios. Raises CannotRun when it cannot be had."""
    try:
        cluster = FaultCluster(folder)
        cluster.start()
    except DownloadError as error:
        raise CannotRun(str(error)) from None
    try:
        yield cluster
    finally:
        cluster.stop()


@contextlib.contextmanager
def working_folder(keep: Path | None) -> Iterator[Path]:
    """Where logs go. Of one's own choice it is kept."""
    if keep is not None:
        if keep.exists():
            shutil.rmtree(keep)
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as name:
        yield Path(name)


async def carry_out(
    scenarios: Sequence[tuple[Scenario, str]],
    *,
    seed: int,
    is_long: bool,
    keep: Path | None,
    say: Callable[[str], None],
    record: Callable[[Result], None],
) -> list[Result]:
    """Runs scenarios (each with the name of a broken build, or none) in order; `record` is given each as it ends."""
    results = []
    with working_folder(keep) as folder:
        try:
            with running_cluster(folder / "cluster") as cluster:
                for scenario, broken in scenarios:
                    say(f"\n{scenario.number:>2}  {scenario.title}" + (f"  [broken build: {broken}]" if broken else ""))
                    run = Run(scenario.number, cluster, folder, seed, is_long, broken, say)
                    results.append(await judge(scenario, run))
                    tell(results[-1], say)
                    record(results[-1])
                    if not cluster.is_running():
                        await asyncio.to_thread(cluster.start_kafka)
                        await asyncio.to_thread(cluster.start_registry)
        except CannotRun as reason:
            done = {(result.scenario.number, result.broken) for result in results}
            results += [
                Result(scenario, Figures(), 0.0, broken=broken, could_not_run=str(reason))
                for scenario, broken in scenarios
                if (scenario.number, broken) not in done
            ]
    return results


def tell(result: Result, say: Callable[[str], None]) -> None:
    """A result in a few lines."""
    if result.figures.done:
        say(f"    {result.figures.done}")
    say(f"    {', '.join(map(str, result.figures.found))}")
    for note in result.figures.notes[: NOTES_OF_BROKEN if result.broken else None]:
        say(f"      - {note}")
    say(f"    {result.verdict} in {result.seconds:.0f} s")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found
