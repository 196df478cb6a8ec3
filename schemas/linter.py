"""What registries do not see: rules on the schemas themselves and on every step from an older version to a newer one.

Registries compare Avro types, not logical types: a decimal of another scale or a timestamp of another unit passes
FULL_TRANSITIVE and turns 12.34 into 0.1234. Each rule has a test that breaks it.
"""

from collections.abc import Iterator
from typing import Any

PLAIN = frozenset({"null", "string", "boolean", "int", "long", "bytes"})
ALL_PLAIN = PLAIN | {"float", "double"}
LOGICAL = {"decimal": "bytes", "timestamp-micros": "long", "date": "int"}


def check(name: str, schema: dict[str, Any]) -> list[str]:
    """Objections to one schema, each with the path and the fix. `name` is the file below `schemas/`, without its ending."""
    return [f"{name}: {line}" for line in _check_type(schema, "", is_pii=name.startswith("pii/"))]


def compare(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Objections to the step from an older version to a newer one. Registries may spell names short: both are spelt out first."""
    old, new = qualified(old), qualified(new)
    before, after = named(old), named(new)
    lines = [f"{full}: is gone: keep it" for full in sorted(before.keys() - after.keys())]
    if _full_name(old) != _full_name(new):
        lines.append(f"full name changed from {_full_name(old)} to {_full_name(new)}: a changed name is another type")
    for full in sorted(before.keys() & after.keys()):
        lines += _compare_named(full, before[full], after[full])
    return [f"{name}: {line}" for line in lines]


def qualified(schema: Any, namespace: str = "") -> Any:
    """The same schema with every name spelt out: a type without a namespace has that of the type around it."""
    if isinstance(schema, list):
        return [qualified(branch, namespace) for branch in schema]
    if isinstance(schema, str):
        return schema if schema in ALL_PLAIN or "." in schema or not namespace else f"{namespace}.{schema}"
    full = dict(schema)
    if schema["type"] in ("record", "enum"):
        space, _, name = schema["name"].rpartition(".")
        full |= {"name": name, "namespace": space or schema.get("namespace", namespace)}
    if "fields" in schema:
        full["fields"] = [{**field, "type": qualified(field["type"], full["namespace"])} for field in schema["fields"]]
    for part in ("items", "values"):
        if part in schema:
            full[part] = qualified(schema[part], namespace)
    return full


def named(schema: Any) -> dict[str, dict[str, Any]]:
    """All records and enums inside a schema, by full name."""
    return {_full_name(found): found for found in _walk(schema)}


def _walk(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for branch in schema:
            yield from _walk(branch)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            yield schema
        for field in schema.get("fields", ()):
            yield from _walk(field["type"])
        for part in ("items", "values"):
            yield from _walk(schema.get(part, "null"))


def _full_name(schema: dict[str, Any]) -> str:
    return f"{schema.get('namespace', '')}.{schema.get('name', '')}"


# --- one schema --------------------------------------------------------------------------------------------------------------


def _check_type(schema: Any, path: str, *, is_pii: bool) -> Iterator[str]:
    if isinstance(schema, list):
        if len(schema) != 2 or schema[0] != "null":
            yield f"{path}: a union is null and one type, null first: write ['null', T]"
        for branch in schema:
            yield from _check_type(branch, path, is_pii=is_pii)
    elif isinstance(schema, str):
        if schema not in PLAIN and "." not in schema:
            yield f"{path}: {schema} is not allowed (float and double least of all): use decimal, long, string or bytes"
    elif "logicalType" in schema:
        yield from _check_logical(schema, path)
    elif schema["type"] == "record":
        yield from _check_record(schema, is_pii=is_pii)
    elif schema["type"] == "enum":
        yield from _check_enum(schema)
    elif schema["type"] in ("array", "map"):
        yield from _check_type(schema["items" if schema["type"] == "array" else "values"], f"{path}[]", is_pii=is_pii)
    else:
        yield from _check_type(schema["type"], path, is_pii=is_pii)


def _check_logical(schema: dict[str, Any], path: str) -> Iterator[str]:
    logical = schema["logicalType"]
    if LOGICAL.get(logical) != schema["type"]:
        yield f"{path}: {logical} on {schema['type']}: only {', '.join(f'{kind} on {base}' for kind, base in LOGICAL.items())}"
    if logical == "decimal" and not 0 < schema.get("scale", 0) <= schema.get("precision", 0):
        yield f"{path}: a decimal states its precision and its scale"


def _check_record(schema: dict[str, Any], *, is_pii: bool) -> Iterator[str]:
    name = schema["name"]
    if "namespace" not in schema:
        yield f"{name}: state its namespace"
    if not schema.get("doc"):
        yield f"{name}: a record needs a doc"
    if "aliases" in schema:
        yield f"{name}: aliases are renames: add a new type instead"
    for field in schema["fields"]:
        path = f"{name}.{field['name']}"
        if not field.get("doc"):
            yield f"{path}: a field needs a doc"
        if "aliases" in field:
            yield f"{path}: aliases are renames: add a new field, fill both, retire the old one after 12 months"
        if "pii" in field and not is_pii:
            yield f"{path}: personal data stands only in schemas below pii/, sealed everywhere else"
        if isinstance(field["type"], list) and ("default" not in field or field["default"] is not None):
            yield f"{path}: an optional field has the default null"
        yield from _check_type(field["type"], path, is_pii=is_pii)


def _check_enum(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("default") != "UNKNOWN" or "UNKNOWN" not in schema["symbols"]:
        yield f"{schema['name']}: an enum has the symbol UNKNOWN as its default, so that older readers survive newer symbols"


# --- two versions ------------------------------------------------------------------------------------------------------------


def _compare_named(full: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["type"] != new["type"]:
        yield f"{full}: was a {old['type']}, is a {new['type']}"
    elif old["type"] == "enum":
        for symbol in old["symbols"]:
            if symbol not in new["symbols"]:
                yield f"{full}: symbol {symbol} is gone: old records hold it"
    else:
        yield from _compare_fields(full, old, new)


def _compare_fields(full: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    before = {field["name"]: field for field in old["fields"]}
    after = {field["name"]: field for field in new["fields"]}
    for name in before.keys() - after.keys():
        yield f"{full}.{name}: is gone: a rename or removal loses data silently; keep it and add a new one"
    for name in after.keys() - before.keys():
        if "default" not in after[name]:
            yield f"{full}.{name}: a new field needs a default: older records lack it"
    for name in sorted(before.keys() & after.keys()):
        yield from _compare_type(f"{full}.{name}", before[name]["type"], after[name]["type"])
        if before[name].get("default", "none") != after[name].get("default", "none"):
            yield f"{full}.{name}: the default changed: older records would change their meaning"
        if before[name].get("seals") != after[name].get("seals"):
            yield f"{full}.{name}: what it seals changed"


def _compare_type(path: str, old: Any, new: Any) -> Iterator[str]:
    shape_old, shape_new = _shape(old), _shape(new)
    if shape_old != shape_new:
        yield f"{path}: type changed from {shape_old} to {shape_new}: scale, precision, unit and kind stay for ever"


def _shape(schema: Any) -> str:
    """A type without what may change inside named types."""
    if isinstance(schema, list):
        return " or ".join(_shape(branch) for branch in schema)
    if isinstance(schema, str):
        return schema
    if logical := schema.get("logicalType"):
        return f"{logical}({schema['precision']},{schema['scale']})" if logical == "decimal" else str(logical)
    match schema["type"]:
        case "array":
            return f"array of {_shape(schema['items'])}"
        case "map":
            return f"map of {_shape(schema['values'])}"
        case "record" | "enum":
            return _full_name(schema)
    return str(schema["type"])
