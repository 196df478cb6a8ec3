"""Poller: read → map → hash → seal → Avro → committed, and the same account read again unchanged.

The vendor answers from memory; Kafka, registry, connector and poller are the real ones.
"""

import time

from bench import bed, vendor
from bench.measure import Figure, own_peak_mib
from bus.core import topics
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Publisher, commit_surely
from bus.runtime.state import AccountState
from bus.runtime.table import PartitionTable
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
        await _once_untimed(process, recorded, clock)
        process.simulator.company.tables.clear()  # what is measured from here on is the poller's memory
        recorded.misses = 0
        publisher = Publisher(made.settings, "bench-pollers")
        await publisher.open()
        view = PartitionTable(made.settings, "bench-state")
        await view.load(topics.STATE, bed.SLOT)
        seen = Seen(CONNECTION, made.codec, {})
        try:
            changed = await _read(made, process, recorded, publisher, view, seen)
            unchanged = await _read(made, process, recorded, publisher, view, seen)
        finally:
            await view.close()
            await publisher.close()
    note = f"{size:,} customers, {size:,} invoices of {vendor.LINES} lines; vendor from memory, {recorded.misses} live calls"
    return [
        Figure(name="poller, changed", value=changed, unit="records/s", aim=8_000, peak_mib=own_peak_mib(), note=note),
        Figure(name="poller, unchanged", value=unchanged, unit="records/s", aim=50_000, peak_mib=own_peak_mib()),
    ]


async def _once_untimed(process: object, recorded: vendor.Recorded, clock: vendor.SimulatedTime) -> None:
    connector, client = bed.connector(process, recorded, clock, CONNECTION)  # type: ignore[arg-type]
    for stream in connector.manifest.streams:
        async for page in connector.read(stream.name, None):
            await connector.complete(page.records)
    await client.aclose()


async def _read(
    made: bed.Bed, process: object, recorded: vendor.Recorded, publisher: Publisher, view: PartitionTable, seen: Seen
) -> float:
    """One reading of everything; records per second."""
    connector, client = bed.connector(process, recorded, made.clock, CONNECTION)  # type: ignore[arg-type]
    state, counts = AccountState(CONNECTION), Counts()
    builder = PageBuilder(
        connection=CONNECTION,
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
        connection=CONNECTION,
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
