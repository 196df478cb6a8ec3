"""What a person can look at and try while a demo stays: addresses, and commands that are true of this very run."""

import shlex
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bus.core import topics
from bus.runtime.settings import BusSettings
from schemas.system import Outcome, ResultRecord

CROSSED = (Outcome.CREATED, Outcome.UPDATED, Outcome.UNCHANGED, Outcome.LINKED)
"""Outcomes behind which an object stands on both sides."""


class Edit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change in one system's screens that the example carries to the other."""

    flow: str
    fields: Mapping[str, Any]
    """The vendor's members as its simulator takes them."""
    seen: str
    """A text of theirs by which the change is recognised in the other simulator's books."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is, and what to try."""

    kafka_bootstrap: str
    registry_url: str
    simulators: Mapping[str, str]
    """Base URL by connection; the control API stands below `/_sim/`."""
    commands: Sequence[tuple[str, str]]
    """What it shows, and the command."""


def read_edit(path: Path) -> Edit | None:
    """The change an example proposes; None: none."""
    found = tomllib.loads(path.read_text()).get("edit")
    return None if found is None else msgspec.convert(found, Edit)


def surroundings(
    settings: BusSettings,
    simulators: Mapping[str, str],
    example: Mapping[str, Any] | None,
    edit: Edit | None,
    results: Sequence[ResultRecord],
) -> Surroundings:
    """Everything a person needs beside the running demo, in the order in which it is worth trying."""
    commands = [("once per terminal", _preparation(settings)), ("where every object stands", "bus status")]
    if example is not None:
        commands.append(("the way of the document shown above", f"bus trace {shlex.quote(example['key'])}"))
    commands.append(("what waits for a person", "bus dead-letters list"))
    if edit is not None and (crossed := _crossed(results, edit.flow)) is not None:
        commands += _edit(edit, crossed, simulators)
    return Surroundings(
        kafka_bootstrap=settings.kafka_bootstrap, registry_url=settings.registry_url, simulators=simulators, commands=commands
    )


def _preparation(settings: BusSettings) -> str:
    variables = {
        "BUS_DATA_DIR": settings.data_dir,
        "BUS_SECRETS_DIR": settings.secrets_dir,
        "BUS_MASTER_KEY_FILE": settings.master_key_file,
    }
    line = "export " + " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
    activate = Path(sys.prefix) / "bin" / "activate"
    return line if shutil.which("bus") or not activate.exists() else f". {shlex.quote(str(activate))}; {line}"


def _crossed(results: Sequence[ResultRecord], flow: str) -> ResultRecord | None:
    """The newest object of a flow that stands on both sides."""
    crossed = [result for result in results if result.flow == flow and result.outcome in CROSSED and result.external_id]
    return max(crossed, key=lambda result: (result.ended_at, result.source.id), default=None)


def _edit(edit: Edit, crossed: ResultRecord, simulators: Mapping[str, str]) -> list[tuple[str, str]]:
    source = crossed.source
    body = msgspec.json.encode({"entity": source.entity, "id": source.id, "fields": edit.fields}).decode()
    target = f"{simulators[crossed.connection]}/_sim/books"
    key = topics.event_key(source.connection, source.entity, source.id)
    return [
        (
            f"edit a {source.entity} in {source.connection}",
            f"curl -s {simulators[source.connection]}/_sim/edit -d {shlex.quote(body)}",
        ),
        (f"a moment later it is in {crossed.connection}", f"curl -s {target} | grep -o {shlex.quote(edit.seen)}"),
        ("and this is the way it took", f"bus trace {shlex.quote(key)}"),
    ]
