"""`bus brake`: writes to an account, or of one flow to it, that stand still."""

import sys
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import ANSWER_WAIT_S, as_json_option, connected, counted, emit, moment, no_wait_option, table, unanswered

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings
    from bus.runtime.standings import Brake


@click.group()
def brake() -> None:
    """Stop writes to an account, or see why they stand still. What would be written waits, nothing is lost."""


@brake.command("list")
@as_json_option
def list_brakes(as_json: bool) -> None:
    """List the brakes, the open ones first: since when, why, and when the next write is let through to try."""

    async def look(settings: "BusSettings", codec: "Codec") -> "list[Brake]":
        from bus.runtime.standings import brakes

        return await brakes(settings, codec)

    found = connected(look)
    if as_json:
        emit({"brakes": [plain(item) for item in found]})
        return
    if not found:
        click.echo("no brake is open, and none was")
        return
    rows = [
        [_where(item), f"open, by {_by(item)}", item.record.reason, _times(item)]
        if item.record.open
        else [_where(item), "closed", "", ""]
        for item in found
    ]
    count = sum(item.record.open for item in found)
    table(f"{count} open (UTC)", ["what stands still", "brake", "reason", "since, next try"], rows)


def plain(item: "Brake") -> dict[str, Any]:
    """What `--json` shows of a brake."""
    record = item.record
    return {
        "connection": item.connection,
        "flow": record.flow or None,
        "open": record.open,
        "by_hand": record.by_hand,
        "since": record.opened_at.isoformat() if record.opened_at else None,
        "reason": record.reason,
        "probes": record.probes,
        "probe_at": record.probe_at.isoformat() if record.probe_at else None,
    }


def _where(item: "Brake") -> str:
    return f"{item.connection}\n{f'flow {item.record.flow}' if item.record.flow else 'all writes'}"


def _by(item: "Brake") -> str:
    return "hand" if item.record.by_hand else "itself"


def _times(item: "Brake") -> str:
    record = item.record
    since = moment(record.opened_at.isoformat()) if record.opened_at else ""
    if record.by_hand:
        return f"{since}\nwhen a person closes it"
    if record.probe_at is None:
        return since
    return f"{since}\n{moment(record.probe_at.isoformat())} (tried {counted(record.probes, 'time')})"


@brake.command("open")
@click.argument("connection")
@click.option("--flow", help="Only what this flow writes; without it all writes to the account.")
@click.option("--reason", required=True, help="Why, for whoever finds it open.")
@no_wait_option
def open_brake(connection: str, flow: str | None, reason: str, no_wait: bool) -> None:
    """Let nothing more be written to CONNECTION. What is under way ends; the rest waits until `bus brake close`."""
    _turn(connection, flow, reason, close=False, wait=not no_wait)


@brake.command("close")
@click.argument("connection")
@click.option("--flow", help="The brake of this flow; without it that of the whole account.")
@no_wait_option
def close_brake(connection: str, flow: str | None, no_wait: bool) -> None:
    """Let writes to CONNECTION go on. What waited for the brake is tried in its order, at a bounded pace."""
    _turn(connection, flow, None, close=True, wait=not no_wait)


def _turn(connection: str, flow: str | None, reason: str | None, *, close: bool, wait: bool) -> None:
    async def work(settings: "BusSettings", codec: "Codec") -> str:
        from bus.runtime.braking import turn

        return await turn(
            settings, codec, connection, flow=flow, reason=reason, close=close, wait_s=ANSWER_WAIT_S if wait else None
        )

    what = f"the brake of {connection}{f', flow {flow},' if flow else ''}"
    done = "closed" if close else "open"
    match connected(work):
        case "already":
            click.echo(f"{what} is {done} already")
        case "asked":
            click.echo(f"{what} will be {done}")
        case "done":
            click.echo(f"{what} is {done}")
        case _:
            click.echo(unanswered(what, "sinks"), err=True)
            sys.exit(1)


commands = [brake]
