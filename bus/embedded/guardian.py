"""Stands between the bus and a JVM: when the bus is gone, however it went, the JVM is told to end.

Run as `python guardian.py FD PIDFILE -- COMMAND …`. FD is the read end of a pipe whose write end only the bus holds; its end of file
means that the bus is gone. Works from any thread and on macOS, where no parent-death signal exists. Standard library only, so
that it starts at once.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

GRACE_S = 20


def start_time(pid: int) -> str:
    """When a process started, in the kernel's own count; empty where it cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def main() -> int:
    """Starts the command, forwards SIGTERM, ends it when the pipe closes; gives its exit code back."""
    descriptor, pid_file, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(f"{child.pid} {start_time(child.pid)}")
    fresh.replace(pid_file)

    def end(_number: int | None = None, _frame: FrameType | None = None) -> None:
        child.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        os.read(descriptor, 1)
        end()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    pid_file.unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
