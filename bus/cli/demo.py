"""`bus demo`."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import emit, table

if TYPE_CHECKING:
    from bus.runtime.books import Books
    from services.demonstration.play import Outcomes
    from services.demonstration.surroundings import Surroundings


@click.command()
@click.option("--orders", type=click.IntRange(1), default=200, show_default=True, help="Documents the generator makes.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator.")
@click.option("--real-limits", is_flag=True, help="Keep the vendors' own call limits.")
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    default=Path("examples/quickbooks-exact"),
    show_default=True,
    help="The configuration to play.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(".data/demo"),
    show_default=True,
    help="Emptied first, if a demo made it.",
)
@click.option("--stay", is_flag=True, help="Keep everything running afterwards, to look around and try, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def demo(orders: int, seed: int, real_limits: bool, example: Path, folder: Path, stay: bool, as_json: bool) -> None:
    """Watch two simulated systems being kept in step through a real Kafka; exit 0 only if the books balance."""
    from rich.console import Console
    from rich.live import Live

    from bus.cli.interruption import Interrupted, until_interrupted
    from bus.runtime import logs
    from services.demonstration.play import Play

    def report(outcomes: "Outcomes") -> None:
        emit(_plain(outcomes)) if as_json else _report(outcomes)

    def encore(outcomes: "Outcomes", around: "Surroundings") -> None:
        live.stop()
        played.append(outcomes)
        report(outcomes)
        _invite(around)

    played: list[Outcomes] = []
    logs.configure("demo", "WARNING")
    logging.getLogger("bus.kafka").setLevel(logging.ERROR)  # it repeats by itself what a cluster refuses while it comes up
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        play = Play(
            folder=folder.absolute(),
            example=example,
            orders=orders,
            seed=seed,
            real_limits=real_limits,
            tell=lambda text: console.print(f"[bold]·[/bold] {text}"),
            show=lambda books: live.update(_progress(books), refresh=True),
        )
        try:
            played.append(until_interrupted(lambda: play.run(encore if stay else None)))
        except Interrupted as interrupted:
            if not played:
                sys.exit(interrupted.exit_code)
    if not stay:
        report(played[0])
    sys.exit(0 if played[0].holds else 1)


def _invite(around: "Surroundings") -> None:
    """To stderr, like the progress: stdout may be a JSON object for somebody."""
    click.echo(f"\neverything keeps running: Kafka {around.kafka_bootstrap}, registry {around.registry_url}", err=True)
    for connection, url in around.simulators.items():
        click.echo(f"simulator of {connection}: {url}, its control below {url}/_sim/ (info, books, calls, counts)", err=True)
    click.echo("to try in another terminal, in this folder:", err=True)
    for what, command in around.commands:
        click.echo(f"  # {what}\n  {command}", err=True)
    click.echo("Ctrl-C ends it all", err=True)


def _progress(books: "Books") -> Any:
    from rich.table import Table

    drawn = Table("flow", "read", "settled", "written", "waiting", "dead")
    for book in books.flows:
        counts = book.standings
        drawn.add_row(
            book.flow,
            str(book.read),
            str(book.settled),
            str(counts.get("WRITTEN", 0)),
            str(counts.get("WAITING", 0) + counts.get("PARKED", 0)),
            str(counts.get("DEAD", 0)),
        )
    drawn.caption = f"{books.in_flight()} on their way"
    return drawn


def _report(outcomes: "Outcomes") -> None:
    rows = []
    for book in outcomes.books.flows:
        o, s = book.outcomes, book.standings
        skipped = o.get("SKIPPED", 0) + o.get("LINKED", 0)
        rows.append(
            [
                book.flow,
                book.read,
                s.get("UNCHANGED", 0),
                s.get("FILTERED", 0),
                o.get("CREATED", 0),
                o.get("UPDATED", 0),
                skipped,
                s.get("WAITING", 0) + s.get("PARKED", 0),
                s.get("DEAD", 0),
                "balanced" if book.read == book.settled else f"{book.read - book.settled} unaccounted",
            ]
        )
    columns = ["flow", "read", "unchanged", "filtered", "created", "updated", "skipped/linked", "parked", "dead", "books"]
    table("Conservation: every object read, and where it stands", columns, rows, right=tuple(range(1, 9)))
    for book in outcomes.books.flows:
        if book.causes or book.reasons:
            parts = [f"{name} {number}" for name, number in sorted({**book.causes, **book.reasons}.items())]
            click.echo(f"  {book.flow}: {'; '.join(parts)}")
    if outcomes.dead_letters:
        rows = [[x["key"], x["flow"], x["cause"], x["detail"], x["hint"]] for x in outcomes.dead_letters]
        table("Set aside, for a person to decide", ["object", "flow", "cause", "what", "hint"], rows)
    _verdict(outcomes)
    if outcomes.example:
        _example(outcomes.example)
    click.echo(", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcomes.seconds.items()))
    click.echo("the books balance" if outcomes.holds else "the books do NOT balance", err=not outcomes.holds)


def _verdict(outcomes: "Outcomes") -> None:
    from services.demonstration.verdict import shown

    rows = [
        [f.flow, f.expected, f.found, len(f.missing), len(f.twice), len(f.unequal), len(f.unexpected), "yes" if f.holds else "NO"]
        for f in outcomes.findings
    ]
    columns = ["flow", "expected", "found", "missing", "twice", "unequal", "unexpected", "holds"]
    table("Verdict, by the simulators' own books", columns, rows, right=tuple(range(1, 7)))
    for finding in outcomes.findings:
        for name in ("missing", "twice", "unequal", "unexpected"):
            if problems := getattr(finding, name):
                click.echo(f"{finding.flow}: {name}:\n{shown(problems)}")
    for connection, differences in outcomes.writes.items():
        click.echo(f"writes at {connection}: " + ("; ".join(differences) if differences else "call log and claims agree"))
    for connection, number in (outcomes.second_run_writes or {}).items():
        click.echo(f"second run, writes at {connection}: {number}")


def _example(example: dict[str, Any]) -> None:
    source, target = example["source"] or {}, example["target"] or {}
    names = ["kind", "number", "reference", "date", "currency", "total_incl", "vat_by_rate", "status"]
    rows = [[name, source.get(name), target.get(name)] for name in names]
    for index in range(max(len(source.get("lines", [])), len(target.get("lines", [])))):
        rows.append([f"line {index + 1}", *(_line(side, index) for side in (source, target))])
    table(f"One document of {example['flow']}", ["", "source", "target"], rows)
    table(
        "What the flow added",
        ["line", "value", "", "rule"],
        [[a["line"], a["name"], a["value"], a["rule"]] for a in example["added"]],
    )


def _line(document: dict[str, Any], index: int) -> str:
    lines = document.get("lines", [])
    return f"{lines[index]['sku']} × {lines[index]['quantity']} = {lines[index]['net']}" if index < len(lines) else ""


def _plain(outcomes: "Outcomes") -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(outcomes)
    return {"holds": outcomes.holds, **plain}


commands = [demo]
