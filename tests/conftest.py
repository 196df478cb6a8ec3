"""What all layers share: the cluster, the wall around sockets, golden files, and a summary that hides no layer.

Layers are the folders beside this file. Those in QUICK need no broker and may open no socket (`make check`), but for tests marked
`broker`, which `make check` leaves out.
"""

import difflib
import os
import socket
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bus.embedded import Cluster, DownloadError
from tests.clusters import SERVER_TUNING, RunningCluster, start_cluster

HERE = Path(__file__).parent
QUICK = ("architecture", "unit", "contract", "connectors", "golden", "histories")
ON_A_CLUSTER = ("integration", "e2e")
RANKS = {layer: rank for rank, layer in enumerate((*QUICK, "simulation", *ON_A_CLUSTER))}
GOLDEN_VARIABLE = "BUS_TEST_GOLDEN"
CLUSTER_KIND = pytest.StashKey[str]()


def layer_of(path: Path) -> str:
    """The folder of tests/ that a test file lies in."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


# --- order and summary --------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Layers())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick layers first: what is broken is seen soon."""
    items.sort(key=lambda item: RANKS.get(layer_of(item.path), len(RANKS)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if CLUSTER_KIND in item.config.stash:
        report.user_properties.append(("cluster", item.config.stash[CLUSTER_KIND]))
    return report


class Layers:
    """Counts per layer what reports say, wherever the tests ran: `-n 2` runs them in two processes, each with its own cluster."""

    def __init__(self) -> None:
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._cluster = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        layer = layer_of(HERE.parent / report.nodeid.split("::")[0])
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[layer][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[layer][report.longrepr[2].removeprefix("Skipped: ")] += 1
        self._cluster = dict(report.user_properties).get("cluster", self._cluster)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line per layer; a layer that could not run says why, with a count."""
        terminalreporter.section("layers")
        for layer, outcomes in sorted(self._outcomes.items(), key=lambda item: RANKS.get(item[0], len(RANKS))):
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            on_what = f" on {self._cluster}" if self._cluster and layer in ON_A_CLUSTER else ""
            terminalreporter.line(f"{layer or '(elsewhere)'}{on_what}: {counts}")
            for reason, count in self._reasons[layer].items():
                terminalreporter.line(f"    {count} could not run: {reason.splitlines()[0]}")


# --- sockets ------------------------------------------------------------------------------------------------------------------


class SocketBlocked(RuntimeError):
    """A test of a quick layer tried to open a connection."""


def _is_loopback(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes):
        host = host.decode()
    if host in ("localhost", "", None):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def blocked_sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below integration nothing connects but what is marked `broker`; with the marker `loopback`, only to this machine.

    Listening on this machine is free, it reaches nobody. librdkafka opens its sockets outside Python and is not seen.
    """
    if layer_of(request.path) not in QUICK or request.node.get_closest_marker("broker") is not None:
        return
    may_loop = request.node.get_closest_marker("loopback") is not None

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, *arguments: Any) -> Any:
            address = arguments[-1]
            if self.family == socket.AF_UNIX or ((may_loop or name == "bind") and _is_loopback(address)):
                return real(self, *arguments)
            raise SocketBlocked(f"{name} {address!r}: tests of this layer open no sockets")

        return call

    def resolve(host: Any, *arguments: Any, **named: Any) -> Any:
        if may_loop and _is_loopback(host):
            return real_resolve(host, *arguments, **named)
        raise SocketBlocked(f"look-up of {host!r}: tests of this layer open no sockets")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, guarded(name, getattr(socket.socket, name)))
    real_resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


# --- cluster ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RunningCluster]:
    """One Kafka and registry for the whole run. Topic names are fixed: tests tell themselves apart by connection, tenant."""
    try:
        running, kind = start_cluster(tmp_path_factory.mktemp("cluster"))
    except DownloadError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    request.config.stash[CLUSTER_KIND] = kind
    yield running
    running.stop()


@pytest.fixture
def fresh_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An embedded cluster of the test's own, to be killed or filled at will."""
    try:
        running = Cluster(tmp_path, kafka_port=0, registry_port=0, server=SERVER_TUNING).start()
    except DownloadError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    request.config.stash.setdefault(CLUSTER_KIND, "embedded")
    yield running
    running.stop()


@pytest.fixture
def cluster_environment(cluster: RunningCluster) -> dict[str, str]:
    """The variables with which a service finds the session's cluster."""
    return {"BUS_KAFKA_BOOTSTRAP": cluster.bootstrap, "BUS_REGISTRY_URL": cluster.registry_url}


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test has: `unique("exact")` → `exact-3f9a1c20`."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:8]}"


# --- golden files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """`golden(path, text)` compares with a reviewed file; `make golden` writes it instead."""

    def compare(path: Path, found: str) -> None:
        if os.environ.get(GOLDEN_VARIABLE) == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found)
            return
        if not path.exists():
            pytest.fail(f"{path.relative_to(HERE.parent)} is missing: `make golden` writes it, a person reviews it")
        expected = path.read_text()
        if found != expected:
            lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "reviewed", "found", lineterm="")
            pytest.fail(f"{path.relative_to(HERE.parent)} differs; if that is meant, `make golden`:\n" + "\n".join(lines))

    return compare
