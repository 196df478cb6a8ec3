"""From a command to its settlement: what must happen at this account, if anything.

The caller holds the lock of (target entity, source object). Order of questions: withdrawn? an older write still open? deleted?
linked? matched? then, and only then, create.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import AmbiguousMatch, MappingError, MissingDependency, RecordError, TotalsMismatch
from bus.core.identity import Hasher, match_keys
from bus.core.policy import WritePolicy, decode_policy
from bus.kit.connector import Account, Connector, Match, RawRecord, Write
from bus.kit.manifest import Writes
from bus.runtime.codec import Codec
from bus.runtime.state import AccountState, intent_key, object_key
from schemas import canon
from schemas.system import (
    Action,
    Cause,
    Command,
    IntentRecord,
    IntentState,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    Outcome,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.sinks.desired import customer_from, facet_of, has_place, value_of, with_values
from services.sinks.ledger import Change, Entry, Ledger
from services.sinks.locks import KeyLocks
from services.sinks.matching import DEFAULT_MATCH, Matcher, changed_paths
from services.sinks.references import Products, customer_source, default_customer
from services.sinks.settlement import Published, Settlement, link_changes, object_change, ours_among, peer_link, proof_of_totals
from services.sinks.writing import Done, Incomplete, Writer

Document = canon.SalesOrder | canon.SalesInvoice


class Opener(Protocol):
    """What a sink asks of the privacy layer."""

    def open(self, entity: Any) -> Any:
        """The entity with its sealed parts in plain form."""
        ...


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a write made true."""

    changes: list[Change]
    outgoing: list[Published]


class Task(msgspec.Struct, kw_only=True):
    """One command, opened."""

    command: Command
    raw: bytes
    source: ObjectRef
    entity: str
    facts: Writes
    policy: WritePolicy
    document: canon.Customer | canon.Product | canon.ProductCategory | canon.SalesOrder | canon.SalesInvoice | None
    echo_fields: frozenset[str]
    facet: str | None


class Carrier:
    """Carries out the commands of one account."""

    def __init__(
        self,
        *,
        connector: Connector,
        account: Account,
        state: AccountState,
        ledger: Ledger,
        clock: Clock,
        hasher: Hasher,
        privacy: Opener,
        codec: Codec,
        locks: KeyLocks,
    ) -> None:
        self._connector = connector
        self._account = account
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._hasher = hasher
        self._privacy = privacy
        self._codec = codec
        self._locks = locks
        self._writer = Writer(connector, state, ledger, clock, hasher)
        self._matcher = Matcher(connector, state, hasher)
        self._products = Products(self._matcher, state, hasher)

    # --- entry -------------------------------------------------------------------------------------------------------------

    async def carry_out(self, command: Command, raw: bytes) -> Settlement:
        """Does what a WRITE command asks. Raises errors of bus.core.errors; the caller parks or dead-letters."""
        if command.action is Action.NONE:
            return self._withdrawn(command, raw)
        task = self._open(command, raw)
        await self._finish_older(task)
        if task.document is None or command.action in (Action.DELETE, Action.DEACTIVATE):
            return await self._remove(task)
        link = self._state.link(task.entity, task.source, task.facet)
        if link is not None and link.state is LinkState.CONFLICT:
            raise RecordError(
                f"the link to {link.external_id} is in conflict",
                hint="decide which object is meant, then link it by hand",
                cause=Cause.LINK_CONFLICT,
            )
        if link is not None and link.state is LinkState.RETIRED:
            return Settlement(
                standing=Standing.UNCHANGED,
                outcome=Outcome.SKIPPED,
                external_id=link.external_id,
                detail="the target object was deleted there; it is not made again",
            )
        if task.entity in topics.DOCUMENTS:
            return await self._document(task, link)
        if link is None:
            return await self._match_or_create(task)
        return self._met(task, link) or await self._update(task, link)

    def _open(self, command: Command, raw: bytes) -> Task:
        source, entity = command.source, command.target_entity
        if source is None or entity is None or command.event is None:
            raise MappingError(f"command {command.id} names no source, entity or event", hint="this is a bug of the processor")
        facts = self._connector.manifest.writes.get(entity)
        if facts is None:
            raise MappingError(f"{self._connector.manifest.name} cannot take a {entity}", hint="remove the flow")
        event = self._codec.decode(topics.canonical(source.entity), command.event)
        document = event.after if event.after is None else with_values(self._privacy.open(event.after), command.resolved)
        currency = getattr(document, "currency", None) if document is not None else None
        return Task(
            command=command,
            raw=raw,
            source=source,
            entity=entity,
            facts=facts,
            policy=decode_policy(command.policy or b"{}"),
            document=document,
            echo_fields=frozenset(event.meta.echo_fields),
            facet=None if entity in topics.DOCUMENTS else facet_of(facts, currency, self._account.currency),
        )

    def _withdrawn(self, command: Command, raw: bytes) -> Settlement:
        """Action NONE: what is queued or parked for the object is withdrawn by the new standing itself."""
        assert command.source and command.flow
        reason = command.reason or ""
        if reason.startswith("dead:"):
            _, cause, detail = [*reason.split(":", 2), "", ""][:3]
            known = Cause(cause) if cause in Cause.__members__ else Cause.UNKNOWN
            return Settlement(standing=Standing.DEAD, outcome=Outcome.DEAD, cause=known, detail=detail)
        if reason == "echo":
            document = self._open(command, raw).document
            applied = self._hasher.fields(document) if document is not None and not isinstance(document, Document) else {}
            return Settlement(standing=Standing.UNCHANGED, outcome=Outcome.UNCHANGED, detail="echo", applied=applied)
        link = self._state.link(command.target_entity or "", command.source)
        if link is not None and command.target_entity in topics.DOCUMENTS:
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.UNCHANGED,
                external_id=link.external_id,
                detail=f"written earlier; the source now fails the filter: {reason}",
                kept=self._stands(command, link),
            )
        return Settlement(standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail=reason)

    # --- open intents ------------------------------------------------------------------------------------------------------

    async def _finish_older(self, task: Task) -> None:
        """An open intent of this object, begun by another command, ends before anything newer (law 6)."""
        intent = self._state.intent(task.entity, task.source, task.facet)
        if intent is not None and intent.state is IntentState.OPEN and intent.command != task.raw:
            await self.finish(intent)

    async def finish(self, intent: IntentRecord) -> None:
        """Ends an open intent from the command that began it. Raises what the write raises."""
        command = self._codec.decode(topics.outbound(self._state.connection), intent.command)
        task = self._open(command, intent.command)
        if intent.entity == "customer" and task.entity in topics.DOCUMENTS:
            await self._create_customer_of(task, intent.facet)
            return
        if intent.external_id is not None:
            link = self._state.link(task.entity, task.source, task.facet)
            if link is not None:
                await self._update(task, link, settle_now=True)
            return
        if task.entity in topics.DOCUMENTS:
            ids = await self._references(task)
            done = await self._write(self._create(task, ids), task.raw)
            await self._commit(self._made(task.entity, task.source, None, done, LinkedBy.CREATED))
            return
        await self._create_and_link(task)

    # --- customers, products, categories -------------------------------------------------------------------------------------

    def _met(self, task: Task, link: LinkRecord) -> Settlement | None:
        """An object that existed before the start and is linked already: what it holds now is where changes count from."""
        before = self._state.standing(task.command.flow or "", task.source)
        is_first = before is None or (before.command is not None and not before.applied)  # parked ones have settled nothing yet
        if not (is_first and task.command.existing and task.policy.existing == "link" and task.document is not None):
            return None
        return Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.LINKED,
            external_id=link.external_id,
            number=link.number,
            applied=self._hasher.fields(task.document),
        )

    async def _match_or_create(self, task: Task) -> Settlement:
        document = task.document
        assert document is not None and not isinstance(document, Document)
        if task.entity not in self._state.backfilled:
            raise MissingDependency(
                f"the target's {task.entity} list is not read to its end yet",
                missing=[f"backfill|{task.entity}"],
                hint="nothing to do: it goes on by itself",
                cause=Cause.BACKFILL_INCOMPLETE,
            )
        keys = [f"match|{task.entity}|{key}" for key in match_keys(document, self._hasher) if not key.startswith("email+kind")]
        async with self._locks.hold(keys):
            if not self._is_open(task.entity, task.source, task.facet):
                found = await self._matcher.entity(
                    task.entity, document, task.policy.match or DEFAULT_MATCH[task.entity], task.facet
                )
                if found is not None:
                    return await self._link_found(task, found.record, found.number)
                if task.command.existing and task.policy.existing == "link":
                    return Settlement(
                        standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail="existed before the start; linked when met"
                    )
            done = await self._create_and_link(task)
        return Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.CREATED,
            external_id=done.external_id,
            number=done.result.number,
            applied=self._hasher.fields(document),
        )

    def _is_open(self, entity: str, source: ObjectRef, facet: str | None) -> bool:
        intent = self._state.intent(entity, source, facet)
        return intent is not None and intent.state is IntentState.OPEN

    async def _create_and_link(self, task: Task) -> Done:
        """The link is durable before the command settles: whatever fails later, nothing is created again."""
        try:
            done = await self._write(self._create(task, await self._parts(task)), task.raw)
        except Incomplete as part:
            change = link_changes(
                self._state.connection, task.entity, task.source, task.facet, part.external_id, None, LinkedBy.CREATED
            )
            await self._ledger.commit(Entry(state=self._state, changes=[change]))
            raise
        made = self._made(task.entity, task.source, task.facet, done, LinkedBy.CREATED)
        await self._commit(made)
        return done

    async def _parts(self, task: Task) -> dict[str, str]:
        """Ids of what a product or category refers to: its categories, as far as they are linked."""
        ids = {}
        refs = list(getattr(task.document, "categories", []))
        if parent := getattr(task.document, "parent", None):
            refs.append(parent)
        for ref in refs:
            if ref.id is None:
                continue
            link = self._state.link(
                "product_category", ObjectRef(connection=task.source.connection, entity="product_category", id=ref.id)
            )
            if link is not None and link.state is LinkState.ACTIVE:
                ids[f"category:{ref.id}"] = link.external_id
        return ids

    async def _link_found(self, task: Task, record: RawRecord, number: str | None) -> Settlement:
        """Links a match; a target already joined with another object of the same account is a conflict."""
        other = self._state.active_link_to(task.entity, record.id, task.source.connection)
        if other is not None and other.source != task.source:
            raise AmbiguousMatch(
                f"{record.id} is already linked with {other.source.id}",
                candidates=[record.id, other.source.id],
                hint="two source objects mean one target object: merge them at the source, or change what they match by",
            )
        now = self._clock.now()
        change = link_changes(self._state.connection, task.entity, task.source, task.facet, record.id, number, LinkedBy.MATCH)
        peer = peer_link(self._state.connection, task.entity, task.source, record.id, now)
        await self._ledger.commit(Entry(state=self._state, changes=[change], outgoing=[peer]))
        link = self._state.link(task.entity, task.source, task.facet)
        assert link is not None and task.document is not None
        if task.policy.write == "create" or (task.command.existing and task.policy.existing == "link"):
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.LINKED,
                external_id=record.id,
                number=number,
                applied=self._hasher.fields(task.document),
            )
        return await self._update(task, link)

    async def _update(self, task: Task, link: LinkRecord, *, settle_now: bool = False) -> Settlement:
        """Sends only what the source changed and the target does not hold already (law 8)."""
        document = task.document
        assert document is not None and task.command.flow is not None
        now_hashes = self._hasher.fields(document)
        before = self._state.standing(task.command.flow, task.source)
        changed = changed_paths(now_hashes, before.applied if before else {}) - task.echo_fields
        wanted = {
            path for path in changed if task.policy.owner_of(path) in ("last_change", "source") and has_place(path, task.facts)
        }
        unchanged = Settlement(
            standing=Standing.UNCHANGED,
            outcome=Outcome.UNCHANGED,
            external_id=link.external_id,
            number=link.number,
            applied=now_hashes,
        )
        if "update" not in task.facts.actions or not wanted:
            return unchanged
        known = await self._connector.fetch(task.entity, link.external_id)
        if known is None or known.deleted:
            return await self._retire(task, link, applied=now_hashes)
        held = self._hasher.fields(self._connector.to_canonical(known))
        wanted |= {path for path in now_hashes if task.policy.owner_of(path) == "source" and has_place(path, task.facts)}
        fields = frozenset(path for path in wanted if now_hashes.get(path) != held.get(path))
        if not fields:
            unchanged.changes = self._done_before(task, link, held, frozenset(wanted))
            return unchanged
        write = msgspec.structs.replace(
            self._create(task, await self._parts(task)), action="update", fields=fields, external_id=link.external_id, known=known
        )
        done = await self._write(write, task.raw)
        changes = [done.closing, *self._object_changes(task.entity, task.source, done, fields)]
        if settle_now:
            await self._ledger.commit(Entry(state=self._state, changes=changes))
            changes = []
        detail = f"fields: {', '.join(sorted(fields))}"
        return Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.UPDATED,
            external_id=link.external_id,
            number=link.number,
            applied=now_hashes,
            detail=detail,
            changes=changes,
        )

    def _done_before(self, task: Task, link: LinkRecord, held: Mapping[str, str], sent: frozenset[str]) -> list[Change]:
        """An open update whose fields the target already holds has happened: the intent closes, and what it wrote is no news."""
        intent = self._state.intent(task.entity, task.source, task.facet)
        if intent is None or intent.state is not IntentState.OPEN:
            return []
        connection = self._state.connection
        before = self._state.object(task.entity, link.external_id) or ObjectState()
        hashes, _ = ours_among(held, before.field_hashes, sent)
        state = msgspec.structs.replace(before, content_hash=None, field_hashes=hashes, by_bus=True, written_at=self._clock.now())
        return [
            (
                intent_key(connection, task.entity, task.source, task.facet),
                StateRecord(connection=connection, intent=msgspec.structs.replace(intent, state=IntentState.CLOSED)),
            ),
            (object_key(connection, task.entity, link.external_id), StateRecord(connection=connection, object=state)),
        ]

    async def _retire(self, task: Task, link: LinkRecord, applied: Mapping[str, str]) -> Settlement:
        key, record = link_changes(
            self._state.connection, task.entity, task.source, task.facet, link.external_id, link.number, link.linked_by
        )
        assert record is not None and record.link is not None
        retired = msgspec.structs.replace(record, link=msgspec.structs.replace(record.link, state=LinkState.RETIRED))
        return Settlement(
            standing=Standing.UNCHANGED,
            outcome=Outcome.SKIPPED,
            external_id=link.external_id,
            detail="the target object is gone there; it is not made again",
            applied=applied,
            changes=[(key, retired)],
        )

    async def _remove(self, task: Task) -> Settlement:
        """The source object is gone or switched off."""
        link = self._state.link(task.entity, task.source, task.facet)
        action = "delete" if task.command.action is Action.DELETE else "deactivate"
        if link is None or link.state is not LinkState.ACTIVE:
            return Settlement(standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail=f"{action}: never written")
        if action not in task.facts.actions:
            raise MappingError(f"{self._connector.manifest.name} cannot {action} a {task.entity}", hint="set on_delete: ignore")
        known = await self._connector.fetch(task.entity, link.external_id)
        if known is None or known.deleted:
            return await self._retire(task, link, applied={})
        document = task.document or self._connector.to_canonical(known)
        write = Write(
            action=action,
            entity=task.entity,
            source=task.source,
            document=document,
            facet=task.facet,
            external_id=link.external_id,
            known=known,
        )
        done = await self._write(write, task.raw)
        changes = [done.closing, *self._object_changes(task.entity, task.source, done, frozenset({"active"}))]
        if action == "delete":
            changes += (await self._retire(task, link, applied={})).changes
        return Settlement(
            standing=Standing.WRITTEN, outcome=Outcome.DELETED, external_id=link.external_id, applied={}, changes=changes
        )

    # --- documents -----------------------------------------------------------------------------------------------------------

    async def _document(self, task: Task, link: LinkRecord | None) -> Settlement:
        """Documents are written once. A document that exists already is skipped and linked."""
        document = task.document
        assert isinstance(document, Document)
        if link is not None:
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.SKIPPED,
                external_id=link.external_id,
                number=link.number,
                detail="written earlier",
                kept=self._stands(task.command, link),
            )
        ids = await self._references(task)
        is_new = not self._is_open(task.entity, task.source, None)
        if is_new and (skipped := await self._existing(task, document, ids)) is not None:
            return skipped
        try:
            done = await self._write(self._create(task, ids), task.raw)
        except Incomplete as part:
            change = link_changes(
                self._state.connection, task.entity, task.source, None, part.external_id, None, LinkedBy.CREATED
            )
            await self._ledger.commit(Entry(state=self._state, changes=[change]))
            raise
        return self._proven(task, document, done)

    def _stands(self, command: Command, link: LinkRecord) -> StandingRecord | None:
        """How a document that was written stands; a later version of it neither hides that it was created nor its wrong total."""
        assert command.flow and command.source
        before = self._state.standing(command.flow, command.source)
        is_final = before is not None and before.standing in (Standing.WRITTEN, Standing.DEAD)
        return before if before is not None and is_final and before.external_id == link.external_id else None

    def _proven(self, task: Task, document: Document, done: Done) -> Settlement:
        made = self._made(task.entity, task.source, None, done, LinkedBy.CREATED)
        end = Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.CREATED,
            external_id=done.external_id,
            number=done.result.number,
            changes=made.changes,
            outgoing=made.outgoing,
        )
        if done.result.record is None:
            return end
        try:
            end.totals, end.totals_by_rate = proof_of_totals(document, self._connector.to_canonical(done.result.record))
        except TotalsMismatch as mismatch:
            end.standing, end.outcome, end.cause = Standing.DEAD, Outcome.CREATED, mismatch.cause
            end.detail, end.hint = str(mismatch), mismatch.hint
        return end

    async def _existing(self, task: Task, document: Document, ids: Mapping[str, str]) -> Settlement | None:
        """A document with this reference: the same debtor and total mean it is ours; anything else is for a person."""
        reference = value_of(task.command, "reference")
        if not reference or "reference" not in task.facts.match:
            return None
        for found in await self._connector.find(task.entity, Match(reference=reference)):
            other = self._connector.to_canonical(found.record)
            debtor = (
                other.customer.customer.id if isinstance(other, Document) and other.customer and other.customer.customer else None
            )
            total = other.totals.incl if isinstance(other, Document) and other.totals else None
            ours = document.totals.incl if document.totals else None
            if debtor != ids.get("customer") or total is None or ours is None or abs(total - ours) > 1:
                raise AmbiguousMatch(
                    f"{found.record.id} has reference {reference} but another debtor or total",
                    candidates=[found.record.id],
                    hint="the reference may be the buyer's own: give the flow another prefix, or link the document by hand",
                )
            now = self._clock.now()
            link = link_changes(
                self._state.connection, task.entity, task.source, None, found.record.id, found.number, LinkedBy.MATCH
            )
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.SKIPPED,
                external_id=found.record.id,
                number=found.number,
                detail=f"exists already with reference {reference}",
                changes=[link],
                outgoing=[peer_link(self._state.connection, task.entity, task.source, found.record.id, now)],
            )
        return None

    async def _references(self, task: Task) -> dict[str, str]:
        """Products first (they only wait), then the customer (it may be created)."""
        document = task.document
        assert isinstance(document, Document)
        product = task.policy.product
        ids = dict(await self._products.ids(task.source, document, product.line_without_product, product.shipping, task.facts))
        ids["customer"] = await self._customer(task, document)
        return ids

    async def _customer(self, task: Task, document: Document) -> str:
        policy, party = task.policy.customer, document.customer
        if code := value_of(task.command, "customer.default_code"):
            return await default_customer(self._matcher, code)
        if party is None or (party.customer is None and not party.email_index and not party.company_name and party.pii is None):
            raise MissingDependency(
                "the document names no customer",
                missing=["customer|none"],
                hint="set customer.default in the flow",
                cause=Cause.MAPPING_ERROR,
            )
        source = customer_source(task.source, party)
        facet = facet_of(self._connector.manifest.writes["customer"], document.currency, self._account.currency)
        link = self._state.link("customer", source, facet)
        if link is not None and link.state is LinkState.ACTIVE:
            return link.external_id
        if "customer" not in self._state.backfilled:
            raise MissingDependency(
                "the target's customer list is not read to its end yet",
                missing=["backfill|customer"],
                hint="nothing to do: it goes on by itself",
                cause=Cause.BACKFILL_INCOMPLETE,
            )
        keys = [f"object|customer|{source.connection}|{source.id}"]
        keys += [f"match|customer|{key}" for key in match_keys(party, self._hasher) if not key.startswith("email+kind")]
        async with self._locks.hold(keys):
            link = self._state.link("customer", source, facet)
            if link is not None and link.state is LinkState.ACTIVE:
                return link.external_id
            if not self._is_open("customer", source, facet):
                found = await self._matcher.customer(party, policy.match, facet)
                if found is not None:
                    return await self._link_customer(source, facet, found.record, found.number)
                if policy.missing != "create":
                    raise MissingDependency(
                        f"the customer of {task.source.id} does not exist at the target",
                        missing=[f"customer|{key}" for key in match_keys(party, self._hasher)],
                        hint="create it there or let a customer flow do it: the document goes on by itself",
                    )
            return await self._create_customer_of(task, facet)

    async def _link_customer(self, source: ObjectRef, facet: str | None, record: RawRecord, number: str | None) -> str:
        change = link_changes(self._state.connection, "customer", source, facet, record.id, number, LinkedBy.MATCH)
        peer = peer_link(self._state.connection, "customer", source, record.id, self._clock.now())
        real = self._state.active_link_to("customer", record.id, source.connection) is None
        await self._ledger.commit(Entry(state=self._state, changes=[change], outgoing=[peer] if real else []))
        return record.id

    async def _create_customer_of(self, task: Task, facet: str | None) -> str:
        """The debtor is the order's first write, with an intent and a link of its own."""
        document = task.document
        assert isinstance(document, Document) and document.customer is not None
        source = customer_source(task.source, document.customer)
        customer = customer_from(document.customer, facet)
        write = Write(
            action="create", entity="customer", source=source, document=customer, resolved=task.command.resolved, facet=facet
        )
        try:
            done = await self._write(write, task.raw)
        except Incomplete as part:
            change = link_changes(self._state.connection, "customer", source, facet, part.external_id, None, LinkedBy.CREATED)
            await self._ledger.commit(Entry(state=self._state, changes=[change]))
            raise
        made = self._made("customer", source, facet, done, LinkedBy.CREATED)
        await self._commit(made)
        return done.external_id

    def forget(self, external_id: str) -> None:
        """An object of this account changed: remembered searches for it are void."""
        self._products.forget(external_id)

    # --- common --------------------------------------------------------------------------------------------------------------

    def _create(self, task: Task, ids: Mapping[str, str]) -> Write:
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

    async def _write(self, write: Write, raw: bytes) -> Done:
        """Makes the write and makes sure the last result carries the object as it now is."""
        done = await self._writer.write(write, raw)
        if done.result.record is None and write.action != "delete":
            record = await self._connector.fetch(write.entity, done.external_id)
            done.result = msgspec.structs.replace(done.result, record=record, as_sent=False)
        return done

    def _made(self, entity: str, source: ObjectRef, facet: str | None, done: Done, how: LinkedBy) -> Made:
        """Everything a create makes true: intent closed, link, object, and the peer's word of it."""
        connection = self._state.connection
        link = link_changes(connection, entity, source, facet, done.external_id, done.result.number, how, done.generation)
        peer = peer_link(connection, entity, source, done.external_id, self._clock.now())
        return Made(changes=[done.closing, link, *self._object_changes(entity, source, done, None)], outgoing=[peer])

    async def _commit(self, made: Made) -> None:
        await self._ledger.commit(Entry(state=self._state, changes=made.changes, outgoing=made.outgoing))

    def _object_changes(self, entity: str, source: ObjectRef, done: Done, sent: frozenset[str] | None) -> list[Change]:
        """What the object holds now; `sent` None for one that we made."""
        if done.result.record is None:
            return []
        document = self._connector.to_canonical(done.result.record)
        before = self._state.object(entity, done.external_id) if sent is not None else None
        known = (before or ObjectState()).field_hashes if sent is not None else None
        now = self._clock.now()
        return [
            object_change(
                self._state.connection, entity, done.external_id, document, done.result, self._hasher, now, source, known, sent
            )
        ]
