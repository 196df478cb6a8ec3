"""`python -m bench`: every figure in a process of its own, medians of the rounds, one table."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from bench.measure import Figure, machine, medians
from bus.embedded import Cluster
from bus.runtime.privacy import MasterKey

SIZE = 20_000
QUICK_SIZE = 2_000
GROUPS = {"startup": False, "poller": True, "processor": True, "sink": True, "whole": False, "state": True}
"""Modules of this package, and whether they need a running cluster."""
BY_NAME = ("state",)
"""Measured only where they are named: they take minutes, and space."""


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_SIZE:,} objects instead of {SIZE:,}, one round.")
@click.option("--only", type=click.Choice(list(GROUPS)), multiple=True, help="These groups of figures; without it all but state.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of which the median counts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@click.option("--child", hidden=True, nargs=2, type=(str, int))
def main(quick: bool, only: tuple[str, ...], rounds: int, as_json: bool, child: tuple[str, int] | None) -> None:
    """Measures the bus on this machine. Aims are shown; missing one fails nothing."""
    if child is not None:
        found = asyncio.run(import_module(f"bench.{child[0]}").figures(child[1]))
        click.echo(msgspec.json.encode(found).decode())
        return
    size, rounds = (QUICK_SIZE, 1) if quick else (SIZE, rounds)
    figures: list[Figure] = []
    failed: list[str] = []
    for group in only or (name for name in GROUPS if name not in BY_NAME):
        click.echo(f"measuring {group}, {rounds} × …", err=True)
        try:
            figures += medians([_round(group, size) for _ in range(rounds)])
        except click.ClickException as error:  # what else was measured is shown all the same
            error.show()
            failed.append(group)
    if as_json:
        click.echo(json.dumps({"machine": machine(), "rounds": rounds, "figures": [msgspec.to_builtins(f) for f in figures]}))
    else:
        _show(figures, rounds)
    sys.exit(1 if failed else 0)


def _round(group: str, size: int) -> list[Figure]:
    """One round of a group in a process of its own, on a cluster of its own."""
    if not GROUPS[group]:
        return _child(group, size, {})
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), kafka_port=0, registry_port=0) as cluster:
        key = Path(folder) / "master.key"
        key.write_text(MasterKey.generate())
        environment = {
            "BUS_KAFKA_BOOTSTRAP": cluster.bootstrap,
            "BUS_REGISTRY_URL": cluster.registry_url,
            "BUS_MASTER_KEY_FILE": str(key),
            "BUS_DATA_DIR": folder,
            "BENCH_EMBEDDED_MIB": str(sum(cluster.rss_mb().values())),
        }
        return _child(group, size, environment)


def _child(group: str, size: int, environment: dict[str, str]) -> list[Figure]:
    command = [sys.executable, "-m", "bench", "--child", group, str(size)]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{group} could not be measured: see above")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Figure])


def _show(figures: list[Figure], rounds: int) -> None:
    table = Table(title=f"{machine()}; median of {rounds}")
    for column, justify in (
        ("figure", "left"),
        ("value", "right"),
        ("aim", "right"),
        ("holds", "left"),
        ("peak", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        table.add_row(
            figure.name,
            f"{figure.value:,.0f} {figure.unit}" if figure.value >= 100 else f"{figure.value:,.2f} {figure.unit}",
            f"{sign} {figure.aim:,g}" if figure.aim is not None else "",
            {True: "yes", False: "NO", None: ""}[figure.holds],
            f"{figure.peak_mib:,.0f} MiB" if figure.peak_mib is not None else "",
            figure.note,
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
