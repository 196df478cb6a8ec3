"""The transport under every client: aiohttp's pool behind httpx's interface, a third of the cost per call of httpx's own."""

import contextlib
import ssl
from functools import cache
from ipaddress import ip_address

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

KEEPALIVE_S = 15.0
"""Idle connections are dropped before vendors drop them: a write on a connection just closed would end unclear."""
USER_AGENT = "integration-bus"


@cache
def _tls() -> ssl.SSLContext:
    """One context for all: reading the certificates costs more than many calls."""
    return httpx.create_ssl_context()


def is_here(url: str) -> bool:
    """Whether a URL leads to this machine: no proxy of the environment is asked for that."""
    host = httpx.URL(url).host
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def pooled_transport(connections_max: int, *, is_proxied: bool = True) -> httpx.AsyncBaseTransport:
    """A pool of at most `connections_max` connections. It keeps no cookies and never repeats a call by itself.

    `is_proxied`: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment hold.
    """

    def session() -> aiohttp.ClientSession:
        pool = aiohttp.TCPConnector(limit=connections_max, ssl=_tls(), keepalive_timeout=KEEPALIVE_S)
        made = aiohttp.ClientSession(connector=pool, cookie_jar=aiohttp.DummyCookieJar(), trust_env=is_proxied)
        # aiohttp sends a PUT or DELETE again when a pooled connection breaks: uncounted, and a write is never repeated here.
        made._retry_connection = False  # noqa: SLF001 - there is no public switch; a test cuts connections to prove it
        return made

    return AiohttpTransport(verify=_tls(), client=session)
