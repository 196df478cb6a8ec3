"""What the books count of the records they are made of: a small tuple by its key, shared by equals.

A million objects have three million records. Kept whole they are gigabytes, and decoding them takes minutes: so records of which
nothing is counted leave at once, of the others a few fields are picked, and keys that begin alike share their beginning.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from bus.core import topics
from bus.core.clock import micros
from bus.runtime.codec import Codec
from schemas import files
from schemas.picker import Pick, compile_picker
from schemas.system import CursorRecord, IntentState, JobRecord, SeenRecord, Standing, StandingRecord, StateRecord

READ = (topics.STATE, topics.SEEN, topics.CURSORS, topics.JOBS)
STANDING = ("standing", "outcome", "cause", "detail", "parked_at", "retry_at")


class StandingNote(NamedTuple):
    """Of one object in one flow."""

    standing: str
    outcome: str
    cause: str | None
    reason: str
    """Why it was filtered."""
    parked_us: int | None
    """Since when it waits, in µs since the epoch."""
    retries: bool


class SeenNote(NamedTuple):
    """Of one object of an account."""

    known: bool
    held: bool


class Notes:
    """What is counted of the records read so far."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._standings: defaultdict[bytes, dict[bytes, StandingNote]] = defaultdict(dict)
        self._seen: defaultdict[bytes, dict[bytes, SeenNote]] = defaultdict(dict)
        self._few: dict[tuple[str, bytes], Any] = {}
        """Decoded records of which there are few: cursors, jobs, offsets, brakes, open intents."""
        self._same: dict[StandingNote, StandingNote] = {}
        self._same_seen: dict[SeenNote, SeenNote] = {}
        self._pick_standing = _picker(topics.STATE, [f"standing.{name}" for name in STANDING])
        self._pick_intent = _picker(topics.STATE, ["intent.state"])
        self._pick_seen = _picker(topics.SEEN, ["content_hash", "deleted", "held"])

    def take(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Notes a record, or that it is gone. Raises MappingError, SchemaUnknown: then nothing is noted."""
        place, _, last = key.rpartition(b"|")
        if topic == topics.SEEN:
            _put(self._seen[place], last, self._seen_note(value) if value is not None else None)
        elif topic == topics.STATE and key.startswith(b"standing|"):
            _put(self._standings[place], last, self._standing_note(value) if value is not None else None)
        elif topic in (topics.CURSORS, topics.JOBS) or key.startswith((b"offset|", b"brake|", b"intent|")):
            is_wanted = value is not None and not (key.startswith(b"intent|") and self._is_closed(value))
            _put(self._few, (topic, key), self._codec.decode(topic, value) if is_wanted and value is not None else None)

    def cursors(self) -> Iterator[CursorRecord]:
        """All cursors."""
        return (record for (topic, _), record in self._few.items() if topic == topics.CURSORS)

    def jobs(self) -> Iterator[JobRecord]:
        """All replays of the last days."""
        return (record for (topic, _), record in self._few.items() if topic == topics.JOBS)

    def state(self) -> Iterator[StateRecord]:
        """Open intents, brakes, offsets of outbound topics."""
        return (record for (topic, _), record in self._few.items() if topic == topics.STATE)

    def standings(self) -> Iterator[tuple[str, Counter[StandingNote]]]:
        """By flow; a flow comes up once per source account and entity."""
        for place, notes in self._standings.items():
            yield topics.split_key(place.decode())[2], Counter(notes.values())

    def seen(self) -> Iterator[tuple[str, str, Counter[SeenNote]]]:
        """By connection and entity."""
        for place, notes in self._seen.items():
            connection, entity = topics.split_key(place.decode())
            yield connection, entity, Counter(notes.values())

    # --- parts ---------------------------------------------------------------------------------------------------------------

    def _standing_note(self, value: bytes) -> StandingNote | None:
        picked = self._picked(topics.STATE, self._pick_standing, value)
        if picked is None:
            record: StandingRecord | None = self._codec.decode(topics.STATE, value).standing
            if record is None:
                return None
            parked_us = micros(record.parked_at) if record.parked_at is not None else None
            cause = str(record.cause) if record.cause is not None else None
            picked = [
                str(record.standing),
                str(record.outcome),
                cause,
                (record.detail or "").encode(),
                parked_us,
                record.retry_at,
            ]
        standing, outcome, cause, detail, parked_us, retry_at = picked
        if standing is None:
            return None
        reason = (detail or b"").decode() if standing == Standing.FILTERED else ""
        note = StandingNote(standing, outcome, cause, reason, parked_us, standing == Standing.PARKED and retry_at is not None)
        return self._same.setdefault(note, note)

    def _seen_note(self, value: bytes) -> SeenNote:
        picked = self._picked(topics.SEEN, self._pick_seen, value)
        if picked is None:
            record: SeenRecord = self._codec.decode(topics.SEEN, value)
            picked = [record.content_hash, record.deleted, record.held]
        content, deleted, held = picked
        note = SeenNote(bool(content) or deleted, held)
        return self._same_seen.setdefault(note, note)

    def _is_closed(self, value: bytes) -> bool:
        picked = self._picked(topics.STATE, self._pick_intent, value)
        if picked is not None:
            return bool(picked[0] != IntentState.OPEN)
        intent = self._codec.decode(topics.STATE, value).intent
        return intent is None or intent.state is not IntentState.OPEN

    def _picked(self, topic: str, pick: Pick, value: bytes) -> list[Any] | None:
        """None where the whole record must be decoded: another release's, or damaged."""
        frame = self._codec.frame(topic)
        if not value.startswith(frame):
            return None
        try:
            return pick(value, len(frame))
        except (ValueError, IndexError):
            return None


def _put(notes: dict[Any, Any], key: Any, note: Any) -> None:
    if note is None:
        notes.pop(key, None)
    else:
        notes[key] = note


def _picker(topic: str, wanted: list[str]) -> Pick:
    return compile_picker(files.load(topics.schema_of(topic)), wanted)
