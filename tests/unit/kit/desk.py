"""A client in front of a handler, with everything the tests turn by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.kit.auth import Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.manifest import Manifest
from tests.fakes import MANIFEST

Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Grant:
    """A grant whose every renewal is counted; `lifetime_s` of its first token may be over."""

    def __init__(self, clock: FrozenClock, lifetime_s: float = 600) -> None:
        self._clock = clock
        self.version = 1
        self.expires_at = clock.now() + timedelta(seconds=lifetime_s)
        self.renewals = 0
        self._turn = asyncio.Lock()

    async def current(self) -> Token:
        return Token(self.version, SecretStr(f"token-{self.version}"), self.expires_at)

    async def newer_than(self, version: int) -> Token:
        async with self._turn:
            await asyncio.sleep(0)
            if self.version <= version:
                self.renewals += 1
                self.version = version + 1
                self.expires_at = self._clock.now() + timedelta(seconds=600)
        return await self.current()


class Desk:
    """Client, clock, grant and what was sent."""

    def __init__(
        self, handler: Handler, *, base_url: str = "http://vendor.test/v1", lifetime_s: float = 600, **facts: Any
    ) -> None:
        self.clock = FrozenClock()
        self.grant = Grant(self.clock, lifetime_s)
        self.sent: list[httpx.Request] = []
        self.manifest = Manifest.model_validate({**MANIFEST, **facts})

        async def handle(request: httpx.Request) -> httpx.Response:
            self.sent.append(request)
            answer = handler(request)
            return answer if isinstance(answer, httpx.Response) else await answer

        self.client = VendorClient(
            self.manifest,
            connection="acme",
            base_url="http://vendor.test/v1",
            tokens=self.grant,
            budgets=Budgets(self.manifest.limits, clock=self.clock, sleep=self.sleep),
            clock=self.clock,
            transport=httpx.MockTransport(handle),
            share="write",
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def write(self, **named: Any) -> Any:
        return await self.client.call("POST", "x", json={}, purpose="write", **named)


def answers(*statuses: int, **named: Any) -> Handler:
    """One answer after the other, the last for ever."""
    left = list(statuses)
    return lambda _: httpx.Response(left.pop(0) if len(left) > 1 else left[0], **named)
