"""Runs a service as `python -m` does, with what a test needs of it arranged beforehand.

`python -m tests.e2e.launcher services.sinks --boot-later 140`   a process whose machine has been up 140 s longer
`python -m tests.e2e.launcher services.pollers --die-at 3`       kill -9 in its third commit, between flush and commit
`python -m tests.e2e.launcher services.pollers --freeze-at 3`    SIGSTOP there; once awake it goes on with its commit
"""

import argparse
import itertools
import os
import runpy
import signal

from confluent_kafka import Producer

from bus.core.clock import SystemClock
from bus.runtime import publisher

FLUSH_S = 10.0


def let_time_pass(seconds: int) -> None:
    """The clock since boot is further on: whoever waits for the deadline of a dead owner's call need not wait for it here."""
    real = SystemClock.boot_ms
    SystemClock.boot_ms = lambda self: real(self) + seconds * 1000  # type: ignore[method-assign]


def struck_at(number: int, blow: signal.Signals) -> None:
    """The process is struck in its commit of this number, when every record is with the broker and none is committed."""
    commits = itertools.count(1)

    class Struck(Producer):
        def commit_transaction(self, *arguments: float) -> None:
            if next(commits) == number:
                self.flush(FLUSH_S)
                os.write(2, b"struck\n")
                os.kill(os.getpid(), blow)
            super().commit_transaction(*arguments)

    publisher.Producer = Struck  # type: ignore[misc, attr-defined]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--boot-later", type=int, default=0)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--freeze-at", type=int, default=0)
    asked = parser.parse_args()
    if asked.boot_later:
        let_time_pass(asked.boot_later)
    if asked.die_at:
        struck_at(asked.die_at, signal.SIGKILL)
    if asked.freeze_at:
        struck_at(asked.freeze_at, signal.SIGSTOP)
    runpy.run_module(asked.module, run_name="__main__")
