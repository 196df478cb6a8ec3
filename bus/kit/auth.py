"""OAuth 2.0 of a confidential client, and where access tokens come from.

Only the grants service refreshes (law 12). Everybody else asks a `TokenSource` and, when a token is no longer taken, waits for a
newer one.
"""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import httpx
import msgspec
from pydantic import SecretStr

from bus.core.clock import Clock
from bus.core.errors import AccessRevoked, ApiChanged, NetworkFailure, RateLimited, TransientError, Unavailable
from bus.kit.manifest import Auth

TOO_EARLY_S = 10.0
TIMEOUT_S = 30.0


class Token(NamedTuple):
    """An access token and the version of the grant it belongs to."""

    version: int
    access_token: SecretStr
    expires_at: datetime


class TokenSource(Protocol):
    """Where a client gets its access token."""

    async def current(self) -> Token:
        """The newest token. Raises AccessRevoked when a person must log in."""
        ...

    async def newer_than(self, version: int) -> Token:
        """Waits for a token that replaced `version`. Raises AccessRevoked or TokenExpired."""
        ...


class StaticTokens:
    """One token for ever: for tests and for tools given a token by hand."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def current(self) -> Token:
        """The token."""
        return self._token

    async def newer_than(self, version: int) -> Token:
        """There is none."""
        raise AccessRevoked(f"version {version} is the only token there is")


class TokenSet(NamedTuple):
    """What a token endpoint answered."""

    access_token: SecretStr
    refresh_token: SecretStr
    expires_at: datetime
    issued_at: datetime
    refresh_expires_at: datetime | None


class OAuth2:
    """Speaks with one vendor's token endpoint for one app."""

    def __init__(
        self,
        auth: Auth,
        *,
        token_url: str,
        client_id: SecretStr,
        client_secret: SecretStr,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._auth = auth
        self._token_url = token_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._transport = transport

    def authorize_url(self, redirect_uri: str, state: str) -> str:
        """Where a person gives consent."""
        query = {
            "client_id": self._client_id.get_secret_value(),
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "state": state,
        }
        if self._auth.scopes:
            query["scope"] = " ".join(self._auth.scopes)
        return f"{self._auth.authorize_url}?{urlencode(query)}"

    async def exchange(self, code: str, redirect_uri: str) -> TokenSet:
        """The first token set. Raises as `refresh` does."""
        return await self._ask({"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri})

    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        """A new token set.

        Raises AccessRevoked when a person must log in, RateLimited when the vendor says too early (nothing is lost),
        NetworkFailure when it is unknown whether the token was used (`sent` says whether it may have been).
        """
        return await self._ask({"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()})

    async def _ask(self, form: dict[str, str]) -> TokenSet:
        headers = {"Accept": "application/json"}
        identity, secret = self._client_id.get_secret_value(), self._client_secret.get_secret_value()
        if self._auth.client_auth == "basic":
            headers["Authorization"] = "Basic " + base64.b64encode(f"{identity}:{secret}".encode()).decode()
        else:
            form |= {"client_id": identity, "client_secret": secret}
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_S) as client:
                answer = await client.post(self._token_url, data=form, headers=headers)
        except httpx.TransportError as error:
            sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise NetworkFailure(f"token endpoint: {type(error).__name__}", sent=sent) from None
        return self._judge(answer)

    def _judge(self, answer: httpx.Response) -> TokenSet:
        if answer.status_code == httpx.codes.OK:
            if not answer.content and self._auth.retry_after_empty_answer:
                raise NetworkFailure("token endpoint: an empty answer", retry_after_s=1)
            return self._parsed(answer)
        raise _refusal(answer)

    def _parsed(self, answer: httpx.Response) -> TokenSet:
        try:
            body: Mapping[str, Any] = msgspec.json.decode(answer.content)
            lifetime_s = int(body.get("expires_in", self._auth.access_token_lifetime_s))
            access, refresh = str(body["access_token"]), str(body["refresh_token"])
            refresh_s = int(body.get("x_refresh_token_expires_in") or self._auth.refresh_token_lifetime_s)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiChanged(f"token endpoint: 200 without a token set ({type(error).__name__})") from None
        now = self._clock.now()
        return TokenSet(
            access_token=SecretStr(access),
            refresh_token=SecretStr(refresh),
            expires_at=now + timedelta(seconds=lifetime_s),
            issued_at=now,
            refresh_expires_at=now + timedelta(seconds=refresh_s),
        )


def _refusal(answer: httpx.Response) -> Exception:
    """The class of a refused token request. Bodies are quoted by their error word only: they may echo the token."""
    word = _error_word(answer)
    if answer.headers.get("reason", "").startswith("TooEarly") or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return RateLimited("token endpoint: too early", retry_after_s=TOO_EARLY_S)
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Unavailable(f"token endpoint: {answer.status_code}")
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return AccessRevoked(f"token endpoint refuses the grant: {answer.status_code} {word}")
    return TransientError(f"token endpoint: {answer.status_code} {word}")


def _error_word(answer: httpx.Response) -> str:
    try:
        body = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return ""
    word = body.get("error") if isinstance(body, dict) else None
    return word if isinstance(word, str) and word.isidentifier() else ""
