"""The token endpoint's answers, as vendors give them."""

import base64

import httpx
import pytest
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.core.errors import AccessRevoked, ApiChanged, BusError, NetworkFailure, RateLimited, TransientError, Unavailable
from bus.kit.auth import OAuth2
from bus.kit.manifest import Auth
from tests.fakes import MANIFEST

GOOD = {"access_token": "a", "refresh_token": "r", "expires_in": "600", "token_type": "bearer"}


def build(answer: httpx.Response | Exception, **auth: object) -> tuple[OAuth2, list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    facts = Auth.model_validate({**MANIFEST["auth"], **auth})
    client = OAuth2(
        facts,
        token_url="http://vendor.test/token",
        client_id=SecretStr("id"),
        client_secret=SecretStr("hush-hush"),
        clock=FrozenClock(),
        transport=httpx.MockTransport(handler),
    )
    return client, requests


async def test_a_lifetime_given_as_text_is_understood() -> None:
    client, _ = build(httpx.Response(200, json=GOOD))
    tokens = await client.refresh(SecretStr("old"))
    assert (tokens.expires_at - tokens.issued_at).total_seconds() == 600
    assert tokens.refresh_token.get_secret_value() == "r"


async def test_credentials_go_into_the_body_or_the_header_as_the_manifest_says() -> None:
    client, requests = build(httpx.Response(200, json=GOOD), client_auth="body")
    await client.refresh(SecretStr("old"))
    assert b"client_secret=hush-hush" in requests[0].content
    assert "authorization" not in requests[0].headers
    client, requests = build(httpx.Response(200, json=GOOD), client_auth="basic")
    await client.refresh(SecretStr("old"))
    assert b"client_secret" not in requests[0].content
    assert base64.b64decode(requests[0].headers["authorization"].split()[1]) == b"id:hush-hush"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(400, headers={"reason": "TooEarlyToRefreshTokens: x"}, json={"error": "access_denied"}), RateLimited),
        (httpx.Response(400, json={"error": "invalid_grant"}), AccessRevoked),
        (httpx.Response(401, json={"error": "unauthorized_client"}), AccessRevoked),
        (httpx.Response(400, json={"error": "access_denied", "error_description": "Rate limit exceeded: not yet"}), RateLimited),
        (httpx.Response(429, text="slow down"), RateLimited),
        (httpx.Response(403, text="<html>blocked by a proxy</html>"), TransientError),
        (httpx.Response(400, json=["the-old-token"]), TransientError),
        (httpx.Response(400, json={"error": "temporarily_unavailable"}), Unavailable),
        (httpx.Response(503), Unavailable),
        (httpx.Response(200, json={"access_token": "a", "refresh_token": None}), ApiChanged),
        (httpx.Response(200, json={**GOOD, "expires_in": "soon"}), ApiChanged),
        (httpx.Response(200, json=[1]), ApiChanged),
        (httpx.Response(200, text="<html>"), ApiChanged),
        (httpx.Response(200, json={"access_token": "a"}), ApiChanged),
        (httpx.ReadTimeout("late"), NetworkFailure),
    ],
)
async def test_each_refusal_has_its_class(answer: httpx.Response | Exception, kind: type[BusError]) -> None:
    client, _ = build(answer)
    with pytest.raises(kind) as error:
        await client.refresh(SecretStr("the-old-token"))
    assert not isinstance(error.value, AccessRevoked) or kind is AccessRevoked
    assert "the-old-token" not in str(error.value)
    assert "hush-hush" not in str(error.value)


async def test_it_is_known_whether_the_old_token_may_have_been_used() -> None:
    for failure, sent in ((httpx.ConnectError("refused"), False), (httpx.ReadTimeout("late"), True)):
        client, _ = build(failure)
        with pytest.raises(NetworkFailure) as error:
            await client.refresh(SecretStr("old"))
        assert error.value.sent is sent


async def test_an_empty_answer_is_asked_again_where_the_vendor_is_known_for_it() -> None:
    client, _ = build(httpx.Response(200), retry_after_empty_answer=True)
    with pytest.raises(NetworkFailure):
        await client.refresh(SecretStr("old"))


def test_the_consent_page_carries_state_and_scopes() -> None:
    client, _ = build(httpx.Response(200), authorize_url="http://vendor.test/auth", scopes=("a", "b"))
    url = httpx.URL(client.authorize_url("http://localhost/cb", "xyz"))
    assert dict(url.params) == {
        "client_id": "id",
        "redirect_uri": "http://localhost/cb",
        "response_type": "code",
        "state": "xyz",
        "scope": "a b",
    }


async def test_a_vendor_that_never_rotates_may_leave_the_token_out() -> None:
    client, _ = build(httpx.Response(200, json={"access_token": "a"}), refresh_token_rotates=False)
    tokens = await client.refresh(SecretStr("kept"))
    assert tokens.refresh_token.get_secret_value() == "kept"
    assert (tokens.expires_at - tokens.issued_at).total_seconds() == 600


async def test_a_wait_the_vendor_names_is_taken_over() -> None:
    client, _ = build(httpx.Response(429, headers={"retry-after": "90"}))
    with pytest.raises(RateLimited) as limited:
        await client.refresh(SecretStr("old"))
    assert limited.value.retry_after_s == 90


async def test_tokens_do_not_show_themselves() -> None:
    client, _ = build(httpx.Response(200, json=GOOD | {"access_token": "plain-text"}))
    tokens = await client.exchange("code", "http://localhost/cb")
    assert "plain-text" not in repr(tokens)


async def test_a_given_transport_stays_open() -> None:
    client, requests = build(httpx.Response(200, json=GOOD))
    await client.refresh(SecretStr("one"))
    await client.refresh(SecretStr("two"))
    assert len(requests) == 2
