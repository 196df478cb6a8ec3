"""connectors/README.md says what the code says: a refusal it quotes is one the code gives, and none of a manifest is left out."""

import re
from functools import cache
from pathlib import Path

import pytest

from bus.kit.registry import discover, manifest_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "connectors" / "README.md"
QUOTED = re.compile(r"`([^`]+)`")
REFUSED_HEADING = "### What is refused"
PIECE_LENGTH_MIN = 4
"""Shorter pieces between two gaps would be found anywhere."""


@cache
def code() -> str:
    """Everything a refusal may stand in, without the places where a value is put in or a line is broken."""
    files = [*ROOT.glob("connectors/*/manifest.toml")]
    files += [path for folder in ("bus", "connectors", "services") for path in (ROOT / folder).rglob("*.py")]
    return "\n".join(path.read_text() for path in sorted(files) if "simulation" not in path.parts)


def refusals(page: str) -> list[str]:
    """The quoted words of the rows below the heading: the last cell of each."""
    rows = [line for line in page.partition(REFUSED_HEADING)[2].splitlines() if line.startswith("| ") and "---" not in line]
    return [words for row in rows for words in QUOTED.findall(row.rsplit("|", 2)[1])]


def is_said(words: str) -> bool:
    """Whether one line of the code holds all pieces of the words, in their order; `…` stands for a value."""
    pieces = [re.escape(piece.strip()) for piece in words.split("…") if len(piece.strip()) >= PIECE_LENGTH_MIN]
    return bool(pieces) and re.search(".*".join(pieces), code()) is not None


def unsaid(page: str) -> list[str]:
    """Quoted refusals that the code never gives."""
    return [words for words in refusals(page) if not is_said(words)]


def left_out(page: str) -> list[str]:
    """What a manifest says its system cannot, and the page does not quote."""
    quoted = set(refusals(page))
    return [f"{system}: {words}" for system in discover() for words in manifest_of(system).cannot.values() if words not in quoted]


def test_every_refusal_on_the_page_is_one_of_the_code() -> None:
    page = PAGE.read_text()
    assert len(refusals(page)) >= 40
    assert unsaid(page) == []


def test_nothing_a_manifest_says_is_left_out() -> None:
    assert left_out(PAGE.read_text()) == []


@pytest.mark.parametrize("system", discover())
def test_every_connector_is_on_the_page(system: str) -> None:
    assert f"[{system}]({system}/README.md)" in PAGE.read_text()


def test_every_part_it_names_is_there() -> None:
    parts = [
        line.split("|")[1] for line in PAGE.read_text().partition("A poller calls")[0].splitlines() if line.startswith("| `")
    ]
    names = [name for part in parts for name in QUOTED.findall(part)]
    assert len(names) >= 6
    assert [
        f"{system}/{name}" for system in discover() for name in names if not (ROOT / "connectors" / system / name).exists()
    ] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("Exact sales orders have no branch", "Exact sales orders have no twig"), ("Exact takes …", "Exact eats …")],
)
def test_words_that_nobody_says_are_seen(old: str, new: str) -> None:
    page = PAGE.read_text()
    assert page.count(old) == 1
    assert [words for words in unsaid(page.replace(old, new)) if new.removesuffix(" …") in words]


def test_a_row_that_is_gone_is_seen() -> None:
    page = PAGE.read_text()
    row = next(line for line in page.splitlines() if "QuickBooks holds no language" in line)
    assert left_out(page.replace(row, "")) == ["quickbooks: QuickBooks holds no language"]
