"""docs/faults.md, written by the run it tells of."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.campaign import Result

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """# The fault campaign

Real service processes, Kafka and registry of `bus/embedded`, the two simulators, and what is done to them. Each figure is counted
from the vendors' own books and call logs and from committed records, by a reader of its own (`tests/faults/oracle.py`), never
from what the services say. This page is written by the run itself.
"""
AGAIN = """## To see it again

```
make faults                                        # this table
make faults-long                                   # the full counts, and the broken builds
python -m tests.faults --only 3 --seed {seed}            # one scenario with the chances of this run
python -m tests.faults --only 3 --seed {seed} --keep /tmp/seen   # and keep its logs
python -m tests.faults --only 3 --break guard      # with a broken build: the oracle must fail
```

A seed decides what is changed, who is struck and when; the operating system decides the rest, so that two runs of one seed are
two trials of one plan, not two copies of one history.
"""


def lines(results: Sequence[Result]) -> list[str]:
    """One line per run."""
    return [
        f"{result.scenario.number:>2}  {result.verdict:<12} {result.scenario.title}"
        + (f" [broken: {result.broken}]" if result.broken else "")
        for result in results
    ]


def write(results: Sequence[Result], *, seed: int, is_long: bool, seconds: float) -> Path:
    """Writes the page; returns where."""
    PAGE.write_text(page(results, seed=seed, is_long=is_long, seconds=seconds))
    return PAGE


def page(results: Sequence[Result], *, seed: int, is_long: bool, seconds: float) -> str:
    """The page."""
    sound = [result for result in results if not result.broken]
    broken = [result for result in results if result.broken]
    parts = [
        HEAD,
        f"{'`make faults-long`' if is_long else '`make faults`'}, seed {seed}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, "
        f"{seconds / 60:.0f} minutes, on {_machine()}.\n",
        "| # | Fault | Done | Figures | Verdict |\n|---|---|---|---|---|",
        *(_row(result) for result in sound),
    ]
    if notes := [
        note for result in sound if not result.holds for note in (f"{result.scenario.number}: {n}" for n in _notes(result))
    ]:
        parts += ["\n## What did not hold\n", *(f"- {note}" for note in notes)]
    if broken:
        parts += [
            "\n## Broken builds\n",
            "A checker nobody has seen fail is no checker. Each row ran with one guard taken out; its oracle had to fail.\n",
            "| # | Taken out | What the oracle said | Verdict |\n|---|---|---|---|",
            *(_broken_row(result) for result in broken),
        ]
    return "\n".join(parts) + "\n\n" + AGAIN.format(seed=seed)


def _row(result: Result) -> str:
    cells = [str(result.scenario.number), result.scenario.title, result.figures.done, _figures(result), result.verdict]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _broken_row(result: Result) -> str:
    from tests.faults.broken import BUILDS

    failed = ", ".join(str(figure) for figure in result.figures.found if not figure.holds) or result.error
    cells = [str(result.scenario.number), BUILDS[result.broken].what, failed, result.verdict]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _figures(result: Result) -> str:
    return ", ".join(map(str, result.figures.found))


def _notes(result: Result) -> list[str]:
    return result.figures.notes or [result.verdict]


def _machine() -> str:
    """Processor and cores, as far as the system tells."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"
