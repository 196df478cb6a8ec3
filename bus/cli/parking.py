"""`bus parked`: commands that wait, for a dependency, a vendor, a person or a brake."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import SOURCE_KEY, as_json_option, connected, counted, emit, listing, moment, rows_option, shown
from schemas.system import Cause

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings
    from bus.runtime.standings import Selection, Stands

CAUSES = [str(cause) for cause in Cause]

_connection = click.option("--connection", help="Only what waits at this target account.")
_flow = click.option("--flow", help="Only this flow.")
_cause = click.option("--cause", type=click.Choice(CAUSES, case_sensitive=False), metavar="CAUSE", help="Only this cause.")


@click.group()
def parked() -> None:
    """Objects whose newest version waits at the target."""


@parked.command("list")
@as_json_option
@_connection
@_flow
@_cause
@rows_option
def list_parked(as_json: bool, connection: str | None, flow: str | None, cause: str | None, rows_max: int) -> None:
    """List what waits, longest first: why, what is missing, how often it was tried, and when it will be again."""
    from bus.runtime.standings import Selection

    selection = Selection(connection=connection, flow=flow, cause=Cause(cause.upper()) if cause else None)
    found = connected(lambda settings, codec: _waiting(settings, codec, selection))
    if as_json:
        emit({"parked": [plain(item) for item in found]})
        return
    if not found:
        click.echo("nothing waits" if selection.is_everything else "nothing such waits")
        return
    rows = [
        [item.key, f"{item.record.flow}\n→ {item.connection}", _why(item), item.record.attempts, _times(item)] for item in found
    ]
    shown(f"{len(found)} wait (UTC)", ["object", "flow", "waits for", "tries", "since, next try"], rows, rows_max)
    counts = Counter(str(item.record.cause or Cause.UNKNOWN) for item in found)
    click.echo(", ".join(f"{name} {number}" for name, number in counts.most_common()))


async def _waiting(settings: "BusSettings", codec: "Codec", selection: "Selection") -> "list[Stands]":
    from bus.runtime.standings import WAITS, standing_objects

    return await standing_objects(settings, codec, WAITS, selection)


def plain(item: "Stands") -> dict[str, Any]:
    """What `--json` shows of an object that waits."""
    record = item.record
    return {
        "key": item.key,
        "flow": record.flow,
        "connection": item.connection,
        "standing": str(record.standing),
        "cause": str(record.cause or Cause.UNKNOWN),
        "detail": record.detail,
        "missing": record.missing,
        "attempts": record.attempts,
        "since": item.since.isoformat(),
        "retry_at": record.retry_at.isoformat() if record.retry_at else None,
        "seq": record.seq,
    }


def _why(item: "Stands") -> str:
    record = item.record
    cause, detail = str(record.cause or Cause.UNKNOWN), record.detail or ""
    text = detail if detail.startswith(f"{cause}:") else f"{cause}: {detail}".rstrip(": ")
    if record.missing and not record.detail:  # else the detail names them, and as people write them
        text += f"\nmissing: {listing(record.missing)}"
    return text


def _times(item: "Stands") -> str:
    after = moment(item.record.retry_at.isoformat()) if item.record.retry_at else "when that ends"
    return f"{moment(item.since.isoformat())}\n{after}"


@parked.command("release")
@as_json_option
@_connection
@_flow
@_cause
@click.option("--key", "keys", type=SOURCE_KEY, multiple=True, help="Only this source object (connection|entity|id); repeatable.")
@click.option("--all", "everything", is_flag=True, help="Whatever waits, at every account.")
def release(
    as_json: bool, connection: str | None, flow: str | None, cause: str | None, keys: tuple[str, ...], everything: bool
) -> None:
    """Have the sinks try what waits now, and not when its time comes. What still lacks something goes on waiting."""
    from bus.runtime.standings import Selection

    selection = Selection(connection=connection, flow=flow, cause=Cause(cause.upper()) if cause else None, keys=frozenset(keys))
    if selection.is_everything and not everything:
        raise click.UsageError("say what to release: --connection, --flow, --cause or --key; or --all for whatever waits")

    async def work(settings: "BusSettings", codec: "Codec") -> "list[Stands]":
        from bus.runtime.releasing import release_now

        return await release_now(settings, codec, selection)

    found = connected(work)
    if as_json:
        emit({"released": [plain(item) for item in found]})
        return
    if not found:
        click.echo("nothing such waits: nothing was asked for")
        return
    where = listing(sorted({item.connection for item in found}))
    click.echo(f"{counted(len(found), 'object')} at {where} will be tried now; `bus parked list` shows what still waits")


commands = [parked]
