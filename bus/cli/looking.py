"""`bus status`, `bus trace`."""

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import as_json_option, connected, emit, moment, table

if TYPE_CHECKING:
    from bus.runtime.books import Books

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
    click.echo(
        f"events not yet processed: {books.processor_lag}; retrying: {books.retrying}; held: {books.held}; "
        f"replays: {books.replaying}"
    )
    for line in remarks(books):
        click.echo(line)
    click.echo(balance(books))


def remarks(books: "Books") -> list[str]:
    """What somebody may have to look at."""
    waiting = [(book.oldest_waiting, book.flow) for book in books.flows if book.oldest_waiting is not None]
    lines = [
        f"oldest waiting: since {_moment(at)} in {flow} (`bus parked list --flow {flow}`)" for at, flow in sorted(waiting)[:1]
    ]
    for brake in books.brakes:
        what = f"{brake.connection}, flow {brake.flow}" if brake.flow else brake.connection
        by = "by hand" if brake.by_hand else "by itself"
        lines.append(f"BRAKE OPEN {by}: {what}: since {_moment(brake.opened_at)}: {brake.reason or 'no reason given'}")
    lines += [
        f"DELETES REFUSED: {s.connection}: "
        f"{s.deletes_refused} objects of stream {s.stream} are missing there, too many to believe: "
        f"`bus resync {s.connection} --stream {s.stream} --confirm-deletes` if they are gone"
        for s in books.streams
        if s.deletes_refused
    ]
    lines += [f"STREAM STANDS STILL: {s.connection}, {s.stream}: {s.paused}" for s in books.streams if s.paused]
    lines += [f"being read anew: {s.connection}, {s.stream}" for s in books.streams if s.resync]
    return lines


def balance(books: "Books") -> str:
    """Whether every object has its standing."""
    if not books.unsettled:
        return f"the books balance: {sum(book.read for book in books.flows)} objects read, each with its one standing"
    if number := books.in_flight():
        return f"the books are open: {books.unsettled} objects without a standing, {number} records on their way"
    return f"THE BOOKS DO NOT BALANCE: {books.unsettled} objects without a standing, and nothing is on its way"


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


commands = [status, trace]
