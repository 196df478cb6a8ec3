"""docs/operating.md is held to the code: commands, options, causes, hints, metrics and places in the page."""

import re
from pathlib import Path

import click
import pytest

from bus.cli.group import bus
from bus.runtime.deadletters import HINTS
from bus.runtime.metrics import TABLE
from schemas.system import Cause

PAGE = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
COMMANDS = sorted(
    {line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ bus ")}
    | set(re.findall(r"(?<!`)`(bus [^`]+)`(?!`)", PAGE))
)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_with_its_options(line: str) -> None:
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "X", line).split()[1:]
    command: click.Command = bus
    with click.Context(bus) as ctx:
        while isinstance(command, click.Group) and words:
            found = command.get_command(ctx, words.pop(0))
            assert found is not None, f"{line}: there is no such command"
            command = found
    known = {name for parameter in command.params for name in parameter.opts}
    assert not [word for word in words if word.startswith("--") and word not in known], line


def test_every_cause_is_told_with_its_hint() -> None:
    rows = {row[0].strip(" `"): row[2].strip() for line in PAGE.splitlines() if len(row := line.strip("|").split("|")) == 3}
    for cause in set(Cause) - {Cause.UNKNOWN}:
        assert rows[cause] == HINTS[cause]


def test_metrics_and_places_exist() -> None:
    assert set(re.findall(r"\bbus_[a-z_]+", PAGE)) <= set(TABLE)
    titles = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= titles


def test_the_readme_leads_there() -> None:
    assert "docs/operating.md" in (Path(__file__).parents[3] / "README.md").read_text()
