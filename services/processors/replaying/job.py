"""What a replay is: the events it takes, the partitions it goes through, and how its record changes. Pure.

Of every object the newest version below the end counts: an older one might ask for what the source has taken back since.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from bus.core import topics
from bus.core.errors import RecordError
from schemas.canon import EventMeta
from schemas.system import Cause, JobRecord, JobState, RequestRecord
from services.processors.routes import Routes

KEYS_MAX = 500
RATE_PER_S = 50
RATE_PER_S_MAX = 2_000
KEPT_DAYS = 30
"""How long a job that ended is remembered: longer than its request may be read again."""
DETAIL_LENGTH_MAX = 500


class JobRefused(RecordError):
    """A job that cannot be done as it was asked for. The text says why."""

    cause = Cause.UNKNOWN_VALUE


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of a source account, and what for."""

    connection: str
    flow: str | None = None
    entity: str | None = None
    keys: frozenset[str] | None = None
    """Source ids; None: all."""
    since: datetime | None = None
    until: datetime | None = None
    """On the instant a poller saw the newest version: from `since` on, before `until`."""
    rate_per_s: int = RATE_PER_S
    repair: bool = False
    after_version: int = 0

    def routes(self, routes: Routes) -> Routes:
        """The flows it is for, at one configuration version. Raises JobRefused where there is none."""
        if self.connection not in routes.connections:
            raise JobRefused(f"there is no connection {self.connection}")
        mine = {place: found for place, found in routes.by_source.items() if place[0] == self.connection}
        if self.flow is not None:
            mine = {place: tuple(route for route in found if route.flow.name == self.flow) for place, found in mine.items()}
        mine = {place: found for place, found in mine.items() if found and self.entity in (None, place[1])}
        if not mine:
            raise JobRefused(self._nothing())
        return msgspec.structs.replace(routes, by_source=mine)

    def _nothing(self) -> str:
        of = "" if self.entity is None else f" of {self.entity}"
        if self.flow is not None:
            return f"there is no flow {self.flow}{of} from {self.connection}"
        return f"no flow reads {self.entity or 'anything'} from {self.connection}"

    def entities(self, routes: Routes) -> list[str]:
        """The entities it goes through, master data before documents. `routes`: what `routes` gave."""
        found = {entity for _, entity in routes.by_source}
        return [entity for entity in topics.ENTITIES if entity in found]

    def wants(self, entity: str) -> Callable[[bytes], bool]:
        """Tells wanted keys of a canonical topic without decoding anything."""
        if self.keys is not None:
            wanted = {topics.event_key(self.connection, entity, source_id).encode() for source_id in self.keys}
            return wanted.__contains__
        prefix = topics.key(self.connection, entity, "").encode()
        return lambda key: key.startswith(prefix)

    def takes(self, meta: EventMeta) -> bool:
        """Whether an object's newest version lies in the time that was asked for."""
        after = self.since is None or meta.observed_at >= self.since
        return after and (self.until is None or meta.observed_at < self.until)


def selection_of(connection: str, args: Mapping[str, str]) -> Selection:
    """Reads a request's arguments. Raises JobRefused."""
    return Selection(
        connection=connection,
        flow=args.get("flow") or None,
        entity=_entity(args.get("entity")),
        keys=_keys(args.get("keys")),
        since=_instant("since", args.get("since")),
        until=_instant("until", args.get("until")),
        rate_per_s=_number("rate_per_s", args.get("rate_per_s"), RATE_PER_S, 1, RATE_PER_S_MAX),
        repair=args.get("repair", "").lower() == "true",
        after_version=_number("after_version", args.get("after_version"), 0, 0, 2**31),
    )


def _entity(text: str | None) -> str | None:
    if text and text not in topics.ENTITIES:
        raise JobRefused(f"there is no entity {text!r}: there are {', '.join(topics.ENTITIES)}")
    return text or None


def _keys(text: str | None) -> frozenset[str] | None:
    if not text:
        return None
    try:
        keys = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise JobRefused("keys is no JSON list of ids") from None
    if len(keys) > KEYS_MAX:
        raise JobRefused(f"{len(keys)} keys: at most {KEYS_MAX} at a time")
    return frozenset(keys)


def _instant(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise JobRefused(f"{name} {text!r} is no ISO instant") from None
    if found.tzinfo is None:
        raise JobRefused(f"{name} {text!r} has no offset from UTC")
    return found


def _number(name: str, text: str | None, otherwise: int, least: int, most: int) -> int:
    if not text:
        return otherwise
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise JobRefused(f"{name} {text!r} is no number from {least} to {most}")
    return int(text)


# --- places ----------------------------------------------------------------------


def place(entity: str, partition: int) -> str:
    """A partition in a job's positions and ends."""
    return f"{entity}:{partition}"


class Newest:
    """Where the newest version of each wanted object of one partition stands."""

    def __init__(self, wants: Callable[[bytes], bool]) -> None:
        self._wants = wants
        self._offsets: dict[bytes, int] = {}

    def see(self, key: bytes, offset: int, is_tombstone: bool) -> None:
        """Takes the records of a partition in order."""
        if not self._wants(key):
            return
        if is_tombstone:
            self._offsets.pop(key, None)
        else:
            self._offsets[key] = offset

    def span(self, position: int) -> tuple[int, int] | None:
        """From where to where there is something to read, at `position` and behind it; None for nothing."""
        ahead = [offset for offset in self._offsets.values() if offset >= position]
        return (min(ahead), max(ahead) + 1) if ahead else None

    def is_newest(self, key: bytes, offset: int) -> bool:
        """Whether a record is to be replayed."""
        return self._offsets.get(key) == offset


# --- the record ----------------------------------------------------------------------


def asked(request: RequestRecord, offset: int) -> JobRecord:
    """A job as it begins to be known."""
    return JobRecord(
        id=request.id, connection=request.connection, state=JobState.WAITING, args=request.args, request_offset=offset
    )


def begun(job: JobRecord, ends: Mapping[str, int], version: int, now: datetime) -> JobRecord:
    """Its ends are taken."""
    return msgspec.structs.replace(
        job,
        state=JobState.RUNNING,
        config_version=version,
        ends=dict(ends),
        positions=dict.fromkeys(ends, 0),
        detail=None,
        started_at=now,
    )


def waits(job: JobRecord, why: str) -> JobRecord:
    """It cannot begin yet."""
    return msgspec.structs.replace(job, detail=why[:DETAIL_LENGTH_MAX])


def ended(job: JobRecord, state: JobState, detail: str | None, now: datetime) -> JobRecord:
    """It is over."""
    told = detail[:DETAIL_LENGTH_MAX] if detail is not None else None
    return msgspec.structs.replace(job, state=state, detail=told, ended_at=now)


def is_forgotten(job: JobRecord, now: datetime) -> bool:
    """Whether a job ended so long ago that nobody asks for it any more."""
    return job.ended_at is not None and now - job.ended_at > timedelta(days=KEPT_DAYS)
