"""The independent checker: reads committed records with a consumer of its own and the vendors' own books, and asks no service.

The only thing it shares with the bus is the decoder of the schemas.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from bus.core import topics
from tests.faults.bed import Bed

READ_S = 120.0
HUNG_S = 15.0
"""Longer than a transaction may stand open (10 s): what is open after it hangs."""


class Event(NamedTuple):
    """A committed record of a topic, decoded."""

    topic: str
    partition: int
    offset: int
    key: str
    value: Any


def read_committed(bootstrap: str, names: Sequence[str]) -> list[tuple[str, int, int, bytes, bytes | None]]:
    """Everything committed on these topics now: topic, partition, offset, key, value."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"oracle-{time.time_ns()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "log_level": 3,
        }
    )
    found = []
    try:
        known = consumer.list_topics(timeout=20).topics
        places = [TopicPartition(name, number, 0) for name in names for number in known[name].partitions if name in known]
        open_places = {(place.topic, place.partition) for place in places}
        if not places:
            return []
        consumer.assign(places)
        end = time.monotonic() + READ_S
        while open_places:
            if time.monotonic() > end:
                raise TimeoutError(f"the oracle could not read {', '.join(names)} to the end")
            for message in consumer.consume(5_000, 0.2):
                place = (message.topic(), message.partition())
                if message.error() is not None:
                    open_places.discard(place)
                    continue
                found.append((place[0], place[1], message.offset(), message.key() or b"", message.value()))
    finally:
        consumer.close()
    return found


async def events(bed: Bed, names: Iterable[str]) -> list[Event]:
    """Committed records of this bed's connections, partition by partition in their order; tombstones left out."""
    rows = await asyncio.to_thread(read_committed, bed.settings.kafka_bootstrap, list(names))
    found = []
    for topic, partition, offset, key, value in rows:
        text = key.decode()
        if value is not None and any(name in bed.connections for name in topics.split_key(text)[:2]):
            found.append(Event(topic, partition, offset, text, await bed.codec.read(topic, value)))
    return found


class Verdict(NamedTuple):
    """What is wrong with a sequence of canonical events."""

    repeated_ids: list[str]
    """The same event committed twice."""
    repeated_contents: list[str]
    """An event that says of its object what the one before it said."""
    disorder: list[str]
    """An event whose number is not above that of the one before it."""


def judge_events(found: Iterable[Event]) -> Verdict:
    """Duplicates and order of canonical events."""
    ids: Counter[str] = Counter()
    last: dict[str, Any] = {}
    contents, disorder = [], []
    for event in found:
        meta = event.value.meta
        ids[f"{event.key} {meta.event_id}"] += 1
        before = last.get(event.key)
        if before is not None and before.seq >= meta.seq:
            disorder.append(f"{event.key}: {meta.seq} after {before.seq}")
        elif before is not None and before.content_hash == meta.content_hash and before.op == meta.op:
            contents.append(f"{event.key}: {meta.seq} says what {before.seq} said")
        last[event.key] = meta
    return Verdict([name for name, count in ids.items() if count > 1], contents, disorder)


def newest(found: Iterable[Event]) -> dict[str, Any]:
    """The last committed value per key."""
    return {event.key: event.value for event in found}


def order_breaks(found: Iterable[Event]) -> list[str]:
    """Commands whose version appears for the first time behind a newer one of the same object and flow.

    Repeats are allowed: processors deliver at least once, and the sink drops what it has seen. A replay beside them is a stream
    of its own, with an order of its own: it begins with the newest version there is.
    """
    highest: dict[tuple[str, str, str | None], int] = {}
    seen: defaultdict[tuple[str, str, str | None], set[int]] = defaultdict(set)
    breaks = []
    for event in found:
        command = event.value
        if command.flow is None:
            continue
        place = (event.key, command.flow, command.request)
        if command.seq not in seen[place] and command.seq < highest.get(place, 0):
            breaks.append(f"{event.key} in {command.flow}: {command.seq} after {highest[place]}")
        seen[place].add(command.seq)
        highest[place] = max(highest.get(place, 0), command.seq)
    return breaks


def twice(names: Iterable[str | None]) -> list[str]:
    """What is there more than once."""
    return [f"{name} ({count} times)" for name, count in Counter(name for name in names if name).items() if count > 1]


async def hung_transactions(bootstrap: str) -> list[str]:
    """Partitions whose committed end stays behind their end: a transaction stands open there for longer than it may."""
    end = time.monotonic() + HUNG_S
    while True:
        behind = await asyncio.to_thread(_behind, bootstrap)
        if not behind or time.monotonic() > end:
            return behind
        await asyncio.sleep(0.5)


def _behind(bootstrap: str) -> list[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    known = admin.list_topics(timeout=20).topics
    places = [
        TopicPartition(name, number) for name, topic in known.items() if name.startswith("bus.") for number in topic.partitions
    ]
    ends = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        answers = admin.list_offsets({place: OffsetSpec.latest() for place in places}, isolation_level=level)
        ends.append({(place.topic, place.partition): answer.result(20).offset for place, answer in answers.items()})
    stable, last = ends
    return [
        f"{name}-{number}: {stable[name, number]} of {end}" for (name, number), end in last.items() if stable[name, number] < end
    ]
