"""The Faust engine on a real broker: what can be shown on one only."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bus.core.topics import TopicShape
from bus.runtime import kafka
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.settings import BusSettings
from services.processors.engine.application import Engine, build_engine

pytestmark = pytest.mark.broker

PARTITIONS = 2
PATIENCE_S = 90.0


class Echo:
    """One record out per record in; may fail at a chosen value, as often as told."""

    def __init__(self, out: str, *, fail_at: bytes | None = None, grow: int = 0) -> None:
        self.out, self.fail_at, self.grow = out, fail_at, grow
        self.failures = 0

    def handle(self, topic, key, value):
        if value == self.fail_at:
            raise RuntimeError("database away")
        size = self.grow if value == b"7" else 0
        return [Outgoing(self.out, None, key.decode(), value + b" " * size)]

    async def wait(self, error):
        raise AssertionError(error)


class Lab:
    """An input and an output topic of a test's own."""

    def __init__(self, settings: BusSettings) -> None:
        name = uuid.uuid4().hex[:10]
        self.settings, self.source, self.out, self.group = settings, f"{name}.in", f"{name}.out", f"{name}-group"

    async def open(self, **config) -> "Lab":
        shapes = [TopicShape(name=name, partitions=PARTITIONS, cleanup="delete", **config) for name in (self.source, self.out)]
        await ensure_topics(self.settings, shapes)
        return self

    def write(self, first: int, count: int, *, batch: int = 10, abort_every: int = 0) -> None:
        """Transactions of `batch` values; every so many one is aborted (value -1)."""
        producer = Producer(kafka.producer_config(self.settings, "lab", transactional_id=self.group))
        producer.init_transactions(30)
        for number, start in enumerate(range(first, first + count, batch), 1):
            if abort_every and number % abort_every == 0:
                producer.begin_transaction()
                for index in range(batch):
                    producer.produce(self.source, key=f"k{index}", value=b"-1")
                producer.flush(30)
                producer.abort_transaction(30)
            producer.begin_transaction()
            for value in range(start, min(start + batch, first + count)):
                producer.produce(self.source, key=f"k{value % 7}", value=str(value).encode())
            producer.commit_transaction(30)
        producer.purge()

    async def read(self) -> list[int]:
        """All values that came out, in order per partition."""
        reader = LogReader(self.settings, "lab")
        try:
            await reader.assign(self.out, dict.fromkeys(range(PARTITIONS), BEGINNING))
            ends = await reader.ends(self.out)
            return [int(record.value) async for batch in reader.read_to(self.out, ends) for record in batch]
        finally:
            await reader.close()

    def open_input(self) -> int:
        """Records of the input that no commit covers; the marker that ends a transaction is none of ours."""
        consumer = Consumer(kafka.consumer_config(self.settings, "lab", group=self.group))
        try:
            places = consumer.committed([TopicPartition(self.source, number) for number in range(PARTITIONS)], timeout=30)
            ends = [consumer.get_watermark_offsets(place, timeout=30)[1] for place in places]
            return sum(max(end - max(place.offset, 0) - 1, 0) for place, end in zip(places, ends, strict=True))
        finally:
            consumer.close()

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await asyncio.sleep(0.1)

    async def until_out(self, count: int) -> None:
        async def there() -> bool:
            return len(set(await self.read())) >= count

        await self.until(there)

    async def until_committed(self) -> None:
        async def committed() -> bool:
            return await asyncio.to_thread(self.open_input) == 0

        await self.until(committed)


@pytest.fixture
def settings(cluster, tmp_path) -> BusSettings:
    return BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, data_dir=tmp_path)


@pytest.fixture
async def lab(settings) -> Lab:
    return await Lab(settings).open()


async def started(lab: Lab, work: Echo) -> Engine:
    engine = build_engine(lab.settings, [lab.source], work, group=lab.group)
    await engine.start()
    return engine


async def test_transactional_input_is_committed_to_its_end_and_aborted_records_are_not_seen(lab):
    await asyncio.to_thread(lab.write, 0, 400, batch=5, abort_every=7)
    engine = await started(lab, Echo(lab.out))
    await lab.until_out(400)
    await lab.until_committed()
    assert engine.progress().open == 0
    await engine.stop()
    values = await lab.read()
    assert sorted(values) == list(range(400)), "nothing missing, nothing twice, nothing aborted"


async def test_a_restart_repeats_nothing_that_was_committed(lab):
    await asyncio.to_thread(lab.write, 0, 100)
    engine = await started(lab, Echo(lab.out))
    await lab.until_out(100)
    await engine.stop()
    await asyncio.to_thread(lab.write, 100, 50)
    engine = await started(lab, Echo(lab.out))
    await lab.until_out(150)
    await engine.stop()
    assert sorted(await lab.read()) == list(range(150))


async def test_a_failing_handler_ends_the_engine_and_loses_nothing(lab):
    await asyncio.to_thread(lab.write, 0, 200)
    engine = await started(lab, Echo(lab.out, fail_at=b"120"))
    async with asyncio.timeout(PATIENCE_S):
        await engine.stopped()
    with pytest.raises(RuntimeError, match="database away"):
        await engine.stop()
    assert 120 not in await lab.read()
    healed = await started(lab, Echo(lab.out))
    await lab.until_out(200)
    await healed.stop()
    assert set(await lab.read()) == set(range(200))


async def test_a_refused_delivery_ends_the_engine_and_loses_nothing(settings):
    lab = await Lab(settings).open(max_message_bytes=3_000)
    await asyncio.to_thread(lab.write, 0, 100)
    engine = await started(lab, Echo(lab.out, grow=10_000))
    async with asyncio.timeout(PATIENCE_S):
        await engine.stopped()
    with pytest.raises(Exception, match=r"(?i)too ?large|MessageSize"):
        await engine.stop()
    healed = await started(lab, Echo(lab.out))
    await lab.until_out(100)
    await healed.stop()
    assert set(await lab.read()) == set(range(100))


WORKER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from bus.runtime.settings import BusSettings
from services.processors.engine.application import build_engine
from bus.runtime.publisher import Outgoing

class Echo:
    def handle(self, topic, key, value):
        return [Outgoing({out!r}, None, key.decode(), value)]
    async def wait(self, error):
        raise error

async def main():
    settings = BusSettings(kafka_bootstrap={bootstrap!r}, registry_url="http://unused", data_dir=Path({data!r}))
    engine = build_engine(settings, [{source!r}], Echo(), group={group!r})
    await engine.start()
    await engine.stopped()

asyncio.run(main())
"""


async def test_killed_twice_in_the_middle_nothing_is_missing_and_keys_stay_in_order(lab, tmp_path):
    code = WORKER.format(
        here=str(Path.cwd()), out=lab.out, source=lab.source, group=lab.group, data=str(tmp_path),
        bootstrap=lab.settings.kafka_bootstrap,
    )  # fmt: skip
    total = 0
    for _ in range(2):
        worker = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
        try:
            await asyncio.to_thread(lab.write, total, 300, batch=20)
            total += 300
            await lab.until_out(total - 150)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    engine = await started(lab, Echo(lab.out))
    await lab.until_out(total)
    await lab.until_committed()
    await engine.stop()
    values = await lab.read()
    assert set(values) == set(range(total))
    first_seen = list(dict.fromkeys(values))
    for key in range(7):
        mine = [value for value in first_seen if value % 7 == key]
        assert mine == sorted(mine)
