"""Where a sink finds a picture, and what it does without one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.core.errors import NetworkFailure, Unavailable
from bus.core.policy import WritePolicy
from bus.kit.connector import Step, StepResult, Write
from bus.runtime import metrics
from bus.runtime.publisher import Outgoing
from schemas import canon
from schemas.system import IdempotencyClass, Standing
from services.sinks.making import PICTURED_WRITES_MAX
from services.sinks.pictures import Entry, LoggedPictures, Place
from tests.fakes import Deaths, FakeConnector, Killed
from tests.unit.sinks.world import TARGET, World, standing_of

RED, BLUE = "ab" * 32, "cd" * 32


# --- looking up ---


class Log:
    """A compacted partition in memory."""

    def __init__(self) -> None:
        self.records: dict[int, tuple[str, bytes | None]] = {}
        self.end = 0
        self.read_to = 0
        self.fetched = 0
        self.away = False

    def put(self, sha256: str, data: bytes | None) -> None:
        self.records[self.end] = (sha256, data)
        self.end += 1

    def compact(self) -> None:
        newest = {sha256: offset for offset, (sha256, _) in self.records.items()}
        self.records = {offset: record for offset, record in self.records.items() if newest[record[0]] == offset}

    async def news(self) -> AsyncIterator[Entry]:
        if self.away:
            raise NetworkFailure("away")
        for offset in sorted(self.records):
            if offset >= self.read_to:
                yield Entry(self.records[offset][0], Place(0, offset), self.records[offset][1])
        self.read_to = self.end

    async def at(self, place: Place) -> Entry | None:
        self.fetched += 1
        offset = next((offset for offset in sorted(self.records) if offset >= place.offset), None)
        return Entry(self.records[offset][0], Place(0, offset), self.records[offset][1]) if offset is not None else None

    async def close(self) -> None:
        return None


async def test_a_picture_is_found_and_the_one_used_last_is_kept() -> None:
    log = Log()
    log.put(RED, b"red")
    log.put(BLUE, b"blue")
    pictures = LoggedPictures(log, kept_bytes_max=4)
    assert [await pictures.get(RED), await pictures.get(RED), await pictures.get(BLUE)] == [b"red", b"red", b"blue"]
    assert log.fetched == 2
    assert await pictures.get(RED) == b"red"  # only four bytes are kept
    assert log.fetched == 3


async def test_a_picture_that_came_later_is_found() -> None:
    log = Log()
    pictures = LoggedPictures(log)
    assert await pictures.get(RED) is None
    log.put(RED, b"red")
    assert await pictures.get(RED) == b"red"


@pytest.mark.parametrize("behind", [[BLUE], []])
async def test_a_place_that_was_compacted_away_is_looked_up_anew(behind: list[str]) -> None:
    """What lies at the old place then is another picture, or the same one further on."""
    log = Log()
    log.put(RED, b"red")
    pictures = LoggedPictures(log, kept_bytes_max=0)
    assert await pictures.get(RED) == b"red"
    for sha256 in behind:
        log.put(sha256, b"blue")
    log.put(RED, b"red")
    log.compact()
    assert await pictures.get(RED) == b"red"


async def test_a_picture_that_was_removed_is_none() -> None:
    log = Log()
    log.put(RED, b"red")
    pictures = LoggedPictures(log, kept_bytes_max=0)
    assert await pictures.get(RED) == b"red"
    log.put(RED, None)
    log.put(BLUE, b"blue")
    log.compact()
    assert await pictures.get(RED) is None
    del log.records[2]
    assert await pictures.get(BLUE) is None


async def test_a_missing_picture_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pictures = LoggedPictures(Log())
    for _ in range(3):
        assert await pictures.get(RED) is None
    assert caplog.text.count("no such picture") == 1


async def test_a_log_that_is_away_is_no_absence() -> None:
    log = Log()
    log.away = True
    pictures = LoggedPictures(log)
    with pytest.raises(NetworkFailure):
        await pictures.get(RED)
    log.away = False
    log.put(RED, b"red")
    assert await pictures.get(RED) == b"red"


async def test_a_picture_that_never_stands_still_is_asked_for_later() -> None:
    class Restless(Log):
        async def at(self, place: Place) -> Entry | None:
            self.put(RED, b"red")
            self.compact()
            return await super().at(place)

    log = Restless()
    log.put(RED, b"red")
    with pytest.raises(Unavailable):
        await LoggedPictures(log).get(RED)


# --- writing ---


class Gallery(FakeConnector):
    """A connector whose products have an article and pictures, the latter in a call of their own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        product = self.manifest.writes["product"]
        product = product.model_copy(update={"fields": (*product.fields, "images")})
        self.manifest = self.manifest.model_copy(update={"writes": {**self.manifest.writes, "product": product}})
        self.given: list[tuple[str, dict[str, bytes]]] = []

    def plan(self, write: Write) -> Sequence[Step]:
        steps = list(super().plan(write))
        return [*steps, Step(name="image", idempotency=IdempotencyClass.REPEATABLE)] if write.pictures else steps

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        if step.name != "image":
            return await super().perform(write, step, done)
        self.deaths.point("before image")
        self.given.append((write.action, dict(write.pictures)))
        self.deaths.point("after image")
        return StepResult(external_id="I1")


def gallery(deaths: Deaths | None = None) -> tuple[World, Gallery]:
    world = World(deaths)
    world.connector = connector = Gallery(world.vendor, deaths=world.deaths)
    world.backfilled()
    return world, connector


def publish(world: World, sha256: str, data: bytes) -> None:
    world.log.records.append(Outgoing(topics.PICTURES, None, sha256, data))


def lamp(*hashes: str, name: str = "Lamp") -> canon.Product:
    return canon.Product(sku="L-1", name=name, images=[canon.Image(sha256=item, position=n) for n, item in enumerate(hashes)])


async def test_a_create_is_given_as_many_pictures_as_the_target_takes() -> None:
    world, connector = gallery()
    publish(world, RED, b"red")
    publish(world, BLUE, b"blue")
    world.command(lamp(BLUE, RED), entity="product")
    await world.live()
    assert connector.given == [("create", {BLUE: b"blue"})]


async def test_an_update_is_given_pictures_only_when_they_changed() -> None:
    world, connector = gallery()
    publish(world, RED, b"red")
    publish(world, BLUE, b"blue")
    for document in (lamp(RED), lamp(RED, name="Better lamp"), lamp(BLUE, name="Better lamp")):
        world.command(document, entity="product")
        await world.live()
    assert connector.given == [("create", {RED: b"red"}), ("update", {BLUE: b"blue"})]


async def test_a_create_only_picture_is_given_once() -> None:
    world, connector = gallery()
    publish(world, RED, b"red")
    publish(world, BLUE, b"blue")
    policy = WritePolicy(write="upsert", create_only=("images",))
    for document in (lamp(RED), lamp(BLUE)):
        world.command(document, entity="product", policy=policy)
        await world.live()
    assert connector.given == [("create", {RED: b"red"})]


async def test_a_write_goes_on_without_a_picture_nobody_published_and_it_is_counted() -> None:
    world, connector = gallery()
    before = missing()
    world.command(lamp(RED), entity="product")
    state = await world.live()
    assert standing_of(state, entity="product").standing is Standing.WRITTEN
    assert connector.given == []
    assert missing() == before + 1


async def test_few_writes_hold_pictures_at_one_time() -> None:
    world, connector = gallery()
    publish(world, RED, b"red")
    holders: set[str] = set()
    under_way: list[int] = []
    perform = connector.perform

    async def slow(write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        holders.add(write.source.id)
        under_way.append(len(holders))
        await asyncio.sleep(0)
        result = await perform(write, step, done)
        if step.name == "image":
            holders.discard(write.source.id)
        return result

    connector.perform = slow  # type: ignore[method-assign]
    for number in range(3 * PICTURED_WRITES_MAX):
        document = msgspec.structs.replace(lamp(RED), sku=f"L-{number}")
        world.command(document, entity="product", source_id=str(number))
    await world.live()
    assert len(connector.given) == 3 * PICTURED_WRITES_MAX
    assert max(under_way) == PICTURED_WRITES_MAX


def missing() -> float:
    return metrics.REGISTRY.get_sample_value("bus_pictures_missing_total", {"connection": TARGET}) or 0


async def test_customers_ask_for_no_picture() -> None:
    class Never:
        async def get(self, sha256: str) -> bytes | None:
            raise AssertionError("asked")

    world = World()
    world.pictures = Never()
    world.backfilled()
    world.command(canon.Product(sku="L-1", images=[canon.Image(sha256=RED)]), entity="product")  # no place for one
    state = await world.live()
    assert standing_of(state, entity="product").standing is Standing.WRITTEN


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("kind", [IdempotencyClass.CLIENT_ID, IdempotencyClass.KEY])
async def test_a_create_goes_on_when_its_picture_came_or_went_meanwhile(published: bool, kind: IdempotencyClass) -> None:
    """The plan has a step more or less then: what is done is not done again."""
    points = await deaths_of(published, kind)
    for at in range(1, points + 1):
        world, connector = await died(published, kind, at)
        if published:
            world.log.records = [record for record in world.log.records if record.topic != topics.PICTURES]
        else:
            publish(world, RED, b"red")
        state = await world.survive()
        where = f"point {at} of {points}: {world.deaths.names[at - 1]}"
        assert len(world.vendor.objects["product"]) == 1, where
        assert world.vendor.writes.count(("create", "product")) == 1, where
        assert standing_of(state, entity="product").standing in (Standing.WRITTEN, Standing.UNCHANGED), where
        assert not list(state.open_intents()), where
        assert len(connector.given) <= 1, where


async def died(published: bool, kind: IdempotencyClass, at: int | None) -> tuple[World, Gallery]:
    world, connector = gallery(Deaths(at=at))
    connector.classes["product"] = kind
    if published:
        publish(world, RED, b"red")
    world.command(lamp(RED), entity="product")
    try:
        await world.live()
    except Killed:
        world.clock.advance(1)
    return world, connector


async def deaths_of(published: bool, kind: IdempotencyClass) -> int:
    world, _ = await died(published, kind, None)
    return world.deaths.passed
