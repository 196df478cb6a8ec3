"""Every error of the HTTP libraries has a class, and what may have left is never called unsent."""

import asyncio

import aiohttp
import httpx
import pytest

from bus.core.errors import ApiChanged, BusError, NetworkFailure, TransientError, Unavailable
from bus.kit.failures import NOT_CONNECTED, NOT_SENT, TRANSLATED, never_left, translate

BUGS = {
    httpx.CookieConflict,
    httpx.StreamError,
    httpx.StreamConsumed,
    httpx.StreamClosed,
    httpx.ResponseNotRead,
    httpx.RequestNotRead,
}
"""Misuse of httpx by ourselves: these end the process, as bugs do."""


def exceptions(module: object) -> list[type[Exception]]:
    found = (getattr(module, name) for name in dir(module))
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)]


def made(kind: type[Exception]) -> Exception:
    """An instance without its constructor, which differs per class."""
    error = kind.__new__(kind)
    error.args = ("jan@devries.test",)
    return error


@pytest.mark.parametrize("kind", exceptions(httpx), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("write", [False, True])
def test_every_exception_of_httpx_has_a_class_or_is_a_bug(kind: type[Exception], write: bool) -> None:
    assert issubclass(kind, TRANSLATED) is (kind not in BUGS)
    if kind in BUGS:
        return
    error = translate(made(kind), "/x", write=write)
    assert isinstance(error, BusError)
    assert "devries" not in str(error)


def aiohttp_errors() -> list[type[Exception]]:
    return [kind for kind in exceptions(aiohttp) if issubclass(kind, aiohttp.ClientError)]


@pytest.mark.parametrize("kind", aiohttp_errors(), ids=lambda kind: kind.__name__)
def test_every_exception_of_aiohttp_is_a_network_failure(kind: type[Exception]) -> None:
    error = translate(made(kind), "/x", write=True)
    assert isinstance(error, NetworkFailure)
    assert error.sent is not issubclass(kind, NOT_CONNECTED)


@pytest.mark.parametrize(
    "cause", [aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(104, "reset"), aiohttp.ClientPayloadError()]
)
def test_a_connection_that_broke_after_sending_is_never_called_unsent(cause: Exception) -> None:
    broken = httpx.ConnectTimeout("what the transport makes of it")
    broken.__cause__ = cause
    assert isinstance(broken, NOT_SENT)
    assert not never_left(broken)


def test_a_refused_connection_is_known_to_be_unsent() -> None:
    refused = httpx.ConnectError("refused")
    refused.__cause__ = made(aiohttp.ClientConnectorError)
    assert never_left(refused)
    assert never_left(httpx.PoolTimeout("full"))
    assert not never_left(httpx.ReadTimeout("late"))
    assert not never_left(TimeoutError())
    assert not never_left(ConnectionResetError())


def test_an_unreadable_answer_of_a_write_leaves_it_open() -> None:
    assert isinstance(translate(httpx.DecodingError("gzip"), "/x", write=False), ApiChanged)
    assert isinstance(translate(httpx.DecodingError("gzip"), "/x", write=True), Unavailable)


def test_a_timeout_of_ours_is_a_failure_of_the_network() -> None:
    assert issubclass(asyncio.TimeoutError, TRANSLATED)
    assert isinstance(translate(TimeoutError(), "/x", write=False), TransientError)
