"""No call above a limit, whatever the order of calls."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.clock import FrozenClock
from bus.core.errors import RateLimited
from bus.kit.budget import Budgets
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
        clock.advance(seconds)

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
