"""Each rule is broken once and must be told; the checked-in schemas break none."""

import copy
from typing import Any

import pytest

from schemas import files, linter


def record(**field: Any) -> dict[str, Any]:
    member = {"name": "amount", "type": "long", "doc": "an amount", **field}
    return {"type": "record", "name": "Thing", "namespace": "bus.canon", "doc": "A thing.", "fields": [member]}


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 4}
ENUM = {
    "type": "enum",
    "name": "Kind",
    "namespace": "bus.canon",
    "doc": "Kinds.",
    "symbols": ["UNKNOWN", "A", "B"],
    "default": "UNKNOWN",
}


@pytest.mark.parametrize("name", files.names())
def test_checked_in_schemas_pass(name: str) -> None:
    assert linter.check(name, files.load(name)) == []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (record(type="double"), "double is not allowed"),
        (record(type="float"), "float is not allowed"),
        (record(doc=""), "needs a doc"),
        (record(type=["long", "null"], default=0), "null first"),
        (record(type=["null", "long", "string"], default=None), "null first"),
        (record(type=["null", "long"]), "default null"),
        (record(pii=True), "only in schemas below pii/"),
        (record(aliases=["total"]), "aliases are renames"),
        (record(type={**DECIMAL, "scale": 20}), "states its precision"),
        (record(type={"type": "long", "logicalType": "timestamp-millis"}), "timestamp-millis on long"),
        (record(type={"type": "string", "logicalType": "decimal", "precision": 4, "scale": 2}), "decimal on string"),
        (record(type={**ENUM, "default": "A"}), "UNKNOWN as its default"),
        (record(type={key: value for key, value in ENUM.items() if key != "default"}), "UNKNOWN as its default"),
        ({**record(), "doc": ""}, "a record needs a doc"),
        ({**record(), "aliases": ["Old"]}, "aliases are renames"),
        ({key: value for key, value in record().items() if key != "namespace"}, "state its namespace"),
        (record(type={"type": "array", "items": "double"}), "double is not allowed"),
    ],
)
def test_a_broken_schema_is_told(schema: dict[str, Any], says: str) -> None:
    lines = linter.check("canon/thing", schema)
    assert any(says in line for line in lines), lines


def test_pii_marks_are_welcome_below_pii() -> None:
    assert linter.check("pii/thing", record(pii=True)) == []


def changed(field: dict[str, Any], **change: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    old = record(**field)
    new = copy.deepcopy(old)
    new["fields"][0] |= change
    return old, new


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ({"type": DECIMAL}, {"type": {**DECIMAL, "scale": 2}}, "decimal(18,4) to decimal(18,2)"),
        ({"type": DECIMAL}, {"type": {**DECIMAL, "precision": 20}}, "decimal(18,4) to decimal(20,4)"),
        ({"type": ["null", DECIMAL], "default": None}, {"type": ["null", {**DECIMAL, "scale": 5}]}, "decimal(18,5)"),
        (
            {"type": {"type": "array", "items": DECIMAL}},
            {"type": {"type": "array", "items": {**DECIMAL, "scale": 5}}},
            "decimal(18,5)",
        ),
        (
            {"type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"type": {"type": "long", "logicalType": "timestamp-millis"}},
            "timestamp-micros to timestamp-millis",
        ),
        ({"type": "long"}, {"type": {"type": "long", "logicalType": "timestamp-micros"}}, "long to timestamp-micros"),
        ({"type": "long"}, {"type": "string"}, "long to string"),
        ({"type": "string"}, {"type": ["null", "string"], "default": None}, "type changed"),
        ({"type": "long", "default": 0}, {"default": 1}, "default changed"),
        ({"type": "long"}, {"name": "total"}, "amount: is gone"),
        ({"type": ENUM}, {"type": {**ENUM, "symbols": ["UNKNOWN", "A"]}}, "symbol B is gone"),
        ({"type": "bytes", "seals": "bus.canon.PartyPii"}, {"seals": "bus.canon.NotePii"}, "seals changed"),
    ],
)
def test_a_step_that_loses_meaning_is_told(field: dict[str, Any], change: dict[str, Any], says: str) -> None:
    lines = linter.compare("canon/thing", *changed(field, **change))
    assert any(says in line for line in lines), lines


def test_a_new_field_needs_a_default() -> None:
    old, new = record(), record()
    new["fields"].append({"name": "extra", "type": "long", "doc": "new"})
    assert "needs a default" in linter.compare("canon/thing", old, new)[0]


def test_the_normal_ways_to_grow_pass() -> None:
    old = record(type=ENUM)
    new = record(type={**ENUM, "symbols": [*ENUM["symbols"], "C"]})
    new["fields"].append({"name": "extra", "type": ["null", "string"], "default": None, "doc": "new"})
    new["fields"][0]["doc"] = "said better"
    assert linter.compare("canon/thing", old, new) == []


def test_a_changed_full_name_and_a_lost_type_are_told() -> None:
    old, new = record(), {**record(), "name": "Other"}
    lines = linter.compare("canon/thing", old, new)
    assert any("full name changed" in line for line in lines)
    assert any("bus.canon.Thing: is gone" in line for line in lines)


def short(schema: Any, around: str = "") -> Any:
    """The schema as some registries give it back: names without the namespace of the type around them."""
    if isinstance(schema, list):
        return [short(branch, around) for branch in schema]
    if isinstance(schema, str):
        return schema.removeprefix(f"{around}.") if around else schema
    brief = dict(schema)
    inner = schema.get("namespace", around)
    if schema.get("namespace") == around:
        del brief["namespace"]
    if "fields" in schema:
        brief["fields"] = [{**field, "type": short(field["type"], inner)} for field in schema["fields"]]
    return brief | {part: short(schema[part], around) for part in ("items", "values") if part in schema}


@pytest.mark.parametrize("name", files.names())
def test_names_spelt_short_by_a_registry_are_the_same_names(name: str) -> None:
    schema = files.load(name)
    assert linter.compare(name, short(schema), schema) == []
    assert linter.qualified(short(schema)) == schema
