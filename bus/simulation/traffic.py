"""What surrounds every vendor call of a simulator: planned faults, the guard, the call log.

Order: 1 the fault that lets nothing through; 2 the guard (token, limits); 3 the vendor's route; 4 the call log; 5 the fault that
spoils the answer. A call is logged whether or not its answer arrives.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bus.simulation.faults import Fault
from bus.simulation.wire import cut, hang

if TYPE_CHECKING:
    from bus.simulation.simulator import Simulator

CONTROL = "/_sim/"
TOUCHED = "touched"
NO_ANSWER = 0
"""Status in the call log of a call that was never handled."""

log = logging.getLogger(__name__)


class Traffic:
    """ASGI middleware around the vendor's routes; the control API passes untouched."""

    def __init__(self, app: ASGIApp, simulator: "Simulator") -> None:
        self._inner = app
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._inner(scope, receive, send)
            return
        body = await _body(receive)
        fault = self._simulator.faults.next(scope["method"], scope["path"])
        if fault is not None and await self._blocked(fault, scope, body, receive, send):  # 1
            return
        exceeded, answer = self._simulator.limits.exceeded, _Recorder()
        await self._handle(scope, body, receive, answer)  # 2, 3
        self._log(scope, body, answer.status, exceeded=self._simulator.limits.exceeded > exceeded)  # 4
        if fault is not None and fault.action == "lost_reply":  # 5
            await cut(scope, receive, fault.action)
            return
        if fault is not None and fault.action == "hold":
            await asyncio.sleep(fault.seconds)
        await answer.play(send, half=fault is not None and fault.action == "half_body")

    async def _blocked(self, fault: Fault, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Whether a fault ends the call before it is handled; a delay only puts it off."""
        match fault.action:
            case "reset" | "refused":
                self._log(scope, body, NO_ANSWER)
                await cut(scope, receive, fault.action)
            case "timeout":
                self._log(scope, body, NO_ANSWER)
                await hang(scope, receive, fault.seconds)
            case "status" | "body" | "html":
                answer = fault.answer()
                self._log(scope, body, answer.status_code)
                await answer(scope, receive, send)
            case "delay":
                await asyncio.sleep(fault.seconds)
                return False
            case _:
                return False
        return True

    async def _handle(self, scope: Scope, body: bytes, receive: Receive, answer: "_Recorder") -> None:
        scope.setdefault("state", {})
        replay = _replay(body, receive)
        refusal = self._simulator.refuse(Request(scope, replay))
        try:
            await (refusal or self._inner)(scope, replay, answer)
        except Exception:
            log.exception("the simulator of %s has a bug at %s %s", self._simulator.system, scope["method"], scope["path"])
            self._log(scope, body, 500)
            raise

    def _log(self, scope: Scope, body: bytes, status: int, *, exceeded: bool = False) -> None:
        simulator = self._simulator
        simulator.calls.add(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            status=status,
            write=simulator.is_write(Request(scope)),
            touched=scope.get("state", {}).get(TOUCHED),
            at=simulator.clock.now().isoformat(),
            body=body,
            exceeded=exceeded,
        )


class _Recorder:
    """Keeps an answer until it is decided whether it may leave."""

    def __init__(self) -> None:
        self.status = NO_ANSWER
        self._start: Any = None
        self._content = bytearray()

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self._start = message["status"], message
        else:
            self._content += message.get("body", b"")

    async def play(self, send: Send, *, half: bool) -> None:
        """Sends the answer, or the first half of its body under a length that fits."""
        content = bytes(self._content[: len(self._content) // 2] if half else self._content)
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        if content or self.status != HTTPStatus.NO_CONTENT:
            headers.append((b"content-length", str(len(content)).encode()))
        await send({**self._start, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever comes after it."""
    waiting = [body]

    async def replay() -> Any:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
