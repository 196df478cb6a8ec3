"""Row 12: single-use tokens that live seconds, many grants, four processes; deaths between the vendor's answer and our store."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import load
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.registry import RegistryClient
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems, secret_check
from bus.simulation.clock import SimClock
from bus.simulation.tokens import RefreshRefused, TokenDesk
from services.demonstration.stage import turned, write_configuration, write_secrets
from tests.e2e.processes import ServiceProcess
from tests.e2e.waiting import until
from tests.faults import oracle
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures

PROCESSES = 4
GRANTS = 40
LIFE_S = 3
"""Of an access token; it is refreshed a second before its end."""
NEEDS_A_PERSON = "a person must log in"
ROLE_EVERY_S = 6.0
STILL_S = 60


class TokenVendor:
    """Token endpoints of many accounts, each with a family of its own: a used refresh token used again revokes it."""

    def __init__(self, names: Sequence[str]) -> None:
        clock = SimClock()
        self.desks = {
            name: TokenDesk(clock, lifetime_s=LIFE_S, refresh_lifetime_s=86_400, rotates=True, prefix=name) for name in names
        }
        self.consents = {name: desk.grant().refresh_token for name, desk in self.desks.items()}
        self.refused: Counter[str] = Counter()
        self.base_url = ""

    @property
    def refreshes(self) -> int:
        """Refreshes that gave new tokens."""
        return sum(desk.refreshes for desk in self.desks.values())

    async def _token(self, request: Request) -> Response:
        name = request.path_params["name"]
        form = {key: values[-1] for key, values in parse_qs((await request.body()).decode()).items()}
        try:
            issued = self.desks[name].refresh(form["refresh_token"])
        except RefreshRefused:
            self.refused[name] += 1
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        return JSONResponse(
            {
                "access_token": issued.access_token,
                "refresh_token": issued.refresh_token,
                "token_type": "bearer",
                "expires_in": LIFE_S,
            }
        )

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator["TokenVendor"]:
        """On a free port of this process."""
        app = Starlette(routes=[Route("/{name}/token", self._token, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False, lifespan="off", ws="none"))
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.ensure_future(server.serve())
        await until(lambda: server.started, 10, "the token vendor listens")
        self.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            await task


class GrantsBed(Bed):
    """Connections that have a grant each and do nothing else."""

    async def open_grants(self, vendor: TokenVendor) -> None:
        """Secrets, configuration; no simulators."""
        self.connections = tuple(vendor.desks)  # type: ignore[assignment]
        self._registry = RegistryClient.of(self.settings)
        await self._registry.register_all()
        await ensure_topics(self.settings, topics.fixed_topics(self.settings.slots, self.settings.partitions))
        self.codec = Codec(self._registry)
        await self.codec.open()
        documents = [
            {"kind": "Connection", "name": name, "tenant": f"tenant-{self.name}", "system": "exact_online", "secret": name}
            for name in vendor.desks
        ]
        infos = {
            name: {
                "base_url": vendor.base_url,
                "token_url": f"{vendor.base_url}/{name}/token",
                "config": {"region": "nl", "division": 10_000 + number},
                "credentials": {"client_id": "client", "client_secret": "secret", "refresh_token": vendor.consents[name]},
            }
            for number, name in enumerate(vendor.desks)
        }
        assert self.settings.secrets_dir is not None
        write_secrets(self.settings.secrets_dir, documents, infos)
        found = turned(documents, infos, SystemClock().now().date(), 86_400, real_limits=False)
        report = validate(
            load(write_configuration(self.folder / "configuration", found)), installed_systems(), secret_check(self.settings)
        )
        assert not report.problems, "\n".join(map(str, report.problems))
        await apply(self.settings, self.codec, report.configuration, SystemClock(), allow_remove=True)

    def start(self, instance: int, **arranged: Any) -> ServiceProcess:
        """One process of the grants service, whose tokens live as long as the vendor's."""
        return self.launch("grants", instance=instance, token_life=LIFE_S, **arranged)[0]

    async def states(self) -> Counter[str]:
        """Newest committed state per grant, counted."""
        newest = oracle.newest(await oracle.events(self, [topics.GRANTS]))
        return Counter(str(record.state) for record in newest.values())

    def alerts(self) -> Counter[str]:
        """How often a person was called, by connection, over all processes."""
        return Counter(line["connection"] for process in self.processes for line in process.said(NEEDS_A_PERSON))


async def tokens(run: Run) -> Figures:
    """1. refreshes while processes come and go in order; 2. deaths behind the vendor's answer; 3. a person logs in again."""
    wanted, deaths = run.count(600, 10_000, 200), run.count(2, 20, 1)
    figures = run.figures()
    names = [f"{run.number}-{run.seed % 10_000}-{number:02}{run.broken}" for number in range(GRANTS)]
    async with TokenVendor(names).served() as vendor, run.bed(kind=GrantsBed) as bed:
        assert isinstance(bed, GrantsBed)
        await bed.open_grants(vendor)
        owners = [bed.start(instance) for instance in range(PROCESSES)]
        rolled = await roll(run, bed, vendor, owners, wanted)
        in_order = vendor.refreshes
        figures.zero("grants lost while processes came and went in order", sorted(vendor.refused))
        lost = await die_behind_answers(run, bed, vendor, owners, deaths)
        figures.tell("grants lost by deaths between answer and store", len(lost))
        alerts = bed.alerts()
        figures.zero("lost without an alert", [name for name in lost if name not in alerts])
        figures.zero("alerts without a loss, or more than one", [name for name in alerts if name not in lost or alerts[name] > 1])
        figures.zero("others that stood still", await standing_still(vendor))
        assert bed.settings.secrets_dir is not None
        await log_in_again(vendor, bed.settings.secrets_dir, lost)
        await until(lambda: none_waits(bed), 90, "no grant waits for a person")
        figures.done = (
            f"{vendor.refreshes} refreshes of {GRANTS} grants by {PROCESSES} processes, {rolled} of them replaced in order"
            f" ({in_order} refreshes), {deaths} killed behind an answer"
        )
        figures.least("refreshes", vendor.refreshes, wanted)
        vendor.refused.clear()
        figures.zero("standing still in the end", await standing_still(vendor))
    return figures


async def roll(run: Run, bed: GrantsBed, vendor: TokenVendor, owners: list[ServiceProcess], wanted: int) -> int:
    """Replaces one process after another, drained, until there were so many refreshes."""
    rolled = 0
    while vendor.refreshes < wanted or rolled < PROCESSES // 2:
        await asyncio.sleep(ROLE_EVERY_S)
        bed._fail_if_ended()
        place = run.chance.randrange(PROCESSES)
        owners[place].end()
        await asyncio.to_thread(owners[place].gone)
        owners[place] = bed.start(place)
        rolled += 1
    await asyncio.sleep(ROLE_EVERY_S)
    return rolled


async def die_behind_answers(
    run: Run, bed: GrantsBed, vendor: TokenVendor, owners: list[ServiceProcess], deaths: int
) -> set[str]:
    """Kills a process when the vendor has answered a refresh of it; the connections whose token the vendor then refuses."""
    for _ in range(deaths):
        place = run.chance.randrange(PROCESSES)
        owners[place].end()
        await asyncio.to_thread(owners[place].gone)
        doomed = bed.start(place, die_after_token=run.chance.randint(1, 12))
        await until(lambda d=doomed: d.code is not None, 60, "the process dies behind an answer")
        owners[place] = bed.start(place)
        await standing_still(vendor)
    return set(vendor.refused)


async def standing_still(vendor: TokenVendor) -> list[str]:
    """Grants that are neither refreshed any more nor refused, after a while."""
    counts = {name: desk.refreshes for name, desk in vendor.desks.items()}

    def still() -> list[str]:
        return [name for name, count in counts.items() if vendor.desks[name].refreshes <= count and name not in vendor.refused]

    with contextlib.suppress(pytest.fail.Exception):
        await until(lambda: not still(), STILL_S, "every grant is refreshed or refused")
    return still()


async def log_in_again(vendor: TokenVendor, folder: Path, names: set[str]) -> None:
    """A new consent of each: what an operator puts into the secret."""
    for name in names:
        (folder / name / "refresh_token").write_text(vendor.desks[name].grant().refresh_token)


async def none_waits(bed: GrantsBed) -> bool:
    states = await bed.states()
    return states.total() == GRANTS and "LOGIN_NEEDED" not in states
