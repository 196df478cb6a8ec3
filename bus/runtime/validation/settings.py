"""`set`, `defaults`, `create_only` and `owner` of a flow: every name has a place at the target, every table can answer."""

from collections.abc import Mapping

import msgspec

from bus.core.configuration import Flow, SetRule, Table
from bus.core.configuration.columns import Level, column_paths
from bus.core.configuration.fields import ITEM, PERSONAL, UnknownField, is_filled
from bus.core.configuration.problems import closest
from bus.core.configuration.source import Path
from bus.core.tables import VALUE
from bus.core.topics import DOCUMENTS
from bus.kit.manifest import Writes
from bus.runtime.validation.expressions import Scope, check_expression, reason_of
from bus.runtime.validation.systems import Checked, Ends

CUSTOMER_DEFAULT = "customer"
PERSONAL_PATHS = frozenset(
    {"full_name", "given_name", "middle_name", "family_name", "email", "emails", "phone", "phones", "address"}
)
"""Paths of personal data that ownership and `create_only` may name: sinks see them, expressions do not."""


def level_of(name: str, writes: Writes) -> Level:
    """Whether a value is set per line or per document."""
    return "line" if name in writes.line_values else "header"


def has_place(name: str, writes: Writes) -> bool:
    """Whether the target takes a value of this name."""
    head = name.split(".", 1)[0]
    return name in (*writes.fields, *writes.header_values, *writes.line_values) or head in writes.fields


def check_settings(checked: Checked, ends: Ends) -> None:
    """All names and rules of a flow that add values."""
    flow, writes = ends.flow, ends.writes
    columns = value_columns(checked, flow, writes)
    for name, rule in flow.set.items():
        path: Path = ("set", name)
        if _check_name(checked, ends, path, name):
            _check_rule(checked, ends, Entry(path=path, name=name, rule=rule, level=level_of(name, writes)), columns)
    for name in flow.defaults:
        if name == CUSTOMER_DEFAULT and flow.is_document:
            continue
        _check_name(checked, ends, ("defaults", name), name)
    for name in writes.required_values:
        if name not in flow.set and name not in flow.defaults:
            what = f"{ends.target.system} needs {name!r} on every {flow.to.entity}, and nothing sets it"
            fix = f"Add {name}: {{table: …}} or {name}: \"'…'\" under set."
            checked.add(flow, ("set",), what, fix)
    for index, name in enumerate(flow.create_only):
        _check_owned(checked, ends, ("create_only", index), name)
    for name in flow.owner:
        if name != "*":
            _check_owned(checked, ends, ("owner", name), name)


def value_columns(checked: Checked, flow: Flow, writes: Writes) -> Mapping[str, frozenset[str]]:
    """Names under `value`, each with its table's columns. Values of lines are not there: a document has many."""
    tables = checked.configuration.tables
    return {
        name: tables[rule.table].columns if rule.table is not None and rule.table in tables else frozenset()
        for name, rule in flow.set.items()
        if level_of(name, writes) == "header" or flow.to.entity not in DOCUMENTS
    }


def _check_name(checked: Checked, ends: Ends, path: Path, name: str) -> bool:
    head = name.split(".", 1)[0]
    if head in PERSONAL:
        checked.add(ends.flow, path, f"{name} is personal data, which a flow cannot set", "It comes from the source as it is.")
        return False
    if has_place(name, ends.writes):
        return True
    entity = ends.flow.to.entity
    known = [*ends.writes.header_values, *ends.writes.line_values, *ends.writes.fields]
    fix = reason_of(ends.target_facts.cannot, entity, name) or closest(name, known)
    checked.add(ends.flow, path, f"{name!r} has no place on a {entity} of {ends.target.system}", fix)
    return False


def _check_owned(checked: Checked, ends: Ends, path: Path, name: str) -> None:
    head = name.split(".", 1)[0]
    if head in PERSONAL_PATHS or has_place(name, ends.writes):
        return
    known = [*ends.writes.fields, *PERSONAL_PATHS]
    what = f"{name!r} is no field of a {ends.flow.to.entity} that {ends.target.system} holds"
    checked.add(ends.flow, path, what, closest(name, known))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `set`."""

    path: Path
    name: str
    rule: SetRule
    level: Level


def _check_rule(checked: Checked, ends: Ends, entry: Entry, columns: Mapping[str, frozenset[str]]) -> None:
    rule, path = entry.rule, entry.path
    scope = Scope(values={key: value for key, value in columns.items() if key != entry.name}, lines=entry.level == "line")
    if rule.expression is not None:
        check_expression(checked, ends, (*path, "expression"), rule.expression, scope)
    if rule.table is None:
        return
    table = checked.configuration.tables.get(rule.table)
    if table is None:
        what = f"there is no table {rule.table!r}"
        checked.add(ends.flow, (*path, "table"), what, closest(rule.table, checked.configuration.tables))
        return
    _check_values(checked, table)
    for column in table.key:
        if column not in rule.by:
            _check_column(checked, ends, entry, table.name, column)
    for column, text in rule.by.items():
        if column not in table.key:
            checked.add(ends.flow, (*path, "by", column), f"{column!r} is no key of {table.name}", closest(column, table.key))
        check_expression(checked, ends, (*path, "by", column), text, scope)


def _check_values(checked: Checked, table: Table) -> None:
    for index, row in enumerate(table.rows):
        if VALUE not in row:
            others = row.keys() - set(table.key)
            fix = f"Add `{VALUE}:`. {closest(VALUE, others) if others else ''}".strip()
            checked.add(table, ("rows", index), f"a row has no `{VALUE}`", fix)


def _check_column(checked: Checked, ends: Ends, entry: Entry, table: str, column: str) -> None:
    path = (*entry.path, "table")
    try:
        paths = column_paths(ends.flow.from_.entity, entry.level, entry.name, column)
    except UnknownField as error:
        checked.add(ends.flow, path, f"{error} of table {table}", error.fix)
        return
    for used in paths:
        is_tax = "taxes" in used
        if (is_tax and ends.source.source_tax) or is_filled(used, ends.reads.fields, ends.reads.line_fields):
            continue
        where = ".".join(part for part in used if part != ITEM)
        what = f"{ends.source.system} never fills {where}, which answers the key column {column!r} of {table}"
        fix = "Give the source connection a source_tax table." if is_tax else "Use another key column, or `by`."
        checked.add(ends.flow, path, what, fix)
