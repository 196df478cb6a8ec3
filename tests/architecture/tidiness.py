"""What the tidy test refuses, one function per rule. Each takes a file's path (relative to the repository) and its text."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

FUNCTION_LINES_MAX = 70
FUNCTION_LINES_MAX_AUTHOR = 60
"""In what a connector's author reads: bus/kit and connectors."""
FILE_LINES_MAX = 650
MAPPING_LINES_MAX = 400
"""A longer mapping.py becomes a folder, split by entity."""
GENERATED = ("schemas/canon.py", "schemas/system.py")
BANNED = frozenset({"utils", "util", "helpers", "helper", "misc", "provider", "tap", "bookmark", "xref", "poison"})
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
LAWFUL_TODO = re.compile(r"TODO\(\w+, \d{4}-\d\d-\d\d\)")


def long_functions(path: PurePosixPath, text: str) -> Iterator[str]:
    top = FUNCTION_LINES_MAX_AUTHOR if path.is_relative_to("bus/kit") or path.is_relative_to("connectors") else FUNCTION_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > top:
                yield f"{node.lineno}: {node.name} has {lines} lines, the limit is {top}"


def long_files(path: PurePosixPath, text: str) -> Iterator[str]:
    top = MAPPING_LINES_MAX if path.match("connectors/*/mapping.py") else FILE_LINES_MAX
    lines = len(text.splitlines())
    if lines > top and str(path) not in GENERATED:
        yield f"1: {lines} lines, the limit is {top}"


def banned_words(path: PurePosixPath, text: str) -> Iterator[str]:
    """In the names that we give: of modules, functions, classes, arguments, variables."""
    names = [(1, part) for part in (*path.parent.parts, path.stem)]
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.append((node.lineno, node.name))
            case ast.arg():
                names.append((node.lineno, node.arg))
            case ast.Name(ctx=ast.Store()):
                names.append((node.lineno, node.id))
            case ast.Attribute(ctx=ast.Store()):
                names.append((node.lineno, node.attr))
    for line, name in names:
        for word in WORDS.findall(name):
            if word.lower() in BANNED:
                yield f"{line}: {name}: {word!r} is a banned word"


def banned_calls(path: PurePosixPath, text: str) -> Iterator[str]:
    """print, time.sleep, bare except; float in a mapping, where all money passes."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield f"{node.lineno}: print"
            case (
                ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep"))
                | ast.ImportFrom(module="time", names=[ast.alias(name="sleep")])
            ):
                yield f"{node.lineno}: time.sleep: wait through a clock or an event with a limit"
            case ast.ExceptHandler(type=None):
                yield f"{node.lineno}: bare except"
            case ast.Call(func=ast.Name(id="float")) if _is_mapping(path):
                yield f"{node.lineno}: float in a mapping: money and quantities are Decimal"


def ownerless_todos(path: PurePosixPath, text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if (
            token.type == tokenize.COMMENT
            and re.search(r"\b(TODO|FIXME|XXX)\b", token.string)
            and not LAWFUL_TODO.search(token.string)
        ):
            yield f"{token.start[0]}: a TODO has an owner and a date: TODO(name, 2026-01-31)"


def named_systems(path: PurePosixPath, text: str, systems: list[str]) -> Iterator[str]:
    """Imports cannot see a name in a string: no system id as a word outside its own folder."""
    if path.parts[0] not in ("bus", "services"):
        return
    for system in systems:
        for match in re.finditer(rf"(?<![\w-]){re.escape(system)}(?![\w-])", text):
            yield f"{text.count(chr(10), 0, match.start()) + 1}: names the system {system!r}"


RULES: dict[str, Callable[[PurePosixPath, str], Iterator[str]]] = {
    rule.__name__: rule for rule in (long_functions, long_files, banned_words, banned_calls, ownerless_todos)
}


def _is_mapping(path: PurePosixPath) -> bool:
    return path.parts[0] == "connectors" and any(part.startswith("mapping") for part in path.parts)
