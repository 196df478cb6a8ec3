"""Figures: a value with its unit and aim, medians over rounds, peak memory of a process."""

import os
import platform
import resource
from pathlib import Path
from statistics import median

import msgspec

MIB = 1024 * 1024


class Figure(msgspec.Struct, kw_only=True):
    """One measured value."""

    name: str
    value: float
    unit: str
    aim: float | None = None
    at_least: bool = True
    """Whether the aim is a floor; else it is a ceiling."""
    peak_mib: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim


def medians(rounds: list[list[Figure]]) -> list[Figure]:
    """One figure per name: the median value, the highest peak."""
    found = []
    for figures in zip(*rounds, strict=True):
        peaks = [figure.peak_mib for figure in figures if figure.peak_mib is not None]
        value = median(figure.value for figure in figures)
        found.append(msgspec.structs.replace(figures[0], value=value, peak_mib=max(peaks) if peaks else None))
    return found


def own_peak_mib() -> float:
    """Highest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if platform.system() == "Darwin" else peak / 1024


def quantile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]


def machine() -> str:
    """What it was measured on."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), "")
    return f"{os.cpu_count()} cores {model or platform.machine()}, Python {platform.python_version()}, {platform.system()}"
