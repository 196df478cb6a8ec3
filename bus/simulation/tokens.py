"""OAuth tokens as a vendor issues them; each simulator shapes its own token endpoint around this desk."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from bus.simulation.clock import SimClock


class Refusal(StrEnum):
    """Why a refresh is refused."""

    UNKNOWN = "unknown"
    REUSED = "reused"
    EXPIRED = "expired"
    TOO_EARLY = "too_early"
    REVOKED = "revoked"


class RefreshRefused(Exception):
    """A refused refresh; the desk's state says what else follows."""

    def __init__(self, reason: Refusal, expired_at: datetime | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired_at = expired_at


@dataclass
class Issued:
    """One pair of tokens."""

    access_token: str
    refresh_token: str
    issued_at: datetime
    expires_at: datetime
    refresh_expires_at: datetime


@dataclass
class _Family:
    current: Issued
    rotated_at: datetime
    access: dict[str, datetime] = field(default_factory=dict)
    """Access tokens and when they end: an earlier one is taken to its own end."""
    used: set[str] = field(default_factory=set)
    revoked: bool = False

    def renew(self, issued: Issued, now: datetime) -> None:
        self.current = issued
        self.access = {token: end for token, end in self.access.items() if end > now}
        self.access[issued.access_token] = issued.expires_at


class TokenDesk:
    """Issues, rotates and revokes. One family per consent; using a rotated token again revokes its family.

    `rotate_after_s`: a refresh gives a new refresh token only when the present one is at least so old.
    """

    def __init__(
        self,
        clock: SimClock,
        *,
        lifetime_s: int,
        refresh_lifetime_s: int,
        rotates: bool,
        not_before_s: int = 0,
        rotate_after_s: int = 0,
        prefix: str = "sim",
    ) -> None:
        self._clock = clock
        self._lifetime = timedelta(seconds=lifetime_s)
        self._refresh_lifetime = timedelta(seconds=refresh_lifetime_s)
        self._rotates = rotates
        self._not_before = timedelta(seconds=not_before_s)
        self._rotate_after = timedelta(seconds=rotate_after_s)
        self._prefix = prefix
        self._families: list[_Family] = []
        self._codes: set[str] = set()
        self.refreshes = 0

    def grant(self) -> Issued:
        """A new consent. Its access token counts as issued long ago, so that a first refresh is allowed at once."""
        issued = self._issue(None)
        issued.issued_at -= max(self._not_before, self._lifetime)
        issued.expires_at = self._clock.now()
        return self._join(issued)

    def code(self) -> str:
        """An authorisation code, good once."""
        code = f"{self._prefix}-code-{secrets.token_hex(8)}"
        self._codes.add(code)
        return code

    def exchange(self, code: str) -> Issued | None:
        """The pair for a code; None when the code is unknown or used."""
        if code not in self._codes:
            return None
        self._codes.discard(code)
        return self._join(self._issue(None))

    def refresh(self, refresh_token: str) -> Issued:
        """A new pair. Raises RefreshRefused."""
        now = self._clock.now()
        for family in self._families:
            if refresh_token in family.used:
                family.revoked = True
                raise RefreshRefused(Refusal.REUSED)
            if family.current.refresh_token != refresh_token:
                continue
            if family.revoked:
                raise RefreshRefused(Refusal.REVOKED)
            if now > family.current.refresh_expires_at:
                raise RefreshRefused(Refusal.EXPIRED, family.current.refresh_expires_at)
            if now < family.current.issued_at + self._not_before:
                raise RefreshRefused(Refusal.TOO_EARLY)
            self.refreshes += 1
            return self._renew(family, now)
        raise RefreshRefused(Refusal.UNKNOWN)

    def revoke_all(self) -> None:
        """The customer withdrew the consent."""
        for family in self._families:
            family.revoked = True

    def expire_access(self) -> None:
        """All access tokens are over now."""
        for family in self._families:
            family.access.clear()
            family.current.expires_at = self._clock.now()

    def is_valid(self, access_token: str) -> bool:
        """Whether an access token is taken."""
        now = self._clock.now()
        return any(not f.revoked and access_token in f.access and now < f.access[access_token] for f in self._families)

    def _join(self, issued: Issued) -> Issued:
        family = _Family(issued, self._clock.now())
        family.access[issued.access_token] = issued.expires_at
        self._families.append(family)
        return issued

    def _renew(self, family: _Family, now: datetime) -> Issued:
        kept = family.current.refresh_token
        if self._rotates and now - family.rotated_at >= self._rotate_after:
            family.used.add(kept)
            family.rotated_at = now
            family.renew(self._issue(None), now)
        else:
            family.renew(self._issue(kept), now)
        return family.current

    def _issue(self, refresh_token: str | None) -> Issued:
        now = self._clock.now()
        return Issued(
            access_token=f"{self._prefix}-access-{secrets.token_hex(16)}",
            refresh_token=refresh_token or f"{self._prefix}-refresh-{secrets.token_hex(16)}",
            issued_at=now,
            expires_at=now + self._lifetime,
            refresh_expires_at=now + self._refresh_lifetime,
        )
