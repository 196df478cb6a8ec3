"""Sink: commands per second against a target without delay, every create under an intent in Kafka.

Kafka, connector, carrier and ledger are the real ones; commands come from memory instead of the outbound topic.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from bench import bed, vendor
from bench.measure import Figure, own_peak_mib
from bus.core import topics
from bus.core.clock import SystemClock, micros
from bus.core.identity import command_id, event_id
from bus.core.policy import WritePolicy, encode_policy
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Publisher
from bus.runtime.state import AccountState
from schemas import canon
from schemas.system import Action, Command, CommandKind, ObjectRef, Outcome
from services.sinks.account import AccountSink, Delivered
from services.sinks.carrying import Carrier
from services.sinks.ledger import Ledger
from services.sinks.locks import KeyLocks
from services.sinks.pictures import KafkaPictureLog, LoggedPictures
from services.sinks.task import Target

TARGET, PEER = "bench-target", "bench-source"
BACKLOG_MAX = 1_000


async def figures(size: int) -> list[Figure]:
    """Creates per second of `size` customers."""
    process = vendor.company(0, 0)
    process.simulator.clock.freeze(SystemClock().now())
    async with bed.made() as made:
        await ensure_topics(made.settings, [topics.outbound_topic(PEER)])
        target = vendor.ZeroDelay(process.transport, _created())
        connector, client = bed.connector(process, target, made.clock, TARGET)
        publisher = Publisher(made.settings, "bench-sinks")
        await publisher.open()
        commands = [await _command(made, number) for number in range(size)]
        ledger, state, locks = Ledger(bed.SLOT, publisher, made.codec), AccountState(TARGET), KeyLocks()
        account = Target(
            connector=connector,
            account=await connector.check(),
            state=state,
            ledger=ledger,
            clock=made.clock,
            hasher=made.privacy.tenant_hasher(bed.TENANT),
            privacy=made.privacy,
            codec=made.codec,
            locks=locks,
            pictures=LoggedPictures(KafkaPictureLog(made.settings)),
        )
        outcomes: list[Outcome] = []
        sink = AccountSink(
            connection=TARGET,
            state=state,
            ledger=ledger,
            carrier=Carrier(account),
            codec=made.codec,
            clock=made.clock,
            locks=locks,
            on_outcome=lambda _flow, _connection, outcome: outcomes.append(outcome),
        )
        running = [asyncio.ensure_future(ledger.run()), asyncio.ensure_future(sink.run())]
        sink.deliver(Delivered(raw=_backfilled(made), offset=0))
        await _until(lambda: "customer" in state.backfilled)
        began = time.perf_counter()
        for offset, raw in enumerate(commands, 1):
            await _until(lambda: sink.backlog() < BACKLOG_MAX)
            sink.deliver(Delivered(raw=raw, offset=offset))
        await _until(lambda: len(outcomes) == size)
        seconds = time.perf_counter() - began
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await client.aclose()
        await publisher.close()
    if target.creates != size or outcomes.count(Outcome.CREATED) != size:
        parked = next(iter(state.parked()), None)
        raise RuntimeError(f"{size} commands made {target.creates} creates: {set(outcomes)} {parked and parked.detail}")
    note = f"{size:,} customers; two transactions per create, shared by those under way"
    return [Figure(name="sink, creates", value=size / seconds, unit="commands/s", aim=500, peak_mib=own_peak_mib(), note=note)]


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.002)


def _created() -> Callable[[bytes, int], bytes]:
    template = next(iter(vendor.company(1, 0).simulator.company.tables["Customer"].values()))

    def answer(body: bytes, number: int) -> bytes:
        now = SystemClock().now().isoformat(timespec="seconds")  # an older one would be the repeated answer of an earlier create
        own = {"Id": str(number), "SyncToken": "0", "MetaData": {"CreateTime": now, "LastUpdatedTime": now}}
        return msgspec.json.encode({"Customer": {**_plain(template), **msgspec.json.decode(body), **own}, "time": now})

    return answer


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _backfilled(made: bed.Bed) -> bytes:
    command = Command(kind=CommandKind.BACKFILLED, id="backfilled", target_entity="customer", made_at=made.clock.now())
    return made.codec.encode(topics.outbound(TARGET), command)


async def _command(made: bed.Bed, number: int) -> bytes:
    source = ObjectRef(connection=PEER, entity="customer", id=str(number))
    place = canon.Address(
        type=canon.AddressType.BILLING, line1="Kade 1", postal_code="3011 AA", city="Rotterdam", country_code="NL"
    )
    pii = canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value=f"buyer{number}@bench.test")], addresses=[place])
    document = canon.Customer(
        kind=canon.CustomerKind.COMPANY, company_name=f"Bench {number} B.V.", display_name=f"Bench {number} B.V.", pii=pii
    )
    sealed, _ = await made.privacy.seal(document, bed.TENANT, PEER)
    now, key = made.clock.now(), topics.event_key(PEER, "customer", source.id)
    seq = micros(now)
    meta = canon.EventMeta(
        event_id=event_id(key, seq),
        seq=seq,
        tenant=bed.TENANT,
        system=bed.SYSTEM,
        connection=PEER,
        entity="customer",
        source_id=source.id,
        observed_at=now,
        op=canon.Operation.CREATED,
        content_hash="-",
    )
    event = made.codec.encode(topics.canonical("customer"), canon.CustomerEvent(meta=meta, after=sealed))
    command = Command(
        kind=CommandKind.WRITE,
        id=command_id(key, seq, "bench", 1),
        flow="bench",
        config_version=1,
        seq=seq,
        source=source,
        target_entity="customer",
        action=Action.UPSERT,
        event=event,
        policy=encode_policy(WritePolicy(write="upsert")),
        made_at=now,
    )
    return made.codec.encode(topics.outbound(TARGET), command)
