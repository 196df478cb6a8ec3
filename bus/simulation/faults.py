"""Faults by plan: what goes wrong, for which call, how often."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import httpx
from starlette.responses import Response

from bus.simulation.wire import ConnectionCut

Action = Literal["status", "reset", "refused", "timeout", "lost_reply", "half_body", "html", "delay", "hold", "body"]
HTML = "<html><body>Maintenance</body></html>"


@dataclass
class Fault:
    """One planned fault. `nth` counts matching calls from 1; without it the next `times` calls are hit.

    - `status`, `body`: `status`, `headers` and `body` instead of the vendor's answer; `html`: a page of HTML in a 200
    - `reset`: the connection is cut and the call never handled; `lost_reply`: it is cut after the call was handled
    - `timeout`: no answer until the client gives up, or for `seconds`; never handled
    - `half_body`: the first half of the answer's body
    - `delay`: `seconds` pass before the call is handled; `hold`: they pass after it was handled, before the answer leaves
    - `refused`: the connection is not taken at all; only a FaultTransport can
    """

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

    def __post_init__(self) -> None:
        """Refuses an action that does not exist."""
        if self.action not in get_args(Action):
            raise ValueError(f"{self.action!r} is no fault: {', '.join(get_args(Action))}")

    @classmethod
    def parse(cls, data: dict[str, Any]) -> "Fault":
        """From the control API's JSON; unknown keys are refused."""
        return cls(**{**data.get("match", {}), **{key: value for key, value in data.items() if key != "match"}})

    def answer(self) -> Response:
        """What is answered instead of the vendor's answer (`status`, `body`, `html`)."""
        if self.action == "html":
            return Response(HTML, 200, {"content-type": "text/html"})
        return Response(self.body, self.status, self.headers)

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
    """Breaks connections between a client and an in-process simulator, which has no socket to break.

    Faults of the simulator's own plan come out as the httpx error a socket would give; `plan` holds faults of this side, which
    the simulator's call log never sees unless the call was handled.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, plan: FaultPlan | None = None) -> None:
        self._inner = inner
        self.plan = plan or FaultPlan()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request on, or fails as planned."""
        fault = self.plan.next(request.method, request.url.path)
        if fault is None:
            return await self._forward(request)
        if fault.action in ("refused", "reset", "timeout"):
            raise _error(fault.action, request)
        if fault.action in ("status", "body", "html"):
            answer = fault.answer()
            return httpx.Response(answer.status_code, headers=answer.headers.raw, content=bytes(answer.body), request=request)
        if fault.action == "delay":
            await asyncio.sleep(fault.seconds)
        response = await self._forward(request)
        if fault.action == "hold":
            await asyncio.sleep(fault.seconds)
        if fault.action in ("delay", "hold"):
            return response
        content = await response.aread()
        if fault.action == "lost_reply":
            raise _error(fault.action, request)
        return httpx.Response(
            response.status_code, headers=_plain(response), content=content[: len(content) // 2], request=request
        )

    async def aclose(self) -> None:
        """Closes what it wraps."""
        await self._inner.aclose()

    async def _forward(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionCut as fault:
            raise _error(fault.action, request) from None


def _error(action: str, request: httpx.Request) -> httpx.TransportError:
    """The error of httpx a client meets over a socket."""
    if action == "refused":
        return httpx.ConnectError("connection refused", request=request)
    if action == "timeout":
        return httpx.ReadTimeout("no answer in time", request=request)
    return httpx.ReadError("connection reset while waiting for the answer", request=request)


def _plain(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in ("content-length", "content-encoding")}
