"""When retention took commands that an account has not read (law 18): an account paused for longer than its topic is kept.

What was lost is asked for anew, in the transaction that moves the account's place to the present beginning of its topic:
- commands of flows: a replay of every flow that writes to the account;
- what its own poller said (OBSERVE, BACKFILLED): a resync of the account, which observes everything again. Until it has, nothing
  is created there: an object that nobody told us of might be made a second time (law 7);
- what peers said (LINK): their links stand in `bus.state`, and are said again, in their own words, at the end of the topic.

A replayed command is judged by its own version, so nothing newer is overwritten; what has not changed is not written.
"""

import logging
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bus.core import topics
from bus.core.clock import Clock
from bus.core.configuration import Flow
from bus.core.configuration.documents import from_published
from bus.runtime import metrics
from bus.runtime.follow import Documents
from bus.runtime.reader import Record
from bus.runtime.requests import request
from bus.runtime.state import AccountState, backfill_key
from schemas.system import BackfillRecord, LinkedBy, LinkRecord, LinkState, RequestKind, RequestRecord, StateRecord
from services.sinks.ledger import Change, Entry, Ledger
from services.sinks.settlement import Published, peer_link

WORDS_MAX = 1_000
"""Links said again in one transaction."""

ReadAll = Callable[[str, Callable[[str], bool]], AsyncIterable[tuple[Record, Any]]]
"""Reads a topic to its end: (topic, wanted key) → records with their decoded value."""

log = logging.getLogger(__name__)


class Recovery:
    """What an account needs to come back after a loss."""

    def __init__(self, *, slots: int, read_all: ReadAll, flows: Callable[[], Iterable[Flow]], clock: Clock) -> None:
        self._slots = slots
        self._read_all = read_all
        self._flows = flows
        self._clock = clock

    async def recover(self, state: AccountState, ledger: Ledger, lost: int, beginning: int) -> None:
        """Moves the account from offset `lost` to `beginning`. Raises TransientError when Kafka is away: call it again.

        Steps: 1 links are read; 2 they are said again, which may happen twice; 3 place and requests become true together.
        """
        connection, now = state.connection, self._clock.now()
        log.error(
            "commands were lost to retention: flows are replayed, the account is read again",
            extra={"connection": connection, "lost_from": lost, "lost_to": beginning},
        )
        metrics.count("bus_commands_lost_total", max(beginning - lost, 1), connection=connection)
        words = await self._links(connection, now)  # 1
        for start in range(0, len(words), WORDS_MAX):  # 2
            await ledger.commit(Entry(state=state, outgoing=words[start : start + WORDS_MAX]))
        asked = asked_anew(connection, self._flows())
        unknown = [unread(connection, entity) for entity in sorted(state.backfilled)]
        await ledger.commit(Entry(state=state, changes=unknown, outgoing=self._published(asked), restarts=beginning))  # 3
        log.info(
            "asked for anew what was lost",
            extra={"connection": connection, "flows": [item.args["flow"] for item in asked[:-1]], "links": len(words)},
        )

    def _published(self, requests: Sequence[RequestRecord]) -> list[Published]:
        return [(topics.REQUESTS, topics.slot_of(item.connection, self._slots), item.connection, item) for item in requests]

    async def _links(self, connection: str, now: datetime) -> list[Published]:
        newest: dict[bytes, tuple[str, LinkRecord] | None] = {}
        async for record, value in self._read_all(topics.STATE, lambda key: ends_at(key, connection)):
            newest[record.key] = said_of(value)
        found = [item for item in newest.values() if item is not None]
        currencies = await self._currencies(found)
        return [
            peer_link(peer, link.entity, link.source, link.external_id, currencies.get(_key_of(link)), now)
            for peer, link in found
        ]

    async def _currencies(self, links: Iterable[tuple[str, LinkRecord]]) -> Mapping[str, str]:
        """Currencies of linked customers, by canonical key: where customers of an account have one, their links bear it."""
        keys = {_key_of(link) for _, link in links if link.source.entity == "customer"}
        found: dict[str, str] = {}
        if not keys:
            return found
        async for record, event in self._read_all(topics.canonical("customer"), keys.__contains__):
            currency = getattr(event.after, "currency", None) if event is not None else None
            if currency is not None:
                found[record.key.decode()] = currency
        return found


def _key_of(link: LinkRecord) -> str:
    return topics.event_key(link.source.connection, link.source.entity, link.source.id)


def asked_anew(connection: str, flows: Iterable[Flow]) -> list[RequestRecord]:
    """A replay for every flow that writes to an account, and a resync of the account itself."""
    reason = f"commands for {connection} were lost to retention"
    replays = [
        request(RequestKind.REPLAY, flow.from_.connection, {"flow": flow.name, "reason": reason})
        for flow in sorted(flows, key=lambda item: item.name)
        if flow.to.connection == connection
    ]
    return [*replays, request(RequestKind.RESYNC, connection, {"publish": "changed", "reason": reason})]


def flows_of(documents: Documents) -> list[Flow]:
    """The flows of a published configuration."""
    return list(from_published(documents.tables, documents.connections, documents.flows).flows.values())


def unread(connection: str, entity: str) -> Change:
    """Not all objects of an entity are known any more."""
    record = BackfillRecord(entity=entity, complete=False)
    return backfill_key(connection, entity), StateRecord(connection=connection, backfill=record)


def ends_at(key: str, connection: str) -> bool:
    """Whether a key of `bus.state` is that of a peer's link to an object of an account."""
    parts = topics.split_key(key) if key.startswith("link|") else ()
    return len(parts) > 3 and parts[3] == connection and parts[1] != connection


def said_of(record: StateRecord | None) -> tuple[str, LinkRecord] | None:
    """The peer and its link, where the peer told of it when it was made; None for what it did not, or not any more."""
    link = record.link if record is not None else None
    if record is None or link is None or link.state is not LinkState.ACTIVE or link.linked_by is LinkedBy.PEER:
        return None
    return record.connection, link


def is_lost(position: int, beginning: int, end: int) -> bool:
    """Whether a place is no longer on the topic: before what is kept, or behind the end of one made anew."""
    return position < beginning or position > end
