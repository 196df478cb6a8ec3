"""Compares both ends of a flow live: what it costs, the comparison, and what asks the services to mend it.

Nothing is written to any account and nothing is ever deleted: repairs are requests, carried out by pollers and sinks under their
own laws.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from bus.core.clock import Clock, SystemClock
from bus.core.configuration import Configuration, Flow
from bus.core.errors import SettingsError
from bus.kit.registry import manifest_of
from bus.runtime.codec import Codec
from bus.runtime.connections import OpenConnection, open_connection
from bus.runtime.follow import GrantFollower
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.publication import Published, read_published
from bus.runtime.requests import ask, request
from bus.runtime.settings import BusSettings
from bus.runtime.state import AccountState
from bus.runtime.turns import in_turn
from schemas.system import RequestKind, RequestRecord, SeenRecord
from services.comparison.comparing import Comparison, Known
from services.comparison.cost import Cost, account_cost
from services.comparison.knowledge import account_states, known_objects
from services.comparison.pairs import Finding
from services.comparison.reading import OBJECTS_MAX, Read, Side
from services.comparison.wanting import Wanting
from services.processors.routes import Route, compile_routes

KEYS_MAX = 500
"""Keys of one request."""

Progress = Callable[[str, int], None]
"""Told how many objects of an account were read besides."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Which objects of a flow are compared."""

    flow: str
    sample: int | None = None
    """So many source objects, chosen by chance; None: all."""
    since: datetime | None = None
    """Only what its vendor says was changed since."""


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """How the two ends of a flow compare."""

    flow: str
    source: str
    target: str
    configuration: int
    read: dict[str, int]
    """Objects read, by connection."""
    calls: dict[str, int]
    """Calls made, by connection."""
    agreeing: int
    not_wanted: int
    findings: list[Finding] = []
    kept_otherwise: int = 0
    """Objects with fields that differ as they did when they were settled, which is no finding."""
    notes: list[str] = []

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def of(self, kind: str) -> list[Finding]:
        """Findings of a kind that are not on their way."""
        return [item for item in self.findings if item.kind == kind and not item.in_flight]

    def in_flight(self) -> list[Finding]:
        """Objects that differ now, and of which a version is on its way."""
        return [item for item in self.findings if item.in_flight]


async def cost(settings: BusSettings, codec: Codec, scope: Scope) -> Cost:
    """What the comparison costs, before anybody is called. Raises SettingsError for what cannot be compared."""
    published = await read_published(settings, codec)
    flow = flow_of(published.configuration, scope.flow)
    accounts = []
    for name, entity in ((flow.from_.connection, flow.from_.entity), (flow.to.connection, flow.to.entity)):
        connection = published.configuration.connections[name]
        counts = Counter(known for known, _ in await known_objects(settings, codec, name))
        if scope.sample is None and counts[entity] > OBJECTS_MAX:
            raise SettingsError(
                f"{name} has {counts[entity]} objects of {entity}, more than {OBJECTS_MAX}: compare a part of them by --sample"
            )
        accounts.append(account_cost(connection, manifest_of(connection.system), entity, counts, scope.sample))
    return Cost(accounts=accounts)


def flow_of(configuration: Configuration, name: str) -> Flow:
    """A published flow. Raises SettingsError, also for one whose target cannot be read back."""
    flow = configuration.flows.get(name)
    if flow is None:
        raise SettingsError(f"unknown flow {name!r}: there are {', '.join(sorted(configuration.flows)) or 'none'}")
    for end in (flow.from_, flow.to):
        manifest = manifest_of(configuration.connections[end.connection].system)
        if not any(end.entity in stream.entities for stream in manifest.streams):
            raise SettingsError(f"{manifest.name} serves no list of {end.entity}: flow {name} cannot be reconciled")
    return flow


async def reconcile(
    settings: BusSettings, codec: Codec, scope: Scope, progress: Progress, told: Callable[[str], None]
) -> Reconciliation:
    """Reads both ends and compares them; `told` hears of a wait for another command. Raises what the vendors' failures raise."""
    clock = SystemClock()
    published = await read_published(settings, codec)
    flow = flow_of(published.configuration, scope.flow)
    master = MasterKey.load(settings)
    grants = GrantFollower(settings, codec, master)
    await grants.start()
    source, target = (
        open_connection(published.configuration.connections[end.connection], grants.tokens(end.connection), clock, "people")
        for end in (flow.from_, flow.to)
    )

    async def work() -> Reconciliation:
        return await _reconciled(
            settings, codec, scope, published, (source, target), Privacy(master, clock=clock), clock, progress
        )

    try:
        return await in_turn(settings, (flow.from_.connection, flow.to.connection), work, told)
    finally:
        await source.close()
        await target.close()
        await grants.stop()


async def _reconciled(
    settings: BusSettings,
    codec: Codec,
    scope: Scope,
    published: Published,
    ends: tuple[OpenConnection, OpenConnection],
    privacy: Privacy,
    clock: Clock,
    progress: Progress,
) -> Reconciliation:
    """Steps: 1 what the bus knows, for a sample; 2 both sides; 3 what the bus knows now; 4 the comparison."""
    source, target = ends
    flow = published.configuration.flows[scope.flow]

    async def known() -> Known:
        states = await account_states(settings, codec, {flow.from_.connection, flow.to.connection})
        seen = await known_objects(settings, codec, flow.from_.connection)
        return Known(source=states[flow.from_.connection], target=states[flow.to.connection], seen=seen)

    def side(end: OpenConnection, entity: str) -> Side:
        return Side(end.connector, entity, lambda count: progress(end.document.name, count))

    sides = side(source, flow.from_.entity), side(target, flow.to.entity)
    # 1
    before = await known()
    chosen = sampled(before.seen, flow.from_.entity, scope.sample) if scope.sample is not None else None
    account = await target.connector.check()
    # 2
    ours, theirs = await _both(sides, before, flow, chosen)
    # 3
    now = before if chosen is not None else await known()
    # 4
    route = route_of(published.configuration, published.version, scope.flow)
    tenant = source.document.tenant
    comparison = Comparison(
        route=route,
        known=now,
        wanting=lambda state: Wanting(route, tenant, source.manifest.id, state, privacy, codec, clock),
        target_manifest=target.manifest,
        currency=account.currency,
        hasher=privacy.tenant_hasher(tenant),
        clock=clock,
    )
    verdict = await comparison.run(ours, theirs, chosen=chosen, since=scope.since, look_again=known, sides=sides)
    return Reconciliation(
        flow=scope.flow,
        source=source.document.name,
        target=target.document.name,
        configuration=published.version,
        read={source.document.name: len(ours), target.document.name: len(theirs)},
        calls={end.document.name: end.client.calls for end in ends},
        agreeing=verdict.agreeing,
        not_wanted=verdict.not_wanted,
        findings=sorted(verdict.findings, key=lambda item: (item.kind, item.source.id)),
        kept_otherwise=verdict.kept_otherwise,
        notes=verdict.notes,
    )


def route_of(configuration: Configuration, version: int, flow: str) -> Route:
    """A flow, compiled."""
    routes = compile_routes(configuration, version)
    return next(route for found in routes.by_source.values() for route in found if route.flow.name == flow)


def sampled(
    seen: Mapping[tuple[str, str], SeenRecord], entity: str, number: int, chance: random.Random | None = None
) -> list[str]:
    """So many ids of objects that polling knows, by chance."""
    ids = sorted(source_id for known, source_id in seen if known == entity)
    return sorted((chance or random.SystemRandom()).sample(ids, min(number, len(ids))))


async def _both(
    sides: tuple[Side, Side], known: Known, flow: Flow, chosen: Sequence[str] | None
) -> tuple[dict[str, Read], dict[str, Read]]:
    """Both sides at once; of a sample, the target objects it is linked with."""
    source, target = sides
    readings = (
        (source.everything(), target.everything())
        if chosen is None
        else (source.some(chosen), target.some(linked_with(known.target, flow, chosen)))
    )
    tasks = [asyncio.ensure_future(reading) for reading in readings]
    try:
        first, second = await asyncio.gather(*tasks)
    finally:  # where one side fails, nobody goes on reading the other
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return first, second


def linked_with(state: AccountState, flow: Flow, source_ids: Sequence[str]) -> list[str]:
    """Ids of the target objects that some source objects are linked with."""
    wanted = frozenset(source_ids)
    ends = flow.from_.connection, flow.from_.entity, flow.to.entity
    return sorted(
        {
            link.external_id
            for link in state.links()
            if (link.source.connection, link.source.entity, link.entity) == ends and link.source.id in wanted
        }
    )


# --- mending -------------------------------------------------------------------------------------------------------------------


def repairs(found: Reconciliation, flow: Flow) -> list[RequestRecord]:
    """What asks the services to mend the findings: objects at the target only are listed and never touched.

    An object whose source says what its last event says is sent once more, compared with what the target holds now; one whose
    source has moved on is read anew, and comes through the flow as any change does.
    """
    fit = [item for item in found.findings if item.kind != "extra" and not item.in_flight]
    asked = []
    common = {"reason": f"reconcile {found.flow}", "entity": flow.from_.entity}
    for keys in _batches([item.source.id for item in fit if item.mend == "replay"]):
        args = {**common, "flow": found.flow, "keys": keys, "repair": "true"}
        asked.append(request(RequestKind.REPLAY, found.source, args))
    for keys in _batches([item.source.id for item in fit if item.mend == "resync"]):
        asked.append(request(RequestKind.RESYNC, found.source, {**common, "keys": keys}))
    return asked


def _batches(keys: Sequence[str]) -> list[str]:
    """JSON lists of at most KEYS_MAX keys."""
    parts = (keys[start : start + KEYS_MAX] for start in range(0, len(keys), KEYS_MAX))
    return [msgspec.json.encode(list(part)).decode() for part in parts]


async def ask_repairs(settings: BusSettings, codec: Codec, found: Reconciliation) -> list[RequestRecord]:
    """Publishes the repairs, all or none."""
    published = await read_published(settings, codec)
    asked = repairs(found, published.configuration.flows[found.flow])
    if asked:
        await ask(settings, codec, asked)
    return asked


def keys_of(asked: RequestRecord) -> list[str]:
    """Source ids that a request names."""
    return msgspec.json.decode(asked.args["keys"], type=list[str])
