"""A simulator in a process of its own, as `bus simulate` runs it, with more of it to choose.

`python -m tests.faults.simulator quickbooks --realm 17 --real-limits`
`python -m tests.faults.simulator exact_online --shift-s -86400 --line-of-equals 2500`
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bus.runtime import supervisor
from bus.runtime.supervisor import GUARD_VARIABLE
from bus.simulation.simulator import Served
from services.demonstration.stage import SimulatorProcess, _first_line

ROOT = Path(__file__).parents[2]


class Arranged(SimulatorProcess):
    """A simulator of this module, to be asked and told like any other."""

    @classmethod
    async def launch(cls, system: str, *, log: Path, **options: Any) -> "Arranged":
        """Starts it; `options` are those of this module's command line. It ends when this process does."""
        words = []
        for name, value in options.items():
            if value is not False:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        read_end, write_end = os.pipe()
        try:
            with log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.faults.simulator", system, *words),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=file,
                    pass_fds=(read_end,),
                    start_new_session=True,
                    cwd=ROOT,
                    env={**os.environ, GUARD_VARIABLE: str(read_end)},
                    limit=1 << 20,
                )
        finally:
            os.close(read_end)
        try:
            return cls(system, await _first_line(process, system, log), process, write_end)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            os.close(write_end)
            raise


def build(asked: argparse.Namespace) -> Any:
    """The simulator as asked for."""
    module = importlib.import_module(f"connectors.{asked.system}.simulator")
    if asked.realm:
        module.REALM = asked.realm  # type: ignore[attr-defined]
    simulator = module.build(real_limits=asked.real_limits)
    simulator.clock.advance(asked.shift_s)
    simulator.seed(asked.orders, asked.seed)
    return simulator


async def run(simulator: Any) -> None:
    served = Served(simulator)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, served.stop)
    print(json.dumps(served.info), flush=True)
    await served.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("--orders", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--realm", default="")
    parser.add_argument("--real-limits", action="store_true")
    parser.add_argument("--shift-s", type=float, default=0.0)
    given = parser.parse_args()
    supervisor.guard()
    asyncio.run(run(build(given)))
