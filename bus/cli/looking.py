"""`bus status`, `bus trace`, `bus dead-letters`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import as_json_option, connected, emit, table

if TYPE_CHECKING:
    from bus.runtime.books import Books

STANDINGS = ("WRITTEN", "UNCHANGED", "FILTERED", "WAITING", "PARKED", "DEAD")


@click.command()
@as_json_option
@click.option(
    "--wait-quiet", "wait_s", type=float, help="Wait up to so many seconds until nothing is in flight; exit 1 if it never is."
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
    rows = [
        [book.flow, book.source, book.target, book.read, *(book.standings.get(name, 0) for name in STANDINGS), _balance(book)]
        for book in books.flows
    ]
    columns = ["flow", "from", "to", "read", *(name.lower() for name in STANDINGS), "books"]
    table(f"Flows (configuration {books.version})", columns, rows, right=tuple(range(3, 10)))
    streams = [
        [s.connection, s.stream, "yes" if s.backfilled else "no", _second(s.polled_at), _second(s.deletes_unproven_since)]
        for s in books.streams
    ]
    table("Streams", ["connection", "stream", "read to its end", "last poll", "deletes unproven since"], streams)
    lag = [
        [name, lag, books.open_intents.get(name, 0), books.set_aside.get(name, 0)]
        for name, lag in sorted(books.outbound_lag.items())
    ]
    table("Accounts", ["connection", "commands waiting", "open writes", "set aside by the poller"], lag, right=(1, 2, 3))
    click.echo(f"events not yet processed: {books.processor_lag}; retrying: {books.retrying}; held: {books.held}")


def _second(moment: Any) -> str:
    return moment.isoformat(timespec="seconds") if moment is not None else ""


def _balance(book: Any) -> str:
    return "balanced" if book.read == book.settled else f"{book.read - book.settled} on their way"


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
        click.echo(f"nothing is known of {key}: retention is over, or no poll has met it")
        sys.exit(1)
    rows = []
    for step in steps:
        facts = "\n".join(f"{name}: {value}" for name, value in step.items() if name not in ("step", "seq", "at", "added"))
        added = "\n".join(f"{item['name']} = {item['value']}  ({item['rule']})" for item in step.get("added", []))
        rows.append([step["at"], step["step"], facts + ("\n" + added if added else "")])
    table(key, ["when", "step", "what"], rows)


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that were set aside."""


@dead_letters.command("list")
@as_json_option
@click.option("--cause", help="Only this cause.")
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
    rows = [[x["id"], x["made_at"], x["stage"], x["cause"], x["flow"], x["key"], x["detail"], x["hint"]] for x in letters]
    table(f"{len(letters)} dead letters", ["id", "when", "stage", "cause", "flow", "object", "what", "hint"], rows)


@dead_letters.command("show")
@click.argument("letter_id")
@as_json_option
def show_letter(letter_id: str, as_json: bool) -> None:
    """Show one, by the id that `list` prints (partition:offset)."""
    found = next((letter for letter in connected(_listed) if letter["id"] == letter_id), None)
    if found is None:
        raise click.UsageError(f"no dead letter {letter_id}: `bus dead-letters list` prints the ids")
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        click.echo(f"{name}: {value}")


async def _listed(settings: Any, codec: Any) -> list[dict[str, Any]]:
    from bus.runtime.deadletters import listed

    return await listed(settings, codec)


commands = [status, trace, dead_letters]
