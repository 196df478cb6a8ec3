"""The one HTTP client of connectors. Its order is its design:

1. auth: the newest token of the connection
2. budget: room in the vendor's limits
3. send
4. body: bounded, whole, JSON with exact numbers
5. classify: status and the vendor's own words become an error of `bus.core.errors`
6. 401: once, with a newer token
7. retry: reads only; a write is repeated by whoever holds its intent

No error carries a URL's query, a body or a header: they may hold personal data or secrets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from bus.core.clock import Clock
from bus.core.errors import ApiChanged, BusError, NetworkFailure, RateLimited, TokenExpired, TransientError
from bus.kit.auth import Token, TokenSource
from bus.kit.budget import LONG_WAIT_S, Budgets
from bus.kit.classify import DEFAULT_WAIT_S, build, class_of, retry_after_s
from bus.kit.manifest import Manifest

READ_TRIES_MAX = 4
CONNECTIONS_MAX = 8
CONNECT_TIMEOUT_S = 10.0

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)

Classifier = Callable[["Answer"], BusError | None]


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    path: str
    write: bool

    def json(self) -> Any:
        """The decoded body; every number with a fraction is a Decimal. Raises ApiChanged when it is not JSON."""
        try:
            return _DECODER.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            kind = "HTML" if self.body.lstrip()[:1] == b"<" else "not whole JSON"
            raise ApiChanged(f"{self.path}: answer {self.status} is {kind} ({len(self.body)} bytes)") from None


def json_bytes(value: Any) -> bytes:
    """A JSON body; Decimals as exact numbers. A float is refused."""
    return _ENCODER.encode(_without_floats(value))


def _without_floats(value: Any) -> Any:
    if isinstance(value, float):
        raise TypeError(f"a float ({value!r}) in a request body: money and quantities are Decimal")
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_floats(item) for item in value]
    return value


class VendorClient:
    """Calls one vendor for one connection."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        connection: str,
        base_url: str,
        tokens: TokenSource,
        budgets: Budgets,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        share: Literal["poll", "write"] = "poll",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.manifest = manifest
        self.connection = connection
        self.base_url = base_url.rstrip("/")
        self.budgets = budgets
        self.share = share
        self.calls = 0
        """Calls made, for results and benchmarks."""
        self.classifier: Classifier | None = None
        """A connector's own reading of an answer: an error, or None for success. Without it the default table decides."""
        self._tokens = tokens
        self._clock = clock
        self._transport = transport
        self._sleep = sleep
        self._client: httpx.AsyncClient | None = None

    async def call(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        purpose: Literal["read", "write"] = "read",
        files: Any = None,
    ) -> Answer:
        """One call and its answer. Raises errors of `bus.core.errors` only."""
        url = path_or_url if path_or_url.startswith(("http://", "https://")) else f"{self.base_url}/{path_or_url.lstrip('/')}"
        sent = dict(headers or {})
        if json is not None:
            content, sent["Content-Type"] = json_bytes(json), "application/json"
        request = {"params": params, "content": content, "files": files}
        if purpose == "write":
            return await self._authorized(method, url, sent, request, write=True)
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(READ_TRIES_MAX),
            retry=retry_if_exception_type(TransientError),
            wait=_wait_s,
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                return await self._authorized(method, url, sent, request, write=False)
        raise AssertionError("tenacity either returns or raises")

    async def aclose(self) -> None:
        """Closes pooled connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # --- one attempt ---------------------------------------------------------------------------------------------------------

    async def _authorized(
        self, method: str, url: str, headers: dict[str, str], request: dict[str, Any], *, write: bool
    ) -> Answer:
        token = await self._tokens.current()  # 1
        try:
            return await self._once(method, url, headers, request, token, write=write)
        except TokenExpired:
            token = await self._tokens.newer_than(token.version)  # 6
            return await self._once(method, url, headers, request, token, write=write)

    async def _once(
        self, method: str, url: str, headers: dict[str, str], request: dict[str, Any], token: Token, *, write: bool
    ) -> Answer:
        path = urlsplit(url).path
        await self.budgets.take(path)  # 2
        self.calls += 1
        sent = {"Accept": "application/json", **headers, "Authorization": f"Bearer {token.access_token.get_secret_value()}"}
        answer = await self._send(method, url, sent, request, path, write=write)  # 3, 4
        self.budgets.correct(answer.headers, path)
        error = self.classify(answer)  # 5
        if isinstance(error, RateLimited):
            self.budgets.refused(path, error.retry_after_s or DEFAULT_WAIT_S)
        if error is not None:
            raise error
        return answer

    def classify(self, answer: Answer) -> BusError | None:
        """The connector's own word first, then the table."""
        if self.classifier is not None:
            return self.classifier(answer)
        return self.by_status(answer)

    def by_status(self, answer: Answer, detail: str = "") -> BusError | None:
        """The default table's word; `detail` is the vendor's own message, free of personal data."""
        kind = class_of(answer.status, write=answer.write, rows=self.manifest.errors)
        if kind is None:
            return None
        message = f"{self.manifest.name} answered {answer.status} for {answer.path}" + (f": {detail}" if detail else "")
        return build(kind, message, retry_after_s(answer.headers, self._clock))

    async def _send(
        self, method: str, url: str, headers: dict[str, str], request: dict[str, Any], path: str, *, write: bool
    ) -> Answer:
        try:
            async with self._http().stream(method, url, headers=headers, **request) as response:
                body = await self._body(response, path)
        except httpx.TransportError as error:
            raise network_failure(error, path) from None
        except httpx.HTTPError as error:
            raise ApiChanged(f"{path}: {type(error).__name__}") from None
        return Answer(response.status_code, response.headers, body, path, write)

    async def _body(self, response: httpx.Response, path: str) -> bytes:
        chunks = bytearray()
        async for chunk in response.aiter_bytes():
            chunks += chunk
            if len(chunks) > self.manifest.body_bytes_max:
                raise ApiChanged(f"{path}: the answer is above {self.manifest.body_bytes_max} bytes")
        announced = response.headers.get("content-length")
        if announced and announced.isdigit() and "content-encoding" not in response.headers and len(chunks) < int(announced):
            raise NetworkFailure(f"{path}: half an answer ({len(chunks)} of {announced} bytes)")
        return bytes(chunks)

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            timeout = httpx.Timeout(self.manifest.call_timeout_s, connect=CONNECT_TIMEOUT_S)
            limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)
            transport = self._transport or AiohttpTransport(limits=limits)
            self._client = httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False)
        return self._client


NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


def network_failure(error: httpx.TransportError, path: str) -> NetworkFailure:
    """No whole answer; `sent` is false only where the request cannot have left."""
    return NetworkFailure(f"{path}: {type(error).__name__}", sent=not isinstance(error, NOT_SENT))


def _wait_s(state: RetryCallState) -> float:
    """The vendor's own wait, else a short exponential one; long waits go back to the caller."""
    error = state.outcome.exception() if state.outcome is not None else None
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None and wait_s > LONG_WAIT_S and error is not None:
        raise error
    return float(wait_s) if wait_s is not None else min(8.0, 0.25 * 2**state.attempt_number)


async def gather_limited(limit: int, *work: Any) -> list[Any]:
    """Runs awaitables side by side, at most `limit` at a time."""
    room = asyncio.Semaphore(limit)

    async def one(item: Any) -> Any:
        async with room:
            return await item

    return list(await asyncio.gather(*(one(item) for item in work)))
