"""`python -m tests.faults [--seed N] [--only 1,3,7] [--long] [--broken] [--write] [--keep FOLDER]`."""

import argparse
import asyncio
import logging
import random
import sys
import time
from pathlib import Path

from tests.faults import report
from tests.faults.campaign import Result, Scenario, carry_out
from tests.faults.registry import SCENARIOS


def main() -> int:
    """Runs what is asked for; 1 when an oracle fails, a broken build is not caught, or something could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault campaign.")
    parser.add_argument("--seed", type=int, help="of an earlier run; without it, a new one, which is printed")
    parser.add_argument("--only", default="", help="numbers of scenarios, with commas")
    parser.add_argument("--long", action="store_true", help="the full counts: hours instead of minutes")
    parser.add_argument("--broken", action="store_true", help="run the deliberately broken builds, which the oracles must catch")
    parser.add_argument("--break", dest="build", default="", help="only this broken build")
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, which stays")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1, 1_000_000)
    numbers = {int(number) for number in asked.only.split(",") if number}
    chosen = [scenario for scenario in SCENARIOS if not numbers or scenario.number in numbers]
    if unknown := numbers - {scenario.number for scenario in SCENARIOS}:
        parser.error(f"no scenario {', '.join(map(str, sorted(unknown)))}")
    rows = rows_of(chosen, with_sound=not (asked.build or (asked.broken and not asked.long)), asked=asked)
    say(f"seed {seed}: {len(rows)} runs" + (", full counts" if asked.long else ""))
    logging.getLogger("bus").addHandler(logging.NullHandler())  # what clients of this process say of brokers that come and go
    logging.getLogger("bus").propagate = False
    begun = time.monotonic()

    def record(result: Result) -> None:
        if asked.write:  # each as it ends: a run of hours may be cut short
            report.write(result, seed=seed, is_long=asked.long)

    results = asyncio.run(carry_out(rows, seed=seed, is_long=asked.long, keep=asked.keep, say=say, record=record))
    say(f"\nseed {seed}, {time.monotonic() - begun:.0f} s\n")
    for line in report.lines(results):
        say(line)
    if asked.write:
        say(f"written: {report.PAGE}")
    return 0 if all(result.holds for result in results) else 1


def rows_of(chosen: list[Scenario], *, with_sound: bool, asked: argparse.Namespace) -> list[tuple[Scenario, str]]:
    """Sound builds first, then the broken ones."""
    rows = [(scenario, "") for scenario in chosen] if with_sound else []
    if asked.broken or asked.build:
        rows += [(scenario, name) for scenario in chosen for name in scenario.broken if asked.build in ("", name)]
    return rows


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["Result", "main"]
