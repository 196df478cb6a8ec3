"""The table of histories names each test that is here, and no other."""

import ast
import re
from pathlib import Path

import tests.histories

HERE = Path(__file__).parent


def test_the_table_and_the_tests_are_the_same() -> None:
    told = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests.histories.__doc__ or "")
    found = [
        (path.name, name)
        for path in HERE.glob("test_*.py")
        if path.name != Path(__file__).name
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    ]
    assert sorted(told) == sorted(found)


def test_every_history_names_its_law() -> None:
    for path in HERE.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                assert re.search(r"\(laws? \d+", ast.get_docstring(node) or ""), f"{path.name}::{node.name}"
