"""The one HTTP client of connectors. Its order is its design:

1. auth: the newest token of the connection
2. budget: room in the vendor's limits
3. send
4. body: bounded, whole, JSON with exact numbers
5. classify: status and the vendor's own words become an error of `bus.core.errors`
6. 401: once, with a newer token
7. retry: reads only; a write is repeated by whoever holds its intent

A write ends within `call_timeout_s` of its start, waits included: half of it for steps 1 and 2, the rest for the vendor. A write
that never left says so (`NetworkFailure.sent`, `RateLimited`).

Redaction is by construction: no error carries a URL's query, a body or a header, because they may hold personal data or secrets,
and nothing is logged here.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from bus.core.clock import Clock
from bus.core.errors import ApiChanged, BusError, NetworkFailure, RateLimited, TokenExpired, TransientError
from bus.kit.auth import Token, TokenSource
from bus.kit.budget import LONG_WAIT_S, Budgets, ErrorBudget, Room, Share, part_of
from bus.kit.classify import build, class_of, retry_after_s
from bus.kit.failures import TRANSLATED, translate, unreadable
from bus.kit.manifest import Manifest
from bus.kit.transport import USER_AGENT, is_here, pooled_transport

READ_TRIES_MAX = 4
CONNECT_TIMEOUT_S = 10.0

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_WHOLE = msgspec.json.Decoder(msgspec.Raw)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": USER_AGENT}
_BINARY = ("image/", "application/pdf", "application/octet-stream")
_BOM = b"\xef\xbb\xbf"
_PERSONAL = re.compile(r"[^/]*(?:@|%40)[^/]*")

T = TypeVar("T")
Purpose = Literal["read", "write"]
Classifier = Callable[["Answer"], BusError | None]


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    path: str
    write: bool

    def json(self) -> Any:
        """The decoded body; every number with a fraction or exponent is a Decimal.

        Raises ApiChanged when it is not whole JSON (Unavailable for a write, which may have happened).
        """
        try:
            return _DECODER.decode(self.body.removeprefix(_BOM))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self.unreadable() from None

    def decode(self, kind: type[T]) -> T:
        """The body as a typed value, several times faster than `json`; Decimal members take numbers exactly. Raises as `json`."""
        try:
            found: T = _decoder(kind).decode(self.body.removeprefix(_BOM))
        except msgspec.ValidationError as error:
            _, _, where = str(error).rpartition(" - at ")  # the rest of the message may quote a value
            raise unreadable(f"{self.path}: answer {self.status} differs at {where or '`$`'}", write=self.write) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self.unreadable() from None
        return found

    def unreadable(self) -> BusError:
        """What an answer is that cannot be read as JSON."""
        kind = "HTML or XML" if self.body.lstrip()[:1] == b"<" else "not whole JSON"
        return unreadable(f"{self.path}: answer {self.status} is {kind} ({len(self.body)} bytes)", write=self.write)


class _Ask(NamedTuple):
    """One call as asked for."""

    method: str
    url: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    write: bool
    decode: bool
    authorize: bool
    ends_boot_ms: float

    @property
    def purpose(self) -> Literal["read", "write"]:
        """What the call is for."""
        return "write" if self.write else "read"


_decoder: Callable[[Any], msgspec.json.Decoder[Any]] = cache(msgspec.json.Decoder)


def json_bytes(value: Any) -> bytes:
    """A JSON body; Decimals as exact numbers. A float is refused."""
    return _ENCODER.encode(_without_floats(value))


def _without_floats(value: Any) -> Any:
    if isinstance(value, float):
        raise TypeError("a float in a request body: money and quantities are Decimal")
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_floats(item) for item in value]
    return value


class Tally:
    """Calls counted for one piece of work."""

    def __init__(self) -> None:
        self.calls = 0


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextmanager
def tallied() -> Iterator[Tally]:
    """Counts the calls made within, by this task and those it starts: others that run beside it count apart."""
    tally = Tally()
    token = _TALLY.set(tally)
    try:
        yield tally
    finally:
        _TALLY.reset(token)


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
        share: Share = "poll",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_call: Callable[[str, int], None] = lambda _purpose, _status: None,
    ) -> None:
        self.manifest = manifest
        self.connection = connection
        self.base_url = base_url.rstrip("/")
        self.budgets = budgets
        self.share = share
        self.calls = 0
        """Calls made."""
        self.classifier: Classifier | None = None
        """A connector's own reading of an answer: an error, or None for success. Without it the default table decides."""
        self._errors = ErrorBudget(manifest.error_limit, part=part_of(manifest, share), clock=clock)
        self._places = manifest.concurrent_calls_max if share != "people" else 1
        self._room = Room(self._places)
        self._reads = Room(self._places)
        """Reads queue here first: few of them stand before a write, whose time runs while it waits for room."""
        self._on_call = on_call
        """Told the purpose and status of every call; 0 where no answer came."""
        self._tokens = tokens
        self._refused_version = -1
        self._clock = clock
        self._transport = transport
        self._timeouts = {"timeout": httpx.Timeout(manifest.call_timeout_s, connect=CONNECT_TIMEOUT_S).as_dict()}
        self._sleep = sleep

    async def call(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        purpose: Purpose = "read",
        decode: bool = True,
        authorize: bool = True,
        files: Any = None,
    ) -> Answer:
        """One call and its answer. Raises errors of `bus.core.errors` only.

        `decode=False` for bodies that are no JSON; what is declared as a picture or file is taken as one. `authorize=False` for
        signed URLs of other hosts, which never get the token; without it a URL must be of the connection's own host.
        """
        sent = dict(headers or {})
        if json is not None:
            content, sent["Content-Type"] = json_bytes(json), "application/json"
        url = self._url(path_or_url, authorize=authorize)
        ask = _Ask(
            method=method,
            url=url,
            path=_PERSONAL.sub("…", urlsplit(url).path),
            headers=sent,
            body={"params": params, "content": content, "files": files},
            write=purpose == "write",
            decode=decode,
            authorize=authorize,
            ends_boot_ms=self._clock.boot_ms() + self.manifest.call_timeout_s * 1000,
        )
        if ask.write:
            return await self._authorized(ask)
        async for attempt in AsyncRetrying(  # 7
            stop=stop_after_attempt(READ_TRIES_MAX),
            retry=retry_if_exception(_is_worth_waiting),
            wait=_wait_s,
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                return await self._authorized(ask)
        raise AssertionError("tenacity either returns or raises")

    def classify(self, answer: Answer) -> BusError | None:
        """The connector's own word first, then the table."""
        if self.classifier is not None:
            return self.classifier(answer)
        return self.by_status(answer)

    def by_status(self, answer: Answer, detail: str = "", code: str = "") -> BusError | None:
        """The table's word; `detail` is the vendor's own message, free of personal data, `code` its own error code."""
        kind = class_of(answer.status, write=answer.write, rows=self.manifest.errors, code=code)
        if kind is None:
            return None
        message = f"{self.manifest.name} answered {answer.status} for {answer.path}" + (f": {detail}" if detail else "")
        return build(kind, message, retry_after_s(answer.headers, self._clock))

    async def aclose(self) -> None:
        """Closes pooled connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    # --- one attempt ---------------------------------------------------------------------------------------------------------

    async def _authorized(self, ask: _Ask) -> Answer:
        try:
            return await self._once(ask)
        except TokenExpired:
            if not ask.authorize:
                raise
        return await self._once(ask)  # 6

    async def _once(self, ask: _Ask) -> Answer:
        async with nullcontext() if ask.write else self._reads, self._room:
            async with self._unsent(ask):
                token = await self._token() if ask.authorize else None  # 1
                await self._errors.enter(ask.path)
            status: int | None = None
            try:
                async with self._unsent(ask):
                    await self.budgets.take(ask.path, wait_max_s=self._patience_s(ask))  # 2
                answer = await self._exchange(ask, token)  # 3, 4
                status = answer.status
            finally:
                self._errors.leave(ask.path, status)
        error = self._judge(answer, ask)  # 5
        if error is None:
            return answer
        if isinstance(error, RateLimited):
            error.retry_after_s = self.budgets.refused(ask.path, error.retry_after_s)
        if isinstance(error, TokenExpired) and token is not None:
            self._refused_version = max(self._refused_version, token.version)
        raise error

    async def _token(self) -> Token:
        """The newest token, and never one that is known to be over: a vendor counts each 401."""
        token = await self._tokens.current()
        if token.version <= self._refused_version or token.expires_at <= self._clock.now():
            token = await self._tokens.newer_than(token.version)
        return token

    @asynccontextmanager
    async def _unsent(self, ask: _Ask) -> AsyncIterator[None]:
        """What comes before a call leaves: bounded for a write, whose failures here say that nothing was sent."""
        if not ask.write:
            yield
            return
        try:
            async with asyncio.timeout(self._patience_s(ask)):
                yield
        except RateLimited:
            raise
        except TransientError as error:
            raise NetworkFailure(str(error), retry_after_s=error.retry_after_s, sent=False) from None
        except TimeoutError:
            raise NetworkFailure(f"{ask.path}: not sent: no token or room in time", retry_after_s=1, sent=False) from None

    def _left_s(self, ask: _Ask) -> float:
        """Seconds of a write's time."""
        return (ask.ends_boot_ms - self._clock.boot_ms()) / 1000

    def _patience_s(self, ask: _Ask) -> float:
        """Seconds a call may wait before it leaves."""
        return max(0.0, self._left_s(ask) - self.manifest.call_timeout_s / 2) if ask.write else LONG_WAIT_S

    async def _exchange(self, ask: _Ask, token: Token | None) -> Answer:
        """Steps 3 and 4 of a call whose budget is taken."""
        headers: Mapping[str, str] = {}
        try:
            if ask.write and self._left_s(ask) < self.manifest.call_timeout_s / 2:
                raise NetworkFailure(f"{ask.path}: not sent: its time is over", retry_after_s=1, sent=False)
            answer = await self._send(ask, token)
            headers = answer.headers
            return answer
        finally:
            self.budgets.correct(headers, ask.path)

    async def _send(self, ask: _Ask, token: Token | None) -> Answer:
        """Straight to the transport: no redirect is followed, no cookie kept, and an `httpx.AsyncClient` costs as much again."""
        sent = {**_HEADERS, **ask.headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token.access_token.get_secret_value()}"
        timeout_s = self._left_s(ask) if ask.write else self.manifest.call_timeout_s
        self.calls += 1
        if (tally := _TALLY.get()) is not None:
            tally.calls += 1
        try:
            request = httpx.Request(ask.method, ask.url, headers=sent, extensions=self._timeouts, **ask.body)
            async with asyncio.timeout(timeout_s):
                response = await self._pool().handle_async_request(request)
                try:
                    body = await self._body(response, ask)
                finally:
                    await response.aclose()
        except TRANSLATED as error:
            self._on_call(ask.purpose, 0)
            raise translate(error, ask.path, write=ask.write) from None
        self._on_call(ask.purpose, response.status_code)
        return Answer(response.status_code, response.headers, body, ask.path, ask.write)

    async def _body(self, response: httpx.Response, ask: _Ask) -> bytes:
        chunks = bytearray()
        async for chunk in response.aiter_bytes():
            chunks += chunk
            if len(chunks) > self.manifest.body_bytes_max:
                raise unreadable(f"{ask.path}: the answer is above {self.manifest.body_bytes_max} bytes", write=ask.write)
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and "content-encoding" not in response.headers and len(chunks) < int(announced):
            raise NetworkFailure(f"{ask.path}: half an answer ({len(chunks)} of {announced} bytes)")
        return bytes(chunks)

    def _judge(self, answer: Answer, ask: _Ask) -> BusError | None:
        """The error an answer stands for. A success that is not whole JSON is none."""
        kind = answer.headers.get("content-type", "")
        if ask.decode and answer.body and 200 <= answer.status < 300 and not kind.startswith(_BINARY):
            try:
                _WHOLE.decode(answer.body.removeprefix(_BOM))
            except msgspec.DecodeError:
                return answer.unreadable()
        return self.classify(answer)

    def _url(self, path_or_url: str, *, authorize: bool) -> str:
        """The URL of a call. Raises ApiChanged for another host: a link in an answer must not lead the token away."""
        if not path_or_url.startswith(("http://", "https://")):
            return f"{self.base_url}/{path_or_url.lstrip('/')}"
        if authorize and urlsplit(path_or_url)[:2] != urlsplit(self.base_url)[:2]:
            raise ApiChanged(f"{self.manifest.name} points to another host than the connection's own")
        return path_or_url

    def _pool(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            self._transport = pooled_transport(self._places, is_proxied=not is_here(self.base_url))
        return self._transport


def _is_worth_waiting(error: BaseException) -> bool:
    """Long waits go back to the caller."""
    return isinstance(error, TransientError) and (error.retry_after_s or 0) <= LONG_WAIT_S


def _wait_s(state: RetryCallState) -> float:
    """The vendor's own wait, else a short exponential one."""
    error = state.outcome.exception() if state.outcome is not None else None
    wait_s = error.retry_after_s if isinstance(error, TransientError) else None
    return wait_s if wait_s is not None else min(8.0, 0.25 * 2**state.attempt_number)


async def gather_limited(limit: int, *work: Awaitable[T]) -> list[T]:
    """Runs awaitables side by side, at most `limit` at a time."""
    room = asyncio.Semaphore(limit)

    async def one(item: Awaitable[T]) -> T:
        async with room:
            return await item

    return list(await asyncio.gather(*(one(item) for item in work)))
