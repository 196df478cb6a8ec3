"""A refresh is a write: every crash point, every answer of the vendor, and who sees which token when."""

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.core.errors import AccessRevoked, ApiChanged, NetworkFailure, RateLimited, Unavailable
from bus.kit.auth import TokenSet
from bus.kit.manifest import Auth
from bus.runtime.grants import GrantState, Login, grants_box, open_grant
from bus.runtime.kafka import CommitUnclear
from bus.runtime.privacy import MasterKey
from schemas.system import GrantRecord
from services.grants.keeper import Bootstrap, Keeper

BOX = grants_box(MasterKey(bytes(32)))
FIRST = Bootstrap(SecretStr("refresh-first"), "hash-first")


def auth(**members: Any) -> Auth:
    facts: dict[str, Any] = {
        "kind": "oauth2",
        "authorize_url": "https://vendor.example/auth",
        "token_url": "https://vendor.example/token",
        "client_auth": "body",
        "access_token_lifetime_s": 600,
        "refresh_not_before_s": 570,
        "refresh_before_expiry_s": 60,
        "refresh_token_rotates": True,
        "refresh_token_lifetime_s": 30 * 86_400,
    }
    return Auth(**(facts | members))


class Crash(BaseException):
    """The process dies here."""


class Vendor:
    """Rotates single-use refresh tokens and refuses a refresh before its time, as the strictest vendor does."""

    def __init__(self, clock: FrozenClock, not_before_s: int = 570) -> None:
        self.clock = clock
        self.not_before_s = not_before_s
        self.valid = "refresh-first"
        self.issued_at: Any = None
        self.calls: list[str] = []
        self.answers: list[BaseException] = []
        self.die_after: int | None = None
        """Dies after this many calls have been answered, before the answer is read."""
        self.grace = False
        """Whether a used refresh token is still taken."""

    def issue(self) -> TokenSet:
        number = len(self.calls)
        self.valid = f"refresh-{number}"
        self.issued_at = now = self.clock.now()
        return TokenSet(SecretStr(f"access-{number}"), SecretStr(self.valid), now + timedelta(seconds=600), now, None)

    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        self.calls.append(refresh_token.get_secret_value())
        if self.answers:
            raise self.answers.pop(0)
        if refresh_token.get_secret_value() != self.valid and not self.grace:
            raise AccessRevoked("token endpoint refuses the grant: 400 invalid_grant")
        if self.issued_at is not None and (self.clock.now() - self.issued_at).total_seconds() < self.not_before_s:
            raise RateLimited("token endpoint: too early", retry_after_s=10)
        tokens = self.issue()
        if self.die_after == len(self.calls):
            raise Crash
        return tokens

    async def exchange(self, code: str, redirect_uri: str) -> TokenSet:
        self.calls.append(code)
        if self.answers:
            raise self.answers.pop(0)
        return self.issue()


class World:
    """One vendor, one topic, and as many lives of the keeper as it takes."""

    def __init__(self, **members: Any) -> None:
        self.clock = FrozenClock()
        self.auth = auth(**members)
        self.vendor = Vendor(self.clock, self.auth.refresh_not_before_s)
        self.log: list[GrantRecord] = []
        self.fails: dict[int, BaseException] = {}
        """By number of the commit (from 1): raised instead of committing."""
        self.lost_answers: set[int] = set()
        """Commits that come through although they raise."""
        self.commits = 0

    async def commit(self, record: GrantRecord) -> None:
        self.commits += 1
        if self.commits in self.fails:
            if self.commits in self.lost_answers:
                self.log.append(record)
            raise self.fails[self.commits]
        self.log.append(record)

    def keeper(self, bootstrap: Bootstrap | None = FIRST, **members: Any) -> Keeper:
        record = self.log[-1] if self.log else None
        made = Keeper("books", self.auth, self.vendor, BOX, clock=self.clock, commit=self.commit, record=record, **members)
        made.offer(bootstrap)
        return made

    def states(self) -> list[tuple[str, int]]:
        return [(record.state, record.version) for record in self.log]

    def tokens(self) -> TokenSet:
        return open_grant(BOX, self.log[-1])


async def active(**members: Any) -> tuple[World, Keeper]:
    world = World(**members)
    keeper = world.keeper()
    await keeper.step()
    return world, keeper


async def test_a_grant_begins_with_the_refresh_token_of_the_secret() -> None:
    world, _ = await active()
    assert world.states() == [("REFRESHING", 0), ("ACTIVE", 1)]
    assert world.vendor.calls == ["refresh-first"]
    assert world.tokens().access_token.get_secret_value() == "access-1"
    assert world.tokens().refresh_token.get_secret_value() == "refresh-1"


async def test_nothing_readable_stands_on_the_topic() -> None:
    world, _ = await active()
    assert all(b"access" not in record.sealed and b"refresh" not in record.sealed for record in world.log)


async def test_a_refresh_waits_for_the_vendors_gate_to_the_second() -> None:
    world, keeper = await active()
    assert await keeper.step() == 570
    world.clock.advance(569)
    assert await keeper.step() == 1
    assert len(world.vendor.calls) == 1
    world.clock.advance(1)
    assert await keeper.step() == 570
    assert world.vendor.calls == ["refresh-first", "refresh-1"]
    assert world.states()[2:] == [("REFRESHING", 1), ("ACTIVE", 2)]


async def test_without_a_gate_the_refresh_comes_before_the_expiry() -> None:
    _, keeper = await active(refresh_not_before_s=0, access_token_lifetime_s=600)
    assert await keeper.step() == 540


async def test_while_refreshing_others_still_see_the_old_tokens() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    await keeper.step()
    refreshing = world.log[2]
    assert refreshing.state == GrantState.REFRESHING
    assert open_grant(BOX, refreshing).access_token.get_secret_value() == "access-1"
    assert refreshing.expires_at == world.log[1].expires_at


# --- crashes -----------------------------------------------------------------------------------------------------------------


async def dies(world: World, keeper: Keeper) -> None:
    with pytest.raises(Crash):
        await keeper.step()


async def test_a_crash_before_the_intent_changes_nothing() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.fails[3] = Crash()
    await dies(world, keeper)
    assert len(world.vendor.calls) == 1
    assert await world.keeper().step() == 570
    assert world.states()[-1] == ("ACTIVE", 2)


async def test_a_crash_between_intent_and_call_tries_the_old_token_once() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.fails[3] = Crash()
    world.lost_answers = {3}
    await dies(world, keeper)
    assert world.states()[-1] == ("REFRESHING", 1)
    assert await world.keeper().step() == 570
    assert world.vendor.calls == ["refresh-first", "refresh-1"]
    assert world.states()[-2:] == [("REFRESHING", 1), ("ACTIVE", 2)]


@pytest.mark.parametrize("grace", [True, False])
async def test_a_crash_between_refresh_and_store_tries_the_old_token_once(grace: bool, caplog: pytest.LogCaptureFixture) -> None:
    world, keeper = await active(refresh_not_before_s=0)
    world.clock.advance(570)
    world.vendor.grace = grace
    world.vendor.die_after = 2
    await dies(world, keeper)
    assert world.states()[-1] == ("REFRESHING", 1)
    second = world.keeper()
    with caplog.at_level(logging.ERROR):
        await second.step()
        for _ in range(3):
            await second.step()
    assert world.vendor.calls[1:] == ["refresh-1", "refresh-1"]
    if grace:
        assert world.states()[-1] == ("ACTIVE", 2)
        assert world.tokens().access_token.get_secret_value() == "access-3"
        assert caplog.text == ""
    else:
        assert world.states()[-1] == ("LOGIN_NEEDED", 1)
        assert caplog.text.count("a person must log in") == 1


async def test_a_crash_after_the_store_uses_the_new_token() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.fails[4] = Crash()
    world.lost_answers = {4}
    await dies(world, keeper)
    assert world.states()[-1] == ("ACTIVE", 2)
    assert await world.keeper().step() == 570
    assert world.vendor.calls == ["refresh-first", "refresh-1"]


async def test_a_crash_while_beginning_tries_the_secrets_token_again() -> None:
    world = World()
    world.fails[1] = Crash()
    world.lost_answers = {1}
    await dies(world, world.keeper())
    assert world.states() == [("REFRESHING", 0)]
    await world.keeper().step()
    assert world.states()[-1] == ("ACTIVE", 1)


@pytest.mark.parametrize("came_through", [True, False])
async def test_new_tokens_whose_commit_is_unclear_are_committed_again_and_never_asked_for_twice(came_through: bool) -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.fails[4] = CommitUnclear("no answer")
    world.lost_answers = {4} if came_through else set()
    with pytest.raises(CommitUnclear):
        await keeper.step()
    assert keeper.unsaved is not None
    after_takeover = world.keeper(unsaved=keeper.unsaved)
    assert await after_takeover.step() == 570
    assert world.states() == [("REFRESHING", 0), ("ACTIVE", 1), ("REFRESHING", 1), ("ACTIVE", 2)]
    assert world.vendor.calls == ["refresh-first", "refresh-1"]
    assert world.tokens().refresh_token.get_secret_value() == "refresh-2"
    assert after_takeover.unsaved is None


# --- answers of the vendor ---------------------------------------------------------------------------------------------------


async def test_too_early_waits_as_long_as_the_vendor_says_and_keeps_the_grant() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.vendor.answers = [RateLimited("token endpoint: too early", retry_after_s=10)]
    assert await keeper.step() == 10
    assert world.states()[-1] == ("REFRESHING", 1)
    world.clock.advance(10)
    assert await keeper.step() == 570
    assert world.states()[-1] == ("ACTIVE", 2)


@pytest.mark.parametrize("answer", [NetworkFailure("reset"), Unavailable("503"), ApiChanged("no token set")])
async def test_an_unclear_refresh_stays_open_and_is_tried_with_the_old_token(answer: Exception) -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.vendor.answers = [answer]
    wait = await keeper.step()
    assert 1 <= wait <= 60
    assert world.states()[-1] == ("REFRESHING", 1)
    world.clock.advance(wait)
    await keeper.step()
    assert world.vendor.calls[1:] == ["refresh-1", "refresh-1"]
    assert world.states()[-1] == ("ACTIVE", 2)


async def test_a_revoked_grant_needs_a_login_alerts_once_and_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.vendor.answers = [AccessRevoked("token endpoint refuses the grant: 400 invalid_grant")]
    with caplog.at_level(logging.ERROR):
        waits = [await keeper.step() for _ in range(5)]
        waits += [await world.keeper().step() for _ in range(2)]
    assert waits == [math.inf] * 7
    assert len(world.vendor.calls) == 2
    assert caplog.text.count("a person must log in") == 1
    assert world.log[-1].detail == "token endpoint refuses the grant: 400 invalid_grant"


async def test_a_connection_without_any_token_needs_a_login() -> None:
    world = World()
    assert await world.keeper(None).step() == math.inf
    assert world.states() == [("LOGIN_NEEDED", 0)]
    assert world.vendor.calls == []


async def test_another_refresh_token_in_the_secret_begins_anew() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.vendor.answers = [AccessRevoked("invalid_grant")]
    await keeper.step()
    keeper.offer(FIRST)
    assert await keeper.step() == math.inf
    world.vendor.valid = "refresh-by-hand"
    keeper.offer(Bootstrap(SecretStr("refresh-by-hand"), "hash-by-hand"))
    assert await keeper.step() == 570
    assert world.states()[-1] == ("ACTIVE", 2)
    assert world.log[-1].bootstrap_hash == "hash-by-hand"


# --- logins ------------------------------------------------------------------------------------------------------------------

LOGIN = Login(code="the-code", redirect_uri="https://bus.example/cb")


async def test_a_login_makes_the_grant_active_and_is_used_once() -> None:
    world = World()
    keeper = world.keeper(None)
    await keeper.step()
    await keeper.login(LOGIN, 7)
    assert world.states()[-1] == ("ACTIVE", 1)
    assert world.log[-1].requests_offset == 8
    for again in (keeper, world.keeper(None)):
        await again.login(LOGIN, 7)
    assert world.vendor.calls == ["the-code"]
    assert await keeper.step() == 570


async def test_a_refused_code_leaves_an_active_grant_as_it_is() -> None:
    world, keeper = await active()
    world.vendor.answers = [AccessRevoked("invalid_grant")]
    await keeper.login(LOGIN, 3)
    assert world.states()[-1] == ("ACTIVE", 1)
    assert world.tokens().access_token.get_secret_value() == "access-1"
    assert (world.log[-1].requests_offset, "login failed" in (world.log[-1].detail or "")) == (4, True)
    await world.keeper().login(LOGIN, 3)
    assert len(world.vendor.calls) == 2


async def test_a_login_ends_a_wait_for_one() -> None:
    world, keeper = await active()
    world.clock.advance(570)
    world.vendor.answers = [AccessRevoked("invalid_grant")]
    await keeper.step()
    await keeper.login(LOGIN, 0)
    assert world.states()[-1] == ("ACTIVE", 2)
    assert world.log[-1].detail is None


async def test_a_login_whose_commit_fails_is_committed_again_from_memory() -> None:
    world, keeper = await active()
    world.fails[3] = CommitUnclear("no answer")
    with pytest.raises(CommitUnclear):
        await keeper.login(LOGIN, 5)
    after = world.keeper(unsaved=keeper.unsaved)
    await after.step()
    assert world.states()[-1] == ("ACTIVE", 2)
    assert world.log[-1].requests_offset == 6
    assert world.vendor.calls == ["refresh-first", "the-code"]


def test_a_login_does_not_show_its_code() -> None:
    assert "the-code" not in repr(LOGIN)


def test_the_grant_of_another_master_key_does_not_open() -> None:
    record = GrantRecord(connection="a", state="ACTIVE", sealed=b"x" * 40, issued_at=FrozenClock().now(), version=1)
    opens: Callable[[], TokenSet] = lambda: open_grant(BOX, record)  # noqa: E731
    with pytest.raises(Exception, match="another master key"):
        opens()
