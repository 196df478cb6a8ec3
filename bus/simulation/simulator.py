"""One simulator: a vendor's behaviour over HTTP, the faults around it, and a control API that no vendor has."""

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bus.simulation.calls import CallLog
from bus.simulation.clock import SimClock
from bus.simulation.faults import Fault, FaultPlan, FaultTransport
from bus.simulation.limits import CallLimit, CallLimits
from bus.simulation.tokens import TokenDesk
from bus.simulation.traffic import CONTROL, TOUCHED, Traffic
from bus.simulation.wire import CuttableProtocol

RAISED_FACTOR = 10_000
"""What call limits are multiplied by where they are not to be felt."""
STOP_S = 2
"""Seconds a stopping server waits for calls in flight."""


class Simulator(ABC):
    """Base of every simulator. A subclass gives routes, its state and the vendor's own words for refusals."""

    system: str
    tokens: TokenDesk
    limits: CallLimits
    guarded: ClassVar[tuple[str, ...]] = ()
    """Paths that start so ask for a valid bearer token and count against the limits before their route is met. A subclass that
    has its own order of refusals leaves it empty or overrides `refuse`."""

    def __init__(self, *, real_limits: bool = False, clock: SimClock | None = None) -> None:
        self.clock = clock or SimClock()
        self.faults = FaultPlan()
        self.calls = CallLog()
        self.limits = CallLimits(self.clock, [])
        self.real_limits = real_limits

    def declare(self, *limits: CallLimit) -> CallLimits:
        """The vendor's call limits, raised by RAISED_FACTOR unless `real_limits`."""
        factor = 1 if self.real_limits else RAISED_FACTOR
        return CallLimits(self.clock, [replace(limit, calls=limit.calls * factor) for limit in limits])

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

    def refuse(self, request: Request) -> Response | None:
        """What stands before every guarded route: the token, then the limits. None lets the call through."""
        if not self.guarded or not request.url.path.startswith(self.guarded):
            return None
        if not self.tokens.is_valid(bearer(request)):
            return self.unauthorised(request)
        limit = self.limits.take(request.url.path)
        return None if limit is None else self.throttled(request, limit)

    def unauthorised(self, request: Request) -> Response:
        """The vendor's answer to a missing, unknown or expired token."""
        return Response(status_code=401)

    def throttled(self, request: Request, limit: CallLimit) -> Response:
        """The vendor's answer to a call above a limit."""
        return Response(status_code=429)

    def not_found(self, request: Request) -> Response:
        """The vendor's answer to an unknown route."""
        return JSONResponse({"error": "not found"}, status_code=404)

    def not_allowed(self, request: Request) -> Response:
        """The vendor's answer to a method its route does not know."""
        return self.not_found(request)

    @staticmethod
    def touch(request: Request, entity: str, object_id: str) -> None:
        """A route says which object a call is about; the call log shows it as `entity:id`."""
        setattr(request.state, TOUCHED, f"{entity}:{object_id}")

    # --- the application -----------------------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        """Vendor routes and control API, with faults, guard and call log around the former."""
        routes: list[BaseRoute] = [*self._control(), *self.routes()]

        async def unknown(request: Request, _error: Exception) -> Response:
            return self.not_found(request)

        async def not_allowed(request: Request, _error: Exception) -> Response:
            return self.not_allowed(request)

        return Starlette(
            routes=routes,
            middleware=[Middleware(Traffic, simulator=self)],
            exception_handlers={404: unknown, 405: not_allowed},
        )

    def counts(self) -> dict[str, Any]:
        """Versions served and writes that succeeded."""
        return {"served": dict(self.calls.served), "written": dict(self.calls.written), "limit_exceeded": self.limits.exceeded}

    def _control(self) -> list[Route]:
        async def info(request: Request) -> Response:
            return JSONResponse(self.info(str(request.base_url).rstrip("/")))

        async def calls(request: Request) -> Response:
            since = request.query_params.get("since", "0")
            if not since.isdigit():
                return JSONResponse({"error": f"since: {since!r} is no number"}, status_code=422)
            return JSONResponse(self.calls.since(int(since)))

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


def bearer(request: Request) -> str:
    """The bearer token of a call, empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


class InProcess:
    """A simulator behind httpx without a socket, for contract tests.

    Faults of the simulator's own plan act as over a socket; `broken` plans those that never reach it.
    """

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
    """A simulator on a port; port 0 takes a free one. `run` until `stop`, or `async with`."""

    def __init__(self, simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> None:
        self.simulator = simulator
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.base_url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            simulator.app(),
            http=CuttableProtocol,
            lifespan="off",
            log_level="critical",
            access_log=False,
            ws="none",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=STOP_S,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

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

    async def __aenter__(self) -> Self:
        """Serves beside the caller; the port takes connections from the start."""
        self._socket.listen()
        self._task = asyncio.create_task(self.run(), name=f"simulator-{self.simulator.system}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops and waits for the end."""
        self.stop()
        if self._task is not None:
            await self._task


async def serve(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serves a simulator on uvicorn until cancelled."""
    await Served(simulator, host, port).run()
