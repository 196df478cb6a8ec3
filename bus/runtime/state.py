"""What `bus.state` says of one account: objects, links, intents, standings, offset, back-fill.

The sink that owns the account's slot is the only writer; the account's poller reads the same view to tell echoes from news.
Records are applied in the order they were committed, so both see the same state.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

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

LinkKey = tuple[str, ObjectRef, str]
"""Target entity, source object, facet (empty for none)."""


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


def requests_key(connection: str) -> str:
    """Key of the offset record of `bus.requests`: where the account's sink goes on reading what operators ask."""
    return topics.key("requests", connection)


def backfill_key(connection: str, entity: str) -> str:
    """Key of a back-fill record."""
    return topics.key("backfill", connection, entity)


def budget_key(connection: str, limit: str) -> str:
    """Key of a budget record."""
    return topics.key("budget", connection, limit)


def brake_key(connection: str, flow: str) -> str:
    """Key of a brake record; an empty flow is the whole account."""
    return topics.key("brake", connection, flow)


class AccountState:
    """The state of one account, in memory."""

    def __init__(self, connection: str) -> None:
        self.connection = connection
        self.offset: int | None = None
        self.requests: int | None = None
        """Next offset of `bus.requests`; None: nothing was asked of this account yet."""
        self.backfilled: set[str] = set()
        self.budgets: dict[str, BudgetRecord] = {}
        """Calls of a day, by limit."""
        self.brakes: dict[str, BrakeRecord] = {}
        """By flow; empty: the whole account."""
        self._objects: dict[tuple[str, str], ObjectState] = {}
        self._links: dict[LinkKey, LinkRecord] = {}
        self._links_to: defaultdict[tuple[str, str], list[LinkRecord]] = defaultdict(list)
        self._facets: defaultdict[tuple[str, ObjectRef], set[str]] = defaultdict(set)
        self._intents: dict[LinkKey, IntentRecord] = {}
        self._open: dict[LinkKey, IntentRecord] = {}
        """The few of them that have not ended: the poller asks for these with every record."""
        self._standings: dict[tuple[str, ObjectRef], StandingRecord] = {}
        self._parked: dict[tuple[str, ObjectRef], StandingRecord] = {}
        self._match: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    # --- reading -----------------------------------------------------------------------------------------------------------

    def object(self, entity: str, external_id: str) -> ObjectState | None:
        """What an object of this account held when last written or seen."""
        return self._objects.get((entity, external_id))

    def link(self, entity: str, source: ObjectRef, facet: str | None = None) -> LinkRecord | None:
        """The link of a source object."""
        return self._links.get((entity, source, facet or ""))

    def facets(self, entity: str, source: ObjectRef) -> list[str]:
        """Facets under which a source object has active links, in order."""
        found = ((facet, self.link(entity, source, facet)) for facet in sorted(self._facets.get((entity, source), ())))
        return [facet for facet, link in found if link is not None and link.state is LinkState.ACTIVE]

    def links(self) -> Iterable[LinkRecord]:
        """All links of this account."""
        return list(self._links.values())

    def links_to(self, entity: str, external_id: str) -> list[LinkRecord]:
        """All links that end at one object of this account."""
        return self._links_to.get((entity, external_id), [])

    def intent(self, entity: str, source: ObjectRef, facet: str | None = None) -> IntentRecord | None:
        """The newest intent of a source object, open or closed."""
        return self._intents.get((entity, source, facet or ""))

    def open_intents(self) -> Iterator[IntentRecord]:
        """Writes begun and not known to have ended."""
        return iter(list(self._open.values()))

    def standing(self, flow: str, source: ObjectRef) -> StandingRecord | None:
        """Where the newest version of a source object stands in a flow."""
        return self._standings.get((flow, source))

    def standings(self) -> Iterable[StandingRecord]:
        """All standings."""
        return list(self._standings.values())

    def parked(self) -> Iterator[StandingRecord]:
        """Commands that wait."""
        return iter(list(self._parked.values()))

    def candidates(self, entity: str, match_key: str) -> set[str]:
        """Ids of active objects of this account that answer a match key."""
        ids = self._match.get((entity, match_key), set())
        return {external_id for external_id in ids if self._objects[entity, external_id].active}

    # --- applying ----------------------------------------------------------------------------------------------------------

    def apply(self, key: str, record: StateRecord | None) -> None:
        """Applies one committed record; None is a tombstone."""
        parts = topics.split_key(key)
        if record is None:
            if parts[0] == "object":
                self._forget_object(parts[2], parts[3])
            return
        if record.object is not None:
            self._put_object(parts[2], parts[3], record.object)
        elif record.link is not None:
            self._put_link(record.link)
        elif record.intent is not None:
            self._put_intent(record.intent)
        elif record.standing is not None:
            self._put_standing(record.standing)
        elif record.offset is not None:
            if parts[0] == "requests":
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

    def _put_intent(self, intent: IntentRecord) -> None:
        key = (intent.entity, intent.source, intent.facet or "")
        self._intents[key] = intent
        if intent.state is IntentState.OPEN:
            self._open[key] = intent
        else:
            self._open.pop(key, None)

    def _put_standing(self, standing: StandingRecord) -> None:
        key = (standing.flow, standing.source)
        self._standings[key] = standing
        if standing.standing in (Standing.PARKED, Standing.WAITING):
            self._parked[key] = standing
        else:
            self._parked.pop(key, None)

    def _put_object(self, entity: str, external_id: str, state: ObjectState) -> None:
        self._forget_object(entity, external_id)
        self._objects[entity, external_id] = state
        for match_key in state.match_keys:
            self._match[entity, match_key].add(external_id)

    def _forget_object(self, entity: str, external_id: str) -> None:
        old = self._objects.pop((entity, external_id), None)
        for match_key in old.match_keys if old else ():
            self._match[entity, match_key].discard(external_id)

    def _put_link(self, link: LinkRecord) -> None:
        key = (link.entity, link.source, link.facet or "")
        old = self._links.get(key)
        if old is not None:
            self._links_to[old.entity, old.external_id].remove(old)
        self._links[key] = link
        if link.facet:
            self._facets[link.entity, link.source].add(link.facet)
        self._links_to[link.entity, link.external_id].append(link)

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
