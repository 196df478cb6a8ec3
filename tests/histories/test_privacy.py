"""Histories of sealed personal data: keys that are late, gone, or made twice."""

from typing import Any

import msgspec
import pytest

from bus.core.clock import FrozenClock
from bus.runtime.privacy import MasterKey, MissingSubjectKey, NewKey, Privacy
from schemas import canon
from schemas.system import Cause, Standing
from tests.fakes import company
from tests.unit.sinks import world as sinks
from tests.unit.sinks.world import World, standing_of

MASTER = MasterKey(bytes(range(32)))


def process() -> Privacy:
    """A process that has read none of the keys."""
    return Privacy(MASTER, clock=FrozenClock())


async def arrived(monkeypatch: pytest.MonkeyPatch) -> tuple[World, Privacy, list[NewKey]]:
    """A sealed customer on the outbound topic of an account whose sink reads keys from a topic of its own."""
    sealed, keys = await process().seal(company(), "acme", "shop")
    reader = process()
    monkeypatch.setattr(sinks, "FakePrivacy", lambda: reader)
    world = World()
    monkeypatch.setattr(world.hasher, "fields", hash_of_opened(world, reader, keys))
    world.backfilled()
    await world.live()
    world.command(sealed)
    return world, reader, keys


def hash_of_opened(world: World, reader: Privacy, keys: list[NewKey]) -> Any:
    """What the poller wrote into the event before it sealed it."""
    fields, whole = world.hasher.fields, process()
    for key in keys:
        whole.apply(key.key_id, key.record)
    return lambda document: fields(whole.open(document))


def emails(world: World) -> list[list[str]]:
    """Addresses of the customers at the vendor."""
    return [[point.value for point in item.pii.emails] if item.pii else [] for item in world.vendor.objects["customer"].values()]  # type: ignore[union-attr]


async def test_a_subject_key_not_yet_seen_against_one_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was still on its way was taken for an erased one, and a customer was made without name or address.

    A missing key means wait; erased is a mark that stays, and only then the data is nobody's (law 20).
    """
    world, reader, keys = await arrived(monkeypatch)
    with pytest.raises(AssertionError, match="not quiet"):  # it waits, and looks again
        await world.live(rounds=20)
    state = world.restored()
    assert (standing_of(state).standing, standing_of(state).cause) == (Standing.PARKED, Cause.SUBJECT_KEY_MISSING)
    assert world.vendor.writes == []
    for key in keys:
        reader.apply(key.key_id, key.record)
    await world.live()
    assert emails(world) == [["inkoop@vandijk.test"]]

    world, reader, keys = await arrived(monkeypatch)
    for key in keys:
        reader.apply(key.key_id, msgspec.structs.replace(key.record, wrapped=None, erased=True))
    state = await world.live()
    assert (emails(world), standing_of(state).standing) == ([[]], Standing.WRITTEN), "erased is no reason to wait for ever"


async def test_two_pollers_make_keys_for_one_subject() -> None:
    """Two processes met one person at one time and made a key each; the second record hid the first, and half of the person's
    data never opened again, or survived an erasure.

    Key ids are random and a subject may have several: all open, one is used from then on, and all bear the subject (law 20).
    """
    first, second, reader = process(), process(), process()
    told = [await poller.seal(company(), "acme", "shop") for poller in (first, second)]
    topic = {key.key_id: key.record for _, keys in told for key in keys}
    assert len(topic) == 2, "neither record takes the other's place"
    assert len({record.subject for record in topic.values()}) == 1, "an erasure by subject finds both"
    for later in (first, second, reader):
        for key_id, record in topic.items():
            later.apply(key_id, record)
    for sealed, _ in told:
        opened = reader.open(sealed)
        assert isinstance(opened.pii, canon.PartyPii)
        assert opened.pii.emails[0].value == "inkoop@vandijk.test"
    again, new = await reader.seal(company(), "acme", "shop")
    assert isinstance(again.pii, canon.Sealed)
    assert (again.pii.key_id in topic, new) == (True, [])
    for key_id, record in topic.items():
        reader.apply(key_id, msgspec.structs.replace(record, wrapped=None, erased=True))
    assert [reader.open(sealed).pii for sealed, _ in [*told, (again, new)]] == [None, None, None]
    with pytest.raises(MissingSubjectKey):
        process().open(again)
