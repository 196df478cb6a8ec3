"""Faults by plan: what goes wrong, for which call, how often."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Action = Literal["status", "reset", "timeout", "lost_reply", "half_body", "html", "delay", "body"]


@dataclass
class Fault:
    """One planned fault. `nth` counts matching calls from 1; without it the next `times` calls are hit."""

    action: Action
    method: str | None = None
    path_prefix: str = ""
    nth: int | None = None
    times: int = 1
    status: int = 500
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    met: int = 0

    @classmethod
    def parse(cls, data: dict[str, Any]) -> "Fault":
        """From the control API's JSON; unknown keys are refused."""
        return cls(**{**data.get("match", {}), **{key: value for key, value in data.items() if key != "match"}})

    def hits(self, method: str, path: str) -> bool:
        """Whether this call is the one; counts it."""
        if (self.method and self.method != method) or not path.startswith(self.path_prefix) or self.times < 1:
            return False
        self.met += 1
        if self.nth is not None and self.met < self.nth:
            return False
        self.times -= 1
        return True


class FaultPlan:
    """The faults still to come."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        """Plans faults."""
        self.faults.extend(faults)

    def clear(self) -> None:
        """Everything works again."""
        self.faults.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The fault that meets this call."""
        return next((fault for fault in self.faults if fault.hits(method, path)), None)


class FaultTransport(httpx.AsyncBaseTransport):
    """Breaks connections between a client and an in-process simulator, which cannot break them itself."""

    def __init__(self, inner: httpx.AsyncBaseTransport, plan: FaultPlan) -> None:
        self._inner = inner
        self.plan = plan

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request on, or fails as planned."""
        fault = self.plan.next(request.method, request.url.path)
        if fault is None:
            return await self._inner.handle_async_request(request)
        if fault.action == "reset":
            raise httpx.ConnectError("connection reset before the request was sent", request=request)
        if fault.action == "timeout":
            raise httpx.ReadTimeout("no answer in time", request=request)
        if fault.action == "status":
            return httpx.Response(fault.status, headers=fault.headers, content=fault.body.encode(), request=request)
        if fault.action == "html":
            return httpx.Response(
                200, headers={"content-type": "text/html"}, content=b"<html>Maintenance</html>", request=request
            )
        if fault.action == "body":
            return httpx.Response(fault.status, headers=fault.headers, content=fault.body.encode(), request=request)
        if fault.action == "delay":
            await asyncio.sleep(fault.seconds)
        response = await self._inner.handle_async_request(request)
        content = await response.aread()
        if fault.action == "lost_reply":
            raise httpx.ReadError("connection reset while waiting for the answer", request=request)
        if fault.action == "half_body":
            return httpx.Response(
                response.status_code, headers=_plain(response), content=content[: len(content) // 2], request=request
            )
        return httpx.Response(response.status_code, headers=_plain(response), content=content, request=request)


def _plain(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in ("content-length", "content-encoding")}
