"""Downloads the locked artifacts and trusts none of them: size and SHA-256 are checked at every start.

A resolver made the lock (`make jars-lock`); nothing is resolved here. A file is downloaded beside its place, checked, and renamed
into it, so a half download never counts as cached; the next start goes on where it ended. An archive is unpacked into a folder
named by its sum.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx

from bus.embedded.problems import DownloadError
from bus.embedded.repository import BASE_VARIABLE, repository_base

LOCK = Path(__file__).with_name("jars.lock.json")
CACHE_VARIABLE = "BUS_CACHE_DIR"
DOWNLOADS_AT_ONCE = 8
TRIES_MAX = 3
TIMEOUT_S = 60.0

Progress = Callable[[str, int, int], None]
"""Told (artifact, bytes done, bytes in all), from any thread, one call at a time."""

log = logging.getLogger(__name__)


class Artifact(NamedTuple):
    """One row of the lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    type: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name in a Maven repository."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.{self.type}"

    @property
    def path(self) -> str:
        """Path in a Maven repository (Maven 2 layout)."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"


def locked(part: str) -> list[Artifact]:
    """The rows of `kafka` or `registry`; the first is the part itself."""
    return [Artifact(**row) for row in json.loads(LOCK.read_text())[part]]


def cache_dir() -> Path:
    """Where artifacts are kept for all data folders: BUS_CACHE_DIR, else the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "integration-bus"


def sha256_of(path: Path) -> str:
    """Sum of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(rows: Sequence[Artifact], progress: Progress | None = None) -> list[Path]:
    """The files of all rows, checked. Raises DownloadError naming artifact, expected, found and the fix."""
    cache = cache_dir()
    paths = [cache / "jars" / row.path for row in rows]
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        if all(pool.map(_is_good, paths, rows)):
            return paths
        with _locked_cache(cache):
            missing = [(path, row) for path, row in zip(paths, rows, strict=True) if not _is_good(path, row)]
            _download_all(pool, missing, progress)
    return paths


def unpacked(row: Artifact, archive: Path) -> Path:
    """The folder of an unpacked archive; a marker inside says that the unpacking came to its end."""
    cache = cache_dir()
    home = cache / "unpacked" / row.sha256[:16]
    marker = home / ".complete"
    if marker.exists():
        return home
    with _locked_cache(cache):
        if not marker.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            for stale in home.parent.glob(".part-*"):
                shutil.rmtree(stale, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(dir=home.parent, prefix=".part-"))
            with tarfile.open(archive) as tar:
                _extract(tar, fresh)
            (fresh / marker.name).touch()
            fresh.rename(home)
    return home


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """The filter is missing in the first releases of Python 3.11; the sum of the archive has been checked."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
    else:
        tar.extractall(folder)  # noqa: S202


@contextlib.contextmanager
def _locked_cache(cache: Path) -> Iterator[None]:
    """One process at a time writes to the cache; a lock dies with its process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_good(path: Path, row: Artifact) -> bool:
    return path.exists() and path.stat().st_size == row.size and sha256_of(path) == row.sha256


def _download_all(pool: ThreadPoolExecutor, missing: Sequence[tuple[Path, Artifact]], progress: Progress | None) -> None:
    base = repository_base()
    total = sum(row.size for _, row in missing)
    log.info("downloading %d artifacts, %d MB", len(missing), total // 1_000_000)
    done = 0
    telling = threading.Lock()

    def tell(name: str, size: int) -> None:
        nonlocal done
        with telling:
            done += size
            if progress is not None:
                progress(name, min(done, total), total)

    with httpx.Client(base_url=base, timeout=TIMEOUT_S, follow_redirects=True) as client:
        for future in [pool.submit(_download, client, row, path, tell) for path, row in missing]:
            future.result()


def _download(client: httpx.Client, row: Artifact, path: Path, tell: Callable[[str, int], None]) -> None:
    """Fetches one file, going on with what an earlier try left. A file with another sum is thrown away whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problem = ""
    for _ in range(TRIES_MAX):
        try:
            _receive(client, row, part, tell)
        except (httpx.HTTPError, OSError) as error:
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            continue
        size, found = part.stat().st_size, sha256_of(part)
        if size == row.size and found == row.sha256:
            part.replace(path)
            return
        problem = f"expected {row.size} bytes with sha256 {row.sha256}, found {size} bytes with sha256 {found}"
        part.unlink()
    raise DownloadError(
        f"{row.file_name} cannot be had: {problem}. The cache {cache_dir()} holds no doubtful file. If the network failed, run "
        "the command again, it goes on from there; if the repository gives other bytes, name another Maven repository in "
        f"{BASE_VARIABLE}"
    )


def _receive(client: httpx.Client, row: Artifact, part: Path, tell: Callable[[str, int], None]) -> None:
    """Appends to `part` what is missing. A server that gives more than the lock says is cut off one chunk behind it."""
    have = part.stat().st_size if part.exists() else 0
    if have == row.size:
        return
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if 0 < have < row.size else {})
    with client.stream("GET", row.path, headers=headers) as answer:
        answer.raise_for_status()
        goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
        size = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in answer.iter_raw():
                file.write(chunk)
                tell(row.file_name, len(chunk))
                size += len(chunk)
                if size > row.size:
                    return
