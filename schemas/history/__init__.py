"""Frozen history: every released version of every schema with one event written under it, kept for ever.

`python -m schemas.history freeze` adds what is new. A frozen file is never edited: records on topics were written under it.
Beside `v1.avsc` stand `v1.hex` (one record in Avro binary) and `v1.json` (what it must read as, whatever the release).
"""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas import files, linter
from schemas.encoder import compile_encoder, model_of

HERE = Path(__file__).parent


class Frozen(NamedTuple):
    """One released version."""

    name: str
    version: int
    schema: dict[str, Any]
    record: bytes
    reads_as: dict[str, Any]


class HistoryRefused(Exception):
    """A schema changed in a way that older records would not survive."""


def versions(name: str, home: Path = HERE) -> list[Frozen]:
    """The frozen versions of a schema, oldest first."""
    found = []
    number = 1
    while (path := home / name / f"v{number}.avsc").exists():
        record = bytes.fromhex(path.with_suffix(".hex").read_text())
        reads_as = json.loads(path.with_suffix(".json").read_text())
        found.append(Frozen(name, number, json.loads(path.read_text()), record, reads_as))
        number += 1
    return found


def unfrozen(home: Path = HERE) -> list[str]:
    """Schemas whose present form is not the newest frozen one."""
    return [name for name in files.names() if not (old := versions(name, home)) or old[-1].schema != files.load(name)]


def freeze(home: Path = HERE) -> list[str]:
    """Adds a version for every schema that changed; returns what was added. Raises HistoryRefused and adds nothing."""
    changed = unfrozen(home)
    objections = [line for name in changed for line in _objections(name, home)]
    if objections:
        raise HistoryRefused("\n".join(objections))
    added = []
    for name in changed:
        number = len(versions(name, home)) + 1
        path = home / name / f"v{number}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = files.load(name)
        value = sample(schema)
        out = bytearray()
        compile_encoder(schema)(value, out)
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
        path.with_suffix(".hex").write_text(_lines(out.hex()))
        path.with_suffix(".json").write_text(
            json.dumps(json.loads(msgspec.json.encode(value)), indent=2, ensure_ascii=False) + "\n"
        )
        added.append(f"{name} v{number}")
    return added


def _objections(name: str, home: Path) -> list[str]:
    schema = files.load(name)
    lines = linter.check(name, schema)
    for old in versions(name, home):
        lines += [f"{line} (against v{old.version})" for line in linter.compare(name, old.schema, schema)]
    return lines


def _lines(text: str) -> str:
    return "\n".join(text[start : start + 128] for start in range(0, len(text), 128)) + "\n"


def sample(schema: Any, known: dict[str, Any] | None = None, name: str = "value") -> Any:
    """A value of a type with every field filled, the same at every call: the last enum symbol, one item per list and map."""
    types = {} if known is None else known
    if isinstance(schema, list):
        return sample(schema[1], types, name)
    if isinstance(schema, str):
        return types[schema] if schema in types else _simple(schema, name)
    if logical := schema.get("logicalType"):
        return _logical(logical, schema)
    match schema["type"]:
        case "array":
            return [sample(schema["items"], types, name)]
        case "map":
            return {"käy": sample(schema["values"], types, name)}
        case "enum":
            full = f"{schema['namespace']}.{schema['name']}"
            types[full] = model_of(full)(schema["symbols"][-1])
            return types[full]
        case "record":
            full = f"{schema['namespace']}.{schema['name']}"
            members = {field["name"]: sample(field["type"], types, field["name"]) for field in schema["fields"]}
            types[full] = model_of(full)(**members)
            return types[full]
    return _simple(schema["type"], name)


def _simple(kind: str, name: str) -> Any:
    match kind:
        case "string":
            return f"{name} Ångström €"
        case "boolean":
            return True
        case "int":
            return -64
        case "long":
            return 1_795_233_600_123_456
        case "bytes":
            return bytes(range(250, 256))
    raise ValueError(f"no sample of {kind}")


def _logical(logical: str, schema: dict[str, Any]) -> Any:
    match logical:
        case "decimal":
            return Decimal(-129).scaleb(-schema["scale"])
        case "date":
            return date(2026, 11, 21)
        case "timestamp-micros":
            return datetime(2026, 11, 21, 9, 30, 15, 123456, tzinfo=UTC)
    raise ValueError(f"no sample of {logical}")
