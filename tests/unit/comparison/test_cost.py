"""What a comparison costs is told before it is made."""

from typing import Any

import pytest

from bus.core.configuration import Connection
from bus.kit.manifest import Manifest
from services.comparison.cost import account_cost, duration, spoken
from services.comparison.reading import Side
from tests.fakes import MANIFEST
from tests.unit.pair.rig import Pair

HOUR = 3_600
LIMITS = [{"name": "minute", "calls": 60, "per_s": 60}, {"name": "day", "calls": 5_000, "per_s": 86_400}]


def connection(**more: Any) -> Connection:
    return Connection.model_validate(
        {"kind": "Connection", "name": "a", "tenant": "t", "system": "fake", "secret": "a", "config": {}, **more}
    )


def manifest(**stream: Any) -> Manifest:
    streams = [{**MANIFEST["streams"][0], "page_size_max": 100, **stream}]
    return Manifest.model_validate({**MANIFEST, "limits": LIMITS, "streams": streams, "reserve_pct": 5})


def test_a_whole_read_costs_its_base_and_a_call_per_page_of_each_entity() -> None:
    facts = manifest(full_read_calls=4, objects_per_call=50)
    cost = account_cost(connection(), facts, "customer", {"customer": 101, "product": 50}, None)
    assert (cost.objects, cost.calls) == (151, 4 + 3 + 1 + 2)


def test_a_sample_costs_its_objects() -> None:
    cost = account_cost(connection(), manifest(calls_per_object=7), "customer", {"customer": 1_000}, 20)
    assert (cost.objects, cost.calls, cost.per_finding) == (20, 142, 7)
    few = account_cost(connection(), manifest(calls_per_object=7), "customer", {"customer": 3}, 20)
    assert few.objects == 3


@pytest.mark.parametrize(
    ("calls", "seconds", "limit"),
    [(3, 0, None), (4, 60, "minute"), (250, 83 * 60, "minute"), (251, 86_400, "day"), (750, 2 * 86_400, "day")],
)
def test_the_time_is_what_peoples_part_of_each_limit_takes(calls: int, seconds: int, limit: str | None) -> None:
    assert duration(connection(), manifest(), calls) == (seconds, limit)


def test_a_quota_the_vendor_granted_counts() -> None:
    assert duration(connection(quotas={"minute": 6_000, "day": 500_000}), manifest(), 250) == (0, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (90, "about 2 minutes"), (5 * HOUR, "about 5 hours"), (72 * HOUR, "about 3 days")],
)
def test_times_are_told_in_words(seconds: int, words: str) -> None:
    assert spoken(seconds) == words


@pytest.mark.parametrize(("orders", "most"), [(40, 2.5), (150, 2.5)])
async def test_the_estimate_is_not_below_what_it_takes_nor_far_above(orders: int, most: float) -> None:
    pair = Pair()
    for side in (pair.qbo, pair.exact):
        side.simulator.seed(orders, 3)
        for stream in side.connector.manifest.streams:
            for entity in stream.entities:
                before = side.client.calls
                await Side(side.connector, entity).everything()
                made = side.client.calls - before
                counts: dict[str, int] = {}
                async for page in side.connector.read(stream.name, None):
                    for record in page.records:
                        counts[record.entity] = counts.get(record.entity, 0) + 1
                told = account_cost(connection(), side.connector.manifest, entity, counts, None).calls
                assert made <= told, (side.name, entity)
                assert told <= most * made + 20, (side.name, entity)
