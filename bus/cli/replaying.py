"""`bus replay`, `bus resync`, `bus jobs`: objects sent once more, from the log or from their vendor."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import (
    ANSWER_WAIT_S,
    MOMENT,
    as_json_option,
    connected,
    counted,
    emit,
    listing,
    moment,
    no_wait_option,
    rows_option,
    shown,
    unanswered,
)

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings
    from schemas.system import JobRecord, RequestRecord
    from services.comparison.selection import Asked

_dry_run = click.option(
    "--dry-run", is_flag=True, help="Show per object and field what would be written. Calls no vendor, and asks for nothing."
)
_keys = click.option(
    "--key", "keys", multiple=True, metavar="ID", help="Only this object: its id, or connection|entity|id; repeatable."
)


@click.command()
@click.argument("source_connection", required=False)
@as_json_option
@click.option("--flow", help="Only through this flow.")
@click.option("--entity", help="Only this entity.")
@_keys
@click.option("--since", type=MOMENT, help="Only what was read from then on (2026-11-21, 2026-11-21T12:00Z, 3d).")
@click.option("--until", type=MOMENT, help="Only what was read before.")
@click.option("--rate", "rate_per_s", type=click.IntRange(1, 10_000), help="Events a second at most (50).")
@click.option("--repair", is_flag=True, help="Compare with what the target holds now, and not with what was last written.")
@_dry_run
@click.option("--wait", is_flag=True, help="Show how far it is, and end with it: exit 1 unless it was done.")
def replay(
    source_connection: str | None,
    as_json: bool,
    flow: str | None,
    entity: str | None,
    keys: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    rate_per_s: int | None,
    repair: bool,
    dry_run: bool,
    wait: bool,
) -> None:
    """Send what the log holds of SOURCE_CONNECTION through its flows again, beside what goes on. --flow alone says it, too.

    What the target has already is not written again: a replay after which nothing was wrong writes nothing.
    """
    if source_connection is None:
        if flow is None:
            raise click.UsageError("say what to replay: SOURCE_CONNECTION, or --flow")
        source_connection = connected(lambda settings, codec: _source_of(settings, codec, flow))
    source = source_connection
    if dry_run:
        _foresee(
            "replay",
            source,
            entity,
            keys,
            flows=(flow,) if flow else (),
            since=since,
            until=until,
            repair=repair,
            as_json=as_json,
        )
        return

    async def work(settings: "BusSettings", codec: "Codec") -> "tuple[Sequence[RequestRecord], Sequence[JobRecord]]":
        from bus.runtime.replays import ask_replay, follow

        asked = await ask_replay(
            settings,
            codec,
            source,
            flow=flow,
            entity=entity,
            keys=keys,
            since=since,
            until=until,
            rate_per_s=rate_per_s,
            repair=repair,
        )
        return asked, await follow(settings, codec, asked, _Progress(enabled=not as_json)) if wait else []

    asked, jobs = connected(work)
    if as_json:
        emit({"jobs": [item.id for item in asked]} if not wait else {"jobs": [plain(item) for item in jobs]})
    elif not wait:
        click.echo(f"{counted(len(asked), 'replay')} asked for: {listing([item.id for item in asked])}")
        click.echo("`bus jobs list` shows how far it is")
    for item in jobs:
        if not as_json:
            click.echo(_end(item))
    if any(str(item.state) != "DONE" for item in jobs):
        sys.exit(1)


async def _source_of(settings: "BusSettings", codec: "Codec", flow: str) -> str:
    from bus.runtime import requests
    from bus.runtime.published import read_published

    return requests.require_flow((await read_published(settings, codec)).configuration, flow).from_.connection


def _foresee(
    asked: "Asked",
    connection: str,
    entity: str | None,
    keys: Sequence[str],
    *,
    as_json: bool,
    flows: tuple[str, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    repair: bool = False,
) -> None:
    from bus.cli.comparing import show_preview
    from bus.runtime.replays import entities_of
    from services.comparison.selection import Selection

    selections = [
        Selection(
            connection=connection,
            flows=flows,
            entity=found,
            keys=tuple(ids),
            since=since,
            until=until,
            repair=repair,
            asked=asked,
        )
        for found, ids in entities_of(connection, entity, keys).items()
    ]
    show_preview(selections, as_json)


def _end(job: "JobRecord") -> str:
    detail = f": {job.detail}" if job.detail else ""
    return f"{job.id} {str(job.state).lower()}{detail}; {job.read} events looked at, {job.published} sent"


class _Progress:
    """A bar on stderr: how much of the log was looked at, of how much."""

    def __init__(self, *, enabled: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not enabled)
        self._task = self._bar.add_task("waiting", total=None)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, jobs: "Sequence[JobRecord]") -> None:
        """Where the jobs stand."""
        from bus.runtime.replays import to_read

        read, total, sent = 0, 0, 0
        for job in jobs:
            done, whole = to_read(job)
            read, total, sent = read + done, total + whole, sent + job.published
        self._bar.update(self._task, completed=read, total=total or None, description=f"{counted(sent, 'command')} sent")


@click.command()
@click.argument("connection")
@as_json_option
@click.option("--stream", help="Only this stream (`bus connectors show` lists them).")
@click.option("--entity", help="Only this entity.")
@_keys
@click.option("--since", type=MOMENT, help="Only what changed there from then on (2026-11-21, 2026-11-21T12:00Z, 3d).")
@click.option(
    "--publish",
    type=click.Choice(["changed", "all"]),
    default="changed",
    show_default=True,
    help="Send on what differs from what is known, or every object.",
)
@_dry_run
@click.option("--confirm-deletes", is_flag=True, help="Believe the next complete reads although they miss more than is likely.")
def resync(
    connection: str,
    as_json: bool,
    stream: str | None,
    entity: str | None,
    keys: tuple[str, ...],
    since: datetime | None,
    publish: str,
    dry_run: bool,
    confirm_deletes: bool,
) -> None:
    """Read CONNECTION anew at its vendor, beside its polls. It spends calls of the vendor's limits."""
    if stream is not None and entity is not None:
        raise click.UsageError("give --stream or --entity, not both: a stream says which entities it reads")
    if dry_run:
        if stream is not None or since is not None:
            raise click.UsageError(
                "--dry-run asks no vendor, so it knows no --stream and no --since: choose by --entity or --key"
            )
        _foresee("resync", connection, entity, keys, as_json=as_json)
        return

    async def work(settings: "BusSettings", codec: "Codec") -> "Sequence[RequestRecord]":
        from bus.runtime.replays import ask_resync

        return await ask_resync(
            settings,
            codec,
            connection,
            stream=stream,
            entity=entity,
            keys=keys,
            since=since,
            publish=publish,
            confirm_deletes=confirm_deletes,
        )

    asked = connected(work)
    if as_json:
        emit({"requests": [{"id": item.id, "connection": item.connection, "args": item.args} for item in asked]})
        return
    what = counted(len(keys), "object") if keys else stream or entity or "all streams"
    click.echo(f"{connection}: {what} will be read anew; `bus status` shows when it was")


@click.group()
def jobs() -> None:
    """Replays under way, and how they ended."""


@jobs.command("list")
@as_json_option
@rows_option
def list_jobs(as_json: bool, rows_max: int) -> None:
    """List them, newest first."""
    found = connected(_jobs)
    if as_json:
        emit({"jobs": [plain(item) for item in found]})
        return
    if not found:
        click.echo("no jobs: `bus replay` and `bus dead-letters redrive` make them")
        return
    rows = [
        [item.id, item.connection, _what(item), str(item.state).lower(), _share(item), item.published, _began(item)]
        for item in found
    ]
    shown(f"{counted(len(found), 'job')} (UTC)", ["id", "source", "what", "state", "read", "sent", "began"], rows, rows_max)


@jobs.command("show")
@click.argument("job_id")
@as_json_option
def show_job(job_id: str, as_json: bool) -> None:
    """Show one: what was asked, how far it is, and why it ended if it was not done."""
    found = connected(lambda settings, codec: _one(settings, codec, job_id))
    if as_json:
        emit(plain(found))
        return
    for name, value in plain(found).items():
        click.echo(f"{name}: {value}")


@jobs.command("cancel")
@click.argument("job_id")
@no_wait_option
def cancel_job(job_id: str, no_wait: bool) -> None:
    """End one where it stands. What it has sent is carried out."""

    async def work(settings: "BusSettings", codec: "Codec") -> "JobRecord | None":
        from bus.runtime.replays import cancel

        return await cancel(settings, codec, job_id, wait_s=None if no_wait else ANSWER_WAIT_S)

    found = connected(work)
    if found is not None:
        click.echo(_end(found))
    elif no_wait:
        click.echo(f"job {job_id} will be cancelled")
    else:
        click.echo(unanswered(f"job {job_id}", "processors"), err=True)
        sys.exit(1)


async def _jobs(settings: "BusSettings", codec: "Codec") -> "list[JobRecord]":
    from bus.runtime.replays import all_jobs

    return await all_jobs(settings, codec)


async def _one(settings: "BusSettings", codec: "Codec", job_id: str) -> "JobRecord":
    from bus.runtime.replays import one_job

    return await one_job(settings, codec, job_id)


def plain(job: "JobRecord") -> dict[str, Any]:
    """What `--json` shows of a job."""
    from bus.runtime.replays import to_read

    read, total = to_read(job)
    return {
        "id": job.id,
        "connection": job.connection,
        "state": str(job.state),
        "args": job.args,
        "config_version": job.config_version,
        "offsets_read": read,
        "offsets": total,
        "read": job.read,
        "published": job.published,
        "detail": job.detail,
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "ended_at": job.ended_at.isoformat() if job.ended_at else None,
    }


def _what(job: "JobRecord") -> str:
    from bus.runtime.replays import keys_of

    told = [f"{name} {job.args[name]}" for name in ("reason", "flow", "entity", "since", "until") if name in job.args]
    if number := len(keys_of(job)):
        told.append(counted(number, "object"))
    return "\n".join([*told, *(["repair"] if job.args.get("repair") == "true" else [])]) or "everything"


def _share(job: "JobRecord") -> str:
    from bus.runtime.replays import to_read

    read, total = to_read(job)
    if total == 0:
        return "100 %" if job.state == "DONE" else ""
    return f"{100 * read // total} %"


def _began(job: "JobRecord") -> str:
    return moment(job.started_at.isoformat()) if job.started_at else ""


commands = [replay, resync, jobs]
