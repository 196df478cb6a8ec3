"""Deliberately broken builds: each takes one guard out of a service process, and an oracle must see it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One guard taken out."""

    what: str
    apply: Callable[[], None]


BUILDS: dict[str, Build] = {}
