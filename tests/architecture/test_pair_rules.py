"""Each page of docs/pairs names tests that exist; what no test holds, or only a test that is expected to fail, stands open."""

import ast
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "pairs").glob("*.md"))
RULE = re.compile(r"^\| (R\d+\.\d\d) \| (.+?) \| (.*) \|$")
OPEN_ROW = re.compile(r"^\| (R\d+\.\d\d) \| (.+) \|$")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
OPEN_HEADING = "\n## Open\n"
RULES_MIN = 90


@dataclass(frozen=True)
class Rule:
    """One row of a page."""

    id: str
    text: str
    tests: tuple[tuple[str, str], ...]
    is_open: bool


def rules_of(page: str) -> list[Rule]:
    body, _, _ = page.partition(OPEN_HEADING)
    found = [RULE.match(line) for line in body.splitlines()]
    return [
        Rule(match[1], match[2], tuple(TEST.findall(match[3])), TEST.sub("", match[3]).replace(",", "").split() == ["open"])
        for match in found
        if match is not None
    ]


def open_rules_of(page: str) -> dict[str, str]:
    _, _, tail = page.partition(OPEN_HEADING)
    return {match[1]: match[2] for line in tail.splitlines() if (match := OPEN_ROW.match(line))}


@cache
def functions_of(file: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    path = ROOT / file
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@cache
def expected_failures_of(file: str) -> frozenset[str]:
    return expected_failures_in((ROOT / file).read_text())


def expected_failures_in(text: str) -> frozenset[str]:
    """Functions that carry an xfail mark: their own, one named in the module, or one on some of their parameters."""
    tree = ast.parse(text)
    named = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and _has_xfail(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def is_marked(decorator: ast.expr) -> bool:
        names = {item.id for item in ast.walk(decorator) if isinstance(item, ast.Name)}
        return _has_xfail(decorator) or bool(names & named)

    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(node.name for node in functions if any(map(is_marked, node.decorator_list)))


def _has_xfail(node: ast.AST) -> bool:
    return any(isinstance(item, ast.Attribute) and item.attr == "xfail" for item in ast.walk(node))


def faults_of(page: str, failing: Callable[[str], frozenset[str]] = expected_failures_of) -> list[str]:
    """What is wrong with a page."""
    rules, open_rules = rules_of(page), open_rules_of(page)
    found = [f"{rule_id} stands {count} times" for rule_id, count in Counter(rule.id for rule in rules).items() if count > 1]
    written = [line for line in page.partition(OPEN_HEADING)[0].splitlines() if line.startswith("| R") and line[3:4].isdigit()]
    found += [f"{line[:40]}… is no row of three cells" for line in written if not RULE.match(line)]
    for rule in rules:
        if not rule.tests and not rule.is_open:
            found.append(f"{rule.id} names no test and is not open")
        for file, name in rule.tests:
            if name not in functions_of(file) or not name.startswith(("test_", "check_")):
                found.append(f"{rule.id}: there is no {file}::{name}")
            elif name in failing(file) and not rule.is_open:
                found.append(f"{rule.id}: {name} is expected to fail, and the rule is not open")
    marked = {rule.id for rule in rules if rule.is_open}
    found += [f"{rule_id} is open without a reason" for rule_id in sorted(marked - open_rules.keys())]
    found += [f"{rule_id} has a reason and is not open" for rule_id in sorted(open_rules.keys() - marked)]
    return found


def test_there_is_a_page() -> None:
    assert [page.name for page in PAGES] == ["quickbooks-exact.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_rule_has_its_test_or_stands_open(page: Path) -> None:
    text = page.read_text()
    assert len(rules_of(text)) >= RULES_MIN
    assert faults_of(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_expected_to_fail_is_named(page: Path) -> None:
    """A test of the pair marked xfail belongs to an open rule: nothing fails in silence."""
    named = {test for rule in rules_of(page.read_text()) if rule.is_open for test in rule.tests}
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/unit/pair").glob("test_*.py"))
    marked = {(file, name) for file in files for name in expected_failures_of(file)}
    assert marked - named == set()


HERE = "tests/architecture/test_pair_rules.py"
GOOD = f"""
| R1.01 | Something holds | `{HERE}::test_there_is_a_page` |
| R1.02 | Something does not | open |

## Open

| R1.02 | nobody wrote it |
"""
TWINS = [
    ("test_there_is_a_page", "test_nowhere", "R1.01: there is no"),
    (f" | `{HERE}::test_there_is_a_page`", "", "is no row of three cells"),
    (f"`{HERE}::test_there_is_a_page`", "by nobody", "R1.01 names no test and is not open"),
    ("| R1.02 | nobody wrote it |", "", "R1.02 is open without a reason"),
    ("| R1.02 | Something does not | open |", "", "R1.02 has a reason and is not open"),
    ("| R1.02 | Something does not", "| R1.01 | Something does not", "R1.01 stands 2 times"),
    (HERE, "tests/nowhere.py", "there is no tests/nowhere.py"),
]


def test_a_good_page_has_no_fault() -> None:
    assert faults_of(GOOD) == []


@pytest.mark.parametrize(("old", "new", "fault"), TWINS)
def test_a_broken_twin_is_seen(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    assert any(fault in found for found in faults_of(GOOD.replace(old, new, 1))), faults_of(GOOD.replace(old, new, 1))


def test_a_rule_whose_test_is_expected_to_fail_must_be_open() -> None:
    def failing(_file: str) -> frozenset[str]:
        return frozenset({"test_there_is_a_page"})

    assert faults_of(GOOD, failing) == ["R1.01: test_there_is_a_page is expected to fail, and the rule is not open"]
    opened = GOOD.replace("page` |", "page`, open |").replace("| R1.02 | nobody", "| R1.01 | F1 |\n| R1.02 | nobody")
    assert faults_of(opened, failing) == []


def test_marks_of_every_form_are_seen() -> None:
    text = """
F1 = pytest.mark.xfail(strict=True, reason="F1")
@F1
def test_a(): ...
@pytest.mark.xfail
async def test_b(): ...
@pytest.mark.parametrize("x", [1, pytest.param(2, marks=F1)])
def test_c(x): ...
@pytest.mark.parametrize("x", [1, 2])
def test_d(x): ...
def test_e(): ...
"""
    assert expected_failures_in(text) == {"test_a", "test_b", "test_c"}
