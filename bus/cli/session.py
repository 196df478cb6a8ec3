"""What commands that look into a running bus share: settings, codec, output."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.registry import RegistryClient
    from bus.runtime.settings import BusSettings

T = TypeVar("T")
PIPE_WIDTH = 170

as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


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
