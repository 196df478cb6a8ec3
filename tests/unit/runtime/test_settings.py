import logging
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from bus.core.errors import SettingsError
from bus.runtime import kafka
from bus.runtime.settings import BusSettings, load_settings, warn_of_typos


def test_variables_become_typed_frozen_settings() -> None:
    settings = load_settings({"BUS_KAFKA_BOOTSTRAP": "a:1", "BUS_SLOTS": "64", "BUS_MASTER_KEY_FILE": "/k", "HOME": "/"})
    assert (settings.kafka_bootstrap, settings.slots, settings.master_key_file) == ("a:1", 64, Path("/k"))
    with pytest.raises(ValidationError):
        settings.slots = 9  # type: ignore[misc]


def test_empty_variables_are_absent() -> None:
    assert load_settings({"BUS_MASTER_KEY": "", "BUS_SLOTS": ""}).slots == 8


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUS_PARTITIONS", "3")
    assert load_settings().partitions == 3


def test_a_wrong_value_is_told_by_variable_and_never_shown() -> None:
    with pytest.raises(SettingsError, match="BUS_SLOTS") as caught:
        load_settings({"BUS_SLOTS": "hunter22"})
    assert "hunter22" not in str(caught.value)


def test_a_misspelt_variable_is_warned_of_and_others_readers_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = warn_of_typos(
            {
                "BUS_KAFKA_BOOTSTRP": "x",
                "BUS_SECRET_EXACT_NL_CLIENT_ID": "x",
                "BUS_SUPERVISOR_FD": "3",
                "BUS_STOP": "1",
                "PATH": "",
            }
        )
    assert found == ["BUS_KAFKA_BOOTSTRP"]
    assert "did you mean BUS_KAFKA_BOOTSTRAP" in caplog.text


@pytest.mark.parametrize("missing", ["kafka_bootstrap", "registry_url"])
def test_a_cluster_is_required_by_name(missing: str) -> None:
    settings = BusSettings(**{"kafka_bootstrap": "a:1", "registry_url": "http://r", missing: ""})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"BUS_{missing.upper()}"):
        settings.require_cluster()


def test_secrets_do_not_show() -> None:
    assert "hush-hush" not in repr(BusSettings(master_key=SecretStr("hush-hush"), kafka_sasl_password=SecretStr("hush-hush")))


def test_tls_and_sasl_reach_librdkafka() -> None:
    settings = BusSettings(
        kafka_bootstrap="a:1",
        kafka_security="SASL_SSL",
        kafka_ca_file=Path("/ca.pem"),
        kafka_cert_file=Path("/cert.pem"),
        kafka_key_file=Path("/key.pem"),
        kafka_key_password=SecretStr("pass"),
        kafka_sasl_username="bus",
        kafka_sasl_password=SecretStr("word"),
    )
    config = kafka.producer_config(settings, "test")
    wanted = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/cert.pem",
        "ssl.key.location": "/key.pem",
        "ssl.key.password": "pass",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "bus",
        "sasl.password": "word",
    }
    assert wanted.items() <= config.items()


def test_plaintext_carries_no_credentials() -> None:
    config = kafka.consumer_config(BusSettings(kafka_bootstrap="a:1", kafka_sasl_username="bus"), "test")
    assert not [name for name in config if name.startswith(("ssl.", "sasl."))]


def test_sasl_without_a_password_is_refused() -> None:
    with pytest.raises(SettingsError, match="BUS_KAFKA_SASL_PASSWORD"):
        kafka.consumer_config(BusSettings(kafka_bootstrap="a:1", kafka_security="SASL_SSL", kafka_sasl_username="bus"), "test")


def test_kafka_without_a_bootstrap_is_refused() -> None:
    with pytest.raises(SettingsError, match="BUS_KAFKA_BOOTSTRAP"):
        kafka.producer_config(BusSettings(), "test")
