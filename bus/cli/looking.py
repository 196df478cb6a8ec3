"""`bus status`, `bus trace`, `bus dead-letters`."""

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import as_json_option, connected, emit, moment, table
from bus.core.errors import SettingsError
from schemas.system import Cause

if TYPE_CHECKING:
    from bus.runtime.books import Books

CAUSES = [str(cause) for cause in Cause]
STANDINGS = ("WRITTEN", "UNCHANGED", "FILTERED", "WAITING", "PARKED", "DEAD")


@click.command()
@as_json_option
@click.option(
    "--wait-quiet",
    "wait_s",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Wait up to so many seconds until nothing is in flight; exit 1 if it never is.",
)
def status(as_json: bool, wait_s: float | None) -> None:
    """Show where every object stands, per flow, and what is on its way."""
    from bus.runtime.quiet import current_books, wait_quiet

    if wait_s is None:
        books, quiet = connected(current_books), True
    else:
        books, quiet = connected(lambda settings, codec: wait_quiet(settings, codec, wait_s))
    if as_json:
        from bus.runtime.books import as_json as plain

        emit({**plain(books), "quiet": quiet})
    else:
        show(books)
    if not quiet:
        click.echo(f"not quiet after {wait_s:g} s: {books.in_flight()} in flight", err=True)
        sys.exit(1)


def show(books: "Books") -> None:
    """The tables of `bus status`."""
    rows = [[book.flow, book.read, *(book.standings.get(name, 0) for name in STANDINGS), _balance(book)] for book in books.flows]
    if not rows:
        click.echo("no flows are published: `bus apply -f FOLDER` publishes a configuration")
    else:
        columns = ["flow", "read", *(name.lower() for name in STANDINGS), "books"]
        table(f"Flows (configuration {books.version})", columns, rows, right=tuple(range(1, 8)))
    streams = [
        [s.connection, s.stream, "yes" if s.backfilled else "no", _moment(s.polled_at), _moment(s.deletes_unproven_since)]
        for s in books.streams
    ]
    table("Streams (UTC)", ["connection", "stream", "read to its end", "last poll", "deletes unproven since"], streams)
    lag = [
        [name, lag, books.open_intents.get(name, 0), books.set_aside.get(name, 0)]
        for name, lag in sorted(books.outbound_lag.items())
    ]
    table("Accounts", ["connection", "commands waiting", "open writes", "set aside by the poller"], lag, right=(1, 2, 3))
    click.echo(f"events not yet processed: {books.processor_lag}; retrying: {books.retrying}; held: {books.held}")


def _moment(at: Any) -> str:
    return moment(at.isoformat()) if at is not None else ""


def _balance(book: Any) -> str:
    return "balanced" if book.read == book.settled else f"{book.read - book.settled} open"


@click.command()
@click.argument("key")
@as_json_option
def trace(key: str, as_json: bool) -> None:
    """Show one object's way from its source to its target. KEY is CONNECTION|ENTITY|ID, in quotes."""
    from bus.core.topics import ENTITIES
    from bus.runtime.tail import trace as follow

    parts = key.split("|")
    if len(parts) != 3 or parts[1] not in ENTITIES:
        raise click.UsageError(f"{key!r} is no key: write 'connection|entity|id', the entity being one of {', '.join(ENTITIES)}")
    steps = connected(lambda settings, codec: follow(settings, codec, key))
    if as_json:
        emit({"key": key, "steps": steps})
        return
    if not steps:
        click.echo(
            f"nothing is known of {key}: retention is over, or no poll has met it; is it written as the source has it?", err=True
        )
        sys.exit(1)
    rows, before = [], None
    for step in steps:
        rows.append([moment(step["at"]), step["step"], "\n".join(_what(step, before))])
        before = step.get("added") or before
    table(key, ["when (UTC)", "step", "what"], rows)


def _what(step: dict[str, Any], before: Any) -> list[str]:
    """The lines of one step; added values are told once, and together where lines of a document have the same."""
    lines = []
    for name, value in step.items():
        if name == "totals":
            lines.append("totals: " + ", ".join(f"{side} {total}" for side, total in value.items()))
        elif name not in ("step", "seq", "at", "added"):
            lines.append(f"{name}: {value}")
    added = step.get("added", [])
    if added and added == before:
        return [*lines, f"added: the same {len(added)} values"]
    counted = Counter((item["name"], item["value"], item["rule"]) for item in added)
    for (name, value, rule), number in counted.items():
        lines.append(f"{name} = {value}  ({rule}{f', {number} times' if number > 1 else ''})")
    return lines


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that were set aside."""


@dead_letters.command("list")
@as_json_option
@click.option("--cause", type=click.Choice(CAUSES, case_sensitive=False), metavar="CAUSE", help="Only this cause.")
@click.option("--flow", help="Only this flow.")
def list_letters(as_json: bool, cause: str | None, flow: str | None) -> None:
    """List them, newest last, with cause and hint."""
    letters = [
        letter
        for letter in connected(_listed)
        if (cause is None or letter["cause"] == cause.upper()) and (flow is None or letter["flow"] == flow)
    ]
    if as_json:
        emit({"dead_letters": letters})
        return
    if not letters:
        click.echo("no dead letters" if cause is None and flow is None else "no such dead letters")
        return
    rows = [[x["id"], _where(x), f"{x['cause']}: {x['detail']}\n→ {x['hint']}"] for x in letters]
    table(f"{len(letters)} dead letters", ["id", "where", "what, and what to do"], rows)


def _where(letter: dict[str, Any]) -> str:
    return "\n".join(str(x) for x in (moment(letter["made_at"]), letter["stage"], letter["flow"], letter["key"]) if x)


@dead_letters.command("show")
@click.argument("letter_id")
@as_json_option
def show_letter(letter_id: str, as_json: bool) -> None:
    """Show one, by the id that `list` prints (partition:offset)."""
    found = next((letter for letter in connected(_listed) if letter["id"] == letter_id), None)
    if found is None:
        raise SettingsError(f"no dead letter {letter_id!r}: `bus dead-letters list` prints the ids")
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        click.echo(f"{name}: {value}")


async def _listed(settings: Any, codec: Any) -> list[dict[str, Any]]:
    from bus.runtime.deadletters import listed

    return await listed(settings, codec)


commands = [status, trace, dead_letters]
