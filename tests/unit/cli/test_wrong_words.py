"""What a person types or names wrongly ends in one message with the thing, the value and the fix; never in a traceback."""

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bus.cli.group import bus
from services.demonstration.stage import MARK
from tests.unit.config.test_bad_input import GOOD

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine, and a data folder on which nothing runs."""
    for name in [name for name in os.environ if name.startswith("BUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUS_DATA_DIR", str(tmp_path / "data"))


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(bus, [str(word) for word in words])


def refused(found: Result, code: int, *parts: str) -> None:
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    for part in parts:
        assert part in found.output


LOOKING = [
    ("brake", "list"),
    ("brake", "close", "exact-nl"),
    ("parked", "list"),
    ("parked", "release", "--all"),
    ("dead-letters", "redrive", "--all"),
    ("replay", "exact-nl"),
    ("resync", "exact-nl"),
    ("jobs", "list"),
    ("grants", "list"),
    ("grants", "login", "exact-nl"),
    ("link", "a|customer|1", "b|customer|2"),
    ("status",),
    ("status", "--json"),
    ("trace", "exact-nl|customer|1"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "0:1"),
    ("topics",),
    ("poll", "exact-nl", "--now"),
    ("connectors", "check", "exact-nl"),
    ("schemas", "check"),
    ("schemas", "register"),
]


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_where_no_bus_runs_it_is_said_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    refused(run(*words), 78, f"no bus runs on {tmp_path / 'data'}", "`bus up`", "BUS_DATA_DIR", "BUS_KAFKA_BOOTSTRAP")


@pytest.mark.parametrize("command", ["diff", "apply"])
def test_a_good_configuration_needs_a_bus_too(command: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("kind: Table\nname: t\nkey: [x]\nrows: []\n")
    refused(run(command, "-f", path), 78, "no bus runs on")


@pytest.mark.parametrize("command", ["validate", "diff", "apply"])
def test_files_that_cannot_be_read(command: str, tmp_path: Path) -> None:
    folder = tmp_path / "configuration"
    folder.mkdir()
    refused(run(command, "-f", folder), 78, f"{folder}:1", "holds no *.yaml file", "1 problem, nothing was applied")
    refused(run(command, "-f", tmp_path / "nowhere"), 78, "does not exist", "Check the path")
    (folder / "a.yaml").write_text(GOOD)
    (folder / "b.yaml").symlink_to(tmp_path / "gone")
    refused(run(command, "-f", folder), 78, f"{folder / 'b.yaml'}: cannot be read (No such file or directory)")
    (folder / "b.yaml").unlink()
    (folder / "c.yaml").mkdir()
    refused(run(command, "-f", folder), 78, f"{folder / 'c.yaml'}: is a folder with the name of a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_rights_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    closed = tmp_path / "configuration" / "closed"
    closed.mkdir(parents=True)
    (closed.parent / "a.yaml").write_text(GOOD)
    closed.chmod(0)
    try:
        refused(run("validate", "-f", closed.parent), 78, f"{closed}: cannot be read (Permission denied)")
    finally:
        closed.chmod(0o700)


def test_a_missing_secret_says_where_secrets_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(GOOD)
    refused(run("validate", "-f", path), 78, "secret 'exact-nl' has no 'client_id'", "BUS_SECRETS_DIR is not set")
    monkeypatch.setenv("BUS_SECRETS_DIR", str(tmp_path))
    assert "BUS_SECRETS_DIR is not set" not in run("validate", "-f", path).output


def test_master_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(run("up"), 78, "BUS_MASTER_KEY_FILE is not set", "make one with")
    for value, problem in (("short", "BUS_MASTER_KEY is not base64"), ("c2hvcnQ=", "has 5 bytes, needs 32")):
        monkeypatch.setenv("BUS_MASTER_KEY", value)
        refused(run("up"), 78, problem, "make one with")
    path = tmp_path / "master.key"
    monkeypatch.setenv("BUS_MASTER_KEY_FILE", str(path))
    refused(run("up"), 78, f"{path}: No such file or directory", "make one with")
    path.write_bytes(b"\xff\xfe")
    refused(run("up"), 78, f"{path} is not base64", "make one with")


def test_data_folders_and_ports_of_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUS_MASTER_KEY", KEY)
    (tmp_path / "file").touch()
    refused(run("up", "--data-dir", tmp_path / "file"), 78, f"data folder {tmp_path / 'file'} cannot be used", "--data-dir")
    refused(run("up", "--kafka-port", "99999"), 2, "--kafka-port", "99999", "65535")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(run("up", "--kafka-port", port, "--registry-port", "0"), 1, f"port {port} is taken", "--kafka-port")
        refused(run("simulate", "quickbooks", "--port", port), 78, f"127.0.0.1:{port}: Address already in use", "--port 0")
    assert not (tmp_path / "data" / "running.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("simulate", "nope"), 78, ("unknown system 'nope'", "exact_online, quickbooks")),
        (("connectors", "show", "nope"), 78, ("unknown system 'nope'", "exact_online, quickbooks")),
        (("simulate", "quickbooks", "--port", "99999"), 2, ("--port", "65535")),
        (("simulate", "quickbooks", "--orders", "-3"), 2, ("--orders", "-3")),
        (("demo", "--orders", "0"), 2, ("--orders", "0")),
        (("demo", "--example", "nowhere"), 1, ("nowhere holds no configuration", "--example")),
        (("trace", "x"), 2, ("'x' is no key", "connection|entity|id", "sales_invoice")),
        (("trace", "a|order|1"), 2, ("'a|order|1' is no key", "sales_order")),
        (("dead-letters", "list", "--cause", "NOPE"), 2, ("NOPE", "mapping_error")),
        (("status", "--wait-quiet", "-1"), 2, ("--wait-quiet", "-1")),
        (("poll", "exact-nl"), 2, ("--now",)),
        (("nonsense",), 2, ("nonsense",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words(words: tuple[str, ...], code: int, parts: tuple[str, ...]) -> None:
    refused(run(*words), code, *parts)


def test_the_demo_empties_only_its_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").touch()
    refused(run("demo", "--folder", home), 1, f"{home} holds what no demo made", "--folder")
    assert (home / "letter.txt").exists()
    refused(run("demo", "--folder", home / "letter.txt"), 1, "holds what no demo made")
    assert not (home / MARK).exists()
