"""Locked artifacts: nothing doubtful is used, nothing good is fetched twice, every refusal says what to do."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bus.embedded import DownloadError, repository
from bus.embedded.artifacts import LOCK, Artifact, fetch, locked, unpacked

CONTENT = bytes(range(256)) * 400


class Repository(ThreadingHTTPServer):
    """A Maven repository on this machine, with a plan of what goes wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        """Bytes after which the connection is closed, once."""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/m2"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Repository = self.server
        wanted = self.headers.get("range")
        server.asked.append((self.path, wanted))
        content = server.files.get(self.path.removeprefix("/m2/"))
        if content is None:
            self.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = content[first:]
        self.send_response(206 if wanted else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        cut, server.cut_after = server.cut_after, None
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    server = Repository()
    monkeypatch.setenv("BUS_MAVEN_BASE", server.base)
    monkeypatch.setenv("BUS_CACHE_DIR", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def published(maven: Repository, content: bytes = CONTENT, kind: str = "jar") -> Artifact:
    row = Artifact("org.example", "thing", "1.0", "", kind, len(content), hashlib.sha256(content).hexdigest())
    maven.files[row.path] = content
    return row


def test_a_good_file_is_fetched_once(maven):
    row = published(maven)
    (path,) = fetch([row])
    assert path.read_bytes() == CONTENT
    assert fetch([row]) == [path]
    assert len(maven.asked) == 1


@pytest.mark.parametrize("spoil", [lambda good: good[:1000], lambda good: good[:9] + b"!" + good[10:], lambda good: b""])
def test_a_truncated_or_flipped_file_in_the_cache_is_replaced(maven, spoil):
    row = published(maven)
    (path,) = fetch([row])
    path.write_bytes(spoil(CONTENT))
    fetch([row])
    assert path.read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on_where_it_ended(maven):
    row = published(maven)
    maven.cut_after = 1000
    (path,) = fetch([row])
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in maven.asked] == [None, "bytes=1000-"]


def test_a_half_download_of_an_earlier_start_goes_on(maven, monkeypatch):
    row = published(maven)
    maven.cut_after = 2000
    monkeypatch.setattr("bus.embedded.artifacts.TRIES_MAX", 1)
    with pytest.raises(DownloadError, match="run the command again"):
        fetch([row])
    (path,) = fetch([row])
    assert path.read_bytes() == CONTENT
    assert maven.asked[-1][1] == "bytes=2000-"


def test_a_spoilt_half_download_is_thrown_away(maven):
    row = published(maven)
    (path,) = fetch([row])
    path.with_name(path.name + ".part").write_bytes(b"x" * 1000)
    path.unlink()
    assert fetch([row])[0].read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + CONTENT, CONTENT[:-1]])
def test_other_bytes_than_the_lock_names_are_refused(maven, served, tmp_path):
    row = published(maven)
    maven.files[row.path] = served
    with pytest.raises(DownloadError) as refused:
        fetch([row])
    for word in ("thing-1.0.jar", row.sha256, str(row.size), "found", "BUS_MAVEN_BASE"):
        assert word in str(refused.value)
    assert [path for path in (tmp_path / "cache" / "jars").rglob("*") if path.is_file()] == []


def test_a_missing_artifact_and_a_dead_repository_say_so(maven, monkeypatch):
    row = published(maven)
    maven.files.clear()
    with pytest.raises(DownloadError, match=r"thing-1\.0\.jar cannot be had: .*404"):
        fetch([row])
    monkeypatch.setenv("BUS_MAVEN_BASE", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="ConnectError"):
        fetch([row])


def test_progress_ends_at_the_whole(maven):
    rows = [published(maven)]
    told: list[tuple[str, int, int]] = []
    fetch(rows, lambda *what: told.append(what))
    assert told[-1] == ("thing-1.0.jar", len(CONTENT), len(CONTENT))


def test_an_archive_that_was_unpacked_half_is_unpacked_again(maven):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("lib/inside.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    row = published(maven, packed.getvalue(), "tar.gz")
    (archive,) = fetch([row])
    folder = unpacked(row, archive)
    (folder / "lib" / "inside.txt").unlink()
    assert unpacked(row, archive) == folder
    assert not (folder / "lib" / "inside.txt").exists(), "a finished folder is taken as it is"
    (folder / ".complete").unlink()
    assert (unpacked(row, archive) / "lib" / "inside.txt").read_text() == "hello"


def test_the_repository_is_named_by_variable_then_maven_settings_then_the_resolver(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BUS_MAVEN_BASE", raising=False)
    assert repository.repository_base() == repository.MAVEN_CENTRAL_URL.rstrip("/") + "/"
    settings = tmp_path / ".m2" / "settings.xml"
    settings.parent.mkdir()
    space = 'xmlns="urn:settings"'
    mirror = "<mirror><id>m</id><mirrorOf>{}</mirrorOf><url>http://mirror.example/all</url></mirror>"
    for covered, expected in [("other", "resolver"), ("*,!central", "resolver"), ("central", "mirror"), ("*, !other", "mirror")]:
        settings.write_text(f"<settings {space}><mirrors>{mirror.format(covered)}</mirrors></settings>")
        base = repository.repository_base()
        assert (base == "http://mirror.example/all/") == (expected == "mirror"), covered
    settings.write_text("<settings")
    assert repository.repository_base() == repository.MAVEN_CENTRAL_URL.rstrip("/") + "/"
    monkeypatch.setenv("BUS_MAVEN_BASE", "http://chosen.example")
    assert repository.repository_base() == "http://chosen.example/"


def test_the_lock_has_a_sum_for_every_row_and_names_no_host():
    rows = [*locked("kafka"), *locked("registry")]
    assert (rows[0].artifact, rows[-1].artifact) == ("kafka_2.13", "apicurio-registry-app")
    assert all(len(row.sha256) == 64 and row.size > 0 for row in rows)
    assert len({row.path for row in rows}) == len(rows)
    assert "http" not in LOCK.read_text()
