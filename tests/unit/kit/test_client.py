"""The client's promises, against a small vendor in process."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.core.errors import (
    AccessDenied,
    ApiChanged,
    BusError,
    NetworkFailure,
    RateLimited,
    TokenExpired,
    Unavailable,
    WriteRejected,
)
from bus.kit.auth import Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient, json_bytes
from bus.kit.failures import NOT_SENT, network_failure
from bus.kit.manifest import Limit, Manifest
from tests.fakes import MANIFEST

SECRET = "s3cret-access-token"


class Tokens:
    """A grant that is renewed once."""

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock
        self.version = 1
        self.waits = 0

    async def current(self) -> Token:
        return Token(self.version, SecretStr(f"{SECRET}-{self.version}"), self._clock.now() + timedelta(seconds=600))

    async def newer_than(self, version: int) -> Token:
        self.waits += 1
        await asyncio.sleep(0)
        self.version = max(self.version, version + 1)
        return await self.current()


def build(handler: Callable[[httpx.Request], httpx.Response], **manifest: Any) -> tuple[VendorClient, Tokens]:
    clock = FrozenClock()
    tokens = Tokens(clock)
    facts = Manifest.model_validate({**MANIFEST, **manifest})

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    client = VendorClient(
        facts,
        connection="acme",
        base_url="http://vendor.test/v1",
        tokens=tokens,
        budgets=Budgets(facts.limits, clock=clock, sleep=sleep),
        clock=clock,
        transport=httpx.MockTransport(handler),
        sleep=sleep,
    )
    return client, tokens


async def test_numbers_with_a_fraction_are_decimals_to_the_digit() -> None:
    client, _ = build(lambda _: httpx.Response(200, content=b'{"a": 0.10, "b": 12, "c": 1e2}'))
    answer = (await client.call("GET", "x")).json()
    assert answer["a"] == Decimal("0.10")
    assert str(answer["a"]) == "0.10"
    assert isinstance(answer["b"], int)
    assert isinstance(answer["c"], Decimal)


def test_a_float_never_leaves() -> None:
    assert json_bytes({"a": Decimal("12.50")}) == b'{"a":12.50}'
    with pytest.raises(TypeError, match="float"):
        json_bytes({"lines": [{"a": 12.5}]})


async def test_ten_calls_with_an_expired_token_wait_for_one_newer_grant() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={}) if request.headers["authorization"].endswith("-2") else httpx.Response(401)

    client, tokens = build(handler)
    answers = await asyncio.gather(*(client.call("GET", "x") for _ in range(10)))
    assert [answer.status for answer in answers] == [200] * 10
    assert tokens.version == 2


async def test_a_second_401_is_not_tried_for_ever() -> None:
    client, tokens = build(lambda _: httpx.Response(401))
    with pytest.raises(TokenExpired):
        await client.call("GET", "x")
    assert tokens.waits == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ApiChanged), (403, AccessDenied), (404, ApiChanged), (429, RateLimited), (502, Unavailable), (302, ApiChanged)],
)
async def test_reads_end_in_their_class(status: int, kind: type[BusError]) -> None:
    client, _ = build(lambda _: httpx.Response(status))
    with pytest.raises(kind):
        await client.call("GET", "x")


async def test_a_refused_write_is_definite_and_never_repeated() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(422)

    client, _ = build(handler)
    with pytest.raises(WriteRejected):
        await client.call("POST", "x", json={"a": 1}, purpose="write")
    assert len(calls) == 1


async def test_a_write_without_an_answer_is_not_repeated_by_the_client() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ReadTimeout("late", request=request)

    client, _ = build(handler)
    with pytest.raises(NetworkFailure) as failure:
        await client.call("POST", "x", json={}, purpose="write")
    assert failure.value.sent
    assert len(calls) == 1


async def test_reads_are_repeated_within_bounds() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(503) if len(calls) < 3 else httpx.Response(200, json={})

    client, _ = build(handler)
    assert (await client.call("GET", "x")).status == 200
    assert len(calls) == 3
    client, _ = build(lambda request: (calls.append(request), httpx.Response(503))[1])
    calls.clear()
    with pytest.raises(Unavailable):
        await client.call("GET", "x")
    assert len(calls) == 4


@pytest.mark.parametrize("body", [b"<html>Maintenance</html>", b'{"Customer": [{"Id": "1"', b"", b"\xff\xfe"])
async def test_what_is_not_json_in_a_200_is_a_changed_api(body: bytes) -> None:
    client, _ = build(lambda _: httpx.Response(200, content=body))
    with pytest.raises(ApiChanged):
        (await client.call("GET", "x")).json()


async def test_a_body_above_the_limit_is_refused() -> None:
    client, _ = build(lambda _: httpx.Response(200, content=b"x" * 1001), body_bytes_max=1000)
    with pytest.raises(ApiChanged, match="1000"):
        await client.call("GET", "x")


async def test_half_an_announced_body_is_a_network_failure() -> None:
    client, _ = build(lambda _: httpx.Response(200, headers={"content-length": "100"}, stream=httpx.ByteStream(b"half")))
    with pytest.raises(NetworkFailure):
        await client.call("POST", "x", purpose="write")


async def test_retry_after_is_honoured_and_blocks_other_calls() -> None:
    client, _ = build(
        lambda _: httpx.Response(429, headers={"retry-after": "7"}), limits=[{"name": "minute", "calls": 60, "per_s": 60}]
    )
    with pytest.raises(RateLimited) as limited:
        await client.call("POST", "x", purpose="write")
    assert limited.value.retry_after_s == 7


async def test_no_error_carries_query_body_or_secret() -> None:
    client, _ = build(lambda _: httpx.Response(400, text="jan@devries.test"))
    with pytest.raises(BusError) as error:
        await client.call("GET", "x", params={"email": "jan@devries.test"})
    assert "devries" not in str(error.value)
    assert SECRET not in str(error.value)


def test_every_transport_error_of_httpx_has_a_class() -> None:
    def leaves(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]

    for kind in leaves(httpx.TransportError):
        error = kind("x", request=httpx.Request("GET", "http://x.test"))  # type: ignore[call-arg]
        failure = network_failure(error, "/x")
        assert failure.sent is not issubclass(kind, NOT_SENT)


def test_limits_are_facts_of_the_manifest() -> None:
    assert Limit(name="m", calls=1, per_s=1).window == "sliding"
