"""One grant kept alive: a refresh is a write under laws 5 and 6 (law 12).

Order of operations of a refresh:
1. commit the grant as REFRESHING, with the tokens it has now: from here on a crash is visible;
2. call the vendor, which may use the refresh token up;
3. commit the new tokens as ACTIVE under the next version: only now anybody else sees them.

A REFRESHING record found at the start is a refresh that is not known to have ended: its old token is tried again until the
vendor gives a definite answer. New tokens whose commit failed stay in memory (`unsaved`) and are committed again before
anything else; the vendor is never asked twice for them.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple, Protocol

import msgspec
from pydantic import SecretStr

from bus.core.clock import Clock
from bus.core.errors import AccessRevoked, ApiChanged, TransientError
from bus.kit.auth import TokenSet
from bus.kit.manifest import Auth
from bus.runtime import logs, metrics
from bus.runtime.grants import GrantState, Login, open_grant, seal_tokens
from bus.runtime.privacy import Box
from bus.runtime.retry import wait_s
from schemas.system import GrantRecord

FOR_EVER = math.inf
LONGEST_WAIT_S = 60.0
"""Between attempts while the vendor is away: an access token lives minutes, not hours."""

ANNOUNCEMENTS_MAX = 3
FRESH_MS = 5_000
"""How old a commit may be for its grant to be ours still: a group gives a silent process's slot away after more than that."""
AGAIN_S = 5.0

log = logging.getLogger(__name__)


class TokenDesk(Protocol):
    """The vendor's token endpoint (bus.kit.auth.OAuth2)."""

    async def exchange(self, code: str, redirect_uri: str) -> TokenSet:
        """The first tokens of a login."""
        ...

    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        """The next tokens."""
        ...


class Unsaved(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens the vendor gave and Kafka has not taken yet."""

    after_version: int
    tokens: TokenSet
    requests_offset: int


class Bootstrap(NamedTuple):
    """The refresh token of a secret, and a keyed hash by which it is known again."""

    refresh_token: SecretStr
    fingerprint: str


class Keeper:
    """The grant of one connection. `step` does what is due and says how long nothing will be."""

    def __init__(
        self,
        connection: str,
        auth: Auth,
        desk: TokenDesk,
        box: Box,
        *,
        clock: Clock,
        commit: Callable[[GrantRecord], Awaitable[None]],
        record: GrantRecord | None = None,
        unsaved: Unsaved | None = None,
    ) -> None:
        self.record = record
        self.unsaved = unsaved
        self._connection = connection
        self._auth = auth
        self._desk = desk
        self._box = box
        self._clock = clock
        self._commit = commit
        self._bootstrap: Bootstrap | None = None
        self._attempt = 0
        self._tell()

    def offer(self, bootstrap: Bootstrap | None) -> None:
        """The refresh token the connection's secret holds now; it begins a grant that has none, or that waits for a login."""
        self._bootstrap = bootstrap

    async def step(self) -> float:
        """Does what is due; returns the seconds until the next step (infinite: nothing until a login).

        Raises what `commit` raises: the caller takes over anew and hands `unsaved` on.
        """
        if self.unsaved is not None and self._is_open(self.unsaved):
            await self._save(self.unsaved)
        record = self.record
        if record is None or self._is_new_bootstrap(record):
            return await self._begin()
        if record.state == GrantState.LOGIN_NEEDED:
            return FOR_EVER
        wait = 0.0 if record.state == GrantState.REFRESHING else self._due_in_s(record)
        if wait > 0:
            return wait
        if not await self._announce(record := msgspec.structs.replace(record, state=GrantState.REFRESHING)):  # 1
            return AGAIN_S
        return await self._refresh(record)

    async def login(self, login: Login, offset: int) -> None:
        """A person logged in: exchanges the code, once. A refused code leaves the grant as it is, and counts as dealt with.

        `offset` is the request's place on bus.requests. A crash between exchange and commit loses the code: the person logs in
        again.
        """
        if self.record is not None and offset < self.record.requests_offset:
            return
        logs.redact_value(login.code)
        try:
            tokens = await self._desk.exchange(login.code, login.redirect_uri)
        except (AccessRevoked, TransientError, ApiChanged) as error:
            log.error("login failed", extra={"connection": self._connection, "reason": str(error), "alert": True})
            await self._put(self._without_tokens(f"login failed: {error}", offset + 1))
            return
        self.unsaved = Unsaved(after_version=self._version(), tokens=tokens, requests_offset=offset + 1)
        await self._save(self.unsaved)
        log.info("logged in", extra={"connection": self._connection})

    # --- refreshing --------------------------------------------------------------------------------------------------------

    async def _begin(self) -> float:
        """A connection without a grant: from the refresh token of its secret, else by a login."""
        if self._bootstrap is None:
            await self._need_login("the secret has no refresh_token")
            return FOR_EVER
        now = self._clock.now()
        tokens = TokenSet(SecretStr(""), self._bootstrap.refresh_token, now, now, None)
        record = GrantRecord(
            connection=self._connection,
            state=GrantState.REFRESHING,
            sealed=seal_tokens(self._box, self._connection, tokens),
            issued_at=now,
            version=self._version(),
            requests_offset=self._offset(),
            bootstrap_hash=self._bootstrap.fingerprint,
        )
        return await self._refresh(record) if await self._announce(record) else AGAIN_S  # 1

    async def _announce(self, record: GrantRecord) -> bool:
        """Commits that a refresh begins, which proves that the grant is ours: before every call, and once more after a pause.

        A process that was frozen behind its commit may have lost the grant meanwhile, and a single-use token that is sent a
        second time ends the whole family. False: no commit is quick enough to tell. Raises what `commit` raises.
        """
        for _ in range(ANNOUNCEMENTS_MAX):
            began_ms = self._clock.boot_ms()
            await self._put(record)
            if self._clock.boot_ms() - began_ms <= FRESH_MS:
                return True
        return False

    async def _refresh(self, record: GrantRecord) -> float:
        """Steps 2 and 3, with the refresh token of a record that stands as REFRESHING."""
        try:
            tokens = await self._desk.refresh(open_grant(self._box, record).refresh_token)  # 2
        except AccessRevoked as error:
            metrics.count("bus_grant_refreshes_total", connection=self._connection, outcome="refused")
            await self._need_login(str(error))
            return FOR_EVER
        except (TransientError, ApiChanged) as error:
            self._attempt += 1
            wait = getattr(error, "retry_after_s", None) or wait_s(self._attempt, longest_s=LONGEST_WAIT_S)
            metrics.count("bus_grant_refreshes_total", connection=self._connection, outcome="waits")
            log.warning("refresh waits", extra={"connection": self._connection, "reason": str(error), "wait_s": wait})
            return float(wait)
        self._attempt = 0
        self.unsaved = Unsaved(after_version=record.version, tokens=tokens, requests_offset=record.requests_offset)
        await self._save(self.unsaved)  # 3
        metrics.count("bus_grant_refreshes_total", connection=self._connection, outcome="refreshed")
        return self._due_in_s(self.record) if self.record is not None else 0.0

    async def _save(self, unsaved: Unsaved) -> None:
        """Step 3: makes new tokens durable and, by that, visible."""
        tokens = unsaved.tokens
        for token in (tokens.access_token, tokens.refresh_token):
            logs.redact_value(token)
        await self._put(
            GrantRecord(
                connection=self._connection,
                state=GrantState.ACTIVE,
                sealed=seal_tokens(self._box, self._connection, tokens),
                expires_at=tokens.expires_at,
                issued_at=tokens.issued_at,
                version=unsaved.after_version + 1,
                requests_offset=unsaved.requests_offset,
                bootstrap_hash=self.record.bootstrap_hash if self.record is not None else None,
            )
        )
        self.unsaved = None

    async def _need_login(self, why: str) -> None:
        """Pauses this connection only, and alerts once: the record says it from now on."""
        await self._put(self._without_tokens(why, self._offset(), paused=True))
        log.error("a person must log in", extra={"connection": self._connection, "reason": why, "alert": True})

    # --- the record --------------------------------------------------------------------------------------------------------

    def _without_tokens(self, detail: str, requests_offset: int, *, paused: bool = False) -> GrantRecord:
        """The record as it is, with a remark; paused or new, it waits for a login."""
        record = self.record or GrantRecord(
            connection=self._connection, state=GrantState.LOGIN_NEEDED, sealed=b"", issued_at=self._clock.now(), version=0
        )
        state = GrantState.LOGIN_NEEDED if paused else record.state
        return msgspec.structs.replace(record, state=state, detail=logs.redacted(detail), requests_offset=requests_offset)

    async def _put(self, record: GrantRecord) -> None:
        await self._commit(record)
        self.record = record
        self._tell()

    def _version(self) -> int:
        return self.record.version if self.record is not None else 0

    def _offset(self) -> int:
        return self.record.requests_offset if self.record is not None else 0

    def _is_open(self, unsaved: Unsaved) -> bool:
        """Whether saved tokens would still be news: an unclear commit may have come through."""
        if self._version() > unsaved.after_version:
            self.unsaved = None
        return self.unsaved is not None

    def _is_new_bootstrap(self, record: GrantRecord) -> bool:
        """Whether an operator put another refresh token into the secret of a grant that waits for a login."""
        if record.state != GrantState.LOGIN_NEEDED or self._bootstrap is None:
            return False
        return record.bootstrap_hash != self._bootstrap.fingerprint

    def _due_in_s(self, record: GrantRecord) -> float:
        """Seconds until the vendor takes a refresh and the token nears its end, whichever is later."""
        expires_at = record.expires_at or record.issued_at
        due = max(
            record.issued_at + timedelta(seconds=self._auth.refresh_not_before_s),
            expires_at - timedelta(seconds=self._auth.refresh_before_expiry_s),
        )
        return max(0.0, (due - self._clock.now()).total_seconds())

    def _tell(self) -> None:
        state = self.record.state if self.record is not None else ""
        for each in GrantState:
            metrics.put("bus_grants", 1 if each == state else 0, connection=self._connection, state=each.value)
        if self.record is not None and self.record.expires_at is not None:
            metrics.put("bus_grant_expires_timestamp_seconds", self.record.expires_at.timestamp(), connection=self._connection)
