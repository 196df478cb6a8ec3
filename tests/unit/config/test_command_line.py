"""`bus validate` in words and in JSON; commands of other areas are found by being there."""

import msgspec
from click.testing import CliRunner

from bus.cli.group import bus
from bus.core.errors import BrokerUnreachable
from tests.unit.config.test_bad_input import GOOD


def run(*words: str):
    return CliRunner().invoke(bus, words)


def test_configuration_commands_are_there():
    found = run("--help")
    assert found.exit_code == 0
    assert all(f"\n  {name} " in found.output for name in ("validate", "diff", "apply"))


def test_validate_tells_all_problems_and_ends_with_78(tmp_path, systems, monkeypatch):
    monkeypatch.setattr("bus.runtime.validation.installed.installed_systems", lambda: systems)
    path = tmp_path / "acme.yaml"
    path.write_text(GOOD.replace("== 'PAID'", "== 'PAYED'"))
    found = run("validate", "-f", str(path))
    assert found.exit_code == 78
    assert f"{path}:32: when: payment_status is never 'PAYED'. Did you mean 'PAID'?" in found.output
    assert "secret 'exact-nl' has no 'client_id'" in found.output
    answer = msgspec.json.decode(run("validate", "-f", str(path), "--json").output)
    assert answer["ok"] is False
    assert {problem["key"] for problem in answer["problems"]} == {"when", "secret"}


def test_validate_shows_the_forecast(tmp_path, systems, monkeypatch):
    monkeypatch.setattr("bus.runtime.validation.installed.installed_systems", lambda: systems)
    for secret in ("EXACT_NL", "QBO_NL"):
        for name in ("CLIENT_ID", "CLIENT_SECRET"):
            monkeypatch.setenv(f"BUS_SECRET_{secret}_{name}", "x")
    path = tmp_path / "acme.yaml"
    path.write_text(GOOD)
    found = run("validate", "-f", str(path))
    assert (found.exit_code, "2 connections, 1 flows, 2 tables: valid" in found.output) == (0, True)
    [ledger, shop] = msgspec.json.decode(run("validate", "-f", str(path), "--json").output)["forecast"]
    assert ledger["calls_per_day"] == 1152
    assert ledger["limits"] == {"day": {"share_per_day": 3000, "limit_per_day": 5000}}
    assert shop["streams"] == {"cdc": {"poll_s": 60, "calls_per_day": 1440}}


def test_a_known_error_is_a_message_and_its_exit_code(tmp_path, monkeypatch):
    def away(*_):
        raise BrokerUnreachable("neither Kafka nor the registry answers")

    monkeypatch.setattr("bus.core.configuration.load", away)
    found = run("validate", "-f", str(tmp_path))
    assert (found.exit_code, "error: neither Kafka" in found.output) == (1, True)
    assert "Traceback" not in found.output
