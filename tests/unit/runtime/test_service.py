"""How services begin and end: exit codes, waiting at the start, drain on a signal."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from bus.core.errors import BusError, SettingsError, Unavailable
from bus.runtime import service as module
from bus.runtime.kafka import KafkaFault
from bus.runtime.reachability import refusal
from bus.runtime.service import Service, run
from bus.runtime.settings import BusSettings

SETTINGS = BusSettings(kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setenv("BUS_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BUS_REGISTRY_URL", "http://127.0.0.1:1")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def exit_code(main: Any) -> int:
    with pytest.raises(SystemExit) as caught:
        run("test", main)
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (SettingsError("no master key"), 78),
        (KafkaFault("odd"), 1),
        (Unavailable("away"), 1),
        (KeyError("bug"), 1),
    ],
)
def test_exit_codes_follow_the_error_tree(error: Exception | None, code: int) -> None:
    async def main(_service: Service) -> None:
        if error is not None:
            raise error

    assert exit_code(main) == code


def test_a_service_without_a_cluster_does_not_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("BUS_REGISTRY_URL")
    assert exit_code(None) == 78
    assert "BUS_REGISTRY_URL" in capsys.readouterr().err


def test_a_service_without_a_master_key_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(service: Service) -> None:
        service.privacy()

    assert exit_code(main) == 78
    assert "BUS_MASTER_KEY_FILE" in capsys.readouterr().err


def test_a_signal_lets_the_service_finish_what_is_in_hand() -> None:
    order: list[str] = []

    async def main(service: Service) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await service.until_stopped()
        order.append("finished")
        assert service.health.reasons()["stop"] == "draining"

    assert exit_code(main) == 0
    assert order == ["finished"]


def test_a_second_signal_ends_a_drain_that_hangs() -> None:
    async def main(service: Service) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await service.stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    assert exit_code(main) == 0


def test_a_drain_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_S", 0)

    async def main(_service: Service) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert exit_code(main) == 0


async def test_waiting_says_so_and_goes_on_by_itself() -> None:
    service = Service("test", SETTINGS)
    service.health.started()
    seen: list[dict[str, str]] = []

    async def attempt() -> None:
        seen.append(service.health.reasons())
        if len(seen) < 3:
            raise Unavailable("registry away", retry_after_s=0.0001)

    await service.wait_for("registry", attempt)
    assert seen == [{}, {"registry": "registry away"}, {"registry": "registry away"}]
    assert service.health.reasons() == {}


async def test_what_does_not_pass_by_itself_goes_through() -> None:
    async def attempt() -> None:
        raise SettingsError("not registered")

    with pytest.raises(SettingsError):
        await Service("test", SETTINGS).wait_for("registry", attempt)


async def test_the_first_failure_ends_the_service() -> None:
    service = Service("test", SETTINGS)

    async def fails() -> None:
        raise BusError("follower ended")

    with pytest.raises(BusError, match="follower ended"):
        await service.until_stopped(fails(), asyncio.Event().wait())  # type: ignore[arg-type]
    service.stop.set()
    await service.until_stopped(asyncio.Event().wait())  # type: ignore[arg-type]


async def test_a_service_with_nothing_to_do_knows_who_is_away() -> None:
    answers = iter([Unavailable("no broker"), None])

    async def ask() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    assert [await refusal(ask), await refusal(ask)] == ["no broker", None]
