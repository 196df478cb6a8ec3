"""The local copy of a partition: used only where the topic bears it out, atomic, disposable (law 22)."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bus.core.clock import FrozenClock
from bus.core.errors import SettingsError, Unavailable
from bus.runtime import store as stores
from bus.runtime import table as tables
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.store import StoreFailed
from bus.runtime.table import StoredTable
from tests.unit.runtime.logs import Log

TOPIC = "bus.state"
HOUR_S = 3_600


class Letters:
    """Indexes a value's letters; what holds an exclamation mark is kept in memory."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names or ("a",))
        self.kept: dict[bytes, bytes] = {}
        self.looked_at = 0

    tallied, is_tallied = b"", True

    def tally(self, key: bytes, value: bytes) -> str | None:
        return value[:1].decode() if key.partition(b"|")[0].decode() in self.names else None

    def entries(self, key: bytes, value: bytes) -> tuple[Sequence[bytes], bool]:
        self.looked_at += 1
        if key.partition(b"|")[0].decode() not in self.names:
            return (), False
        return [b"letter|%c|" % letter + key for letter in value], b"!" in value

    def prefixes(self, name: str) -> Sequence[bytes]:
        return [f"{name}|".encode()]

    def keep(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = value

    def changed(self, keys: Iterable[bytes]) -> None:
        pass


class Place:
    """A machine with a data folder, a topic and a clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log, self.clock = folder, Log(), FrozenClock()
        self.index = Letters()
        monkeypatch.setattr(tables, "LogReader", self.log.reader)

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "sinks-bus.state-3"

    async def table(self, index: Letters | None = None) -> StoredTable:
        """A process that takes over."""
        self.index = index or Letters()
        self.log.read = 0
        settings = BusSettings(data_dir=self.folder)
        table = StoredTable(settings, Codec.offline(), "sinks", "t", self.index, clock=self.clock)
        await table.load(TOPIC, 3)
        return table

    async def used(self) -> None:
        """A process that read two records and ended well."""
        self.log.commit(("a|1", b"xy"), ("a|2", b"x!"))
        await (await self.table()).close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def contents(table: StoredTable) -> dict[bytes, bytes]:
    return dict(table.scan(b""))


async def test_a_cold_start_reads_everything(place: Place) -> None:
    place.log.commit(("a|1", b"xy"), ("a|2", b"x!"), ("b|1", b"x"))
    place.log.commit(("a|1", b"z"), ("a|3", None))
    table = await place.table()
    assert not table.is_warm
    assert contents(table) == {b"a|1": b"z", b"a|2": b"x!", b"b|1": b"x"}
    assert table.entries("letter|x|") == [b"a|1", b"a|2"]  # a|1 is a hint of before; of b nothing is indexed
    assert place.index.kept == {b"a|2": b"x!"}
    assert table.get("a|1") == b"z" and table.get("a|9") is None and table.position == place.log.end
    await table.close()


async def test_a_warm_start_reads_what_came_since(place: Place) -> None:
    await place.used()
    place.log.commit(("a|1", b"z!"), ("a|2", None), ("a|4", b"q"))
    place.clock.advance(6 * HOUR_S)
    table = await place.table()
    assert table.is_warm and place.log.read == 3
    assert contents(table) == {b"a|1": b"z!", b"a|4": b"q"} and place.index.kept == {b"a|1": b"z!"}
    await table.close()


async def test_a_copy_is_for_looking_up_once_it_is_loaded_and_after_every_start(place: Place) -> None:
    """What makes loading fast makes every look-up sort what was written since, and files are never put in order."""
    place.log.commit(("a|1", b"xy"))
    for _ in ("cold", "warm"):
        table = await place.table()
        options = max(place.cache.glob("OPTIONS-*"), key=lambda path: path.name).read_text()
        assert "memtable_factory=SkipListFactory" in options
        assert "disable_auto_compactions=false" in options
        await table.close()


async def test_what_is_kept_in_memory_is_found_by_a_warm_start_without_looking_at_the_rest(place: Place) -> None:
    await place.used()
    table = await place.table()
    assert table.is_warm and place.log.read == 0 and place.index.looked_at == 0 and place.index.kept == {b"a|2": b"x!"}
    await table.close()


async def test_counts_follow_replaced_and_deleted_records_over_starts(place: Place) -> None:
    place.log.commit(("a|1", b"x"), ("a|2", b"x"), ("b|1", b"x"))
    place.log.commit(("a|1", b"y"), ("a|1", b"z"))
    table = await place.table()
    assert table.tallies == {"x": 1, "z": 1}
    place.log.commit(("a|2", b"z"), ("a|3", b"z"), ("a|3", b"x"), ("a|1", None), ("a|9", None))
    await table.refresh()
    assert table.tallies == {"x": 1, "z": 1}
    await table.close()
    place.log.commit(("a|4", b"x"))
    table = await place.table(Letters("a", "b"))
    assert table.is_warm and table.tallies == {"x": 3, "z": 1}
    await table.close()


async def test_a_refresh_tells_what_is_kept_no_longer(place: Place) -> None:
    await place.used()
    table = await place.table()
    place.log.commit(("a|2", b"x"), ("a|5", b"!"))
    await table.refresh()
    assert place.index.kept == {b"a|5": b"!"}
    await table.close()
    again = await place.table()
    assert place.index.kept == {b"a|5": b"!"}
    await again.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("cluster", "cluster-2"), ("topic_id", "topic-2"), ("start", 5), ("delete_retention_s", 0.0)],
    ids=["other cluster", "topic made anew", "log cut off below", "tombstones do not stay"],
)
async def test_what_the_topic_does_not_bear_out_is_thrown_away(place: Place, name: str, value: Any) -> None:
    await place.used()
    place.clock.advance(1)
    setattr(place.log, name, value)
    place.log.records = [(0, b"a|9", b"n")]
    table = await place.table()
    assert not table.is_warm and contents(table) == {b"a|9": b"n"} and place.index.kept == {}
    await table.close()


async def test_a_position_beyond_the_end_is_thrown_away(place: Place) -> None:
    await place.used()
    place.log.records, place.log.end = [(0, b"a|9", b"n")], 1
    table = await place.table()
    assert not table.is_warm and contents(table) == {b"a|9": b"n"}
    await table.close()


async def test_a_copy_older_than_the_tombstones_is_thrown_away(place: Place) -> None:
    """History of the design: a key deleted while nobody read, its tombstone compacted away; a copy would keep it for ever."""
    await place.used()
    place.log.commit(("a|1", None))
    place.log.compact(tombstones=True)
    place.clock.advance(12 * HOUR_S + 1)
    table = await place.table()
    assert not table.is_warm and contents(table) == {b"a|2": b"x!"}
    await table.close()


async def test_a_copy_from_the_future_is_thrown_away(place: Place) -> None:
    place.clock.advance(HOUR_S)
    await place.used()
    place.clock.advance(-HOUR_S)
    table = await place.table()
    assert not table.is_warm
    await table.close()


async def test_the_age_counts_from_the_last_time_the_end_was_reached(place: Place) -> None:
    place.log.commit(("a|1", b"x"))
    table = await place.table()
    for _ in range(4):
        place.clock.advance(6 * HOUR_S)
        await table.refresh()
    await table.close()
    place.clock.advance(11 * HOUR_S)
    table = await place.table()
    assert table.is_warm and place.log.read == 0
    await table.close()


async def test_another_format_is_thrown_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.used()
    monkeypatch.setattr(tables, "FORMAT", tables.FORMAT + 1)
    table = await place.table()
    assert not table.is_warm and len(contents(table)) == 2
    await table.close()


async def test_a_partition_that_may_not_be_described_is_read_anew(place: Place) -> None:
    await place.used()
    place.log.commit(("a|7", b"x"))

    async def refused(*_: Any) -> Any:
        raise SettingsError("no right to describe")

    table = StoredTable(BusSettings(data_dir=place.folder), Codec.offline(), "sinks", "t", place.index, clock=place.clock)
    table._reader.facts = refused  # type: ignore[method-assign]
    await table.load(TOPIC, 3)
    assert not table.is_warm and len(contents(table)) == 3
    await table.close()


async def test_a_lost_copy_is_made_anew(place: Place) -> None:
    await place.used()
    shutil.rmtree(place.folder / "cache")
    table = await place.table()
    assert not table.is_warm and len(contents(table)) == 2
    await table.close()


@pytest.mark.parametrize("damage", ["data", "manifest", "current", "gone"])
async def test_a_damaged_copy_is_made_anew(place: Place, damage: str) -> None:
    await place.used()
    files = [
        path
        for path in place.cache.iterdir()
        if (path.suffix == ".sst" and damage == "data")
        or (path.name.startswith("MANIFEST") and damage == "manifest")
        or (path.name == "CURRENT" and damage in ("current", "gone"))
    ]
    assert files
    for file in files:
        data = file.read_bytes()
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(bytes(byte ^ 0x55 for byte in data))
    table = await place.table()
    assert not table.is_warm and contents(table) == {b"a|1": b"xy", b"a|2": b"x!"}
    await table.close()


async def test_a_copy_that_fails_at_work_is_told_and_made_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.used()
    table = await place.table()
    broken: Any = table._store_()
    real = broken._db

    class Broken:
        def get(self, key: bytes) -> bytes:
            raise OSError("Corruption: block checksum mismatch")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    broken._db = Broken()
    with pytest.raises(StoreFailed):
        table.get("a|1")
    with pytest.raises(StoreFailed):
        await table.refresh()
    await table.close()
    table = await place.table()
    assert not table.is_warm and len(contents(table)) == 2
    await table.close()


async def test_records_and_the_mark_that_tells_of_them_are_written_together_or_not_at_all(place: Place) -> None:
    await place.used()
    table = await place.table()
    store: Any = table._store_()
    before, real = store.mark(), store._db

    class Full:
        def write(self, *_: Any) -> None:
            raise OSError("No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    store._db = Full()
    place.log.commit(("a|7", b"x"))
    with pytest.raises(StoreFailed):
        await table.refresh()
    assert store.mark() == before and table.get("a|7") is None
    await table.close()


async def test_a_folder_that_another_owner_holds_is_left_alone(place: Place) -> None:
    await place.used()
    first = await place.table()
    second = await place.table()
    assert first.is_warm and not second.is_warm
    assert contents(first) == contents(second)
    await first.close()
    await second.close()
    third = await place.table()
    assert third.is_warm
    await third.close()


async def test_without_any_folder_the_table_is_in_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.log.commit(("a|1", b"xy"))
    place.folder = place.folder / "file"
    place.folder.write_text("no folder")
    table = await place.table()
    assert not table.is_warm and contents(table) == {b"a|1": b"xy"} and table._store_().folder is None
    place.log.commit(("a|1", b"z"))
    await table.refresh()
    assert contents(table) == {b"a|1": b"z"}
    await table.close()


async def test_a_connection_that_becomes_ours_is_indexed_from_the_copy(place: Place) -> None:
    place.log.commit(("b|1", b"x!"))
    await place.used()
    table = await place.table(Letters("a", "b"))
    assert table.is_warm and place.log.read == 0
    assert table.entries("letter|x|") == [b"a|1", b"a|2", b"b|1"] and place.index.kept == {b"a|2": b"x!", b"b|1": b"x!"}
    await table.close()
    table = await place.table(Letters("a", "b"))
    assert table.is_warm and place.index.looked_at == 0 and place.index.kept == {b"a|2": b"x!", b"b|1": b"x!"}
    await table.close()


async def test_a_refresh_that_was_broken_off_misses_nothing(place: Place) -> None:
    table = await place.table()
    place.log.commit(*[(f"a|{number}", b"v") for number in range(8)])
    real, calls = table._digested, 0

    async def once(pairs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("away")
        return await real(pairs)

    table._digested = once  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await table.refresh()
    await table.refresh()
    assert len(contents(table)) == 8
    await table.close()


KILLED = """
import asyncio, os, sys
from pathlib import Path
from bus.core.clock import FrozenClock
from bus.runtime import store, table
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from tests.unit.runtime.logs import Log
from tests.unit.runtime.test_stored_table import Letters, TOPIC

log = Log()
for number in range(int(sys.argv[2])):
    log.commit((f"a|{number % 500}", os.urandom(400).hex().encode()))
table.LogReader = log.reader
store.WRITE_BUFFER_BYTES = 64 * 1024

def dying(entries):
    left = [int(sys.argv[2]) - 100]
    def one(key, value):
        left[0] -= 1
        return entries(key, value) if left[0] else os.kill(os.getpid(), 9)
    return one

async def main():
    settings = BusSettings(data_dir=Path(sys.argv[1]))
    made = table.StoredTable(settings, Codec.offline(), "sinks", "t", Letters(), clock=FrozenClock())
    made._index.entries = dying(made._index.entries)
    await made.load(TOPIC, 3)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_a_prefix_of_the_topic(place: Place) -> None:
    """Without a write-ahead log: what was flushed, and the mark that belongs to it."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED, str(place.folder), "2000"]
    died = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert died.returncode == -signal.SIGKILL
    found, mark = stores.open_store(place.cache, lambda _: None)
    assert mark is not None and 0 < mark.position < 4_000
    numbers = {int(key.rpartition(b"|")[2]) for key, _ in found.scan(tables.RECORD)}
    assert numbers == set(range(min(500, (mark.position + 1) // 2)))  # each offset below the mark, none above
    found.close()


async def test_records_by_prefix_and_none_beyond(place: Place) -> None:
    place.log.commit(("a|1", b"x"), ("a|10", b"y"), ("a|2", b"z"), ("b|1", b"q"))
    table = await place.table()
    assert [key for key, _ in table.scan("a|1")] == [b"a|1", b"a|10"]
    assert [key for key, _ in table.scan("c")] == []
    await table.close()
