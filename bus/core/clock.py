"""Time as a parameter, so that tests own it."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CLOCKS_APART = timedelta(seconds=5)
"""How far the clocks of a process that writes to a vendor and one that reads from it may differ: what is read within it of
a write may be older than that."""


class Clock(Protocol):
    """What the bus asks of time."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        ...

    def boot_ms(self) -> int:
        """Milliseconds since boot, sleep included; never steps back."""
        ...

    def boot_id(self) -> str:
        """Names the boot that `boot_ms` belongs to."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        return datetime.now(UTC)

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME where the system has it, else the monotonic clock."""
        return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000

    def boot_id(self) -> str:
        """The kernel's boot id; empty where there is none, so that intents fall back to the wall clock."""
        return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


class FrozenClock:
    """A clock that moves only when told."""

    def __init__(self, start: datetime = datetime(2026, 11, 21, 9, 0, tzinfo=UTC), boot: str = "boot-1") -> None:
        self._start = start
        self._passed = timedelta()
        self._boot = boot

    def advance(self, seconds: float) -> None:
        """Moves both clocks."""
        self._passed += timedelta(seconds=seconds)

    def now(self) -> datetime:
        """Wall clock."""
        return self._start + self._passed

    def boot_ms(self) -> int:
        """Since the frozen start."""
        return int(self._passed.total_seconds() * 1000)

    def boot_id(self) -> str:
        """The frozen boot."""
        return self._boot


def micros(moment: datetime) -> int:
    """Microseconds since the epoch, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
