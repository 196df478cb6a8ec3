"""No call above a limit, whatever the order of calls."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.core.clock import FrozenClock
from bus.core.errors import RateLimited
from bus.kit.budget import SHARES, WHOLE, Budgets, Part, Room, Share, endpoint_of, priority
from bus.kit.manifest import Limit

MINUTE = Limit(
    name="minute",
    calls=10,
    per_s=60,
    window="clock_minute",
    remaining_header="left",
    limit_header="max",
    reset_header="reset",
    reset_unit="epoch_ms",
)
DAY = Limit(name="day", calls=100, per_s=86_400, window="utc_day")
SLIDING = Limit(name="second", calls=3, per_s=1)


POLL, WRITE, PEOPLE = (Part(share) for share in SHARES)


def build(*limits: Limit, part: Part = WHOLE) -> tuple[Budgets, FrozenClock]:
    clock = FrozenClock(datetime(2026, 11, 21, 9, 0, 30, tzinfo=UTC))

    async def sleep(seconds: float) -> None:
        """Sleepers side by side share the time that passes."""
        end = clock.now() + timedelta(seconds=seconds)
        await asyncio.sleep(0)
        clock.advance(max(0.0, (end - clock.now()).total_seconds()))

    return Budgets(limits, part=part, clock=clock, sleep=sleep), clock


@given(gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60), part=st.sampled_from([WHOLE, POLL, WRITE, PEOPLE]))
async def test_no_window_ever_holds_more_calls_than_its_share(gaps: list[float], part: Part) -> None:
    budgets, clock = build(MINUTE, SLIDING, part=part)
    calls: list[datetime] = []
    for gap in gaps:
        clock.advance(gap)
        await budgets.take("/x")
        calls.append(clock.now())
    for call in calls:
        minute = [c for c in calls if c.replace(second=0, microsecond=0) == call.replace(second=0, microsecond=0)]
        assert len(minute) <= part.calls(10)
        second = [c for c in calls if 0 <= (c - call).total_seconds() < 1]
        assert len(second) <= part.calls(3)


@given(
    pauses=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    part=st.sampled_from([WHOLE, POLL, WRITE, PEOPLE]),
    workers=st.integers(1, 8),
    tells=st.booleans(),
)
async def test_no_limit_is_exceeded_by_calls_side_by_side(pauses: list[int], part: Part, workers: int, tells: bool) -> None:
    """Against a vendor that counts: workers take, call, are answered, all in turn; a refused call is a defect of ours."""
    budgets, clock = build(MINUTE, SLIDING, part=part)
    vendor: dict[datetime, int] = {}
    left = list(pauses)

    async def worker() -> None:
        while left:
            pause = left.pop()
            try:
                await budgets.take("/x")
            except RateLimited:  # two minutes are too long a wait: the caller comes again
                left.append(pause)
                continue
            minute = clock.now().replace(second=0, microsecond=0)
            vendor[minute] = vendor.get(minute, 0) + 1
            assert vendor[minute] <= part.calls(10)
            headers = {"left": str(10 - vendor[minute]), "max": "10", "reset": reset_of(minute)} if tells else {}
            await asyncio.sleep(0)
            clock.advance(pause)
            budgets.correct(headers, "/x")

    await asyncio.gather(*(worker() for _ in range(workers)))
    assert sum(vendor.values()) == len(pauses)


def reset_of(minute: datetime) -> str:
    return str(int((minute + timedelta(minutes=1)).timestamp() * 1000))


async def test_a_restart_does_not_spend_the_minute_again() -> None:
    """What came before is not known: one call goes alone, and its answer tells."""
    budgets, clock = build(MINUTE)
    await budgets.take("/x")
    budgets.correct({"left": "3", "max": "10", "reset": reset_of(clock.now().replace(second=0))}, "/x")
    begin = clock.now()
    for _ in range(3):
        await budgets.take("/x")
    assert clock.now() == begin
    await budgets.take("/x")
    assert (clock.now() - begin).total_seconds() == 31


async def test_calls_wait_for_the_first_answer_and_no_longer() -> None:
    clock = FrozenClock(datetime(2026, 11, 21, 9, 0, 30, tzinfo=UTC))
    budgets = Budgets([MINUTE], clock=clock, sleep=lambda _: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
    await budgets.take("/x")
    others = [asyncio.create_task(budgets.take("/x")) for _ in range(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in others)
    budgets.correct({"left": "9", "max": "10", "reset": reset_of(clock.now().replace(second=0))}, "/x")
    await asyncio.gather(*others)
    assert budgets.used() == {"minute": 4}


async def test_an_impatient_call_waits_for_the_first_answer_as_long_as_it_can() -> None:
    budgets, _ = build(MINUTE)
    await budgets.take("/x")
    with pytest.raises(RateLimited) as limited:
        await budgets.take("/x", wait_max_s=5)
    assert limited.value.retry_after_s == 26
    impatient = asyncio.create_task(budgets.take("/x", wait_max_s=5))
    await asyncio.sleep(0)
    budgets.correct({"left": "9", "max": "10"}, "/x")
    await impatient


async def test_of_what_is_left_after_a_restart_the_others_keep_their_parts() -> None:
    """Nobody knows whose calls are gone: they may all have been ours."""
    budgets, clock = build(MINUTE, part=POLL)
    await budgets.take("/x")
    begin = clock.now()
    budgets.correct({"left": "6", "max": "10", "reset": reset_of(begin.replace(second=0))}, "/x")
    for _ in range(2):  # 6, less the 4 of writing and people
        await budgets.take("/x")
    assert clock.now() == begin
    await budgets.take("/x")
    assert clock.now() > begin


async def test_calls_in_flight_are_taken_off_what_is_left() -> None:
    budgets, clock = build(MINUTE)
    clock.advance(60)  # a window of our own
    for _ in range(2):
        await budgets.take("/x")
    begin = clock.now()
    budgets.correct({"left": "1", "max": "10", "reset": reset_of(begin.replace(second=0))}, "/x")
    await budgets.take("/x")
    assert clock.now() > begin


async def test_a_sliding_limit_fills_at_its_own_pace_after_a_start() -> None:
    budgets, clock = build(Limit(name="minute", calls=60, per_s=60))
    begin = clock.now()
    for _ in range(49):
        await budgets.take("/x")
    assert (clock.now() - begin).total_seconds() == pytest.approx(60, abs=0.1)
    clock.advance(60)
    begin = clock.now()
    for _ in range(12):  # the burst
        await budgets.take("/x")
    assert clock.now() == begin
    await budgets.take("/x")
    assert clock.now() > begin


async def test_a_raised_quota_in_the_headers_is_taken_over() -> None:
    budgets, clock = build(MINUTE, part=POLL)
    await budgets.take("/x")
    budgets.correct({"left": "99999", "max": "100000", "reset": reset_of(clock.now().replace(second=0))}, "/x")
    begin = clock.now()
    for _ in range(1000):
        await budgets.take("/x")
    assert clock.now() == begin


async def test_a_granted_quota_replaces_the_declared_one() -> None:
    clock = FrozenClock()
    budgets = Budgets([DAY], clock=clock, quotas={"day": 2})
    await budgets.take("/x")
    await budgets.take("/x")
    with pytest.raises(RateLimited):
        await budgets.take("/x")


@pytest.mark.parametrize("reset", ["99999999999999999", "-5", "soon", "1700000000000", ""])
async def test_a_senseless_reset_is_not_believed(reset: str) -> None:
    budgets, clock = build(MINUTE)
    await budgets.take("/x")
    budgets.correct({"left": "0", "max": "10", "reset": reset}, "/x")
    begin = clock.now()
    await budgets.take("/x")
    assert (clock.now() - begin).total_seconds() == 31, "our own clock's minute holds"


async def test_waiting_takes_nothing() -> None:
    budgets, clock = build(MINUTE)
    await budgets.take("/x")
    await budgets.wait()
    assert clock.now() >= datetime(2026, 11, 21, 9, 1, tzinfo=UTC)
    assert budgets.used() == {"minute": 0}


async def test_a_refusal_holds_for_every_call_of_the_limit() -> None:
    budgets, clock = build(SLIDING)
    assert budgets.refused("/x", 30) == 30
    begin = clock.now()
    await budgets.take("/y")
    assert (clock.now() - begin).total_seconds() == 30
    assert budgets.refused("/x", None) == 60


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/api/v1/987654/crm/Accounts(guid'0a1b')", "/api/v1/crm/Accounts"),
        ("/v3/company/4620816365/invoice/33", "/v3/company/invoice"),
        ("/x/6f1a2b3c-1111-2222-3333-444455556666/lines", "/x/lines"),
        ("/v2/orders", "/v2/orders"),
    ],
)
def test_an_endpoint_is_a_path_without_ids(path: str, endpoint: str) -> None:
    assert endpoint_of(path) == endpoint


async def test_headers_correct_what_other_clients_spent() -> None:
    budgets, clock = build(MINUTE)
    reset = int(datetime(2026, 11, 21, 9, 1, tzinfo=UTC).timestamp() * 1000)
    await budgets.take("/x")
    budgets.correct({"left": "0", "max": "10", "reset": str(reset)}, "/x")
    await budgets.take("/x")
    assert clock.now() >= datetime(2026, 11, 21, 9, 1, tzinfo=UTC)


async def test_missing_headers_change_nothing() -> None:
    budgets, clock = build(MINUTE)
    budgets.correct({}, "/x")
    before = clock.now()
    await budgets.take("/x")
    assert clock.now() == before


async def test_a_days_end_is_not_slept_through() -> None:
    budgets, _ = build(DAY)
    budgets.restore({"day": 100}, datetime(2026, 11, 21, tzinfo=UTC).date())
    with pytest.raises(RateLimited) as limited:
        await budgets.take("/x")
    assert limited.value.retry_after_s is not None
    assert limited.value.retry_after_s > 3600


async def test_yesterdays_use_is_forgotten() -> None:
    budgets, _ = build(DAY)
    budgets.restore({"day": 100}, datetime(2026, 11, 20, tzinfo=UTC).date())
    await budgets.take("/x")
    assert budgets.used() == {"day": 1}


async def test_a_path_limit_concerns_its_path_only() -> None:
    budgets, clock = build(Limit(name="batch", calls=1, per_s=60, paths=("/batch",)))
    await budgets.take("/batch")
    before = clock.now()
    await budgets.take("/other")
    assert clock.now() == before


async def test_only_a_days_use_outlives_a_process() -> None:
    budgets, clock = build(SLIDING, DAY)
    await budgets.take("x")
    assert budgets.used_today() == {"day": 1}
    heir, _ = build(SLIDING, DAY)
    heir.restore(budgets.used_today(), clock.now().date())
    assert heir.used() == {"second": 0, "day": 1}


# --- three that share --------------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 6000), polling=st.integers(1, 98), reserve=st.integers(1, 50))
def test_the_parts_of_a_limit_add_up_to_it(total: int, polling: int, reserve: int) -> None:
    if polling + reserve > 99:
        return
    parts = [Part(share, polling, reserve) for share in SHARES]
    if parts[0].is_in_turns(total):
        assert total < 3
        return
    calls = [part.calls(total) for part in parts]
    assert sum(calls) == total
    assert min(calls) >= 1
    assert calls[0] <= max(1, total * polling // 100)
    assert calls[2] >= total * reserve // 100, "what is reserved for people is theirs"


SMALL = [
    Limit(name="one a second", calls=1, per_s=1),
    Limit(name="two a second", calls=2, per_s=1),
    Limit(name="three a second", calls=3, per_s=1),
    Limit(name="ten a second", calls=10, per_s=1),
    Limit(name="one a minute", calls=1, per_s=60),
    Limit(name="five a minute", calls=5, per_s=60),
    Limit(name="forty a minute", calls=40, per_s=60),
    Limit(name="one a clock minute", calls=1, per_s=60, window="clock_minute"),
    Limit(name="two a clock minute", calls=2, per_s=60, window="clock_minute"),
    Limit(name="six a clock minute", calls=6, per_s=60, window="clock_minute"),
    Limit(name="forty a clock minute", calls=40, per_s=60, window="clock_minute", remaining_header="left", limit_header="max"),
]


class Counting:
    """A vendor that counts every call in every window, sliding ones at each call."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.calls: list[datetime] = []

    def called(self, now: datetime) -> dict[str, str]:
        """Takes a call; the headers of its answer."""
        self.calls.append(now)
        if self.limit.window == "clock_minute":
            within = [
                call for call in self.calls if call.replace(second=0, microsecond=0) == now.replace(second=0, microsecond=0)
            ]
        else:
            within = [call for call in self.calls if now - call < timedelta(seconds=self.limit.per_s)]
        assert len(within) <= self.limit.calls, f"{self.limit.name}: {len(within)} calls"
        return {"left": str(self.limit.calls - len(within)), "max": str(self.limit.calls)}


@settings(max_examples=300, deadline=None)
@given(
    limit=st.sampled_from(SMALL),
    acts=st.lists(st.tuples(st.sampled_from(SHARES), st.booleans(), st.floats(0, 20)), min_size=1, max_size=80),
    late=st.floats(0, 0.9),
)
async def test_three_processes_and_their_restarts_never_exceed_a_limit(
    limit: Limit, acts: list[tuple[Share, bool, float]], late: float
) -> None:
    """Law 13: poller, sink and command line know nothing of each other, nor of those that died before them.

    Of a clock minute as many starts are harmless as are kept for them; more than that is a process that dies several times a
    minute, each after a call, with all of its part used.
    """
    clock = FrozenClock(datetime(2026, 11, 21, 9, 0, tzinfo=UTC) + timedelta(seconds=60 * late))

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        await asyncio.sleep(0)

    vendor = Counting(limit)
    lives: dict[Share, Budgets] = {}
    started: dict[tuple[Share, datetime], int] = {}
    for share, dies, pause_s in acts:
        minute = (share, clock.now().replace(second=0, microsecond=0))
        part = Part(share)
        harmless = limit.window != "clock_minute" or started.get(minute, 0) < max(1, part.calls(limit.calls) // 10)
        if share not in lives or (dies and harmless):
            lives[share] = Budgets([limit], part=part, clock=clock, sleep=sleep)
            started[minute] = started.get(minute, 0) + 1
        try:
            await lives[share].take("/x", wait_max_s=100)
        except RateLimited:
            clock.advance(pause_s)
            continue
        lives[share].correct(vendor.called(clock.now()), "/x")
        clock.advance(pause_s if dies else 0.0)


@pytest.mark.parametrize("limit", SMALL, ids=lambda limit: limit.name)
async def test_however_small_a_limit_each_of_the_three_gets_calls(limit: Limit) -> None:
    for share in SHARES:
        budgets, clock = build(limit, part=Part(share))
        begin = clock.now()
        for _ in range(3):
            await budgets.take("/x", wait_max_s=1_000)
        assert (clock.now() - begin).total_seconds() <= 4 * 6 * (limit.per_s + 2)


# --- who goes first ----------------------------------------------------------------------------------------------------------


async def test_who_waits_is_served_by_priority_then_in_turn() -> None:
    budgets, _ = build(Limit(name="second", calls=1, per_s=1))
    served: list[str] = []

    async def work(name: str, rank: int) -> None:
        priority.set(rank)
        await budgets.take("/x")
        served.append(name)

    names = [("stock", 3), ("scan", 4), ("first product", 1), ("order", 0), ("second product", 1)]
    await asyncio.gather(*(asyncio.create_task(work(*item)) for item in names))
    assert served == ["order", "first product", "second product", "stock", "scan"]


async def test_who_lacks_room_of_his_own_stops_nobody() -> None:
    budgets, clock = build(Limit(name="batch", calls=1, per_s=60, paths=("/batch",)), Limit(name="second", calls=5, per_s=1))
    clock.advance(120)
    await budgets.take("/batch")
    priority.set(0)
    urgent = asyncio.create_task(budgets.take("/batch"))
    await asyncio.sleep(0)
    priority.set(4)
    before = clock.now()
    await budgets.take("/x")
    assert (clock.now() - before).total_seconds() < 60
    await urgent


async def test_who_gives_up_holds_nobody_back() -> None:
    clock = FrozenClock()
    budgets = Budgets([MINUTE], clock=clock, sleep=lambda _: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
    await budgets.take("/x")
    priority.set(0)
    urgent = asyncio.create_task(budgets.take("/x"))
    await asyncio.sleep(0)
    priority.set(4)
    patient = asyncio.create_task(budgets.take("/x"))
    await asyncio.sleep(0)
    urgent.cancel()
    budgets.correct({"left": "9", "max": "10"}, "/x")
    await patient
    assert urgent.cancelled() or urgent.cancelling()


async def test_places_are_given_by_priority_and_never_to_one_who_left() -> None:
    room, let_in, go_on = Room(1), [], asyncio.Event()

    async def work(name: str, rank: int) -> None:
        priority.set(rank)
        async with room:
            let_in.append(name)
            await go_on.wait()

    first = asyncio.create_task(work("first", 4))
    await asyncio.sleep(0)
    others = [asyncio.create_task(work(name, rank)) for name, rank in [("late", 3), ("gone", 0), ("soon", 1)]]
    await asyncio.sleep(0)
    others[1].cancel()
    go_on.set()
    await asyncio.gather(first, *others, return_exceptions=True)
    assert let_in == ["first", "soon", "late"]
    async with room:
        let_in.append("free again")
    assert let_in[-1] == "free again"
