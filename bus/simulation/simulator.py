"""One simulator: a vendor's behaviour over HTTP, the faults around it, and a control API that no vendor has."""

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bus.simulation.calls import CallLog
from bus.simulation.clock import SimClock
from bus.simulation.faults import Fault, FaultPlan, FaultTransport
from bus.simulation.limits import CallLimits
from bus.simulation.tokens import TokenDesk

CONTROL = "/_sim/"


class Simulator(ABC):
    """Base of every simulator. A subclass gives routes, its state and the vendor's own words for refusals."""

    system: str
    tokens: TokenDesk
    limits: CallLimits

    def __init__(self, *, real_limits: bool = False) -> None:
        self.clock = SimClock()
        self.faults = FaultPlan()
        self.calls = CallLog()
        self.real_limits = real_limits

    # --- what a subclass gives -----------------------------------------------------------------------------------------------

    @abstractmethod
    def routes(self) -> list[Route]:
        """The vendor's routes."""

    @abstractmethod
    def info(self, base_url: str) -> dict[str, Any]:
        """`{"system", "base_url", "token_url", "config", "credentials"}` for a Connection and its secret folder."""

    @abstractmethod
    def books(self) -> dict[str, Any]:
        """Documents, customers and products of the state, in neutral form, amounts as strings."""

    @abstractmethod
    def seed(self, orders: int, seed: int) -> None:
        """Fills the state, the same for the same seed."""

    @abstractmethod
    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        """A change as a user makes it in the vendor's own screens."""

    def is_write(self, request: Request) -> bool:
        """Whether a call writes; by its method unless the vendor has queries by POST."""
        return request.method not in ("GET", "HEAD")

    def not_found(self, request: Request) -> Response:
        """The vendor's answer to an unknown route."""
        return JSONResponse({"error": "not found"}, status_code=404)

    # --- the application -----------------------------------------------------------------------------------------------------

    def app(self) -> ASGIApp:
        """Vendor routes and control API, with faults and call log around the former."""
        routes: list[BaseRoute] = [*self._control(), *self.routes()]

        async def unknown(request: Request, _error: Exception) -> Response:
            return self.not_found(request)

        inner = Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})
        return _Around(self, inner)

    def counts(self) -> dict[str, Any]:
        """Versions served and writes that succeeded."""
        return {"served": dict(self.calls.served), "written": dict(self.calls.written), "limit_exceeded": self.limits.exceeded}

    def _control(self) -> list[Route]:
        async def info(request: Request) -> Response:
            return JSONResponse(self.info(str(request.base_url).rstrip("/")))

        async def calls(request: Request) -> Response:
            return JSONResponse(self.calls.since(int(request.query_params.get("since", "0"))))

        async def counts(_request: Request) -> Response:
            return JSONResponse(self.counts())

        async def books(_request: Request) -> Response:
            return JSONResponse(self.books())

        return [
            Route(f"{CONTROL}info", info),
            Route(f"{CONTROL}calls", calls),
            Route(f"{CONTROL}counts", counts),
            Route(f"{CONTROL}books", books),
            Route(f"{CONTROL}faults", self._post(self._set_faults), methods=["POST"]),
            Route(f"{CONTROL}clock", self._post(self._set_clock), methods=["POST"]),
            Route(f"{CONTROL}seed", self._post(self._seed), methods=["POST"]),
            Route(f"{CONTROL}edit", self._post(self._edit), methods=["POST"]),
            Route(f"{CONTROL}tokens", self._post(self._set_tokens), methods=["POST"]),
        ]

    @staticmethod
    def _post(work: Callable[[dict[str, Any]], None]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                work(await request.json())
            except (KeyError, TypeError, ValueError) as error:
                return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=422)
            return JSONResponse({"done": True})

        return endpoint

    def _set_faults(self, data: dict[str, Any]) -> None:
        self.faults.clear()
        self.faults.add(*(Fault.parse(item) for item in data["faults"]))

    def _set_clock(self, data: dict[str, Any]) -> None:
        self.clock.advance(float(data["advance_s"]))

    def _seed(self, data: dict[str, Any]) -> None:
        self.seed(int(data["orders"]), int(data["seed"]))

    def _edit(self, data: dict[str, Any]) -> None:
        self.edit(data["entity"], data["id"], data["fields"])

    def _set_tokens(self, data: dict[str, Any]) -> None:
        if data.get("revoke"):
            self.tokens.revoke_all()
        if data.get("expire"):
            self.tokens.expire_access()


class _Around:
    """ASGI middleware: faults that need the connection, and the call log."""

    def __init__(self, simulator: Simulator, inner: ASGIApp) -> None:
        self._simulator = simulator
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._inner(scope, receive, send)
            return
        body = await _body(receive)
        fault = self._simulator.faults.next(scope["method"], scope["path"])
        answer = _Recorder()
        if fault is not None and fault.action in ("reset", "timeout"):
            self._log(scope, body, 0)
            await self._vanish(fault, send)
            return
        if fault is not None and fault.action in ("status", "html", "body"):
            await self._respond(scope, body, fault, receive, send)
            return
        if fault is not None and fault.action == "delay":
            await asyncio.sleep(fault.seconds)
        exceeded = self._simulator.limits.exceeded
        await self._inner(scope, _replay(body), answer)
        self._log(scope, body, answer.status, exceeded=self._simulator.limits.exceeded > exceeded)
        if fault is not None and fault.action == "lost_reply":
            await self._vanish(fault, send)
            return
        cut = fault is not None and fault.action == "half_body"
        await answer.play(send, half=cut)

    async def _respond(self, scope: Scope, body: bytes, fault: Fault, receive: Receive, send: Send) -> None:
        html = fault.action == "html"
        status = 200 if html else fault.status
        content = "<html><body>Maintenance</body></html>" if html else fault.body
        headers = {"content-type": "text/html"} if html else fault.headers
        self._log(scope, body, status)
        await Response(content, status, headers)(scope, receive, send)

    async def _vanish(self, fault: Fault, send: Send) -> None:
        """Cuts the connection: an answer announced and not given is torn down by the server."""
        if fault.action == "timeout":
            await asyncio.sleep(fault.seconds)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000000")]})
        raise ConnectionAbortedError(fault.action)

    def _log(self, scope: Scope, body: bytes, status: int, *, exceeded: bool = False) -> None:
        simulator = self._simulator
        request = Request(scope)
        simulator.calls.add(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            status=status,
            write=simulator.is_write(request),
            at=simulator.clock.now().isoformat(),
            body=body,
            exceeded=exceeded,
        )


class _Recorder:
    """Keeps an answer until it is decided whether it may leave."""

    def __init__(self) -> None:
        self.status = 0
        self._messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self._messages.append(message)

    async def play(self, send: Send, *, half: bool) -> None:
        """Sends the answer, or the first half of its body under a length that fits."""
        content = b"".join(message.get("body", b"") for message in self._messages)
        if half:
            content = content[: len(content) // 2]
        for message in self._messages:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
                await send({**message, "headers": [*headers, (b"content-length", str(len(content)).encode())]})
        await send({"type": "http.response.body", "body": content})


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _replay(body: bytes) -> Receive:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class InProcess:
    """A simulator behind httpx without a socket, for contract tests."""

    base_url = "http://simulator.test"

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.broken = FaultPlan()
        self.transport = FaultTransport(httpx.ASGITransport(app=simulator.app()), self.broken)
        self.info = simulator.info(self.base_url)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever started the simulator."""
        yield


class Served:
    """A simulator on a port."""

    def __init__(self, simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> None:
        self.simulator = simulator
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        self.base_url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            simulator.app(), lifespan="off", log_level="critical", access_log=False, ws="none", timeout_keep_alive=60
        )
        self._server = _Server(config)

    @property
    def info(self) -> dict[str, Any]:
        """What a connection needs to know."""
        return self.simulator.info(self.base_url)

    async def run(self) -> None:
        """Serves until `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Ends `run`."""
        self._server.should_exit = True
