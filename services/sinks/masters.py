"""Customers, products and categories: match or create, then send what changed (laws 7 and 8)."""

from collections.abc import Collection, Mapping

import msgspec

from bus.core.errors import AmbiguousMatch, MappingError, MissingDependency
from bus.core.identity import match_keys, told_together
from bus.kit.connector import RawRecord, Write
from bus.runtime.state import intent_key, object_key, standing_key
from schemas.system import (
    Action,
    Cause,
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
from services.sinks.beginnings import Beginnings
from services.sinks.collisions import edited_at_both, stays
from services.sinks.desired import has_place, kept_otherwise, owned_paths
from services.sinks.ledger import Change, Entry
from services.sinks.making import Maker, gone
from services.sinks.matching import DEFAULT_MATCH, Matcher, changed_paths
from services.sinks.settlement import Settlement, link_changes, ours_among, peer_link
from services.sinks.task import Document, Target, Task
from services.sinks.writing import Done

FINAL = (Standing.FILTERED, Standing.DEAD, Standing.UNCHANGED, Standing.WRITTEN)


class Masters:
    """Carries out commands for master data of one account."""

    def __init__(self, target: Target, maker: Maker, matcher: Matcher, beginnings: Beginnings) -> None:
        self._target = target
        self._beginnings = beginnings
        self._state = target.state
        self._hasher = target.hasher
        self._connector = target.connector
        self._maker = maker
        self._matcher = matcher

    async def settle(self, task: Task, link: LinkRecord | None) -> Settlement:
        """What an UPSERT ends in."""
        if link is None:
            return await self._match_or_create(task)
        if task.policy.write == "create":
            return self._made_earlier(task, link)
        return self._met(task, link) or await self._update(task, link)

    def _made_earlier(self, task: Task, link: LinkRecord) -> Settlement:
        """A flow that only creates has nothing more to say of an object that is there."""
        assert task.document is not None
        return Settlement(
            standing=Standing.UNCHANGED,
            outcome=Outcome.UNCHANGED,
            external_id=link.external_id,
            number=link.number,
            detail="there already; this flow only creates",
            applied=self._hasher.fields(task.document),
        )

    def echoed(self, task: Task) -> Settlement:
        """What our own write left at the source is settled without a call; what was refused of it before stays so."""
        end = Settlement(standing=Standing.UNCHANGED, outcome=Outcome.UNCHANGED, detail="echo", applied={})
        if task.document is None or isinstance(task.document, Document):
            return end
        assert task.command.flow is not None
        before = self._state.standing(task.command.flow, task.source)
        end.applied = self._hasher.fields(task.document)
        if before is not None:  # only what that write brought: the rest may never have come to the target
            brought = {path: end.applied[path] for path in task.echo_fields if path in end.applied}
            end.applied = {**{path: told for path, told in before.applied.items() if path not in task.echo_fields}, **brought}
        link = self._state.link(task.entity, task.source, task.facet)
        known = self._state.object(task.entity, link.external_id) if link is not None else None
        if known is not None:
            looked, told = (task.echo_fields, before.otherwise) if before is not None else (None, None)
            end.otherwise = self._otherwise(task, known.field_hashes, looked, told)
        if before is not None and before.standing is Standing.DEAD:
            otherwise = dict(end.otherwise if end.otherwise is not None else before.otherwise)
            end.kept = msgspec.structs.replace(before, applied=dict(end.applied), otherwise=otherwise)
        return end

    async def finish(self, task: Task, external_id: str | None) -> None:
        """Ends an open write of an older command; `external_id` of an update.

        What it wrote is what newer versions are compared with: else A → B → A would end at B.
        """
        if external_id is None:
            end = await self._create_and_link(task)
        elif (link := self._state.link(task.entity, task.source, task.facet)) is not None:
            end = await self._update(task, link)
        else:
            return
        await self._commit_applied(task, end)

    async def settle_left(self, task: Task, intent: IntentRecord) -> None:
        """Ends an open update of a version that the source has left, without sending anything: by what the target holds."""
        assert intent.external_id is not None and task.document is not None
        closed = msgspec.structs.replace(intent, state=IntentState.CLOSED)
        key = intent_key(self._state.connection, task.entity, task.source, task.facet)
        changes: list[Change] = [(key, StateRecord(connection=self._state.connection, intent=closed))]
        known = await self._connector.fetch(task.entity, intent.external_id)
        link = self._state.link(task.entity, task.source, task.facet)
        if known is not None and not known.deleted and link is not None:
            wanted = self._hasher.fields(task.document)
            held = self._hasher.fields(self._connector.to_canonical(known))
            came = frozenset(path for path in wanted if wanted[path] == held.get(path))
            changes = self._done_before(task, link, held, came)
        await self._target.ledger.commit(Entry(state=self._state, changes=changes))

    async def _commit_applied(self, task: Task, end: Settlement) -> None:
        """What the ended write made true, and what its flow now counts from."""
        assert task.command.flow is not None
        changes = list(end.changes)
        before = self._state.standing(task.command.flow, task.source)
        if before is not None and end.applied is not None:
            otherwise = dict(end.otherwise if end.otherwise is not None else before.otherwise)
            applied = msgspec.structs.replace(before, applied=dict(end.applied), otherwise=otherwise)
            key = standing_key(self._state.connection, task.command.flow, task.source)
            changes.append((key, StateRecord(connection=self._state.connection, standing=applied)))
        await self._target.ledger.commit(Entry(state=self._state, changes=changes, outgoing=end.outgoing))

    # --- link or create ----------------------------------------------------------------------------------------------------

    def _met(self, task: Task, link: LinkRecord) -> Settlement | None:
        """An object that existed before the start and is linked already: what it holds now is where changes count from."""
        before = self._state.standing(task.command.flow or "", task.source)
        is_first = before is None or not before.applied  # nothing was settled of it: it was parked, filtered or refused
        if task.command.repair or not (is_first and _is_only_linked(task) and task.document is not None):
            return None
        known = self._state.object(task.entity, link.external_id)
        return self._linked(task, link.external_id, link.number, known.field_hashes if known is not None else {})

    def _linked(self, task: Task, external_id: str, number: str | None, held: Mapping[str, str]) -> Settlement:
        assert task.document is not None
        return Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.LINKED,
            external_id=external_id,
            number=number,
            applied=self._hasher.fields(task.document),
            otherwise=self._otherwise(task, held),
        )

    def _otherwise(
        self,
        task: Task,
        held: Mapping[str, str],
        looked: Collection[str] | None = None,
        before: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """What the target makes of the source's fields, as far as it was looked at now."""
        assert task.document is not None
        now = self._hasher.fields(task.document)
        owned = owned_paths(now, task.policy, task.facts)
        return kept_otherwise({path: now[path] for path in owned}, held, looked, before or {})

    def _answered(self, done: Done) -> dict[str, str]:
        """What the object holds by the write's own answer."""
        record = done.result.record
        return self._hasher.fields(self._connector.to_canonical(record)) if record is not None else {}

    async def _match_or_create(self, task: Task) -> Settlement:
        document = task.document
        assert document is not None and not isinstance(document, Document)
        if task.entity not in self._state.backfilled:
            raise not_read_yet(task.entity)
        answered = match_keys(document, self._hasher)
        keys = [f"match|{task.entity}|{key}" for key in answered if not key.startswith("email+kind")]
        async with self._target.locks.hold(keys):
            if not self._target.is_open(task.entity, task.source, task.facet):
                self._beginnings.need_none(task.entity, task.source, task.facet, answered)
                methods = task.policy.match or DEFAULT_MATCH[task.entity]
                found = await self._matcher.entity(task.entity, document, methods, task.facet)
                if found is not None:
                    return await self._link_found(task, found.record, found.number)
                if _is_only_linked(task):
                    detail = "existed before the start; linked when met"
                    return Settlement(standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail=detail)
            return await self._create_and_link(task)

    async def _create_and_link(self, task: Task) -> Settlement:
        """Makes it. Its link becomes true with its standing: an owner that knew the one without the other would take what people
        edited since for something that the source never said, and write over it."""
        done = await self._maker.write(self._maker.create(task, self._categories(task)), task.raw)
        made = self._maker.made(task.entity, task.source, task.facet, task.currency, done)
        if made.gone:
            end = gone(done.external_id)
            end.changes = made.changes
            return end
        assert task.document is not None
        return Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.CREATED,
            external_id=done.external_id,
            number=done.result.number,
            changes=made.changes,
            outgoing=made.outgoing,
            applied=self._hasher.fields(task.document),
            otherwise=self._otherwise(task, self._answered(done)),
        )

    async def _link_found(self, task: Task, record: RawRecord, number: str | None) -> Settlement:
        """Links a match; a target already joined with another object of the same account is a conflict."""
        other = self._state.active_link_to(task.entity, record.id, task.source.connection)
        if other is not None and other.source != task.source:
            raise AmbiguousMatch(
                f"{record.id} is already linked with {other.source.id}",
                candidates=[record.id, other.source.id],
                hint="two source objects mean one target object: merge them at the source, or change what they match by",
            )
        connection = self._state.connection
        task.facet = self._target.facet(task.entity, getattr(self._connector.to_canonical(record), "currency", None))
        change = link_changes(connection, task.entity, task.source, task.facet, record.id, number, LinkedBy.MATCH)
        peer = peer_link(connection, task.entity, task.source, record.id, task.currency, self._target.clock.now())
        await self._target.ledger.commit(Entry(state=self._state, changes=[change], outgoing=[peer]))
        link = self._state.link(task.entity, task.source, task.facet)
        assert link is not None
        if task.policy.write == "create" or (_is_only_linked(task) and not task.command.repair):
            return self._linked(task, record.id, number, self._hasher.fields(self._connector.to_canonical(record)))
        return await self._update(task, link)

    def _categories(self, task: Task) -> dict[str, str]:
        """Ids of the categories a product or category refers to. Raises MissingDependency while a flow may still bring one."""
        ids = {}
        refs = list(getattr(task.document, "categories", []))
        if parent := getattr(task.document, "parent", None):
            refs.append(parent)
        for ref in refs:
            if ref.id is None:
                continue
            source = ObjectRef(connection=task.source.connection, entity="product_category", id=ref.id)
            link = self._state.link("product_category", source)
            if link is not None and link.state is LinkState.ACTIVE:
                ids[f"category:{ref.id}"] = link.external_id
            elif task.policy.category_flow and self._may_come(task.policy.category_flow, source):
                raise MissingDependency(
                    f"category {ref.code or ref.name or ref.id} is not at the target yet",
                    missing=[f"product_category|source:{source.connection}:{source.id}"],
                    hint=f"flow {task.policy.category_flow} brings it: the product goes on by itself",
                )
        return ids

    def _may_come(self, flow: str, category: ObjectRef) -> bool:
        standing = self._state.standing(flow, category)
        return standing is None or standing.standing not in FINAL

    # --- update ------------------------------------------------------------------------------------------------------------

    async def _update(self, task: Task, link: LinkRecord) -> Settlement:
        """Sends only what the source changed and the target does not hold already."""
        document = task.document
        assert document is not None and task.command.flow is not None
        now_hashes = self._hasher.fields(document)
        before = self._settled_before(task, link)
        applied = before.applied if before else {}
        edited = changed_paths(now_hashes, applied) - task.echo_fields
        # What was settled before is not believed by a repair: every field is compared with what the target holds.
        wanted = owned_paths(now_hashes.keys() | applied.keys() if task.command.repair else edited, task.policy, task.facts)
        otherwise = self._echoed(task, link, before.otherwise if before else {})
        end = Settlement(
            standing=Standing.UNCHANGED,
            outcome=Outcome.UNCHANGED,
            external_id=link.external_id,
            number=link.number,
            applied=now_hashes,
            otherwise=otherwise,
        )
        if "update" not in task.facts.actions or not wanted:
            return end
        known = await self._connector.fetch(task.entity, link.external_id)
        if known is None or known.deleted:
            return self._maker.retired(task, link, applied=now_hashes)
        held = self._hasher.fields(self._connector.to_canonical(known))
        begun = self._begun(task)
        left = self._collide(task, end, edited - begun, held, before, known)
        wanted |= {path for path in now_hashes if task.policy.owner_of(path) == "source" and has_place(path, task.facts)}
        fields = frozenset(path for path in wanted if now_hashes.get(path) != held.get(path)) - left
        if not fields:
            end.otherwise = self._otherwise(task, held, wanted, otherwise)
            end.changes = self._done_before(task, link, held, frozenset(wanted) - left, left)
            return end
        write = msgspec.structs.replace(
            self._maker.create(task, self._categories(task)),
            action="update",
            fields=fields,
            external_id=link.external_id,
            known=known,
        )
        done = await self._maker.write(write, task.raw)
        end.changes = [done.closing, *self._maker.object_changes(task.entity, task.source, done, fields, None if begun else held)]
        end.otherwise = self._otherwise(task, self._answered(done), wanted | told_together(fields), otherwise)
        if not done.result.replayed:  # else there was nothing of it that the vendor can be told
            end.standing, end.outcome = Standing.WRITTEN, Outcome.UPDATED
            end.detail = "; ".join(filter(None, (f"fields: {', '.join(sorted(fields))}", end.detail)))
        return end

    def _settled_before(self, task: Task, link: LinkRecord) -> StandingRecord | None:
        """What changes count from. A document may have made another object meanwhile, in the account's own currency: of what the
        document did not know nothing was ever sent to that one, so it is compared whole."""
        before = self._state.standing(task.command.flow or "", task.source)
        is_other = before is not None and before.external_id not in (None, link.external_id)
        return None if is_other and link.linked_by is LinkedBy.CREATED else before

    def _begun(self, task: Task) -> frozenset[str]:
        """What an update of this very command sent and nobody heard of: if the target holds something else there, it is what its
        vendor made of it, and no person's edit."""
        intent = self._state.intent(task.entity, task.source, task.facet)
        is_own = intent is not None and intent.state is IntentState.OPEN and intent.command == task.raw
        return frozenset(intent.fields) if intent is not None and is_own else frozenset()

    def _collide(
        self,
        task: Task,
        end: Settlement,
        edited: set[str],
        held: Mapping[str, str],
        before: StandingRecord | None,
        known: RawRecord,
    ) -> set[str]:
        """Notes the fields edited at both ends with its settlement; returns those whose value at the target stays."""
        assert end.applied is not None and end.external_id is not None
        if before is None:
            return set()
        seen = self._state.object(task.entity, end.external_id)
        placed = {path for path in edited if has_place(path, task.facts)}
        settled = {path: before.applied[path] for path in owned_paths(before.applied, task.policy, task.facts)}
        theirs = seen.field_hashes if seen is not None else None
        both = edited_at_both(placed, end.applied, held, theirs, settled, before.otherwise)
        target_at = known.modified_at if not task.command.repair else None  # a repair says that the source is right
        is_first = self._state.connection < task.source.connection
        left = {path for path in both if stays(path, task.policy, task.source_modified_at, target_at, is_first)}
        end.conflicts = sorted(both)
        if both:
            told = (("the source's stands", both - left), ("the target's stays", left))
            parts = [f"{', '.join(sorted(paths))} ({who})" for who, paths in told if paths]
            end.detail = f"edited at both ends: {'; '.join(parts)}"
        return left

    def _echoed(self, task: Task, link: LinkRecord, before: Mapping[str, str]) -> dict[str, str]:
        """Fields that our own write left at the source stand at the target as its poller knows them."""
        known = self._state.object(task.entity, link.external_id)
        if known is None or not task.echo_fields:
            return dict(before)
        return self._otherwise(task, known.field_hashes, task.echo_fields, before)

    def _done_before(
        self, task: Task, link: LinkRecord, held: Mapping[str, str], sent: frozenset[str], left: Collection[str] = ()
    ) -> list[Change]:
        """An open update whose fields the target already holds has happened: the intent closes, and what it wrote is no news;
        what people of the target edited (`left`) is."""
        intent = self._state.intent(task.entity, task.source, task.facet)
        if intent is None or intent.state is not IntentState.OPEN:
            return []
        connection = self._state.connection
        before = self._state.object(task.entity, link.external_id) or ObjectState()
        hashes, _ = ours_among(held, before.field_hashes, sent, left)
        now = self._target.clock.now()
        state = msgspec.structs.replace(before, content_hash=None, field_hashes=hashes, by_bus=True, written_at=now)
        closed = msgspec.structs.replace(intent, state=IntentState.CLOSED)
        return [
            (intent_key(connection, task.entity, task.source, task.facet), StateRecord(connection=connection, intent=closed)),
            (object_key(connection, task.entity, link.external_id), StateRecord(connection=connection, object=state)),
        ]

    # --- remove ------------------------------------------------------------------------------------------------------------

    async def remove(self, task: Task) -> Settlement:
        """The source object is gone or switched off."""
        link = self._state.link(task.entity, task.source, task.facet)
        action = "delete" if task.command.action is Action.DELETE else "deactivate"
        if link is None or link.state is not LinkState.ACTIVE:
            return Settlement(standing=Standing.FILTERED, outcome=Outcome.FILTERED, detail=f"{action}: never written")
        if action not in task.facts.actions:
            raise MappingError(f"{self._connector.manifest.name} cannot {action} a {task.entity}", hint="set on_delete: ignore")
        known = await self._connector.fetch(task.entity, link.external_id)
        if known is None or known.deleted:
            return self._maker.retired(task, link, applied={})
        write = Write(
            action=action,
            entity=task.entity,
            source=task.source,
            document=task.document or self._connector.to_canonical(known),
            facet=task.facet,
            external_id=link.external_id,
            known=known,
        )
        done = await self._maker.write(write, task.raw)
        changes = [done.closing, *self._maker.object_changes(task.entity, task.source, done, frozenset({"active"}))]
        if action == "delete":
            changes += self._maker.retired(task, link).changes
        return Settlement(
            standing=Standing.WRITTEN, outcome=Outcome.DELETED, external_id=link.external_id, applied={}, changes=changes
        )


def _is_only_linked(task: Task) -> bool:
    """An object that existed before the flow began, in a flow that does not send those."""
    return task.command.existing and task.policy.existing == "link"


def not_read_yet(entity: str) -> MissingDependency:
    """Nothing is created before everything that exists is known."""
    return MissingDependency(
        f"the target's {entity} list is not read to its end yet",
        missing=[f"backfill|{entity}"],
        hint="nothing to do: it goes on by itself",
        cause=Cause.BACKFILL_INCOMPLETE,
    )
