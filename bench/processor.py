"""Processor: the real service as a process of its own, over events that a poller published, under the example's flows.

Two parts: 1. a backlog of everything, for events per second; 2. a steady trickle, for the time an event takes. Filters are taken
out of the flows, so that every event is mapped.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module

import psutil

from bench import bed, poller, vendor
from bench.example import SOURCE, TARGET, applied
from bench.measure import MIB, Figure, quantile
from bus.core import topics
from bus.runtime.jobs import ENDED, jobs
from bus.runtime.published import read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.reader import BEGINNING, END, LogReader, Record
from bus.runtime.table import PartitionTable
from bus.simulation.simulator import InProcess
from schemas.system import Action
from services.pollers.publishing import Seen

ENTITIES = ("customer", "product", "sales_invoice")
SINCE = timedelta(days=365)
RATE_PER_S = 200
TRICKLE_S = 15
PATIENCE_S = 600.0
POLL_S = 60


async def figures(size: int) -> list[Figure]:
    """Events per second of `size` customers and `size` invoices, and the time one takes at a steady rate."""
    process = vendor.company(size, size)
    clock = vendor.SimulatedTime(process.simulator.clock)
    async with bed.made(clock) as made:
        await _apply(made, process)
        await _first_replays(made)
        await _publish(made, process)
        process.simulator.company.tables.clear()
        events = await _events(made)
        commands = LogReader(made.settings, "bench-commands")
        await commands.assign(topics.outbound_topic(TARGET).name, {0: END})
        async with _service() as service:
            rate, kinds = await _backlog(made, commands, len(events))
            ways = await _trickle(made, commands, events)
            peak = psutil.Process(service.pid).memory_info().rss / MIB
        await commands.close()
    note = f"{len(events):,} events, of which {kinds} became writes; each on its way to one flow"
    steady = f"{RATE_PER_S} events/s for {TRICKLE_S} s, from published to readable as command"
    return [
        Figure(name="processor", value=rate, unit="events/s", aim=3_000, peak_mib=peak, note=note),
        Figure(name=f"processor, p50 at {RATE_PER_S}/s", value=quantile(ways, 0.5) * 1_000, unit="ms", note=steady),
        Figure(name=f"processor, p99 at {RATE_PER_S}/s", value=quantile(ways, 0.99) * 1_000, unit="ms"),
    ]


async def _apply(made: bed.Bed, process: InProcess) -> None:
    exact = InProcess(import_module("connectors.exact_online.simulator").build(real_limits=False))
    infos = {SOURCE: process.info, TARGET: exact.info}
    start = (made.clock.now() - SINCE).date()
    await applied(made.settings, made.codec, infos, start=start, poll_s=POLL_S, is_filtered=False)


async def _first_replays(made: bed.Bed) -> None:
    """Those of the new flows, over empty topics: else they would send every event a second time beside the measurement."""
    flows = (await read_published(made.settings, made.codec)).configuration.flows
    deadline = time.monotonic() + PATIENCE_S
    async with _service():
        while sum(job.state in ENDED for job in await jobs(made.settings, made.codec)) < len(flows):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the replays of {len(flows)} new flows have not ended after {PATIENCE_S:.0f} s")
            await asyncio.sleep(0.5)


async def _publish(made: bed.Bed, process: InProcess) -> None:
    recorded = vendor.Recorded(process.transport)
    publisher = Publisher(made.settings, "bench-pollers")
    await publisher.open()
    view = PartitionTable(made.settings, "bench-state")
    await view.load(topics.STATE, bed.SLOT)
    try:
        await poller.read(made, process, recorded, publisher, view, SOURCE, Seen(SOURCE, made.codec, {}))
    finally:
        await view.close()
        await publisher.close()


async def _events(made: bed.Bed) -> list[Record]:
    """Of every entity that a flow of the example takes from here."""
    reader, found = LogReader(made.settings, "bench-events"), []
    for topic in map(topics.canonical, ENTITIES):
        await reader.assign(topic, dict.fromkeys(await reader.partitions(topic), BEGINNING))
        async for batch in reader.read_to(topic, await reader.ends(topic)):
            found += batch
    await reader.close()
    return found


@asynccontextmanager
async def _service() -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "services.processors"]
    environment = {**os.environ, "BUS_HTTP_PORT": "0", "BUS_LOG_LEVEL": "WARNING"}
    service = await asyncio.create_subprocess_exec(*command, env=environment, stdout=sys.stderr)
    try:
        yield service
    finally:
        service.terminate()
        await service.wait()


async def _backlog(made: bed.Bed, commands: LogReader, expected: int) -> tuple[float, int]:
    """Events per second from the first command to the last, and how many asked for a write."""
    deadline, count, writes, first, last = time.monotonic() + PATIENCE_S, 0, 0, 0.0, 0.0
    while count < expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} commands of {expected} events after {PATIENCE_S:.0f} s")
        batch = await commands.take(10_000, 1.0)
        if batch and not first:
            first, skipped = time.monotonic(), len(batch)
        if batch:
            last, count = time.monotonic(), count + len(batch)
            found = [made.codec.decode(topics.outbound(TARGET), record.value or b"") for record in batch]
            writes += sum(command.action is not Action.NONE for command in found)
    return (count - skipped) / (last - first), writes


async def _trickle(made: bed.Bed, commands: LogReader, events: Sequence[Record]) -> list[float]:
    """Seconds from the publication of an event to its command, one by one."""
    chosen = list({record.key: record for record in events}.values())[: RATE_PER_S * TRICKLE_S]
    publisher = Publisher(made.settings, "bench-trickle")
    await publisher.open()
    sent: dict[bytes, float] = {}
    ways: list[float] = []

    async def receive() -> None:
        while len(ways) < len(chosen):
            for record in await commands.take(1_000, 0.5):
                ways.append(time.monotonic() - sent[record.key])

    receiving = asyncio.ensure_future(receive())
    began = time.monotonic()
    for number, record in enumerate(chosen):
        await asyncio.sleep(max(0.0, began + number / RATE_PER_S - time.monotonic()))
        event = Outgoing(topic=record.topic, partition=record.partition, key=record.key.decode(), value=record.value)
        sent[record.key] = time.monotonic()
        await publisher.commit([event])
    await asyncio.wait_for(receiving, PATIENCE_S)
    await publisher.close()
    return ways
