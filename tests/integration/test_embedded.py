"""The embedded Kafka and registry: they start, keep their data, end with us however we end, and say what is wrong."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, Producer

from bus.embedded import Cluster, EmbeddedError
from bus.embedded.artifacts import cache_dir, fetch, locked, unpacked
from bus.embedded.guardian import start_time
from bus.embedded.process import GuardedProcess, end_leftover
from tests.clusters import create_topics

pytestmark = pytest.mark.broker

PATIENCE_S = 30.0
LISTENING = "0A"


def until(is_true, patience_s: float = PATIENCE_S) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def is_gone(pid: int) -> bool:
    return not start_time(pid)


def register(cluster: Cluster, number: int) -> int:
    schema = {"type": "record", "name": f"Thing{number}", "fields": [{"name": "id", "type": "long"}]}
    answer = httpx.post(
        f"{cluster.registry_url}/subjects/thing-{number}/versions",
        json={"schema": json.dumps(schema)},
        timeout=10,
        trust_env=False,
    )
    answer.raise_for_status()
    return answer.json()["id"]


def schema_name(cluster: Cluster, schema_id: int) -> str:
    answer = httpx.get(f"{cluster.registry_url}/schemas/ids/{schema_id}", timeout=10, trust_env=False)
    answer.raise_for_status()
    return json.loads(answer.json()["schema"])["name"]


def produce(cluster: Cluster, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all"})
    producer.produce(topic, value)
    assert producer.flush(PATIENCE_S) == 0


def read_all(cluster: Cluster, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        found = [message.value() for message in consumer.consume(count, timeout=PATIENCE_S)]
    finally:
        consumer.close()
    return found


def test_both_answer_and_are_only_heard_on_this_machine(fresh_cluster):
    config = httpx.get(f"{fresh_cluster.registry_url}/config", trust_env=False).json()
    assert config["compatibilityLevel"] == "FULL_TRANSITIVE"
    assert fresh_cluster.is_running()
    assert all(0 < size < 500 for size in fresh_cluster.rss_mb().values())
    for pid in fresh_cluster.processes.values():
        assert listening_addresses(pid) == {"127.0.0.1"}


def listening_addresses(pid: int) -> set[str]:
    """From the kernel's tables: a JVM lists an IPv4 address as IPv4-mapped IPv6."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                found.add(socket.inet_ntoa(bytes.fromhex(fields[1].split(":")[0][-8:])[::-1]))
    return found


def test_data_is_kept_between_starts_on_other_ports(tmp_path):
    with Cluster(tmp_path, kafka_port=0, registry_port=0) as cluster:
        create_topics(cluster, ["kept"])
        produce(cluster, "kept", b"first")
        schema_id = register(cluster, 1)
    with Cluster(tmp_path, kafka_port=0, registry_port=0) as cluster:
        produce(cluster, "kept", b"second")
        assert read_all(cluster, "kept", 2) == [b"first", b"second"]
        assert schema_name(cluster, schema_id) == "Thing1"


def test_a_cluster_id_that_looks_like_an_option_is_none(tmp_path, monkeypatch):
    looks_so = uuid.UUID(bytes=b"\xf8" + bytes(range(15)))  # "-A…" once encoded, one start in sixty-four
    monkeypatch.setattr("bus.embedded.cluster.uuid.uuid4", lambda: looks_so)
    with Cluster(tmp_path, kafka_port=0, registry_port=0) as cluster:
        assert cluster.is_running()


def test_a_second_start_on_the_same_data_is_refused(fresh_cluster, tmp_path):
    with pytest.raises(EmbeddedError, match=r"already runs on .*--data-dir"):
        Cluster(tmp_path, kafka_port=0, registry_port=0).start()
    assert fresh_cluster.is_running()


@pytest.mark.parametrize("which", ["kafka_port", "registry_port"])
def test_a_taken_port_is_named_with_the_fix(tmp_path, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cluster = Cluster(tmp_path, **{"kafka_port": 0, "registry_port": 0, which: port})
        with pytest.raises(EmbeddedError, match=rf"port {port} is taken.*BUS_EMBEDDED_KAFKA_PORT"):
            cluster.start()
        assert cluster.processes == {"kafka": None, "registry": None}


def test_a_broker_that_cannot_start_shows_its_last_words_and_leaves_nothing(tmp_path):
    cluster = Cluster(tmp_path, kafka_port=0, registry_port=0)
    with cluster:
        pass
    broken = Cluster(tmp_path, kafka_port=0, registry_port=0, server={"num.io.threads": "many"})
    with pytest.raises(EmbeddedError, match=r"(?s)kafka ended while starting.*num\.io\.threads"):
        broken.start()
    assert broken.processes == {"kafka": None, "registry": None}
    with cluster:
        assert cluster.is_running(), "the data folder is free again"


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A copy of the cache, and a repository on this machine that serves the same files."""
    shared, own = cache_dir(), tmp_path / "cache"
    *_, archive = fetch([*locked("kafka"), *locked("registry")])
    unpacked(locked("registry")[0], archive)
    handler = functools.partial(SilentFiles, directory=str(shared / "jars"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    shutil.copytree(shared / "jars", own / "jars")
    (own / "unpacked").symlink_to(shared / "unpacked")
    monkeypatch.setenv("BUS_MAVEN_BASE", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("BUS_CACHE_DIR", str(own))
    yield own
    server.shutdown()
    server.server_close()
    thread.join()


class SilentFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_spoilt_jars_are_replaced_at_the_next_start(tmp_path, own_cache):
    flipped, truncated, lost = (own_cache / "jars" / row.path for row in locked("kafka")[:3])
    good = [path.read_bytes() for path in (flipped, truncated, lost)]
    flipped.write_bytes(good[0][:-1] + bytes([good[0][-1] ^ 1]))
    truncated.write_bytes(good[1][:100])
    lost.unlink()
    with Cluster(tmp_path / "data", kafka_port=0, registry_port=0) as running:
        assert running.is_running()
    assert [path.read_bytes() for path in (flipped, truncated, lost)] == good


PARENT = """
import sys, threading, time
from pathlib import Path
from bus.embedded import Cluster

cluster = Cluster(Path(sys.argv[1]), kafka_port=0, registry_port=0)
starter = threading.Thread(target=cluster.start)
starter.start()
starter.join()
time.sleep(0.2)
print(*cluster.processes.values(), flush=True)
threading.Event().wait()
"""


def test_a_killed_parent_leaves_no_orphan_and_its_data_is_free(tmp_path):
    """The cluster is started from a thread that ends: a signal tied to that thread would have ended the broker."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(is_gone(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    with Cluster(tmp_path, kafka_port=0, registry_port=0) as cluster:  # at once: what is left is ended first
        assert cluster.is_running()
        assert all(until(lambda pid=pid: is_gone(pid)) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="no parent-death signal on this system")
def test_a_killed_guardian_takes_its_process_along(tmp_path):
    process = GuardedProcess("sleeper", tmp_path)
    process.start(["sleep", "600"])
    assert until(lambda: process.pid is not None)
    pid = process.pid
    os.kill(process._child.pid, signal.SIGKILL)
    assert until(lambda: is_gone(pid))
    process.stop()


def test_stopping_at_any_moment_leaves_nothing(tmp_path):
    for number in range(12):
        process = GuardedProcess("sleeper", tmp_path)
        process.start(["sleep", "600"])
        time.sleep(number * 0.01)
        child = process._child.pid
        pid = process.pid
        process.stop()
        assert is_gone(child)
        assert pid is None or is_gone(pid)
        assert process.pid is None


def test_a_stranger_with_the_pid_of_a_leftover_is_left_alone(tmp_path):
    stranger = subprocess.Popen(["sleep", "600"])
    pid_file = tmp_path / "kafka.pid"
    pid_file.write_text(f"{stranger.pid} 1")
    end_leftover(pid_file)
    assert stranger.poll() is None
    assert not pid_file.exists()
    pid_file.write_text(f"{stranger.pid} {start_time(stranger.pid)}")
    reaper = threading.Thread(target=stranger.wait)
    reaper.start()
    end_leftover(pid_file)
    reaper.join(PATIENCE_S)
    assert stranger.returncode == -signal.SIGTERM


def test_a_killed_registry_has_lost_no_acknowledged_schema(fresh_cluster):
    acknowledged: dict[int, int] = {}

    def work() -> None:
        with contextlib.suppress(httpx.HTTPError):
            for number in range(2000):
                acknowledged[number] = register(fresh_cluster, number)

    worker = threading.Thread(target=work)
    worker.start()
    assert until(lambda: len(acknowledged) >= 40)
    os.kill(fresh_cluster.processes["registry"], signal.SIGKILL)
    worker.join(PATIENCE_S)
    fresh_cluster.start_registry()
    for number, schema_id in acknowledged.items():
        assert schema_name(fresh_cluster, schema_id) == f"Thing{number}"
    assert register(fresh_cluster, 9999) > max(acknowledged.values()), "no id is given out twice"


def test_a_killed_broker_has_lost_no_acknowledged_record(fresh_cluster):
    create_topics(fresh_cluster, ["kept"])
    produce(fresh_cluster, "kept", b"acknowledged")
    os.kill(fresh_cluster.processes["kafka"], signal.SIGKILL)
    assert until(lambda: not fresh_cluster.is_running())
    fresh_cluster.start_kafka()
    assert read_all(fresh_cluster, "kept", 1) == [b"acknowledged"]
