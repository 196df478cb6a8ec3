"""A small vendor on the kit: what every simulator gets for nothing, in process and over a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.simulation.clock import SimClock
from bus.simulation.faults import Fault
from bus.simulation.limits import CallLimit
from bus.simulation.simulator import RAISED_FACTOR, InProcess, Served, Simulator
from bus.simulation.tokens import TokenDesk


class Shop(Simulator):
    """Keeps notes behind a token and three calls a minute."""

    system = "shop"
    guarded = ("/notes",)

    def __init__(self, *, real_limits: bool = True) -> None:
        super().__init__(real_limits=real_limits, clock=SimClock())
        self.tokens = TokenDesk(self.clock, lifetime_s=600, refresh_lifetime_s=3600, rotates=True)
        self.limits = self.declare(CallLimit("minute", 3, "clock_minute"))
        self.notes: list[str] = []
        self.access = self.tokens.refresh(self.tokens.grant().refresh_token).access_token

    def routes(self) -> list[Route]:
        return [Route("/notes", self._list), Route("/notes", self._add, methods=["POST"]), Route("/bug", self._bug)]

    async def _list(self, _request: Request) -> Response:
        self.calls.serve("note", len(self.notes))
        return JSONResponse({"notes": self.notes})

    async def _add(self, request: Request) -> Response:
        self.notes.append((await request.json())["text"])
        self.calls.write("note", "create")
        self.touch(request, "note", str(len(self.notes)))
        return JSONResponse({"id": len(self.notes)}, 201)

    async def _bug(self, _request: Request) -> Response:
        raise LookupError("bug")

    def unauthorised(self, request: Request) -> Response:
        return JSONResponse({"shop": "who are you?"}, 401)

    def throttled(self, request: Request, limit: CallLimit) -> Response:
        return JSONResponse({"shop": f"not above {limit.calls}"}, 429)

    def not_found(self, request: Request) -> Response:
        return JSONResponse({"shop": f"no {request.url.path}"}, 404)

    def not_allowed(self, request: Request) -> Response:
        return JSONResponse({"shop": f"no {request.method}"}, 405)

    def info(self, base_url: str) -> dict[str, Any]:
        return {"system": self.system, "base_url": base_url, "token_url": f"{base_url}/token", "config": {}, "credentials": {}}

    def books(self) -> dict[str, Any]:
        return {"documents": [], "customers": [], "products": [{"id": "1", "sku": text, "active": True} for text in self.notes]}

    def seed(self, orders: int, seed: int) -> None:
        self.notes = [f"{seed}-{number}" for number in range(orders)]

    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        self.notes[int(object_id) - 1] = fields["text"]


def client(shop: Shop) -> httpx.AsyncClient:
    inside = InProcess(shop)
    return httpx.AsyncClient(transport=inside.transport, base_url=inside.base_url, headers=token(shop))


def token(shop: Shop) -> dict[str, str]:
    return {"Authorization": f"Bearer {shop.access}"}


@asynccontextmanager
async def over_a_socket(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Served(shop) as served,
        httpx.AsyncClient(transport=AiohttpTransport(), base_url=served.base_url, headers=token(shop), timeout=0.5) as web,
    ):
        yield web


async def test_refusals_are_in_the_vendors_words() -> None:
    web = client(Shop())
    assert (await web.get("/elsewhere")).json() == {"shop": "no /elsewhere"}
    assert (await web.delete("/notes")).json() == {"shop": "no DELETE"}
    assert (await web.get("/notes", headers={"Authorization": "Bearer wrong"})).json() == {"shop": "who are you?"}
    for _ in range(2):
        assert (await web.get("/notes")).status_code == 200
    assert (await web.get("/notes")).json() == {"shop": "not above 3"}


async def test_limits_are_raised_unless_they_are_to_be_felt() -> None:
    assert Shop(real_limits=False).limits.limits[0].calls == 3 * RAISED_FACTOR
    assert Shop(real_limits=True).limits.limits[0].calls == 3


async def test_the_call_log_knows_writes_objects_and_calls_above_a_limit() -> None:
    shop = Shop()
    web = client(shop)
    await web.post("/notes?x=1", json={"text": "a"})
    for _ in range(3):
        await web.get("/notes")
    log = (await web.get("/_sim/calls?since=0")).json()
    first = log["calls"][0]
    assert (first["n"], first["method"], first["path"], first["query"]) == (1, "POST", "/notes", "x=1")
    assert first["write"]
    assert first["object"] == "note:1"
    assert len(first["body_sha256"]) == 64
    assert [call["limit_exceeded"] for call in log["calls"]] == [False, False, False, True]
    assert [call["object"] for call in log["calls"][1:]] == [None] * 3
    assert (await web.get(f"/_sim/calls?since={log['next']}")).json()["calls"] == []
    assert shop.calls.writes() == [first]
    assert shop.calls.exceeded() == log["calls"][3:]
    counts = (await web.get("/_sim/counts")).json()
    assert counts == {"served": {"note": 2}, "written": {"note.create": 1}, "limit_exceeded": 1}


async def test_the_control_api_seeds_edits_and_moves_time() -> None:
    shop = Shop()
    web = client(shop)
    before = shop.clock.now()
    assert (await web.post("/_sim/seed", json={"orders": 2, "seed": 7})).status_code == 200
    await web.post("/_sim/edit", json={"entity": "note", "id": "1", "fields": {"text": "edited"}})
    await web.post("/_sim/clock", json={"advance_s": 3600})
    assert [product["sku"] for product in (await web.get("/_sim/books")).json()["products"]] == ["edited", "7-1"]
    assert (shop.clock.now() - before).total_seconds() >= 3600
    assert (await web.get("/_sim/info")).json()["token_url"] == "http://simulator.test/token"
    assert (await web.get("/notes")).status_code == 401, "the token's time went by as well"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/faults", {"faults": [{"match": {}, "action": "explode"}]}),
        ("/_sim/faults", {"faults": [{"match": {"verb": "GET"}, "action": "reset"}]}),
        ("/_sim/clock", {"advance_s": "soon"}),
        ("/_sim/seed", {"orders": 1}),
    ],
)
async def test_a_wrong_control_call_says_so(path: str, body: dict[str, Any]) -> None:
    answer = await client(Shop()).post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]


async def test_a_wrong_number_in_the_call_log_query_says_so() -> None:
    assert (await client(Shop()).get("/_sim/calls?since=x")).status_code == 422


async def test_a_fault_meets_the_nth_call_and_no_other() -> None:
    web = client(Shop(real_limits=False))
    fault = {"match": {"method": "GET", "path_prefix": "/notes", "nth": 2}, "action": "status", "status": 503, "body": "later"}
    await web.post("/_sim/faults", json={"faults": [fault]})
    await web.post("/notes", json={"text": "a"})
    assert [(await web.get("/notes")).status_code for _ in range(3)] == [200, 503, 200]


async def test_bodies_are_spoilt_as_planned() -> None:
    shop = Shop()
    web = client(shop)
    shop.faults.add(Fault("half_body", path_prefix="/notes"), Fault("html", path_prefix="/notes"))
    half = await web.get("/notes")
    assert half.status_code == 200
    assert '{"notes":[]}'.startswith(half.text)
    assert len(half.text) == 6
    page = await web.get("/notes")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    assert page.text.startswith("<html>")


@pytest.mark.parametrize(
    ("action", "error", "notes"),
    [("reset", httpx.ReadError, 0), ("lost_reply", httpx.ReadError, 1), ("timeout", httpx.ReadTimeout, 0)],
)
async def test_in_process_a_broken_connection_is_the_error_of_a_socket(action: Any, error: type[Exception], notes: int) -> None:
    shop = Shop()
    shop.faults.add(Fault(action, method="POST"))
    with pytest.raises(error):
        await client(shop).post("/notes", json={"text": "a"})
    assert len(shop.notes) == notes
    assert [call["status"] for call in shop.calls.calls] == [201 if notes else 0]


@pytest.mark.parametrize(
    ("action", "error", "notes"),
    [
        ("refused", httpx.ConnectError, 0),
        ("reset", httpx.ReadError, 0),
        ("lost_reply", httpx.ReadError, 1),
        ("timeout", httpx.ReadTimeout, 0),
    ],
)
async def test_the_transports_own_faults_never_reach_the_simulator_unless_handled(
    action: Any, error: type[Exception], notes: int
) -> None:
    shop = Shop()
    inside = InProcess(shop)
    inside.broken.add(Fault(action))
    async with httpx.AsyncClient(transport=inside.transport, base_url=inside.base_url, headers=token(shop)) as web:
        with pytest.raises(error):
            await web.post("/notes", json={"text": "a"})
    assert len(shop.notes) == len(shop.calls.calls) == notes


@pytest.mark.parametrize(("action", "handled"), [("delay", 0), ("hold", 1)])
async def test_an_answer_waits_before_or_after_the_work(action: Any, handled: int) -> None:
    shop = Shop()
    shop.faults.add(Fault(action, seconds=3600))
    call = asyncio.create_task(client(shop).post("/notes", json={"text": "a"}))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not call.done()
    assert len(shop.notes) == handled
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.loopback
@pytest.mark.parametrize(("action", "notes"), [("reset", 0), ("lost_reply", 1)])
async def test_over_a_socket_a_cut_is_a_cut(action: Any, notes: int) -> None:
    shop = Shop()
    async with over_a_socket(shop) as web:
        shop.faults.add(Fault(action, method="POST"))
        with pytest.raises(httpx.TransportError) as broken:
            await web.post("/notes", json={"text": "a"})
        assert not isinstance(broken.value, httpx.ReadTimeout)
        assert len(shop.notes) == notes
        assert (await web.get("/notes")).status_code == 200


@pytest.mark.loopback
async def test_over_a_socket_a_timeout_lasts_until_the_client_gives_up() -> None:
    shop = Shop()
    async with over_a_socket(shop) as web:
        shop.faults.add(Fault("timeout"))
        with pytest.raises(httpx.ReadTimeout):
            await web.get("/notes")
        assert [call["status"] for call in shop.calls.calls] == [0]


@pytest.mark.loopback
async def test_over_a_socket_half_a_body_arrives_whole() -> None:
    shop = Shop()
    async with over_a_socket(shop) as web:
        shop.faults.add(Fault("half_body"))
        assert (await web.get("/notes")).text == '{"note'


async def test_a_bug_of_the_simulator_is_seen_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    with pytest.raises(LookupError):
        await client(shop).get("/bug")
    assert "has a bug at GET /bug" in caplog.text
    assert shop.calls.calls[0]["status"] == 500
