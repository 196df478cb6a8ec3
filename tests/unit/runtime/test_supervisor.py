"""Real processes, short-lived: restarts, back-off, refusal of settings, drain, and no orphans."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bus.core.errors import SettingsError
from bus.runtime import supervisor
from bus.runtime.supervisor import GUARD_VARIABLE, Child, Supervisor, guard


def child(code: str, name: str = "child") -> Child:
    return Child(name, (sys.executable, "-c", code))


def waits_until(stop: asyncio.Event, count: int) -> tuple[list[float], Callable[[float], Awaitable[None]]]:
    """A sleep that only counts, and stops the supervisor at the `count`-th."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) >= count:
            stop.set()
            await asyncio.Event().wait()

    return waited, sleep


async def test_a_child_that_ends_starts_again_with_a_growing_wait() -> None:
    stop = asyncio.Event()
    waited, sleep = waits_until(stop, 3)
    one = Supervisor([child("raise SystemExit(3)")], sleep=sleep)
    await one.run(stop)
    assert waited == [1.0, 2.0, 4.0]
    assert one.restarts == {"child": 3}


async def test_a_child_that_ran_for_long_starts_its_back_off_anew() -> None:
    stop = asyncio.Event()
    waited, sleep = waits_until(stop, 3)
    ticks = iter(range(0, 100_000, 100))
    one = Supervisor([child("pass")], sleep=sleep, now=lambda: float(next(ticks)))
    await one.run(stop)
    assert waited == [supervisor.FIRST_WAIT_S] * 3


async def test_refused_settings_end_everything() -> None:
    one = Supervisor([child("raise SystemExit(78)", "sinks"), child("import time; time.sleep(60)", "other")])
    with pytest.raises(SettingsError, match="sinks refused its settings"):
        await one.run(asyncio.Event())
    assert one.running == {}


async def test_a_stop_drains_children_and_kills_those_that_do_not(tmp_path: Path) -> None:
    gentle = tmp_path / "gentle"
    code = (
        "import signal, sys, pathlib, threading\n"
        "done = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: done.set())\n"
        "pathlib.Path({ready!r}).touch()\n"
        "done.wait()\n"
        "pathlib.Path({ended!r}).touch()\n"
    )
    stubborn_code = (
        "import signal, pathlib, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\npathlib.Path({!r}).touch()\ntime.sleep(60)"
    )
    stubborn = tmp_path / "stubborn"
    one = Supervisor(
        [
            child(code.format(ready=str(gentle), ended=f"{gentle}.ended"), "gentle"),
            child(stubborn_code.format(str(stubborn)), "stubborn"),
        ],
        drain_s=1.0,
    )
    stop = asyncio.Event()
    running = asyncio.ensure_future(one.run(stop))
    while not (gentle.exists() and stubborn.exists()):
        await asyncio.sleep(0.01)
    stop.set()
    await running
    assert Path(f"{gentle}.ended").exists()
    assert one.running == {}
    assert one.restarts == {"gentle": 0, "stubborn": 0}


ORPHAN = """
import os, sys, threading, pathlib
from bus.runtime import supervisor
supervisor.guard(drain_s=0.1)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
threading.Event().wait()
"""
PARENT = """
import asyncio, sys
from bus.runtime.supervisor import Child, Supervisor
asyncio.run(Supervisor([Child("orphan", (sys.executable, "-c", sys.argv[1], sys.argv[2]))]).run(asyncio.Event()))
"""


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, ORPHAN, str(note)], stderr=subprocess.DEVNULL)
    while not (note.exists() and note.read_text()):
        os.sched_yield()
    pid = int(note.read_text())
    parent.kill()
    parent.wait()
    while alive(pid):
        os.sched_yield()


def alive(pid: int) -> bool:
    """Whether a process still runs; one that ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_without_a_supervisor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(supervisor.threading, "Thread", lambda **members: started.append(members))
    guard({})
    assert started == []


def test_the_guard_ends_the_process_when_the_pipe_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    sent: list[tuple[int, int]] = []
    ended: list[int] = []
    threads: list[Callable[[], None]] = []

    class Thread:
        def __init__(self, target: Callable[[], None], **_members: object) -> None:
            threads.append(target)

        def start(self) -> None:
            """Run by the test."""

    monkeypatch.setattr(supervisor.threading, "Thread", Thread)
    monkeypatch.setattr(os, "kill", lambda *call: sent.append(call))
    monkeypatch.setattr(os, "_exit", ended.append)
    guard({GUARD_VARIABLE: str(read_end)}, drain_s=0)
    threads[0]()
    os.close(read_end)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert ended == [1]
