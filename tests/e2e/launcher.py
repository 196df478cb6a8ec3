"""Runs a service as `python -m` does, with what a test needs of it arranged beforehand.

`python -m tests.e2e.launcher services.sinks --boot-later 140`   a process whose machine has been up 140 s longer
`python -m tests.e2e.launcher services.pollers --die-at 3`       kill -9 in its third commit, between flush and commit
`python -m tests.e2e.launcher services.pollers --freeze-at 3`    SIGSTOP there; once awake it goes on with its commit
`python -m tests.e2e.launcher services.sinks --die-after-write 3`     kill -9 when the vendor has answered its third write
`python -m tests.e2e.launcher services.sinks --freeze-after-write 3`  SIGSTOP there
`python -m tests.e2e.launcher services.grants --die-after-token 3`    kill -9 when the vendor has answered its third refresh
`python -m tests.e2e.launcher services.grants --token-life 3`         a vendor whose access tokens live so many seconds
`python -m tests.e2e.launcher services.sinks --call-timeout 5 --settle 3`  a vendor that is patient for seconds, not minutes
`python -m tests.e2e.launcher services.sinks --broken guard`     a build with a guard taken out (tests/faults/broken.py)
"""

import argparse
import itertools
import os
import runpy
import signal
from typing import Any

import httpx
from confluent_kafka import Producer

from bus.core.clock import SystemClock
from bus.kit import auth, client, manifest, registry
from bus.runtime import publisher

FLUSH_S = 10.0
READS = ("GET", "HEAD")


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
                strike(blow)
            super().commit_transaction(*arguments)

    publisher.Producer = Struck  # type: ignore[misc, attr-defined]


def struck_after_write(number: int, blow: signal.Signals, module: Any = client) -> None:
    """The process is struck when the vendor's answer to its write of this number is there: done, and nobody wrote it down.

    `module`: whose transport; that of `auth` writes refreshes only.
    """
    writes = itertools.count(1)
    real = module.pooled_transport

    class Struck(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self._inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self._inner.handle_async_request(request)
            if request.method not in READS and answer.is_success and next(writes) == number:
                strike(blow)
            return answer

        async def aclose(self) -> None:
            await self._inner.aclose()

    module.pooled_transport = lambda *given, **named: Struck(real(*given, **named))


def strike(blow: signal.Signals) -> None:
    os.write(2, b"struck\n")
    os.kill(os.getpid(), blow)


def patient_for(call_timeout_s: float | None, settle_s: int | None) -> None:
    """Every manifest with a shorter patience: what takes a vendor minutes to be sure of takes seconds."""
    real = manifest.load_manifest

    def load(path: Any) -> manifest.Manifest:
        found = real(path)
        writes = {
            entity: facts.model_copy(
                update={
                    "steps": tuple(step.model_copy(update={"settle_s": min(step.settle_s, settle_s)}) for step in facts.steps)
                }
            )
            for entity, facts in found.writes.items()
            if settle_s is not None
        }
        timeout_s = found.call_timeout_s if call_timeout_s is None else call_timeout_s
        return found.model_copy(update={"call_timeout_s": timeout_s, "writes": {**found.writes, **writes}})

    manifest.load_manifest = registry.load_manifest = load  # type: ignore[attr-defined]


def tokens_live(seconds: int) -> None:
    """Every manifest with access tokens of this life, refreshed a second before its end."""
    real = manifest.load_manifest
    life = {"access_token_lifetime_s": seconds, "refresh_not_before_s": 0, "refresh_before_expiry_s": 1}

    def load(path: Any) -> manifest.Manifest:
        found = real(path)
        return found.model_copy(update={"auth": found.auth.model_copy(update=life)})

    manifest.load_manifest = registry.load_manifest = load  # type: ignore[attr-defined]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--boot-later", type=int, default=0)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--freeze-at", type=int, default=0)
    parser.add_argument("--die-after-write", type=int, default=0)
    parser.add_argument("--freeze-after-write", type=int, default=0)
    parser.add_argument("--die-after-token", type=int, default=0)
    parser.add_argument("--token-life", type=int, default=0)
    parser.add_argument("--call-timeout", type=float)
    parser.add_argument("--settle", type=int)
    parser.add_argument("--broken", default="")
    asked = parser.parse_args()
    if asked.boot_later:
        let_time_pass(asked.boot_later)
    if asked.die_at:
        struck_at(asked.die_at, signal.SIGKILL)
    if asked.freeze_at:
        struck_at(asked.freeze_at, signal.SIGSTOP)
    if asked.die_after_write:
        struck_after_write(asked.die_after_write, signal.SIGKILL)
    if asked.freeze_after_write:
        struck_after_write(asked.freeze_after_write, signal.SIGSTOP)
    if asked.die_after_token:
        struck_after_write(asked.die_after_token, signal.SIGKILL, auth)
    if asked.token_life:
        tokens_live(asked.token_life)
    if asked.call_timeout is not None or asked.settle is not None:
        patient_for(asked.call_timeout, asked.settle)
    if asked.broken:
        from tests.faults import broken

        broken.BUILDS[asked.broken].apply()
    runpy.run_module(asked.module, run_name="__main__")
