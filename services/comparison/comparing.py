"""Every object of one side against what stands for it at the other, and a second look at whatever does not agree.

The first pass works on two long readings of systems that go on working, so it only raises suspicions. What it suspects is read
once more, both sides within a moment, with the bus's state as it then is; what still differs is a finding.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from bus.core import topics
from bus.core.clock import Clock, micros
from bus.core.identity import Hasher
from bus.core.policy import decode_policy
from bus.kit.manifest import Manifest
from bus.runtime.state import AccountState
from schemas.system import Cause, IntentState, LinkedBy, LinkRecord, LinkState, ObjectRef, SeenRecord, Standing
from services.comparison.documents import bears, document_differences
from services.comparison.fields import FieldDifference
from services.comparison.pairs import Finding, Held, is_in_flight, is_only_linked, master_differences, mend_of, missing_reason
from services.comparison.reading import Read, Side
from services.comparison.wanting import Wanted, Wanting
from services.processors import filters
from services.processors.routes import Route
from services.sinks.desired import facet_of, facet_of_type
from services.sinks.references import customer_source
from services.sinks.task import Document, linked_facet

SECOND_LOOKS_MAX = 500
"""Suspicions that are looked at again; each costs calls at both ends."""
YOUNG = timedelta(minutes=10)
"""An object read so lately that has no standing yet is on its way."""
OF_THE_PROCESSORS = frozenset({filters.ECHO, filters.ORIGIN, filters.TYPE, filters.START, filters.WHEN, filters.DELETED})
"""Words by which processors refuse; any other reason of a filtered object is the sink's."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus knows of both accounts at one moment."""

    source: AccountState
    target: AccountState
    seen: Mapping[tuple[str, str], SeenRecord]
    """Of the source account."""


class Verdict(msgspec.Struct, kw_only=True):
    """What a comparison came to."""

    agreeing: int = 0
    not_wanted: int = 0
    """Source objects that the flow leaves out, and that are not at the target because of it."""
    findings: list[Finding] = []
    kept_otherwise: int = 0
    """Objects some of whose fields differ as they did when they were settled."""
    notes: list[str] = []


class Comparison:
    """Compares the two ends of one flow."""

    def __init__(
        self,
        *,
        route: Route,
        known: Known,
        wanting: Callable[[AccountState], Wanting],
        target_manifest: Manifest,
        currency: str | None,
        hasher: Hasher,
        clock: Clock,
    ) -> None:
        """`currency` is the target account's own."""
        self._flow = route.flow
        self._policy = decode_policy(route.policy)
        self._manifest = target_manifest
        self._facts = target_manifest.writes[route.flow.to.entity]
        self._wanting_of = wanting
        self._currency = currency
        self._hasher = hasher
        self._clock = clock
        self._reads_reference = False
        self._kept: set[str] = set()
        """Source objects some of whose fields the target keeps in another form."""
        self._use(known)

    def _use(self, known: Known) -> None:
        self._known = known
        self._wanting = self._wanting_of(known.source)

    # --- both passes -------------------------------------------------------------------------------------------------------

    async def run(
        self,
        ours: Mapping[str, Read],
        theirs: Mapping[str, Read],
        *,
        chosen: Iterable[str] | None,
        since: datetime | None,
        look_again: Callable[[], Awaitable[Known]],
        sides: tuple[Side, Side],
    ) -> Verdict:
        """Compares. `chosen`: the ids of a sample; None: everything was read. `look_again` reads the bus's state anew."""
        verdict = Verdict()
        suspects: list[str] = []
        wanted = {key: await self._wanting.of(key, read.document) for key, read in ours.items() if read.document is not None}
        self._reads_reference = self._shows_references(wanted, theirs)
        for key, read in ours.items():
            if since is not None and read.modified_at is not None and read.modified_at < since:
                continue
            if (ended := self._judge(key, read, wanted.get(key), theirs)) is None:
                suspects.append(key)
            else:
                self._count(verdict, ended)
        suspects += self._orphans(ours, theirs, chosen, since)
        if suspects:
            self._use(await look_again())
        for number, key in enumerate(suspects):
            if number < SECOND_LOOKS_MAX:
                await self._again(verdict, key, sides)
            else:
                self._first(verdict, key, ours.get(key), wanted.get(key), theirs)
        if len(suspects) > SECOND_LOOKS_MAX:
            verdict.notes.append(f"{len(suspects) - SECOND_LOOKS_MAX} findings rest on one look: the two sides were read apart")
        verdict.kept_otherwise = len(self._kept)
        return verdict

    def _judge(self, key: str, read: Read, wanted: Wanted | None, theirs: Mapping[str, Read]) -> bool | None:
        """True: agrees; False: rightly not there; None: to be looked at again."""
        found = self._compare(key, read, wanted, theirs)
        return None if found is not None and not isinstance(found, bool) else found

    @staticmethod
    def _count(verdict: Verdict, agrees: bool) -> None:
        if agrees:
            verdict.agreeing += 1
        else:
            verdict.not_wanted += 1

    async def _again(self, verdict: Verdict, key: str, sides: tuple[Side, Side]) -> None:
        """The second look: both sides within a moment."""
        source_side, target_side = sides
        read = await source_side.one(key)
        ids = sorted({link.external_id for link in self._links_of(key)})
        theirs = await target_side.some(ids)
        wanted = await self._wanting.of(key, read.document) if read is not None and read.document is not None else None
        self._first(verdict, key, read, wanted, theirs)

    def _first(self, verdict: Verdict, key: str, read: Read | None, wanted: Wanted | None, theirs: Mapping[str, Read]) -> None:
        if read is None:
            verdict.findings += [self._orphaned(link) for link in self._links_of(key) if self._is_orphan(link, theirs)]
            return
        found = self._compare(key, read, wanted, theirs)
        if isinstance(found, Finding):
            verdict.findings.append(found)
        else:
            self._count(verdict, found)

    # --- one source object -------------------------------------------------------------------------------------------------

    def _compare(self, key: str, read: Read, wanted: Wanted | None, theirs: Mapping[str, Read]) -> Finding | bool:
        """A finding; True: agrees; False: rightly not there."""
        held = self._held(key, wanted)
        if wanted is None or read.document is None:
            return self._finding("missing" if held.link is None else "differing", key, held, read, read.error or "unreadable")
        if wanted.is_refused:
            return self._unwanted(key, held, wanted, theirs)
        if held.link is None or held.link.state is LinkState.RETIRED:
            return self._absent(key, held, read, wanted)
        if held.link.state is not LinkState.ACTIVE:
            return self._finding("differing", key, held, read, f"two accounts link it differently ({held.link.external_id})")
        other = theirs.get(held.link.external_id)
        if other is None:
            gone = self._finding("missing", key, held, read, "it is gone from the target, and is not made again by itself")
            return msgspec.structs.replace(gone, mend=None)
        if other.document is None:
            return self._finding("differing", key, held, read, f"cannot be read at the target: {other.error}")
        if wanted.cause is not None:
            return self._finding("differing", key, held, read, wanted.reason, cause=wanted.cause)
        if is_only_linked(held, self._policy):
            return True
        return self._paired(key, held, read, wanted, other)

    def _paired(self, key: str, held: Held, read: Read, wanted: Wanted, other: Read) -> Finding | bool:
        ours, theirs, also = wanted.document, other.document, list[str]()
        assert theirs is not None
        if isinstance(ours, Document) and isinstance(theirs, Document):
            off = self._document(key, held, wanted, ours, theirs)
        else:
            off, also = master_differences(ours, theirs, held.standing, self._policy, self._facts, self._hasher)
        if also:
            self._kept.add(key)
        if not off:
            return True
        reason = missing_reason(held, self._content(read)) if self._has_moved(held, read) else ""
        found = self._finding("differing", key, held, read, reason or self._trouble(held))
        return msgspec.structs.replace(found, fields=off, also=also)

    def _document(self, key: str, held: Held, wanted: Wanted, ours: Document, theirs: Document) -> list[FieldDifference]:
        assert held.link is not None
        code = wanted.value("customer.default_code")
        off = document_differences(
            ours,
            theirs,
            debtors=[] if code else self._debtors(key, ours),
            reference=wanted.value("reference"),
            number=held.link.number,
            reads_reference=self._reads_reference,
        )
        party = theirs.customer.customer if theirs.customer is not None else None
        if code and party is not None and party.code is not None and party.code != code:
            off.append(FieldDifference(path="customer", source=code, target=party.code))
        return off

    def _debtors(self, key: str, document: Document) -> list[str]:
        """Ids at the target that the document's customer is linked with; none where the bus does not know."""
        facts = self._manifest.writes.get("customer")
        if document.customer is None or facts is None:
            return []
        source = customer_source(self._source(key), document.customer)
        link = self._known.target.link("customer", source, facet_of(facts, document.currency, self._currency))
        return [link.external_id] if link is not None and link.state is LinkState.ACTIVE else []

    def _absent(self, key: str, held: Held, read: Read, wanted: Wanted) -> Finding | bool:
        standing = held.standing
        if wanted.cause is not None:
            return self._finding("missing", key, held, read, wanted.reason, cause=wanted.cause)
        if standing is not None and standing.standing is Standing.FILTERED and standing.detail not in OF_THE_PROCESSORS:
            return False  # the sink leaves it out: it existed before the start
        return self._finding("missing", key, held, read, missing_reason(held, self._content(read)))

    def _unwanted(self, key: str, held: Held, wanted: Wanted, theirs: Mapping[str, Read]) -> Finding | bool:
        """What the flow leaves out is not there, or is there by other hands; else it is one too many."""
        for link in self._links_of(key):
            made = held.standing is not None and held.standing.external_id == link.external_id
            if made and link.linked_by is LinkedBy.CREATED and _is_there(theirs.get(link.external_id)):
                found = self._finding("extra", key, held, None, f"made by this flow, which now refuses it ({wanted.reason})")
                return msgspec.structs.replace(found, target=link.external_id, mend=None)
        return False

    def _finding(self, kind: str, key: str, held: Held, read: Read | None, reason: str, cause: Cause | None = None) -> Finding:
        standing = held.standing
        content = self._content(read) if read is not None else None
        return Finding(
            kind=kind,  # type: ignore[arg-type]
            source=self._source(key),
            target=held.link.external_id if held.link is not None else None,
            reason=reason,
            standing=standing.standing if standing is not None else None,
            cause=cause or (standing.cause if standing is not None else None),
            in_flight=is_in_flight(held, micros(self._clock.now() - YOUNG)),
            mend=mend_of(held, content),
        )

    # --- what is at the target only ------------------------------------------------------------------------------------------

    def _orphans(
        self, ours: Mapping[str, Read], theirs: Mapping[str, Read], chosen: Iterable[str] | None, since: datetime | None
    ) -> list[str]:
        """Source ids that are gone while the target object they are linked with is there."""
        within = None if chosen is None else frozenset(chosen)
        found = set()
        for link in self._known.target.links():
            source_id = link.source.id
            if not self._is_ours(link) or source_id in ours or (within is not None and source_id not in within):
                continue
            other = theirs.get(link.external_id)
            is_old = since is not None and other is not None and other.modified_at is not None and other.modified_at < since
            if self._is_orphan(link, theirs) and not is_old:
                found.add(source_id)
        return sorted(found)

    def _is_ours(self, link: LinkRecord) -> bool:
        """A link of this flow's ends. Debtors that a document brought are no objects of the customer list."""
        source, flow = link.source, self._flow
        is_own = (source.connection, source.entity, link.entity) == (flow.from_.connection, flow.from_.entity, flow.to.entity)
        return is_own and source.id.partition(":")[0] not in topics.ENTITIES

    def _is_orphan(self, link: LinkRecord, theirs: Mapping[str, Read]) -> bool:
        """Its target object is there, active, and not itself what the source object was made of."""
        if link.state is not LinkState.ACTIVE or not _is_there(theirs.get(link.external_id)):
            return False
        made_of = ObjectRef(connection=self._flow.to.connection, entity=link.entity, id=link.external_id)
        back = self._known.source.link(link.source.entity, made_of)
        return back is None or back.linked_by is not LinkedBy.CREATED

    def _orphaned(self, link: LinkRecord) -> Finding:
        standing = self._known.target.standing(self._flow.name, link.source)
        done = f"; the flow says on_delete: {self._flow.on_delete}" if standing and standing.detail == filters.DELETED else ""
        return Finding(
            kind="extra",
            source=link.source,
            target=link.external_id,
            reason=f"its source object {link.source.id} is gone{done}",
            standing=standing.standing if standing is not None else None,
            cause=standing.cause if standing is not None else None,
        )

    # --- what is known -------------------------------------------------------------------------------------------------------

    def _source(self, key: str) -> ObjectRef:
        return ObjectRef(connection=self._flow.from_.connection, entity=self._flow.from_.entity, id=key)

    def _links_of(self, key: str) -> list[LinkRecord]:
        """All links of a source object to the flow's target entity."""
        entity, source, state = self._flow.to.entity, self._source(key), self._known.target
        facets = [None, *state.facets(entity, source)]
        return [link for facet in facets if (link := state.link(entity, source, facet)) is not None]

    def _held(self, key: str, wanted: Wanted | None) -> Held:
        entity, source, state = self._flow.to.entity, self._source(key), self._known.target
        facet = None
        if wanted is not None and entity in topics.DOCUMENTS:
            facet = facet_of_type(wanted.value("type"))
        elif wanted is not None:
            own = facet_of(self._facts, getattr(wanted.document, "currency", None), self._currency)
            facet = linked_facet(state, entity, source, own)
        intent = state.intent(entity, source, facet)
        return Held(
            standing=state.standing(self._flow.name, source),
            seen=self._known.seen.get((source.entity, key)),
            link=state.link(entity, source, facet),
            is_open=intent is not None and intent.state is IntentState.OPEN,
        )

    def _content(self, read: Read) -> str | None:
        return self._hasher.content(read.document) if read.document is not None else None

    def _has_moved(self, held: Held, read: Read) -> bool:
        """Whether the source says something else than when it was last polled."""
        return held.seen is None or held.seen.content_hash != self._content(read)

    @staticmethod
    def _trouble(held: Held) -> str:
        standing = held.standing
        if standing is None:
            return "has not come through the flow"
        is_settled = standing.standing in (Standing.WRITTEN, Standing.UNCHANGED)
        return "" if is_settled else standing.detail or str(standing.standing)

    def _shows_references(self, wanted: Mapping[str, Wanted], theirs: Mapping[str, Read]) -> bool:
        """Whether this target shows references where they can be read back: any document that does is proof."""
        for key, item in wanted.items():
            reference = item.value("reference")
            if reference is None:
                continue
            for link in self._links_of(key):
                other = theirs.get(link.external_id)
                document = other.document if other is not None else None
                if isinstance(document, Document) and bears(document, reference) and link.number != reference:
                    return True
        return False


def _is_there(read: Read | None) -> bool:
    return read is not None and getattr(read.document, "active", True)
