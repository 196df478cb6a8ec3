"""Ends a process that hangs, so that whoever keeps it running starts it anew (law 10: liveness is progress, not an open port).

Every step that must end is a span with a limit: a poll of the group, a commit, a command. A thread of its own looks
whether one lasts longer than it may, and whether the event loop still turns. Then it writes down where every thread stands and
ends the process; the next owner resolves what was open, as after any crash. /healthz says the same to Kubernetes.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

LOOP = "event loop"
LOOP_BEAT_S = 1.0
LOOP_LIMIT_S = 60.0
"""Nothing may keep the event loop from turning for so long."""
LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


class Watchdog:
    """What is under way in this process, and since when."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._spans: dict[int, tuple[str, float]] = {}
        self._numbers = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def span(self, what: str, limit_s: float) -> Iterator[None]:
        """A step that must end within `limit_s` seconds. Any thread; names hold nothing personal."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._spans[number] = what, self._now() + limit_s
        try:
            yield
        finally:
            with self._lock:
                del self._spans[number]

    def stuck(self) -> str | None:
        """What lasts longer than it may; None while all goes on."""
        now = self._now()
        with self._lock:
            late = [(end, what) for what, end in self._spans.values() if now > end]
        if not late:
            return None
        end, what = min(late)
        return f"{what} is over its limit by {now - end:.0f} s"

    async def beat(self) -> None:
        """Shows that the event loop turns, until cancelled."""
        while True:
            with self.span(LOOP, LOOP_LIMIT_S):
                await asyncio.sleep(LOOP_BEAT_S)

    def guard(self, end: Callable[[int], None] = os._exit) -> threading.Thread:
        """Watches from a thread of its own; a stuck process is ended with exit code 1."""
        thread = threading.Thread(target=self._guard, args=(end,), name="watchdog", daemon=True)
        thread.start()
        return thread

    def _guard(self, end: Callable[[int], None]) -> None:
        pause = threading.Event()
        while (reason := self.stuck()) is None:
            pause.wait(LOOK_EVERY_S)
        log.critical("stuck, ends itself: %s", reason)
        faulthandler.dump_traceback(all_threads=True)
        end(1)


WATCHDOG = Watchdog()
"""Of this process."""


def span(what: str, limit_s: float) -> contextlib.AbstractContextManager[None]:
    """A step of this process that must end within `limit_s` seconds."""
    return WATCHDOG.span(what, limit_s)
