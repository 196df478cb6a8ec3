"""What a replay, a redrive or a resync would write, object by object, without a call to any vendor and without a write.

The source is what the canonical topic holds; mapping and decision are those of processors and sinks; what the target holds is
what its own poller read last. Where that is not known well enough, it is said, never guessed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import SystemClock
from bus.runtime.codec import Codec
from bus.runtime.follow import SubjectKeys
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.publication import read_published
from bus.runtime.settings import BusSettings
from bus.runtime.state import AccountState
from services.comparison.foresight import Account, Foreseen, Foresight, foresee_all
from services.comparison.knowledge import account_states, newest_events
from services.comparison.rehearsal import RecordedAccount, silent_connector
from services.comparison.selection import Selection, chosen_routes
from services.processors.routes import Route, compile_routes


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection would come to."""

    configuration: int
    items: list[Foreseen]
    left_out: int = 0
    """Objects beyond the bound of one look."""
    notes: list[str] = []

    def counts(self) -> dict[str, Counter[str]]:
        """How many objects come to what, by flow."""
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for item in self.items:
            found[item.flow][item.what] += 1
        return dict(found)


async def preview(settings: BusSettings, codec: Codec, selection: Selection) -> Preview:
    """What a selection would come to. Raises SettingsError for a connection, entity or flow that there is not."""
    published = await read_published(settings, codec)
    routes = compile_routes(published.configuration, published.version)
    chosen = chosen_routes(routes, selection)
    events, left_out = await _events(settings, codec, selection, sorted({route.flow.from_.entity for route in chosen}))
    clock = SystemClock()
    privacy = Privacy(MasterKey.load(settings), clock=clock)
    keys = SubjectKeys(settings, codec, privacy)
    await keys.start()
    try:
        states = await account_states(settings, codec, {route.flow.to.connection for route in chosen})
        accounts = {}
        for name, state in states.items():
            document = published.configuration.connections[name]
            planner = silent_connector(document, clock)
            recorded = RecordedAccount(name, planner, state, codec, privacy)
            accounts[name] = Account(recorded=recorded, state=state, hasher=privacy.tenant_hasher(document.tenant))

        async def look_up(connection: str, entity: str, ids: Iterable[str]) -> None:
            wanted = {topics.event_key(connection, entity, external_id): external_id for external_id in ids}
            found = await newest_events(settings, entity, wanted.__contains__)
            for key, external_id in wanted.items():
                accounts[connection].recorded.learn(entity, external_id, found.get(key))

        foresight = Foresight(accounts, routes, codec, privacy, clock)
        items = await foresee_all(foresight, accounts, chosen, events, codec, look_up, repair=selection.repair)
    finally:
        await keys.stop()
    notes = [*_notes(selection, events), *_brakes(chosen, states)]
    return Preview(configuration=published.version, items=items, left_out=left_out, notes=notes)


def _brakes(chosen: Sequence[Route], states: Mapping[str, AccountState]) -> list[str]:
    """Open brakes: what is told waits behind them."""
    found = []
    for route in chosen:
        for flow, what in (("", f"account {route.flow.to.connection}"), (route.flow.name, f"flow {route.flow.name}")):
            brake = states[route.flow.to.connection].brakes.get(flow)
            if brake is not None and brake.open:
                found.append(f"the brake of {what} is open: what is told here waits until it closes")
    return list(dict.fromkeys(found))


def _notes(selection: Selection, events: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    notes = []
    if selection.asked == "resync":
        notes.append("the vendor was not asked: told is what each object comes to if it is read unchanged")
    for source_id in selection.keys:
        if not any(topics.event_key(selection.connection, entity, source_id) in found for entity, found in events.items()):
            notes.append(f"{source_id}: no event of it is kept, or none of the time asked for")
    return notes


async def _events(
    settings: BusSettings, codec: Codec, selection: Selection, entities: Sequence[str]
) -> tuple[dict[str, dict[str, bytes]], int]:
    """Newest events by entity and key, and how many were left out."""
    found: dict[str, dict[str, bytes]] = {}
    room, left_out = selection.objects_max, 0
    for entity in entities:
        newest = await newest_events(settings, entity, selection.wanted_key(entity))
        if selection.since is not None or selection.until is not None:
            newest = {key: raw for key, raw in newest.items() if selection.takes(await _meta(codec, entity, raw))}
        kept = dict(sorted(newest.items())[:room])
        room, left_out = room - len(kept), left_out + len(newest) - len(kept)
        found[entity] = kept
    return found, left_out


async def _meta(codec: Codec, entity: str, raw: bytes) -> Any:
    return (await codec.read(topics.canonical(entity), raw)).meta


def merged(previews: Sequence[Preview]) -> Preview:
    """Several looks as one."""
    return Preview(
        configuration=max((item.configuration for item in previews), default=0),
        items=[item for preview in previews for item in preview.items],
        left_out=sum(item.left_out for item in previews),
        notes=list(dict.fromkeys(note for preview in previews for note in preview.notes)),
    )
