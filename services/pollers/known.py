"""What polling knows of the accounts of one slot: one table of `bus.seen` on local disk, and a view per account on top of it."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from bus.core import topics
from bus.core.clock import Clock
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.table import StoredTable
from schemas import files
from schemas.picker import compile_picker
from services.pollers.publishing import PICK_KNOWN, Seen


class SlotSeen:
    """The accounts of a slot as of the last `refresh`, and what was committed since."""

    tallied, is_tallied = b"", True

    def __init__(
        self, settings: BusSettings, codec: Codec, slot: int, names: Iterable[str], *, clock: Clock | None = None
    ) -> None:
        self._codec = codec
        self._slot = slot
        self._table = StoredTable(settings, codec, "pollers", f"seen-{slot}", self, clock=clock)
        self.accounts = {name: Seen(name, codec, {}, self._table) for name in names}
        self.names = frozenset(self.accounts)
        self._own = frozenset(topics.key(name).encode() for name in self.names)
        self._frame = b""
        schema = files.load(topics.schema_of(topics.SEEN))
        self._pick = compile_picker(schema, ["held"])
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Reads the slot's partition to its end. Call it after fencing the old owner. Raises TransientError."""
        self._frame = self._codec.frame(topics.SEEN)
        await self._table.load(topics.SEEN, self._slot)
        for place, count in self._table.tallies.items():
            name, entity, what = topics.split_key(place)
            if (seen := self.accounts.get(name)) is not None:
                seen.recall_count(entity, what, count)

    async def refresh(self) -> None:
        """Reads on to an end asked for now; what was applied before leaves memory, because the table has it.

        Raises TransientError.
        """
        async with self._turn:
            marks = {name: seen.mark() for name, seen in self.accounts.items()}
            await self._table.refresh()
            for name, seen in self.accounts.items():
                seen.settled(marks[name])

    async def close(self) -> None:
        """Ends reading; the local copy stays."""
        await self._table.close()

    @property
    def is_warm(self) -> bool:
        """Whether the last load went on from a local copy."""
        return self._table.is_warm

    # --- Index ---------------------------------------------------------------------------------------------------------------

    def prefixes(self, name: str) -> Sequence[bytes]:
        """Of an account's records."""
        return [f"{topics.key(name)}|".encode()]

    def entries(self, key: bytes, value: bytes) -> tuple[Sequence[bytes], bool]:
        """No index; whether the object is held."""
        if key.partition(b"|")[0] not in self._own:
            return (), False
        if value.startswith(self._frame):
            with suppress(ValueError, IndexError):  # else the decoder has words for it
                return (), bool(self._pick(value, len(self._frame))[0])
        return (), self._codec.decode(topics.SEEN, value).held

    def tally(self, key: bytes, value: bytes) -> str | None:
        """`connection|entity|living` or `…|deleted`; None for what was never mapped, and for other slots' accounts."""
        if key.partition(b"|")[0] not in self._own:
            return None
        if value.startswith(self._frame):
            content, deleted = PICK_KNOWN(value, len(self._frame))
        else:
            record = self._codec.decode(topics.SEEN, value)
            content, deleted = record.content_hash, record.deleted
        if not content and not deleted:
            return None
        return key.rpartition(b"|")[0].decode() + ("|deleted" if deleted else "|living")

    def keep(self, key: bytes, value: bytes | None) -> None:
        """An object that is held, or is not any more."""
        name, entity, source_id = topics.split_key(key.decode())
        if (seen := self.accounts.get(name)) is not None:
            seen.keep(entity, source_id, held=value is not None)

    def changed(self, keys: Iterable[bytes]) -> None:
        """Nothing is kept decoded."""
