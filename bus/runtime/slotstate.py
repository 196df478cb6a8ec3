"""What `bus.state` says of the accounts of one slot: one table on local disk, and a view per account on top of it."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bus.core import topics
from bus.core.clock import Clock
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.state import WAITING, AccountState
from bus.runtime.table import StoredTable
from schemas import files
from schemas.picker import compile_picker
from schemas.system import IntentState, Standing, StateRecord

log = logging.getLogger(__name__)

DECODED_MAX = 2_000
"""Records of a slot kept decoded: about 3 KB each."""
KINDS = ("object", "link", "intent", "standing")
"""Kinds of records of which an account may have many; all others are few and kept in memory."""
COUNTING = "sinks"
"""The service that tells how many objects stand where; others need no counts."""
_LARGE = frozenset(kind.encode() for kind in KINDS)
_WAITING = frozenset(str(standing) for standing in WAITING)


class SlotState:
    """The accounts of a slot as of the last `refresh`, and what their owner applied since."""

    def __init__(
        self,
        settings: BusSettings,
        codec: Codec,
        service: str,
        slot: int,
        names: Iterable[str],
        *,
        is_matched: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """`is_matched`: whether `candidates` will be asked; what pollers never ask is not made for them."""
        self.tallied, self.is_tallied = b"standing|", service == COUNTING
        self.accounts = {name: AccountState(name, _Records(self)) for name in names}
        self.names = frozenset(self.accounts)
        self._own = frozenset(topics.key(name).encode() for name in self.names)
        self._slot = slot
        self._codec = codec
        self._decoded: dict[str, StateRecord] = {}
        self._table = StoredTable(settings, codec, service, f"state-{service}-{slot}", self, clock=clock)
        self._turn = asyncio.Lock()
        self._frame = b""
        self._is_matched = is_matched
        schema = files.load(topics.schema_of(topics.STATE))
        self._pick = {
            b"object": compile_picker(schema, ["object.match_keys"]),
            b"link": compile_picker(schema, ["link.external_id"]),
            b"intent": compile_picker(schema, ["intent.state"]),
            b"standing": compile_picker(schema, ["standing.standing"]),
        }

    async def load(self) -> None:
        """Reads the slot's partition to its end. Call it after fencing the old owner. Raises TransientError."""
        self._frame = self._codec.frame(topics.STATE)
        await self._table.load(topics.STATE, self._slot)
        for place, count in self._table.tallies.items():
            name, flow, standing = topics.split_key(place)
            if (state := self.accounts.get(name)) is not None:
                state.recall_count(flow, Standing(standing), count)

    async def refresh(self) -> None:
        """Reads on to an end asked for now; what was applied before leaves memory, because the table has it.

        Raises TransientError.
        """
        async with self._turn:
            marks = {name: state.mark() for name, state in self.accounts.items()}
            await self._table.refresh()
            for name, state in self.accounts.items():
                state.settled(marks[name])

    async def close(self) -> None:
        """Ends reading; the local copy stays."""
        await self._table.close()

    @property
    def is_warm(self) -> bool:
        """Whether the last load went on from a local copy."""
        return self._table.is_warm

    # --- what accounts read --------------------------------------------------------------------------------------------------

    def record(self, key: str) -> StateRecord | None:
        """A record of the table, decoded."""
        found = self._decoded.get(key)
        if found is None:
            value = self._table.get(key)
            if value is None:
                return None
            found = self._codec.decode(topics.STATE, value)
            if len(self._decoded) >= DECODED_MAX:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[key] = found
        return found

    def keys(self, prefix: str) -> list[str]:
        """Keys of the table that begin with `prefix`."""
        return [key.decode() for key, _ in self._table.scan(prefix)]

    def records(self, prefix: str) -> Iterator[tuple[str, StateRecord]]:
        """Records of the table whose keys begin with `prefix`, decoded one by one."""
        return ((key.decode(), self._codec.decode(topics.STATE, value)) for key, value in self._table.scan(prefix))

    def indexed(self, prefix: str) -> list[str]:
        """What follows `prefix` in index entries."""
        return [entry.decode() for entry in self._table.entries(prefix)]

    # --- Index ---------------------------------------------------------------------------------------------------------------

    def prefixes(self, name: str) -> Sequence[bytes]:
        """Of an account's records: those whose kind is not listed are read whatever the account."""
        return [f"{topics.key(kind, name)}|".encode() for kind in KINDS]

    def entries(self, key: bytes, value: bytes) -> tuple[Sequence[bytes], bool]:
        """Match keys of an object, the target of a link; whether an intent is open or a command waits."""
        kind, _, rest = key.partition(b"|")
        if rest.partition(b"|")[0] not in self._own:
            return (), False
        if kind not in _LARGE:
            return (), True
        if kind == b"object" and not self._is_matched:
            return (), False
        found = self._found(kind, value)
        if not found:
            return (), False
        if kind == b"object":
            place, _, external_id = rest.rpartition(b"|")
            start = b"match|" + place + b"|"
            end = b"|" + external_id
            return [start + _part(match_key) + end for match_key in found], False
        if kind == b"link":
            name, entity, _ = rest.split(b"|", 2)
            return [b"|".join((b"to", name, entity, _part(found), key))], False
        return (), found == IntentState.OPEN if kind == b"intent" else found in _WAITING

    def _found(self, kind: bytes, value: bytes) -> Any:
        """What of a record the index is made of. Raises MappingError, SchemaUnknown."""
        if value.startswith(self._frame):
            try:
                return self._pick[kind](value, len(self._frame))[0]
            except (ValueError, IndexError):
                log.warning("a record is damaged", extra={"kind": kind.decode()})
        return _picked(kind, self._codec.decode(topics.STATE, value))

    def tally(self, key: bytes, value: bytes) -> str | None:
        """`connection|flow|standing` of a standing; None for all else, and for other slots' accounts."""
        kind, _, rest = key.partition(b"|")
        name, _, flow = rest.partition(b"|")
        if kind != b"standing" or name not in self._own or not (standing := self._found(kind, value)):
            return None
        return f"{name.decode()}|{flow.partition(b'|')[0].decode()}|{standing}"

    def keep(self, key: bytes, value: bytes | None) -> None:
        """A record that is kept in memory, or is not any more."""
        text = key.decode()
        state = self.accounts.get(topics.split_key(text)[1])
        if state is not None:
            state.keep(text, self._codec.decode(topics.STATE, value) if value is not None else None)

    def changed(self, keys: Iterable[bytes]) -> None:
        """What is decoded of them is no longer true."""
        if self._decoded:
            for key in keys:
                self._decoded.pop(key.decode(), None)


class _Records:
    """What lies below an account."""

    def __init__(self, slot: SlotState) -> None:
        self.record = slot.record
        self.keys = slot.keys
        self.records = slot.records
        self.entries = slot.indexed


def _part(text: bytes) -> bytes:
    """As `bus.runtime.state` writes a part of a place."""
    return text.replace(b"%", b"%25").replace(b"|", b"%7C")


def _picked(kind: bytes, record: StateRecord) -> Any:
    """As the pickers do, from a record of another release."""
    if record.object is not None and kind == b"object":
        return [match_key.encode() for match_key in record.object.match_keys]
    if record.link is not None and kind == b"link":
        return record.link.external_id.encode()
    if record.intent is not None and kind == b"intent":
        return str(record.intent.state)
    return str(record.standing.standing) if record.standing is not None and kind == b"standing" else None
