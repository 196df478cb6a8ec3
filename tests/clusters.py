"""The Kafka and registry that tests run on: containers where a Docker daemon answers, else the embedded ones."""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from bus.embedded import Cluster
from bus.embedded.cluster import SERVER, locked_version

CHOICE_VARIABLE = "BUS_TEST_CLUSTER"
"""`embedded`, `containers`, or nothing: containers where a daemon answers."""
SERVER_TUNING = {"log.cleaner.backoff.ms": "500"}
COMPACT_SOON = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "100",
    "max.compaction.lag.ms": "1000",
    "file.delete.delay.ms": "100",
}
"""Topic settings with which compaction is seen within seconds. The active segment rolls on a new record only."""
READY_S = 120.0


class RunningCluster(Protocol):
    """What a test sees of it."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def registry_url(self) -> str: ...

    def stop(self) -> None: ...


def create_topics(
    cluster: RunningCluster, names: Iterable[str], *, partitions: int = 1, config: Mapping[str, str] | None = None
) -> None:
    """Creates the topics that are not there yet, and returns when all can be used."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    topics = [NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {})) for name in names]
    for future in admin.create_topics(topics, operation_timeout=20.0).values():
        try:
            future.result(30.0)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def start_cluster(data_dir: Path) -> tuple[RunningCluster, str]:
    """The session's cluster, and what to call it in the summary."""
    choice = os.environ.get(CHOICE_VARIABLE, "")
    if choice == "containers" or (choice != "embedded" and _docker_answers()):
        try:
            return Containers().start(), "containers"
        except Exception as error:
            if choice == "containers":
                raise
            return _embedded(data_dir), f"embedded (Docker answers, its containers do not start: {type(error).__name__})"
    return _embedded(data_dir), "embedded"


def _embedded(data_dir: Path) -> RunningCluster:
    return Cluster(data_dir, kafka_port=0, registry_port=0, server=SERVER_TUNING).start()


def _docker_answers() -> bool:
    """Asks the daemon itself: the docker package leaves sockets open where none is there."""
    host = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    family, address = (
        (socket.AF_UNIX, host.path) if host.scheme == "unix" else (socket.AF_INET, (host.hostname, host.port or 2375))
    )
    with socket.socket(family) as daemon:
        daemon.settimeout(2.0)
        try:
            daemon.connect(address)
            daemon.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in daemon.recv(64)
        except OSError:
            return False


class Containers:
    """The official images of the versions that the lock names."""

    def __init__(self) -> None:
        self._kafka_port, self._registry_port = _free_ports(2)
        self._containers: list[Any] = []

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._kafka_port}"

    @property
    def registry_url(self) -> str:
        return f"http://127.0.0.1:{self._registry_port}/apis/ccompat/v7"

    def start(self) -> "Containers":
        from testcontainers.core.container import DockerContainer

        server = {
            **SERVER,
            **SERVER_TUNING,
            "controller.quorum.voters": "1@127.0.0.1:29093",
            "listeners": f"PLAINTEXT://0.0.0.0:{self._kafka_port},CONTROLLER://127.0.0.1:29093",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._kafka_port}",
        }
        kafka = DockerContainer(f"apache/kafka:{locked_version('kafka')}").with_bind_ports(self._kafka_port, self._kafka_port)
        for key, value in server.items():
            kafka = kafka.with_env(f"KAFKA_{key.upper().replace('.', '_')}", value)
        registry = DockerContainer(f"apicurio/apicurio-registry:{locked_version('registry')}").with_bind_ports(
            8080, self._registry_port
        )
        try:
            for container in (kafka, registry):
                container.start()
                self._containers.append(container)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        while self._containers:
            self._containers.pop().stop()

    def _wait_ready(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        end = time.monotonic() + READY_S
        while True:
            try:
                admin.list_topics(timeout=1.0)
                body = json.dumps({"compatibility": "FULL_TRANSITIVE"}).encode()
                headers = {"content-type": "application/json"}
                with urlopen(Request(f"{self.registry_url}/config", body, headers, method="PUT"), timeout=5):
                    return
            except (KafkaException, URLError, OSError):
                if time.monotonic() > end:
                    pytest.fail("the containers of Kafka and the registry are not ready")
                time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
