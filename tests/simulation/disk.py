"""Local disks of machines: what was flushed outlives its process, what was not is lost from the end, with its mark."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bus.runtime.store import Mark, StoreFailed
from tests.simulation.process import Process

FOLDERS_MAX = 3


class SimBatch:
    """Puts and deletes that become true together."""

    def __init__(self) -> None:
        self.changes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.changes.append((key, value))

    def delete(self, key: bytes) -> None:
        self.changes.append((key, None))


class Folder:
    """One folder of a machine."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.mark: Mark | None = None
        self.owner: Process | None = None


class SimStore:
    """An open store, as `bus.runtime.store.Store`."""

    def __init__(self, folder: Folder, dice: random.Random) -> None:
        self._folder = folder
        self._dice = dice
        self._values = dict(folder.values)
        self._mark = folder.mark
        self.is_loading = folder.mark is None
        self.failed: StoreFailed | None = None

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(item for item in self._values.items() if item[0].startswith(prefix)))

    def write(self, batch: SimBatch, mark: Mark) -> None:
        for key, value in batch.changes:
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self._mark = mark
        if self._dice.random() < 0.1:
            self.flush()

    def settle(self) -> None:
        self.is_loading = False

    def flush(self) -> None:
        self._folder.values, self._folder.mark = dict(self._values), self._mark

    def close(self, *, keep: bool = True) -> None:
        if keep:
            self.flush()
        else:
            self._folder.values, self._folder.mark = {}, None
        self._folder.owner = None


class Disks:
    """The folders of all machines, as `bus.runtime.store.open_store` finds them."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._folders: dict[tuple[str, str], Folder] = {}
        self.processes: dict[str, Process] = {}

    def data_dir(self, process: Process) -> Path:
        """Where a process keeps what it has: the folders of its machine, under its own name so that it is known who asks."""
        self.processes[process.name] = process
        return Path("/simulated") / process.name

    def open_store(self, base: Path, why_not: Callable[[Mark], str | None]) -> tuple[SimStore, Mark | None]:
        process = self.processes[base.parts[2]]
        for number in range(FOLDERS_MAX):
            folder = self._folders.setdefault((process.machine, f"{base.name}.{number}"), Folder())
            if folder.owner is not None and folder.owner.alive and folder.owner is not process:
                continue
            folder.owner = process
            if folder.mark is not None and why_not(folder.mark) is None:
                return SimStore(folder, self._dice), folder.mark
            folder.values, folder.mark = {}, None
            return SimStore(folder, self._dice), None
        return SimStore(Folder(), self._dice), None


def batch() -> Any:
    """An empty batch."""
    return SimBatch()
