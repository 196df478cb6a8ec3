"""YAML documents with the line of every key.

The dialect is narrower than YAML 1.1, because an accountant's values must mean what they look like: `NO` is a country and not
false, `014` is a code and not an octal number, decimals stay exact, a key given twice is an error, anchors are refused.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec
import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bus.core.configuration.problems import Problem

FILE_BYTES_MAX = 1024 * 1024
DOCUMENTS_MAX = 2_000
DEPTH_MAX = 20

Path: TypeAlias = tuple[str | int, ...]

_SPELT_OUT = ("expression", "from")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Scalars resolve by the table below and nothing else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (the base class's own name)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ConstructorError(None, None, "anchors and aliases are not read", event.start_mark)
        node: Node | None = super().compose_node(parent, index)
        return node


_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}timestamp", re.compile(r"^\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))?$"), list("0123456789")
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a document stands: its file and the line of each of its keys."""

    file: str
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """Line of a key, else of the nearest key around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: Path, what: str, fix: str) -> Problem:
        """A problem at a key; what a short form left out is not named."""
        if path and path[-1] in _SPELT_OUT and path not in self.lines:
            path = path[:-1]
        return Problem(file=self.file, line=self.line(path), key=dotted(path), what=what, fix=fix)


class RawDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One YAML document as plain values, with its place."""

    value: dict[str, Any]
    place: Place


def dotted(path: Path) -> str:
    """`("rows", 3, "value")` → `rows[3].value`; the whole document is `document`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"


class _Reader:
    """Turns the nodes of one document into plain values; problems are collected."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []

    def read(self, node: Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > DEPTH_MAX:
            self._add(path, node, f"is nested deeper than {DEPTH_MAX}", "Flatten it.")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                self._add(path, key_node, "a key is not a plain word", "Write `key: value`.")
                continue
            here = (*path, key)
            if key in result:
                self._add(here, key_node, "is given twice", f"Remove one; the first is on line {self.lines[here]}.")
                continue
            self.lines[here] = key_node.start_mark.line + 1
            result[key] = self.read(value_node, here)
        return result

    def _scalar(self, node: Node, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        match kind:
            case "null":
                return None
            case "bool":
                return text == "true"
            case "int":
                return int(text)
            case "float":
                return Decimal(text)
            case "timestamp":
                return self._moment(node, path)
            case "str":
                return text
        self._add(path, node, f"has the tag {node.tag!r}", "Remove the tag.")
        return None

    def _moment(self, node: Node, path: Path) -> date | datetime | None:
        try:
            return datetime.fromisoformat(node.value) if "T" in node.value else date.fromisoformat(node.value)
        except ValueError:
            self._add(path, node, f"{node.value!r} is not a day of the calendar", "Write YYYY-MM-DD.")
            return None

    def _add(self, path: Path, node: Node, what: str, fix: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(file=self.file, line=line, key=dotted(path), what=what, fix=fix))


def read_documents(text: str, file: str) -> tuple[list[RawDocument], list[Problem]]:
    """All documents of a text; malformed YAML ends the text with one problem, documents before it are kept."""
    documents: list[RawDocument] = []
    problems: list[Problem] = []
    if len(text.encode()) > FILE_BYTES_MAX:
        what = f"is larger than {FILE_BYTES_MAX} bytes"
        return [], [Problem(file=file, line=1, key="document", what=what, fix="Split it into several files.")]
    try:
        for node in yaml.compose_all(text, Loader=_Loader):
            reader = _Reader(file)
            value = reader.read(node, ())
            problems += reader.problems
            if value is None:
                continue
            if not isinstance(value, dict):
                line = node.start_mark.line + 1
                fix = "Begin with `kind:`, or put `---` between documents."
                problems.append(Problem(file=file, line=line, key="document", what="is not a mapping", fix=fix))
                continue
            documents.append(RawDocument(value=value, place=Place(file=file, lines=reader.lines)))
            if len(documents) > DOCUMENTS_MAX:
                raise ConstructorError(None, None, f"more than {DOCUMENTS_MAX} documents", node.start_mark)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = f"is not YAML: {error.problem or error.context}"
        fix = "Check indentation, quotes and brackets around this line."
        problems.append(Problem(file=file, line=line, key="document", what=what, fix=fix))
    except yaml.YAMLError as error:
        what = f"is not YAML: {type(error).__name__}"
        problems.append(Problem(file=file, line=1, key="document", what=what, fix="Save the file as UTF-8 text."))
    return documents, problems
