"""Slots on a real group: one owner each, handed over while both live, taken over when one leaves."""

import asyncio
import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer

from bus.core.topics import SLOTS, TopicShape
from bus.runtime import kafka
from bus.runtime.kafka import KafkaFault
from bus.runtime.provisioning import ensure_topics
from bus.runtime.settings import BusSettings
from bus.runtime.slots import SlotOwnership

pytestmark = pytest.mark.broker


@pytest.fixture
async def settings(cluster: Any) -> BusSettings:
    found = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)
    await ensure_topics(found, [TopicShape(name=SLOTS, partitions=8, cleanup="delete", retention_days=1)])
    return found


class Member:
    """One process's view; `journal` is shared, so that the order between members shows."""

    def __init__(self, settings: BusSettings, service: str, name: str, journal: list[tuple[str, str, int]]) -> None:
        self.name = name
        self.journal = journal
        self.changed = asyncio.Condition()
        self.slots = SlotOwnership(settings, service, self.gained, self.lost)

    async def gained(self, slot: int) -> None:
        await self._note("gained", slot)

    async def lost(self, slot: int) -> None:
        await asyncio.sleep(0.05)  # work that must end before the next owner begins
        await self._note("lost", slot)

    async def _note(self, what: str, slot: int) -> None:
        self.journal.append((self.name, what, slot))
        async with self.changed:
            self.changed.notify_all()

    async def owns(self, count: int) -> None:
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: len(self.held()) == count)

    def held(self) -> set[int]:
        held: set[int] = set()
        for name, what, slot in self.journal:
            if name == self.name:
                (held.add if what == "gained" else held.discard)(slot)
        return held


async def test_slots_are_shared_handed_over_and_taken_back(settings: BusSettings) -> None:
    service, journal = f"test-{uuid.uuid4().hex[:8]}", []
    first = Member(settings, service, "first", journal)
    second = Member(settings, service, "second", journal)
    await first.slots.start()
    await first.owns(8)
    await second.slots.start()
    await second.owns(4)
    await first.owns(4)
    assert first.held() | second.held() == set(range(8))
    for slot in second.held():
        assert journal.index(("first", "lost", slot)) < journal.index(("second", "gained", slot))
    kept = [entry for entry in journal if entry[0] == "first" and entry[2] in first.held()]
    assert all(what == "gained" for _, what, _ in kept), "slots that stay are not interrupted"
    await first.slots.stop()
    await second.owns(8)
    assert first.held() == set()
    await second.slots.stop()
    assert second.held() == set()


async def test_a_successor_of_the_same_name_gets_the_slots_at_once_and_its_twin_ends(settings: BusSettings) -> None:
    """A process killed and started again under its BUS_INSTANCE does not wait for the session time-out; of two alive one goes."""
    service, journal = f"test-{uuid.uuid4().hex[:8]}", []
    named = settings.model_copy(update={"instance": "place-0"})
    dead = Member(named, service, "dead", journal)
    await dead.slots.start()
    await dead.owns(8)
    successor = Member(named, service, "successor", journal)
    begun = asyncio.get_running_loop().time()
    await successor.slots.start()
    await successor.owns(8)
    print(f"after {asyncio.get_running_loop().time() - begun:.1f} s")
    with pytest.raises(KafkaFault, match="same BUS_INSTANCE"):
        async with asyncio.timeout(30):
            await dead.slots.failure()
    assert successor.held() == set(range(8))
    await dead.slots.stop()
    await successor.slots.stop()


async def test_a_process_that_the_group_let_in_unheard_joins_anew(settings: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker was killed behind its answer to a join: the group knew the process under a member id that it never heard of,
    and fenced it for going by the old one. The process ended, with nobody else there (found by the campaign, row 4)."""
    service, journal = f"test-{uuid.uuid4().hex[:8]}", []
    named = settings.model_copy(update={"instance": "place-0"})
    monkeypatch.setattr("bus.runtime.kafka.client_id", lambda _settings, name: f"{name}-one-process")
    member = Member(named, service, "it", journal)
    await member.slots.start()
    await member.owns(8)
    config = kafka.consumer_config(named, f"slots-{service}", group=f"bus-{service}", auto_offset_reset="latest")
    unheard = Consumer(config | {"group.instance.id": "place-0"})
    unheard.subscribe([SLOTS])
    async with asyncio.timeout(60):
        while not any(entry[1] == "lost" for entry in journal):
            await asyncio.to_thread(unheard.poll, 0.1)
    await asyncio.to_thread(unheard.close)
    await member.owns(8)
    assert [what for _, what, _ in journal] == ["gained"] * 8 + ["lost"] * 8 + ["gained"] * 8
    await member.slots.stop()
