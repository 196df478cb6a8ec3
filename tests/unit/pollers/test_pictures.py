"""A picture is committed with the event that names it, once."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.kit.connector import RawRecord
from bus.runtime.kafka import RECORD_BYTES_MAX
from schemas import canon
from services.pollers import pictures
from services.pollers.account import AccountPoller
from tests.fakes import Deaths, FakeConnector, FakeLog, Killed
from tests.unit.pollers.world import Poller


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def lamp(sku: str, *contents: bytes) -> canon.Product:
    return canon.Product(sku=sku, images=[canon.Image(sha256=sha(data), media_type="image/png") for data in contents])


class Transactions(FakeLog):
    """A log that remembers what was committed together."""

    def __init__(self, deaths: Deaths | None = None) -> None:
        super().__init__(deaths)
        self.commits: list[list[Any]] = []

    async def commit(self, records: Sequence[Any]) -> None:
        self.deaths.point("before commit")
        self.records.extend(records)
        self.commits.append(list(records))
        self.deaths.point("after commit")


class Shop(FakeConnector):
    """A connector that hands out the bytes of pictures beside its objects."""

    contents: tuple[bytes, ...] = ()

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        return [msgspec.structs.replace(record, pictures=self._of(record)) for record in records]

    def _of(self, record: RawRecord) -> dict[str, bytes]:
        named = {image.sha256 for image in getattr(self.to_canonical(record), "images", [])}
        return {sha(data): data for data in self.contents if sha(data) in named}


class Gallery(Poller):
    """A poller of a shop with pictures."""

    def __init__(self, *contents: bytes, deaths: Deaths | None = None) -> None:
        super().__init__(deaths)
        self.log: Transactions = Transactions(deaths)
        self.connector = Shop(self.vendor)
        self.connector.contents = contents

    def published(self) -> list[tuple[str, bytes]]:
        return [(record.key, record.value) for record in self.log.topic(topics.PICTURES)]


async def test_a_picture_is_in_the_transaction_of_its_event() -> None:
    world = Gallery(b"red")
    world.vendor.put("product", lamp("L-1", b"red"))
    await world.poll()
    (together,) = world.log.commits
    assert [record.topic for record in together][:2] == [topics.PICTURES, "bus.canon.product"]
    assert world.published() == [(sha(b"red"), b"red")]


async def test_the_same_picture_goes_once_per_process() -> None:
    world = Gallery(b"red")
    for sku in ("L-1", "L-2"):
        world.vendor.put("product", lamp(sku, b"red"), sku)
    poller = world.life()
    await world.poll(poller)
    world.vendor.put("product", lamp("L-3", b"red"), "L-3")
    assert len(await world.poll(poller)) == 1
    assert len(world.published()) == 1


async def test_an_object_that_is_no_news_publishes_no_picture() -> None:
    world = Gallery(b"red")
    world.vendor.put("product", lamp("L-1", b"red"), "L-1")
    await world.poll()
    world.vendor.versions["product", "L-1"] += 1
    world.connector.manifest = world.connector.manifest.model_copy(update={"mapping_version": 2})  # all bytes count as new
    assert await world.poll() == []
    assert len(world.published()) == 1
    world.vendor.put("product", lamp("L-9", b"red"), "L-1")
    assert len(await world.poll()) == 1
    assert len(world.published()) == 2  # a new process does not know what the old one published


async def test_what_was_not_committed_is_not_remembered() -> None:
    world = Gallery(b"red", deaths=Deaths(at=1))
    world.vendor.put("product", lamp("L-1", b"red"))
    poller = world.life()
    with pytest.raises(Killed):
        await world.poll(poller)
    await world.poll(poller)
    assert world.published() == [(sha(b"red"), b"red")]


def test_only_so_many_are_remembered() -> None:
    known = pictures.Published(remembered_max=2)
    known.committed(["a", "b"])
    assert not known.missing(RawRecord(entity="product", id="1", raw=b"", pictures={"a": b"1"}))
    known.committed(["c"])  # `a` was used last
    wanted = dict.fromkeys("abc", b"1")
    assert [item.key for item in known.missing(RawRecord(entity="product", id="1", raw=b"", pictures=wanted))] == ["b"]


async def test_a_picture_that_no_record_can_hold_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    large = bytes(RECORD_BYTES_MAX)
    world = Gallery(large)
    world.vendor.put("product", lamp("L-1", large))
    assert len(await world.poll()) == 1
    assert world.published() == []
    assert "too large" in caplog.text


@pytest.mark.parametrize("at", range(7))
async def test_a_page_of_many_pictures_goes_in_parts_and_its_cursor_last(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Whichever commit it dies at, every event on the log has its picture beside it, and nothing is told twice."""
    monkeypatch.setattr(pictures.parts, "__defaults__", (8,))
    contents = [bytes([65 + number]) * 5 for number in range(3)]
    world = Gallery(*contents, deaths=Deaths(at=at or None))
    for number, data in enumerate(contents):
        world.vendor.put("product", lamp(f"L-{number}", data), f"L-{number}")
    world.vendor.put("customer", canon.Customer(company_name="No picture"), "C-1")
    await lived(world, world.life())
    for together in world.log.commits:
        events = [world.codec.decode(r.topic, r.value) for r in together if r.topic == "bus.canon.product"]
        named = {image.sha256 for event in events for image in event.after.images}
        assert named == {record.key for record in together if record.topic == topics.PICTURES}
    cursors = [number for number, done in enumerate(world.log.commits) if any(r.topic == topics.CURSORS for r in done)]
    assert cursors[0] == 2
    assert len(world.log.topic("bus.canon.product")) == 3
    if not at:
        assert world.counts.read == 4


async def lived(world: Poller, poller: AccountPoller) -> None:
    """Polls until it ends well; each death is followed by a new process."""
    while True:
        try:
            await world.poll(poller)
        except Killed:
            poller = world.life()
        else:
            return
