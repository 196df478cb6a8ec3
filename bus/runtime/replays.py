"""Asks for replays and resyncs, and follows the jobs that replays become (topic `bus.jobs`, key: the request's id)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from bus.core import topics
from bus.core.errors import SettingsError
from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.jobs import ENDED, jobs
from bus.runtime.newest import NewestValues
from bus.runtime.published import read_published
from bus.runtime.settings import BusSettings
from schemas.system import JobRecord, JobState, RequestRecord


class Watcher(Protocol):
    """Who is shown where jobs stand while they are followed."""

    def __enter__(self) -> Self:
        """Following begins."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Following ends."""
        ...

    def show(self, jobs: Sequence[JobRecord]) -> None:
        """Where they stand now."""
        ...


async def ask_replay(
    settings: BusSettings,
    codec: Codec,
    connection: str,
    *,
    flow: str | None = None,
    entity: str | None = None,
    keys: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    rate_per_s: int | None = None,
    repair: bool = False,
) -> list[RequestRecord]:
    """Asks for what the log holds of a source account once more. `keys`: ids, or whole keys of objects of the account.

    Raises SettingsError for what is not published, and for a flow or entity the account has nothing to do with.
    """
    configuration = (await read_published(settings, codec)).configuration
    known = requests.require_connection(configuration, connection)
    if flow is not None:
        read = requests.require_flow(configuration, flow, source=connection).from_.entity
        if entity not in (None, read):
            raise SettingsError(f"flow {flow!r} reads {read} from {connection}, not {entity}: leave --entity out")
    elif not any(item.from_.connection == connection for item in configuration.flows.values()):
        raise SettingsError(f"no flow reads from {connection}: there is nowhere to send it")
    if entity is not None:
        requests.require_entity(known, entity)
    asked = [
        made
        for found, ids in entities_of(connection, entity, keys).items()
        for made in requests.replay(
            connection,
            flow=flow,
            entity=found,
            keys=ids,
            since=since,
            until=until,
            rate_per_s=rate_per_s,
            repair=repair,
        )
    ]
    await requests.ask(settings, codec, asked)
    return asked


async def ask_resync(
    settings: BusSettings,
    codec: Codec,
    connection: str,
    *,
    stream: str | None = None,
    entity: str | None = None,
    keys: Sequence[str] = (),
    since: datetime | None = None,
    publish: str = "changed",
    confirm_deletes: bool = False,
) -> list[RequestRecord]:
    """Asks for an account to be read anew. Raises SettingsError for what is not published, and ids without their entity."""
    known = requests.require_connection((await read_published(settings, codec)).configuration, connection)
    if stream is not None:
        read = requests.require_stream(known, stream).entities
        entity = read[0] if keys and entity is None and len(read) == 1 else entity
    chosen = entities_of(connection, entity, keys)
    for found in chosen:
        if found is not None:
            requests.require_entity(known, found)
        elif keys:
            raise SettingsError(f"--key {keys[0]}: say of which --entity, or write {connection}|ENTITY|{keys[0]}")
    asked = [
        made
        for found, ids in chosen.items()
        for made in requests.resync(
            connection,
            stream=stream,
            entity=found,
            keys=ids,
            since=since,
            publish=publish,
            confirm_deletes=confirm_deletes,
        )
    ]
    await requests.ask(settings, codec, asked)
    return asked


def entities_of(connection: str, entity: str | None, keys: Sequence[str]) -> dict[str | None, list[str]]:
    """Ids by entity; a plain id is of `entity`. Without keys: that entity, and no ids.

    Raises SettingsError for the key of another account, or of another entity than the one that was named.
    """
    found: dict[str | None, list[str]] = {} if keys else {entity: []}
    for key in keys:
        parts = topics.split_key(key) if key.count("|") == 2 else (connection, entity or "", key)
        if parts[0] != connection or (entity is not None and parts[1] != entity) or not parts[2]:
            wanted = f"{connection}|{entity}" if entity is not None else connection
            raise SettingsError(f"--key {key}: is no object of {wanted}: write its id, or {wanted}|…")
        ids = found.setdefault(parts[1] or None, [])
        if parts[2] not in ids:
            ids.append(parts[2])
    return found


# --- jobs ---------------------------------------------------------------------------------------------------------------------


async def all_jobs(settings: BusSettings, codec: Codec) -> list[JobRecord]:
    """All jobs that are known, the newest request first."""
    found = await jobs(settings, codec)
    return sorted(found, key=lambda job: (job.ended_at is None, job.started_at is None, job.started_at, job.id), reverse=True)


async def one_job(settings: BusSettings, codec: Codec, job_id: str) -> JobRecord:
    """One job. Raises SettingsError when there is none of that id."""
    found = next((job for job in await all_jobs(settings, codec) if job.id == job_id), None)
    if found is None:
        raise SettingsError(f"no job {job_id!r}: `bus jobs list` prints the ids; one just asked for may not have begun")
    return found


async def follow(settings: BusSettings, codec: Codec, asked: Sequence[RequestRecord], watcher: Watcher) -> list[JobRecord]:
    """Shows where the jobs of these requests stand until all have ended; returns how."""
    ids = {item.id for item in asked}
    slots = {topics.slot_of(item.connection, settings.slots) for item in asked}

    def look(values: Mapping[str, Any]) -> list[JobRecord] | None:
        mine = [job for job in _jobs(values) if job.id in ids]
        watcher.show(mine)
        return mine if len(mine) == len(ids) and all(job.state in ENDED for job in mine) else None

    async with NewestValues(settings, codec, topics.JOBS, partitions=slots) as newest:
        with watcher:
            return await newest.until(look, None) or []


async def cancel(settings: BusSettings, codec: Codec, job_id: str, *, wait_s: float | None) -> JobRecord | None:
    """Asks for a job to be ended, and waits until it has; None when it has not in time, or nobody waits.

    Raises SettingsError when there is no such job, or it has ended already.
    """
    job = await one_job(settings, codec, job_id)
    if job.state in ENDED:
        raise SettingsError(f"job {job_id} has ended already: {str(job.state).lower()}")
    slot = topics.slot_of(job.connection, settings.slots)

    def ended(values: Mapping[str, Any]) -> JobRecord | None:
        return next((item for item in _jobs(values) if item.id == job_id and item.state in ENDED), None)

    async with NewestValues(settings, codec, topics.JOBS, partitions=[slot]) as newest:
        await requests.ask(settings, codec, [requests.cancel(job.connection, job_id)])
        return None if wait_s is None else await newest.until(ended, wait_s)


def _jobs(values: Mapping[str, Any]) -> list[JobRecord]:
    return [value for value in values.values() if isinstance(value, JobRecord)]


def to_read(job: JobRecord) -> tuple[int, int]:
    """Offsets behind it and offsets in all; what it began at is not recorded, so both count from a partition's beginning."""
    total = sum(job.ends.values())
    if job.state is JobState.DONE:
        return total, total
    return sum(min(job.positions.get(place, 0), end) for place, end in job.ends.items()), total


def keys_of(job: JobRecord) -> list[str]:
    """The ids it was asked for; empty: all."""
    found: list[str] = msgspec.json.decode(job.args.get("keys", "[]"), type=list[str])
    return found
