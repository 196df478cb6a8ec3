"""Where the running bus of a data folder is found.

A bus with an embedded cluster leaves its addresses in `<data folder>/running.json` while it runs. It holds a lock on that
file, which ends with its process however that ends: a file without its lock is a leftover, and nothing in it is believed.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

import msgspec

from bus.core.errors import SettingsError
from bus.runtime.settings import BusSettings

FILE = "running.json"
HOW = (
    "start one with `bus up`, name its data folder in BUS_DATA_DIR, or set BUS_KAFKA_BOOTSTRAP and BUS_REGISTRY_URL "
    "to a cluster of your own"
)


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A bus that runs."""

    process_id: int
    kafka_bootstrap: str
    registry_url: str


class Notice:
    """The file of a bus that runs, from `announce` until `withdraw`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def withdraw(self) -> None:
        """Removes the file. Calling it again is harmless."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


def announce(data_dir: Path, kafka_bootstrap: str, registry_url: str) -> Notice:
    """Leaves the addresses in the data folder. The file appears whole and locked, or not at all."""
    running = Running(process_id=os.getpid(), kafka_bootstrap=kafka_bootstrap, registry_url=registry_url)
    path = data_dir / FILE
    fresh = path.with_name(f"{FILE}.{running.process_id}")
    file = fresh.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(msgspec.json.encode(running))
    file.flush()
    fresh.replace(path)
    return Notice(path, file)


def find(data_dir: Path) -> Running:
    """The bus that runs on a data folder. Raises SettingsError that says why there is none and what to do."""
    path = data_dir / FILE
    try:
        with path.open("rb") as file:
            text, gone = file.read(), _is_free(file)
    except FileNotFoundError:
        raise SettingsError(f"no bus runs on {data_dir.absolute()}, or it is not ready yet: {HOW}") from None
    except OSError as error:
        raise SettingsError(
            f"{path.absolute()} cannot be read ({error.strerror}): mend its rights, or name another BUS_DATA_DIR"
        ) from None
    try:
        running = msgspec.json.decode(text, type=Running)
    except msgspec.DecodeError:
        raise SettingsError(f"{path.absolute()} is not what a bus writes: remove it; {HOW}") from None
    if gone:
        raise SettingsError(f"the bus on {data_dir.absolute()} (process {running.process_id}) is gone: {HOW}")
    return running


def located(settings: BusSettings) -> BusSettings:
    """Settings that name a cluster: their own, else the embedded one that runs on their data folder.

    Raises SettingsError when there is neither.
    """
    if settings.kafka_bootstrap:
        settings.require_cluster()
        return settings
    found = find(settings.data_dir)
    return settings.model_copy(update={"kafka_bootstrap": found.kafka_bootstrap, "registry_url": found.registry_url})


def _is_free(file: IO[bytes]) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False
