"""Pictures of a page: which are published, and which records go into one transaction together with their pictures."""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from bus.core import topics
from bus.kit.connector import RawRecord
from bus.runtime.kafka import RECORD_BYTES_MAX
from bus.runtime.publisher import Outgoing

log = logging.getLogger(__name__)

REMEMBERED_MAX = 50_000
"""Hashes of published pictures that are remembered; one forgotten is published again, which changes nothing."""
TRANSACTION_BYTES_MAX = 32 * 1024 * 1024
"""Pictures of one transaction: it must end well within its time-out."""
FRAME_BYTES = 512
"""Key and framing of a record."""


class Published:
    """Hashes of the pictures this process has committed."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._remembered_max = remembered_max

    def missing(self, record: RawRecord) -> list[Outgoing]:
        """The pictures of a record that are not known to be on the topic; one that no record of Kafka can hold is left out."""
        found = []
        for sha256, data in record.pictures.items():
            if sha256 in self._known:
                self._known.move_to_end(sha256)
            elif len(data) > RECORD_BYTES_MAX - FRAME_BYTES:
                facts = {"entity": record.entity, "id": record.id, "bytes": len(data)}
                log.warning("a picture is too large to travel: it is left out", extra=facts)
            else:
                found.append(Outgoing(topic=topics.PICTURES, partition=None, key=sha256, value=data))
        return found

    def committed(self, hashes: Iterable[str]) -> None:
        """They are on the topic now. Called after the commit, never before."""
        for sha256 in hashes:
            self._known[sha256] = None
            self._known.move_to_end(sha256)
        while len(self._known) > self._remembered_max:
            self._known.popitem(last=False)


Joined = tuple[RawRecord, RawRecord | Exception]


def parts(
    records: Sequence[RawRecord], completed: Sequence[RawRecord | Exception], bytes_max: int = TRANSACTION_BYTES_MAX
) -> Iterator[list[Joined]]:
    """A page in its order, cut where its pictures are too much for one transaction; an empty page is one empty part."""
    part: list[Joined] = []
    held = 0
    for record, whole in zip(records, completed, strict=True):
        size = sum(map(len, whole.pictures.values())) if isinstance(whole, RawRecord) else 0
        if part and held + size > bytes_max:
            yield part
            part, held = [], 0
        part.append((record, whole))
        held += size
    yield part
