"""Replays under way and done, from `bus.jobs`, for commands that look at them."""

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.tail import read_all
from schemas.system import JobRecord, JobState

ENDED = frozenset({JobState.DONE, JobState.REFUSED, JobState.CANCELLED})
"""States that a job does not leave again."""


def job_key(job: JobRecord) -> str:
    """Key of a job's record."""
    return topics.key(job.connection, job.id)


async def jobs(settings: BusSettings, codec: Codec) -> list[JobRecord]:
    """The newest state of every job that is kept, in the order of their requests within a connection.

    Raises TransientError when Kafka is away.
    """
    newest: dict[str, JobRecord | None] = {}
    async for record, job in read_all(settings, codec, topics.JOBS):
        newest[record.key.decode()] = job
    found = [job for job in newest.values() if job is not None]
    return sorted(found, key=lambda job: (job.connection, job.request_offset))
