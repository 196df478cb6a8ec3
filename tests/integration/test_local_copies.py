"""The local copy of a partition against a real broker: cold, warm, lost, too old, another topic under the name, torn, fenced."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from bus.core.errors import Unavailable
from bus.core.topics import TopicShape
from bus.runtime import kafka
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.settings import BusSettings
from bus.runtime.table import StoredTable
from tests.clusters import COMPACT_SOON, create_topics
from tests.unit.runtime.test_stored_table import Letters, contents

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(cluster: Any, tmp_path: Path) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, data_dir=tmp_path)


@pytest.fixture
async def topic(settings: BusSettings) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await ensure_topics(settings, [TopicShape(name=name, partitions=1, cleanup="compact")])
    return name


@pytest.fixture
async def publisher(settings: BusSettings) -> AsyncIterator[Publisher]:
    made = Publisher(settings, f"bus-test-{uuid.uuid4()}")
    await made.open()
    yield made
    await made.close()


async def loaded(settings: BusSettings, topic: str, index: Letters | None = None) -> StoredTable:
    table = StoredTable(settings, Codec.offline(), "sinks", "copy", index or Letters())
    await table.load(topic, 0)
    return table


async def commit(publisher: Publisher, topic: str, *pairs: tuple[str, bytes | None]) -> None:
    await publisher.commit([Outgoing(topic, 0, key, value) for key, value in pairs])


async def used(settings: BusSettings, topic: str, publisher: Publisher) -> None:
    await commit(publisher, topic, ("a|1", b"x"), ("a|2", b"y!"))
    table = await loaded(settings, topic)
    assert not table.is_warm and contents(table) == {b"a|1": b"x", b"a|2": b"y!"}
    await table.close()


async def test_a_warm_start_goes_on_behind_what_it_has(settings: BusSettings, topic: str, publisher: Publisher) -> None:
    await used(settings, topic, publisher)
    await commit(publisher, topic, ("a|1", None), ("a|3", b"z!"))
    index = Letters()
    table = await loaded(settings, topic, index)
    assert table.is_warm and index.looked_at == 1
    assert contents(table) == {b"a|2": b"y!", b"a|3": b"z!"} and set(index.kept) == {b"a|2", b"a|3"}
    await commit(publisher, topic, ("a|3", b"q"))
    await table.refresh()
    assert table.get("a|3") == b"q" and set(index.kept) == {b"a|2"}
    await table.close()


async def test_a_lost_copy_is_read_anew(settings: BusSettings, topic: str, publisher: Publisher) -> None:
    await used(settings, topic, publisher)
    shutil.rmtree(settings.data_dir / "cache")
    table = await loaded(settings, topic)
    assert not table.is_warm and len(contents(table)) == 2
    await table.close()


async def test_a_copy_older_than_the_tombstones_is_read_anew(
    cluster: Any, settings: BusSettings, topic: str, publisher: Publisher
) -> None:
    await used(settings, topic, publisher)
    entry = ConfigEntry("delete.retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 30)
    table = await loaded(settings, topic)
    assert not table.is_warm and len(contents(table)) == 2
    await table.close()


async def test_a_topic_made_anew_under_the_name_is_read_anew(
    cluster: Any, settings: BusSettings, topic: str, publisher: Publisher
) -> None:
    await used(settings, topic, publisher)
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result, 30)
    for _ in range(100):
        if topic not in (await asyncio.to_thread(admin.list_topics, timeout=10)).topics:
            break
        await asyncio.sleep(0.1)
    await asyncio.to_thread(create_topics, cluster, [topic], config={"cleanup.policy": "compact"})
    await commit(publisher, topic, *[(f"a|{number}", b"new") for number in range(9)])  # its end is above the old position
    table = await loaded(settings, topic)
    assert not table.is_warm and set(contents(table).values()) == {b"new"}
    await table.close()


async def test_another_cluster_is_read_anew(fresh_cluster: Any, settings: BusSettings, topic: str, publisher: Publisher) -> None:
    await used(settings, topic, publisher)
    elsewhere = settings.model_copy(update={"kafka_bootstrap": fresh_cluster.bootstrap})
    await ensure_topics(elsewhere, [TopicShape(name=topic, partitions=1, cleanup="compact")])
    table = await loaded(elsewhere, topic)
    assert not table.is_warm and contents(table) == {}
    await table.close()


KILLED = """
import asyncio, os, sys
from pathlib import Path
from bus.runtime import store
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.table import StoredTable
from tests.unit.runtime.test_stored_table import Letters

async def main():
    store.WRITE_BUFFER_BYTES = 64 * 1024
    settings = BusSettings(kafka_bootstrap=sys.argv[1], data_dir=Path(sys.argv[2]))
    table = StoredTable(settings, Codec.offline(), "sinks", "copy", Letters())
    await table.load(sys.argv[3], 0)
    print("loaded", flush=True)
    while True:
        await table.refresh()

asyncio.run(main())
"""


async def test_a_copy_torn_by_a_kill_is_gone_on_with(settings: BusSettings, topic: str, publisher: Publisher) -> None:
    """Killed while it writes: whatever is left is a prefix with its own mark, and the rest is read from the topic."""
    await used(settings, topic, publisher)
    command = [sys.executable, "-c", KILLED, settings.kafka_bootstrap, str(settings.data_dir), topic]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert process.stdout is not None and await asyncio.to_thread(process.stdout.readline) == b"loaded\n"
    expected = {b"a|1": b"x", b"a|2": b"y!"}
    for round_ in range(10):
        pairs = [(f"a|{number}", f"{round_} {number} ".encode() * 30) for number in range(10, 400)]
        await commit(publisher, topic, *pairs)
        expected |= {key.encode(): value for key, value in pairs}
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    table = await loaded(settings, topic)
    assert table.is_warm and contents(table) == expected
    await table.close()


async def test_an_open_transaction_is_waited_out_by_a_warm_start(
    settings: BusSettings, topic: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is that of all records, open ones included: a copy does not hide an intent behind it (law of takeover)."""
    await used(settings, topic, publisher)
    name = f"bus-test-{uuid.uuid4()}"
    dead = Producer(kafka.producer_config(settings, name, transactional_id=name))
    await asyncio.to_thread(dead.init_transactions, 20)
    dead.begin_transaction()
    dead.produce(topic, key=b"a|9", value=b"intent", partition=0)
    await asyncio.to_thread(dead.flush, 10)
    loading = asyncio.ensure_future(loaded(settings, topic))
    done, _ = await asyncio.wait([loading], timeout=1.0)
    assert not done
    await asyncio.to_thread(dead.commit_transaction, 10)
    table = await loading
    assert table.is_warm and table.get("a|9") == b"intent"
    await table.close()


async def test_compaction_beside_a_copy_changes_nothing(cluster: Any, settings: BusSettings, publisher: Publisher) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    await asyncio.to_thread(create_topics, cluster, [topic], config={**COMPACT_SOON, "delete.retention.ms": "86400000"})
    await used(settings, topic, publisher)
    for round_ in range(3):
        await commit(publisher, topic, *[(f"a|{number}", b"%d" % round_) for number in range(50)])
        await asyncio.sleep(1.2)  # a segment rolls with the next record
    await commit(publisher, topic, ("a|1", None), ("a|60", b"!"))
    warm = await loaded(settings, topic)
    cold = await loaded(settings.model_copy(update={"data_dir": settings.data_dir / "other"}), topic)
    assert warm.is_warm and not cold.is_warm and contents(warm) == contents(cold)
    assert b"a|1" not in contents(warm)
    await warm.close()
    await cold.close()


async def test_without_kafka_nothing_is_half_loaded(settings: BusSettings, topic: str, publisher: Publisher) -> None:
    await used(settings, topic, publisher)
    table = StoredTable(settings, Codec.offline(), "sinks", "copy", Letters())
    with pytest.raises(Unavailable):
        await table.load("test.no-such-topic", 0)
    await table.load(topic, 0)
    assert table.is_warm and len(contents(table)) == 2
    await table.close()
