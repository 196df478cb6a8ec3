"""docs/laws.md names files and tests that exist, and every law by whose number the code calls it."""

import re
from pathlib import Path

from tests.architecture.test_pair_rules import TEST, functions_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "laws.md"
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
FILE = re.compile(r"`([\w/]+\.py)`")
NAMED = re.compile(r"\blaws? (\d+)(?:(?:,| and| to) (\d+))*")
NUMBER = re.compile(r"\d+")
CODE = ("bus", "connectors", "services", "schemas", "tests")
IN_FORCE = {*range(1, 23)}


def faults_of(page: str, code: str) -> list[str]:
    """What is wrong with a page, given all code as one text."""
    rows = ROW.findall(page)
    found = []
    for number, _text, kept, tested in rows:
        found += [f"law {number}: there is no {file}" for file in FILE.findall(kept) if not (ROOT / file).is_file()]
        tests = TEST.findall(tested)
        found += [f"law {number}: there is no {file}::{name}" for file, name in tests if name not in functions_of(file)]
        if not tests or not FILE.findall(kept):
            found.append(f"law {number} names no test or no file")
    numbers = [int(number) for number, *_ in rows]
    if numbers != sorted(IN_FORCE):
        found.append(f"laws {numbers} stand where {sorted(IN_FORCE)} should")
    named = {int(number) for match in NAMED.finditer(code) for number in NUMBER.findall(match[0])}
    return found + [f"law {number} is named in the code and not here" for number in sorted(named - set(numbers))]


def test_every_law_has_its_place_and_its_test() -> None:
    code = "\n".join(
        path.read_text() for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__)
    )
    assert faults_of(PAGE.read_text(), code) == []


def test_a_page_that_lies_is_noticed() -> None:
    page = PAGE.read_text()
    assert faults_of(page.replace("services/sinks/locks.py", "services/sinks/gone.py"), "") == [
        "law 7: there is no services/sinks/gone.py"
    ]
    assert "is named in the code and not here" in faults_of(page, "# see law 99")[0]
    assert (
        "no test"
        in faults_of(page.replace("`tests/unit/core/", "`elsewhere/").replace("`tests/unit/kit/test_client", "`x"), "")[0]
    )
    assert "stand where" in faults_of(re.sub(r"(?m)^\| 9 \|.*\n", "", page), "")[0]
