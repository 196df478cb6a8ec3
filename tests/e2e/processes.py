"""A service as a process of its own, which a test may kill, stop for a while, or ask."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bus.runtime.supervisor import GUARD_VARIABLE
from tests.e2e.waiting import until

ROOT = Path(__file__).parents[2]
STOP_S = 25.0


class ServiceProcess:
    """One process of a service; its log lines go to a file of its own."""

    def __init__(self, service: str, log: Path, environment: Mapping[str, str], **arranged: int | float | str) -> None:
        """`arranged` are options of the launcher: `boot_later`, `die_at`, `freeze_at` and so on."""
        self.service = service
        self.log = log
        self.is_doomed = any(name.startswith("die_") for name in arranged)
        """Whether a signal may end it: it was killed, or is arranged to die."""
        options = [word for name, value in arranged.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        launcher = ["tests.e2e.launcher"] if options else []
        read_end, self._guard = os.pipe()  # the service drains itself when this end closes, however the tests end
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *launcher, f"services.{service}", *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env={**os.environ, **environment, GUARD_VARIABLE: str(read_end)},
                pass_fds=(read_end,),
                start_new_session=True,
            )
        os.close(read_end)

    # --- what it says ------------------------------------------------------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far; what is no JSON (a traceback of the interpreter) as a message."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                found.append({"message": line, "level": "RAW"})
        return found

    def said(self, text: str) -> list[dict[str, Any]]:
        """Log entries with this in their message."""
        return [line for line in self.lines() if text in str(line.get("message"))]

    async def ask(self, path: str) -> httpx.Response:
        """An answer of its health server."""
        port = (await until(lambda: self.said("started"), 20, f"{self.service} listens"))[0]["http_port"]
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")

    async def reasons(self) -> dict[str, str]:
        """What stands against its readiness; a start that has not come so far stands against it too."""
        try:
            answer = await self.ask("/readyz")
        except httpx.HTTPError as error:
            return {"health": type(error).__name__}
        reasons: dict[str, str] = answer.json()["reasons"]
        assert (answer.status_code == 200) is (not reasons)
        return reasons

    async def is_ready(self) -> bool:
        return not await self.reasons()

    # --- what is done to it ------------------------------------------------------------------------------------------------

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, negative for a signal."""
        return self._process.poll()

    def kill(self) -> None:
        """kill -9: nothing is drained, no group is left."""
        self.is_doomed = True
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it misses its heartbeats and knows nothing of it."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def died(self) -> int:
        """Waits for its end."""
        await until(lambda: self.code is not None, 60, f"{self.service} ends")
        assert self.code is not None
        return self.code

    def end(self) -> None:
        """SIGTERM; the wait is `gone`."""
        self.is_doomed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def gone(self) -> None:
        """Waits for the end, and sees to it. Asking twice is harmless."""
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1
