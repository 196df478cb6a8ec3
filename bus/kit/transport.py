"""The transport under every client: aiohttp's pool behind httpx's interface, a third of the cost per call of httpx's own."""

import ssl
from functools import cache

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


def pooled_transport(connections_max: int) -> httpx.AsyncBaseTransport:
    """A pool of at most `connections_max` connections. It keeps no cookies and never repeats a call by itself."""

    def session() -> aiohttp.ClientSession:
        pool = aiohttp.TCPConnector(limit=connections_max, ssl=_tls(), keepalive_timeout=KEEPALIVE_S)
        made = aiohttp.ClientSession(connector=pool, cookie_jar=aiohttp.DummyCookieJar())
        # aiohttp sends a PUT or DELETE again when a pooled connection breaks: uncounted, and a write is never repeated here.
        made._retry_connection = False  # noqa: SLF001 - there is no public switch; a test cuts connections to prove it
        return made

    return AiohttpTransport(verify=_tls(), client=session)
