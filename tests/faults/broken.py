"""Deliberately broken builds: each takes one guard out of a service process, and an oracle must see it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.broken_guards import BUILDS_OF_GUARDS
from tests.faults.broken_rows import BUILDS_OF_ROWS


@dataclass(frozen=True)
class Build:
    """One guard taken out."""

    what: str
    apply: Callable[[], None]


BUILDS: dict[str, Build] = {
    **{name: Build(*row) for name, row in {**BUILDS_OF_GUARDS, **BUILDS_OF_ROWS}.items()},
}
