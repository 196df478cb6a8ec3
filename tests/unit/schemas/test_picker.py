"""Picking fields out of Avro bytes: what decoding gives, without decoding."""

from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decoder import Damaged
from schemas.picker import compile_picker

INNER = {
    "type": "record",
    "name": "Inner",
    "namespace": "bus.system",
    "fields": [
        {"name": "names", "type": {"type": "array", "items": "string"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "namespace": "bus.system", "symbols": ["A", "B"]}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
    ],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Outer",
    "namespace": "bus.system",
    "fields": [
        {"name": "first", "type": "string"},
        {"name": "flag", "type": "boolean"},
        {"name": "texts", "type": {"type": "map", "values": "string"}},
        {"name": "numbers", "type": {"type": "map", "values": "long"}},
        {"name": "inner", "type": ["null", INNER]},
        {"name": "others", "type": {"type": "array", "items": "bus.system.Inner"}},
        {"name": "data", "type": "bytes"},
        {"name": "again", "type": ["null", "bus.system.Inner"]},
        {"name": "count", "type": "long"},
        {"name": "last", "type": ["null", "string"]},
    ],
}
WANTED = ["first", "flag", "inner.names", "inner.kind", "inner.at", "again.kind", "count", "last"]
LONG = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=3) | st.text(min_size=60, max_size=200)
INNERS = st.fixed_dictionaries(
    {"names": st.lists(TEXTS, max_size=3), "kind": st.sampled_from("AB"), "at": st.none() | st.integers(0, 2**50)}
)
RECORDS = st.fixed_dictionaries(
    {
        "first": TEXTS,
        "flag": st.booleans(),
        "texts": st.dictionaries(TEXTS, TEXTS, max_size=70),
        "numbers": st.dictionaries(TEXTS, LONG, max_size=3),
        "inner": st.none() | INNERS,
        "others": st.lists(INNERS, max_size=3),
        "data": st.binary(max_size=100),
        "again": st.none() | INNERS,
        "count": LONG,
        "last": st.none() | TEXTS,
    }
)
PARSED = fastavro.parse_schema(SCHEMA)
PICK = compile_picker(SCHEMA, WANTED)


def encoded(record: dict[str, Any]) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, PARSED, record)
    return out.getvalue()


def expected(record: dict[str, Any], path: str) -> Any:
    found: Any = record
    for part in path.split("."):
        found = found[part] if found is not None else None
    if path.endswith("kind") or found is None:
        return found
    if isinstance(found, list):
        return [item.encode() for item in found]
    return found.encode() if isinstance(found, str) else found


@given(RECORDS, st.binary(max_size=5))
@settings(deadline=None)
def test_picked_values_are_those_of_the_record(record: dict[str, Any], before: bytes) -> None:
    assert PICK(before + encoded(record), len(before)) == [expected(record, path) for path in WANTED]


@given(RECORDS, st.data())
@settings(deadline=None)
def test_a_record_cut_off_is_damaged_or_was_read_far_enough(record: dict[str, Any], data: st.DataObject) -> None:
    whole = encoded(record)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        found = PICK(cut, 0)
    except (Damaged, IndexError):
        return
    assert found == PICK(whole, 0)


def test_blocks_that_tell_their_size_are_read() -> None:
    schema = {
        "type": "record",
        "name": "Sized",
        "namespace": "bus.system",
        "fields": [
            {"name": "over", "type": {"type": "array", "items": "string"}},
            {"name": "names", "type": {"type": "array", "items": "string"}},
        ],
    }
    sized = bytes([3, 8, 2]) + b"a" + bytes([2]) + b"b" + b"\0"
    assert compile_picker(schema, ["names"])(sized + sized, 0) == [[b"a", b"b"]]


@pytest.mark.parametrize("path", ["nothing", "inner.nothing", "texts"])
def test_a_path_that_cannot_be_picked_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"schema|picked"):
        compile_picker(SCHEMA, [path])
