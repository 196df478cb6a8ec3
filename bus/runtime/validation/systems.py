"""What validation knows of connectors: their manifests and the models of their connections' `config`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from pydantic import BaseModel

from bus.core.configuration import Configuration, Connection, Document, Flow, Loaded, Problem
from bus.core.configuration.source import Path
from bus.kit.manifest import Manifest, Reads, Writes


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One connector, as far as a configuration depends on it."""

    manifest: Manifest
    config: type[BaseModel]


Systems: TypeAlias = Mapping[str, System]
SecretCheck: TypeAlias = Callable[[str, Sequence[str]], Sequence[str]]
"""(secret, names its system needs) → names that are missing."""


class Checked:
    """A configuration under validation: look-ups, and the list of what is wrong."""

    def __init__(self, loaded: Loaded, systems: Systems) -> None:
        self.loaded = loaded
        self.configuration: Configuration = loaded.configuration
        self.systems = systems
        self.problems: list[Problem] = list(loaded.problems)
        self.warnings: list[Problem] = []

    def add(self, document: Document, path: Path, what: str, fix: str) -> None:
        """A problem: nothing will be applied."""
        self.problems.append(self.loaded.problem(document, path, what, fix))

    def warn(self, document: Document, path: Path, what: str, fix: str) -> None:
        """Worth a look; it is applied all the same."""
        self.warnings.append(self.loaded.problem(document, path, what, fix))

    def manifest(self, connection: Connection | None) -> Manifest | None:
        """Manifest of a connection's system; None where that is already a problem of its own."""
        system = self.systems.get(connection.system) if connection else None
        return system.manifest if system else None


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """Both ends of a flow whose connections, systems and entities exist."""

    flow: Flow
    source: Connection
    target: Connection
    source_facts: Manifest
    target_facts: Manifest
    reads: Reads
    writes: Writes
