"""The compiled encoder writes what fastavro writes (and the sizes of maps), and refuses what the schema cannot hold by name."""

import contextlib
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any
from zoneinfo import ZoneInfo

import fastavro
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.runtime.codec import compile_builder
from schemas import canon, files, history, system
from schemas.decoder import Damaged, compile_decoder
from schemas.encoder import Refused, compile_encoder, model_of

NAMES = [name for name in files.names() if not name.startswith("pii/")]


def values(schema: Any, known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A strategy for the Structs of a schema."""
    if isinstance(schema, list):
        return st.none() | values(schema[1], known)
    if isinstance(schema, str):
        return known[schema] if schema in known else simple(schema)
    if logical := schema.get("logicalType"):
        return logical_values(logical, schema)
    match schema["type"]:
        case "array":
            return st.lists(values(schema["items"], known), max_size=2)
        case "map":
            return st.dictionaries(st.text(max_size=4), values(schema["values"], known), max_size=2)
        case "enum":
            full = f"{schema['namespace']}.{schema['name']}"
            known[full] = st.sampled_from(list(model_of(full)))
            return known[full]
        case "record":
            full = f"{schema['namespace']}.{schema['name']}"
            parts = {field["name"]: values(field["type"], known) for field in schema["fields"]}
            known[full] = st.builds(model_of(full), **parts)
            return known[full]
    return simple(schema["type"])


def simple(kind: str) -> st.SearchStrategy[Any]:
    match kind:
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        case "boolean":
            return st.booleans()
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return st.integers(-(2**63), 2**63 - 1)
    return st.binary(max_size=8)


def logical_values(logical: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match logical:
        case "decimal":
            bound = 10 ** schema["precision"] - 1
            return st.integers(-bound, bound).map(lambda number: Decimal(number).scaleb(-schema["scale"]))
        case "date":
            return st.dates(date(1900, 1, 1), date(2200, 1, 1))
    return st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def plain(value: Any) -> Any:
    """The dicts fastavro wants."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return str(value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_bytes_equal_fastavro_and_read_back(name: str, data: st.DataObject) -> None:
    schema = files.load(name)
    value = data.draw(values(schema, {}))
    out = bytearray()
    compile_encoder(schema)(value, out)
    parsed = fastavro.parse_schema(schema)
    wanted, again = BytesIO(), BytesIO()
    fastavro.schemaless_writer(wanted, parsed, plain(value))
    fastavro.schemaless_writer(again, parsed, fastavro.schemaless_reader(BytesIO(bytes(out)), parsed))
    assert again.getvalue() == wanted.getvalue()
    if '"map"' not in json.dumps(schema):
        assert bytes(out) == wanted.getvalue()
    assert compile_decoder(schema)(bytes(out), 0) == value
    assert compile_builder(schema)(fastavro.schemaless_reader(BytesIO(bytes(out)), parsed)) == value


@pytest.mark.parametrize("name", NAMES)
def test_a_record_with_every_field_reads_back(name: str) -> None:
    schema = files.load(name)
    value, out = history.sample(schema), bytearray()
    compile_encoder(schema)(value, out)
    assert compile_decoder(schema)(bytes(out), 0) == value
    assert compile_builder(schema)(fastavro.schemaless_reader(BytesIO(bytes(out)), fastavro.parse_schema(schema))) == value


def refusal(value: msgspec.Struct, name: str) -> str:
    with pytest.raises(Refused) as caught:
        compile_encoder(files.load(name))(value, bytearray())
    return str(caught.value)


def order(**members: Any) -> canon.SalesOrderEvent:
    sample = history.sample(files.load("canon/sales_order"))
    return msgspec.structs.replace(sample, after=msgspec.structs.replace(sample.after, **members))


def line(**members: Any) -> canon.Line:
    return canon.Line(**{"line_id": "1", "line_no": 1, "quantity": Decimal(1)} | members)


@pytest.mark.parametrize(
    ("members", "path", "why"),
    [
        ({"lines": [line(), line(quantity=1.5)]}, "after.lines[1].quantity", "never a float"),
        ({"lines": [line(quantity=1)]}, "after.lines[0].quantity", "needs a Decimal"),
        ({"lines": [line(line_excl=Decimal("0.12345"))]}, "after.lines[0].line_excl", "more than 4 decimals"),
        ({"lines": [line(line_excl=Decimal(10**14))]}, "after.lines[0].line_excl", "more than 14 digits"),
        ({"lines": [line(line_excl=Decimal("NaN"))]}, "after.lines[0].line_excl", "finite"),
        ({"lines": [line(line_excl=Decimal("Infinity"))]}, "after.lines[0].line_excl", "finite"),
        ({"lines": [line(line_excl=Decimal("1e-70"))]}, "after.lines[0].line_excl", "decimals"),
        ({"lines": [line(line_excl=Decimal("1234567890." + "1" * 70))]}, "after.lines[0].line_excl", "decimals"),
        ({"lines": [line(line_type="NOPE")]}, "after.lines[0].line_type", "no member of LineType"),
        ({"lines": [line(line_no=2**31)]}, "after.lines[0].line_no", "int of 32 bits"),
        ({"lines": [line(line_no=True)]}, "after.lines[0].line_no", "int of 32 bits"),
        ({"lines": [line(line_id=None)]}, "after.lines[0].line_id", "needs text"),
        ({"lines": [line(name="\ud800")]}, "after.lines[0].name", "surrogate"),
        ({"lines": None}, "after.lines", "needs a list"),
        ({"ordered_at": datetime(2026, 11, 21)}, "after.ordered_at", "time zone"),
        ({"order_date": datetime(2026, 11, 21, tzinfo=UTC)}, "after.order_date", "needs a day"),
        ({"custom_fields": {"a": canon.CustomValue(flag=1)}}, "after.custom_fields['a'].flag", "true or false"),  # type: ignore[arg-type]
        ({"custom_fields": [1]}, "after.custom_fields", "needs a mapping"),
        ({"note": canon.NotePii(text="hello")}, "after.note", "must be sealed first"),
        ({"customer": canon.Party(pii=canon.PartyPii(full_name="Jan"))}, "after.customer.pii", "must be sealed first"),
        ({"customer": canon.Ref(id="1")}, "after.customer", "needs a Party, got Ref"),
    ],
)
def test_what_does_not_fit_is_refused_by_path(members: dict[str, Any], path: str, why: str) -> None:
    text = refusal(order(**members), "canon/sales_order")
    assert text.startswith(f"{path}: ")
    assert why in text


def test_a_refusal_never_shows_the_value() -> None:
    assert "Jan" not in refusal(order(customer=canon.Party(pii=canon.PartyPii(full_name="Jan"))), "canon/sales_order")


def test_integers_of_every_size_equal_fastavro() -> None:
    schema = files.load("system/state")
    for number in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8192, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]:
        value = system.StateRecord(connection="a", offset=system.OffsetRecord(offset=number))
        out, wanted = bytearray(), BytesIO()
        compile_encoder(schema)(value, out)
        fastavro.schemaless_writer(wanted, fastavro.parse_schema(schema), plain(value))
        assert bytes(out) == wanted.getvalue()
    assert compile_decoder(schema)(bytes(out), 0) == value


def test_instants_keep_their_microseconds_in_any_zone() -> None:
    schema = files.load("system/config")
    moment = datetime(2026, 10, 25, 2, 30, 0, 1, tzinfo=ZoneInfo("Europe/Amsterdam"), fold=1)
    record = system.ConfigRecord(kind=system.ConfigKind.FLOW, name="a", version=1, made_at=moment)
    out = bytearray()
    compile_encoder(schema)(record, out)
    found = fastavro.schemaless_reader(BytesIO(bytes(out)), fastavro.parse_schema(schema))
    assert found["made_at"] == moment.astimezone(UTC)
    assert found["made_at"].utcoffset() == timedelta(0)


def test_unions_other_than_null_first_are_no_schema_of_ours() -> None:
    with pytest.raises(ValueError, match="null first"):
        compile_encoder(
            {"type": "record", "name": "Ref", "namespace": "bus.canon", "fields": [{"name": "id", "type": ["string", "null"]}]}
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_or_lengthened_record_is_never_read(name: str) -> None:
    schema = files.load(name)
    out = bytearray()
    compile_encoder(schema)(history.sample(schema), out)
    decode = compile_decoder(schema)
    for end in range(len(out)):
        with pytest.raises((Damaged, IndexError, UnicodeDecodeError)):
            decode(bytes(out[:end]), 0)
    with pytest.raises(Damaged, match="behind the record"):
        decode(bytes(out) + b"\0", 0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60))
def test_noise_is_refused_by_known_errors_only(data: bytes) -> None:
    decode = compile_decoder(files.load("system/state"))
    with contextlib.suppress(ValueError, IndexError, OverflowError):
        decode(data, 0)


def test_lists_in_several_blocks_and_with_sizes_are_read() -> None:
    schema = files.load("system/cursor")
    schema = {**schema, "fields": [field for field in schema["fields"] if field["name"] in ("connection", "stream", "budgets")]}
    blocks = b"\x02a\x02b" + b"\x02\x02x\x04" + b"\x01\x06\x02y\x06" + b"\x00"
    found = compile_decoder(schema)(blocks, 0)
    assert found == system.CursorRecord(connection="a", stream="b", budgets={"x": 2, "y": 3})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff" * 12, "64 bits"),
        (b"\x03a", "length beyond"),
        (b"\x02a\x01", "no branch"),
    ],
)
def test_damage_is_named(data: bytes, says: str) -> None:
    fields = [
        {"name": "connection", "type": "string"},
        {"name": "offset", "type": ["null", "long"], "default": None},
    ]
    schema = {"type": "record", "name": "StateRecord", "namespace": "bus.system", "fields": fields}
    with pytest.raises(Damaged, match=says):
        compile_decoder(schema)(data, 0)
