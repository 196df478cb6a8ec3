"""What waits at one account, and what lets it go on: time, the object it waits for, an open brake (laws 10 and 11).

Waiting is in `bus.state`; here is only how to find it again. Whatever is released is tried again and may wait again.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

from bus.core.clock import Clock
from bus.runtime.state import AccountState
from schemas.system import LinkState, ObjectRef, Standing, StandingRecord
from services.sinks.brake import WHOLE_ACCOUNT, Brakes

Place = tuple[str, ObjectRef]
"""Flow and source object: where a standing is."""
RELEASED_PER_S = 20
"""How fast commands go on that an open brake held: what is wrong with them shows before many have been tried."""
RELEASED_AT_ONCE_MAX = 20


def is_held(standing: StandingRecord) -> bool:
    """Whether a command is parked until a brake closes: it has no next attempt of its own."""
    return standing.standing is Standing.PARKED and standing.retry_at is None


class Pace:
    """At most so many a second."""

    def __init__(self, per_s: float, at_once_max: int) -> None:
        self._per_s = per_s
        self._max = float(at_once_max)
        self._room = 0.0
        self._at: datetime | None = None

    def room(self, now: datetime) -> int:
        """How many may go now."""
        if self._at is not None:
            self._room = min(self._max, self._room + (now - self._at).total_seconds() * self._per_s)
        self._at = now
        return int(self._room)

    def take(self) -> None:
        """One went."""
        self._room -= 1


class Waiting:
    """The commands of one account that wait. `retry` tries a place again; False: nothing waits there any more."""

    def __init__(self, state: AccountState, clock: Clock, brakes: Brakes, retry: Callable[[str, ObjectRef], bool]) -> None:
        self._state = state
        self._clock = clock
        self._brakes = brakes
        self._retry = retry
        self._due: list[tuple[datetime, int, str, ObjectRef]] = []
        self._pushed = 0
        self._waiting: defaultdict[str, set[Place]] = defaultdict(set)
        self._held: defaultdict[str, dict[ObjectRef, None]] = defaultdict(dict)
        self._sent: dict[str, Place] = {}
        """By scope, the command that was sent to probe and has not ended."""
        self._pace = Pace(RELEASED_PER_S, RELEASED_AT_ONCE_MAX)
        self.news = 0
        """Counts what could release a waiting command, so that none is missed between looking and parking."""

    def restore(self) -> None:
        """Takes up what an earlier owner left, in the order in which it was parked."""
        parked = list(self._state.parked())
        for standing in sorted(parked, key=lambda item: (item.parked_at or item.settled_at, item.seq)):
            self.remember(standing)
            if any(self.is_there(key) for key in standing.missing):
                self._retry(standing.flow, standing.source)

    def remember(self, standing: StandingRecord) -> None:
        """A standing became true; what does not wait is passed over."""
        if standing.standing not in (Standing.PARKED, Standing.WAITING):
            return
        if is_held(standing):
            self._held[standing.flow][standing.source] = None
        elif standing.retry_at is not None:
            self._pushed += 1
            heapq.heappush(self._due, (standing.retry_at, self._pushed, standing.flow, standing.source))
        for key in standing.missing:
            self._waiting[key].add((standing.flow, standing.source))

    def ended(self, flow: str, source: ObjectRef) -> None:
        """An attempt at a place is over."""
        for scope in [scope for scope, place in self._sent.items() if place == (flow, source)]:
            del self._sent[scope]

    # --- objects -------------------------------------------------------------------------------------------------------------

    def released_by(self, entity: str, external_id: str) -> None:
        """An object of this account appeared or changed."""
        known = self._state.object(entity, external_id)
        for key in (*(known.match_keys if known else ()), f"id:{external_id}"):
            self.release(f"{entity}|{key}")

    def release(self, key: str) -> None:
        """Something that is waited for came true."""
        self.news += 1
        for flow, source in self._waiting.pop(key, ()):
            self._retry(flow, source)

    def is_there(self, key: str) -> bool:
        """Whether what a key names exists already."""
        entity, match_key = key.split("|", 1)
        if entity == "backfill":
            return match_key in self._state.backfilled
        kind, _, rest = match_key.partition(":")
        if kind == "source":
            connection, _, source_id = rest.partition(":")
            link = self._state.link(entity, ObjectRef(connection=connection, entity=entity, id=source_id))
            return link is not None and link.state is LinkState.ACTIVE
        return bool(self._state.candidates(entity, match_key))

    # --- time and brakes -----------------------------------------------------------------------------------------------------

    def release_due(self) -> None:
        """Tries again what is due, and what no brake holds any more."""
        now = self._clock.now()
        while self._due and self._due[0][0] <= now:
            retry_at, _, flow, source = heapq.heappop(self._due)
            standing = self._state.standing(flow, source)
            if standing is not None and standing.retry_at == retry_at:
                self._retry(flow, source)
        self._release_held(now)

    def _release_held(self, now: datetime) -> None:
        room = self._pace.room(now)
        if self._brakes.account.record.open:
            if self._brakes.account.is_due(now) and WHOLE_ACCOUNT not in self._sent:
                self._send_probe(WHOLE_ACCOUNT, [flow for flow in self._held if not self._brakes.of(flow).holds(now)])
            return
        for flow, queue in list(self._held.items()):
            brake = self._brakes.of(flow)
            if brake.record.open:
                if brake.is_due(now) and flow not in self._sent:
                    self._send_probe(flow, [flow])
                continue
            while queue and room > 0:
                if self._retry(flow, _first(queue)):
                    self._pace.take()
                    room -= 1

    def _send_probe(self, scope: str, flows: list[str]) -> None:
        for flow in flows:
            while self._held[flow]:
                source = _first(self._held[flow])
                if self._retry(flow, source):
                    self._sent[scope] = (flow, source)
                    return


def _first(queue: dict[ObjectRef, None]) -> ObjectRef:
    source = next(iter(queue))
    del queue[source]
    return source
