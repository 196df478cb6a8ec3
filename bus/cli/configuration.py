"""`bus validate`, `bus diff` and `bus apply`."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bus.cli.session import connected, emit

if TYPE_CHECKING:
    from bus.core.configuration import Problem
    from bus.core.configuration.difference import Change
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings
    from bus.runtime.validation import Forecast, Report

REFUSED = 78
SUFFIXES = (".yaml", ".yml")

_path = click.option(
    "-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="A file, or a folder of *.yaml files."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")


@click.command()
@_path
@_json
def validate(path: Path, as_json: bool) -> None:
    """Check a configuration: every problem with file, line, key and fix. Changes nothing."""
    report = _report(path, _settings(), as_json)
    if as_json:
        emit(_as_json(report))
        return
    _show_warnings(report.warnings)
    _show_forecasts(report.forecasts)
    found = report.configuration
    click.echo(f"{len(found.connections)} connections, {len(found.flows)} flows, {len(found.tables)} tables: valid")


@click.command()
@_path
@_json
def diff(path: Path, as_json: bool) -> None:
    """Show what `bus apply` would change."""
    from bus.core.clock import SystemClock
    from bus.runtime.publication import compare

    settings = _settings()
    report = _report(path, settings, as_json)

    async def look(cluster: "BusSettings", codec: "Codec") -> "list[Change]":
        return await compare(cluster, codec, report.accepted(), SystemClock())

    changes = connected(look)
    if as_json:
        emit({"ok": True, "changes": _changes(changes)})
        return
    _show_changes(changes)


@click.command()
@_path
@_json
@click.option("--allow-remove", is_flag=True, help="Let connections go although they have state.")
def apply(path: Path, as_json: bool, allow_remove: bool) -> None:
    """Publish a configuration, all of it or nothing. PATH is the whole of it: what is not there is removed."""
    from bus.core.clock import SystemClock
    from bus.core.configuration import ConfigurationRefused
    from bus.runtime.publication import Applied
    from bus.runtime.publication import apply as publish

    settings = _settings()
    report = _report(path, settings, as_json)

    async def run(cluster: "BusSettings", codec: "Codec") -> Applied:
        return await publish(cluster, codec, report.accepted(), SystemClock(), allow_remove=allow_remove)

    try:
        applied = connected(run)
    except ConfigurationRefused as error:
        _refuse(error.problems, as_json)
    if as_json:
        emit(
            {
                "ok": True,
                "version": applied.version,
                "changes": _changes(applied.changes),
                "topics": list(applied.topics),
                "replays": [{"id": item.id, "flow": item.args["flow"]} for item in applied.replays],
                "advice": list(applied.advice),
            }
        )
        return
    _show_warnings(report.warnings)
    _show_changes(applied.changes)
    for item in applied.replays:
        click.echo(f"new flow {item.args['flow']}: what was read before is sent through it (job {item.id})")
    for words in applied.advice:
        click.echo(words)
    click.echo(f"configuration version {applied.version}")


commands = [validate, diff, apply]


def _settings() -> "BusSettings":
    from bus.runtime.settings import load_settings

    return load_settings()


def _report(path: Path, settings: "BusSettings", as_json: bool) -> "Report":
    """The report of a configuration without problems; with problems the command ends here."""
    from bus.core.configuration import load
    from bus.runtime.validation import validate as check
    from bus.runtime.validation.installed import installed_systems, secret_check

    _require_readable(path)
    report = check(load(path), installed_systems(), secret_check(settings))
    if report.problems:
        if not as_json:
            _show_warnings(report.warnings)
            _show_forecasts(report.forecasts)
            if settings.secrets_dir is None and any(problem.key == "secret" for problem in report.problems):
                click.echo("BUS_SECRETS_DIR is not set: it names the folder that holds a folder per secret", err=True)
        _refuse(report.problems, as_json)
    return report


def _require_readable(path: Path) -> None:
    """Refuses a file or folder that cannot be read: what is skipped would count as removed."""
    from bus.core.errors import SettingsError

    def refuse(error: OSError) -> NoReturn:
        raise SettingsError(f"{error.filename}: cannot be read ({error.strerror}): mend its rights, or move it away") from None

    for folder, folders, names in os.walk(path, onerror=refuse) if path.is_dir() else []:
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                _try_to_open(Path(folder, name), refuse)
        for name in sorted(folders):
            if name.endswith(SUFFIXES):
                raise SettingsError(f"{Path(folder, name)}: is a folder with the name of a file: give it another name")
    if path.is_file():
        _try_to_open(path, refuse)


def _try_to_open(path: Path, refuse: Callable[[OSError], NoReturn]) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        refuse(error)


def _refuse(problems: "Sequence[Problem]", as_json: bool) -> NoReturn:
    if as_json:
        emit({"ok": False, "problems": [_problem(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(str(problem), err=True)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(f"{count}, nothing was applied", err=True)
    sys.exit(REFUSED)


def _problem(problem: "Problem") -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "key": problem.key, "what": problem.what, "fix": problem.fix}


def _as_json(report: "Report") -> dict[str, Any]:
    return {
        "ok": True,
        "warnings": [_problem(warning) for warning in report.warnings],
        "forecast": [
            {
                "connection": item.connection,
                "calls_per_day": item.calls,
                "streams": {stream.name: {"poll_s": stream.poll_s, "calls_per_day": stream.calls} for stream in item.streams},
                "limits": {limit.name: {"share_per_day": limit.share, "limit_per_day": limit.limit} for limit in item.limits},
            }
            for item in report.forecasts
        ],
    }


def _changes(changes: "Sequence[Change]") -> list[dict[str, Any]]:
    return [{"what": item.what, "kind": item.kind, "name": item.name, "keys": list(item.keys)} for item in changes]


def _show_changes(changes: "Sequence[Change]") -> None:
    signs = {"added": "+", "changed": "~", "removed": "-"}
    for change in changes:
        keys = f" ({', '.join(change.keys)})" if change.keys else ""
        click.echo(f"{signs[change.what]} {change.kind} {change.name}{keys}")
    if not changes:
        click.echo("nothing differs from what is published")


def _show_warnings(warnings: "Sequence[Problem]") -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _show_forecasts(forecasts: "Sequence[Forecast]") -> None:
    if not forecasts:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Connection", "Stream", "Every", "Polls/day", "Calls/day", "Polling may use", "Vendor's limit/day")
    for forecast in forecasts:
        for stream in forecast.streams:
            table.add_row(forecast.connection, stream.name, f"{stream.poll_s} s", str(stream.polls), str(stream.calls))
        for limit in forecast.limits:
            style = None if limit.fits else "bold red"
            row = (forecast.connection, f"limit {limit.name}", "", "", str(limit.calls), str(limit.share), str(limit.limit))
            table.add_row(*row, style=style, end_section=True)
    Console().print(table)
