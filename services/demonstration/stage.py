"""Sets the scene: simulators as processes of their own, their credentials as secrets, the example turned towards them."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from bus.core.errors import FatalError
from bus.kit.registry import manifest_of
from bus.runtime.supervisor import GUARD_VARIABLE

START_S = 60.0
RAISED_FACTOR = 1_000
"""What the demo multiplies call limits by, on both sides, unless they are to be kept."""
STOP_S = 10.0
MARK = "demo.lock"
"""Says that a folder is a demo's, and is locked while one runs."""


class DemoError(FatalError):
    """The demo cannot go on; the message says what to do."""


class SimulatorProcess:
    """One simulator, and what may be asked of it beside the vendor's API."""

    def __init__(self, system: str, info: Mapping[str, Any], process: asyncio.subprocess.Process, guard: int) -> None:
        self.system = system
        self.info = info
        self.base_url: str = info["base_url"]
        self._process = process
        self._guard = guard
        self._client = httpx.AsyncClient(base_url=self.base_url, timeout=60.0)

    @classmethod
    async def start(cls, system: str, *, orders: int, seed: int, real_limits: bool, log: Path) -> "SimulatorProcess":
        """Starts `bus simulate SYSTEM` and reads its first line. It ends when this process does."""
        read_end, write_end = os.pipe()
        command = [sys.executable, "-m", "bus.cli.main", "simulate", system, "--orders", str(orders), "--seed", str(seed)]
        try:
            with log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    *(["--real-limits"] if real_limits else []),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=file,
                    pass_fds=(read_end,),
                    start_new_session=True,
                    env={**os.environ, GUARD_VARIABLE: str(read_end)},
                    limit=1 << 20,
                )
        except BaseException:
            os.close(write_end)
            raise
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

    async def ask(self, what: str, **params: str) -> Any:
        """An answer of the control API."""
        answer = await self._client.get(f"/_sim/{what}", params=params)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content)

    async def tell(self, what: str, body: Mapping[str, Any]) -> None:
        """An order to the control API."""
        answer = await self._client.post(f"/_sim/{what}", content=msgspec.json.encode(body))
        answer.raise_for_status()

    async def stop(self) -> None:
        """Ends the simulator."""
        await self._client.aclose()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
        os.close(self._guard)


async def _first_line(process: asyncio.subprocess.Process, system: str, log: Path) -> dict[str, Any]:
    """What a simulator says of itself when it listens."""
    assert process.stdout is not None
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
    if not line:
        raise DemoError(f"the simulator of {system} did not start: see {log}")
    said: dict[str, Any] = msgspec.json.decode(line)
    return said


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """An empty folder of a demo's own. Raises DemoError where it holds something no demo made, or another demo runs in it."""
    mark = folder / MARK
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.exists())):
        raise DemoError(f"{folder} holds what no demo made and is left alone: name another folder with --folder, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = mark.open("a")
    except OSError as error:
        raise DemoError(f"{folder} cannot be written to ({error.strerror}): name another folder with --folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo runs in {folder}: end it, or name another folder with --folder") from None
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
        yield


def systems_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """System by connection name."""
    return {item["name"]: item["system"] for item in documents if item["kind"] == "Connection"}


def read_documents(folder: Path) -> list[dict[str, Any]]:
    """The YAML documents of an example."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        found += [item for item in yaml.safe_load_all(path.read_text()) if item and "kind" in item]
    if not found:
        raise DemoError(f"{folder} holds no configuration: run the demo from the project's folder, or name one with --example")
    return found


def turned(
    documents: Sequence[dict[str, Any]],
    infos: Mapping[str, Mapping[str, Any]],
    start: date,
    poll_s: int | None,
    *,
    real_limits: bool,
) -> list[dict[str, Any]]:
    """The example with its connections turned to the simulators, its documents beginning at `start`, and polls every `poll_s`
    (None: as it says itself)."""
    return [_turned(item, infos, start, poll_s, real_limits) for item in documents]


def _turned(
    item: dict[str, Any], infos: Mapping[str, Mapping[str, Any]], start: date, poll_s: int | None, real_limits: bool
) -> dict[str, Any]:
    if item["kind"] == "Connection":
        info = infos[item["name"]]
        config = {**item.get("config", {}), **info["config"]}
        if poll_s is not None:
            config["poll_s"] = {stream.name: poll_s for stream in manifest_of(item["system"]).streams}
        limits = manifest_of(item["system"]).limits
        quotas = {} if real_limits else {"quotas": {limit.name: limit.calls * RAISED_FACTOR for limit in limits}}
        return {**item, **quotas, "config": config, "base_url": info["base_url"], "token_url": info["token_url"]}
    if item["kind"] == "Flow" and "from" in (item["start"] if isinstance(item["start"], dict) else {"from": 0}):
        begin = item["start"] if isinstance(item["start"], dict) else {}
        return {**item, "start": {**begin, "from": start}}
    return item


def write_secrets(folder: Path, documents: Sequence[Mapping[str, Any]], infos: Mapping[str, Mapping[str, Any]]) -> None:
    """A secret folder per connection, with what its simulator issued."""
    for item in documents:
        if item["kind"] != "Connection":
            continue
        place = folder / item["secret"]
        place.mkdir(parents=True, exist_ok=True)
        for name, value in infos[item["name"]]["credentials"].items():
            (place / name).write_text(value)
            (place / name).chmod(0o600)


def write_configuration(folder: Path, documents: Sequence[Mapping[str, Any]]) -> Path:
    """The turned configuration as a file an operator could apply."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
    return path
