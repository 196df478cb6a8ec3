"""The token desk is as strict as the strictest vendor."""

import pytest

from bus.simulation.clock import SimClock
from bus.simulation.limits import CallLimit, CallLimits
from bus.simulation.tokens import Refusal, RefreshRefused, TokenDesk


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
