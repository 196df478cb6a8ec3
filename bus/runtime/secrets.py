"""Secrets of connections: a folder of files, or variables BUS_SECRET_<NAME>_<KEY>; never a value in a document."""

import os
import re
from collections.abc import Mapping

from pydantic import SecretStr

from bus.core.errors import SettingsError
from bus.runtime import logs
from bus.runtime.settings import BusSettings

VALUE_BYTES_MAX = 64 * 1024


def variable_prefix(name: str) -> str:
    """`exact-nl` → `BUS_SECRET_EXACT_NL_`."""
    return f"BUS_SECRET_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}_"


def load_secret(settings: BusSettings, name: str, environment: Mapping[str, str] | None = None) -> dict[str, SecretStr]:
    """The values of a secret by key (file name, lower case). Variables win over files.

    Every value is registered with the log redaction. Raises SettingsError that says where it was looked for.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SettingsError(f"secret name {name!r}: letters, digits, dots, dashes and underscores only")
    found: dict[str, SecretStr] = {}
    folder = settings.secrets_dir / name if settings.secrets_dir is not None else None
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                found[path.name.lower()] = _file_value(str(path), path.read_bytes())
    prefix = variable_prefix(name)
    for variable, value in (os.environ if environment is None else environment).items():
        if variable.startswith(prefix) and value:
            found[variable.removeprefix(prefix).lower()] = SecretStr(value)
    if not found:
        where = f"folder {folder}" if folder is not None else "BUS_SECRETS_DIR (not set)"
        raise SettingsError(f"secret {name!r} is missing: looked in {where} and for variables {prefix}*")
    for secret in found.values():
        logs.redact_value(secret)
    return found


def _file_value(path: str, data: bytes) -> SecretStr:
    if len(data) > VALUE_BYTES_MAX:
        raise SettingsError(f"{path}: {len(data)} bytes, a secret has at most {VALUE_BYTES_MAX}")
    try:
        return SecretStr(data.decode().strip("\r\n"))
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8 text") from None


def require(secret: Mapping[str, SecretStr], name: str, key: str) -> SecretStr:
    """One value of a secret. Raises SettingsError naming what is missing."""
    if key not in secret:
        raise SettingsError(f"secret {name!r} has no {key!r}: add the file, or {variable_prefix(name)}{key.upper()}")
    return secret[key]
