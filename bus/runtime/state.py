"""What `bus.state` says of one account: objects, links, intents, standings, offset, back-fill.

The sink that owns the account's slot is the only writer; the account's poller reads the same view to tell echoes from news.
Records are applied in the order they were committed, so both see the same state.

Two layers: what the owner committed lately, as records in memory; and below it what was read from the topic, in a store on local
disk. A record in memory hides the one below and goes when the store has it. An index entry of either layer is a hint where to
look, never the answer: the record says whether it is still so, and therefore nothing has to be looked up when one is replaced.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol

from bus.core import topics
from schemas.system import (
    BrakeRecord,
    BudgetRecord,
    IntentRecord,
    IntentState,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    Standing,
    StandingRecord,
    StateRecord,
)

WAITING = (Standing.PARKED, Standing.WAITING)
"""Standings of commands that are tried again."""


def object_key(connection: str, entity: str, external_id: str) -> str:
    """Key of an object record."""
    return topics.key("object", connection, entity, external_id)


def link_key(connection: str, entity: str, source: ObjectRef, facet: str | None) -> str:
    """Key of a link record."""
    return topics.key("link", connection, entity, source.connection, source.entity, source.id, facet or "")


def intent_key(connection: str, entity: str, source: ObjectRef, facet: str | None) -> str:
    """Key of an intent record: one open intent per target object at most."""
    return topics.key("intent", connection, entity, source.connection, source.entity, source.id, facet or "")


def standing_key(connection: str, flow: str, source: ObjectRef) -> str:
    """Key of a standing record: one per flow and source object, so that counts cannot overlap."""
    return topics.key("standing", connection, flow, source.connection, source.entity, source.id)


def offset_key(connection: str) -> str:
    """Key of the offset record."""
    return topics.key("offset", connection)


def backfill_key(connection: str, entity: str) -> str:
    """Key of a back-fill record."""
    return topics.key("backfill", connection, entity)


def budget_key(connection: str, limit: str) -> str:
    """Key of a budget record."""
    return topics.key("budget", connection, limit)


def requests_key(connection: str) -> str:
    """Key of the offset record of `bus.requests`: where the account's sink goes on reading what operators ask."""
    return topics.key("requests", connection)


def brake_key(connection: str, flow: str) -> str:
    """Key of a brake record; an empty flow is the whole account."""
    return topics.key("brake", connection, flow)


def match_place(connection: str, entity: str, match_key: str) -> str:
    """Where the index holds the ids that answer a match key; an id follows, as keys hold it."""
    return f"{topics.key('match', connection, entity)}|{_part(match_key)}|"


def target_place(connection: str, entity: str, external_id: str) -> str:
    """Where the index holds the links that end at an object; the key of a link follows."""
    return f"{topics.key('to', connection, entity)}|{_part(external_id)}|"


def _part(text: str) -> str:
    """Of a place: written a million times at a cold start, so no more is encoded than must be."""
    return text.replace("%", "%25").replace("|", "%7C")


class Below(Protocol):
    """The records of an account that were read from the topic."""

    def record(self, key: str) -> StateRecord | None:
        """The record of a key, decoded."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Keys of records that begin with `prefix`."""
        ...

    def records(self, prefix: str) -> Iterable[tuple[str, StateRecord]]:
        """Records whose keys begin with `prefix`, decoded one by one."""
        ...

    def entries(self, prefix: str) -> list[str]:
        """What follows `prefix` in index entries."""
        ...


class Nothing:
    """Where all there is was applied by hand: tests, and a store-less view."""

    def record(self, key: str) -> StateRecord | None:
        """No record."""
        return None

    def keys(self, prefix: str) -> list[str]:
        """No keys."""
        return []

    def records(self, prefix: str) -> Iterable[tuple[str, StateRecord]]:
        """No records."""
        return []

    def entries(self, prefix: str) -> list[str]:
        """No entries."""
        return []


class AccountState:
    """The state of one account."""

    def __init__(self, connection: str, below: Below | None = None) -> None:
        self.connection = connection
        self.offset: int | None = None
        self.requests: int | None = None
        """Next offset of `bus.requests`; None: nothing was asked of this account yet."""
        self.backfilled: set[str] = set()
        self.budgets: dict[str, BudgetRecord] = {}
        """Calls of a day, by limit."""
        self.brakes: dict[str, BrakeRecord] = {}
        """By flow; empty: the whole account."""
        self._below = below or Nothing()
        self._recent: dict[str, tuple[int, StateRecord | None]] = {}
        """By key: the number of the change, and the record; the latest at the end."""
        self._changes = 0
        self._hints: defaultdict[str, set[str]] = defaultdict(set)
        """Index of `_recent`: place to ids or keys, as keys hold them."""
        self._open: dict[str, IntentRecord] = {}
        """The few that have not ended: the poller asks for these with every record."""
        self._parked: dict[str, StandingRecord] = {}
        self._counts: Counter[tuple[str, Standing]] = Counter()
        """By flow and standing; kept by the account's owner."""

    # --- reading -----------------------------------------------------------------------------------------------------------

    def object(self, entity: str, external_id: str) -> ObjectState | None:
        """What an object of this account held when last written or seen."""
        record = self._record(object_key(self.connection, entity, external_id))
        return record.object if record is not None else None

    def link(self, entity: str, source: ObjectRef, facet: str | None = None) -> LinkRecord | None:
        """The link of a source object."""
        record = self._record(link_key(self.connection, entity, source, facet))
        return record.link if record is not None else None

    def facets(self, entity: str, source: ObjectRef) -> list[str]:
        """Facets under which a source object has active links, in order."""
        place = link_key(self.connection, entity, source, None)  # its facet is empty: those of all others begin with it
        found = (self._link(key) for key in {*self._below.keys(place), *self._hints.get(place, ())})
        return sorted(link.facet for link in found if link is not None and link.facet and link.state is LinkState.ACTIVE)

    def links(self) -> Iterable[LinkRecord]:
        """All links of this account, read from the disk one by one."""
        return (record.link for record in self._all("link") if record.link is not None)

    def links_to(self, entity: str, external_id: str) -> list[LinkRecord]:
        """All links that end at one object of this account, in the order of their keys."""
        place = target_place(self.connection, entity, external_id)
        keys = {*self._below.entries(place), *self._hints.get(place, ())}
        found = (self._link(key) for key in sorted(keys))
        return [link for link in found if link is not None and (link.entity, link.external_id) == (entity, external_id)]

    def intent(self, entity: str, source: ObjectRef, facet: str | None = None) -> IntentRecord | None:
        """The newest intent of a source object, open or closed."""
        record = self._record(intent_key(self.connection, entity, source, facet))
        return record.intent if record is not None else None

    def open_intents(self) -> Iterator[IntentRecord]:
        """Writes begun and not known to have ended."""
        return iter(list(self._open.values()))

    def standing(self, flow: str, source: ObjectRef) -> StandingRecord | None:
        """Where the newest version of a source object stands in a flow."""
        record = self._record(standing_key(self.connection, flow, source))
        return record.standing if record is not None else None

    def standings(self) -> Iterable[StandingRecord]:
        """All standings, read from the disk one by one."""
        return (record.standing for record in self._all("standing") if record.standing is not None)

    def counts(self, flow: str) -> dict[Standing, int]:
        """How many source objects stand where in a flow, what is committed and not yet read back included."""
        return {standing: number for (name, standing), number in self._counts.items() if name == flow and number}

    def recall_count(self, flow: str, standing: Standing, number: int) -> None:
        """What the table below holds, when it was read."""
        self._counts[flow, standing] = number

    def parked(self) -> Iterator[StandingRecord]:
        """Commands that wait."""
        return iter(list(self._parked.values()))

    def candidates(self, entity: str, match_key: str) -> set[str]:
        """Ids of active objects of this account that answer a match key."""
        place = match_place(self.connection, entity, match_key)
        found = set()
        for hint in {*self._below.entries(place), *self._hints.get(place, ())}:
            (external_id,) = topics.split_key(hint)
            known = self.object(entity, external_id)
            if known is not None and known.active and match_key in known.match_keys:
                found.add(external_id)
        return found

    def active_link_to(self, entity: str, external_id: str, peer: str) -> LinkRecord | None:
        """The active link that joins an object of this account with one of a peer account."""
        return next(
            (
                link
                for link in self.links_to(entity, external_id)
                if link.source.connection == peer and link.state is LinkState.ACTIVE
            ),
            None,
        )

    def _all(self, kind: str) -> Iterator[StateRecord]:
        place = f"{topics.key(kind, self.connection)}|"
        recent = {key: record for key, (_, record) in self._recent.items() if key.startswith(place)}
        yield from (record for record in recent.values() if record is not None)
        yield from (record for key, record in self._below.records(place) if key not in recent)

    def _record(self, key: str) -> StateRecord | None:
        recent = self._recent.get(key)
        return recent[1] if recent is not None else self._below.record(key)

    def _link(self, key: str) -> LinkRecord | None:
        record = self._record(key)
        return record.link if record is not None else None

    # --- applying ----------------------------------------------------------------------------------------------------------

    def apply(self, key: str, record: StateRecord | None) -> None:
        """Applies one record that its owner has committed; None is a tombstone."""
        self._changes += 1
        if key.startswith("standing|"):
            self._count(self._record(key), -1)
            self._count(record, 1)
        if (before := self._recent.pop(key, None)) is not None:
            self._unhint(key, before[1])
        self._recent[key] = (self._changes, record)
        for place, hint in self._places(key, record):
            self._hints[place].add(hint)
        self._keep(key, record)

    def _count(self, record: StateRecord | None, step: int) -> None:
        if record is not None and record.standing is not None:
            self._counts[record.standing.flow, record.standing.standing] += step

    def keep(self, key: str, record: StateRecord | None) -> None:
        """A record of the store that belongs in memory; None: it does not any more. What was committed since counts instead."""
        if key not in self._recent:
            self._keep(key, record)

    def mark(self) -> int:
        """The number of the last change applied; see `settled`."""
        return self._changes

    def recent(self) -> int:
        """Records in memory that the store does not have yet."""
        return len(self._recent)

    def settled(self, mark: int) -> None:
        """The store below was read to an end asked for after `mark`: what was applied until then is in it, and leaves memory."""
        while self._recent:
            key = next(iter(self._recent))
            number, record = self._recent[key]
            if number > mark:
                return
            del self._recent[key]
            self._unhint(key, record)

    def _unhint(self, key: str, record: StateRecord | None) -> None:
        for place, hint in self._places(key, record):
            if (hints := self._hints.get(place)) is not None:
                hints.discard(hint)
                if not hints:
                    del self._hints[place]

    def _places(self, key: str, record: StateRecord | None) -> Iterator[tuple[str, str]]:
        """(place, hint) pairs of the index."""
        if record is None:
            return
        if record.object is not None:
            entity, hint = topics.split_key(key)[2], key.rpartition("|")[2]
            for match_key in record.object.match_keys:
                yield match_place(self.connection, entity, match_key), hint
        elif record.link is not None:
            link = record.link
            yield target_place(self.connection, link.entity, link.external_id), key
            if link.facet:
                yield link_key(self.connection, link.entity, link.source, None), key

    def _keep(self, key: str, record: StateRecord | None) -> None:
        """What is few and asked for without a key is held in memory besides."""
        intent = record.intent if record is not None else None
        standing = record.standing if record is not None else None
        if intent is not None and intent.state is IntentState.OPEN:
            self._open[key] = intent
        elif self._open:
            self._open.pop(key, None)
        if standing is not None and standing.standing in WAITING:
            self._parked[key] = standing
        elif self._parked:
            self._parked.pop(key, None)
        if record is None:
            return
        if record.offset is not None:
            if key.startswith("requests|"):
                self.requests = record.offset.offset
            else:
                self.offset = record.offset.offset
        elif record.budget is not None:
            self.budgets[record.budget.limit] = record.budget
        elif record.brake is not None:
            self.brakes[record.brake.flow] = record.brake
        elif record.backfill is not None:
            known = self.backfilled.add if record.backfill.complete else self.backfilled.discard
            known(record.backfill.entity)
