"""Looks at a pair of simulated systems as the comparison does, with the log in memory for Kafka."""

from collections.abc import Iterable
from typing import Any

from bus.core import topics
from services.comparison.foresight import Account, Foreseen, Foresight, foresee_all
from services.comparison.rehearsal import RecordedAccount
from services.comparison.selection import Selection, chosen_routes
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
