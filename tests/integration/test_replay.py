"""The replay job on a real broker: flow, keys and time, killed in the middle, behind a new flow's configuration (laws 18, 19)."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import parse
from bus.core.errors import SettingsError
from bus.runtime.codec import Codec
from bus.runtime.jobs import ENDED, jobs
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.requests import ask, request
from bus.runtime.service import Service
from bus.runtime.settings import BusSettings
from schemas import canon
from schemas.system import Command, JobRecord, JobState, RequestKind
from services.processors.app import serve
from services.processors.engine.application import GROUP
from services.processors.reporting import Reports

pytestmark = pytest.mark.broker

PATIENCE_S = 90.0
START = datetime(2026, 12, 1, tzinfo=UTC)


class Bench:
    """A shop, a ledger, and what flows between them."""

    def __init__(self, settings: BusSettings, codec: Codec) -> None:
        self.settings, self.codec, self.name = settings, codec, f"t{uuid.uuid4().hex[:8]}"
        self.shop, self.ledger = f"{self.name}-shop", f"{self.name}-ledger"

    def configuration(self, *flows: str):
        more = "".join(
            f"""
--- {{kind: Flow, name: {self.name}-{flow}, from: {{connection: {self.shop}, entity: customer}},
     to: {{connection: {self.ledger}, entity: customer}}, start: {{existing: send}}, write: upsert}}"""
            for flow in flows
        )
        return parse(f"""
--- {{kind: Connection, name: {self.shop}, tenant: acme, system: some_shop, secret: shop, config: {{realm: {self.name}}}}}
--- {{kind: Connection, name: {self.ledger}, tenant: acme, system: some_ledger, secret: ledger, config: {{realm: {self.name}}}}}
{more}
""").accepted()

    async def apply(self, *flows: str):
        return await apply(self.settings, self.codec, self.configuration(*flows), SystemClock(), allow_remove=True)

    def customer(self, number: int, seq: int = 1) -> Outgoing:
        """Seen `number` minutes after START."""
        meta = canon.EventMeta(
            event_id=f"{number}-{seq}", seq=seq, tenant="acme", system="some_shop", connection=self.shop, entity="customer",
            source_id=str(number), observed_at=START + timedelta(minutes=number), op=canon.Operation.UPDATED, content_hash="h",
        )  # fmt: skip
        topic = topics.canonical("customer")
        key = topics.event_key(self.shop, "customer", str(number))
        event = canon.CustomerEvent(meta=meta, after=canon.Customer(display_name=f"B {number} {seq}"))
        return Outgoing(topic, None, key, self.codec.encode(topic, event))

    async def publish(self, *records: Outgoing) -> None:
        publisher = Publisher(self.settings, f"test-{uuid.uuid4().hex}")
        await publisher.open()
        try:
            await publisher.commit(records)
        finally:
            await publisher.close()

    async def commands(self) -> list[Command]:
        """All commands for the ledger."""
        reader, topic = LogReader(self.settings, "test"), topics.outbound(self.ledger)
        try:
            await reader.assign(topic, {0: BEGINNING})
            ends = await reader.ends(topic)
            return [self.codec.decode(topic, record.value) async for batch in reader.read_to(topic, ends) for record in batch]
        finally:
            await reader.close()

    async def replay(self, **args: str) -> str:
        """Asks for a replay; its id."""
        asked = request(RequestKind.REPLAY, self.shop, args)
        await ask(self.settings, self.codec, [asked])
        return asked.id

    async def job(self, job_id: str) -> JobRecord | None:
        """As it stands."""
        return next((job for job in await jobs(self.settings, self.codec) if job.id == job_id), None)

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await asyncio.sleep(0.2)

    async def ended(self, job_id: str) -> JobRecord:
        async def is_over() -> bool:
            job = await self.job(job_id)
            return job is not None and job.state in ENDED

        await self.until(is_over)
        found = await self.job(job_id)
        assert found is not None
        return found

    async def until_commands(self, count: int) -> None:
        async def there() -> bool:
            return len(await self.commands()) >= count

        await self.until(there)

    async def replayed(self, **args: str) -> list[Command]:
        """What one replay published, by source id."""
        job = await self.ended(await self.replay(**args))
        assert (job.state, job.detail) == (JobState.DONE, None)
        made = [command for command in await self.commands() if command.request == job.id]
        assert len(made) == job.published
        return sorted(made, key=lambda command: (command.flow or "", int(command.source.id)))


@pytest.fixture
async def settings(cluster, tmp_path) -> BusSettings:
    found = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url, data_dir=tmp_path, http_port=0)
    async with RegistryClient.of(found) as registry:
        try:
            await registry.ids()
        except SettingsError:
            await registry.register_all()
    await ensure_topics(found, topics.fixed_topics(found.slots, found.partitions))
    return found


@pytest.fixture
async def bench(settings) -> Bench:
    async with RegistryClient.of(settings) as registry:
        codec = Codec(registry)
        await codec.open()
        yield Bench(settings, codec)


@pytest.fixture
async def processors(settings):
    service = Service("processors", settings)
    task = asyncio.ensure_future(serve(service))
    yield service
    service.stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await task


async def test_by_flow_by_keys_and_by_time_and_again_with_equal_bytes(bench, processors):
    await bench.apply("one", "two")
    await bench.publish(*(bench.customer(number) for number in range(20)))
    await bench.publish(bench.customer(3, 2), bench.customer(5, 2))
    await bench.until_commands(44)
    whole = await bench.replayed(flow=f"{bench.name}-one")
    assert [command.flow for command in whole] == [f"{bench.name}-one"] * 20
    assert [(int(command.source.id), command.seq) for command in whole] == [
        (number, 2 if number in (3, 5) else 1) for number in range(20)
    ]
    again = await bench.replayed(flow=f"{bench.name}-one")
    plain = [bench.codec.encode(topics.outbound(bench.ledger), msgspec.structs.replace(item, request="")) for item in whole]
    assert plain == [
        bench.codec.encode(topics.outbound(bench.ledger), msgspec.structs.replace(item, request="")) for item in again
    ]
    by_keys = await bench.replayed(entity="customer", keys=msgspec.json.encode(["3", "7", "nobody"]).decode(), repair="true")
    assert [(command.flow, command.source.id, command.repair) for command in by_keys] == [
        (f"{bench.name}-{flow}", number, True) for flow in ("one", "two") for number in ("3", "7")
    ]
    since, until = (START + timedelta(minutes=4)).isoformat(), (START + timedelta(minutes=6)).isoformat()
    by_time = await bench.replayed(flow=f"{bench.name}-two", since=since, until=until)
    assert [(command.source.id, command.seq) for command in by_time] == [("4", 1), ("5", 2)]
    refused = await bench.ended(await bench.replay(flow="nothing"))
    assert (refused.state, refused.detail) == (JobState.REFUSED, f"there is no flow nothing from {bench.shop}")


async def test_a_new_flow_receives_what_was_there_and_what_comes_meanwhile(bench, processors):
    await bench.apply("one")
    await bench.publish(*(bench.customer(number) for number in range(30)))
    await bench.until_commands(30)
    applied = await bench.apply("one", "two")
    [asked] = applied.replays
    for number in range(30, 60):
        await bench.publish(bench.customer(number))
    job = await bench.ended(asked.id)
    assert (job.state, job.config_version) == (JobState.DONE, applied.version)

    async def all_there() -> bool:
        made = {int(command.source.id) for command in await bench.commands() if command.flow == f"{bench.name}-two"}
        return made == set(range(60))

    await bench.until(all_there)


async def test_what_processors_report_is_what_they_hold(bench, processors):
    applied = await bench.apply("one")
    reports, topic = Reports(bench.settings, GROUP), topics.canonical("customer")
    places = [(topic, partition) for partition in range(bench.settings.partitions)]

    async def all_know() -> bool:
        return await reports.behind(places, applied.version) == []

    await bench.until(all_know)
    assert len(await reports.behind(places, applied.version + 1)) == len(places)
    assert len(await Reports(bench.settings, f"{GROUP}-nobody").behind(places, applied.version)) == len(places)


async def test_cancelled_it_ends_and_publishes_no_more(bench, processors):
    await bench.apply("one")
    await bench.publish(*(bench.customer(number) for number in range(60)))
    await bench.until_commands(60)
    job_id = await bench.replay(flow=f"{bench.name}-one", rate_per_s="2")

    async def has_begun() -> bool:
        job = await bench.job(job_id)
        return job is not None and job.published > 0

    await bench.until(has_begun)
    await ask(bench.settings, bench.codec, [request(RequestKind.CANCEL, bench.shop, {"id": job_id})])
    job = await bench.ended(job_id)
    assert (job.state, 0 < job.published < 60) == (JobState.CANCELLED, True)
    assert sum(command.request == job_id for command in await bench.commands()) == job.published


async def test_killed_in_the_middle_it_goes_on_and_repeats_no_committed_batch(bench, cluster_environment, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"A" * 43 + b"=")
    environment = {
        **os.environ, **cluster_environment, "BUS_DATA_DIR": str(tmp_path), "BUS_HTTP_PORT": "0", "PYTHONPATH": str(Path.cwd()),
        "BUS_MASTER_KEY_FILE": str(key),
    }  # fmt: skip
    await bench.apply("one")
    await bench.publish(*(bench.customer(number) for number in range(300)))

    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "services.processors"], env=environment, stderr=subprocess.DEVNULL)

    process = start()
    try:
        await bench.until_commands(300)
        job_id = await bench.replay(flow=f"{bench.name}-one", rate_per_s="40")
        for least in (20, 120):

            async def so_far(least: int = least) -> bool:
                job = await bench.job(job_id)
                return job is not None and job.published >= least

            await bench.until(so_far)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed = await bench.job(job_id)
            assert killed is not None
            assert killed.state is JobState.RUNNING
            process = start()
        job = await bench.ended(job_id)
    finally:
        process.kill()
        process.wait()
    assert (job.state, job.published) == (JobState.DONE, 300)
    made = [int(command.source.id) for command in await bench.commands() if command.request == job_id]
    assert sorted(made) == list(range(300)), "none missing, none twice"
