"""Keys and values of one partition on local disk (RocksDB): a copy of what the topic says, which may be lost at any time.

Laws of the store: it holds what was read from the topic and nothing else; values, index entries and the mark that says how far it
was read become true together, in one write batch; there is no write-ahead log, because the topic is one. What a dead process had
not flushed is missing from the end together with its mark, and is read again. Files are fsynced when they are flushed, so that a
machine that crashes loses a suffix too, and RocksDB's checksums find what a disk damaged: then the folder is thrown away.

One owner: RocksDB locks the folder. Where it is locked (an owner that has not let go yet), damaged or cannot be written, another
folder is taken, and where none can be had, memory: a cache never keeps a service from working.
https://github.com/facebook/rocksdb/wiki
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Env,
    MemtableFactory,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from bus.core.errors import TransientError

MIB = 1024 * 1024
BLOCK_CACHE_BYTES = 32 * MIB
"""Of a process, shared by all its stores: blocks read lately."""
WRITE_BUFFERS_BYTES = 64 * MIB
"""Of a process, shared by all its stores: what is written and not flushed; above it the fullest is flushed."""
WRITE_BUFFER_BYTES = 16 * MIB
WRITE_BUFFERS_MAX = 4
"""Of one store."""
BLOOM_BITS = 10
"""Per key, in memory: a look-up of what is not there costs half a microsecond. Three million keys: 4 MiB."""
FOLDERS_MAX = 3
"""Tried in turn before memory is taken."""
FILES_MAX = 256
"""Kept open by one store."""
NEVER = 1 << 30

MARK = b"\x00mark"

log = logging.getLogger(__name__)


class StoreFailed(TransientError):
    """The local copy cannot be read or written: a takeover starts another one from the topic."""


class Mark(msgspec.Struct, kw_only=True):
    """How far a store was read, and of what."""

    format: int
    cluster: str
    topic: str
    topic_id: str
    partition: int
    position: int
    """Next offset: everything below it is in the store."""
    written_at: float
    """A time, in seconds since the epoch, at which nothing that mattered lay above `position` unread: see `StoredTable`."""
    names: list[str] = []
    """Connections whose records are indexed."""
    schema_ids: list[int] = []
    """Schemas of other releases met among those."""
    tallies: dict[str, int] | None = None
    """How many records count under a name; None: they were never counted from end to end."""


class Store:
    """An open store. Not for several threads at once."""

    def __init__(self, db: Rdict, folder: Path | None, *, is_loading: bool = False) -> None:
        self._db = db
        self._is_loading = is_loading
        self.folder = folder
        """None: it lives in memory."""
        self._write = WriteOptions()
        self._write.disable_wal = True  # type: ignore[method-assign, assignment]  # a property that its stub calls a method
        self.failed: StoreFailed | None = None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises StoreFailed."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._fail(error) from error
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix` and their values, in the order of keys, as of now. Raises StoreFailed.

        To be read to its end or dropped: an open iterator keeps the store from closing.
        """
        try:
            found = self._db.iter()
            found.seek(prefix)
            while found.valid():
                key = found.key()
                if not key.startswith(prefix):
                    break
                yield key, found.value()
                found.next()
            else:
                found.status()
        except Exception as error:
            raise self._fail(error) from error

    def write(self, batch: WriteBatch, mark: Mark) -> None:
        """All of a batch and its mark, or nothing of it. Raises StoreFailed."""
        try:
            batch.put(MARK, msgspec.json.encode(mark))
            self._db.write(batch, self._write)
        except Exception as error:
            raise self._fail(error) from error

    def mark(self) -> Mark | None:
        """What the store says it holds; None: nothing, or nothing this release understands."""
        data = self.get(MARK)
        try:
            return msgspec.json.decode(data, type=Mark) if data is not None else None
        except msgspec.MsgspecError:
            return None

    @property
    def is_loading(self) -> bool:
        """Whether it is only written to, until `settle`: a look-up would sort what was written, each time."""
        return self._is_loading

    def settle(self) -> None:
        """Ends the loading of an empty store: from now on its files are put in order beside the work. Raises StoreFailed."""
        if not self._is_loading:
            return
        self._is_loading = False
        try:
            self._db.flush()
            if self.folder is None:
                self._db.set_options({"disable_auto_compactions": "false"})  # what is in memory cannot be opened again
            else:
                self._db.close()
                self._db = _database(self.folder)
        except Exception as error:
            raise self._fail(error) from error

    def flush(self) -> None:
        """What was written outlives the process from now on. Raises StoreFailed."""
        try:
            self._db.flush()
        except Exception as error:
            raise self._fail(error) from error

    def close(self, *, keep: bool = True) -> None:
        """Lets the folder go, flushed where it is worth keeping; else it is removed. Never raises."""
        if keep and self.failed is None:
            self._attempt(self._db.flush)
        self._attempt(self._db.close)
        if not keep and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _fail(self, error: Exception) -> StoreFailed:
        if self.failed is None:
            log.warning("the local copy of state is damaged or cannot be written: it is made anew", extra={"cause": str(error)})
        self.failed = StoreFailed(f"the local copy of state failed: {error}")
        return self.failed

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # RocksDB has one class for all that can go wrong
            log.debug("closing a store: %s", error)


def batch() -> WriteBatch:
    """An empty batch of raw keys and values."""
    return WriteBatch(raw_mode=True)


def open_store(base: Path, why_not: Callable[[Mark], str | None]) -> tuple[Store, Mark | None]:
    """The store below `base`, and its mark if what it holds may be used; else an empty one and None.

    `why_not` judges a mark. Folders that are damaged, or hold what may not be used, are made anew.
    """
    for number in range(FOLDERS_MAX):
        folder = base.with_name(f"{base.name}.{number}") if number else base
        if folder.exists() and (store := _opened(folder)) is not None:
            reason, mark = _judged(store, why_not)
            if mark is not None and reason is None:
                return store, mark
            log.info("the local copy of state is made anew", extra={"cause": reason, "folder": folder.name})
            store.close(keep=False)
        if (store := _emptied(folder)) is not None:
            return store, None
    log.warning("no local copy of state can be kept: it is held in memory", extra={"folder": str(base)})
    return Store(_in_memory(), None, is_loading=True), None


def _judged(store: Store, why_not: Callable[[Mark], str | None]) -> tuple[str | None, Mark | None]:
    """(reason against it, its mark)."""
    try:
        mark = store.mark()
    except StoreFailed as error:
        return str(error), None
    return (why_not(mark), mark) if mark is not None else ("it is empty", None)


def _opened(folder: Path, *, is_loading: bool = False) -> Store | None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Store(_database(folder, is_loading=is_loading), folder, is_loading=is_loading)
    except Exception as error:
        log.debug("cannot open %s: %s", folder, error)
        return None


def _emptied(folder: Path) -> Store | None:
    """A new store in the place of a damaged one; None where another process holds it, or it cannot be removed."""
    try:
        if folder.exists():
            Rdict.destroy(str(folder), Options(raw_mode=True))  # takes the lock: what another process uses stays
            shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        log.debug("cannot remove %s: %s", folder, error)
        return None
    return _opened(folder, is_loading=True)


def _in_memory() -> Rdict:
    """For where there is no disk. The library itself leaves a file of a few bytes somewhere. Raises StoreFailed."""
    places = [Path(place) for place in (tempfile.gettempdir(), "/dev/shm") if os.access(place, os.W_OK)]  # noqa: S108
    for place in places:
        folder = Path(tempfile.mkdtemp(prefix="bus-", dir=place))
        try:
            return _database(folder, Env.mem_env())
        except Exception as error:
            log.debug("cannot use %s: %s", place, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise StoreFailed("no folder can be written to: give BUS_DATA_DIR one")


@cache
def _shared() -> tuple[Cache, WriteBufferManager]:
    return Cache(BLOCK_CACHE_BYTES), WriteBufferManager(WRITE_BUFFERS_BYTES, False)


def _database(folder: Path, env: Env | None = None, *, is_loading: bool = False) -> Rdict:
    cache_of_blocks, buffers = _shared()
    table = BlockBasedOptions()
    table.set_block_cache(cache_of_blocks)
    table.set_block_size(8 * 1024)
    table.set_bloom_filter(BLOOM_BITS, False)
    table.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_write_buffer_manager(buffers)
    options.set_arena_block_size(256 * 1024)  # what a store that is written to now and then takes at least
    options.set_allow_concurrent_memtable_write(False)
    options.set_max_background_jobs(2)
    if is_loading:
        options.set_memtable_factory(MemtableFactory.vector())
    options.set_disable_auto_compactions(is_loading or env is not None)  # until `settle`: they would take half the machine
    options.set_level_zero_slowdown_writes_trigger(NEVER)
    options.set_level_zero_stop_writes_trigger(NEVER)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    options.set_max_open_files(FILES_MAX)
    options.set_keep_log_file_num(1)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_skip_stats_update_on_db_open(True)
    if env is not None:
        options.set_env(env)
    return Rdict(str(folder), options, {"default": options})  # named, or the options that the folder was last opened with count
