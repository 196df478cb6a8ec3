"""`bus dead-letters`: what was set aside, and how it is brought back."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import (
    MOMENT,
    SOURCE_KEY,
    as_json_option,
    connected,
    counted,
    emit,
    moment,
    rows_option,
    shown,
    table,
)
from bus.core.errors import SettingsError
from schemas.system import Cause

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.deadletters import Listed
    from bus.runtime.redriving import Redrive
    from bus.runtime.settings import BusSettings
    from bus.runtime.standings import Selection
    from services.comparison.selection import Selection as Foreseen

CAUSES = [str(cause) for cause in Cause]


def _choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose letters."""
    options = (
        click.option("--cause", type=click.Choice(CAUSES, case_sensitive=False), metavar="CAUSE", help="Only this cause."),
        click.option("--flow", help="Only this flow."),
        click.option("--key", "keys", type=SOURCE_KEY, multiple=True, help="Only this source object; repeatable."),
        click.option("--since", type=MOMENT, help="Only what was set aside from then on (2026-11-21, 2026-11-21T12:00Z, 3d)."),
        click.option("--until", type=MOMENT, help="Only what was set aside before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _selection(
    cause: str | None, flow: str | None, keys: tuple[str, ...], since: datetime | None, until: datetime | None
) -> "Selection":
    from bus.runtime.standings import Selection

    return Selection(flow=flow, cause=Cause(cause.upper()) if cause else None, keys=frozenset(keys), since=since, until=until)


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that were set aside."""


@dead_letters.command("list")
@as_json_option
@_choosing
@click.option("--all", "history", is_flag=True, help="Also those that a later success has closed, as far as they are kept.")
@rows_option
def list_letters(
    as_json: bool,
    cause: str | None,
    flow: str | None,
    keys: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    history: bool,
    rows_max: int,
) -> None:
    """List those that wait for somebody, newest last, with cause and hint."""
    from bus.runtime.redriving import choose

    selection = _selection(cause, flow, keys, since, until)
    letters = choose([item for item in connected(_letters) if history or item.is_open], selection)
    if as_json:
        emit({"dead_letters": [item.plain() for item in letters]})
        return
    if not letters:
        kind = "dead letters" if history else "open dead letters"
        click.echo(f"no {kind}" if selection.is_everything else f"no such {kind}")
        return
    rows = [[x.id, _where(x), f"{x.cause}: {x.detail}\n→ {'closed since' if not x.is_open else x.hint}"] for x in letters]
    title = f"{len(letters)} dead letters, {sum(x.is_open for x in letters)} of them open" if history else f"{len(letters)} open"
    shown(title, ["id", "where", "what, and what to do"], rows, rows_max)


def _where(letter: "Listed") -> str:
    return "\n".join(str(x) for x in (moment(letter.made_at.isoformat()), letter.stage, letter.flow, letter.key) if x)


@dead_letters.command("show")
@click.argument("letter_id")
@as_json_option
def show_letter(letter_id: str, as_json: bool) -> None:
    """Show one, by the id that `list` prints (partition:offset)."""
    found = next((item.plain() for item in connected(_letters) if item.id == letter_id), None)
    if found is None:
        raise SettingsError(f"no dead letter {letter_id!r}: `bus dead-letters list --all` prints the ids")
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        click.echo(f"{name}: {value}")


async def _letters(settings: Any, codec: Any) -> "list[Listed]":
    from bus.runtime.deadletters import all_letters

    return await all_letters(settings, codec)


@dead_letters.command()
@as_json_option
@_choosing
@click.option("--all", "everything", is_flag=True, help="Every open dead letter.")
@click.option("--dry-run", is_flag=True, help="Show what would be tried again and written, and ask for nothing.")
@click.option("--rate", "rate_per_s", type=click.IntRange(1, 10_000), help="Objects a second at most, per request (50).")
def redrive(
    as_json: bool,
    cause: str | None,
    flow: str | None,
    keys: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    everything: bool,
    dry_run: bool,
    rate_per_s: int | None,
) -> None:
    """Try again what was set aside and still is. What goes through is closed by that: a second redrive does not choose it."""
    selection = _selection(cause, flow, keys, since, until)
    if selection.is_everything and not everything:
        raise click.UsageError("say what to redrive: --cause, --flow, --key, --since or --until; or --all for every open one")

    async def work(settings: "BusSettings", codec: "Codec") -> "Redrive":
        from bus.runtime.redriving import redrive_letters

        return await redrive_letters(settings, codec, selection, rate_per_s=rate_per_s, dry_run=dry_run)

    found = connected(work)
    if as_json:
        emit(_plain(found, dry_run=dry_run))
        return
    _tell(found, dry_run=dry_run)
    if dry_run and (foreseen := _foreseen(found)):
        from bus.cli.comparing import show_preview

        show_preview(foreseen, as_json=False)


def _foreseen(found: "Redrive") -> "list[Foreseen]":
    """The same objects, for the look at what would be written; what a poller could not map is not known well enough for that."""
    from bus.core.topics import split_key
    from services.comparison.selection import Selection as Foreseen

    places: dict[tuple[str, str, str], list[str]] = {}
    for item in found.letters:
        if item.flow is not None:
            connection, entity, source_id = split_key(item.key)
            places.setdefault((connection, entity, item.flow), []).append(source_id)
    return [
        Foreseen(connection=connection, flows=(flow,), entity=entity, keys=tuple(ids), asked="redrive")
        for (connection, entity, flow), ids in places.items()
    ]


def _plain(found: "Redrive", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "chosen": [item.plain() for item in found.letters],
        "left_out": [{**item.plain(), "why": why} for item, why in found.left_out],
        "requests": [
            {"id": item.id, "kind": str(item.kind), "connection": item.connection, "args": item.args} for item in found.requests
        ],
    }


def _tell(found: "Redrive", *, dry_run: bool) -> None:
    for item, why in found.left_out:
        click.echo(f"left out: {item.id or item.key}: {why}", err=True)
    if not found.letters:
        click.echo("no open dead letter is meant: nothing was asked for")
        return
    rows = [[*place, number] for place, number in sorted(found.counts().items())]
    table(f"{counted(len(found.letters), 'object')} to try again", ["flow", "cause", "objects"], rows, right=(2,))
    if dry_run:
        click.echo(f"nothing was asked for; without --dry-run this makes {counted(len(found.requests), 'request')}")
    else:
        click.echo(f"asked for with {counted(len(found.requests), 'request')}; {_follow(found.requests)}")


def _follow(asked: Sequence[Any]) -> str:
    replays = any(item.kind == "REPLAY" for item in asked)
    return "`bus jobs list` shows how far it is" if replays else "`bus dead-letters list` shows what stays"


commands = [dead_letters]
