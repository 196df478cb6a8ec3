"""The connectors and secrets of this machine, as validation wants them."""

from collections.abc import Mapping, Sequence

from bus.core.errors import SettingsError
from bus.kit.registry import discover, load
from bus.runtime.secrets import load_secret
from bus.runtime.settings import BusSettings
from bus.runtime.validation.systems import SecretCheck, System


def installed_systems() -> Mapping[str, System]:
    """All connectors that are installed, by id."""
    found = {}
    for system_id in discover():
        loaded = load(system_id)
        found[system_id] = System(manifest=loaded.manifest, config=loaded.config_class)
    return found


def secret_check(settings: BusSettings) -> SecretCheck:
    """Which values of a secret are missing from the secrets folder and the environment."""

    def missing(secret: str, names: Sequence[str]) -> Sequence[str]:
        try:
            present = load_secret(settings, secret)
        except SettingsError:
            return list(names)
        return [name for name in names if name not in present]

    return missing
