"""What commands that look into a running bus share: settings, codec, output."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings

T = TypeVar("T")
PIPE_WIDTH = 170

as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


def connected(work: "Callable[[BusSettings, Codec], Awaitable[T]]") -> T:
    """Runs work against the cluster named by BUS_KAFKA_BOOTSTRAP and BUS_REGISTRY_URL."""
    from bus.runtime.codec import Codec
    from bus.runtime.registry import RegistryClient
    from bus.runtime.settings import load_settings

    async def run() -> T:
        settings = load_settings()
        settings.require_cluster()
        async with RegistryClient.of(settings) as registry:
            codec = Codec(registry)
            await codec.open()
            return await work(settings, codec)

    return asyncio.run(run())


def emit(value: Any) -> None:
    """One JSON object."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def table(title: str, columns: list[str], rows: list[list[Any]], *, right: tuple[int, ...] = ()) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console()
    # A file or a pipe has no width: rows stay on one line there.
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(drawn)
