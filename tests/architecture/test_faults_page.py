"""docs/faults.md is what runs of the campaign wrote, it tells of every row and every broken build, and no row of it failed."""

import json

from tests.faults.broken import BUILDS
from tests.faults.registry import SCENARIOS
from tests.faults.report import PAGE, ROWS, page


def test_the_page_is_that_of_its_rows() -> None:
    rows = json.loads(ROWS.read_text())
    assert PAGE.read_text() == page(rows), "the page is written by `make faults`, not by hand"


def test_every_fault_and_every_broken_build_was_run_and_ended_as_it_must() -> None:
    rows = json.loads(ROWS.read_text())
    assert {(row["number"], row["broken"]) for row in rows} == {
        (scenario.number, name) for scenario in SCENARIOS for name in ("", *scenario.broken)
    }
    assert [(row["number"], row["broken"], row["verdict"]) for row in rows if not row["holds"]] == []


def test_every_row_has_a_broken_build_that_exists() -> None:
    assert [scenario.number for scenario in SCENARIOS if not scenario.broken] == []
    assert {name for scenario in SCENARIOS for name in scenario.broken} - set(BUILDS) == set()
