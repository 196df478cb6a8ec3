import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bus.core.errors import SettingsError
from bus.runtime import metrics
from bus.runtime.health import HealthServer
from bus.runtime.settings import BusSettings
from bus.runtime.watchdog import WATCHDOG

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def health() -> AsyncIterator[tuple[HealthServer, httpx.AsyncClient]]:
    server = HealthServer(BusSettings(), "test")
    transport = httpx.ASGITransport(server.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://health") as client:
        yield server, client


async def test_readiness_has_reasons(health: tuple[HealthServer, httpx.AsyncClient]) -> None:
    server, client = health
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, {"starting": "start is not complete"})
    server.started()
    assert (await client.get("/readyz")).status_code == 200
    server.set("kafka", "no answer")
    behind: list[str | None] = ["bus.config is not read yet"]
    server.watch("config", lambda: behind[0])
    assert (await client.get("/readyz")).json() == {
        "service": "test",
        "ready": False,
        "reasons": {"kafka": "no answer", "config": "bus.config is not read yet"},
    }
    server.clear("kafka")
    behind[0] = None
    assert (await client.get("/readyz")).json()["ready"] is True


async def test_liveness_fails_for_a_step_that_does_not_end(
    health: tuple[HealthServer, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = health
    assert (await client.get("/healthz")).status_code == 200
    monkeypatch.setattr(WATCHDOG, "stuck", lambda: "commit of bus-sinks-3 is over its limit by 4 s")
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()["stuck"]) == (503, "commit of bus-sinks-3 is over its limit by 4 s")


async def test_metrics_are_served_as_text(health: tuple[HealthServer, httpx.AsyncClient]) -> None:
    server, client = health
    server.started()
    text = (await client.get("/metrics")).text
    assert 'bus_ready{service="test"} 1.0' in text


@pytest.mark.loopback
async def test_it_listens_on_a_free_port_and_refuses_a_taken_one() -> None:
    server = HealthServer(BusSettings(), "test")
    await server.start()
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/healthz")
    assert answer.status_code == 200
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = HealthServer(BusSettings(http_port=taken.getsockname()[1]), "other")
        with pytest.raises(SettingsError, match="BUS_HTTP_PORT"):
            await other.start()
    await server.stop()
    await asyncio.sleep(0)


def test_names_follow_one_form_and_counters_end_in_total() -> None:
    for name, row in metrics.TABLE.items():
        assert re.fullmatch(r"bus_[a-z_]+", name), name
        assert name.endswith("_total") == (row.kind == "counter"), name
        assert row.help
        assert not {"key", "id", "email", "customer"} & set(row.labels), name


def test_metrics_named_in_the_code_are_those_of_the_table() -> None:
    named: dict[str, set[str]] = {}
    for folder in ("bus", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for found in re.finditer(r"metrics\.(count|put|observe|metric)\(\s*\"(\w+)\"", path.read_text()):
                named.setdefault(found[2], set()).add(found[1])
    assert "bus_commits_total" in named
    assert named.keys() == metrics.TABLE.keys(), "a name without a row, or a row that nobody fills"
    verbs = {"counter": "count", "gauge": "put", "histogram": "observe"}
    for name, used in named.items():
        assert used - {"metric"} <= {verbs[metrics.TABLE[name].kind]}, name


def test_each_kind_reaches_the_exposition() -> None:
    metrics.count("bus_restarts_total", 2, child="x")
    metrics.put("bus_config_version", 7)
    metrics.observe("bus_poll_seconds", 0.3, connection="a", stream="b")
    text = metrics.exposition().decode()
    assert 'bus_restarts_total{child="x"} 2.0' in text
    assert "bus_config_version 7.0" in text
    assert 'bus_poll_seconds_bucket{connection="a",le="0.5",stream="b"} 1.0' in text


def test_a_metric_without_a_row_and_a_wrong_label_are_bugs() -> None:
    with pytest.raises(KeyError):
        metrics.count("bus_nothing_total")
    with pytest.raises(ValueError, match="label"):
        metrics.count("bus_restarts_total", kid="x")
