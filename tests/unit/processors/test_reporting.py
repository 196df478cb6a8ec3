"""Law 19: a partition counts as knowing a configuration only by the word of the process that holds it."""

import pytest

from bus.runtime.settings import BusSettings
from services.processors.reporting import Reporter, lagging

SETTINGS = BusSettings(kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1")
A, B = ("bus.canon.customer", 0), ("bus.canon.customer", 1)


@pytest.mark.parametrize(
    ("reported", "owners", "behind"),
    [
        ({A: ("one", 7), B: ("two", 8)}, {A: "one", B: "two"}, []),
        ({A: ("one", 6), B: ("two", 7)}, {A: "one", B: "two"}, [A]),
        ({A: ("one", 7)}, {A: "one", B: "two"}, [B]),
        ({A: ("one", 7), B: ("", -1001)}, {A: "one", B: "two"}, [B]),
        # a process that lost the partition without knowing (a zombie) says more than its holder knows
        ({A: ("zombie", 7), B: ("two", 7)}, {A: "one", B: "two"}, [A]),
        # nobody holds anything while the group is being balanced
        ({A: ("one", 7), B: ("two", 7)}, {}, [A, B]),
    ],
)
def test_only_the_holders_own_word_counts(reported, owners, behind):
    assert lagging([B, A], 7, reported, owners) == behind


async def test_what_is_held_is_reported_with_the_version_and_the_client(monkeypatch):
    reporter = Reporter(SETTINGS, "bus-processors-1", lambda: 9, lambda: {A, B})
    told = []
    monkeypatch.setattr(reporter, "_commit", told.extend)
    await reporter.report()
    assert sorted((place.topic, place.partition, place.offset, place.metadata) for place in told) == [
        (*A, 9, "bus-processors-1"), (*B, 9, "bus-processors-1"),
    ]  # fmt: skip
    await reporter.close()


async def test_who_holds_nothing_reports_nothing(monkeypatch):
    reporter = Reporter(SETTINGS, "bus-processors-1", lambda: 9, set)
    monkeypatch.setattr(reporter, "_commit", lambda _: pytest.fail("nothing to say"))
    await reporter.report()
    await reporter.close()
