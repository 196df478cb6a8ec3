"""The token desk is as strict as the strictest vendor."""

import pytest

from bus.simulation.clock import SimClock
from bus.simulation.limits import CallLimit, CallLimits
from bus.simulation.tokens import RefreshRefused, Refusal, TokenDesk


def build() -> tuple[TokenDesk, SimClock]:
    clock = SimClock()
    clock.freeze()
    return TokenDesk(clock, lifetime_s=600, refresh_lifetime_s=3600, rotates=True, not_before_s=570), clock


def refused(desk: TokenDesk, token: str) -> Refusal:
    with pytest.raises(RefreshRefused) as refusal:
        desk.refresh(token)
    return refusal.value.reason


def test_a_rotated_token_used_again_ends_its_family() -> None:
    desk, clock = build()
    first = desk.grant()
    second = desk.refresh(first.refresh_token)
    assert desk.is_valid(second.access_token)
    assert refused(desk, first.refresh_token) is Refusal.REUSED
    clock.advance(600)
    assert refused(desk, second.refresh_token) is Refusal.REVOKED
    assert not desk.is_valid(second.access_token)


def test_a_refresh_before_its_time_is_refused_and_costs_nothing() -> None:
    desk, clock = build()
    issued = desk.refresh(desk.grant().refresh_token)
    clock.advance(569)
    assert refused(desk, issued.refresh_token) is Refusal.TOO_EARLY
    clock.advance(1)
    assert desk.refresh(issued.refresh_token)


def test_an_unused_refresh_token_expires() -> None:
    desk, clock = build()
    issued = desk.grant()
    clock.advance(3601)
    assert refused(desk, issued.refresh_token) is Refusal.EXPIRED


def test_a_code_works_once() -> None:
    desk, _ = build()
    code = desk.code()
    assert desk.exchange(code)
    assert desk.exchange(code) is None


def test_a_limit_refuses_and_counts_until_its_window_ends() -> None:
    clock = SimClock()
    clock.freeze()
    limits = CallLimits(clock, [CallLimit("minute", 2, "clock_minute")])
    assert limits.take() is None
    assert limits.take() is None
    assert limits.take() is limits.limits[0]
    assert limits.exceeded == 1
    clock.advance(60)
    assert limits.take() is None


def test_an_access_token_is_taken_to_its_own_end() -> None:
    desk, clock = build()
    first = desk.refresh(desk.grant().refresh_token)
    clock.advance(570)
    second = desk.refresh(first.refresh_token)
    assert desk.is_valid(first.access_token)
    clock.advance(30)
    assert not desk.is_valid(first.access_token)
    assert desk.is_valid(second.access_token)
    desk.expire_access()
    assert not desk.is_valid(second.access_token)


def test_some_vendors_keep_a_refresh_token_for_a_day() -> None:
    clock = SimClock()
    clock.freeze()
    desk = TokenDesk(clock, lifetime_s=3600, refresh_lifetime_s=8_640_000, rotates=True, rotate_after_s=86_400)
    first = desk.grant()
    assert desk.refresh(first.refresh_token).refresh_token == first.refresh_token
    clock.advance(86_400)
    assert desk.refresh(first.refresh_token).refresh_token != first.refresh_token
    assert refused(desk, first.refresh_token) is Refusal.REUSED


def test_a_limit_may_concern_one_endpoint_only() -> None:
    clock = SimClock()
    clock.freeze()
    limits = CallLimits(clock, [CallLimit("batch", 1, "sliding", path_part="/batch"), CallLimit("all", 3, "utc_day")])
    assert limits.take("/v3/batch") is None
    refusing = limits.take("/v3/batch")
    assert refusing is not None
    assert refusing.name == "batch"
    assert limits.take("/v3/query") is None
    assert limits.take("/v3/query") is None
    refusing = limits.take("/v3/query")
    assert refusing is not None
    assert refusing.name == "all"
