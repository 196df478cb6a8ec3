"""The customer of a document at this account: linked, matched, created as the document's first write, or the flow's default."""

from bus.core import topics
from bus.core.errors import MissingDependency, RecordError, WriteRejected
from bus.core.identity import match_keys
from bus.kit.connector import RawRecord, Write
from schemas import canon
from schemas.system import Cause, IntentRecord, IntentState, LinkedBy, LinkState, ObjectRef
from services.sinks.beginnings import Beginnings
from services.sinks.desired import customer_from, value_of
from services.sinks.ledger import Entry
from services.sinks.making import Maker
from services.sinks.masters import Masters, not_read_yet
from services.sinks.matching import Matcher
from services.sinks.references import customer_source, default_customer
from services.sinks.settlement import link_changes, peer_link
from services.sinks.task import Document, Target, Task, open_task
from services.sinks.writing import Incomplete

NEEDS_VAT_NUMBER = frozenset({"K", "AE"})
"""Categories of sales that are only right with the buyer's VAT number: intra-community supply, reverse charge."""


class Debtors:
    """Finds or makes the customers of documents."""

    def __init__(self, target: Target, maker: Maker, matcher: Matcher, beginnings: Beginnings, masters: Masters) -> None:
        self._target = target
        self._beginnings = beginnings
        self._masters = masters
        self._state = target.state
        self._hasher = target.hasher
        self._maker = maker
        self._matcher = matcher

    async def id(self, task: Task, document: Document) -> str:
        """External id of the document's customer. Raises MissingDependency, AmbiguousMatch, RecordError."""
        party = document.customer
        if code := value_of(task.command, "customer.default_code"):
            return await default_customer(self._matcher, code)
        if party is None or (party.customer is None and not party.email_index and not party.company_name and party.pii is None):
            raise MissingDependency(
                "the document names no customer",
                missing=["customer|none"],
                hint="set customer.default in the flow",
                cause=Cause.MAPPING_ERROR,
            )
        source, facet = customer_source(task.source, party), self._facet(document)
        if (known := self._linked(source, facet)) is not None:
            return known
        if "customer" not in self._state.backfilled:
            raise not_read_yet("customer")
        keys = [f"match|customer|{key}" for key in match_keys(party, self._hasher) if not key.startswith("email+kind")]
        own = f"object|customer|{source.connection}|{source.id}"
        # The object first, as its own command does: two that take them crosswise would wait for each other for ever.
        async with self._target.locks.hold([own]), self._target.locks.hold(keys):
            return self._linked(source, facet) or await self._match_or_create(task, document, party, source, facet)

    async def create(self, task: Task, facet: str | None) -> str:
        """The debtor is the order's first write, with an intent and a link of its own."""
        document = task.document
        assert isinstance(document, Document) and document.customer is not None
        source = customer_source(task.source, document.customer)
        write = Write(
            action="create",
            entity="customer",
            source=source,
            document=customer_from(document.customer, facet),
            resolved=task.command.resolved,
            facet=facet,
        )
        done = await self._maker.write(write, task.raw)
        made = self._maker.made("customer", source, facet, document.currency, done)
        await self._maker.commit(made)
        if made.gone:
            raise _deleted(done.external_id)
        return done.external_id

    async def need_vat_number(self, task: Task, document: Document, customer_id: str) -> None:
        """An intra-community or reverse-charge sale is held until source or debtor tells the buyer's VAT number.

        The debtor is asked for only where our own record of it tells none. Raises MissingDependency.
        """
        categories = {item.extra.get("category") for item in task.command.resolved if item.name == "vat_code"}
        needed = sorted(NEEDS_VAT_NUMBER & {category for category in categories if category})
        if not needed or (document.customer is not None and document.customer.vat_number):
            return
        known = self._state.object("customer", customer_id)
        if known is not None and "vat_number" in known.field_hashes:
            return
        record = await self._target.connector.fetch("customer", customer_id)
        debtor = self._target.connector.to_canonical(record) if record is not None and not record.deleted else None
        if not (isinstance(debtor, canon.Customer) and debtor.vat_number):
            raise MissingDependency(
                f"a sale of category {', '.join(needed)} needs the VAT number of its buyer; debtor {customer_id} has none",
                missing=[f"customer|id:{customer_id}"],
                hint="enter the buyer's VAT number at the debtor: the document goes on by itself",
            )

    # --- parts -------------------------------------------------------------------------------------------------------------

    def _facet(self, document: Document) -> str | None:
        return self._target.facet("customer", document.currency)

    def _linked(self, source: ObjectRef, facet: str | None) -> str | None:
        link = self._state.link("customer", source, facet)
        return link.external_id if link is not None and link.state is LinkState.ACTIVE else None

    async def _match_or_create(
        self, task: Task, document: Document, party: canon.Party, source: ObjectRef, facet: str | None
    ) -> str:
        policy = task.policy.customer
        if (made := await self._begun_by_another(task, source, facet)) is not None:
            return made
        if not self._target.is_open("customer", source, facet):
            self._beginnings.need_none("customer", source, facet, match_keys(party, self._hasher))
            found = await self._matcher.customer(party, policy.match, facet)
            if found is not None:
                return await self._link(source, facet, task.currency, found.record, found.number)
            if policy.missing == "default" and (code := value_of(task.command, "customer.missing_code")):
                return await default_customer(self._matcher, code)
            if policy.missing != "create":
                raise MissingDependency(
                    f"the customer of {task.source.id} does not exist at the target",
                    missing=[f"customer|{key}" for key in match_keys(party, self._hasher)],
                    hint="create it there or let a customer flow do it: the document goes on by itself",
                )
            link = self._state.link("customer", source, facet)
            if link is not None and link.state is LinkState.RETIRED:
                raise _deleted(link.external_id)
        return await self.create(task, facet)

    async def _begun_by_another(self, task: Task, source: ObjectRef, facet: str | None) -> str | None:
        """An open write of this customer that another command began ends with what that one has to say of it (law 6); else that
        one would count as settled what this document says. None: there is none, or it was refused."""
        intent = self._state.intent("customer", source, facet)
        if intent is None or intent.state is not IntentState.OPEN or intent.command == task.raw or intent.external_id is not None:
            return None
        try:
            await self._end(intent)
        except Incomplete:
            raise
        except WriteRejected:
            return None
        return self._linked(source, facet)

    async def finish(self, intent: IntentRecord) -> None:
        """Ends the write of a customer that a document began, when that one is withdrawn."""
        async with self._target.locks.hold([f"object|customer|{intent.source.connection}|{intent.source.id}"]):
            now = self._state.intent("customer", intent.source, intent.facet)
            if now is not None and now.state is IntentState.OPEN and (now.command, now.external_id) == (intent.command, None):
                await self._end(now)

    async def _end(self, intent: IntentRecord) -> None:
        command = self._target.codec.decode(topics.outbound(self._state.connection), intent.command)
        begun = open_task(self._target, command, intent.command)
        if begun.entity in topics.DOCUMENTS:
            await self.create(begun, intent.facet)
        else:
            await self._masters.finish(begun, None)

    async def _link(
        self, source: ObjectRef, facet: str | None, currency: str | None, record: RawRecord, number: str | None
    ) -> str:
        connection = self._state.connection
        change = link_changes(connection, "customer", source, facet, record.id, number, LinkedBy.MATCH)
        peer = peer_link(connection, "customer", source, record.id, currency, self._target.clock.now())
        is_only = self._state.active_link_to("customer", record.id, source.connection) is None
        await self._target.ledger.commit(Entry(state=self._state, changes=[change], outgoing=[peer] if is_only else []))
        return record.id


def _deleted(external_id: str) -> RecordError:
    return RecordError(
        f"the debtor {external_id} that the bus made was deleted there; it is not made again",
        hint="restore it there, or make another with the same e-mail address; then edit the document at its source",
        cause=Cause.LINK_CONFLICT,
    )
