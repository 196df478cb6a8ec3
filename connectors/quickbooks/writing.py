"""Makes the calls of a write, and finds out what an unclear one made.

Once QuickBooks took a call, nothing may make it look turned away: an answer without a key is an unclear end, and what cannot be
joined to the answered object leaves the step without a record, never without its id.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec

from bus.core.clock import Clock
from bus.core.errors import BusError, MappingError, Unavailable, WriteRejected
from bus.core.identity import match_sku
from bus.kit.connector import RawRecord, Step, StepResult, Write
from connectors.quickbooks import plans
from connectors.quickbooks.api import PAGE_SIZE_MAX, Api, quoted
from connectors.quickbooks.faults import DUPLICATE_NAME, DUPLICATE_NUMBER
from connectors.quickbooks.lookups import UNASKED, Lookups, Wanted, company_of, lookups_of
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.document import split_id
from connectors.quickbooks.mapping.document_body import Document, document_day, holds_marker
from connectors.quickbooks.mapping.names import GENERATIONS
from connectors.quickbooks.mapping.parts import decode
from connectors.quickbooks.mapping.product import CATEGORY
from connectors.quickbooks.reading import CACHED, record_of
from connectors.quickbooks.references import References
from schemas import canon

log = logging.getLogger(__name__)

SALES = ("Invoice", "SalesReceipt", "Estimate")
"""Where a document of ours may be, whatever type it was meant to have."""
REPLAY_S = 60
"""An answer that was made so long before the call is an earlier call's."""


class _Noted(shapes.Vendor, frozen=True, kw_only=True):
    id: str
    private_note: str | None = None


@contextmanager
def behind_a_write(entity: str) -> Iterator[None]:
    """What fails behind a call that was taken ends as Unavailable: the object may exist. The cause is named without its text."""
    try:
        yield
    except BusError as error:
        raise Unavailable(f"{entity}: the write was answered, and what followed failed: {type(error).__name__}") from error


class Writer:
    """Writes to one company."""

    def __init__(self, api: Api, references: References, clock: Clock) -> None:
        self._api = api
        self._references = references
        self._clock = clock

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """The call of one step, and the object as answered."""
        if step.name == plans.IMAGE:
            return await self._image(write, step, done)
        entity = plans.vendor_entity(write)
        if step.name == plans.DEACTIVATE:
            return await self._change(write, entity, {"Active": False}, {})
        body, lookups = await self._body(write)
        if step.name == plans.UPDATE:
            return await self._change(write, entity, body, lookups.left_out)
        started = self._clock.now()
        try:
            raw = await self._api.post(entity, body, request_id=write.key)
        except WriteRejected as refusal:
            return await self._refused(write, entity, body, refusal)
        with behind_a_write(entity):
            return await self._made(entity, raw, lookups.left_out, started)

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """What an unclear step made: a picture by its name, a document by customer, date and the marker in its private note."""
        if step.name == plans.IMAGE:
            return await self._attached(write, step, done)
        if not isinstance(write.document, Document):
            return None
        conditions = [f"TxnDate = {quoted(document_day(write.document))}"]
        if customer := write.ids.get("customer"):
            conditions.append(f"CustomerRef = {quoted(customer)}")
        for entity in SALES:
            async for raw in self._all(entity, conditions):
                if holds_marker(decode(raw, _Noted, entity).private_note, write.key):
                    found = await self._result(entity, raw)
                    return msgspec.structs.replace(found, replayed=True)
        return None

    # --- objects -------------------------------------------------------------------------------------------------------------

    async def _body(self, write: Write) -> tuple[plans.Body, Lookups]:
        """The body with references in place of names. Nothing has been sent when this fails."""
        wanted = Wanted()
        plans.body_of(write, wanted, UNASKED)
        lookups = await lookups_of(self._references, wanted.entities)
        return plans.body_of(write, lookups, await company_of(self._references)), lookups

    async def _change(self, write: Write, entity: str, body: plans.Body, left_out: Mapping[str, str]) -> StepResult:
        """A sparse update under the version last read (5010 when somebody was faster); no call when nothing is left to send."""
        known = write.known
        object_id = write.external_id or (known.id if known else "")
        raw = known.raw if known else await self._api.get(entity, object_id)
        if raw is None:
            raise WriteRejected(f"{entity} {object_id} does not exist any more", hint="link it by hand to what replaced it")
        if not body:
            return msgspec.structs.replace(await self._result(entity, raw, left_out), replayed=True)
        version = record_of(entity, raw).version
        raw = await self._api.post(entity, {"Id": object_id, "SyncToken": version, "sparse": True, **body})
        with behind_a_write(entity):
            return await self._result(entity, raw, left_out)

    async def _made(self, entity: str, raw: bytes, left_out: Mapping[str, str], started: datetime) -> StepResult:
        """A created object. An answer older than its call is an earlier call's: the object may be gone by now."""
        dates = decode(raw, shapes.DatedHead, entity).meta_data
        made_at = dates.create_time if dates else None
        if made_at is None or started - made_at < timedelta(seconds=REPLAY_S):
            return await self._result(entity, raw, left_out)
        found = await self._result(entity, raw, left_out)
        if await self._api.get(entity, record_of(entity, raw).id.rpartition(":")[2]) is not None or found.record is None:
            return msgspec.structs.replace(found, replayed=True)
        gone = msgspec.structs.replace(found.record, deleted=True)
        return msgspec.structs.replace(found, replayed=True, record=gone, detail={**found.detail, "deleted": "true"})

    async def _result(self, entity: str, raw: bytes, left_out: Mapping[str, str] | None = None) -> StepResult:
        """The answered object, whole: nothing is read back. Raises ApiChanged when it has no key."""
        record = record_of(entity, raw)
        if entity in CACHED:
            self._references.remember(f"{entity}:{record.id}", raw)
        whole = await self._whole(record)
        number = decode(raw, shapes.Numbered, entity).doc_number
        detail = {"left_out": ", ".join(f"{path}={name}" for path, name in sorted(left_out.items()))} if left_out else {}
        return StepResult(
            external_id=record.id,
            number=number,
            detail=detail,
            record=whole,
            as_sent=True,
        )

    async def _whole(self, record: RawRecord) -> RawRecord | None:
        """With what it refers to; None when that cannot be read: the object is there, whatever became of the look around it."""
        try:
            (whole,) = await self._references.joined([record])
        except BusError as error:
            log.info("%s %s was written; joining its references failed: %s", record.entity, record.id, type(error).__name__)
            return None
        return whole if isinstance(whole, RawRecord) else None

    # --- refusals --------------------------------------------------------------------------------------------------------------

    async def _refused(self, write: Write, entity: str, body: plans.Body, refusal: WriteRejected) -> StepResult:
        """A taken number may be our own document's; a taken name says nothing, unless the SKU or category is the same."""
        if refusal.code == DUPLICATE_NUMBER and refusal.existing_id:
            kind, number = split_id(refusal.existing_id)
            raw = await self._api.get(kind, number)
            if raw is not None and holds_marker(decode(raw, _Noted, kind).private_note, write.key):
                return msgspec.structs.replace(await self._result(kind, raw), replayed=True)
        if refusal.code == DUPLICATE_NAME:
            if entity == "Item" and (raw := await self._same_item(write, str(body["Name"]))) is not None:
                return msgspec.structs.replace(await self._result(entity, raw), replayed=True)
            refusal.regenerate = write.generation < GENERATIONS
        raise refusal

    async def _same_item(self, write: Write, name: str) -> bytes | None:
        """The active item of that name, when it is the one meant: the same SKU, or the same category in the same place."""
        rows = (await self._api.query("Item", [f"Name = {quoted(name)}"])).rows
        for raw in rows:
            item = decode(bytes(raw), shapes.Item, "Item")
            document = write.document
            if not item.active:
                continue
            if isinstance(document, canon.Product) and document.sku and item.sku and item.type != CATEGORY:
                if match_sku(document.sku) == match_sku(item.sku):
                    return bytes(raw)
            elif isinstance(document, canon.ProductCategory) and item.type == CATEGORY:
                parent = write.ids.get(f"category:{document.parent.id}") if document.parent else None
                if parent == (item.parent_ref.value if item.parent_ref else None):
                    return bytes(raw)
        return None

    # --- pictures --------------------------------------------------------------------------------------------------------------

    async def _image(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        if (found := await self._attached(write, step, done)) is not None:
            return found
        picture = plans.picture_of(write)
        if picture is None:
            raise MappingError("the picture's bytes are not at hand", hint="nothing to do: it is sent with the next change")
        name, image = picture
        content, media_type = write.pictures[image.sha256 or ""], image.media_type or ""
        raw = await self._api.upload(name, content, media_type, _item_id(write, done), request_id=write.key)
        with behind_a_write("Attachable"):
            return StepResult(external_id=decode(raw, shapes.Attachable, "Attachable").id)

    async def _attached(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """The picture, if it is with the item already."""
        item_id = _item_id(write, done)
        async for raw in self._all("Attachable", [f"FileName = {quoted(step.key or '')}"]):
            file = decode(raw, shapes.Attachable, "Attachable")
            refs = [ref.entity_ref for ref in file.attachable_ref if ref.entity_ref]
            if any(ref.type == "Item" and ref.value == item_id for ref in refs):
                return StepResult(external_id=file.id, replayed=True)
        return None

    async def _all(self, entity: str, conditions: list[str]) -> AsyncIterator[bytes]:
        start = 1
        while True:
            rows = (await self._api.query(entity, conditions, start=start)).rows
            for raw in rows:
                yield bytes(raw)
            if len(rows) < PAGE_SIZE_MAX:
                return
            start += len(rows)


def _item_id(write: Write, done: Mapping[str, StepResult]) -> str:
    made = done.get(plans.CREATE) or done.get(plans.UPDATE)
    found = write.external_id or (made.external_id if made else None)
    if found is None:
        raise MappingError("a picture without its item", hint="this is a bug of the sink: the item's step comes first")
    return found
