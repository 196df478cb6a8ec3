"""One guarded JVM: start, readiness, stop, the last words of its log."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bus.embedded import guardian
from bus.embedded.problems import EmbeddedError

STOP_S = 20.0
LOG_TAIL_LINES = 15
POLL_S = 0.05
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class GuardedProcess:
    """A child that ends with us."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self._home = home
        self.log = home / f"{name}.log"
        self.pid_file = home / f"{name}.pid"
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None

    def start(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        """Starts the command under a guardian; its output goes to a new log file, the one before is kept beside it."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        kept = {key: value for key, value in os.environ.items() if key in KEPT_VARIABLES}
        read_end, self._pipe = os.pipe()
        try:
            with self.log.open("wb") as log:
                self._child = subprocess.Popen(  # noqa: S603
                    [sys.executable, guardian.__file__, str(read_end), str(self.pid_file), "--", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder or self._home,
                    env={**kept, "MALLOC_ARENA_MAX": "2", **(environment or {})},
                    pass_fds=(read_end,),
                    start_new_session=True,  # Ctrl-C reaches the bus only, which then stops its children in order
                )
        finally:
            os.close(read_end)

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Returns when ready. Raises EmbeddedError with the log's last lines when it ended or took too long."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not self.is_running():
                raise EmbeddedError(f"{self.name} ended while starting. The last lines of {self.log}:\n{self.tail()}")
            if is_ready():
                return
            _pause(POLL_S)
        raise EmbeddedError(f"{self.name} was not ready within {timeout_s:.0f} s. The last lines of {self.log}:\n{self.tail()}")

    def is_running(self) -> bool:
        """Whether the guardian and so the JVM lives."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """The JVM's process id."""
        try:
            return int(self.pid_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def stop(self) -> None:
        """SIGTERM through the guardian, a bounded wait, then whatever is left of both."""
        child, self._child = self._child, None
        if child is not None:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            end_leftover(self.pid_file)
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def rss_mb(self) -> int:
        """Resident memory of the JVM in MiB; 0 where it cannot be told."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), 0)

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]) or "(empty)"
        except OSError:
            return "(no log)"


def end_leftover(pid_file: Path) -> None:
    """Ends a JVM that an earlier, killed bus left behind: by id and start time, so that no stranger is ever hit."""
    try:
        pid_text, started = [*pid_file.read_text().split(), ""][:2]
        pid = int(pid_text)
    except (OSError, ValueError):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not started or guardian.start_time(pid) != started:
            break
        os.kill(pid, number)
        end = time.monotonic() + STOP_S
        while guardian.start_time(pid) == started and time.monotonic() < end:
            _pause(POLL_S)
    pid_file.unlink(missing_ok=True)


def _pause(seconds: float) -> None:
    """Waits for another process; nothing in this one could wake us."""
    threading.Event().wait(seconds)
