"""Downloads the locked artifacts and trusts none of them: size and SHA-256 are checked at every start.

A resolver made the lock (`make jars-lock`); nothing is resolved here. A file is downloaded beside its place, checked, and renamed
into it, so a half download never counts as cached. A tar archive is unpacked into a folder named by its sum.
"""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
from jgo.constants import MAVEN_CENTRAL_URL

from bus.embedded.problems import EmbeddedError

LOCK = Path(__file__).with_name("jars.lock.json")
BASE_VARIABLE = "BUS_MAVEN_BASE"
CACHE_VARIABLE = "BUS_CACHE_DIR"
DOWNLOADS_AT_ONCE = 8
TRIES_MAX = 3
TIMEOUT_S = 60.0

Progress = Callable[[str, int, int], None]
"""Told (artifact, files done, files in all)."""


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
        """Path in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"


def locked(part: str) -> list[Artifact]:
    """The rows of `kafka` or `registry`."""
    return [Artifact(**row) for row in json.loads(LOCK.read_text())[part]]


def cache_dir() -> Path:
    """Where artifacts are kept between projects: BUS_CACHE_DIR, else the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "integration-bus"


def fetch(rows: Sequence[Artifact], progress: Progress | None = None) -> list[Path]:
    """The files of all rows, checked. Raises EmbeddedError naming artifact, expected and found."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    base = os.environ.get(BASE_VARIABLE) or MAVEN_CENTRAL_URL
    done = 0

    def one(row: Artifact) -> Path:
        nonlocal done
        path = cache / "jars" / row.path
        if not _is_good(path, row):
            with httpx.Client(base_url=base.rstrip("/") + "/", timeout=TIMEOUT_S, follow_redirects=True) as client:
                _download(client, row, path)
        done += 1
        if progress is not None:
            progress(row.file_name, done, len(rows))
        return path

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        return list(pool.map(one, rows))


def unpacked(row: Artifact, archive: Path) -> Path:
    """The folder of an unpacked archive; a marker inside says that the unpacking came to its end."""
    home = cache_dir() / "unpacked" / row.sha256[:16]
    if (home / ".complete").exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(fresh, filter="data")
        (fresh / ".complete").touch()
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)
    except OSError:
        if not (home / ".complete").exists():  # another process unpacked it meanwhile
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return home


def _is_good(path: Path, row: Artifact) -> bool:
    return path.exists() and path.stat().st_size == row.size and _sum(path) == row.sha256


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(client: httpx.Client, row: Artifact, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for _ in range(TRIES_MAX):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file, client.stream("GET", row.path) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_bytes():
                    file.write(chunk)
            found = _sum(part)
            if part.stat().st_size == row.size and found == row.sha256:
                part.replace(path)
                return
            problem = f"expected {row.size} bytes with sha256 {row.sha256}, found {part.stat().st_size} bytes with {found}"
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        finally:
            part.unlink(missing_ok=True)
    raise EmbeddedError(
        f"{row.file_name} could not be downloaded: {problem}. Nothing half-done was kept: run the command again when the network is "
        f"back, or name another Maven repository in {BASE_VARIABLE}"
    )
