"""What the broken builds of rows 11 to 15 take out of a service process: by name, in words, and how.

A build is applied in the process that runs a service (`tests/e2e/launcher.py`), so nothing is imported before it is needed.
"""

from collections.abc import Callable
from typing import Any

STUMBLE = "Stumble"
"""Customers whose name begins so meet a bug in the sink of row 11."""


def stumble() -> None:
    """A bug in the sink's own code that the data of one record brings out."""
    from services.sinks.masters import Masters

    real = Masters.settle

    async def settle(self: Masters, task: Any, link: Any) -> Any:
        if str(getattr(task.document, "company_name", "")).startswith(STUMBLE):
            raise KeyError("what nobody thought of")
        return await real(self, task, link)

    Masters.settle = settle  # type: ignore[method-assign]


def no_brake() -> None:
    """Failures are not counted."""
    from services.sinks.brake import Brake

    stumble()
    Brake._count = lambda *_: None  # type: ignore[assignment]


def no_letter() -> None:
    """What cannot go on has its standing and nothing else."""
    import services.sinks.account as account

    stumble()
    account.is_new_letter = lambda *_: False  # type: ignore[attr-defined]


def held_is_dropped() -> None:
    """What stands parked behind an open brake is not taken up again."""
    from services.sinks.waiting import Waiting

    stumble()
    Waiting._release_held = lambda *_: None  # type: ignore[method-assign]


def in_edges() -> None:
    """Row 13 runs in one process, which takes it out itself (`edges.BREAKS`)."""


BUILDS_OF_ROWS: dict[str, tuple[str, Callable[[], None]]] = {
    "stumble": ("nothing: one record meets a bug, as in every run of row 11", stumble),
    "no-brake": ("the brake: failures are not counted", no_brake),
    "no-letter": ("dead letters: what cannot go on is only marked", no_letter),
    "no-overlap": ("the overlap: polls and pages begin where the last one ended", in_edges),
    "own-clock": ("the vendor's time: the next poll asks from the bus's own", in_edges),
    "cap-ignored": ("the second look at an answer that is at its limit", in_edges),
    "held-dropped": ("the release of what stands behind a brake", held_is_dropped),
}
