"""From a command to its settlement: what must happen at this account, if anything.

The caller holds the lock of (target entity, source object). Order of questions: withdrawn? an older write still open? deleted?
in conflict or retired? then documents and master data go their own ways.
"""

import contextlib

from bus.core import topics
from bus.core.errors import BusError, RecordError, WriteRejected
from bus.runtime.deadletters import DEAD_HINT
from schemas.system import Action, Cause, Command, IntentRecord, IntentState, LinkRecord, LinkState, Outcome, Standing
from services.sinks.beginnings import Beginnings
from services.sinks.debtors import Debtors
from services.sinks.desired import facet_of_type, value_of
from services.sinks.documents import Documents, written_earlier
from services.sinks.making import Maker, gone
from services.sinks.masters import Masters
from services.sinks.matching import Matcher
from services.sinks.references import Products
from services.sinks.settlement import Settlement
from services.sinks.task import Target, Task, open_task
from services.sinks.writing import Incomplete

ECHO = "echo"
"""Reason of a command for a version that our own write left at the source."""


class Carrier:
    """Carries out the commands of one account."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._state = target.state
        maker = Maker(target)
        matcher = Matcher(target.connector, target.state, target.hasher, target.account.currency)
        self._products = Products(matcher, target)
        beginnings = Beginnings(target)
        self._masters = Masters(target, maker, matcher, beginnings)
        self._debtors = Debtors(target, maker, matcher, beginnings, self._masters)
        self._documents = Documents(target, maker, self._debtors, self._products)

    async def carry_out(self, command: Command, raw: bytes) -> Settlement:
        """Does what a WRITE command asks. Raises errors of bus.core.errors; the caller parks or dead-letters."""
        if command.action is Action.NONE and not self._is_owed(command, raw):
            return await self._finish_begun(command) or self._withdrawn(command, raw)
        task = open_task(self._target, command, raw)
        if (ended := await self._finish_older(task)) is not None:
            return ended
        if task.document is None or command.action in (Action.DELETE, Action.DEACTIVATE):
            return await self._masters.remove(task)
        link = self._state.link(task.entity, task.source, task.facet)
        if link is not None and link.state is LinkState.CONFLICT:
            raise RecordError(
                f"the link to {link.external_id} is in conflict",
                hint="decide which object is meant, then link it by hand",
                cause=Cause.LINK_CONFLICT,
            )
        if link is not None and link.state is LinkState.RETIRED:
            return gone(link.external_id)
        if task.entity in topics.DOCUMENTS:
            return await self._documents.settle(task, link)
        return await self._masters.settle(task, link)

    def brought(self, command: Command, raw: bytes) -> dict[str, str] | None:
        """What counts as settled although a command only waits: what our own write brought to the source. A newer version that
        takes its place does not name it again, and would take it for something to be sent. None: nothing changes."""
        assert command.flow and command.source
        if command.target_entity in topics.DOCUMENTS:
            return None
        with contextlib.suppress(BusError):  # what cannot be opened now waits with its command
            task = open_task(self._target, command, raw)
            if task.echo_fields and task.document is not None:
                before = self._state.standing(command.flow, command.source)
                told = self._target.hasher.fields(task.document)
                return {**(before.applied if before else {}), **{path: told[path] for path in task.echo_fields if path in told}}
        return None

    def settled_before(self, command: Command) -> Settlement | None:
        """How a later version of a document that was written ends: no call is needed for it, so no brake concerns it."""
        if command.target_entity not in topics.DOCUMENTS or command.action not in (Action.CREATE, Action.UPSERT):
            return None
        assert command.source and command.target_entity
        link = self._state.link(command.target_entity, command.source, facet_of_type(value_of(command, "type")))
        if link is None or link.state is not LinkState.ACTIVE or self._documents.must_be_proven(command, link):
            return None
        kept = self._documents.stands(command, link)
        return written_earlier(link, kept) if kept is not None else None

    def facet(self, entity: str, currency: str | None) -> str | None:
        """The facet of a link that a peer tells of."""
        return self._target.facet(entity, currency)

    def forget(self, external_id: str) -> None:
        """An object of this account changed: remembered searches for it are void."""
        self._products.forget(external_id)

    def _is_owed(self, command: Command, raw: bytes) -> bool:
        """Whether an echo of master data stands where an older version still waits to be written: then what somebody changed in
        that one, and our own write did not bring, goes with it."""
        assert command.flow and command.source
        before = self._state.standing(command.flow, command.source)
        if command.reason != ECHO or command.target_entity in topics.DOCUMENTS or before is None or before.command is None:
            return False
        if before.command == raw:
            return True  # this one was parked itself
        older = self._target.codec.decode(topics.outbound(self._state.connection), before.command)
        return older.action is not Action.NONE or older.reason == ECHO

    def _withdrawn(self, command: Command, raw: bytes) -> Settlement:
        """Action NONE: what is queued or parked for the object is withdrawn by the new standing itself."""
        assert command.source and command.flow
        reason = command.reason or ""
        if reason.startswith("dead:"):
            _, cause, detail = [*reason.split(":", 2), "", ""][:3]
            known = Cause(cause) if cause in Cause.__members__ else Cause.UNKNOWN
            hint = value_of(command, DEAD_HINT) or ""
            return Settlement(
                standing=Standing.DEAD, outcome=Outcome.DEAD, cause=known, detail=detail, hint=hint, stage="processors"
            )
        if reason == ECHO:
            return self._masters.echoed(open_task(self._target, command, raw))
        link = self._document_link(command) if command.target_entity in topics.DOCUMENTS else None
        if link is not None:
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.UNCHANGED,
                external_id=link.external_id,
                detail=f"written earlier; the source now fails the filter: {reason}",
                kept=self._documents.stands(command, link),
            )
        return Settlement(standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail=reason)

    def _document_link(self, command: Command) -> LinkRecord | None:
        """The document this flow made, else the one the source object has: a withdrawn command does not say which type it was."""
        assert command.source and command.flow and command.target_entity
        entity, source = command.target_entity, command.source
        before = self._state.standing(command.flow, source)
        facts = self._target.connector.manifest.writes.get(entity)
        facets = {facet_of_type(kind) for kind in (facts.document_types if facts else ())} - {None}
        links = [link for facet in sorted(facets, key=str) if (link := self._state.link(entity, source, facet)) is not None]
        made = next((link for link in links if before is not None and link.external_id == before.external_id), None)
        return made or self._state.link(entity, source)

    async def _finish_older(self, task: Task) -> Settlement | None:
        """An open write of this object, begun by another command, ends before anything newer (law 6). Raises what it raises.

        A document is written once: the settlement of its older version is that of the newer one.
        """
        intent = self._state.intent(task.entity, task.source, task.facet)
        if intent is None or intent.state is not IntentState.OPEN or intent.command == task.raw:
            return None
        older = self._target.codec.decode(topics.outbound(self._state.connection), intent.command)
        begun = open_task(self._target, older, intent.command)
        begun.echo_fields |= task.echo_fields  # of these it holds what stood before our own write at the source
        return await self._ended(begun, intent)

    async def _finish_begun(self, command: Command) -> Settlement | None:
        """Writes that older versions of a withdrawn object began end first, a customer's too: nobody else would end them."""
        for intent in self._state.open_intents():
            older = self._target.codec.decode(topics.outbound(self._state.connection), intent.command)
            if (older.flow, older.source) != (command.flow, command.source):
                continue
            begun = open_task(self._target, older, intent.command)
            if intent.external_id is not None:
                await self._masters.settle_left(begun, intent)
            elif begun.entity in topics.DOCUMENTS and intent.entity == "customer":
                with contextlib.suppress(WriteRejected):
                    await self._debtors.finish(intent)
            elif (ended := await self._ended(begun, intent)) is not None:
                return ended
        return None

    async def _ended(self, begun: Task, intent: IntentRecord) -> Settlement | None:
        try:
            return await self._finish(begun, intent)
        except Incomplete:
            raise
        except WriteRejected:
            return None  # it was not made: the refusal is of the older version, and the newer one is asked for by itself

    async def _finish(self, begun: Task, intent: IntentRecord) -> Settlement | None:
        if begun.entity not in topics.DOCUMENTS:
            await self._masters.finish(begun, intent.external_id)
        elif intent.entity != "customer":
            return await self._documents.finish(begun)
        else:
            await self._debtors.create(begun, intent.facet)  # a customer whose write an order began
        return None
