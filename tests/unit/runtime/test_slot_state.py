"""The state of an account: whatever lies in memory, on disk or in an index, the answers are those of a dict."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus.core import topics
from bus.core.clock import FrozenClock
from bus.core.errors import MappingError
from bus.runtime import table as tables
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.slotstate import SlotState
from bus.runtime.state import (
    AccountState,
    backfill_key,
    budget_key,
    intent_key,
    link_key,
    object_key,
    offset_key,
    standing_key,
)
from schemas.system import (
    BackfillRecord,
    BudgetRecord,
    IntentRecord,
    IntentState,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    OffsetRecord,
    Outcome,
    Standing,
    StandingRecord,
    StateRecord,
)
from tests.unit.runtime.logs import Log
from tests.unit.runtime.releases import OtherRelease

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
HERE, OTHER = "here", "other"
ENTITIES = ["customer", "product"]
IDS = ["1", "10", "é|%C3"]
"""Few of everything, so that records meet; odd ones, so that keys are encoded; one that begins like another."""
MATCHES = ["sku:1", "sku:10", "odd|key%"]
FACETS = [None, "EUR"]
FLOWS = ["f", "f|g"]
SOURCES = [ObjectRef(connection="peer", entity="customer", id=own) for own in ("7", "7|8")]


class Model:
    """As the state was before there was a disk: a dict per kind, searched from end to end."""

    def __init__(self) -> None:
        self.records: dict[str, StateRecord] = {}

    def apply(self, key: str, record: StateRecord | None) -> None:
        self.records.pop(key, None)
        if record is not None:
            self.records[key] = record

    def _all(self, kind: str) -> Iterator[tuple[str, Any]]:
        for key, record in self.records.items():
            if getattr(record, kind) is not None:
                yield key, getattr(record, kind)

    def answers(self) -> dict[str, Any]:
        objects = {tuple(topics.split_key(key)[2:]): state for key, state in self._all("object")}
        links = dict(self._all("link"))
        return {
            "objects": objects,
            "links": links,
            "candidates": {
                (entity, match): {
                    i for (e, i), state in objects.items() if e == entity and state.active and match in state.match_keys
                }
                for entity in ENTITIES
                for match in MATCHES
            },
            "links_to": {
                (entity, own): [
                    links[key] for key in sorted(links) if (links[key].entity, links[key].external_id) == (entity, own)
                ]
                for entity in ENTITIES
                for own in IDS
            },
            "facets": {
                (entity, source): sorted(
                    link.facet
                    for link in links.values()
                    if (link.entity, link.source, link.state) == (entity, source, LinkState.ACTIVE) and link.facet
                )
                for entity in ENTITIES
                for source in SOURCES
            },
            "intents": dict(self._all("intent")),
            "open": {key for key, intent in self._all("intent") if intent.state is IntentState.OPEN},
            "standings": dict(self._all("standing")),
            "parked": {key for key, record in self._all("standing") if record.standing in (Standing.PARKED, Standing.WAITING)},
            "counts": {flow: Counter(r.standing for _, r in self._all("standing") if r.flow == flow) for flow in FLOWS},
            "offset": next((record.offset for _, record in self._all("offset")), None),
            "backfilled": {record.entity for _, record in self._all("backfill") if record.complete},
            "budgets": {record.limit: record for _, record in self._all("budget")},
        }


def answers(state: AccountState) -> dict[str, Any]:
    """The same questions, to the real one."""
    objects = {(e, i): state.object(e, i) for e in ENTITIES for i in IDS}
    links = {link_key(HERE, e, s, f): state.link(e, s, f) for e in ENTITIES for s in SOURCES for f in FACETS}
    intents = {intent_key(HERE, e, s, f): state.intent(e, s, f) for e in ENTITIES for s in SOURCES for f in FACETS}
    standings = {standing_key(HERE, f, s): state.standing(f, s) for f in FLOWS for s in SOURCES}
    assert {standing_key(HERE, r.flow, r.source): r for r in state.standings()} == _there(standings)
    return {
        "objects": _there(objects),
        "links": _there(links),
        "candidates": {(e, m): state.candidates(e, m) for e in ENTITIES for m in MATCHES},
        "links_to": {(e, i): state.links_to(e, i) for e in ENTITIES for i in IDS},
        "facets": {(e, s): state.facets(e, s) for e in ENTITIES for s in SOURCES},
        "intents": _there(intents),
        "open": {intent_key(HERE, r.entity, r.source, r.facet) for r in state.open_intents()},
        "standings": _there(standings),
        "parked": {standing_key(HERE, r.flow, r.source) for r in state.parked()},
        "counts": {flow: state.counts(flow) for flow in FLOWS},
        "offset": state.offset,
        "backfilled": state.backfilled,
        "budgets": state.budgets,
    }


def _there(found: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in found.items() if value is not None}


def object_of(entity: str, own: str, matches: list[str], active: bool) -> tuple[str, StateRecord]:
    state = ObjectState(version="1", field_hashes={"name": "0011223344556677"}, match_keys=sorted(set(matches)), active=active)
    return object_key(HERE, entity, own), StateRecord(connection=HERE, object=state)


def link_of(entity: str, source: ObjectRef, facet: str | None, own: str, state: LinkState) -> tuple[str, StateRecord]:
    link = LinkRecord(source=source, entity=entity, facet=facet, external_id=own, state=state)
    return link_key(HERE, entity, source, facet), StateRecord(connection=HERE, link=link)


def intent_of(entity: str, source: ObjectRef, facet: str | None, state: IntentState, own: str) -> tuple[str, StateRecord]:
    intent = IntentRecord(
        source=source,
        entity=entity,
        facet=facet,
        state=state,
        command=b"c",
        external_id=own,
        deadline_boot_ms=1,
        boot_id="b",
        opened_at=NOW,
    )
    return intent_key(HERE, entity, source, facet), StateRecord(connection=HERE, intent=intent)


def standing_of(flow: str, source: ObjectRef, standing: Standing, seq: int) -> tuple[str, StateRecord]:
    record = StandingRecord(
        flow=flow, source=source, seq=seq, config_version=1, standing=standing, outcome=Outcome.PARKED, settled_at=NOW
    )
    return standing_key(HERE, flow, source), StateRecord(connection=HERE, standing=record)


def few_of(number: int) -> tuple[str, StateRecord]:
    entity, limit = ENTITIES[number % 2], f"limit{number % 2}"
    return [
        (offset_key(HERE), StateRecord(connection=HERE, offset=OffsetRecord(offset=number))),
        (backfill_key(HERE, entity), StateRecord(connection=HERE, backfill=BackfillRecord(entity=entity, complete=True))),
        (budget_key(HERE, limit), StateRecord(connection=HERE, budget=BudgetRecord(limit=limit, window_start=NOW, used=number))),
    ][number % 3]


RECORDS = st.one_of(
    st.builds(
        object_of, st.sampled_from(ENTITIES), st.sampled_from(IDS), st.lists(st.sampled_from(MATCHES), max_size=3), st.booleans()
    ),
    st.builds(
        link_of,
        st.sampled_from(ENTITIES),
        st.sampled_from(SOURCES),
        st.sampled_from(FACETS),
        st.sampled_from(IDS),
        st.sampled_from([LinkState.ACTIVE, LinkState.ACTIVE, LinkState.CONFLICT, LinkState.RETIRED]),
    ),
    st.builds(
        intent_of,
        st.sampled_from(ENTITIES),
        st.sampled_from(SOURCES),
        st.sampled_from(FACETS),
        st.sampled_from([IntentState.OPEN, IntentState.CLOSED]),
        st.sampled_from(IDS),
    ),
    st.builds(standing_of, st.sampled_from(FLOWS), st.sampled_from(SOURCES), st.sampled_from(list(Standing)), st.integers(1, 9)),
    st.builds(few_of, st.integers(0, 20)),
)
MANY = ("object", "link", "intent", "standing")
"""Kinds of records that may be deleted; the few others are only ever replaced."""
GONE = RECORDS.filter(lambda found: found[0].startswith(MANY)).map(lambda found: (found[0], None))
CHANGES = st.one_of(RECORDS, RECORDS, GONE)


class Owners(RuleBasedStateMachine):
    """One owner after another of a slot whose topic is compacted now and then, beside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folders = TemporaryDirectory()
        self.lives = 0
        self.folder = Path(self.folders.name) / "0"
        self.loop = asyncio.Runner()
        self.log, self.clock, self.codec, self.model = Log(), FrozenClock(), Codec.offline(), Model()
        self.patch.setattr(tables, "LogReader", self.log.reader)

    @initialize()
    def begin(self) -> None:
        self.slot = self._owner()

    def _owner(self) -> SlotState:
        slot = SlotState(BusSettings(data_dir=self.folder), self.codec, "sinks", 3, [HERE], clock=self.clock)
        self.loop.run(slot.load())
        return slot

    @property
    def state(self) -> AccountState:
        return self.slot.accounts[HERE]

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=10))
    def commit(self, changes: list[tuple[str, StateRecord | None]]) -> None:
        """The owner commits and applies."""
        self.log.commit(
            *((key, self.codec.encode(topics.STATE, record) if record is not None else None) for key, record in changes)
        )
        for key, record in changes:
            self.state.apply(key, record)
            self.model.apply(key, record)

    @rule(number=st.integers(0, 2))
    def commit_elsewhere(self, number: int) -> None:
        """A record of an account that is not ours, which nobody could read."""
        self.log.commit((object_key(OTHER, "customer", str(number)), b"no record at all"))

    @rule()
    def refresh(self) -> None:
        self.loop.run(self.slot.refresh())
        assert self.state.recent() == 0

    @rule(during=st.lists(CHANGES, min_size=1, max_size=3))
    def refresh_while_committing(self, during: list[tuple[str, StateRecord | None]]) -> None:
        """A commit that lands behind the end that was asked for stays in memory, and hides what is read below it."""
        reader: Any = self.slot._table._reader
        real = reader.ends

        async def busy(topic: str) -> dict[int, int]:
            ends: dict[int, int] = await real(topic)
            self.commit(during)
            return ends

        reader.ends = busy
        self.loop.run(self.slot.refresh())
        reader.ends = real
        assert self.state.recent() == len({key for key, _ in during})

    @rule()
    def compact(self) -> None:
        self.log.compact()

    @rule()
    def hand_over(self) -> None:
        self.loop.run(self.slot.close())
        self.slot = self._owner()
        assert self.slot.is_warm

    @rule()
    def killed(self) -> None:
        """What a dead process leaves: the files as they are, without what it had not flushed."""
        self.lives += 1
        before, self.folder = self.folder, Path(self.folders.name) / str(self.lives)
        shutil.copytree(before, self.folder)
        self.loop.run(self.slot.close())
        self.slot = self._owner()

    @rule()
    def lost(self) -> None:
        self.loop.run(self.slot.close())
        shutil.rmtree(self.folder / "cache")
        self.slot = self._owner()
        assert not self.slot.is_warm

    @rule()
    def too_old(self) -> None:
        """Nobody read for a day: tombstones are gone from the topic by now."""
        self.loop.run(self.slot.close())
        self.log.compact(tombstones=True)
        self.clock.advance(86_401)
        self.slot = self._owner()
        assert not self.slot.is_warm

    @invariant()
    def same_answers(self) -> None:
        expected = self.model.answers()
        assert answers(self.state) == expected

    def teardown(self) -> None:
        self.loop.run(self.slot.close())
        self.loop.close()
        self.patch.undo()
        self.folders.cleanup()


Owners.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOwners = Owners.TestCase


# --- the same, one history at a time -----------------------------------------------------------------------------------------


class Topic:
    """`bus.state` of one slot, and processes that read it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log, self.codec, self.clock = folder, Log(), Codec.offline(), FrozenClock()
        monkeypatch.setattr(tables, "LogReader", self.log.reader)

    async def slot(self, service: str = "sinks") -> SlotState:
        slot = SlotState(BusSettings(data_dir=self.folder), self.codec, service, 3, [HERE], clock=self.clock)
        await slot.load()
        return slot

    def commit(self, slot: SlotState, *changes: tuple[str, StateRecord | None], codec: Any = None) -> None:
        codec = codec or self.codec
        self.log.commit(*((key, codec.encode(topics.STATE, record) if record else None) for key, record in changes))
        for key, record in changes:
            slot.accounts[HERE].apply(key, record)


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topic:
    return Topic(tmp_path, monkeypatch)


async def test_a_match_key_that_an_object_lost_no_longer_answers(topic: Topic) -> None:
    slot = await topic.slot()
    state = slot.accounts[HERE]
    topic.commit(slot, object_of("product", "1", ["sku:1"], True), object_of("product", "10", ["sku:1"], False))
    await slot.refresh()
    assert state.candidates("product", "sku:1") == {"1"}
    topic.commit(slot, object_of("product", "1", ["sku:10"], True))
    for _ in range(2):  # in memory, then on disk
        assert state.candidates("product", "sku:1") == set() and state.candidates("product", "sku:10") == {"1"}
        await slot.refresh()
    await slot.close()


async def test_a_link_that_was_moved_ends_where_it_ends_now(topic: Topic) -> None:
    slot = await topic.slot()
    state = slot.accounts[HERE]
    topic.commit(slot, link_of("customer", SOURCES[0], "EUR", "1", LinkState.ACTIVE))
    await slot.refresh()
    topic.commit(slot, link_of("customer", SOURCES[0], "EUR", "10", LinkState.ACTIVE))
    for _ in range(2):
        assert state.links_to("customer", "1") == [] and [link.external_id for link in state.links_to("customer", "10")] == ["10"]
        assert state.facets("customer", SOURCES[0]) == ["EUR"] and state.active_link_to("customer", "10", "peer")
        await slot.refresh()
    await slot.close()


async def test_what_was_closed_meanwhile_is_not_opened_by_what_is_read(topic: Topic) -> None:
    slot = await topic.slot()
    state = slot.accounts[HERE]
    parked = standing_of("f", SOURCES[0], Standing.PARKED, 1)
    topic.commit(slot, intent_of("customer", SOURCES[0], None, IntentState.OPEN, "1"), parked)
    reader: Any = slot._table._reader
    real = reader.ends

    async def busy(name: str) -> dict[int, int]:
        ends: dict[int, int] = await real(name)
        closed = intent_of("customer", SOURCES[0], None, IntentState.CLOSED, "1")
        topic.commit(slot, closed, standing_of("f", SOURCES[0], Standing.WRITTEN, 1))
        reader.ends = real
        return ends

    reader.ends = busy
    for left in (2, 0):
        await slot.refresh()
        assert list(state.open_intents()) == [] and list(state.parked()) == []
        assert (standing := state.standing("f", SOURCES[0])) is not None and standing.standing is Standing.WRITTEN
        assert state.recent() == left
    await slot.close()


async def test_another_process_sees_what_changed_after_it_looked(topic: Topic) -> None:
    sink, poller = await topic.slot("sinks"), await topic.slot("pollers")
    topic.commit(sink, object_of("product", "1", [], True), standing_of("f", SOURCES[0], Standing.PARKED, 1))
    await poller.refresh()
    view = poller.accounts[HERE]
    assert (known := view.object("product", "1")) is not None and known.active and len(list(view.parked())) == 1
    topic.commit(sink, object_of("product", "1", [], False), standing_of("f", SOURCES[0], Standing.WRITTEN, 1))
    await poller.refresh()
    assert (known := view.object("product", "1")) is not None and not known.active and list(view.parked()) == []
    await sink.close()
    await poller.close()


async def test_memory_holds_what_is_not_read_back_and_the_few(topic: Topic) -> None:
    slot = await topic.slot()
    state = slot.accounts[HERE]
    topic.commit(slot, *(object_of("product", str(number), [f"sku:{number}"], True) for number in range(50)))
    topic.commit(slot, intent_of("customer", SOURCES[0], None, IntentState.OPEN, "1"))
    assert state.recent() == 51
    await slot.refresh()
    assert state.recent() == 0 and not state._hints and len(state._open) == 1
    await slot.close()
    slot = await topic.slot()
    assert slot.is_warm and [intent.external_id for intent in slot.accounts[HERE].open_intents()] == ["1"]
    await slot.close()


async def test_records_of_another_release_are_indexed_and_read(topic: Topic) -> None:
    """Its schema is learnt while reading, and before a warm start looks anything up."""
    other = OtherRelease(topic.codec)
    slot = await topic.slot()
    learnt: list[int] = []

    async def learn(schema_id: int) -> None:
        learnt.append(schema_id)
        other.teach(topics.STATE)

    topic.codec.learn = learn  # type: ignore[method-assign]
    changes = [
        object_of("product", "1", ["sku:1"], True),
        link_of("product", SOURCES[0], None, "1", LinkState.ACTIVE),
        intent_of("product", SOURCES[0], None, IntentState.OPEN, "1"),
        standing_of("f", SOURCES[0], Standing.WAITING, 1),
    ]
    topic.commit(slot, *changes, codec=other)
    await slot.refresh()
    for _ in range(2):
        state = slot.accounts[HERE]
        assert state.candidates("product", "sku:1") == {"1"} and len(state.links_to("product", "1")) == 1
        assert len(list(state.open_intents())) == 1 and len(list(state.parked())) == 1
        await slot.close()
        topic.codec._writers.clear()
        learnt.clear()
        slot = await topic.slot()
        assert slot.is_warm and learnt
    await slot.close()


async def test_a_damaged_record_of_ours_is_told_and_one_of_others_is_passed_by(topic: Topic) -> None:
    slot = await topic.slot()
    topic.log.commit((object_key(OTHER, "product", "1"), b"no record at all"))
    await slot.refresh()
    topic.log.commit((object_key(HERE, "product", "1"), topic.codec.frame(topics.STATE) + b"\xff\xff"))
    with pytest.raises(MappingError):
        await slot.refresh()
    await slot.close()
