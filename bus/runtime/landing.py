"""Where a login leads back to: a server on this machine that waits for one answer."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bus.core.errors import BusError, SettingsError
from bus.runtime.logins import NotOurs

THANKS = "Thank you. This window can be closed; the rest happens in the terminal.\n"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the command."""
        yield


class Landing:
    """Listens on the host and port of a redirect URI, for its path only, until somebody brings an answer.

    `read` makes a code of the address: what raises NotOurs is told so and waited on, any other error is the answer. Use it as an
    async context manager.
    """

    def __init__(self, redirect_uri: str, read: Callable[[str], str]) -> None:
        self._uri = urlsplit(redirect_uri)
        self._read = read
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Landing":
        listeners = self._listeners()
        app = Starlette(routes=[Route(self._uri.path or "/", self._landed)])
        self._server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none"))
        self._task = asyncio.ensure_future(self._server.serve(sockets=listeners))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def code(self, wait_s: float) -> str:
        """The code somebody brought. Raises what `read` raised of the answer, SettingsError when nobody came."""
        try:
            return await asyncio.wait_for(self._answer, wait_s)
        except TimeoutError:
            raise SettingsError(f"nobody logged in within {wait_s / 60:g} minutes: begin again") from None

    def _listeners(self) -> list[socket.socket]:
        """One socket by address; by the name localhost one for each kind of address this machine has."""
        host, port = self._uri.hostname or "127.0.0.1", self._uri.port or 80
        made: list[socket.socket] = []
        for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address, port))
            except OSError as error:
                listener.close()
                if made:
                    break  # a machine without IPv6
                raise SettingsError(
                    f"cannot listen on {address}:{port} ({error.strerror}): choose another --port, one the app is registered with"
                ) from None
            made.append(listener)
        return made

    async def _landed(self, request: Request) -> Response:
        try:
            code = self._read(str(request.url))
        except NotOurs:
            return PlainTextResponse("This is not the answer to the login that is waited for.\n", status_code=400)
        except BusError as error:
            if not self._answer.done():
                self._answer.set_exception(error)
            return PlainTextResponse("The login was not accepted; the terminal says why.\n", status_code=400)
        if not self._answer.done():
            self._answer.set_result(code)
        return PlainTextResponse(THANKS)
