"""Carries out a command as the sink would, up to the first call that writes, and calls nobody.

The sink's own code decides. What stands in for the account is what the bus read of it last: the target's own canonical events,
and `bus.state`. Whatever would be committed is applied to this process's copy of the state only.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NoReturn

from bus.core import topics
from bus.core.clock import Clock
from bus.core.configuration import Connection
from bus.core.identity import Entity, Hasher
from bus.kit.auth import Token
from bus.kit.connector import Account, Connector, Found, Match, Page, Position, RawRecord, Step, StepResult, Write
from bus.runtime.connections import open_connection
from bus.runtime.state import AccountState
from schemas.canon import EventMeta
from schemas.system import ObjectState
from services.sinks.carrying import Carrier
from services.sinks.ledger import Entry, Ledger
from services.sinks.locks import KeyLocks
from services.sinks.task import Opener, Target


class WouldWrite(Exception):
    """The first write that the command would make."""

    def __init__(self, write: Write, target: Entity | None) -> None:
        super().__init__(f"{write.action} {write.entity}")
        self.write = write
        self.target = target
        """What the target holds, where it is there already."""


class CannotCompare(Exception):
    """What the target holds is not known well enough."""


class Unread(CannotCompare):
    """An object of the target whose event has not been looked up yet."""

    def __init__(self, entity: str, external_id: str) -> None:
        super().__init__(f"{entity} {external_id} of the target was never polled")
        self.entity = entity
        self.external_id = external_id


class Nobody:
    """Tokens of a connector that must call nobody."""

    async def current(self) -> Token:
        """Never gives one."""
        raise AssertionError("a rehearsal calls nobody")

    async def newer_than(self, version: int) -> Token:
        """Never gives one."""
        raise AssertionError(f"a rehearsal calls nobody (token {version})")


def silent_connector(document: Connection, clock: Clock) -> Connector:
    """A connection's connector for what is pure in it: its manifest, and how it plans a write."""
    return open_connection(document, Nobody(), clock, "poll").connector


class ScratchLedger(Ledger):
    """Makes what would be committed true in memory, so that the code behind it goes on."""

    def __init__(self) -> None:
        self.commits = 0

    async def commit(self, entry: Entry) -> None:
        """Applies the changes to this process's copy."""
        self.commits += 1
        for key, change in entry.changes:
            entry.state.apply(key, change)


class NoPictures:
    """Pictures are not looked up: whether one is sent is told by its field."""

    async def get(self, sha256: str) -> bytes | None:
        """None."""
        return None


class RecordedAccount:
    """An account as the bus last read it, in the shape of a connector. Whoever writes to it is told apart by WouldWrite."""

    def __init__(self, connection: str, planner: Connector, state: AccountState, codec: Any, privacy: Opener) -> None:
        self.manifest = planner.manifest
        self._connection = connection
        self._planner = planner
        self._state = state
        self._codec = codec
        self._privacy = privacy
        self._events: dict[tuple[str, str], bytes | None] = {}
        self._held: dict[tuple[str, str], Entity] = {}
        self.asked = False
        """Whether the vendor's own search would have been asked."""

    def learn(self, entity: str, external_id: str, event: bytes | None) -> None:
        """The newest event of an object of this account; None: there is none."""
        self._events[entity, external_id] = event

    def knows(self, entity: str, external_id: str) -> bool:
        """Whether its event was looked up."""
        return (entity, external_id) in self._events

    def peek(self, entity: str, external_id: str) -> Entity | None:
        """What its newest event says, sealed as it stands there."""
        raw = self._events.get((entity, external_id))
        return None if raw is None else self._codec.decode(topics.canonical(entity), raw).after

    # --- what the sinks ask ------------------------------------------------------------------------------------------------

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        """What the account's own poller read last; None for what it saw deleted. Raises Unread, CannotCompare."""
        raw = self._events.get((entity, external_id))
        if raw is None:
            raise Unread(entity, external_id)
        event = self._codec.decode(topics.canonical(entity), raw)
        if event.after is None:
            return None
        known = self._state.object(entity, external_id)
        if known is not None and _is_written_since(known, event.meta):
            raise CannotCompare(
                f"{entity} {external_id} of the target was written after its last poll: `bus poll {self._connection} --now`, "
                "then ask again"
            )
        self._held[entity, external_id] = self._privacy.open(event.after)
        return RawRecord(entity=entity, id=external_id, raw=raw, version=event.meta.source_version)

    def to_canonical(self, record: RawRecord) -> Entity:
        """What `fetch` found."""
        return self._held[record.entity, record.id]

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        """Nothing: the bus's own match keys were asked before, the vendor is not."""
        self.asked = True
        return []

    def plan(self, write: Write) -> Sequence[Step]:
        """Raises WouldWrite; for a create MappingError first, where the connector could not plan it."""
        target = None
        if write.action == "create":
            self._planner.plan(write)
        elif write.external_id is not None:
            target = self._held.get((write.entity, write.external_id))
        raise WouldWrite(write, target)

    # --- what nobody may ask -----------------------------------------------------------------------------------------------

    async def check(self) -> Account:
        """Calls nobody."""
        self._refuse()

    async def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """Calls nobody."""
        self._refuse()
        yield Page(records=[], position=position or {stream: None})

    async def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """Calls nobody."""
        self._refuse()
        yield {stream: []}

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        """Calls nobody."""
        return list(records)

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """Calls nobody."""
        self._refuse()

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """Calls nobody."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AssertionError("a rehearsal calls nobody")

    async def aclose(self) -> None:
        """Nothing is open."""


def _is_written_since(known: ObjectState, meta: EventMeta) -> bool:
    """Whether a write of ours left the object otherwise than its newest event says."""
    if not known.by_bus or known.written_at is None or known.written_at <= meta.observed_at:
        return False
    return bool(known.field_hashes) and known.field_hashes != meta.field_hashes


def rehearsing(
    account: RecordedAccount, state: AccountState, currency: str | None, clock: Clock, hasher: Hasher, privacy: Opener, codec: Any
) -> Carrier:
    """The sink's carrier of an account, with nothing behind it. `currency` is the account's own."""
    target = Target(
        connector=account,
        account=Account(vendor_id="", name=account.manifest.name, currency=currency),
        state=state,
        ledger=ScratchLedger(),
        clock=clock,
        hasher=hasher,
        privacy=privacy,
        codec=codec,
        locks=KeyLocks(),
        pictures=NoPictures(),
    )
    return Carrier(target)
