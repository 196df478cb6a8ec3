"""Stands between the bus and a JVM: when the bus is gone, however it went, the JVM is told to end.

Run as `python guardian.py FD PIDFILE -- COMMAND …`. FD is the read end of a pipe whose write end only the bus holds; its end of
file means that the bus is gone. That works from any thread, and where no parent-death signal exists. Where one exists (Linux), it
covers the guardian's own death. Standard library only, so that it starts at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

GRACE_S = 20
PR_SET_PDEATHSIG = 1
"""https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html"""


def start_time(pid: int) -> str:
    """When a living process started, in the kernel's own count; empty for the dead, and where it cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def end_with_this_thread() -> Callable[[], None] | None:
    """What a child runs before its program so that it ends with the thread that forked it; None where no system call does it."""
    if sys.platform != "linux":
        return None
    library, guardian = ctypes.CDLL(None), os.getpid()

    def arm() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # it died before the line above
            os._exit(1)

    return arm


def main() -> int:
    """Starts the command, forwards SIGTERM, ends it when the pipe closes; gives its exit code back."""
    descriptor, pid_file, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:]
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def end(_number: int | None = None, _frame: FrameType | None = None) -> None:
        stopping.set()
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, end)  # before the child, so that none is left by a signal in between
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_this_thread())  # noqa: PLW1509, S603
    if stopping.is_set():
        child.terminate()
    identity = f"{child.pid} {start_time(child.pid)}"
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(identity)
    fresh.replace(pid_file)
    threading.Thread(target=_end_with_pipe, args=(descriptor, child), daemon=True).start()
    code = child.wait()
    if pid_file.exists() and pid_file.read_text() == identity:
        pid_file.unlink()
    return code


def _end_with_pipe(descriptor: int, child: "subprocess.Popen[bytes]") -> None:
    os.read(descriptor, 1)
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
