"""The group of all commands.

Each module beside this one holds the commands of one area in a list `commands`. They are imported when a command is looked for,
so they import what is heavy (Kafka, connectors, servers) inside their functions only.
"""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

import click

from bus.core.errors import BusError, FatalError

OWN_MODULES = frozenset({"group", "interruption", "main", "session"})
"""Modules of this package that hold no commands."""


class BusGroup(click.Group):
    """Finds commands in the modules beside it, and ends with the exit codes of the error tree."""

    _found: dict[str, click.Command] | None = None

    def _load(self) -> dict[str, click.Command]:
        if self._found is None:
            names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
            modules = [importlib.import_module(f"bus.cli.{name}") for name in names if name not in OWN_MODULES]
            self._found = {str(command.name): command for module in modules for command in getattr(module, "commands", [])}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, by name."""
        return sorted(self._load())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command."""
        return self._load().get(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; a known error is a message and an exit code, never a traceback."""
        try:
            return super().invoke(ctx)
        except BusError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code if isinstance(error, FatalError) else 1)
        except OSError as error:
            if error.filename is None:
                raise
            click.echo(f"error: {error.filename}: {error.strerror}", err=True)
            sys.exit(1)


@click.group(cls=BusGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="integration-bus")
def bus() -> None:
    """Keeps business systems in step through Kafka."""
