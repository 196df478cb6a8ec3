"""A vendor's limits as budgets (law 13): declared, split between polling and writing, corrected by response headers.

Going over a limit is a defect of ours, so a budget waits before the call instead of meeting a 429.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from bus.core.clock import Clock
from bus.core.errors import RateLimited
from bus.kit.manifest import Limit

LONG_WAIT_S = 120.0
"""A longer wait is handed back to the caller instead of being slept through."""
AFTER_RESET_S = 1.0
"""A call in the very second of a reset may still be refused."""


class _Bucket:
    """One limit, as far as this process may use it."""

    def __init__(self, limit: Limit, share_pct: int, clock: Clock) -> None:
        self.limit = limit
        self.calls_max = max(1, limit.calls * share_pct // 100)
        self._clock = clock
        self._taken: deque[datetime] = deque()
        self.used = 0
        self._window_end: datetime | None = None
        self._blocked_until: datetime | None = None

    def concerns(self, path: str) -> bool:
        return not self.limit.paths or path.startswith(self.limit.paths)

    def wait_s(self) -> float:
        """Seconds until a call fits."""
        now = self._clock.now()
        if self._blocked_until is not None and now < self._blocked_until:
            return (self._blocked_until - now).total_seconds()
        if self.limit.window == "sliding":
            return self._sliding_wait_s(now)
        if self._window_end is None or now >= self._window_end:
            self.used, self._window_end = 0, _window_end(self.limit, now)
        if self.used < self.calls_max:
            return 0.0
        return (self._window_end - now).total_seconds() + AFTER_RESET_S

    def _sliding_wait_s(self, now: datetime) -> float:
        span = timedelta(seconds=self.limit.per_s)
        while self._taken and now - self._taken[0] >= span:
            self._taken.popleft()
        self.used = len(self._taken)
        return 0.0 if self.used < self.calls_max else (self._taken[0] + span - now).total_seconds()

    def take(self) -> None:
        if self.limit.window == "sliding":
            self._taken.append(self._clock.now())
        self.used += 1

    def correct(self, headers: Mapping[str, str]) -> None:
        """What the vendor says wins: other clients of the same app spend from it as well."""
        remaining = _number(headers, self.limit.remaining_header)
        reset = self._reset(headers)
        if reset is not None and self.limit.window != "sliding":
            self._window_end = reset
        if remaining is not None and remaining <= 0 and reset is not None:
            self._blocked_until = reset + timedelta(seconds=AFTER_RESET_S)
        total = _number(headers, self.limit.limit_header)
        if remaining is not None and total is not None and self.limit.window != "sliding":
            self.used = max(self.used, self.calls_max - remaining) if remaining < self.calls_max - self.used else self.used

    def _reset(self, headers: Mapping[str, str]) -> datetime | None:
        value = _number(headers, self.limit.reset_header)
        if value is None:
            return None
        if self.limit.reset_unit == "delta_s":
            return self._clock.now() + timedelta(seconds=value)
        return datetime.fromtimestamp(value // 1000 if self.limit.reset_unit == "epoch_ms" else value, UTC)

    def refused(self, until: datetime) -> None:
        """The vendor throttled us all the same."""
        self._blocked_until = until


class Budgets:
    """All limits of one connection, as one process shares them."""

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        share_pct: int,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._buckets = [_Bucket(limit, share_pct, clock) for limit in limits]
        self._turn = asyncio.Lock()
        self.waited_s = 0.0

    async def take(self, path: str) -> None:
        """Waits for room in every limit that concerns a path, in turn. Raises RateLimited when the wait is long (a day's end)."""
        async with self._turn:
            buckets = [bucket for bucket in self._buckets if bucket.concerns(path)]
            while (wait_s := max((bucket.wait_s() for bucket in buckets), default=0.0)) > 0:
                if wait_s > LONG_WAIT_S:
                    raise RateLimited(f"the budget is used up for {wait_s:.0f} s", retry_after_s=wait_s)
                self.waited_s += wait_s
                await self._sleep(wait_s)
            for bucket in buckets:
                bucket.take()

    def correct(self, headers: Mapping[str, str], path: str) -> None:
        """Takes over what response headers say."""
        for bucket in self._buckets:
            if bucket.concerns(path):
                bucket.correct(headers)

    def refused(self, path: str, retry_after_s: float) -> None:
        """A 429 came: no call to that path before its time."""
        until = self._clock.now() + timedelta(seconds=retry_after_s)
        for bucket in self._buckets:
            if bucket.concerns(path):
                bucket.refused(until)

    def used(self) -> dict[str, int]:
        """Calls in the present window, by limit."""
        return {bucket.limit.name: bucket.used for bucket in self._buckets}

    def restore(self, used: Mapping[str, int], day: date) -> None:
        """Takes up what an earlier process used today; shorter windows start empty."""
        now = self._clock.now()
        if day != now.date():
            return
        for bucket in self._buckets:
            if bucket.limit.window == "utc_day":
                bucket.wait_s()
                bucket.used = max(bucket.used, used.get(bucket.limit.name, 0))


def _window_end(limit: Limit, now: datetime) -> datetime:
    if limit.window == "clock_minute":
        return now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _number(headers: Mapping[str, str], name: str | None) -> int | None:
    text = headers.get(name) if name else None
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
