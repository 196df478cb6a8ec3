"""A vendor's limits as budgets (law 13): declared, split between polling and writing, corrected by response headers.

Going over a limit is a defect of ours, so a budget waits before the call instead of meeting a 429. Buckets start empty: what an
earlier process spent in the present window is not known, so the first call goes alone and the rest follow as its headers allow,
else as the window moves on. A day's use is restored from what was committed.
"""

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from bus.core.clock import Clock
from bus.core.errors import RateLimited
from bus.kit.manifest import ErrorLimit, Limit

LONG_WAIT_S = 120.0
"""A longer wait is handed back to the caller instead of being slept through."""
AFTER_RESET_S = 1.0
"""A call in the very second of a reset may still be refused."""
REFUSED_WAIT_S = 60.0
"""Wait after a 429 that says nothing about its end."""

Sleep = Callable[[float], Awaitable[None]]


class _Bucket:
    """One limit, as far as this process may use it."""

    def __init__(self, limit: Limit, share_pct: int, clock: Clock) -> None:
        self.limit = limit
        self._share_pct = share_pct
        self._clock = clock
        self.total = limit.calls
        self._blocked_until: datetime | None = None
        self.flying = 0
        """Calls taken whose answer has not been seen."""

    @property
    def calls_max(self) -> int:
        """Calls of a window that are ours."""
        return max(1, self.total * self._share_pct // 100)

    @property
    def is_probing(self) -> bool:
        """Whether a call in flight may tell how much is left."""
        return False

    @property
    def used(self) -> int:
        """Calls of the present window."""
        raise NotImplementedError

    def concerns(self, path: str) -> bool:
        """Whether a call to a path counts."""
        return not self.limit.paths or path.startswith(self.limit.paths)

    def wait_s(self) -> float:
        """Seconds until a call fits."""
        now = self._clock.now()
        if self._blocked_until is not None and now < self._blocked_until:
            return (self._blocked_until - now).total_seconds()
        return self._wait_s(now)

    def _wait_s(self, now: datetime) -> float:
        raise NotImplementedError

    def take(self) -> None:
        """Counts a call."""
        self.flying += 1

    def correct(self, headers: Mapping[str, str]) -> None:
        """What the vendor says wins: other clients of the same app spend from it as well."""
        self.flying = max(0, self.flying - 1)
        total = _number(headers, self.limit.limit_header)
        if total is not None and total > 0:
            self.total = total
        remaining, reset = _number(headers, self.limit.remaining_header), self._reset(headers)
        if remaining is not None and remaining <= 0 and reset is not None:
            self.block(reset + timedelta(seconds=AFTER_RESET_S))

    def block(self, until: datetime) -> None:
        """No call before its time."""
        self._blocked_until = until if self._blocked_until is None else max(until, self._blocked_until)

    def refused_wait_s(self) -> float | None:
        """How long the vendor's unexplained refusal lasts, as far as this limit can tell."""
        now = self._clock.now()
        if self._blocked_until is not None and now < self._blocked_until:
            return (self._blocked_until - now).total_seconds()
        return None

    def _reset(self, headers: Mapping[str, str]) -> datetime | None:
        """The moment a window ends; None where it is missing, over, or no moment at all."""
        value = _number(headers, self.limit.reset_header)
        if value is None:
            return None
        now = self._clock.now()
        try:
            if self.limit.reset_unit == "delta_s":
                moment = now + timedelta(seconds=value)
            else:
                moment = datetime.fromtimestamp(value / 1000 if self.limit.reset_unit == "epoch_ms" else value, UTC)
        except (OverflowError, ValueError, OSError):
            return None
        return moment if now < moment <= now + 2 * timedelta(seconds=self.limit.per_s) else None


class _Sliding(_Bucket):
    """Any span of `per_s` seconds. What came before this process is taken to have been spread evenly over the last span."""

    def __init__(self, limit: Limit, share_pct: int, clock: Clock) -> None:
        super().__init__(limit, share_pct, clock)
        self._span = timedelta(seconds=limit.per_s)
        self._started_at = clock.now()
        self._taken: deque[datetime] = deque()

    @property
    def used(self) -> int:
        self._forget(self._clock.now())
        return len(self._taken)

    def take(self) -> None:
        super().take()
        self._taken.append(self._clock.now())

    def _wait_s(self, now: datetime) -> float:
        self._forget(now)
        earlier = self._earlier(now)
        if len(self._taken) + earlier < self.calls_max:
            return 0.0
        ends = [self._taken[0] + self._span] if self._taken else []
        if earlier:
            ends.append(self._started_at + self._span * (self.calls_max - earlier) / self.calls_max)
        return max((min(ends) - now).total_seconds(), 0.001)

    def _forget(self, now: datetime) -> None:
        while self._taken and now - self._taken[0] >= self._span:
            self._taken.popleft()

    def _earlier(self, now: datetime) -> int:
        """Calls of earlier processes that still count; one less than the limit at the start."""
        gone = (now - self._started_at) * self.calls_max // self._span
        return max(0, self.calls_max - 1 - gone)


class _Fixed(_Bucket):
    """A clock minute or a UTC day."""

    def __init__(self, limit: Limit, share_pct: int, clock: Clock) -> None:
        super().__init__(limit, share_pct, clock)
        self._used = 0
        self._end = _window_end(limit, clock.now())
        self._is_known = limit.window == "utc_day"
        """A day's use is restored; a minute's is told by the first answer or over by the next minute."""
        self._left: int | None = None
        """What the vendor says is left in this window, less what was taken since."""

    @property
    def is_probing(self) -> bool:
        return not self._is_known and self.flying > 0

    @property
    def used(self) -> int:
        self._roll(self._clock.now())
        return self._used

    def restore(self, used: int) -> None:
        """Takes up what an earlier process used."""
        self._used = max(self.used, used)

    def take(self) -> None:
        super().take()
        self._used += 1
        if self._left is not None:
            self._left -= 1

    def correct(self, headers: Mapping[str, str]) -> None:
        super().correct(headers)
        self._roll(self._clock.now())
        remaining, reset = _number(headers, self.limit.remaining_header), self._reset(headers)
        if remaining is None:
            return
        if reset is not None:
            self._end = reset
        left = max(0, remaining - self.flying)
        if not self._is_known:  # the other share may be as much in the dark
            left = left * self._share_pct // 100
        self._left, self._is_known = left, True

    def refused_wait_s(self) -> float | None:
        told_s = super().refused_wait_s()
        if told_s is not None or self.limit.window != "clock_minute":
            return told_s
        now = self._clock.now()
        return (_window_end(self.limit, now) - now).total_seconds() + 2 * AFTER_RESET_S

    def _wait_s(self, now: datetime) -> float:
        self._roll(now)
        calls_max = self.calls_max if self._is_known else 1
        if self._used < calls_max and (self._left is None or self._left > 0):
            return 0.0
        return (self._end - now).total_seconds() + AFTER_RESET_S

    def _roll(self, now: datetime) -> None:
        if now >= self._end:
            self._used, self._left, self._is_known = 0, None, True
            self._end = _window_end(self.limit, now)


class Budgets:
    """All limits of one connection, as one process shares them."""

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        share_pct: int,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        """`share_pct` of each limit is ours; `quotas` are calls the vendor granted beyond the declared ones, by limit name."""
        granted = [limit.model_copy(update={"calls": (quotas or {}).get(limit.name, limit.calls)}) for limit in limits]
        self._clock = clock
        self._sleep = sleep
        self._buckets = [(_Sliding if limit.window == "sliding" else _Fixed)(limit, share_pct, clock) for limit in granted]
        self._told = asyncio.Event()
        self.waited_s = 0.0

    async def take(self, path: str, *, wait_max_s: float = LONG_WAIT_S) -> None:
        """Waits for room in every limit that concerns a path, and counts the call there.

        Raises RateLimited, with the time until there is room, when that is more than `wait_max_s` away. Every call taken is
        followed by one `correct`.
        """
        await self._room(path, wait_max_s)
        for bucket in self._concerned(path):
            bucket.take()

    async def wait(self, path: str = "", *, wait_max_s: float = LONG_WAIT_S) -> None:
        """Waits until a call would fit and counts nothing: for those who want room before they commit an intent."""
        await self._room(path, wait_max_s)

    def correct(self, headers: Mapping[str, str], path: str) -> None:
        """Takes over what the headers of an answer say; empty when there was no answer."""
        for bucket in self._concerned(path):
            bucket.correct(headers)
        self._told.set()

    def refused(self, path: str, retry_after_s: float | None) -> float:
        """A 429 came all the same: no call to that path before its time. Returns the wait, ours where the vendor gave none."""
        buckets = self._concerned(path)
        told = (bucket.refused_wait_s() for bucket in buckets)
        wait_s = retry_after_s
        if wait_s is None:
            wait_s = max((own for own in told if own is not None), default=REFUSED_WAIT_S)
        until = self._clock.now() + timedelta(seconds=wait_s)
        for bucket in buckets:
            bucket.block(until)
        return wait_s

    def used(self) -> dict[str, int]:
        """Calls in the present window, by limit."""
        return {bucket.limit.name: bucket.used for bucket in self._buckets}

    def used_today(self) -> dict[str, int]:
        """Calls of the present UTC day, by limit: what outlives a process."""
        return {bucket.limit.name: bucket.used for bucket in self._buckets if bucket.limit.window == "utc_day"}

    def restore(self, used: Mapping[str, int], day: date) -> None:
        """Takes up what an earlier process used today; shorter windows start empty."""
        if day != self._clock.now().date():
            return
        for bucket in self._buckets:
            if isinstance(bucket, _Fixed) and bucket.limit.window == "utc_day":
                bucket.restore(used.get(bucket.limit.name, 0))

    def _concerned(self, path: str) -> list[_Bucket]:
        return [bucket for bucket in self._buckets if bucket.concerns(path)]

    async def _room(self, path: str, wait_max_s: float) -> None:
        buckets, waited_s = self._concerned(path), 0.0
        while (wait_s := max((bucket.wait_s() for bucket in buckets), default=0.0)) > 0:
            if any(bucket.is_probing for bucket in buckets):
                waited_s += await self._until_told(wait_s, wait_max_s - waited_s)
                continue
            if waited_s + wait_s > wait_max_s:
                raise RateLimited(f"the budget is used up for {wait_s:.0f} s", retry_after_s=wait_s)
            await self._sleep(wait_s)
            self.waited_s += wait_s
            waited_s += wait_s

    async def _until_told(self, wait_s: float, left_s: float) -> float:
        """Waits for the answer that tells how much is left, at most until the window ends; returns the seconds waited."""
        begun = self._clock.boot_ms()
        self._told.clear()
        pause, told = asyncio.ensure_future(self._sleep(min(wait_s, left_s))), asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait({pause, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pause, told):
                task.cancel()
            await asyncio.gather(pause, told, return_exceptions=True)
        if wait_s > left_s and not self._told.is_set():
            raise RateLimited(f"the budget is not known for {wait_s:.0f} s", retry_after_s=wait_s)
        return (self._clock.boot_ms() - begun) / 1000


class ErrorBudget:
    """Errors per endpoint (manifest: `error_limit`). Stops before the vendor blocks the endpoint, calls in flight included."""

    def __init__(self, limit: ErrorLimit | None, *, share_pct: int, clock: Clock) -> None:
        self._limit = limit
        self._errors_max = max(1, limit.errors * share_pct // 100) if limit else 0
        self._clock = clock
        self._errors: dict[str, deque[datetime]] = defaultdict(deque)
        self._flying: dict[str, int] = defaultdict(int)
        self._ended = asyncio.Event()

    async def enter(self, path: str) -> None:
        """Before a call. Waits while the calls in flight could use up the rest. Raises RateLimited when there is no rest."""
        if self._limit is None:
            return
        endpoint = endpoint_of(path)
        while True:
            errors = self._recent(endpoint, self._limit)
            if len(errors) >= self._errors_max:
                end = errors[-self._errors_max] + timedelta(seconds=self._limit.per_s)
                wait_s = (end - self._clock.now()).total_seconds()
                message = f"{endpoint}: {len(errors)} errors within {self._limit.per_s} s: stopped before the vendor blocks it"
                raise RateLimited(message, retry_after_s=wait_s)
            if len(errors) + self._flying[endpoint] < self._errors_max:
                self._flying[endpoint] += 1
                return
            self._ended.clear()
            await self._ended.wait()

    def leave(self, path: str, status: int | None) -> None:
        """After a call, with its status or None where there was no answer."""
        if self._limit is None:
            return
        endpoint = endpoint_of(path)
        self._flying[endpoint] -= 1
        if status in self._limit.statuses:
            self._errors[endpoint].append(self._clock.now())
        self._ended.set()

    def _recent(self, endpoint: str, limit: ErrorLimit) -> deque[datetime]:
        errors, begin = self._errors[endpoint], self._clock.now() - timedelta(seconds=limit.per_s)
        while errors and errors[0] <= begin:
            errors.popleft()
        return errors


_KEY = re.compile(r"\(.*?\)|/(\d+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27})(?=/|$)")


def endpoint_of(path: str) -> str:
    """A path without the ids in it: numbers, GUIDs, OData keys."""
    return _KEY.sub("", path)


def _window_end(limit: Limit, now: datetime) -> datetime:
    if limit.window == "clock_minute":
        return now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _number(headers: Mapping[str, str], name: str | None) -> int | None:
    text = headers.get(name) if name else None
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None
