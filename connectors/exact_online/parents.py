"""Which whole object a part belongs to: a contact its account, a price its item, a line its order.

Exact's log of deletes names a deleted part by its own id alone, and the part can no longer be asked. What this process has met is
remembered; of what it never met the reader falls back on reading more (see `reading`).
"""

from uuid import UUID

PARTS_MAX = 500_000
"""Beyond it the longest known are forgotten: about 100 bytes each."""


class Parents:
    """Part → whole, as met."""

    def __init__(self, parts_max: int = PARTS_MAX) -> None:
        self._known: dict[bytes, bytes] = {}
        self._parts_max = parts_max

    def note(self, part: str, parent: str) -> None:
        """A part was met."""
        self._known[_packed(part)] = _packed(parent)
        if len(self._known) > self._parts_max:
            del self._known[next(iter(self._known))]

    def of(self, part: str) -> str | None:
        """The whole of a part; None when it was never met, or long ago."""
        found = self._known.get(_packed(part))
        return _unpacked(found) if found is not None else None


def _packed(key: str) -> bytes:
    """16 bytes of a GUID; anything else as it is."""
    try:
        return UUID(key).bytes
    except ValueError:
        return key.encode()


def _unpacked(key: bytes) -> str:
    return str(UUID(bytes=key)) if len(key) == 16 else key.decode()
