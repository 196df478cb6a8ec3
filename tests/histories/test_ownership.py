"""Histories of owners that came, went, and did not know it."""

from pathlib import Path

import pytest

from tests.unit.runtime.test_stored_table import HOUR_S, Place, contents


async def test_a_cache_older_than_the_tombstones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key was deleted while its reader was away, and its tombstone had been compacted when it came back: reading on from its
    local copy it kept the key for ever, and wrote to an object that had long been retired.

    A copy older than half the time a tombstone stays is thrown away and read anew from the topic (law 22).
    """
    place = Place(tmp_path, monkeypatch)
    place.log.commit(("a|link|1", b"C1"), ("a|link|2", b"C2"))
    await (await place.table()).close()
    place.log.commit(("a|link|1", None))
    place.clock.advance(place.log.delete_retention_s / 2 - 1)
    young = await place.table()
    assert (young.is_warm, contents(young)) == (True, {b"a|link|2": b"C2"}), "the tombstone is there and is read"
    await young.close()
    place.log.commit(("a|link|2", None), ("a|link|3", b"C3"))
    place.log.compact(tombstones=True)
    place.clock.advance(12 * HOUR_S + 1)
    old = await place.table()
    assert (old.is_warm, contents(old)) == (False, {b"a|link|3": b"C3"})
    await old.close()
