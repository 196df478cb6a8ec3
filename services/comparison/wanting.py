"""What a flow makes of a source object as it stands now: wanted at the target and in which form, refused, or not to be mapped."""

from typing import Any, Protocol

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import RecordError
from bus.core.identity import Entity
from bus.runtime.state import AccountState
from schemas.canon import EventMeta, Operation, Origin
from schemas.system import Action, Cause, LinkedBy, LinkState, Resolved
from services.pollers.publishing import EVENT_TYPES, Sealer
from services.processors.handler import decide
from services.processors.routes import Route
from services.sinks.desired import with_values
from services.sinks.task import Opener


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One source object through one flow."""

    document: Entity
    """With the flow's values where it is wanted; else as it was read."""
    is_wanted: bool
    reason: str = ""
    """Why it is not wanted, or cannot be mapped."""
    cause: Cause | None = None
    resolved: list[Resolved] = []

    @property
    def is_refused(self) -> bool:
        """Whether the flow's filters leave it out."""
        return not self.is_wanted and self.cause is None

    def value(self, name: str) -> str | None:
        """A header value the flow resolved."""
        return next((item.value for item in self.resolved if item.name == name and item.line_id is None), None)


class Sealing(Sealer, Opener, Protocol):
    """What is asked of the privacy layer: nothing of it is published."""


class Wanting:
    """Asks one flow."""

    def __init__(
        self, route: Route, tenant: str, system: str, source: AccountState, privacy: Sealing, codec: Any, clock: Clock
    ) -> None:
        self._route = route
        self._tenant = tenant
        self._system = system
        self._source = source
        self._privacy = privacy
        self._codec = codec
        self._clock = clock

    async def of(self, source_id: str, document: Entity) -> Wanted:
        """What the processors would decide, on the object as it stands now, sealed and in the form it has on the log.

        The form counts: 79.95 comes off the log as 79.95000000, and that is what sinks compare.
        """
        flow = self._route.flow
        topic = topics.canonical(flow.from_.entity)
        try:
            sealed, _ = await self._privacy.seal(document, self._tenant, flow.from_.connection)
            made = EVENT_TYPES[flow.from_.entity](meta=self._meta(source_id), after=sealed)
            event = self._codec.decode(topic, self._codec.encode(topic, made))
            decision = decide(self._route, event)
            if decision.action is Action.NONE:
                return Wanted(document=document, is_wanted=False, reason=decision.reason or "")
            full = with_values(self._privacy.open(event.after), decision.resolved)
        except RecordError as error:
            return Wanted(document=document, is_wanted=False, reason=str(error), cause=error.cause)
        except Exception as error:  # law 10: a bug on one object stops the comparison of no other
            return Wanted(document=document, is_wanted=False, reason=f"{type(error).__name__} in the mapping", cause=Cause.BUG)
        return Wanted(document=full, is_wanted=True, resolved=decision.resolved)

    def _meta(self, source_id: str) -> EventMeta:
        flow = self._route.flow
        return EventMeta(
            event_id="",
            seq=0,
            tenant=self._tenant,
            system=self._system,
            connection=flow.from_.connection,
            entity=flow.from_.entity,
            source_id=source_id,
            observed_at=self._clock.now(),
            op=Operation.UPDATED,
            content_hash="",
            origin=self._origin(source_id),
        )

    def _origin(self, source_id: str) -> Origin | None:
        """Whose object it is, where the bus made it: a document of the bus's own is no source for where it came from."""
        for link in self._source.links_to(self._route.flow.from_.entity, source_id):
            if link.linked_by is LinkedBy.CREATED and link.state is LinkState.ACTIVE:
                made_of = link.source
                return Origin(connection=made_of.connection, entity=made_of.entity, source_id=made_of.id, created=True)
        return None
