"""Connections that break: under uvicorn the socket itself is cut, in process the transport raises what a client would see."""

import asyncio
import contextlib

from starlette.types import Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTION = "connection"


class ConnectionCut(Exception):
    """No answer comes. Raised in process only, where there is no socket to cut; `action` is the fault's."""

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action


class CuttableProtocol(H11Protocol):
    """uvicorn's protocol, with the socket within reach of the application as `state["connection"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keeps the transport for the requests of this connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, CONNECTION: transport}


async def cut(scope: Scope, receive: Receive, action: str) -> None:
    """Resets the connection without a byte of answer. Raises ConnectionCut where there is none."""
    transport = scope.get("state", {}).get(CONNECTION)
    if transport is None:
        raise ConnectionCut(action)
    transport.abort()
    await _gone(receive)


async def hang(scope: Scope, receive: Receive, seconds: float) -> None:
    """Says nothing until the client gives up, or for `seconds` where given, then cuts. Raises ConnectionCut in process."""
    if CONNECTION not in scope.get("state", {}):
        raise ConnectionCut("timeout")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds or None):
            await _gone(receive)
            return
    await cut(scope, receive, "timeout")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
