"""`python -m tests.simulation sink --seeds 1000`: plays histories, prints the seeds that fail; one seed prints its story.

Run it with PYTHONHASHSEED=0: the order of sets of text is chance too.
"""

import argparse
import os
import sys

from tests.simulation.broken import BUILDS
from tests.simulation.playing import MACHINES, play_all, play_broken, play_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("machine", choices=[*sorted(MACHINES), "broken"], help="broken: every broken build, until it is caught")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--broken", default="", help="the name of a broken build, see tests/simulation/broken.py")
    parser.add_argument("--of", default="", help="broken: only those of one machine")
    parser.add_argument("--stop", type=int, default=5, help="after so many failures")
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    if alone := os.environ.get("BUS_SIM_SEED"):
        failure, story = play_one(given.machine, int(alone), given.broken)
        print("\n".join(story))
        print(failure or "well")
        return 1 if failure else 0
    if given.machine == "broken":
        names = [name for name, build in BUILDS.items() if given.broken in ("", name) and given.of in ("", build.machine)]
        return play_broken(names, range(given.first, given.first + given.seeds))
    return play_all(given.machine, range(given.first, given.first + given.seeds), given.broken, stop=given.stop)


sys.exit(main())
