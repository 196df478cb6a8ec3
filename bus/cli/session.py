"""What commands that look into a running bus share: settings, codec, output."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.registry import RegistryClient
    from bus.runtime.settings import BusSettings

T = TypeVar("T")
PIPE_WIDTH = 170

ANSWER_WAIT_S = 15.0
"""How long a command waits for a service to do what it was asked for. The request itself stays for 7 days."""
ROWS = 50
"""Rows of a table unless more are asked for; `--json` has them all."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
no_wait_option = click.option("--no-wait", is_flag=True, help="Ask, and do not wait until it is done.")
rows_option = click.option(
    "--rows", "rows_max", type=click.IntRange(0), default=ROWS, show_default=True, help="Rows of the table; 0 for all."
)


_AGO = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType):
    """A day, an instant or a while ago, as people write it."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """An instant; UTC where no zone is given."""
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no moment: write a day (2026-11-21), an instant (2026-11-21T12:00Z) or a while ago (90m, 12h, 3d)",
                param,
                ctx,
            )
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at


MOMENT = Moment()


class SourceKey(click.ParamType):
    """The key of a source object."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`connection|entity|id`, the entity being one of the bus's."""
        from bus.core.topics import ENTITIES

        parts = str(value).split("|")
        if len(parts) != 3 or not all(parts) or parts[1] not in ENTITIES:
            self.fail(
                f"{value!r} is no key: write 'connection|entity|id', the entity being one of {', '.join(ENTITIES)}", param, ctx
            )
        return str(value)


SOURCE_KEY = SourceKey()


def connected(work: "Callable[[BusSettings, Codec], Awaitable[T]]") -> T:
    """Runs work against the cluster that `cluster_settings` finds. Raises BrokerUnreachable when it does not answer."""
    from bus.runtime.codec import Codec

    async def run(settings: "BusSettings", registry: "RegistryClient") -> T:
        codec = Codec(registry)
        await codec.open()
        return await work(settings, codec)

    return with_registry(run)


def with_registry(work: "Callable[[BusSettings, RegistryClient], Awaitable[T]]") -> T:
    """Like `connected`, for work that needs no schemas to be registered."""
    from bus.runtime.reachability import require_answers
    from bus.runtime.registry import RegistryClient

    async def run() -> T:
        settings = cluster_settings()
        async with RegistryClient.of(settings) as registry:
            await require_answers(settings, registry)
            return await work(settings, registry)

    return asyncio.run(run())


def cluster_settings() -> "BusSettings":
    """Settings with the cluster of BUS_KAFKA_BOOTSTRAP and BUS_REGISTRY_URL, else of the bus that runs on BUS_DATA_DIR."""
    from bus.runtime.running import located
    from bus.runtime.settings import load_settings

    return located(load_settings())


def emit(value: Any) -> None:
    """One JSON object."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def moment(text: str) -> str:
    """An instant in UTC for people, to the second: `2026-11-21 12:04:46`."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def shown(title: str, columns: list[str], rows: list[list[Any]], rows_max: int) -> None:
    """A table of the first `rows_max` rows (0: all), which says what it leaves out."""
    table(title, columns, rows[:rows_max] if rows_max else rows)
    if 0 < rows_max < len(rows):
        click.echo(f"… and {len(rows) - rows_max} more: --rows 0 shows all, --json too")


def unanswered(what: str, service: str, waited_s: float = ANSWER_WAIT_S) -> str:
    """What is said when nothing has happened in time."""
    return (
        f"{what}: not done after {waited_s:g} s. Do the {service} run (`bus up`, /readyz)? "
        "The request stays for 7 days and is carried out when they do."
    )


def counted(number: int, what: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def listing(names: Sequence[str], names_max: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    more = len(names) - names_max
    return ", ".join(names[:names_max]) + (f" and {more} more" if more > 0 else "")


def table(title: str, columns: list[str], rows: list[list[Any]], *, right: tuple[int, ...] = ()) -> None:
    """A table for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # No frame: what `bus status` says of a flow fits a hundred columns.
    drawn = Table(
        title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console()
    # A file or a pipe has no width: rows stay on one line there.
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(drawn)
