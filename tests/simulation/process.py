"""A process that can be killed at any point, or frozen and thawed as by SIGSTOP and SIGCONT."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Process:
    """Everything it does to the outside goes through `gate`: dead it does nothing more, frozen it waits."""

    def __init__(self, name: str, machine: str = "machine-1") -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def gate(self) -> None:
        """Passes when the process runs."""
        while self.alive and not self._thawed.is_set():
            await self._thawed.wait()
        if not self.alive:
            raise asyncio.CancelledError(f"{self.name} is dead")

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=self.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def kill(self) -> None:
        """kill -9: what is on the wire still arrives, nothing else happens."""
        self.alive = False
        self._thawed.set()
        for task in sorted(self._tasks, key=lambda item: item.get_name()):
            task.cancel()
