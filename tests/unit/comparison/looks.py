"""Looks at a pair of simulated systems as the comparison does, with the log in memory for Kafka."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from bus.core import topics
from services.comparison.comparing import Comparison, Known, Verdict
from services.comparison.foresight import Account, Foreseen, Foresight, foresee_all
from services.comparison.reading import Side
from services.comparison.reconciling import linked_with
from services.comparison.rehearsal import RecordedAccount
from services.comparison.selection import Selection, chosen_routes
from services.comparison.wanting import Wanting
from tests.fakes import FakePrivacy
from tests.unit.pair.rig import Pair, accepted_target


def newest(pair: Pair, entity: str, wanted: Any) -> dict[str, bytes]:
    """The newest event of each object."""
    log = pair.log.topic(topics.canonical(entity))
    return {record.key: record.value for record in log if record.value is not None and wanted(record.key)}


async def foreseen(pair: Pair, flow: str, *keys: str, repair: bool = False) -> list[Foreseen]:
    """What a replay of a flow would come to."""
    route = next(route for found in pair.routes.by_source.values() for route in found if route.flow.name == flow)
    source = route.flow.from_
    selection = Selection(connection=source.connection, flows=(flow,), keys=keys, repair=repair)
    side = pair.side(accepted_target(pair, flow))
    state = pair.state(side)
    recorded = RecordedAccount(side.name, side.connector, state, pair.codec, FakePrivacy())
    accounts = {side.name: Account(recorded=recorded, state=state, hasher=pair.hasher)}

    async def look_up(connection: str, entity: str, ids: Iterable[str]) -> None:
        for external_id in ids:
            key = topics.event_key(connection, entity, external_id)
            recorded.learn(entity, external_id, newest(pair, entity, key.__eq__).get(key))

    events = {source.entity: newest(pair, source.entity, selection.wanted_key(source.entity))}
    sight = Foresight(accounts, pair.routes, pair.codec, FakePrivacy(), pair.clock)
    return await foresee_all(sight, accounts, chosen_routes(pair.routes, selection), events, pair.codec, look_up, repair=repair)


async def foreseen_one(pair: Pair, flow: str, key: str, *, repair: bool = False) -> Foreseen:
    """What a replay of one object would come to."""
    (found,) = await foreseen(pair, flow, key, repair=repair)
    return found


def known(pair: Pair, source: str, target: str) -> Known:
    """What the bus knows of both accounts, by the log."""
    seen = {}
    for record in pair._of(pair.side(source), topics.SEEN):
        item = pair.codec.decode(topics.SEEN, record.value)
        seen[item.entity, item.source_id] = item
    alive = {key: item for key, item in seen.items() if item.content_hash and not item.deleted}
    return Known(source=pair.state(pair.side(source)), target=pair.state(pair.side(target)), seen=alive)


async def reconciled(
    pair: Pair, flow: str, *, chosen: list[str] | None = None, since: datetime | None = None, late: Any = None
) -> Verdict:
    """Both ends of a flow, live. `late` happens between the two looks."""
    route = next(route for found in pair.routes.by_source.values() for route in found if route.flow.name == flow)
    source, target = pair.side(route.flow.from_.connection), pair.side(route.flow.to.connection)
    sides = Side(source.connector, route.flow.from_.entity), Side(target.connector, route.flow.to.entity)
    before = known(pair, source.name, target.name)
    account = await target.connector.check()
    if chosen is None:
        ours, theirs = await sides[0].everything(), await sides[1].everything()
    else:
        ours, theirs = await sides[0].some(chosen), await sides[1].some(linked_with(before.target, route.flow, chosen))

    async def look_again() -> Known:
        if late is not None:
            late()
        return known(pair, source.name, target.name)

    comparison = Comparison(
        route=route,
        known=before,
        wanting=lambda state: Wanting(route, "acme", source.loaded.manifest.id, state, FakePrivacy(), pair.codec, pair.clock),
        target_manifest=target.loaded.manifest,
        currency=account.currency,
        hasher=pair.hasher,
        clock=pair.clock,
    )
    return await comparison.run(ours, theirs, chosen=chosen, since=since, look_again=look_again, sides=sides)
