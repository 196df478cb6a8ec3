"""Orders and invoices: written once, with what they refer to, and proven to the cent (laws 11 and 14)."""

from collections.abc import Mapping

import msgspec

from bus.core.errors import AmbiguousMatch, TotalsMismatch
from bus.core.money import TOLERANCE
from bus.kit.connector import Match, RawRecord
from schemas.system import Cause, Command, LinkedBy, LinkRecord, Outcome, Standing, StandingRecord
from services.sinks.debtors import Debtors
from services.sinks.desired import value_of
from services.sinks.making import Maker, gone
from services.sinks.references import Products
from services.sinks.settlement import Settlement, link_changes, peer_link, proof_of_totals
from services.sinks.task import Document, Target, Task

MADE_WRONG = (Cause.TOTALS_MISMATCH, Cause.WRITE_REJECTED)
"""Causes of a document that was made and is not as it must be: its totals differ, or a later step of its write was refused."""


class Documents:
    """Carries out commands for documents of one account."""

    def __init__(self, target: Target, maker: Maker, debtors: Debtors, products: Products) -> None:
        self._target = target
        self._state = target.state
        self._connector = target.connector
        self._maker = maker
        self._debtors = debtors
        self._products = products

    async def settle(self, task: Task, link: LinkRecord | None) -> Settlement:
        """Documents are written once. A document that exists already is skipped and linked."""
        document = task.document
        assert isinstance(document, Document)
        if link is not None:
            kept = self.stands(task.command, link)
            if self.must_be_proven(task.command, link):
                return await self._prove_again(task, document, link, kept)
            return written_earlier(link, kept)
        ids = await self._references(task, document)
        is_new = not self._target.is_open(task.entity, task.source, task.facet)
        if is_new and (skipped := await self._existing(task, document, ids)) is not None:
            return skipped
        return await self._create(task, document, ids)

    async def finish(self, task: Task) -> Settlement:
        """Ends the open write of an older version; that is how the newer one ends too."""
        document = task.document
        assert isinstance(document, Document)
        return await self._create(task, document, await self._references(task, document))

    def stands(self, command: Command, link: LinkRecord) -> StandingRecord | None:
        """How a document that was written stands; a later version of it neither hides that it was created nor its wrong total."""
        assert command.flow and command.source
        before = self._state.standing(command.flow, command.source)
        if before is None or before.external_id != link.external_id:
            return None
        is_wrong = before.standing is Standing.DEAD and before.cause in MADE_WRONG
        return before if is_wrong or before.standing is Standing.WRITTEN else None

    def must_be_proven(self, command: Command, link: LinkRecord) -> bool:
        """Whether a document that is there must be read back: for a repair, and when one that is not known
        to be right is asked for again or was linked by hand."""
        assert command.flow and command.source
        before = self._state.standing(command.flow, command.source)
        is_ours = before is not None and before.external_id == link.external_id
        is_right = before is not None and before.standing is Standing.WRITTEN
        is_asked = command.request is not None and is_ours
        return command.repair or ((is_asked or link.linked_by is LinkedBy.MANUAL) and not is_right)

    # --- parts -------------------------------------------------------------------------------------------------------------

    async def _references(self, task: Task, document: Document) -> dict[str, str]:
        """Products first (they only wait), then the customer (it may be created)."""
        product = task.policy.product
        ids = dict(await self._products.ids(task.source, document, product.line_without_product, product.shipping, task.facts))
        ids["customer"] = await self._debtors.id(task, document)
        await self._debtors.need_vat_number(task, document, ids["customer"])
        return ids

    async def _create(self, task: Task, document: Document, ids: Mapping[str, str]) -> Settlement:
        done = await self._maker.write(self._maker.create(task, ids), task.raw)
        made = self._maker.made(task.entity, task.source, task.facet, None, done)
        if made.gone:
            end = gone(done.external_id)
            end.changes = made.changes
            return end
        end = Settlement(
            standing=Standing.WRITTEN,
            outcome=Outcome.CREATED,
            external_id=done.external_id,
            number=done.result.number,
            changes=made.changes,
            outgoing=made.outgoing,
        )
        self._prove(end, document, done.result.record)
        return end

    async def _prove_again(self, task: Task, document: Document, link: LinkRecord, kept: StandingRecord | None) -> Settlement:
        """The totals of a document that is there already, by what the target holds now: a right one is no longer dead."""
        record = await self._connector.fetch(task.entity, link.external_id)
        if record is None or record.deleted:
            return self._maker.retired(task, link)
        end = written_earlier(link, kept)
        self._prove(end, document, record)
        if end.standing is Standing.DEAD:
            end.outcome = Outcome.DEAD
        elif end.totals is not None:
            end.detail = "its totals agree"
        else:
            return end  # nothing could be compared, so nothing is known better
        if kept is not None:  # that it was made stays told
            end.kept = msgspec.structs.replace(kept, standing=end.standing, cause=end.cause, detail=end.detail)
        return end

    def _prove(self, end: Settlement, document: Document, record: RawRecord | None) -> None:
        if record is None:
            return
        try:
            end.totals, end.totals_by_rate = proof_of_totals(document, self._connector.to_canonical(record))
        except TotalsMismatch as mismatch:
            end.standing, end.cause = Standing.DEAD, mismatch.cause
            end.detail, end.hint = str(mismatch), mismatch.hint

    async def _existing(self, task: Task, document: Document, ids: Mapping[str, str]) -> Settlement | None:
        """A document with this reference: the same debtor and total mean it is ours; anything else is for a person."""
        reference = value_of(task.command, "reference")
        if not reference or "reference" not in task.facts.match:
            return None
        for found in await self._connector.find(task.entity, Match(reference=reference)):
            if not _is_same(document, self._connector.to_canonical(found.record), ids.get("customer")):
                raise AmbiguousMatch(
                    f"{found.record.id} has reference {reference} but another debtor or total",
                    candidates=[found.record.id],
                    hint="the reference may be the buyer's own: give the flow another prefix, or link the document by hand",
                )
            connection = self._state.connection
            link = link_changes(connection, task.entity, task.source, task.facet, found.record.id, found.number, LinkedBy.MATCH)
            peer = peer_link(connection, task.entity, task.source, found.record.id, None, self._target.clock.now())
            return Settlement(
                standing=Standing.WRITTEN,
                outcome=Outcome.SKIPPED,
                external_id=found.record.id,
                number=found.number,
                detail=f"exists already with reference {reference}",
                changes=[link],
                outgoing=[peer],
            )
        return None


def written_earlier(link: LinkRecord, kept: StandingRecord | None) -> Settlement:
    """How a command for a document ends that is there already."""
    return Settlement(
        standing=Standing.WRITTEN,
        outcome=Outcome.SKIPPED,
        external_id=link.external_id,
        number=link.number,
        detail="written earlier",
        kept=kept,
    )


def _is_same(ours: Document, other: object, customer_id: str | None) -> bool:
    """Debtor and total agree; a total that one of them does not tell agrees with nothing."""
    if not isinstance(other, Document):
        return False
    debtor = other.customer.customer.id if other.customer and other.customer.customer else None
    total, wanted = (document.totals.incl if document.totals else None for document in (other, ours))
    return debtor == customer_id and total is not None and wanted is not None and abs(total - wanted) <= TOLERANCE
