"""Poller: read → map → hash → seal → Avro → committed, and the same account read again unchanged.

The vendor answers from memory; Kafka, registry, connector and poller are the real ones.
"""

import time

from bench import bed, vendor
from bench.measure import Figure, own_peak_mib
from bus.core import topics
from bus.core.clock import Clock
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Publisher, commit_surely
from bus.runtime.state import AccountState
from bus.runtime.table import PartitionTable
from bus.simulation.simulator import InProcess
from services.pollers.account import AccountPoller, holds
from services.pollers.publishing import Counts, PageBuilder, Seen

CONNECTION = "bench-qbo"


async def figures(size: int) -> list[Figure]:
    """Records per second, changed and unchanged, of `size` customers and `size` invoices."""
    process = vendor.company(size, size)
    clock = vendor.SimulatedTime(process.simulator.clock)
    recorded = vendor.Recorded(process.transport)
    async with bed.made(clock) as made:
        await ensure_topics(made.settings, [topics.outbound_topic(CONNECTION)])
        await once_untimed(process, recorded, clock, CONNECTION)
        process.simulator.company.tables.clear()  # what is measured from here on is the poller's memory
        recorded.misses = 0
        publisher = Publisher(made.settings, "bench-pollers")
        await publisher.open()
        view = PartitionTable(made.settings, "bench-state")
        await view.load(topics.STATE, bed.SLOT)
        seen = Seen(CONNECTION, made.codec, {})
        try:
            changed = await read(made, process, recorded, publisher, view, CONNECTION, seen)
            unchanged = await read(made, process, recorded, publisher, view, CONNECTION, seen)
        finally:
            await view.close()
            await publisher.close()
    note = f"{size:,} customers, {size:,} invoices of {vendor.LINES} lines; vendor from memory, {recorded.misses} live calls"
    return [
        Figure(name="poller, changed", value=changed, unit="records/s", aim=8_000, peak_mib=own_peak_mib(), note=note),
        Figure(name="poller, unchanged", value=unchanged, unit="records/s", aim=50_000, peak_mib=own_peak_mib()),
    ]


async def once_untimed(process: InProcess, recorded: vendor.Recorded, clock: Clock, name: str) -> None:
    """One reading of everything, so that the vendor's answers are in memory."""
    connector, client = bed.connector(process, recorded, clock, name)
    for stream in connector.manifest.streams:
        async for page in connector.read(stream.name, None):
            await connector.complete(page.records)
    await client.aclose()


async def read(
    made: bed.Bed,
    process: InProcess,
    recorded: vendor.Recorded,
    publisher: Publisher,
    view: PartitionTable,
    name: str,
    seen: Seen,
) -> float:
    """One reading of everything; records per second."""
    connector, client = bed.connector(process, recorded, made.clock, name)
    state, counts = AccountState(name), Counts()
    builder = PageBuilder(
        connection=name,
        tenant=bed.TENANT,
        connector=connector,
        codec=made.codec,
        privacy=made.privacy,
        hasher=made.privacy.tenant_hasher(bed.TENANT),
        state=state,
        seen=seen,
        slot=bed.SLOT,
        clock=made.clock,
    )
    poller = AccountPoller(
        connection=name,
        connector=connector,
        builder=builder,
        seen=seen,
        cursors={},
        poll_s={},
        codec=made.codec,
        commit=lambda records: commit_surely(publisher, records),
        refresh_state=view.refresh,
        holds=holds(state, seen),
        slot=bed.SLOT,
        clock=made.clock,
        usage=dict,
        on_poll=lambda _connection, _stream, more: counts.add(more),
        on_failure=lambda *_: None,
    )
    began = time.perf_counter()
    for stream in connector.manifest.streams:
        await poller.poll(stream)
    seconds = time.perf_counter() - began
    await client.aclose()
    if counts.dead or not counts.read:
        raise RuntimeError(f"nothing was measured: {counts}")
    return counts.read / seconds
