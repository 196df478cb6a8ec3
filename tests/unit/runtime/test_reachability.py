"""A command says which of the two does not answer, where it looked and what to change; soon, and without a traceback."""

import socket

import httpx
import pytest

from bus.core.errors import BrokerUnreachable, SettingsError
from bus.runtime import kafka, reachability
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings


@pytest.fixture
def settings() -> BusSettings:
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        return BusSettings(kafka_bootstrap=f"127.0.0.1:{probe.getsockname()[1]}", registry_url="http://registry.test")


class Answering:
    """An admin client of a broker that is there."""

    def list_topics(self, *, timeout: float) -> None:
        assert timeout <= reachability.COMMAND_S


def registry(answer: httpx.Response | httpx.TransportError) -> RegistryClient:
    def handle(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.Response):
            return answer
        raise answer

    return RegistryClient("http://registry.test", transport=httpx.MockTransport(handle))


async def test_kafka_away(settings: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "COMMAND_S", 0.3)
    with pytest.raises(BrokerUnreachable, match=rf"Kafka at {settings.kafka_bootstrap} does not answer: .*BUS_KAFKA_BOOTSTRAP"):
        await reachability.require_answers(settings, registry(httpx.Response(200, json=[])))


async def test_registry_away_or_refusing(settings: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "admin", lambda _: Answering())
    with pytest.raises(BrokerUnreachable, match=r"registry at http://registry.test does not answer: .*BUS_REGISTRY_URL"):
        await reachability.require_answers(settings, registry(httpx.ConnectError("no")))
    with pytest.raises(SettingsError, match="BUS_REGISTRY_USER"):
        await reachability.require_answers(settings, registry(httpx.Response(401)))
    await reachability.require_answers(settings, registry(httpx.Response(200, json=[])))
