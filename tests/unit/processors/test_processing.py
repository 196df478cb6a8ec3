"""The configuration of the moment, and what an event waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import pytest

from bus.core.configuration import parse
from bus.core.configuration.documents import encode_document
from bus.core.errors import SettingsError
from bus.core.topics import DEAD_LETTERS, canonical, event_key
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.follow import Documents
from schemas import canon
from services.processors import processing as module
from services.processors.processing import ConfigurationBehind, ConfigurationUnread, Processing

TEXT = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop}
--- {kind: Connection, name: ledger, tenant: acme, system: some_ledger, secret: ledger}
--- {kind: Flow, name: customers, from: {connection: shop, entity: customer}, to: {connection: ledger, entity: customer},
     start: {existing: send}, write: upsert}
"""


def documents(version: int, text: str = TEXT) -> Documents:
    found = parse(text).accepted()
    plain = [{item.name: msgspec.json.decode(encode_document(item)) for item in part.values()} for part in (
        found.connections, found.flows, found.tables)]  # fmt: skip
    return Documents(version=version, connections=plain[0], flows=plain[1], tables=plain[2])


class Topic:
    """Stands for the follower: a version comes when the test says so."""

    def __init__(self) -> None:
        self.come = asyncio.Event()
        self.asked: list[int] = []
        self.on_refresh: Callable[[], Awaitable[None]] | None = None

    async def refresh(self) -> None:
        assert self.on_refresh is not None
        await self.on_refresh()

    async def wait_version(self, version: int) -> Documents:
        self.asked.append(version)
        await self.come.wait()
        return documents(version)


async def once(part: str, attempt: Callable[[], Awaitable[None]]) -> None:
    await attempt()


@pytest.fixture
def processing() -> Processing:
    return Processing(Codec.offline(), once)


def record(codec: Codec, connection: str = "shop") -> tuple[str, bytes, bytes]:
    meta = canon.EventMeta(
        event_id="e", seq=1, tenant="acme", system="s", connection=connection, entity="customer", source_id="1",
        observed_at=datetime(2026, 12, 1, tzinfo=UTC), op=canon.Operation.CREATED, content_hash="h",
    )  # fmt: skip
    event = canon.CustomerEvent(meta=meta, after=canon.Customer(display_name="B"))
    topic = canonical("customer")
    return topic, event_key(connection, "customer", "1").encode(), codec.encode(topic, event)


async def test_what_apply_published_is_what_is_handled(processing):
    await processing.take(documents(3))
    [command] = processing.handle(*record(Codec.offline()))
    assert command.topic == "bus.outbound.ledger"
    assert processing.routes.version == 3


async def test_a_new_connections_event_waits_for_the_configuration_that_made_it(processing):
    topic = Topic()
    processing.versions = topic
    with pytest.raises(ConfigurationBehind) as behind:
        processing.handle(*record(Codec.offline()))
    waiting = asyncio.ensure_future(processing.wait(behind.value))
    await asyncio.sleep(0)
    assert (topic.asked, waiting.done()) == ([1], False)
    await processing.take(documents(1))
    topic.come.set()
    await waiting
    assert len(processing.handle(*record(Codec.offline()))) == 1


async def test_a_removed_connections_events_go_by_after_one_wait(processing, monkeypatch):
    monkeypatch.setattr(module, "BEHIND_S", 0.0)
    processing.versions = Topic()
    with pytest.raises(ConfigurationBehind) as behind:
        processing.handle(*record(Codec.offline()))
    await processing.wait(behind.value)
    assert processing.handle(*record(Codec.offline())) == []
    await processing.take(documents(1, TEXT.replace("shop", "store")))
    with pytest.raises(ConfigurationBehind):
        processing.handle(*record(Codec.offline()))


async def test_a_schema_nobody_knows_is_a_dead_letter(processing, monkeypatch):
    await processing.take(documents(1))
    topic, key, value = record(Codec.offline())
    foreign = b"\x00\x00\x00\x03\xe7" + value[5:]
    with pytest.raises(SchemaUnknown) as unknown:
        processing.handle(topic, key, foreign)
    await processing.wait(unknown.value)
    [letter] = processing.handle(topic, key, foreign)
    assert letter.topic == DEAD_LETTERS


async def test_a_tombstone_waits_for_nothing(processing):
    assert processing.handle(canonical("customer"), b"nowhere|customer|1", None) == []


async def test_a_configuration_of_another_release_ends_the_process(processing):
    wrong = documents(1)
    wrong.flows["customers"]["start"] = {"wen": 1}
    with pytest.raises(SettingsError, match="bus apply"):
        await processing.take(wrong)


async def test_no_event_of_a_new_partition_before_the_configuration_is_read_to_its_end(processing):
    """A flow was applied while another process held the partition: its events behind the replay's end are this one's to map."""
    await processing.take(documents(1, TEXT.replace("name: customers", "name: older")))
    processing.versions = topic = Topic()
    topic.on_refresh = lambda: processing.take(documents(2))
    assert len(processing.handle(*record(Codec.offline()))) == 1
    processing.assigned()
    with pytest.raises(ConfigurationUnread) as unread:
        processing.handle(*record(Codec.offline()))
    await processing.wait(unread.value)
    [command] = processing.handle(*record(Codec.offline()))
    assert Codec.offline().decode(command.topic, command.value).flow == "customers"


async def test_partitions_taken_while_the_configuration_is_read_need_another_reading(processing):
    await processing.take(documents(1))
    processing.versions = topic = Topic()
    reads: list[int] = []

    async def meanwhile() -> None:
        reads.append(1)
        if len(reads) == 1:
            processing.assigned()

    topic.on_refresh = meanwhile
    processing.assigned()
    await processing.wait(ConfigurationUnread("x"))
    with pytest.raises(ConfigurationUnread) as unread:
        processing.handle(*record(Codec.offline()))
    await processing.wait(unread.value)
    assert len(processing.handle(*record(Codec.offline()))) == 1
    assert len(reads) == 2
