"""What stands between a connector and its simulator: a wire that can be listened to and tampered with, and tokens."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from pydantic import SecretStr

from bus.kit.auth import Token
from bus.simulation.tokens import TokenDesk

CALLS_MAX = 2_000
"""Calls of one check. A connector that never comes to an end must not keep the suite from its own."""

Tamper = Callable[[httpx.Request, Any], Any]
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Endless(AssertionError):
    """More calls than any check needs."""


class Wire(httpx.AsyncBaseTransport):
    """Passes calls on. `answered` may change the decoded JSON of an answer; whatever it returns is sent instead."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.asked: list[httpx.Request] = []
        self.answered: Tamper | None = None
        self.pause = False
        """Lets other calls of the same moment leave before this one is answered."""
        self.flying = 0
        self.flying_max = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if len(self.asked) > CALLS_MAX:
            raise Endless(f"{len(self.asked)} calls: this never ends")
        self.flying += 1
        self.flying_max = max(self.flying_max, self.flying)
        try:
            for _ in range(20 if self.pause else 0):
                await asyncio.sleep(0)
            response = await self._inner.handle_async_request(request)
            if self.answered is None:
                return response
            return await self._tampered(request, response, self.answered)
        finally:
            self.flying -= 1

    async def _tampered(self, request: httpx.Request, response: httpx.Response, tamper: Tamper) -> httpx.Response:
        content = await response.aread()
        try:
            body = json.loads(content, parse_float=Decimal)
        except ValueError:
            changed = content
        else:
            given = tamper(request, body)
            changed = given if isinstance(given, bytes) else _ENCODER.encode(given)
        headers = {name: value for name, value in response.headers.items() if name not in ("content-length", "content-encoding")}
        return httpx.Response(response.status_code, headers=headers, content=changed, request=request)


class DeskTokens:
    """Access tokens as the grants service hands them out: a newer one whenever the last is no longer taken."""

    def __init__(self, desk: TokenDesk, first: Token) -> None:
        self._desk = desk
        self.issued = [first]

    async def current(self) -> Token:
        return self.issued[-1]

    async def newer_than(self, version: int) -> Token:
        granted = self._desk.exchange(self._desk.code())
        assert granted is not None
        self.issued.append(Token(version + 1, SecretStr(granted.access_token), granted.expires_at))
        return self.issued[-1]
