"""What changes between what is published and what is wanted, and the digest that names a configuration."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from bus.core.configuration.documents import Configuration, Connection, Document, Flow, encode_document

What: TypeAlias = Literal["added", "changed", "removed"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One document that differs."""

    what: What
    kind: str
    name: str
    keys: tuple[str, ...] = ()
    """Top-level keys that differ."""
    document: bytes | None = None
    """The wanted document; None when it is removed."""


def difference(published: Configuration, wanted: Configuration) -> list[Change]:
    """Changes in the order tables, connections, flows, then what is removed."""
    before, after = _encoded(published.documents()), _encoded(wanted.documents())
    changes = []
    for place, (document, data) in after.items():
        if place not in before:
            changes.append(Change(what="added", kind=document.kind, name=document.name, document=data))
        elif before[place][1] != data:
            keys = _keys(before[place][1], data)
            changes.append(Change(what="changed", kind=document.kind, name=document.name, keys=keys, document=data))
    gone = [document for place, (document, _) in before.items() if place not in after]
    return [*changes, *(Change(what="removed", kind=document.kind, name=document.name) for document in reversed(gone))]


def _encoded(documents: Iterable[Document]) -> Mapping[tuple[str, str], tuple[Document, bytes]]:
    return {(document.kind, document.name): (document, encode_document(document)) for document in documents}


def _keys(before: bytes, after: bytes) -> tuple[str, ...]:
    old: dict[str, Any] = msgspec.json.decode(before)
    new: dict[str, Any] = msgspec.json.decode(after)
    return tuple(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))


def digest(configuration: Configuration) -> str:
    """Equal for equal configurations."""
    sums = hashlib.sha256()
    for document in sorted(encode_document(item) for item in configuration.documents()):
        sums.update(len(document).to_bytes(8, "big") + document)
    return sums.hexdigest()


def with_instants(wanted: Configuration, published: Configuration, now: datetime) -> Configuration:
    """`start: now` as an instant, once: a flow that was applied with `now` before keeps the instant it got then."""
    flows = {}
    for name, flow in wanted.flows.items():
        if flow.start.from_ == "now":
            begun = _begun(published.flows.get(name)) or now
            flow = flow.model_copy(update={"start": flow.start.model_copy(update={"from_": begun})})  # noqa: PLW2901
        flows[name] = flow
    return Configuration(connections=wanted.connections, flows=flows, tables=wanted.tables)


def _begun(flow: Flow | None) -> datetime | None:
    return flow.start.from_ if flow is not None and isinstance(flow.start.from_, datetime) else None


def renamed(changes: Iterable[Change], published: Configuration, wanted: Configuration) -> dict[str, str]:
    """Removed connections whose account stands under another new name: old name → new name."""
    listed = list(changes)
    added = [item.name for item in listed if item.kind == "Connection" and item.what == "added"]
    gone = [item.name for item in listed if item.kind == "Connection" and item.what == "removed"]
    accounts = {account_of(wanted.connections[name]): name for name in added}
    pairs = {name: accounts.get(account_of(published.connections[name])) for name in gone}
    return {old: new for old, new in pairs.items() if new is not None}


def account_of(connection: Connection) -> bytes:
    """What makes two connections the same account, as far as configuration can tell."""
    return msgspec.json.encode([connection.system, sorted(connection.config.items(), key=str)], enc_hook=str)
