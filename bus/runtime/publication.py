"""Publishes a configuration: one fenced transaction, everything or nothing (law 19).

Order of operations of `apply`:
1. fence: open the transactional id all applies share, which ends an older one half way;
2. read what is published to the end, open transactions included;
3. resolve `now` to an instant; compare; nothing differs: publish nothing;
4. refuse what would orphan state;
5. create the outbound topics of new connections, so that no command meets a missing topic;
6. commit the documents that differ, ended by a VERSION record with the digest of all, and a replay request for each new flow: it
   maps what was published before the flow was there, up to where every processor knows it (laws 18 and 19).
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.configuration import Configuration, ConfigurationRefused, Flow, Problem
from bus.core.configuration.difference import Change, difference, digest, renamed, with_instants
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.published import Published, read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.requests import request, request_records
from bus.runtime.settings import BusSettings
from bus.runtime.table import PartitionTable
from schemas.system import ConfigKind, ConfigRecord, RequestKind, RequestRecord

__all__ = ["Applied", "Published", "apply", "compare", "read_published"]

TRANSACTIONAL_ID = "bus-config-0"

_KINDS = {"Connection": ConfigKind.CONNECTION, "Flow": ConfigKind.FLOW, "Table": ConfigKind.TABLE}


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply did."""

    version: int
    changes: Sequence[Change]
    topics: Sequence[str] = ()
    """Outbound topics that were created."""
    replays: Sequence[RequestRecord] = ()
    """Asked for, one per new flow."""
    advice: Sequence[str] = ()
    """What an operator may want to do next, in words with the command."""


async def compare(settings: BusSettings, codec: Codec, wanted: Configuration, clock: Clock) -> list[Change]:
    """What `apply` would change; writes nothing."""
    published = await read_published(settings, codec)
    return difference(published.configuration, with_instants(wanted, published.configuration, clock.now()))


async def apply(
    settings: BusSettings, codec: Codec, wanted: Configuration, clock: Clock, *, allow_remove: bool = False
) -> Applied:
    """Publishes a validated and completed configuration. Raises ConfigurationRefused, TransientError, Fenced."""
    publisher = Publisher(settings, TRANSACTIONAL_ID)
    try:
        await publisher.open()  # 1
        published = await read_published(settings, codec)  # 2
        target = with_instants(wanted, published.configuration, clock.now())  # 3
        changes = difference(published.configuration, target)
        if not changes:
            return Applied(version=published.version, changes=[])
        if not allow_remove:  # 4
            await _refuse_orphans(settings, changes, published.configuration, target)
        shapes = [topics.outbound_topic(name) for name in sorted(target.connections)]  # 5
        created = await ensure_topics(settings, shapes)
        version = published.version + 1
        asked = replays(changes, target, version)
        outgoing = records(codec, changes, version, digest(target), clock.now())
        await publisher.commit([*outgoing, *request_records(settings, codec, asked)])  # 6
        return Applied(
            version=version,
            changes=changes,
            topics=created,
            replays=asked,
            advice=advise(changes, published.configuration, target),
        )
    finally:
        await publisher.close()


def records(codec: Codec, changes: Sequence[Change], version: int, sums: str, now: datetime) -> list[Outgoing]:
    """The records of one version, its VERSION record last."""
    found = [
        ConfigRecord(
            kind=_KINDS[change.kind], name=change.name, version=version, document=change.document, digest=None, made_at=now
        )
        for change in changes
    ]
    found.append(ConfigRecord(kind=ConfigKind.VERSION, name="version", version=version, digest=sums, made_at=now))
    return [
        Outgoing(topics.CONFIG, 0, topics.key(str(record.kind), record.name), codec.encode(topics.CONFIG, record))
        for record in found
    ]


def replays(changes: Sequence[Change], target: Configuration, version: int) -> list[RequestRecord]:
    """A replay for each new flow. One that only changed is replayed when an operator asks: it may rewrite a great deal."""
    new = [target.flows[change.name] for change in changes if change.kind == "Flow" and change.what == "added"]
    return [
        request(
            RequestKind.REPLAY,
            flow.from_.connection,
            {"flow": flow.name, "after_version": str(version), "reason": "new flow"},
        )
        for flow in new
    ]


def advise(changes: Sequence[Change], published: Configuration, target: Configuration) -> list[str]:
    """What the change of a flow or table leaves undone by itself: events behind it are mapped anew, those before it are not."""
    changed = {change.name for change in changes if change.kind == "Flow" and change.what == "changed"}
    tables = {change.name for change in changes if change.kind == "Table" and change.what == "changed"}
    told = [
        f"flow {name} changed: objects it has treated stay as they are until they change; "
        f"`bus replay --flow {name}` sends all of them through it again"
        for name in sorted(changed)
    ]
    for flow in sorted(target.flows.values(), key=lambda item: item.name):
        read = sorted(tables & tables_of(flow, target))
        if read and flow.name in published.flows:
            told.append(
                f"table {', '.join(read)} changed: what flow {flow.name} set aside for a missing row is tried again by "
                f"`bus dead-letters redrive --flow {flow.name} --cause MISSING_TABLE_ROW`"
            )
    return told


def tables_of(flow: Flow, configuration: Configuration) -> set[str]:
    """The tables a flow looks things up in, that of its source's tax codes included."""
    found = {rule.table for rule in flow.set.values() if rule.table is not None}
    source = configuration.connections.get(flow.from_.connection)
    if source is not None and source.source_tax is not None and flow.is_document:
        found.add(source.source_tax)
    return found


async def _refuse_orphans(
    settings: BusSettings, changes: Sequence[Change], published: Configuration, wanted: Configuration
) -> None:
    """A connection with state must not vanish: its links are all that keeps its objects from being created twice."""
    new_names = renamed(changes, published, wanted)
    problems = []
    for change in changes:
        if change.kind != "Connection" or change.what != "removed" or not await has_state(settings, change.name):
            continue
        what = f"connection {change.name!r} is published, has state, and is not in these files"
        fix = "Add it again, or give --allow-remove: what it wrote would be created a second time if it ever comes back."
        if change.name in new_names:
            what = f"connection {change.name!r} seems renamed to {new_names[change.name]!r}, and its state goes by its name"
            fix = "Keep the old name: a new one would create everything a second time."
        problems.append(Problem(file="published", line=0, key="connection", what=what, fix=fix))
    if problems:
        raise ConfigurationRefused(problems)


async def has_state(settings: BusSettings, connection: str) -> bool:
    """Whether a connection was ever polled: its cursors say so, and they are few."""
    table = PartitionTable(settings, "remove")
    try:
        await table.load(topics.CURSORS, topics.slot_of(connection, settings.slots))
        return any(True for _ in table.items(f"{topics.key(connection)}|"))
    finally:
        await table.close()
