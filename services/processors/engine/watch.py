"""Whether events move: Faust's own detector of stuck streams only writes a log line."""

from collections.abc import Callable, Mapping

import msgspec

ENGINE = "engine"
"""What readiness calls it."""
STALL_S = 60.0
"""Offsets that stand still so long in front of waiting events mean a stuck process."""
FETCH_AGE_S = 60.0
"""No answer to a fetch for so long means a dead fetcher or a broker that is away."""
STUCK_S = 60.0
"""Kafka and the registry answer for so long, and still nothing moves."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What the consumer stands at."""

    committed: int
    """Sum of the committed offsets."""
    open: int
    """Events delivered and not yet committed. Offsets alone cannot tell: markers and aborted records are never delivered."""
    fetched_at: float
    """Monotonic; 0 before the first fetch."""


class Watch:
    """Looks at committed offsets and fetches."""

    def __init__(self, now: Callable[[], float], *, stall_s: float = STALL_S, fetch_age_s: float = FETCH_AGE_S) -> None:
        self._now = now
        self._stall_s = stall_s
        self._fetch_age_s = fetch_age_s
        self._position = -1
        self._moved_at = now()

    def reason(self, progress: Progress) -> str | None:
        """Why nothing moves; None while it does."""
        now = self._now()
        if progress.committed != self._position or not progress.open:
            self._position, self._moved_at = progress.committed, now
        if progress.fetched_at and now - progress.fetched_at > self._fetch_age_s:
            return f"no answer to a fetch for {now - progress.fetched_at:.0f} s"
        if now - self._moved_at > self._stall_s:
            return f"{progress.open} events wait and no offset moved for {now - self._moved_at:.0f} s"
        return None


class Stuck:
    """Whether the engine stands still by itself, and not because somebody it needs is away.

    Faust may lose its way in a rebalance that begins while another one still asks for offsets, and never goes on.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._answered_since = now()

    def reason(self, unready: Mapping[str, str]) -> str | None:
        """Why it is stuck; None while it moves, or has to wait. `unready` says of each part why it is not ready."""
        now = self._now()
        if "kafka" in unready or "registry" in unready:
            self._answered_since = now
        return unready.get(ENGINE) if now - self._answered_since > STUCK_S else None
