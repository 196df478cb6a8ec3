"""Frozen records must read for ever, and nothing frozen may be contradicted by the present schemas."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest

from bus.runtime.codec import compile_builder
from schemas import files, generate, history, linter
from schemas.history.__main__ import main

FROZEN = [frozen for name in files.names() for frozen in history.versions(name)]


def reads(wanted: Any, found: Any) -> bool:
    """Whether everything wanted is found; a newer release may know more."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(name in found and reads(value, found[name]) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(reads, wanted, found))
    return bool(wanted == found)


def test_the_history_covers_every_schema() -> None:
    assert {frozen.name for frozen in FROZEN} == set(files.names())
    assert history.unfrozen() == [], "run: python -m schemas.history freeze"


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda frozen: f"{frozen.name}-v{frozen.version}")
def test_a_frozen_record_reads_for_ever(frozen: history.Frozen) -> None:
    schema = files.load(frozen.name)
    value = fastavro.schemaless_reader(
        BytesIO(frozen.record), fastavro.parse_schema(frozen.schema), fastavro.parse_schema(schema)
    )
    found = json.loads(msgspec.json.encode(compile_builder(schema)(value)))
    assert reads(frozen.reads_as, found)


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda frozen: f"{frozen.name}-v{frozen.version}")
def test_the_present_schema_follows_from_every_frozen_one(frozen: history.Frozen) -> None:
    assert linter.compare(frozen.name, frozen.schema, files.load(frozen.name)) == []


def test_reading_notices_a_lost_value() -> None:
    assert not reads({"a": [{"b": "1"}]}, {"a": [{"b": "2"}]})
    assert not reads({"a": 1}, {})


def test_freezing_adds_each_schema_once(tmp_path: Path) -> None:
    assert len(history.freeze(tmp_path)) == len(files.names())
    assert history.freeze(tmp_path) == []


def test_freezing_refuses_what_contradicts_the_past(tmp_path: Path) -> None:
    history.freeze(tmp_path)
    path = tmp_path / "system" / "cursor" / "v1.avsc"
    old = json.loads(path.read_text())
    old["fields"].append({"name": "gone", "type": ["null", "string"], "default": None, "doc": "was here once"})
    path.write_text(json.dumps(old))
    with pytest.raises(history.HistoryRefused, match="gone: is gone"):
        history.freeze(tmp_path)
    assert not (tmp_path / "system" / "cursor" / "v2.avsc").exists()


def test_a_new_version_is_numbered_on(tmp_path: Path) -> None:
    history.freeze(tmp_path)
    path = tmp_path / "system" / "cursor" / "v1.avsc"
    old = json.loads(path.read_text())
    old["doc"] = "Said otherwise."
    path.write_text(json.dumps(old))
    assert history.freeze(tmp_path) == ["system/cursor v2"]


def test_the_script_knows_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "freeze" in capsys.readouterr().err


def test_the_generated_models_are_fresh() -> None:
    for path, text in generate.generate().items():
        assert path.read_text() == text, f"{path.name} is stale: run python -m schemas.generate"


@pytest.mark.parametrize("name", files.names())
def test_schemas_parse(name: str) -> None:
    fastavro.parse_schema(files.load(name))
