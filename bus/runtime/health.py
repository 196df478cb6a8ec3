"""Health of a process over HTTP: /healthz (alive), /readyz (with reasons), /metrics."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.core.errors import SettingsError
from bus.runtime import metrics
from bus.runtime.settings import BusSettings
from bus.runtime.watchdog import WATCHDOG

STARTING = "starting"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the service, not to its health."""
        yield


class HealthServer:
    """Says whether the process works, and if not, why not."""

    def __init__(self, settings: BusSettings, service: str) -> None:
        self.service = service
        self.port = 0
        self._settings = settings
        self._reasons: dict[str, str] = {STARTING: "start is not complete"}
        self._watches: dict[str, Callable[[], str | None]] = {}
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def set(self, part: str, reason: str | None) -> None:
        """Why a part is not ready; None: it is."""
        if reason is None:
            self._reasons.pop(part, None)
        else:
            self._reasons[part] = reason
        metrics.put("bus_ready", 0 if self.reasons() else 1, service=self.service)

    def clear(self, part: str) -> None:
        """A part is ready again."""
        self.set(part, None)

    def watch(self, part: str, reason: Callable[[], str | None]) -> None:
        """A part that is asked at each look."""
        self._watches[part] = reason

    def started(self) -> None:
        """The start is complete."""
        self.clear(STARTING)

    def reasons(self) -> dict[str, str]:
        """What stands against readiness now."""
        asked = {part: text for part, watch in self._watches.items() if (text := watch()) is not None}
        return self._reasons | asked

    def app(self) -> Starlette:
        """The three routes."""
        return Starlette(
            routes=[Route("/healthz", self._healthz), Route("/readyz", self._readyz), Route("/metrics", self._metrics)]
        )

    async def start(self) -> None:
        """Listens on BUS_HTTP_HOST and BUS_HTTP_PORT. Raises SettingsError when the port is taken."""
        listener = socket.socket(socket.AF_INET6 if ":" in self._settings.http_host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._settings.http_host, self._settings.http_port))
        except OSError as error:
            listener.close()
            where = f"{self._settings.http_host}:{self._settings.http_port}"
            raise SettingsError(f"cannot listen on {where} ({error.strerror}): set BUS_HTTP_PORT to a free port, or 0") from error
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self.app(), lifespan="off", log_config=None, access_log=False, ws="none")
        self._server = _Server(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[listener]))

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def _healthz(self, _request: Request) -> Response:
        stuck = WATCHDOG.stuck()
        return JSONResponse({"service": self.service, "stuck": stuck}, status_code=200 if stuck is None else 503)

    async def _readyz(self, _request: Request) -> Response:
        reasons = self.reasons()
        return JSONResponse(
            {"service": self.service, "ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200
        )

    async def _metrics(self, _request: Request) -> Response:
        metrics.put("bus_ready", 0 if self.reasons() else 1, service=self.service)
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")
