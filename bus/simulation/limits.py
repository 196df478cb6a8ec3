"""A vendor's call limits, counted as the vendor counts them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from bus.simulation.clock import SimClock

Window = Literal["sliding", "clock_minute", "utc_day"]


@dataclass
class CallLimit:
    """One limit and its use."""

    name: str
    calls: int
    window: Window
    per_s: int = 60
    used: int = 0
    resets_at: datetime | None = None
    path_part: str = ""
    """Only calls whose path contains it; empty: all."""

    def remaining(self) -> int:
        """Calls left in the window."""
        return max(0, self.calls - self.used)


class CallLimits:
    """All limits of one account. `take` counts a call and names the limit it exceeds."""

    def __init__(self, clock: SimClock, limits: list[CallLimit]) -> None:
        self._clock = clock
        self.limits = limits
        self.exceeded = 0

    def take(self, path: str = "") -> CallLimit | None:
        """Counts one call; the limit that refuses it, or None. A refused call counts against nothing."""
        now = self._clock.now()
        concerned = [limit for limit in self.limits if limit.path_part in path]
        for limit in concerned:
            if limit.resets_at is None or now >= limit.resets_at:
                limit.used, limit.resets_at = 0, _window_end(limit, now)
        for limit in concerned:
            if limit.used >= limit.calls:
                self.exceeded += 1
                return limit
        for limit in concerned:
            limit.used += 1
        return None


def _window_end(limit: CallLimit, now: datetime) -> datetime:
    if limit.window == "clock_minute":
        return now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    if limit.window == "utc_day":
        return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return now + timedelta(seconds=limit.per_s)
