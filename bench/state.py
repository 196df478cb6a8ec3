"""State at scale: one account with a million known objects, from its compacted topics to a slot that can work.

Every restore runs in a process of its own, so that its peak memory is its own. `python -m bench --only state`; not among the
groups that run without a name, because writing three million records first takes minutes.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any

from bench import bed
from bench.measure import MIB, Figure, own_peak_mib
from bus.core import topics
from bus.core.clock import Clock, SystemClock
from bus.core.configuration import Configuration
from bus.core.topics import slot_of
from bus.runtime.books import BookReader
from bus.runtime.codec import Codec
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings, load_settings
from bus.runtime.state import link_key, object_key, offset_key, standing_key
from schemas.system import (
    Cause,
    LinkedBy,
    LinkRecord,
    LinkState,
    ObjectRef,
    ObjectState,
    OffsetRecord,
    Outcome,
    SeenRecord,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.pollers.slot import PollerSlot
from services.sinks.slot import SinkSlot

ACCOUNT, PEER, FLOW = "bench-account", "bench-peer", "bench-flow"
OBJECTS_PER_SIZE = 50
"""The other groups measure 20,000 of something; this one a million objects."""
BATCH_RECORDS = 10_000
EVERY_PARKED = 10_000
"""One standing in so many waits."""
PRODUCT = ["sku", "name", "description", "unit", "categories", "sales_price", "cost_price", "vat", "active", "gtin", "weight_kg"]
CUSTOMER = [
    "kind",
    "company_name",
    "display_name",
    "full_name",
    "given_name",
    "family_name",
    "email",
    "phone",
    "address.BILLING",
    "address.DELIVERY",
    "vat_number",
    "language",
    "payment_term",
    "currency",
    "number",
    "active",
]
Pair = tuple[str, str, Any]
"""Topic, key, record."""


@dataclass(frozen=True)
class Connection:
    """What a slot asks of a connection before it opens it."""

    name: str


class Surroundings:
    """What a slot's takeover asks of its environment."""

    def __init__(self, settings: BusSettings, codec: Codec) -> None:
        self.settings = settings
        self.codec = codec
        self.clock: Clock = SystemClock()

    def connections_of(self, slot: int) -> list[Connection]:
        """The account of this bench, on its slot."""
        return [Connection(ACCOUNT)] if slot == slot_of(ACCOUNT, self.settings.slots) else []


# --- what stands on the topics -----------------------------------------------------------------------------------------------


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def records(objects: int, clock: Clock) -> Iterator[Pair]:
    """Three of ten objects are customers, the rest products; every second one is linked and stands in a flow."""
    now = clock.now()
    for number in range(objects):
        is_customer = number % 10 < 3
        entity, own_id = ("customer" if is_customer else "product"), str(100_000 + number)
        fields = {name: _hash(f"{name} {number}", 8) for name in (CUSTOMER if is_customer else PRODUCT)}
        content = _hash(f"content {number}", 32)
        here, source = own_id, ObjectRef(connection=PEER, entity=entity, id=f"{900_000 + number}")
        known = ObjectState(
            version=str(number % 7),
            content_hash=content,
            field_hashes=fields,
            match_keys=_match_keys(is_customer, number),
            by_bus=number % 2 == 0,
            written_at=now - timedelta(seconds=number) if number % 2 == 0 else None,
            writer=source if number % 2 == 0 else None,
        )
        yield topics.STATE, object_key(ACCOUNT, entity, here), StateRecord(connection=ACCOUNT, object=known)
        seen = SeenRecord(
            connection=ACCOUNT,
            entity=entity,
            source_id=here,
            raw_hash=_hash(f"raw {number}", 16),
            content_hash=content,
            seq=1_790_000_000_000_000 + number,
            mapping_version=3,
            source_version=str(number % 7),
            field_hashes=fields,
            held=number % EVERY_PARKED == 2,
        )
        yield topics.SEEN, topics.event_key(ACCOUNT, entity, here), seen
        if number % 2 == 0:
            link = LinkRecord(
                source=source,
                entity=entity,
                external_id=here,
                number=here,
                state=LinkState.ACTIVE,
                linked_by=LinkedBy.CREATED,
            )
            yield topics.STATE, link_key(ACCOUNT, entity, source, None), StateRecord(connection=ACCOUNT, link=link)
            is_parked = number % EVERY_PARKED == 0
            standing = StandingRecord(
                flow=FLOW,
                source=source,
                seq=1_790_000_000_000_000 + number,
                config_version=7,
                standing=Standing.PARKED if is_parked else Standing.WRITTEN,
                outcome=Outcome.PARKED if is_parked else Outcome.CREATED,
                cause=Cause.CONNECTION_UNAVAILABLE if is_parked else None,
                attempts=1,
                parked_at=now if is_parked else None,
                command=b"c" * 2_000 if is_parked else None,
                applied=fields,
                external_id=here,
                settled_at=now,
            )
            yield topics.STATE, standing_key(ACCOUNT, FLOW, source), StateRecord(connection=ACCOUNT, standing=standing)
    offset = StateRecord(connection=ACCOUNT, offset=OffsetRecord(offset=objects))
    yield topics.STATE, offset_key(ACCOUNT), offset


def _match_keys(is_customer: bool, number: int) -> list[str]:
    if not is_customer:
        return [f"gtin:{_hash(f'gtin {number}', 16)}", f"sku:{_hash(f'sku {number}', 16)}"]
    email = _hash(f"email {number}", 16)
    return [f"email+kind:{email}:COMPANY", f"email:{email}", f"number:{_hash(f'number {number}', 16)}"]


async def fill(settings: BusSettings, codec: Codec, objects: int) -> int:
    """Writes them in transactions as a service would; returns how many records."""
    slot = slot_of(ACCOUNT, settings.slots)
    publisher = Publisher(settings, "bench-state")
    await publisher.open()
    batch: list[Outgoing] = []
    written = 0
    for topic, key, record in records(objects, SystemClock()):
        batch.append(Outgoing(topic=topic, partition=slot, key=key, value=codec.encode(topic, record)))
        if len(batch) == BATCH_RECORDS:
            await publisher.commit(batch)
            written, batch = written + len(batch), []
    await publisher.commit(batch)
    await publisher.close()
    return written + len(batch)


# --- what is measured ----------------------------------------------------------------------------------------------------------


async def sinks(around: Any, slot: int) -> dict[str, float]:
    """A slot of the sinks, from fencing on: to knowing what its account waits for."""
    work = SinkSlot(around, slot)
    await work._publisher.open()
    with _measured() as found:
        await work._state.load()
    state = work._state.accounts[ACCOUNT]
    objects = int(state.offset or 0)
    assert len(list(state.parked())) == -(-objects // EVERY_PARKED)
    assert len(state.candidates("product", "sku:" + _hash("sku 7", 16))) == 1
    assert len(state.links_to("customer", "100002")) == 1
    found["look_us"] = _looked_up(lambda number: state.object("product", str(100_000 + number)), objects)
    found["is_warm"] = work._state.is_warm
    await work.close()
    return found


async def pollers(around: Any, slot: int) -> dict[str, float]:
    """A slot of the pollers, from fencing on: what polling knows, and the sink's state."""
    work = PollerSlot(around, slot)
    await work._publisher.open()
    with _measured() as found:
        await asyncio.gather(work._seen.load(), work._view.load())
    seen, objects = work._seen.accounts[ACCOUNT], int(work._view.accounts[ACCOUNT].offset or 0)
    assert seen.held and sum(seen.known.values()) == objects
    found["look_us"] = _looked_up(lambda number: seen.get("product", str(100_000 + number)), objects)
    found["is_warm"] = work._seen.is_warm and work._view.is_warm
    await work.close()
    return found


async def status(around: Any, _slot: int) -> dict[str, float]:
    """What `bus status` reads, and one look at it once it is read."""
    reader = BookReader(around.settings, around.codec)
    with _measured() as found:
        await reader.read(Configuration(), 1)
    began = time.perf_counter()
    await reader.read(Configuration(), 1)
    found["look_us"] = (time.perf_counter() - began) * 1e6
    await reader.close()
    return found


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    found: dict[str, float] = {"before_mib": own_peak_mib()}
    began, worked = time.perf_counter(), time.process_time()
    yield found
    found |= {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - worked, "peak_mib": own_peak_mib()}


def _looked_up(look: Callable[[int], Any], objects: int) -> float:
    """µs per look-up and decoding of objects spread over all."""
    numbers = [number for number in range(7, objects, max(1, objects // 5_000)) if number % 10 >= 3]
    began = time.perf_counter()
    for number in numbers:
        assert look(number) is not None
    return (time.perf_counter() - began) / len(numbers) * 1e6


PARTS = {"sinks": sinks, "pollers": pollers, "status": status}
PEAK_MIB = {"sinks": 512.0, "pollers": 640.0, "status": 1_024.0}


async def _child(part: str) -> None:
    settings = load_settings()
    async with RegistryClient.of(settings) as registry:
        codec = Codec(registry)
        await codec.open()
        found = await PARTS[part](Surroundings(settings, codec), slot_of(ACCOUNT, settings.slots))
    print(json.dumps(found))


def _restored(part: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "bench.state", part], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _figures(part: str, how: str, found: dict[str, float], aim_s: float, what: str) -> list[Figure]:
    note = f"{what}{found['cpu_s']:.1f} s of CPU; a look-up {found['look_us']:,.0f} µs"
    peak, before = found["peak_mib"], found["before_mib"]
    return [
        Figure(name=f"{part}, {how}", value=found["seconds"], unit="s", aim=aim_s, at_least=False, peak_mib=peak, note=note),
        Figure(
            name=f"{part}, {how}: peak memory",
            value=peak,
            unit="MiB",
            aim=PEAK_MIB[part],
            at_least=False,
            note=f"{before:.0f} MiB of it before it began",
        ),
    ]


async def figures(size: int) -> list[Figure]:
    """Cold and warm starts of a slot of the sinks and of the pollers, and `bus status`."""
    objects = size * OBJECTS_PER_SIZE
    async with bed.made() as made:
        await ensure_topics(made.settings, [topics.outbound_topic(ACCOUNT)])
        written = await fill(made.settings, made.codec, objects)
    found: list[Figure] = []
    what = f"{objects:,} objects, {written:,} records; "
    for part in ("sinks", "pollers"):
        cold = await asyncio.to_thread(_restored, part)
        warm = await asyncio.to_thread(_restored, part)
        if cold["is_warm"] or not warm["is_warm"]:
            raise RuntimeError(f"the local copy of {part} was not used as it should be: {cold} {warm}")
        found += _figures(part, "cold", cold, 10, what) + _figures(part, "warm", warm, 1, "")
    found += _figures("status", "from nothing", await asyncio.to_thread(_restored, "status"), 60, "")
    used = sum(path.stat().st_size for path in (made.settings.data_dir / "cache").rglob("*") if path.is_file())
    return [*found, Figure(name="local copies on disk", value=used / MIB, unit="MiB", note="of both services")]


if __name__ == "__main__":
    asyncio.run(_child(sys.argv[1]))
