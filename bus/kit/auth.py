"""OAuth 2.0 of a confidential client, and where access tokens come from.

Only the grants service refreshes (law 12). Everybody else asks a `TokenSource` and, when a token is no longer taken, waits for a
newer one.

The request and its answer are written out here: general OAuth libraries bring their own HTTP session, clock and token store, and
what differs between vendors (credentials in the body, a lifetime given as text, empty answers, "too early") is what they leave
open. https://www.rfc-editor.org/rfc/rfc6749#section-5
"""

import asyncio
import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import httpx
import msgspec
from pydantic import SecretStr

from bus.core.clock import Clock
from bus.core.errors import AccessRevoked, ApiChanged, BusError, NetworkFailure, RateLimited, TransientError, Unavailable
from bus.kit.classify import retry_after_s
from bus.kit.failures import TRANSLATED, translate
from bus.kit.manifest import Auth
from bus.kit.transport import USER_AGENT, is_here, pooled_transport

TOO_EARLY_S = 10.0
TIMEOUT_S = 30.0
EMPTY_WAIT_S = 1.0
AWAY = ("server_error", "temporarily_unavailable")
"""`error` members that say nothing about the grant."""


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
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        identity, secret = self._client_id.get_secret_value(), self._client_secret.get_secret_value()
        if self._auth.client_auth == "basic":
            headers["Authorization"] = "Basic " + base64.b64encode(f"{identity}:{secret}".encode()).decode()
            sent = form
        else:
            sent = {**form, "client_id": identity, "client_secret": secret}
        asked_at = self._clock.now()
        answer = await self._post(sent, headers)
        if answer.status_code != httpx.codes.OK:
            raise self._refusal(answer)
        if not answer.content and self._auth.retry_after_empty_answer:
            raise NetworkFailure("token endpoint: an empty answer", retry_after_s=EMPTY_WAIT_S)
        kept = None if self._auth.refresh_token_rotates else form.get("refresh_token")
        return self._parsed(answer, asked_at, kept)

    async def _post(self, form: dict[str, str], headers: dict[str, str]) -> httpx.Response:
        transport = self._transport or pooled_transport(1, is_proxied=not is_here(self._token_url))
        client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT_S, follow_redirects=False)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await client.post(self._token_url, data=form, headers=headers)
        except TRANSLATED as error:
            raise translate(error, "token endpoint", write=True) from None
        finally:
            if self._transport is None:
                await client.aclose()

    def _parsed(self, answer: httpx.Response, asked_at: datetime, kept: str | None) -> TokenSet:
        """The token set of a 200. A vendor that does not rotate may leave the refresh token out: the old one is `kept`."""
        try:
            body = msgspec.json.decode(answer.content)
            lifetime_s = int(body.get("expires_in") or self._auth.access_token_lifetime_s)
            access, refresh = body["access_token"], body.get("refresh_token", kept)
            refresh_s = int(body.get("x_refresh_token_expires_in") or self._auth.refresh_token_lifetime_s)
            if not (isinstance(access, str) and access and isinstance(refresh, str) and refresh):
                raise TypeError("token")
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiChanged(f"token endpoint: 200 without a token set ({type(error).__name__})") from None
        now = self._clock.now()
        return TokenSet(
            access_token=SecretStr(access),
            refresh_token=SecretStr(refresh),
            expires_at=asked_at + timedelta(seconds=lifetime_s),
            issued_at=now,
            refresh_expires_at=asked_at + timedelta(seconds=refresh_s),
        )

    def _refusal(self, answer: httpx.Response) -> BusError:
        """The class of a refused token request. Bodies are quoted by their error word only: they may echo the token.

        A grant is over only by the vendor's own word in the form of RFC 6749: a page of a proxy in between ends no consent.
        """
        body, status = _body(answer), answer.status_code
        word = body.get("error")
        word = word if isinstance(word, str) and word.isidentifier() else ""
        if _is_too_early(answer, body):
            wait_s = retry_after_s(answer.headers, self._clock)
            return RateLimited(f"token endpoint: too early: {status}", retry_after_s=TOO_EARLY_S if wait_s is None else wait_s)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or word in AWAY:
            return Unavailable(f"token endpoint: {status} {word}".rstrip())
        if word and status in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return AccessRevoked(f"token endpoint refuses the grant: {status} {word}")
        return TransientError(f"token endpoint: {status} {word}".rstrip())


def _is_too_early(answer: httpx.Response, body: Mapping[str, Any]) -> bool:
    """A refresh before its time, or one of too many: the grant is as good as before."""
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.headers.get("reason", "").startswith("TooEarly"):
        return True
    return "rate limit" in str(body.get("error_description", "")).lower()


def _body(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}
