"""One command, opened: what is asked of this account, in plain form; and the account it is asked of."""

from datetime import datetime
from typing import Any, Protocol

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import MappingError
from bus.core.identity import Hasher
from bus.core.policy import WritePolicy, decode_policy
from bus.kit.connector import Account, Connector
from bus.kit.manifest import Writes
from bus.runtime.codec import Codec
from bus.runtime.state import AccountState
from schemas import canon
from schemas.system import Command, IntentState, ObjectRef
from services.sinks.desired import facet_of, facet_of_type, value_of, with_values
from services.sinks.ledger import Ledger
from services.sinks.locks import KeyLocks
from services.sinks.pictures import Pictures

Document = canon.SalesOrder | canon.SalesInvoice
Master = canon.Customer | canon.Product | canon.ProductCategory


class Opener(Protocol):
    """What a sink asks of the privacy layer."""

    def open(self, entity: Any) -> Any:
        """The entity with its sealed parts in plain form."""
        ...


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The account that is written to, and what is known of it."""

    connector: Connector
    account: Account
    state: AccountState
    ledger: Ledger
    clock: Clock
    hasher: Hasher
    privacy: Opener
    codec: Codec
    locks: KeyLocks
    pictures: Pictures

    def facet(self, entity: str, currency: str | None) -> str | None:
        """The facet of a link to an object of this account, by the currency of the source's object."""
        facts = self.connector.manifest.writes.get(entity)
        return facet_of(facts, currency, self.account.currency) if facts is not None else None

    def is_open(self, entity: str, source: ObjectRef, facet: str | None) -> bool:
        """Whether a write of this object has begun and not ended."""
        intent = self.state.intent(entity, source, facet)
        return intent is not None and intent.state is IntentState.OPEN


class Task(msgspec.Struct, kw_only=True):
    """One command, opened."""

    command: Command
    raw: bytes
    source: ObjectRef
    entity: str
    facts: Writes
    policy: WritePolicy
    document: Document | Master | None
    echo_fields: frozenset[str]
    facet: str | None
    source_modified_at: datetime | None = None
    """When the source's object was last changed there, as far as its vendor tells."""

    @property
    def currency(self) -> str | None:
        """Currency of the source's object."""
        return getattr(self.document, "currency", None)


def master_facet(target: Target, entity: str, source: ObjectRef, currency: str | None) -> str | None:
    """Master data goes to the object of its own currency, else to one that is linked under another: it is made once.

    Objects of further currencies are made by the documents that need them.
    """
    return linked_facet(target.state, entity, source, target.facet(entity, currency))


def linked_facet(state: AccountState, entity: str, source: ObjectRef, own: str | None) -> str | None:
    """The facet `own` where there is a link, else another that has one."""
    if state.link(entity, source, own) is not None:
        return own
    return next(iter(state.facets(entity, source)), own)


def open_task(target: Target, command: Command, raw: bytes) -> Task:
    """Opens a WRITE command. Raises MappingError for one that this account cannot be asked."""
    source, entity = command.source, command.target_entity
    if source is None or entity is None or command.event is None:
        raise MappingError(f"command {command.id} names no source, entity or event", hint="this is a bug of the processor")
    manifest = target.connector.manifest
    facts = manifest.writes.get(entity)
    if facts is None:
        raise MappingError(f"{manifest.name} cannot take a {entity}", hint="remove the flow")
    event = target.codec.decode(topics.canonical(source.entity), command.event)
    document = event.after if event.after is None else with_values(target.privacy.open(event.after), command.resolved)
    currency = getattr(document, "currency", None)
    return Task(
        command=command,
        raw=raw,
        source=source,
        entity=entity,
        facts=facts,
        policy=decode_policy(command.policy or b"{}"),
        document=document,
        echo_fields=frozenset(event.meta.echo_fields),
        source_modified_at=event.meta.source_modified_at,
        facet=facet_of_type(value_of(command, "type"))
        if entity in topics.DOCUMENTS
        else master_facet(target, entity, source, currency),
    )
