"""From files to models, every problem collected; the fix of an unknown key is the closest known one."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from bus.core.configuration.documents import BUS_KEYS, MODELS, Configuration, Document
from bus.core.configuration.problems import ConfigurationRefused, Problem, closest
from bus.core.configuration.source import Path as KeyPath
from bus.core.configuration.source import Place, RawDocument, read_documents

FILES_MAX = 500


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration with the place of each document, and what was already found wrong."""

    configuration: Configuration
    places: Mapping[tuple[str, str], Place]
    """By kind and name."""
    problems: tuple[Problem, ...]

    def problem(self, document: Document, path: KeyPath, what: str, fix: str) -> Problem:
        """A problem at a key of a document."""
        return self.places[document.kind, document.name].problem(path, what, fix)

    def accepted(self) -> Configuration:
        """The configuration; raises `ConfigurationRefused` when anything is wrong."""
        if self.problems:
            raise ConfigurationRefused(self.problems)
        return self.configuration


def load(path: Path) -> Loaded:
    """Reads a file, or all `*.yaml` and `*.yml` below a folder, in the order of their names."""
    if not path.exists():
        problem = Problem(file=str(path), line=1, key="document", what="does not exist", fix="Check the path given to -f.")
        return Loaded(configuration=Configuration(), places={}, problems=(problem,))
    files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml")) if path.is_dir() else [path]
    if not files or len(files) > FILES_MAX:
        what = "holds no *.yaml file" if not files else f"holds more than {FILES_MAX} files"
        problem = Problem(file=str(path), line=1, key="document", what=what, fix="Check the path given to -f.")
        return Loaded(configuration=Configuration(), places={}, problems=(problem,))
    raw: list[RawDocument] = []
    problems: list[Problem] = []
    for file in files:
        try:
            found, wrong = read_documents(file.read_text("utf-8"), str(file))
        except UnicodeDecodeError:
            what = "is not UTF-8 text"
            found, wrong = [], [Problem(file=str(file), line=1, key="document", what=what, fix="Save it as UTF-8.")]
        raw += found
        problems += wrong
    return _model(raw, problems)


def parse(text: str, file: str = "configuration.yaml") -> Loaded:
    """Like `load`, from a text."""
    return _model(*read_documents(text, file))


def _model(raw: list[RawDocument], problems: list[Problem]) -> Loaded:
    documents: list[Document] = []
    places: dict[tuple[str, str], Place] = {}
    for item in raw:
        kind = item.value.get("kind")
        model = MODELS.get(kind) if isinstance(kind, str) else None
        if model is None:
            what = "is missing" if kind is None else f"{kind!r} is unknown"
            problems.append(item.place.problem(("kind",), what, closest(str(kind), MODELS)))
            continue
        try:
            document = model.model_validate(item.value)
        except ValidationError as error:
            known = {(problem.file, problem.line) for problem in problems}
            wrong = [_problem(item, model, detail) for detail in error.errors(include_url=False)]
            problems += [problem for problem in wrong if (problem.file, problem.line) not in known]
            continue
        if (earlier := places.get((document.kind, document.name))) is not None:
            what = f"{document.kind} {document.name!r} is already in {earlier.file}:{earlier.line(('name',))}"
            problems.append(item.place.problem(("name",), what, "Rename or remove one."))
            continue
        places[document.kind, document.name] = item.place
        documents.append(document)
    return Loaded(configuration=Configuration.of(documents), places=places, problems=tuple(sorted(problems)))


def _problem(item: RawDocument, model: type[BaseModel], detail: Any) -> Problem:
    path: KeyPath = tuple(detail["loc"])
    if path[:1] and path[0] in BUS_KEYS and path not in item.place.lines:
        path = ("config", *path)
    while path and path not in item.place.lines and detail["type"] != "missing":
        path = path[:-1]  # what a short form or a union adds is not in the file
    key, context = path[-1] if path else "document", detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return item.place.problem(path, f"{key!r} is not a key here", closest(str(key), _keys(model, path[:-1])))
        case "missing":
            return item.place.problem(path, "is missing", _MISSING.get(str(key), f"Add `{key}:`."))
        case "literal_error":
            options = [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")]
            return item.place.problem(path, f"{detail['input']!r} is not allowed", closest(str(detail["input"]), options))
        case "string_pattern_mismatch":
            fix = "Use lower-case letters, digits and `-`." if context["pattern"] != r"^[a-z][a-z0-9_]*$" else "Use a system id."
            return item.place.problem(path, f"{detail['input']!r} is not a name", fix)
        case "value_error":
            what, _, fix = str(context["error"]).partition(": ")
            return item.place.problem(path, what, f"{fix[:1].upper()}{fix[1:]}." if fix else "Mend it.")
    kind = type(detail["input"]).__name__
    return item.place.problem(path, f"{detail['msg'].lower()} (it is a {kind})", _HINTS.get(detail["type"], "Write it so."))


_MISSING = {
    "start": "Add `start:` — a day, now or beginning for documents; {existing: send} or {existing: link} for the others. "
    "It has no default, because connecting an account must not book its old documents again.",
    "write": "Add `write: create` (exists → skip and link) or `write: upsert`.",
    "tenant": "Add `tenant:`, the company this account belongs to.",
}
_HINTS = {
    "string_type": "Put it in quotes.",
    "int_parsing": "Write a whole number.",
    "tuple_type": "Write a list: [a, b].",
    "dict_type": "Write `key: value` pairs.",
    "model_type": "Write `key: value` pairs.",
    "model_attributes_type": "Write `key: value` pairs.",
    "too_short": "Give at least one.",
}


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Keys known at a place of a model, as written in files."""
    current: Any = model
    for part in path:
        current = _below(current, part)
        if current is None:
            return []
    keys = [field.alias or name for name, field in current.model_fields.items()]
    return keys if current is not MODELS["Connection"] else [*keys, *BUS_KEYS]


def _below(model: type[BaseModel], part: str | int) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            return _model_in(field.annotation)
    return model if isinstance(part, int) or not model.model_fields.keys() & {part} else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
