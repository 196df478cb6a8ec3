"""docs/faults.md, written by the runs it tells of: each run replaces its own rows and leaves the others as they were.

The rows are kept beside it (docs/faults.json), so that a row run alone, or for hours, finds its place in the whole.
"""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.broken import BUILDS
from tests.faults.campaign import Result
from tests.faults.registry import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
ROWS = PAGE.with_suffix(".json")

HEAD = """# The fault campaign

Real service processes, Kafka and registry of `bus/embedded`, the two simulators, and what is done to them. Each figure is counted
from the vendors' own books and call logs and from committed records, by a reader of its own (`tests/faults/oracle.py`), never
from what the services say. This page is written by the runs themselves: do not edit it.
"""
COLUMNS = "| # | Fault | Done | Figures | Verdict | Run |\n|---|---|---|---|---|---|"
FULL = """
## Full counts

The same rows as `make faults-long` runs them; a row that is not here was not run with full counts yet.
"""
BROKEN = """
## Broken builds

A checker nobody has seen fail is no checker. Each row ran with one guard taken out of the services; its oracle had to fail.

| # | Taken out | What the oracle said | Verdict | Run |
|---|---|---|---|---|"""
BY_DESIGN = """
## What no design survives, and what the operator sees

- **A single-use refresh token lost between the vendor's answer and our store.** The vendor has used up the old token and nobody
  holds the new one (row 12 kills processes right there). The intent of before tells the successor to try the old token once;
  where the vendor gives no second chance it answers `invalid_grant`, and that account waits for a person, with one alert
  (`bus_grants{state="LOGIN_NEEDED"}`). Others go on, nothing is lost, what waits goes on by itself after the login:

  ```
  $ bus grants list
   connection  state         access until         last refresh         what is needed
   exact-nl    LOGIN_NEEDED  2026-11-21 15:42:29  2026-11-21 15:32:30  a person: `bus grants login exact-nl`
                                                                       (token endpoint refuses the grant: 400 invalid_grant)
  ```

- **A lost answer to a create that has neither key nor search.** Nobody but the vendor can tell whether the object was made. The
  bus makes no second one: the record is dead with `AMBIGUOUS_WRITE` and says what to look for; `bus link` says what was found
  ([a write ended unclear](operating.md#a-write-ended-unclear-or-two-objects-claim-one)). No write of the shipped connectors is
  of this class; `tests/unit/sinks` holds it for those that will be.
- **An edit of the same field within the milliseconds between our read and our write**, at a vendor whose updates name no version
  (Exact Online). The vendor keeps the later of the two and tells nobody of the other. QuickBooks refuses such an update and it is
  judged anew.
- **The only broker's disk.** One broker keeps one copy: with three of them, and the settings
  the bus asks for (`acks=all`, and at least two in-sync copies on the broker's side), one may be lost.
"""
AGAIN = """
## To see it again

```
make faults                                                # the first table
make faults-long                                           # full counts, and the broken builds: hours
python -m tests.faults --only 3 --seed 7                   # one row, with the chances of that seed
python -m tests.faults --only 3 --seed 7 --keep FOLDER     # and keep its logs
python -m tests.faults --only 3 --long --write             # its full counts, onto this page
python -m tests.faults --only 3 --break no-guard           # with a broken build: the oracle must fail
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


def write(result: Result, *, seed: int, is_long: bool) -> None:
    """Puts a row in the place of the one of before, and writes the page anew."""
    known = json.loads(ROWS.read_text()) if ROWS.exists() else []
    rows = {_place(row): row for row in (*known, _row(result, seed=seed, is_long=is_long))}
    wanted = {(scenario.number, name) for scenario in SCENARIOS for name in ("", *scenario.broken)}
    kept = [row for place, row in sorted(rows.items()) if place[:2] in wanted]
    ROWS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(kept))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The page of these rows."""
    usual, full, broken = (
        [row for row in rows if (bool(row["broken"]), row["full"]) == kind]
        for kind in ((False, False), (False, True), (True, False))
    )
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    parts = [HEAD, f"Machine: {machines}. {_minutes(usual)} for the first table.\n", COLUMNS, *map(_line, usual)]
    if full:
        parts += [FULL, COLUMNS, *map(_line, full)]
    if notes := [
        f"- {row['number']}: {note}" for row in (*usual, *full) if not row["holds"] for note in row["notes"] or [row["verdict"]]
    ]:
        parts += ["\n## What did not hold\n", *notes]
    if broken:
        parts += [BROKEN, *map(_broken_line, broken)]
    return "\n".join([*parts, BY_DESIGN.rstrip(), AGAIN])


def _place(row: dict[str, Any]) -> tuple[int, str, bool]:
    return row["number"], row["broken"], row["full"]


def _row(result: Result, *, seed: int, is_long: bool) -> dict[str, Any]:
    failed = [str(figure) for figure in result.figures.found if not figure.holds]
    return {
        "number": result.scenario.number,
        "title": result.scenario.title,
        "broken": result.broken,
        "full": is_long and not result.broken,
        "seed": seed,
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "seconds": round(result.seconds),
        "done": result.figures.done,
        "figures": [str(figure) for figure in result.figures.found],
        "failed": failed or [result.error][: bool(result.error)],
        "notes": [] if result.holds else result.figures.notes,
        "verdict": result.verdict,
        "holds": result.holds,
        "machine": _machine(),
    }


def _line(row: dict[str, Any]) -> str:
    return _cells(row["number"], row["title"], row["done"], ", ".join(row["figures"]), row["verdict"], _run(row))


def _broken_line(row: dict[str, Any]) -> str:
    return _cells(row["number"], BUILDS[row["broken"]].what, ", ".join(row["failed"]), row["verdict"], _run(row))


def _run(row: dict[str, Any]) -> str:
    return f"seed {row['seed']}, {row['at']} UTC, {row['seconds']} s"


def _cells(*cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _minutes(rows: Iterable[dict[str, Any]]) -> str:
    return f"{sum(row['seconds'] for row in rows) / 60:.0f} minutes"


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
