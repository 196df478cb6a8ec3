"""No call above a limit, whatever the order of calls."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.clock import FrozenClock
from bus.core.errors import RateLimited
from bus.kit.budget import Budgets, endpoint_of
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


def build(*limits: Limit, share: int = 100) -> tuple[Budgets, FrozenClock]:
    clock = FrozenClock(datetime(2026, 11, 21, 9, 0, 30, tzinfo=UTC))

    async def sleep(seconds: float) -> None:
        """Sleepers side by side share the time that passes."""
        end = clock.now() + timedelta(seconds=seconds)
        await asyncio.sleep(0)
        clock.advance(max(0.0, (end - clock.now()).total_seconds()))

    return Budgets(limits, share_pct=share, clock=clock, sleep=sleep), clock


@given(gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60), share=st.sampled_from([40, 60, 100]))
async def test_no_window_ever_holds_more_calls_than_its_share(gaps: list[float], share: int) -> None:
    budgets, clock = build(MINUTE, SLIDING, share=share)
    calls: list[datetime] = []
    for gap in gaps:
        clock.advance(gap)
        await budgets.take("/x")
        calls.append(clock.now())
    for call in calls:
        minute = [c for c in calls if c.replace(second=0, microsecond=0) == call.replace(second=0, microsecond=0)]
        assert len(minute) <= 10 * share // 100
        second = [c for c in calls if 0 <= (c - call).total_seconds() < 1]
        assert len(second) <= max(1, 3 * share // 100)


@given(
    pauses=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    share=st.sampled_from([40, 60, 100]),
    workers=st.integers(1, 8),
    tells=st.booleans(),
)
async def test_no_limit_is_exceeded_by_calls_side_by_side(pauses: list[int], share: int, workers: int, tells: bool) -> None:
    """Against a vendor that counts: workers take, call, are answered, all in turn; a refused call is a defect of ours."""
    budgets, clock = build(MINUTE, SLIDING, share=share)
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
            assert vendor[minute] <= 10 * share // 100
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
    budgets = Budgets([MINUTE], share_pct=100, clock=clock, sleep=lambda _: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
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
    assert limited.value.retry_after_s == 31
    impatient = asyncio.create_task(budgets.take("/x", wait_max_s=5))
    await asyncio.sleep(0)
    budgets.correct({"left": "9", "max": "10"}, "/x")
    await impatient


async def test_of_what_is_left_after_a_restart_only_our_share_is_taken() -> None:
    budgets, clock = build(MINUTE, share=40)
    await budgets.take("/x")
    begin = clock.now()
    budgets.correct({"left": "5", "max": "10", "reset": reset_of(begin.replace(second=0))}, "/x")
    for _ in range(2):  # 40 % of 5
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
    for _ in range(11):
        await budgets.take("/x")
    assert (clock.now() - begin).total_seconds() == pytest.approx(10, abs=0.1)
    clock.advance(60)
    begin = clock.now()
    for _ in range(60):
        await budgets.take("/x")
    assert clock.now() == begin


async def test_a_raised_quota_in_the_headers_is_taken_over() -> None:
    budgets, clock = build(MINUTE, share=50)
    await budgets.take("/x")
    budgets.correct({"left": "99999", "max": "100000", "reset": reset_of(clock.now().replace(second=0))}, "/x")
    begin = clock.now()
    for _ in range(1000):
        await budgets.take("/x")
    assert clock.now() == begin


async def test_a_granted_quota_replaces_the_declared_one() -> None:
    clock = FrozenClock()
    budgets = Budgets([DAY], share_pct=100, clock=clock, quotas={"day": 2})
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
