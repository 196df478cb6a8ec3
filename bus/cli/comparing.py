"""`bus reconcile`, and what `--dry-run` of replay, redrive and resync shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import connected, emit, table

if TYPE_CHECKING:
    from services.comparison.difference import Preview
    from services.comparison.selection import Selection

ROWS_MAX = 200
"""Objects in a table for people; `--json` has all."""
FIELDS_MAX = 8
"""Fields of one object in a table for people."""


def show_preview(selection: "Selection | Sequence[Selection]", as_json: bool) -> None:
    """Prints what a replay, redrive or resync would write, per object and field. Calls no vendor and writes nothing.

    Several selections (dead letters of several accounts) are shown as one.
    """
    from services.comparison.difference import merged, preview

    selections = [selection] if not isinstance(selection, Sequence) else list(selection)

    async def look(settings: Any, codec: Any) -> "Preview":
        return merged([await preview(settings, codec, item) for item in selections])

    found = connected(look)
    if as_json:
        emit(_plain(found))
    else:
        _show(found)


def _plain(preview: "Preview") -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(preview)
    return {"would": preview.counts(), **plain}


def _show(preview: "Preview") -> None:
    from services.comparison.foresight import WHATS

    counts = preview.counts()
    if not counts:
        click.echo("no object is chosen: no event of it is kept, or no flow reads it")
    else:
        rows = [[flow, *(counted.get(what, 0) for what in WHATS)] for flow, counted in sorted(counts.items())]
        title = f"Would be written (configuration {preview.configuration}; nothing is, and nobody was called)"
        table(title, ["flow", *WHATS], rows, right=tuple(range(1, len(WHATS) + 1)))
    telling = [item for item in preview.items if item.what not in ("nothing", "filtered") or item.fields]
    if telling:
        rows = [[item.flow, item.source.id, item.what, item.target, "\n".join(_lines(item))] for item in telling[:ROWS_MAX]]
        table("Objects: what the source has → what the target holds", ["flow", "source", "what", "target", "fields"], rows)
    if len(telling) > ROWS_MAX:
        click.echo(f"and {len(telling) - ROWS_MAX} objects more: --json has all")
    if preview.left_out:
        click.echo(f"{preview.left_out} further objects were not looked at: choose fewer by --keys, --since or --until", err=True)
    for note in preview.notes:
        click.echo(f"note: {note}", err=True)


def _lines(item: Any) -> list[str]:
    detail = ": ".join(str(part) for part in (item.cause, item.detail) if part)
    lines = [detail] if detail else []
    lines += [str(field) for field in item.fields[:FIELDS_MAX]]
    rest = len(item.fields) - FIELDS_MAX
    return [*lines, *([f"and {rest} fields more"] if rest > 0 else [])]


commands: list[click.Command] = []
