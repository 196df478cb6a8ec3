"""Connections and tables by themselves."""

from pydantic import ValidationError

from bus.core.configuration import Connection, Table
from bus.core.configuration.difference import account_of
from bus.core.configuration.problems import closest
from bus.core.tables import duplicates
from bus.runtime.validation.systems import Checked, SecretCheck
from schemas.canon import TaxCategory, TaxScheme

TAX_KEY = ("tax_code",)
TAX_COLUMNS = ("category", "country", "rate_pct", "scheme")


def check_connections(checked: Checked, secrets: SecretCheck) -> None:
    """Systems exist, their `config` fits, secrets are there, one account has one connection."""
    seen: dict[bytes, str] = {}
    for connection in checked.configuration.connections.values():
        system = checked.systems.get(connection.system)
        if system is None:
            what = f"there is no connector {connection.system!r}"
            checked.add(connection, ("system",), what, closest(connection.system, checked.systems))
            continue
        _check_config(checked, connection)
        _check_streams(checked, connection)
        for name in secrets(connection.secret, system.manifest.secrets):
            what = f"secret {connection.secret!r} has no {name!r}"
            variable = f"BUS_SECRET_{connection.secret}_{name}".upper().replace("-", "_")
            checked.add(connection, ("secret",), what, f"Write it to the file {connection.secret}/{name}, or set {variable}.")
        account = account_of(connection)
        if account in seen:
            what = f"is the same account as {seen[account]!r}"
            checked.add(connection, ("name",), what, "Keep one connection per account: two would write everything twice.")
        seen.setdefault(account, connection.name)
        _check_source_tax(checked, connection)


def _check_config(checked: Checked, connection: Connection) -> None:
    model = checked.systems[connection.system].config
    try:
        model.model_validate(connection.config)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        for detail in error.errors(include_url=False, include_input=False):
            path = ("config", *detail["loc"])
            key = str(path[-1])
            if detail["type"] == "extra_forbidden":
                checked.add(connection, path, f"{key!r} is not a key of {connection.system}", closest(key, known))
            elif detail["type"] == "missing":
                checked.add(connection, path, "is missing", f"Add `{key}:`; see connectors/{connection.system}/README.md.")
            else:
                checked.add(connection, path, detail["msg"], f"See connectors/{connection.system}/README.md.")


def _check_streams(checked: Checked, connection: Connection) -> None:
    streams = checked.systems[connection.system].manifest.streams
    known = {stream.name for stream in streams} | {entity for stream in streams for entity in stream.entities}
    for name in connection.poll_s:
        if name not in known:
            what = f"{connection.system} has no stream or entity {name!r}"
            path = ("config", "poll_s", name)
            place = checked.loaded.places[connection.kind, connection.name]
            checked.add(connection, path if path in place.lines else ("poll_s", name), what, closest(name, known))


def _check_source_tax(checked: Checked, connection: Connection) -> None:
    if connection.source_tax is None:
        return
    table = checked.configuration.tables.get(connection.source_tax)
    if table is None:
        place = checked.loaded.places[connection.kind, connection.name]
        path = ("config", "source_tax") if ("config", "source_tax") in place.lines else ("source_tax",)
        what = f"there is no table {connection.source_tax!r}"
        checked.add(connection, path, what, closest(connection.source_tax, checked.configuration.tables))
        return
    if table.key != TAX_KEY:
        checked.add(table, ("key",), f"a table of source taxes is found by {TAX_KEY[0]} alone", f"Write key: [{TAX_KEY[0]}].")
        return
    enums = {"category": {str(item) for item in TaxCategory}, "scheme": {str(item) for item in TaxScheme}}
    for index, row in enumerate(table.rows):
        for column in row.keys() - {*TAX_KEY, *TAX_COLUMNS}:
            fix = closest(column, TAX_COLUMNS)
            checked.add(table, ("rows", index, column), f"{column!r} is no column of a table of source taxes", fix)
        if "category" not in row:
            fix = "Add the VAT category: S, Z, E, AE, K, G, O, L, M or B."
            checked.add(table, ("rows", index), "a row has no category", fix)
        for column, members in enums.items():
            cell = row.get(column)
            if cell is not None and (cell not in members or cell == "UNKNOWN"):
                fix = closest(str(cell), members - {"UNKNOWN"})
                checked.add(table, ("rows", index, column), f"{cell!r} is no {column}", fix)


def check_tables(checked: Checked) -> None:
    """Every row has its key, no key twice; a table that nothing uses is a warning."""
    used = {connection.source_tax for connection in checked.configuration.connections.values()}
    used |= {rule.table for flow in checked.configuration.flows.values() for rule in flow.set.values()}
    for table in checked.configuration.tables.values():
        for index, row in enumerate(table.rows):
            for column in table.key:
                if column not in row:
                    near = closest(column, row.keys() - set(table.key)) if row.keys() - set(table.key) else ""
                    fix = f"Add `{column}:`; '*' matches anything, '' an empty field. {near}".strip()
                    checked.add(table, ("rows", index), f"a row has no {column!r}, which is part of the key", fix)
        for first, again in duplicates(table):
            line = _line(checked, table, first)
            checked.add(table, ("rows", again), f"the key is the same as on line {line}", "Remove one of the two rows.")
        if table.name not in used:
            checked.warn(table, ("name",), f"nothing uses table {table.name!r}", "Name it in a flow, or remove it.")


def _line(checked: Checked, table: Table, row: int) -> int:
    return checked.loaded.places[table.kind, table.name].line(("rows", row))
