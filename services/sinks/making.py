"""Makes a write, and says what it made true: intent closed, link, object, and the peer's word of it."""

import asyncio
from collections.abc import Mapping

import msgspec

from bus.kit.connector import Write
from bus.runtime import metrics
from schemas.system import LinkedBy, LinkRecord, LinkState, ObjectRef, ObjectState, Outcome, Standing, StateRecord
from services.sinks.desired import value_of
from services.sinks.ledger import Change, Entry
from services.sinks.settlement import Published, Settlement, link_changes, object_change, peer_link
from services.sinks.task import Target, Task
from services.sinks.writing import Done, Incomplete, Writer

PICTURED_WRITES_MAX = 8
"""Writes of one account under way with pictures in memory, which have megabytes."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a create made true."""

    changes: list[Change]
    outgoing: list[Published]
    gone: bool = False
    """The vendor repeated the answer of an object that was deleted meanwhile: its link is retired."""


class Maker:
    """Makes the writes of one account."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._writer = Writer(target.connector, target.state, target.ledger, target.clock, target.hasher)
        self._pictured = asyncio.Semaphore(PICTURED_WRITES_MAX)

    def create(self, task: Task, ids: Mapping[str, str]) -> Write:
        """The create that a task asks for."""
        assert task.document is not None
        return Write(
            action="create",
            entity=task.entity,
            source=task.source,
            document=task.document,
            document_type=value_of(task.command, "type"),
            resolved=task.command.resolved,
            ids=ids,
            facet=task.facet,
            reference=value_of(task.command, "reference"),
            reference_field=value_of(task.command, "reference.field"),
        )

    async def write(self, write: Write, raw: bytes) -> Done:
        """Makes the write and makes sure the last result carries the object as it now is.

        An object whose later step was refused is linked first, so that it is never made again.
        """
        facts = self._target.connector.manifest.writes.get(write.entity)
        if facts is None or "images" not in facts.fields or not sends_images(write):
            return await self._surely(write, raw)
        async with self._pictured:
            return await self._surely(await self._illustrated(write, facts.pictures_max), raw)

    async def _surely(self, write: Write, raw: bytes) -> Done:
        try:
            done = await self._writer.write(write, raw)
        except Incomplete as part:
            link = self._link(write.entity, write.source, write.facet, part.external_id, None)
            await self._target.ledger.commit(Entry(state=self._target.state, changes=[link]))
            raise
        if done.result.record is None and write.action != "delete":
            record = await self._target.connector.fetch(write.entity, done.external_id)
            done.result = msgspec.structs.replace(done.result, record=record, as_sent=False)
        return done

    async def _illustrated(self, write: Write, pictures_max: int) -> Write:
        """The write with the bytes of the pictures it sends, as many as the target takes; those nobody published are missing."""
        found: dict[str, bytes] = {}
        for image in sorted(getattr(write.document, "images", ()), key=lambda item: item.position):
            if len(found) == pictures_max:
                break
            data = await self._target.pictures.get(image.sha256) if image.sha256 else None
            if data is not None and image.sha256:
                found[image.sha256] = data
            elif image.sha256:
                metrics.count("bus_pictures_missing_total", connection=self._target.state.connection)
        return msgspec.structs.replace(write, pictures=found)

    def made(self, entity: str, source: ObjectRef, facet: str | None, currency: str | None, done: Done) -> Made:
        """Everything a create makes true; `currency` is the source object's."""
        key, link = self._link(entity, source, facet, done.external_id, done.result.number, done.generation)
        if done.result.record is not None and done.result.record.deleted:
            assert link is not None and link.link is not None
            retired = msgspec.structs.replace(link, link=msgspec.structs.replace(link.link, state=LinkState.RETIRED))
            return Made(changes=[done.closing, (key, retired)], outgoing=[], gone=True)
        peer = peer_link(self._target.state.connection, entity, source, done.external_id, currency, self._target.clock.now())
        return Made(changes=[done.closing, (key, link), *self.object_changes(entity, source, done, None)], outgoing=[peer])

    async def commit(self, made: Made) -> None:
        """Makes it durable before anything else is done."""
        await self._target.ledger.commit(Entry(state=self._target.state, changes=made.changes, outgoing=made.outgoing))

    def object_changes(
        self,
        entity: str,
        source: ObjectRef,
        done: Done,
        sent: frozenset[str] | None,
        held: Mapping[str, str] | None = None,
    ) -> list[Change]:
        """What the object holds now; `sent` None for one that we made, `held` the hashes just before an update."""
        if done.result.record is None:
            return []
        target = self._target
        document = target.connector.to_canonical(done.result.record)
        before = target.state.object(entity, done.external_id) if sent is not None else None
        known = (before or ObjectState()).field_hashes if sent is not None else None
        now, connection = target.clock.now(), target.state.connection
        result, written, hasher = done.result, done.document, target.hasher
        return [
            object_change(connection, entity, done.external_id, document, result, hasher, now, source, known, sent, written, held)
        ]

    def retired(self, task: Task, link: LinkRecord, applied: Mapping[str, str] | None = None) -> Settlement:
        """The target object is gone: shown, and never made again."""
        key, record = link_changes(
            self._target.state.connection, task.entity, task.source, task.facet, link.external_id, link.number, link.linked_by
        )
        assert record is not None and record.link is not None
        retired = msgspec.structs.replace(record, link=msgspec.structs.replace(record.link, state=LinkState.RETIRED))
        end = gone(link.external_id)
        end.applied, end.changes = applied, [(key, retired)]
        return end

    def _link(
        self, entity: str, source: ObjectRef, facet: str | None, external_id: str, number: str | None, generation: int = 0
    ) -> Change:
        """The link to what was made; a CONFLICT where a peer linked the source's object to another one meanwhile."""
        state = self._target.state
        known = state.link(entity, source, facet)
        key, record = link_changes(state.connection, entity, source, facet, external_id, number, LinkedBy.CREATED, generation)
        assert record is not None and record.link is not None
        if known is not None and known.external_id != external_id and known.state is not LinkState.RETIRED:
            record = StateRecord(connection=state.connection, link=msgspec.structs.replace(record.link, state=LinkState.CONFLICT))
        return key, record


def sends_images(write: Write) -> bool:
    """Whether a write may carry pictures: a create, or an update of the field itself."""
    return write.action == "create" or (write.action == "update" and "images" in (write.fields or ()))


def gone(external_id: str) -> Settlement:
    """How a command for an object ends that was deleted at the target."""
    return Settlement(
        standing=Standing.UNCHANGED,
        outcome=Outcome.SKIPPED,
        external_id=external_id,
        detail="the target object was deleted there; it is not made again",
    )
