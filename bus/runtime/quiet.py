"""Waits until nothing is on its way."""

import asyncio

from bus.core.clock import SystemClock
from bus.runtime.books import BookReader, Books
from bus.runtime.codec import Codec
from bus.runtime.publication import read_published
from bus.runtime.settings import BusSettings

LOOK_EVERY_S = 1.0
LOOKS = 3
"""Equal quiet looks in a row before quiet is believed: a record between two topics is in neither's lag for a moment."""


async def current_books(settings: BusSettings, codec: Codec) -> Books:
    """The books now."""
    reader = BookReader(settings, codec)
    try:
        published = await read_published(settings, codec)
        return await reader.read(published.configuration, published.version)
    finally:
        await reader.close()


async def wait_quiet(settings: BusSettings, codec: Codec, wait_s: float) -> tuple[Books, bool]:
    """The books when nothing was in flight for several looks, or as they are after `wait_s`; whether they are quiet."""
    clock = SystemClock()
    reader = BookReader(settings, codec)
    published = await read_published(settings, codec)
    end_ms = clock.boot_ms() + int(wait_s * 1000)
    equal, before = 0, b""
    try:
        while True:
            books = await reader.read(published.configuration, published.version)
            now = books.fingerprint()
            equal = equal + 1 if books.is_quiet(sorted(published.configuration.connections)) and now == before else 0
            before = now
            if equal >= LOOKS:
                return books, True
            if clock.boot_ms() >= end_ms:
                return books, False
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await reader.close()
