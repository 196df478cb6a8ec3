import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bus.core.errors import SettingsError
from bus.runtime import logs, secrets
from bus.runtime.settings import BusSettings


def line(message: str, *args: Any, **members: Any) -> dict[str, Any]:
    record = logging.LogRecord("bus.test", logging.INFO, "x.py", 1, message, args, members.pop("exc_info", None))
    record.__dict__.update(members)
    found: dict[str, Any] = json.loads(logs.JsonFormatter("sinks").format(record))
    return found


def test_a_line_is_one_json_object_with_its_extras() -> None:
    found = line("poll of %s ended", "invoices", connection="exact-nl", calls=3)
    assert found["message"] == "poll of invoices ended"
    assert (found["service"], found["level"], found["connection"], found["calls"]) == ("sinks", "INFO", "exact-nl", 3)
    assert found["at"].endswith("+00:00")


def test_registered_secrets_are_taken_out_wherever_they_stand() -> None:
    logs.redact_value(SecretStr('s3cr"t-value'))
    logs.redact_value("plain-secret")
    try:
        raise ValueError('s3cr"t-value in a traceback')
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    found = json.dumps(line("at %s", 's3cr"t-value', where="plain-secret!", exc_info=info))
    assert "s3cr" not in found
    assert "plain-secret" not in found
    assert logs.SECRET in found


@pytest.mark.parametrize(
    "text",
    [
        "Zoe.deVries+shop@example.com",
        "mail <zoe@sub.example.co.uk> bounced",
        "email=zoe@example.com&x=1",
        "josé@bücher.example",
    ],
)
def test_what_looks_like_an_email_is_taken_out(text: str) -> None:
    found = line("customer %s", text)["message"]
    assert "@" not in found
    assert logs.EMAIL in found


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef1234567890",
        "grant_type=refresh_token&refresh_token=abcdef1234567890&client_secret=abcdef1234567890",
        '{"access_token": "abcdef1234567890"}',
        "GET /cb?code=abcdef1234567890&state=1",
    ],
)
def test_credentials_in_headers_and_parameters_are_taken_out(text: str) -> None:
    assert "abcdef1234567890" not in line("%s", text)["message"]


def test_ordinary_words_stay() -> None:
    text = "kafka at broker:9092, code 404, 2026-11-21T09:00:00Z, exact-nl|sales_order|123"
    assert line("%s", text)["message"] == text


def test_short_values_do_not_blank_out_lines() -> None:
    logs.redact_value("ab")
    assert line("about abacus")["message"] == "about abacus"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(capture=False)


def test_configuring_replaces_and_writes_json(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("pollers")
    logs.configure("pollers")
    assert len(root.handlers) == 1
    logging.getLogger("x").warning("hello")
    assert json.loads(capsys.readouterr().err)["message"] == "hello"


# --- secrets -----------------------------------------------------------------------------------------------------------------


def test_a_secret_is_a_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "exact-nl"
    folder.mkdir()
    (folder / "client_id").write_text("the-client\n")
    (folder / "client_secret").write_text("the-file-secret\n")
    (folder / ".hidden").write_text("no")
    found = secrets.load_secret(BusSettings(secrets_dir=tmp_path), "exact-nl", {})
    assert {key: value.get_secret_value() for key, value in found.items()} == {
        "client_id": "the-client",
        "client_secret": "the-file-secret",
    }
    assert "the-file-secret" not in json.dumps(line("%s", "the-file-secret"))


def test_variables_win_over_files(tmp_path: Path) -> None:
    (tmp_path / "exact-nl").mkdir()
    (tmp_path / "exact-nl" / "client_id").write_text("from file")
    found = secrets.load_secret(BusSettings(secrets_dir=tmp_path), "exact-nl", {"BUS_SECRET_EXACT_NL_CLIENT_ID": "from variable"})
    assert found["client_id"].get_secret_value() == "from variable"


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"looked in folder .*exact-nl and for variables BUS_SECRET_EXACT_NL_\*"):
        secrets.load_secret(BusSettings(secrets_dir=tmp_path), "exact-nl", {})
    with pytest.raises(SettingsError, match="BUS_SECRETS_DIR"):
        secrets.load_secret(BusSettings(), "exact-nl", {})


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".x"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="secret name"):
        secrets.load_secret(BusSettings(secrets_dir=tmp_path), name, {})


def test_files_that_are_no_secrets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        secrets.load_secret(BusSettings(secrets_dir=tmp_path), "a", {})
    (tmp_path / "a" / "key").write_bytes(b"x" * (secrets.VALUE_BYTES_MAX + 1))
    with pytest.raises(SettingsError, match="at most"):
        secrets.load_secret(BusSettings(secrets_dir=tmp_path), "a", {})


def test_one_value_is_required_by_name() -> None:
    with pytest.raises(SettingsError, match="BUS_SECRET_EXACT_NL_CLIENT_ID"):
        secrets.require({}, "exact-nl", "client_id")
    assert secrets.require({"a": SecretStr("b")}, "x", "a").get_secret_value() == "b"
