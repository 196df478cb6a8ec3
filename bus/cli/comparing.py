"""`bus reconcile`, and what `--dry-run` of replay, redrive and resync shows."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import MOMENT, as_json_option, connected, emit, table

if TYPE_CHECKING:
    from schemas.system import RequestRecord
    from services.comparison.cost import Cost
    from services.comparison.difference import Preview
    from services.comparison.reconciling import Reconciliation
    from services.comparison.selection import Selection

KINDS = ("missing", "extra", "differing")
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


@click.command()
@click.argument("flow")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Only N source objects, chosen by chance.")
@click.option("--since", type=MOMENT, help="Only what its vendor says was changed since then (2026-11-21, 3d).")
@click.option("--repair", is_flag=True, help="Ask the services to mend what differs. Nothing is ever deleted.")
@click.option("--yes", is_flag=True, help="Do not ask before calling the vendors.")
@as_json_option
def reconcile(flow: str, sample: int | None, since: datetime | None, repair: bool, yes: bool, as_json: bool) -> None:
    """Compare both ends of FLOW as their vendors serve them now; exit 0 only if nothing differs.

    What it costs in calls is shown first. Objects at the target only are listed, and never touched.
    """
    from services.comparison import reconciling

    scope = reconciling.Scope(flow=flow, sample=sample, since=since)
    price = connected(lambda settings, codec: reconciling.cost(settings, codec, scope))
    _show_cost(price)
    _agreed(yes)

    async def work(settings: Any, codec: Any) -> "tuple[Reconciliation, list[RequestRecord]]":
        with _Reading({item.connection: item.objects for item in price.accounts}) as reading:
            found = await reconciling.reconcile(settings, codec, scope, reading.read, reading.waits)
        asked = await reconciling.ask_repairs(settings, codec, found) if repair else []
        return found, asked

    found, asked = connected(work)
    if as_json:
        emit(_reconciled_plain(found, price, asked))
    else:
        _show_reconciled(found)
        if repair:
            _show_repairs(found, asked)
    if not found.agrees:
        sys.exit(1)


def _show_cost(price: "Cost") -> None:
    """To stderr: stdout may be a JSON object for somebody."""
    from services.comparison.cost import spoken

    for item in price.accounts:
        why = f", by the limit {item.limit!r}" if item.limit else ""
        click.echo(
            f"{item.connection}: about {item.calls} calls for {item.objects} objects, {spoken(item.seconds)} at people's part of "
            f"the vendor's limits{why}; up to {item.per_finding} more per object that differs",
            err=True,
        )


def _agreed(yes: bool) -> None:
    """Asks. Exit 2 where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this calls the vendors, and nobody is here to be asked: give --yes")
    click.confirm("Go on?", abort=True, err=True)


class _Reading:
    """A bar per account on stderr."""

    def __init__(self, totals: dict[str, int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks = {name: self._bar.add_task(f"reading {name}", total=total or None) for name, total in totals.items()}

    def __enter__(self) -> "_Reading":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def read(self, connection: str, count: int) -> None:
        """So many objects more."""
        self._bar.advance(self._tasks[connection], count)

    def waits(self, text: str) -> None:
        """A line above the bars."""
        self._bar.console.print(text)


def _reconciled_plain(found: "Reconciliation", price: "Cost", asked: "Sequence[RequestRecord]") -> dict[str, Any]:
    import msgspec

    from services.comparison.reconciling import keys_of

    plain: dict[str, Any] = msgspec.to_builtins(found)
    repairs = [{"kind": str(item.kind), "id": item.id, "connection": item.connection, "keys": keys_of(item)} for item in asked]
    counts = {kind: len(found.of(kind)) for kind in KINDS}
    return {
        "agrees": found.agrees,
        **counts,
        "in_flight": len(found.in_flight()),
        **plain,
        "cost": msgspec.to_builtins(price),
        "repairs": repairs,
    }


def _show_reconciled(found: "Reconciliation") -> None:
    calls = ", ".join(f"{name} {number}" for name, number in found.calls.items())
    counts = [found.flow, found.agreeing, found.not_wanted, *(len(found.of(kind)) for kind in KINDS), len(found.in_flight())]
    columns = ["flow", "agree", "left out by the flow", *KINDS, "on their way"]
    table(f"{found.source} → {found.target} (calls made: {calls})", columns, [counts], right=tuple(range(1, 7)))
    for title, items in (*((kind, found.of(kind)) for kind in KINDS), ("on their way", found.in_flight())):
        if items:
            rows = [[item.source.id, item.target, "\n".join(_finding_lines(item))] for item in items[:ROWS_MAX]]
            table(f"{title}: source → target", ["source", "target", "what"], rows)
            if len(items) > ROWS_MAX:
                click.echo(f"and {len(items) - ROWS_MAX} more: --json has all")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.kept_otherwise:
        click.echo(
            f"{found.kept_otherwise} objects have fields that differ as they did when they were settled (cut, masked, or so "
            f"since they were linked): `bus replay {found.source} --flow {found.flow} --repair --dry-run` shows them"
        )
    if found.agrees:
        click.echo(f"nothing differs: {found.agreeing} objects agree")


def _finding_lines(item: Any) -> list[str]:
    stands = (
        f"{item.standing}{f' {item.cause}' if item.cause else ''}" if item.standing and (item.cause or item.in_flight) else ""
    )
    lines = [": ".join(part for part in (stands, item.reason) if part)] if stands or item.reason else []
    lines += [str(field) for field in item.fields[:FIELDS_MAX]]
    if len(item.fields) > FIELDS_MAX:
        lines.append(f"and {len(item.fields) - FIELDS_MAX} fields more")
    if item.fields and item.also:
        lines.append(f"a repair also sends: {', '.join(item.also)} (kept otherwise there since they were settled)")
    return lines


def _show_repairs(found: "Reconciliation", asked: "Sequence[RequestRecord]") -> None:
    from services.comparison.reconciling import keys_of

    words = {"REPLAY": "sent once more and compared with what the target holds", "RESYNC": "read anew from their source"}
    for item in asked:
        click.echo(f"asked for ({item.id}): {len(keys_of(item))} objects are {words[str(item.kind)]}")
    if not asked:
        click.echo("nothing to mend" if found.agrees else "nothing of this can be mended by sending it again")


commands = [reconcile]
