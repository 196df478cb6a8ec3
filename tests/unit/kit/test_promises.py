"""What callers of the client rely on, one by one."""

import asyncio
from decimal import Decimal

import httpx
import msgspec
import pytest

from bus.core.errors import (
    AccessRevoked,
    ApiChanged,
    NetworkFailure,
    RateLimited,
    Unavailable,
    WriteConflict,
    WriteRejected,
)
from bus.kit.auth import StaticTokens
from bus.kit.client import gather_limited, tallied
from tests.unit.kit.desk import Desk, answers

FEW_A_MINUTE = [{"name": "minute", "calls": 2, "per_s": 60, "window": "clock_minute"}]


# --- tokens ---------------------------------------------------------------------------------------------------------------


async def test_a_token_known_to_be_over_is_never_sent() -> None:
    desk = Desk(lambda _: httpx.Response(200, json={}), lifetime_s=0)
    await asyncio.gather(*(desk.client.call("GET", "x") for _ in range(10)))
    assert desk.grant.renewals == 1
    assert {request.headers["authorization"] for request in desk.sent} == {"Bearer token-2"}


async def test_a_refused_token_is_not_sent_again_by_calls_that_waited() -> None:
    desk = Desk(
        lambda request: httpx.Response(200 if request.headers["authorization"].endswith("-2") else 401, json={}),
        concurrent_calls_max=2,
    )
    await asyncio.gather(*(desk.client.call("GET", "x") for _ in range(10)))
    assert desk.grant.renewals == 1
    assert sum(request.headers["authorization"].endswith("-1") for request in desk.sent) <= 2  # those in flight at once


async def test_a_token_given_by_hand_has_no_successor() -> None:
    desk = Desk(answers(200))
    tokens = StaticTokens(await desk.grant.current())
    assert (await tokens.current()).version == 1
    with pytest.raises(AccessRevoked):
        await tokens.newer_than(1)


async def test_a_token_never_goes_to_another_host() -> None:
    desk = Desk(answers(200, json={}))
    for url in ("http://elsewhere.test/v1/next", "https://vendor.test/v1", "http://vendor.test:81/v1"):
        with pytest.raises(ApiChanged, match="another host"):
            await desk.client.call("GET", url)
    assert desk.sent == []
    await desk.client.call("GET", "http://elsewhere.test/signed?key=1", authorize=False)
    assert "authorization" not in desk.sent[0].headers


async def test_a_link_of_the_same_host_is_followed_as_given() -> None:
    desk = Desk(answers(200, json={}))
    await desk.client.call("GET", "http://vendor.test/v1/x?$skiptoken=guid'1',2%3A3")
    assert str(desk.sent[0].url) == "http://vendor.test/v1/x?$skiptoken=guid'1',2%3A3"


# --- bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>Maintenance</html>", b'{"Id": "1", "lines": [', b"NaN"])
async def test_a_success_that_is_not_json_never_passes_for_one(body: bytes) -> None:
    desk = Desk(lambda _: httpx.Response(200, content=body))
    with pytest.raises(ApiChanged):
        await desk.client.call("GET", "x")
    with pytest.raises(Unavailable):  # it may have happened: its intent stays open
        await desk.write()
    assert (await desk.client.call("GET", "x", decode=False)).body == body


async def test_a_picture_is_taken_as_one_and_a_page_of_html_is_not() -> None:
    desk = Desk(lambda _: httpx.Response(200, content=b"GIF89a", headers={"content-type": "image/gif"}))
    assert (await desk.client.call("GET", "x")).body == b"GIF89a"
    desk = Desk(lambda _: httpx.Response(200, content=b"<html>", headers={"content-type": "text/html"}))
    with pytest.raises(ApiChanged):
        await desk.client.call("GET", "x")


async def test_an_empty_success_is_one() -> None:
    assert (await Desk(answers(204)).write()).body == b""


async def test_a_byte_order_mark_is_no_harm() -> None:
    desk = Desk(lambda _: httpx.Response(200, content=b'\xef\xbb\xbf{"a": 1}'))
    assert (await desk.client.call("GET", "x")).json() == {"a": 1}


async def test_a_written_body_above_the_limit_leaves_the_write_open() -> None:
    with pytest.raises(Unavailable):
        await Desk(lambda _: httpx.Response(200, content=b"1" * 11), body_bytes_max=10).write()


class Line(msgspec.Struct):
    amount: Decimal
    note: str = ""


async def test_typed_values_keep_every_digit() -> None:
    desk = Desk(lambda _: httpx.Response(200, content=b'{"amount": 1234567890123456.1050}'))
    line = (await desk.client.call("GET", "x")).decode(Line)
    assert str(line.amount) == "1234567890123456.1050"


async def test_a_value_of_another_type_is_named_by_its_place_and_not_quoted() -> None:
    desk = Desk(lambda _: httpx.Response(200, content=b'{"amount": "jan@devries.test"}'))
    answer = await desk.client.call("GET", "x")
    with pytest.raises(ApiChanged, match=r"differs at `\$\.amount`") as error:
        answer.decode(Line)
    assert "devries" not in str(error.value)


# --- limits ---------------------------------------------------------------------------------------------------------------


async def test_a_refusal_without_a_time_waits_for_the_next_minute() -> None:
    desk = Desk(answers(429), limits=FEW_A_MINUTE)
    with pytest.raises(RateLimited) as limited:
        await desk.write()
    assert limited.value.retry_after_s == 62


async def test_a_long_wait_goes_back_to_the_caller() -> None:
    desk = Desk(answers(429, headers={"retry-after": "3600"}))
    with pytest.raises(RateLimited) as limited:
        await desk.client.call("GET", "x")
    assert limited.value.retry_after_s == 3600
    assert len(desk.sent) == 1


async def test_a_short_wait_is_waited_out_by_a_read() -> None:
    desk = Desk(answers(429, 200, headers={"retry-after": "7"}, json={}))
    before = desk.clock.now()
    await desk.client.call("GET", "x")
    assert (desk.clock.now() - before).total_seconds() == 7


async def test_errors_stop_before_the_vendor_blocks_the_endpoint() -> None:
    desk = Desk(answers(404), error_limit={"errors": 10, "per_s": 3600, "statuses": [400, 404]}, polling_share_pct=60)
    for number in range(3):  # six are for polling, one for people
        with pytest.raises(WriteRejected):
            await desk.client.call("PUT", f"crm/Accounts(guid'{number}')", json={}, purpose="write")
    with pytest.raises(RateLimited, match="blocks") as stopped:
        await desk.client.call("PUT", "crm/Accounts(guid'5')", json={}, purpose="write")
    assert stopped.value.retry_after_s == 3600
    assert len(desk.sent) == 3
    with pytest.raises(WriteRejected):
        await desk.client.call("PUT", "crm/Contacts(guid'5')", json={}, purpose="write")
    desk.clock.advance(3600)
    with pytest.raises(WriteRejected):
        await desk.client.call("PUT", "crm/Accounts(guid'5')", json={}, purpose="write")


async def test_errors_in_flight_count_as_well() -> None:
    release = asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        await release.wait()
        return httpx.Response(400)

    desk = Desk(slow, error_limit={"errors": 5, "per_s": 3600, "statuses": [400]}, polling_share_pct=40)
    calls = [asyncio.create_task(desk.write()) for _ in range(6)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(desk.sent) == 2
    release.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [WriteRejected] * 2 + [RateLimited] * 4
    assert len(desk.sent) == 2


async def test_calls_in_flight_are_bounded() -> None:
    flying, most = 0, 0

    async def handler(_: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        return httpx.Response(200, json={})

    desk = Desk(handler, concurrent_calls_max=3)
    await gather_limited(10, *(desk.client.call("GET", "x") for _ in range(20)))
    assert most == 3
    assert desk.client.calls == 20


async def test_a_write_waits_behind_few_reads_however_many_are_asked_for() -> None:
    """Its time runs while it waits; that of a read does not."""

    async def handler(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return httpx.Response(200, json={})

    desk = Desk(handler, concurrent_calls_max=3)
    reads = [asyncio.ensure_future(desk.client.call("GET", "x")) for _ in range(50)]
    for _ in range(2):
        await asyncio.sleep(0)
    await desk.write()
    before = [request.method for request in desk.sent].index("POST")
    assert 3 <= before <= 3 * 3
    await asyncio.gather(*reads)


# --- writes end in time ---------------------------------------------------------------------------------------------------


async def test_a_write_does_not_wait_longer_for_room_than_its_intent_allows() -> None:
    desk = Desk(answers(200, json={}), limits=FEW_A_MINUTE)
    await desk.write()
    with pytest.raises(RateLimited) as limited:
        await desk.write()
    assert limited.value.retry_after_s == 61
    assert len(desk.sent) == 1


async def test_a_write_whose_time_went_by_is_not_sent() -> None:
    desk = Desk(answers(200, json={}))
    current = desk.grant.current

    async def late() -> object:
        desk.clock.advance(4)
        return await current()

    desk.grant.current = late  # type: ignore[method-assign, assignment]
    with pytest.raises(NetworkFailure) as failure:
        await desk.write()
    assert not failure.value.sent
    assert desk.sent == []


async def test_a_write_without_a_token_in_time_is_not_sent() -> None:
    desk = Desk(answers(200, json={}), call_timeout_s=0.02)

    async def never() -> object:
        return await asyncio.Event().wait()

    desk.grant.current = never  # type: ignore[method-assign, assignment]
    with pytest.raises(NetworkFailure) as failure:
        await desk.write()
    assert not failure.value.sent


async def test_a_missing_grant_is_no_unclear_end_of_a_write() -> None:
    desk = Desk(answers(200, json={}))

    async def away() -> object:
        raise Unavailable("no grant yet", retry_after_s=3)

    desk.grant.current = away  # type: ignore[method-assign, assignment]
    with pytest.raises(NetworkFailure) as failure:
        await desk.write()
    assert not failure.value.sent
    assert failure.value.retry_after_s == 3


async def test_an_answer_that_never_ends_is_a_failure_of_the_network() -> None:
    async def silent(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    desk = Desk(silent, call_timeout_s=0.01)
    with pytest.raises(NetworkFailure) as failure:
        await desk.write()
    assert failure.value.sent


# --- words ----------------------------------------------------------------------------------------------------------------


async def test_a_path_with_a_person_in_it_is_not_quoted() -> None:
    with pytest.raises(WriteRejected) as error:
        await Desk(answers(404)).client.call("POST", "customers/jan@devries.test/orders", json={}, purpose="write")
    assert "devries" not in str(error.value)
    assert "/orders" in str(error.value)


async def test_the_vendors_own_code_finds_its_row() -> None:
    desk = Desk(answers(400), errors={"400/5010": "WriteConflict", "400/*": "WriteRejected"})
    desk.client.classifier = lambda answer: desk.client.by_status(answer, "stale", code="5010")
    with pytest.raises(WriteConflict, match="stale"):
        await desk.write()


# --- counting -------------------------------------------------------------------------------------------------------------


async def test_work_side_by_side_counts_its_own_calls() -> None:
    desk = Desk(answers(200, json={}))

    async def work(calls: int) -> int:
        with tallied() as tally:
            await asyncio.gather(*(desk.client.call("GET", "x") for _ in range(calls)))
        return tally.calls

    assert await asyncio.gather(work(1), work(3), work(5)) == [1, 3, 5]
    assert desk.client.calls == 9
