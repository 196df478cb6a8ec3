"""`bus up` and `bus simulate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from services.node import Node


PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data is kept (BUS_DATA_DIR, else .data).")
@click.option(
    "--only", multiple=True, type=click.Choice(["grants", "pollers", "processors", "sinks"]), help="Run only this service."
)
@click.option(
    "--kafka-port", type=PORT, default=19092, envvar="BUS_EMBEDDED_KAFKA_PORT", show_default=True, help="0 picks a free one."
)
@click.option(
    "--registry-port",
    type=PORT,
    default=18081,
    envvar="BUS_EMBEDDED_REGISTRY_PORT",
    show_default=True,
    help="0 picks a free one.",
)
def up(data_dir: Path | None, only: tuple[str, ...], kafka_port: int, registry_port: int) -> None:
    """Run everything on this machine until Ctrl-C: Kafka, the schema registry and all services.

    A master key must be named in BUS_MASTER_KEY_FILE (without one, the message says how to make it), and the folder of the
    connections' secrets in BUS_SECRETS_DIR. With BUS_KAFKA_BOOTSTRAP and BUS_REGISTRY_URL a cluster of your own is used.
    """
    from bus.cli.interruption import Interrupted, until_interrupted
    from bus.runtime import logs
    from services.node import SERVICES, Node, node_settings

    settings = node_settings(data_dir)
    logs.configure("up", settings.log_level)
    node = Node(settings, only=only or SERVICES, kafka_port=kafka_port, registry_port=registry_port)
    try:
        until_interrupted(lambda: _run(node))
    except Interrupted:
        click.echo("stopped; the data is kept", err=True)


async def _run(node: "Node") -> None:
    import asyncio

    try:
        await node.start()
        click.echo(_where(node), err=True)
        await node.run(asyncio.Event())
    finally:
        await node.close()


def _where(node: "Node") -> str:
    settings = node.settings
    place = f"ready: Kafka at {settings.kafka_bootstrap}, registry at {settings.registry_url}"
    if node.cluster is None:
        return f"{place}; `bus status` shows what it does, with the same variables set"
    if settings.data_dir == Path(".data"):
        return f"{place}; `bus status` in another terminal, in this folder, shows what it does"
    return f"{place}; commands in another terminal find it with: export BUS_DATA_DIR={settings.data_dir.absolute()}"


@click.command()
@click.argument("system")
@click.option("--port", type=PORT, default=0, help="Port to listen on; 0 picks a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--orders", type=click.IntRange(0), default=0, help="Seed so many documents.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator.")
@click.option("--real-limits", is_flag=True, help="Keep the vendor's own call limits.")
def simulate(system: str, port: int, host: str, orders: int, seed: int, real_limits: bool) -> None:
    """Run the simulator of SYSTEM. The first line on stdout is one JSON object a connection can be made of."""
    import asyncio
    import importlib
    import json
    import signal

    from bus.core.errors import SettingsError
    from bus.kit.registry import manifest_of
    from bus.runtime import supervisor
    from bus.simulation.simulator import Served

    manifest = manifest_of(system)
    simulator = importlib.import_module(f"connectors.{manifest.id}.simulator").build(real_limits=real_limits)
    simulator.seed(orders, seed)
    try:
        served = Served(simulator, host, port)
    except OSError as error:
        raise SettingsError(
            f"{host}:{port}: {error.strerror}: choose another --host or --port; --port 0 picks a free one"
        ) from None
    supervisor.guard()

    async def run() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, served.stop)
        click.echo(json.dumps(served.info))
        await served.run()

    asyncio.run(run())


commands = [up, simulate]
