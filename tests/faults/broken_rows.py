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


def no_echo() -> None:
    """What our own writes left is news like any other, and a write compares with nothing."""
    import msgspec

    import services.pollers.publishing as publishing

    real = publishing.judge

    def judge(*given: Any, **named: Any) -> Any:
        return msgspec.structs.replace(real(*given, **named), echo_fields=(), origin=None)

    publishing.judge = judge  # type: ignore[attr-defined]


def no_conflict() -> None:
    """Nobody looks whether the target's value was edited too."""
    import services.sinks.masters as masters

    masters.edited_at_both = lambda *_: set()  # type: ignore[attr-defined]


def registry_is_needed() -> None:
    """A service that starts while something is away ends at once."""
    from bus.runtime.service import Service

    async def wait_for(self: Service, part: str, attempt: Callable[[], Any]) -> None:
        await attempt()

    Service.wait_for = wait_for  # type: ignore[method-assign]


def no_replay() -> None:
    """A replay ends without having read anything."""
    from services.processors.replaying.running import Running

    async def nothing(self: Running, *_: Any) -> None:
        return None

    Running._partition = nothing  # type: ignore[method-assign]


def no_rebuild() -> None:
    """A poller that starts knows nothing of what was told before it."""
    from services.pollers.publishing import Seen

    def raw(self: Seen, entity: str, source_id: str) -> bytes | None:
        found = self._recent.get(self.key(entity, source_id).encode())
        return found[1] if found is not None else None

    Seen._raw = raw  # type: ignore[method-assign]
    Seen.settled = lambda *_: None  # type: ignore[method-assign]


def in_edges() -> None:
    """Row 13 runs in one process, which takes it out itself (`edges.BREAKS`)."""


BUILDS_OF_ROWS: dict[str, tuple[str, Callable[[], None]]] = {
    "stumble": ("nothing: one record meets a bug, as in every run of row 11", stumble),
    "no-brake": ("the brake: failures are not counted", no_brake),
    "no-letter": ("dead letters: what cannot go on is only marked", no_letter),
    "no-overlap": ("the overlap: polls and pages begin where the last one ended", in_edges),
    "own-clock": ("the vendor's time: the next poll asks from the bus's own", in_edges),
    "cap-ignored": ("the second look at an answer that is at its limit", in_edges),
    "no-echo": ("the echo: what our own writes left is news", no_echo),
    "no-conflict": ("the look at what the target's people edited", no_conflict),
    "registry-needed": ("the wait for a registry that is away", registry_is_needed),
    "no-replay": ("the replay for a new flow", no_replay),
    "no-rebuild": ("the rebuilding of what pollers know from its topic", no_rebuild),
    "held-dropped": ("the release of what stands behind a brake", held_is_dropped),
}
