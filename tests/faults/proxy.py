"""A TCP proxy that misbehaves on demand: between the services and the broker, or between them and a vendor.

Each direction of every connection can be let through, held back for a while, or swallowed (the connection stays open and nothing
comes: what a cable pulled out, or a router that forgot the connection, looks like). `cut` also ends what is open and refuses what
is new.
"""

import asyncio
import contextlib
from enum import StrEnum

CHUNK_BYTES = 65_536


class Way(StrEnum):
    """A direction."""

    THERE = "there"
    """From the client to the server."""
    BACK = "back"


class Proxy:
    """Listens on a port of 127.0.0.1 and forwards to another. `async with` it."""

    def __init__(self, target_port: int = 0, *, port: int = 0, target_host: str = "127.0.0.1") -> None:
        self.port = port
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_s = dict.fromkeys(Way, 0.0)
        self._swallows = dict.fromkeys(Way, False)
        self._is_cut = False
        self._forgotten_before = 0
        self.connections = 0
        """Connections taken so far."""
        self.refused = 0
        """Connections turned away while it was cut."""
        self.bytes = dict.fromkeys(Way, 0)
        """Let through so far."""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._end_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def turn_to(self, port: int) -> None:
        """Where new connections lead from now on."""
        self._target = (self._target[0], port)

    # --- what is done to it ------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Everything open is reset; whatever comes is turned away."""
        self._is_cut = True
        self._end_connections()

    def swallow(self, *ways: Way) -> None:
        """Half open: connections stay, new ones are taken, and nothing arrives in these directions (both if none is named)."""
        for way in ways or tuple(Way):
            self._swallows[way] = True

    def forget(self) -> None:
        """What a router does that lost its table: connections open now are swallowed for good, both ways; new ones go through."""
        self._forgotten_before = self.connections

    def delay(self, seconds: float, *ways: Way) -> None:
        """Every chunk waits so long."""
        for way in ways or tuple(Way):
            self._delay_s[way] = seconds

    def reset(self) -> None:
        """Ends what is open, and goes on as it is for whatever comes."""
        self._end_connections()

    def heal(self) -> None:
        """As before. What was swallowed is gone for good, so its connections are ended: no stream may go on with a hole in it."""
        was_swallowing = any(self._swallows.values()) or self._forgotten_before > 0
        self._forgotten_before = 0
        self._is_cut = False
        self._swallows = dict.fromkeys(Way, False)
        self._delay_s = dict.fromkeys(Way, 0.0)
        if was_swallowing:
            self._end_connections()

    # --- connections -------------------------------------------------------------------------------------------------------

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.refused += 1
            _abort(writer)
            return
        self.connections += 1
        number = self.connections
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        self._writers |= {writer, far_writer}
        ways = [
            asyncio.ensure_future(self._carry(number, Way.THERE, reader, far_writer)),
            asyncio.ensure_future(self._carry(number, Way.BACK, far_reader, writer)),
        ]
        self._tasks |= set(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._tasks -= set(ways)
            for each in (writer, far_writer):
                self._writers.discard(each)
                _abort(each)

    async def _carry(self, number: int, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self._is_lost(number, way):
                    continue
                if self._delay_s[way]:
                    await asyncio.sleep(self._delay_s[way])
                writer.write(chunk)
                await writer.drain()
                self.bytes[way] += len(chunk)
        if self._is_lost(number, way):
            await asyncio.Event().wait()  # an end is not heard either

    def _is_lost(self, number: int, way: Way) -> bool:
        return self._swallows[way] or number <= self._forgotten_before

    def _end_connections(self) -> None:
        for writer in list(self._writers):
            _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.transport.abort()
