"""Waiting for something to become true, with a limit: the only kind of waiting in these tests."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVar

import pytest

T = TypeVar("T")

LOOK_EVERY_S = 0.1


async def until(look: Callable[[], T | Awaitable[T]], seconds: float, what: str) -> T:
    """The first true answer of `look`. Fails the test, naming what was waited for."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        answer = await found if isawaitable(found) else found
        if answer:
            return answer
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}; last seen: {answer!r}")
        await asyncio.sleep(LOOK_EVERY_S)
