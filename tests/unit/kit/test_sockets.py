"""Over real sockets: what the transport makes of broken connections, and what it must not do by itself."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.core.errors import NetworkFailure
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.simulation.faults import Fault
from bus.simulation.simulator import Served, Simulator
from tests.unit.kit.desk import Desk, answers

pytestmark = pytest.mark.loopback


class Echo(Simulator):
    """Takes anything and remembers it."""

    system = "echo"

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def routes(self) -> list[Route]:
        return [Route("/x", self._take, methods=["GET", "POST", "PUT", "DELETE"])]

    async def _take(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        answer = JSONResponse({"type": request.headers.get("content-type"), "cookie": request.headers.get("cookie")})
        answer.set_cookie("session", "1")
        return answer

    def info(self, base_url: str) -> dict[str, Any]:
        return {"system": self.system, "base_url": base_url}

    def books(self) -> dict[str, Any]:
        return {}

    def seed(self, orders: int, seed: int) -> None:
        self.bodies = [b"%d" % seed] * orders

    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        self.bodies.clear()


def client_of(base_url: str) -> VendorClient:
    desk = Desk(answers(200))
    return VendorClient(
        desk.manifest,
        connection="acme",
        base_url=base_url,
        tokens=desk.grant,
        budgets=Budgets((), clock=desk.clock),
        clock=desk.clock,
        sleep=desk.sleep,
    )


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Echo, VendorClient]]:
    echo = Echo()
    async with Served(echo) as served:
        client = client_of(served.base_url)
        try:
            yield echo, client
        finally:
            await client.aclose()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(("action", "handled"), [("reset", 0), ("lost_reply", 1)])
async def test_a_write_on_a_connection_that_broke_counts_as_sent_and_goes_once(method: str, action: Any, handled: int) -> None:
    async with opened() as (echo, client):
        await client.call("GET", "x")  # the connection is pooled: here aiohttp would try again
        echo.faults.add(Fault(action, method=method))
        with pytest.raises(NetworkFailure) as failure:
            await client.call(method, "x", json={"a": 1}, purpose="write")
        assert failure.value.sent
        assert len(echo.bodies) == 1 + handled
        assert [call["method"] for call in echo.calls.calls] == ["GET", method]
        assert client.calls == 2


async def test_a_read_on_a_connection_that_broke_is_repeated_and_counted() -> None:
    async with opened() as (echo, client):
        echo.faults.add(Fault("reset", times=2))
        await client.call("GET", "x")
        assert len(echo.calls.calls) == client.calls == 3


async def test_a_refused_connection_is_known_to_be_unsent() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = client_of(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(NetworkFailure) as failure:
            await client.call("POST", "x", json={}, purpose="write")
        await client.aclose()
    assert not failure.value.sent


async def test_no_cookie_of_one_call_goes_with_the_next() -> None:
    async with opened() as (_, client):
        await client.call("GET", "x")
        assert (await client.call("GET", "x")).json()["cookie"] is None


async def test_a_file_arrives_whole() -> None:
    async with opened() as (echo, client):
        files = {"file_content_01": ("a.png", b"\x89PNG" * 50_000, "image/png")}
        answer = await client.call("POST", "x", files=files, purpose="write")
        assert answer.json()["type"].startswith("multipart/form-data; boundary=")
        assert b"\x89PNG" * 50_000 in echo.bodies[0]
