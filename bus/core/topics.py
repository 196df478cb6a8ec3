"""Names, keys and shapes of the bus's topics, and which slot owns a connection.

Slot = hash(connection): who holds slot n in a service's group writes partition n of that service's own topics.
"""

import hashlib
import re
from typing import Literal
from urllib.parse import quote, unquote

import msgspec

ENTITIES = ("customer", "product", "product_category", "sales_order", "sales_invoice")
DOCUMENTS = frozenset({"sales_order", "sales_invoice"})
"""Entities that are written once; the others are kept in step."""

SLOTS = "bus.slots"
STATE = "bus.state"
SEEN = "bus.seen"
CURSORS = "bus.cursors"
REQUESTS_CURSOR = "requests"
"""The cursor record of no stream: `pages` is the offset of bus.requests up to which the connection's poller has done all."""
GRANTS = "bus.grants"
CONFIG = "bus.config"
REQUESTS = "bus.requests"
JOBS = "bus.jobs"
"""Replays under way and where they stand, written by the processors' owner of the source account's slot."""
RESULTS = "bus.results"
DEAD_LETTERS = "bus.dead-letters"
SUBJECT_KEYS = "bus.subject-keys"
PICTURES = "bus.pictures"
"""Pictures of products by the sha256 of their bytes. A value is the bytes themselves: no schema, nothing personal."""

SUBJECTS = {
    STATE: "system/state",
    SEEN: "system/seen",
    CURSORS: "system/cursor",
    GRANTS: "system/grant",
    CONFIG: "system/config",
    REQUESTS: "system/request",
    JOBS: "system/job",
    RESULTS: "system/result",
    DEAD_LETTERS: "system/dead_letter",
    SUBJECT_KEYS: "system/subject_key",
}
"""Schema file (below `schemas/`, without its ending) of each system topic; canonical topics are in `schema_of`."""

OUTBOUND_SUBJECT = "bus.outbound-value"
"""All outbound topics share one subject, so that a new connection needs no registration."""


def canonical(entity: str) -> str:
    """`sales_order` → `bus.canon.sales-order`."""
    return f"bus.canon.{entity.replace('_', '-')}"


def outbound(connection: str) -> str:
    """The command topic of one account."""
    return f"bus.outbound.{connection}"


def subject(topic: str) -> str:
    """Registry subject of a topic's values (TopicNameStrategy; outbound topics share one)."""
    return OUTBOUND_SUBJECT if topic.startswith("bus.outbound.") else f"{topic}-value"


def schema_of(topic: str) -> str:
    """Schema file of a topic's values, below `schemas/`, without its ending."""
    if topic.startswith("bus.outbound."):
        return "system/command"
    if topic.startswith("bus.canon."):
        return f"canon/{topic.removeprefix('bus.canon.').replace('-', '_')}"
    return SUBJECTS[topic]


_SAFE = " :/.-_~{}'()@+=,"
_PLAIN = re.compile(r"[A-Za-z0-9 :/.\-_~{}'()@+=,|]*").fullmatch
"""Most keys need no encoding, and every record has several: one look at the joined text tells."""


def key(*parts: str) -> str:
    """Joins key parts with `|`, percent-encoding what would confuse them. Never put personal data or an SKU here."""
    joined = "|".join(parts)
    if _PLAIN(joined) and joined.count("|") == len(parts) - 1:
        return joined
    return "|".join(quote(part, safe=_SAFE) for part in parts)


def split_key(text: str) -> tuple[str, ...]:
    """The parts of a key."""
    return tuple(unquote(part) for part in text.split("|"))


def event_key(connection: str, entity: str, source_id: str) -> str:
    """Key of a canonical event, of its commands and of its results."""
    return key(connection, entity, source_id)


def slot_of(connection: str, slots: int) -> int:
    """The slot that owns a connection, stable for ever."""
    digest = hashlib.sha256(connection.encode()).digest()
    return int.from_bytes(digest[:8], "big") % slots


class TopicShape(msgspec.Struct, frozen=True, kw_only=True):
    """How a topic is created."""

    name: str
    partitions: int
    cleanup: Literal["compact", "delete"]
    retention_days: int | None = None
    max_message_bytes: int = 8 * 1024 * 1024


def fixed_topics(slots: int, partitions: int = 12) -> list[TopicShape]:
    """All topics that exist before any connection; outbound topics come with `bus apply`."""
    compact = [TopicShape(name=canonical(entity), partitions=partitions, cleanup="compact") for entity in ENTITIES]
    per_slot = [TopicShape(name=name, partitions=slots, cleanup="compact") for name in (STATE, SEEN, CURSORS, GRANTS, JOBS)]
    return [
        *compact,
        *per_slot,
        TopicShape(name=SLOTS, partitions=slots, cleanup="delete", retention_days=1),
        TopicShape(name=CONFIG, partitions=1, cleanup="compact"),
        TopicShape(name=REQUESTS, partitions=slots, cleanup="delete", retention_days=7),
        TopicShape(name=RESULTS, partitions=partitions, cleanup="delete", retention_days=30),
        TopicShape(name=DEAD_LETTERS, partitions=partitions, cleanup="delete", retention_days=30),
        TopicShape(name=SUBJECT_KEYS, partitions=partitions, cleanup="compact"),
        TopicShape(name=PICTURES, partitions=partitions, cleanup="compact"),
    ]


def outbound_topic(connection: str) -> TopicShape:
    """One partition: one order, one budget; never compacted, because commands are not states."""
    return TopicShape(name=outbound(connection), partitions=1, cleanup="delete", retention_days=30)
