"""What the bus knows, read once for a look: the state of accounts, and the newest event of objects. Nothing is written."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.state import AccountState
from bus.runtime.table import PartitionTable
from bus.runtime.tail import read_raw
from schemas.system import SeenRecord


async def account_states(settings: BusSettings, codec: Codec, connections: Iterable[str]) -> dict[str, AccountState]:
    """What `bus.state` says of some accounts, as of now."""
    states = {name: AccountState(name) for name in connections}
    for slot in sorted({topics.slot_of(name, settings.slots) for name in states}):
        table = PartitionTable(settings, f"compare-state-{slot}")
        try:
            await table.load(topics.STATE, slot)
            for raw_key, value in table.items():
                key = raw_key.decode()
                state = states.get(topics.split_key(key)[1])
                if state is not None:
                    state.apply(key, await codec.read(topics.STATE, value))
        finally:
            await table.close()
    return states


async def newest_events(settings: BusSettings, entity: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The newest event of each object, framed, by canonical key. An object that was deleted has its last word, DELETED.

    Others are not decoded: one that is damaged stops nobody who looks for something else.
    """
    found: dict[str, bytes] = {}
    async for record in read_raw(settings, topics.canonical(entity)):
        key = record.key.decode("utf-8", "replace")
        if record.value is not None and wanted(key):
            found[key] = record.value
    return found


async def known_objects(settings: BusSettings, codec: Codec, connection: str) -> dict[tuple[str, str], SeenRecord]:
    """What polling knows of an account, by entity and id: what it could map and did not see deleted."""
    table = PartitionTable(settings, "compare-seen")
    try:
        await table.load(topics.SEEN, topics.slot_of(connection, settings.slots))
        found: dict[tuple[str, str], SeenRecord] = {}
        for _, value in table.items(topics.key(connection, "")):
            record: SeenRecord = await codec.read(topics.SEEN, value)
            if record.content_hash and not record.deleted:
                found[record.entity, record.source_id] = record
        return found
    finally:
        await table.close()


def decoded(codec: Any, entity: str, events: Mapping[str, bytes], key: str) -> Any:
    """One event of a look; None when there is none."""
    raw = events.get(key)
    return None if raw is None else codec.decode(topics.canonical(entity), raw)
