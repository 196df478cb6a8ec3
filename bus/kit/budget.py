"""A vendor's limits as budgets (law 13): declared, split between polling, writing and people, corrected by response headers.

Going over a limit is a defect of ours, so a budget waits before the call instead of meeting a 429. The three that share a limit
are processes that do not talk: their parts are whole calls and add up to the limit, and a limit too small for three parts belongs
to one of them at a time, by the clock. What an earlier process of the same part spent is not known either, so:

- a span of seconds is waited out at the start;
- in a longer span calls come at a pace with a small burst, and a process starts without the burst: however often it is started,
  no span holds more than the part;
- of a clock minute some calls are kept for the first call of processes that start in it. Its answer tells what is left, and of
  that is taken what the others cannot use any more;
- a day's use is restored from what was committed, and told by headers.
"""

import asyncio
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Literal, TypeAlias

import msgspec

from bus.core.clock import Clock
from bus.core.errors import RateLimited
from bus.kit.manifest import ErrorLimit, Limit, Manifest

DAY_S = 86_400
LONG_WAIT_S = 120.0
"""A longer wait is handed back to the caller instead of being slept through."""
AFTER_RESET_S = 1.0
"""A call in the very second of a reset may still be refused."""
REFUSED_WAIT_S = 60.0
"""Wait after a 429 that says nothing about its end."""
CLOCKS_APART_S = 1.0
"""How far the clocks of two processes may differ where they use one limit in turns."""
SHORT_SPAN_S = 2
"""A sliding limit of so short a span is waited out when a process starts."""
BURST_PART = 5
"""One call in so many of a longer sliding limit may come at once."""
START_PART = 10
"""One call in so many of a clock minute is kept for processes that start in it."""

LOOK_AGAIN_S = 1.0
"""Who lets somebody more urgent go first is told when that one went; this is for the case that nobody tells."""

Sleep = Callable[[float], Awaitable[None]]
Share: TypeAlias = Literal["poll", "write", "people"]
SHARES: tuple[Share, ...] = ("poll", "write", "people")

priority: ContextVar[int] = ContextVar("priority", default=1)
"""How urgent the calls of this task are: lower goes first. Sinks: documents 0, customers and products 1, categories 2, stock 3;
pollers: changes 1, back-fill and resync 3, scans for deletes 4."""


class Part(msgspec.Struct, frozen=True):
    """Whose part of each limit it is."""

    share: Share | None = None
    """None: all of it."""
    polling_pct: int = 60
    reserve_pct: int = 5

    def calls(self, total: int) -> int:
        """Calls of a window of `total`. The parts of the three add up to it, or they take turns."""
        if self.share is None or self.is_in_turns(total):
            return total
        people = max(1, total * self.reserve_pct // 100)
        poll = min(max(1, total * self.polling_pct // 100), total - people - 1)
        return {"poll": poll, "write": total - people - poll, "people": people}[self.share]

    def is_in_turns(self, total: int) -> bool:
        """Whether the limit is too small for three parts."""
        return self.share is not None and total < len(SHARES)

    def turn_wait_s(self, limit: Limit, now: datetime) -> float:
        """Seconds until it is our turn at a small limit. A sliding one rests between two turns as long as its own span."""
        if self.share is None:
            return 0.0
        rest_s = limit.per_s + CLOCKS_APART_S if limit.window == "sliding" else 0.0
        turn_s = 2 * rest_s or float(limit.per_s)
        at = now.timestamp() % (turn_s * len(SHARES)) - SHARES.index(self.share) * turn_s
        if 0 <= at < turn_s - rest_s:
            return 0.0
        return -at if at < 0 else turn_s * len(SHARES) - at

    def a_day(self, limit: Limit) -> int:
        """Calls a day that can be made of it steadily."""
        calls = self.calls(limit.calls)
        if limit.window == "sliding":
            calls -= _burst(calls) - 1 if limit.per_s > SHORT_SPAN_S else 0
        else:
            calls -= _kept_for_starts(limit, calls)
        turns = (1 if limit.window != "sliding" else 2) * len(SHARES) if self.is_in_turns(limit.calls) else 1
        return calls * DAY_S // (limit.per_s * turns)


WHOLE = Part()


def part_of(manifest: Manifest, share: Share) -> Part:
    """A share of the limits of a system."""
    return Part(share, manifest.polling_share_pct, manifest.reserve_pct)


class _Bucket:
    """One limit, as far as this process may use it."""

    def __init__(self, limit: Limit, part: Part, clock: Clock) -> None:
        self.limit = limit
        self._part = part
        self._clock = clock
        self.total = limit.calls
        self._blocked_until: datetime | None = None
        self.flying = 0
        """Calls taken whose answer has not been seen."""

    @property
    def calls_max(self) -> int:
        """Calls of a window that are ours."""
        return self._part.calls(self.total)

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
        turn_s = self._part.turn_wait_s(self.limit, now) if self._part.is_in_turns(self.total) else 0.0
        return max(turn_s, self._wait_s(now))

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


class _Short(_Bucket):
    """Any span of a second or two. What came before this process is over when the first has passed."""

    def __init__(self, limit: Limit, part: Part, clock: Clock) -> None:
        super().__init__(limit, part, clock)
        self._span = timedelta(seconds=limit.per_s)
        self._begins_at = clock.now() + self._span
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
        if now < self._begins_at:
            return (self._begins_at - now).total_seconds()
        if len(self._taken) < self.calls_max:
            return 0.0
        return max((self._taken[0] + self._span - now).total_seconds(), 0.001)

    def _forget(self, now: datetime) -> None:
        while self._taken and now - self._taken[0] >= self._span:
            self._taken.popleft()


class _Paced(_Bucket):
    """Any longer span: an even pace and a small burst, which a process has to save up for first.

    The generic cell rate algorithm of ITU-T I.371: at most burst + span / interval - 1 calls in a span, whoever made them.
    """

    def __init__(self, limit: Limit, part: Part, clock: Clock) -> None:
        super().__init__(limit, part, clock)
        self._span = timedelta(seconds=limit.per_s)
        self._due_at = clock.now() + self._interval() * _burst(self.calls_max)
        self._taken: deque[datetime] = deque()

    @property
    def used(self) -> int:
        now = self._clock.now()
        while self._taken and now - self._taken[0] >= self._span:
            self._taken.popleft()
        return len(self._taken)

    def take(self) -> None:
        super().take()
        now = self._clock.now()
        self._taken.append(now)
        self._due_at = max(self._due_at, now) + self._interval()

    def _interval(self) -> timedelta:
        """Rounded up: microseconds lost here would add up to a call."""
        return self._span / (self.calls_max - _burst(self.calls_max) + 1) + timedelta(microseconds=1)

    def _wait_s(self, now: datetime) -> float:
        room_at = self._due_at - self._interval() * (_burst(self.calls_max) - 1)
        return max(0.0, (room_at - now).total_seconds())


class _Fixed(_Bucket):
    """A clock minute or a UTC day."""

    def __init__(self, limit: Limit, part: Part, clock: Clock) -> None:
        super().__init__(limit, part, clock)
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
        if not self._is_known:  # what is missing may have been ours: the others may still take all of their parts
            left = max(0, left - (self.total - self.calls_max))
        self._left, self._is_known = left, True

    def refused_wait_s(self) -> float | None:
        told_s = super().refused_wait_s()
        if told_s is not None or self.limit.window != "clock_minute":
            return told_s
        now = self._clock.now()
        return (_window_end(self.limit, now) - now).total_seconds() + 2 * AFTER_RESET_S

    def _wait_s(self, now: datetime) -> float:
        self._roll(now)
        kept = _kept_for_starts(self.limit, self.calls_max)
        calls_max = self.calls_max - kept if self._is_known else min(kept, 1)
        if self._used < calls_max and (self._left is None or self._left > 0):
            return 0.0
        return (self._end - now).total_seconds() + AFTER_RESET_S

    def _roll(self, now: datetime) -> None:
        if now >= self._end:
            self._used, self._left, self._is_known = 0, None, True
            self._end = _window_end(self.limit, now)


class _Waiter(msgspec.Struct, eq=False):
    """Somebody who waits for room."""

    rank: tuple[int, int]
    """Priority, then order of coming."""
    buckets: list[_Bucket]

    def wait_s(self) -> float:
        """Seconds until there is room, as far as the limits can tell."""
        return max((bucket.wait_s() for bucket in self.buckets), default=0.0)


class Budgets:
    """All limits of one connection, as far as one process may use them."""

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        part: Part = WHOLE,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        """`part` of each limit is ours; `quotas` are calls the vendor granted beyond the declared ones, by limit name."""
        granted = [limit.model_copy(update={"calls": (quotas or {}).get(limit.name, limit.calls)}) for limit in limits]
        self._clock = clock
        self._sleep = sleep
        self._buckets = [_kind(limit)(limit, part, clock) for limit in granted]
        self._line: list[_Waiter] = []
        self._numbers = itertools.count()
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
        self._tell()

    async def wait(self, path: str = "", *, wait_max_s: float = LONG_WAIT_S) -> None:
        """Waits until a call would fit and counts nothing: for those who want room before they commit an intent."""
        await self._room(path, wait_max_s)

    def correct(self, headers: Mapping[str, str], path: str) -> None:
        """Takes over what the headers of an answer say; empty when there was no answer."""
        for bucket in self._concerned(path):
            bucket.correct(headers)
        self._tell()

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
        waiter, waited_s = _Waiter((priority.get(), next(self._numbers)), self._concerned(path)), 0.0
        self._line.append(waiter)
        try:
            while (wait_s := waiter.wait_s()) > 0 or self._is_behind(waiter):
                left_s = wait_max_s - waited_s
                if left_s <= 0 or (wait_s > left_s and not any(bucket.is_probing for bucket in waiter.buckets)):
                    raise RateLimited(f"the budget is used up for {wait_s:.0f} s", retry_after_s=wait_s or 1.0)
                waited_s += await self._until_told(min(wait_s or LOOK_AGAIN_S, left_s))
        finally:
            self._line.remove(waiter)
            if self._line:
                self._tell()

    def _is_behind(self, waiter: _Waiter) -> bool:
        """Whether somebody more urgent, or as urgent and longer here, may go now. Who lacks room of his own stops nobody."""
        return any(other.rank < waiter.rank and other.wait_s() <= 0 for other in self._line)

    def _tell(self) -> None:
        """Something changed: everybody who waits looks again."""
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def _until_told(self, wait_s: float) -> float:
        """Waits for its time or for a change, which an answer's headers may bring; returns the seconds waited."""
        begun = self._clock.boot_ms()
        pause, told = asyncio.ensure_future(self._sleep(wait_s)), asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait({pause, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pause, told):
                task.cancel()
            await asyncio.gather(pause, told, return_exceptions=True)
        waited_s = (self._clock.boot_ms() - begun) / 1000
        self.waited_s += waited_s
        return waited_s


class Room:
    """So many at a time. Who waits is let in by priority, then in turn."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._numbers = itertools.count()

    async def __aenter__(self) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        rank = (priority.get(), next(self._numbers))
        place = self._waiting[rank] = asyncio.get_running_loop().create_future()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # let in and cancelled at once
                self._leave()
            raise
        finally:
            self._waiting.pop(rank, None)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        while self._waiting:
            place = self._waiting.pop(min(self._waiting))
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class ErrorBudget:
    """Errors per endpoint (manifest: `error_limit`). Stops before the vendor blocks the endpoint, calls in flight included."""

    def __init__(self, limit: ErrorLimit | None, *, part: Part, clock: Clock) -> None:
        self._limit = limit
        self._errors_max = part.calls(limit.errors) if limit else 0
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


def _burst(calls: int) -> int:
    """Of the calls of a longer span, those that may come at once."""
    return max(1, calls // BURST_PART)


def _kept_for_starts(limit: Limit, calls: int) -> int:
    """Of the calls of a window, those for processes that do not know yet what is left of it."""
    return max(1, calls // START_PART) if limit.window == "clock_minute" and calls > 1 else 0


def _kind(limit: Limit) -> type[_Bucket]:
    if limit.window != "sliding":
        return _Fixed
    return _Short if limit.per_s <= SHORT_SPAN_S else _Paced


def _window_end(limit: Limit, now: datetime) -> datetime:
    if limit.window == "clock_minute":
        return now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _number(headers: Mapping[str, str], name: str | None) -> int | None:
    text = headers.get(name) if name else None
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None
