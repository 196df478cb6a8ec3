"""Finds connectors by their manifests and loads them by id: no other code names a system."""

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

import connectors
from bus.core.clock import Clock
from bus.core.errors import ManifestError, SettingsError
from bus.kit.client import VendorClient
from bus.kit.connector import Connector
from bus.kit.manifest import Manifest, load_manifest


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a connector is built with."""

    connection: str
    config: Any
    client: VendorClient
    clock: Clock


class LoadedConnector(msgspec.Struct, frozen=True, kw_only=True):
    """A connector's parts."""

    manifest: Manifest
    connector_class: Callable[[Context], Connector]
    config_class: type[BaseModel]
    folder: Path


def _root() -> Path:
    return Path(next(iter(connectors.__path__)))


def discover() -> list[str]:
    """Ids of all systems with a manifest, sorted."""
    return sorted(path.parent.name for path in _root().glob("*/manifest.toml"))


@cache
def manifest_of(system: str) -> Manifest:
    """A system's manifest, without loading its code. Raises SettingsError for an unknown system."""
    path = _root() / system / "manifest.toml"
    if system not in discover():
        raise SettingsError(f"unknown system {system!r}: there are {', '.join(discover())}")
    return load_manifest(path)


@cache
def load(system: str) -> LoadedConnector:
    """A system's connector. Raises SettingsError for an unknown system, ManifestError for a wrong manifest."""
    manifest = manifest_of(system)
    return LoadedConnector(
        manifest=manifest,
        connector_class=_entry(manifest, manifest.entry_point),
        config_class=_entry(manifest, manifest.config),
        folder=_root() / system,
    )


def _entry(manifest: Manifest, where: str) -> Any:
    module_name, _, name = where.partition(":")
    path = f"connectors.{manifest.id}.{module_name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ManifestError(f"{manifest.id}: {where}: there is no {module_name}.py: write it or correct the manifest") from error
    found = getattr(module, name, None)
    if found is None:
        raise ManifestError(f"{manifest.id}: {where} does not exist: correct the manifest")
    return found
