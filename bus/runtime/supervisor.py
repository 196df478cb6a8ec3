"""Runs services as processes of their own: restarts with back-off, no orphans, a bounded drain.

Orphans: every child holds the read end of a pipe whose write end only the supervisor has. When the supervisor ends, however it
ends, the pipe closes and the child drains itself (`guard`). This works where PR_SET_PDEATHSIG does not exist, and does not
depend on which thread forked.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from bus.core.errors import SettingsError
from bus.runtime import metrics

GUARD_VARIABLE = "BUS_SUPERVISOR_FD"
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
STEADY_S = 60.0
"""A child that ran this long starts its back-off anew."""
DRAIN_S = 20.0
"""How long children may take to end after SIGTERM before they are killed."""

log = logging.getLogger(__name__)


class Child(NamedTuple):
    """A process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = {}


def python(name: str, module: str, environment: Mapping[str, str] | None = None) -> Child:
    """A child that runs a module of this installation."""
    return Child(name, (sys.executable, "-m", module), environment or {})


class Supervisor:
    """Keeps children running until told to stop. One JSON log line per start, end and restart."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        drain_s: float = DRAIN_S,
        logs: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.restarts: dict[str, int] = {child.name: 0 for child in children}
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self._children = children
        self._drain_s = drain_s
        self._logs = logs
        self._sleep = sleep
        self._now = now
        self._stopping = False
        self._guard: tuple[int, int] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Starts all, restarts what ends, and on `stop` drains all.

        Raises SettingsError when a child refuses its settings (exit 78): restarting would not help.
        """
        self._guard = os.pipe()
        os.set_inheritable(self._guard[0], True)
        tasks = [asyncio.ensure_future(self._keep(child)) for child in self._children]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not stopped:
                    task.result()
        finally:
            self._stopping = True
            stopped.cancel()
            await self._drain(tasks)
            for end in self._guard:
                os.close(end)

    async def _keep(self, child: Child) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping:
            began = self._now()
            code = await self._once(child)
            if self._stopping:
                return
            if code == SettingsError.exit_code:
                raise SettingsError(f"{child.name} refused its settings: see its last message")
            wait_s = FIRST_WAIT_S if self._now() - began > STEADY_S else min(wait_s * 2, LONGEST_WAIT_S)
            self.restarts[child.name] += 1
            metrics.count("bus_restarts_total", child=child.name)
            log.warning("child ended, starts again", extra={"child": child.name, "exit_code": code, "wait_s": wait_s})
            await self._sleep(wait_s)

    async def _once(self, child: Child) -> int:
        assert self._guard is not None
        environment = {**os.environ, **child.environment, GUARD_VARIABLE: str(self._guard[0])}
        with self._output(child.name) as output:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                env=environment,
                pass_fds=(self._guard[0],),
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.running[child.name] = process
        log.info("child started", extra={"child": child.name, "process_id": process.pid})
        code = await process.wait()
        del self.running[child.name]
        log.info("child ended", extra={"child": child.name, "exit_code": code})
        return code

    def _output(self, name: str) -> contextlib.AbstractContextManager[IO[bytes] | None]:
        """A log file per child where a folder is given, else our own output."""
        return contextlib.nullcontext() if self._logs is None else (self._logs / f"{name}.log").open("ab")

    async def _drain(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """SIGTERM to all, a bounded wait, SIGKILL to what is left."""
        self._signal(signal.SIGTERM)
        waiting = [asyncio.ensure_future(process.wait()) for process in self.running.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=self._drain_s)
            if late:
                log.error("children did not drain in time, killing them", extra={"children": sorted(self.running)})
                self._signal(signal.SIGKILL)
                await asyncio.wait(late)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def guard(environment: Mapping[str, str] = os.environ, *, drain_s: float = DRAIN_S) -> None:
    """In a child: ends this process when its supervisor is gone. Does nothing for a process that has none."""
    text = environment.get(GUARD_VARIABLE)
    if text is None:
        return
    descriptor = int(text)

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(descriptor, 1)
        log.error("the supervisor is gone: draining")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(drain_s)
        os._exit(1)  # the drain hung; nobody is left who would kill this process

    threading.Thread(target=watch, name="supervisor-guard", daemon=True).start()
