"""What was asked to be read again (law 18): which request concerns which streams, and how far each has come.

The list stands in the cursor of its stream, so that a restart goes on where the last committed page ended. An object that was
published since a resync began is not published by it once more.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bus.kit.connector import Page, RawRecord
from bus.kit.manifest import Stream
from schemas.system import CursorRecord, RequestRecord

KEYS_MAX = 500
"""Objects one request may name."""
JOBS_MAX = 20
"""Resyncs that may wait for one stream."""

log = logging.getLogger(__name__)


class ResyncRefused(ValueError):
    """A request that cannot be carried out; the message says why."""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, for one stream."""

    id: str
    began_at: datetime
    entity: str | None = None
    """Only this entity of the stream."""
    keys: tuple[str, ...] | None = None
    """Only these objects: what is left of them."""
    since: datetime | None = None
    """Only objects changed since, as far as the vendor says when they changed."""
    publish_all: bool = False
    """An event for every object, even where nothing changed."""
    confirm_deletes: bool = False
    """No reading again: what two comparisons miss was deleted, however much it is."""
    position: dict[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it reads all there is."""
        return self.keys is None and self.since is None

    def wanted(self, page: Page) -> Page:
        """The page without what was not asked for."""
        return msgspec.structs.replace(page, records=[record for record in page.records if self._wants(record)])

    def _wants(self, record: RawRecord) -> bool:
        if self.entity is not None and record.entity != self.entity:
            return False
        return self.since is None or record.modified_at is None or record.modified_at >= self.since


_JOBS = msgspec.json.Decoder(list[Job])


def jobs_of(cursor: CursorRecord | None) -> list[Job]:
    """The resyncs of a stream, the one under way first."""
    if cursor is None or cursor.resync is None:
        return []
    try:
        return _JOBS.decode(cursor.resync)
    except msgspec.DecodeError:
        log.warning("what was to be read again cannot be read: ask once more", extra={"stream": cursor.stream})
        return []


def with_jobs(cursor: CursorRecord, jobs: Sequence[Job]) -> CursorRecord:
    """The cursor with other resyncs."""
    return msgspec.structs.replace(cursor, resync=msgspec.json.encode(list(jobs)).decode() if jobs else None)


def accepted(request: RequestRecord, streams: Sequence[Stream], now: datetime) -> dict[str, Job]:
    """A job per stream that a request concerns. Raises ResyncRefused."""
    args = request.args
    entity, keys = args.get("entity") or None, _keys(args)
    concerned = [
        stream
        for stream in streams
        if args.get("stream") in (None, "", stream.name) and (entity is None or entity in stream.entities)
    ]
    if not concerned:
        raise ResyncRefused(f"no stream {args.get('stream') or ''!r} gives {entity or 'anything'}")
    if keys is not None:
        if entity is None and len(concerned) == 1 and len(concerned[0].entities) == 1:
            entity = concerned[0].entities[0]
        if entity is None:
            raise ResyncRefused("keys without their entity")
        concerned = concerned[:1]
    job = Job(
        id=request.id,
        began_at=now,
        entity=entity,
        keys=keys,
        since=_instant(args),
        publish_all=args.get("publish") == "all",
        confirm_deletes=args.get("confirm_deletes") == "true",
    )
    return {
        stream.name: msgspec.structs.replace(job, entity=None if stream.entities == (entity,) and keys is None else entity)
        for stream in concerned
    }


def _keys(args: Mapping[str, str]) -> tuple[str, ...] | None:
    if not args.get("keys"):
        return None
    try:
        keys = msgspec.json.decode(args["keys"], type=list[str])
    except msgspec.DecodeError as error:
        raise ResyncRefused(f"keys are no list of ids: {error}") from None
    if len(keys) > KEYS_MAX:
        raise ResyncRefused(f"{len(keys)} keys are more than {KEYS_MAX}: ask for the entity")
    return tuple(dict.fromkeys(keys))


def _instant(args: Mapping[str, str]) -> datetime | None:
    if not args.get("since"):
        return None
    try:
        moment = datetime.fromisoformat(args["since"])
    except ValueError:
        raise ResyncRefused(f"since {args['since']!r} is no instant") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
