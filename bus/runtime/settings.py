"""Settings of a process: environment variables that begin with BUS_, read once, frozen."""

import difflib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bus.core.errors import SettingsError

PREFIX = "BUS_"
OTHER_PREFIXES = ("BUS_SECRET_", "BUS_SUPERVISOR_", "BUS_EMBEDDED_", "BUS_DEMO_", "BUS_TEST_")
"""Variables of other readers: never a misspelt setting."""

log = logging.getLogger(__name__)


class BusSettings(BaseSettings):
    """Everything a service may be told from outside. Each field is the variable BUS_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    kafka_bootstrap: str = ""
    """host:port, several with commas."""
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_ca_file: Path | None = None
    """PEM of the authority that signed the brokers' certificates; None: the system's."""
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None
    kafka_key_password: SecretStr | None = None
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr | None = None
    registry_url: str = ""
    """Base of a Confluent-compatible API, such as http://host:8081 or http://host:8080/apis/ccompat/v7."""
    registry_user: str = ""
    registry_password: SecretStr | None = None
    registry_ca_file: Path | None = None
    replication_factor: int = 1
    """Copies of each topic that is created. With 3 of them, one broker may be lost: a write counts when 2 hold it."""
    slots: int = 8
    """Fixed when the topics are created: connections are hashed over them."""
    partitions: int = 12
    secrets_dir: Path | None = None
    """Holds a folder per secret name, a file per value."""
    master_key_file: Path | None = None
    """32 random bytes as base64."""
    master_key: SecretStr | None = None
    data_dir: Path = Path(".data")
    http_host: str = "127.0.0.1"
    http_port: int = 0
    """Of health and metrics; 0 takes any free port."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    client_prefix: str = "bus"
    """Begins every Kafka client id; consumer groups and transactional ids do not depend on it."""
    instance: str = ""
    """Lasting name of this place of work: one that is started again under the same name gets its slots back at once, instead of
    after the session time-out. Two processes of a service never share one."""

    def require_cluster(self) -> None:
        """Refuses to go on without a cluster and a registry. Raises SettingsError with what to set."""
        for name in ("kafka_bootstrap", "registry_url"):
            if not getattr(self, name):
                raise SettingsError(f"{PREFIX}{name.upper()} is not set: give it, or start everything with `bus up`")


def load_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> BusSettings:
    """Reads the environment; `overrides` win. Raises SettingsError that names the variable, never its value.

    A variable that is nearly a known one is a warning, because a misspelt setting would silently do nothing.
    """
    warn_of_typos(os.environ if environment is None else environment)
    try:
        if environment is None:
            return BusSettings(**overrides)
        known = {
            name.lower().removeprefix(PREFIX.lower()): value
            for name, value in environment.items()
            if name.upper().startswith(PREFIX) and value
        }
        fields = {name: value for name, value in known.items() if name in BusSettings.model_fields}
        return BusSettings(**{**fields, **overrides})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name}: {first['msg']}") from None


def warn_of_typos(environment: Mapping[str, str]) -> list[str]:
    """Logs and returns variables that look like misspelt settings."""
    known = {f"{PREFIX}{name.upper()}" for name in BusSettings.model_fields}
    found = []
    for name in environment:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper.startswith(OTHER_PREFIXES):
            continue
        if close := difflib.get_close_matches(upper, known, n=1, cutoff=0.8):
            found.append(name)
            log.warning("unknown variable %s is ignored: did you mean %s?", name, close[0])
    return found
