"""Records as another release writes them: under a schema id that is not this release's."""

import fastavro
import msgspec

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.registry import subjects
from schemas import files

APART = 100


class OtherRelease:
    """Writes what `reader` reads by way of the writer's schema."""

    def __init__(self, reader: Codec) -> None:
        self._codec = Codec(None)
        self._codec.use({subject: number + APART for number, subject in enumerate(sorted(subjects()), 1)})
        self._reader = reader

    def encode(self, topic: str, record: msgspec.Struct) -> bytes:
        """The framed bytes; not learnt by the reader."""
        return self._codec.encode(topic, record)

    def teach(self, topic: str) -> None:
        """The reader learns the schema of a topic, as from the registry."""
        number = int.from_bytes(self._codec.frame(topic)[1:], "big")
        self._reader._writers[number] = fastavro.parse_schema(files.load(topics.schema_of(topic)), _write_hint=False)
