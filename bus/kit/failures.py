"""Errors of the HTTP libraries, translated here and nowhere else (the bus's other edge is Kafka).

What matters most is `sent`: a write that may have left must be resolved before anything is repeated, one that cannot have left
may simply be tried again. In doubt a request counts as sent.
"""

import aiohttp
import httpx

from bus.core.errors import ApiChanged, BusError, NetworkFailure, Unavailable

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
"""Errors of httpx that come before the first byte of a request."""
NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
"""Errors of aiohttp that come before the first byte of a request."""
TRANSLATED = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError)
"""What a call may raise; TimeoutError is an OSError. Anything else is a bug of ours."""


def never_left(error: Exception) -> bool:
    """Whether a request cannot have reached the vendor.

    The aiohttp transport calls a connection that broke after sending a ConnectTimeout as well; the error it was made from knows.
    """
    origin = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(origin, aiohttp.ClientError):
        return isinstance(origin, NOT_CONNECTED)
    return isinstance(origin, NOT_SENT)


def network_failure(error: Exception, path: str) -> NetworkFailure:
    """No whole answer."""
    return NetworkFailure(f"{path}: {type(error).__name__}", sent=not never_left(error))


def unreadable(message: str, *, write: bool) -> BusError:
    """An answer that says success and cannot be read: reading stops, a write may have happened."""
    return Unavailable(f"{message}: whether the write happened is unknown") if write else ApiChanged(message)


def translate(error: Exception, path: str, *, write: bool) -> BusError:
    """The class of an error of TRANSLATED. Its own text is left out: it may quote a URL, a header or a body."""
    name = type(error).__name__
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ApiChanged(f"{path}: no URL that can be called ({name})")
    if isinstance(error, httpx.DecodingError):
        return unreadable(f"{path}: the answer cannot be decompressed", write=write)
    if isinstance(error, httpx.HTTPStatusError | httpx.TooManyRedirects):
        return unreadable(f"{path}: {name}", write=write)
    return network_failure(error, path)
