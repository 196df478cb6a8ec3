"""What a flow adds to a record: each value with the rule that gave it (law 2), a missing row stops the record (law 16)."""

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.configuration.columns import header_value, is_line_column, line_value
from bus.core.errors import MappingError
from bus.core.expressions import Expression, Scalar, SourceView, TableValue, show, values
from bus.core.identity import Entity
from bus.core.tables import VALUE, Row
from schemas import canon
from schemas.canon import LineType, TaxLine
from schemas.system import Cause, Resolved, ValueKind
from services.processors.routes import Route, Setting
from services.processors.taxes import Document, places


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record on its way through one flow."""

    entity: Entity
    kind: str
    """Entity name, such as `sales_order`."""
    source: SourceView

    def names(self, **more: Any) -> dict[str, Any]:
        """What expressions see."""
        return {"source": self.source, "document": self.source, **more}


def resolve(route: Route, record: Record) -> list[Resolved]:
    """All values of a flow for a record. Raises MappingError."""
    found: list[Resolved] = []
    known: dict[str, Any] = {}
    for setting in route.settings:
        if setting.rule.level == "line" and isinstance(record.entity, Document):
            found += _line_values(setting, record, known)
        elif (value := _header_value(setting, record, known)) is not None:
            found.append(value)
            known[setting.name] = _known(value, setting)
        else:
            known[setting.name] = None
    for name, text in route.flow.defaults.items():
        if name != "customer" and name not in route.flow.set and header_value(record.entity, record.kind, name, name) is None:
            found.append(Resolved(name=name, kind=ValueKind.TEXT, value=text, rule=f"defaults.{name}"))
    return [*found, *_document_values(route, record, known)]


def _document_values(route: Route, record: Record, known: Mapping[str, Any]) -> Iterator[Resolved]:
    names = record.names(value=values(known))
    flow = route.flow
    if route.type is not None:
        yield _text("type", route.type, names)
    if route.reference is not None and flow.reference is not None:
        reference = _text("reference", route.reference, names)
        limit = flow.reference.length_max
        if limit is not None and len(reference.value or "") > limit:
            raise MappingError(
                f"reference `{flow.reference.value}` gives more than the {limit} characters of {flow.reference.to}",
                hint="shorten reference.value of the flow",
            )
        yield reference
        yield Resolved(name="reference.field", kind=ValueKind.TEXT, value=flow.reference.to, rule="reference.to")
    yield from _customer_values(route, record, names)


def _customer_values(route: Route, record: Record, names: Mapping[str, Any]) -> Iterator[Resolved]:
    if not isinstance(record.entity, Document):
        return
    customer = route.flow.customer
    code, rule = (customer.default.code, "customer.default") if customer.default else (None, "")
    if code is None and "customer" in route.flow.defaults:
        code, rule = route.flow.defaults["customer"], "defaults.customer"
    if code is not None:
        chosen = _is_anonymous(record.entity.customer) if route.default_when is None else bool(route.default_when(names))
        name = "customer.default_code" if chosen else "customer.missing_code"
        if chosen or customer.missing == "default":
            words = f"{rule} when {route.default_when.text}" if chosen and route.default_when else rule
            yield Resolved(name=name, kind=ValueKind.TEXT, value=code, rule=words)
    if route.suffix is not None:
        try:
            yield _text("customer.suffix", route.suffix, names)
        except MappingError:
            return  # a suffix is a help against equal names: where the source has nothing for it, the target's own rule decides


def _is_anonymous(party: canon.Party | None) -> bool:
    """Nobody is named: no reference, no e-mail, no company, no sealed person."""
    return party is None or party.is_default or not (party.customer or party.email_index or party.company_name or party.pii)


def _text(name: str, expression: Expression, names: Mapping[str, Any]) -> Resolved:
    value = expression(names)
    if value is None or value == "":
        raise MappingError(f"{name} `{expression.text}` gives nothing", hint="fill what it reads at the source, or mend the flow")
    return Resolved(name=name, kind=ValueKind.TEXT, value=show(value), rule=f"expression {expression.text}")


# --- one setting ----------------------------------------------------------------------------------------------------------------


def _header_value(setting: Setting, record: Record, known: Mapping[str, Any]) -> Resolved | None:
    if setting.expression is not None:
        return _computed(setting, setting.expression(record.names(value=values(known))), None)
    if setting.table is None:
        return _literal(setting, None)
    names = record.names(value=values(known), line=None, tax=None)
    asked = {
        column: _asked(setting.by[column], names)
        if column in setting.by
        else header_value(record.entity, record.kind, setting.name, column)
        for column in setting.table.key
    }
    row = setting.table.find(asked)
    if row is None and not any(asked.values()):
        return _absent(setting, None)
    return _from_row(setting, asked, row, None)


def _line_values(setting: Setting, record: Record, known: Mapping[str, Any]) -> Iterator[Resolved]:
    document = record.entity
    assert isinstance(document, Document)
    for line_id, place in places(document):
        if _needs_nothing(place):
            continue
        tax = _one_tax(place, line_id)
        names = record.names(value=values(known), line=place, tax=tax)
        if setting.expression is not None:
            value = _computed(setting, setting.expression(names), line_id)
        elif setting.table is None:
            value = _literal(setting, line_id)
        else:
            value = _looked_up(setting, record, line_id, names)
        if value is not None:
            yield value


def _looked_up(setting: Setting, record: Record, line_id: str, names: Mapping[str, Any]) -> Resolved | None:
    place, tax = names["line"], names["tax"]
    assert setting.table is not None
    asked: dict[str, str | None] = {}
    for column in setting.table.key:
        if column in setting.by:
            asked[column] = _asked(setting.by[column], names)
        elif is_line_column(column):
            asked[column] = line_value(place, tax, column)
        else:
            asked[column] = header_value(record.entity, record.kind, setting.name, column)
    row = setting.table.find(asked)
    if row is None and not setting.rule.required and not any(asked.values()):
        return _absent(setting, line_id)
    return _from_row(setting, asked, row, line_id)


def _needs_nothing(place: canon.Line | canon.AllowanceCharge) -> bool:
    """Text lines carry no money; a document discount without VAT of its own is spread over the lines."""
    if isinstance(place, canon.Line):
        return place.line_type is LineType.TEXT and not place.taxes
    return place.type is canon.ChargeType.DISCOUNT and not place.taxes


def _one_tax(place: canon.Line | canon.AllowanceCharge, line_id: str) -> TaxLine | None:
    kinds = {(tax.category, tax.country, tax.rate_pct, tax.scheme) for tax in place.taxes}
    if len(kinds) > 1:
        raise MappingError(f"line {line_id} has {len(kinds)} different taxes", hint="give the line one tax code at the source")
    return place.taxes[0] if place.taxes else None


def _asked(expression: Expression, names: Mapping[str, Any]) -> str | None:
    value = expression(names)
    return None if value is None else show(value)


def _from_row(setting: Setting, asked: Mapping[str, str | None], row: Row | None, line_id: str | None) -> Resolved:
    assert setting.table is not None
    if row is None:
        if setting.rule.default is None:
            raise setting.table.missing(asked)
        rule = f"set.{setting.name}.default (table {setting.table.name} has no row)"
        return Resolved(name=setting.name, line_id=line_id, kind=ValueKind.TEXT, value=setting.rule.default, rule=rule)
    cell = row.columns.get(VALUE)
    if cell is None:
        return Resolved(name=setting.name, line_id=line_id, kind=ValueKind.NOTHING, rule=row.rule, extra=dict(row.extra))
    kind = ValueKind.FLAG if isinstance(cell, bool) else ValueKind.TEXT
    return Resolved(name=setting.name, line_id=line_id, kind=kind, value=show(cell), rule=row.rule, extra=dict(row.extra))


def _literal(setting: Setting, line_id: str | None) -> Resolved:
    value = setting.rule.value
    kind = ValueKind.FLAG if isinstance(value, bool) else ValueKind.TEXT
    return Resolved(name=setting.name, line_id=line_id, kind=kind, value=show(value), rule=f"set.{setting.name}.value")


def _absent(setting: Setting, line_id: str | None) -> Resolved | None:
    """The source holds nothing to look up: the flow's default, or nothing where nothing is needed."""
    if setting.fallback is not None:
        rule = f"defaults.{setting.name}"
        return Resolved(name=setting.name, line_id=line_id, kind=ValueKind.TEXT, value=setting.fallback, rule=rule)
    if setting.rule.default is not None:
        rule = f"set.{setting.name}.default (the source holds nothing)"
        return Resolved(name=setting.name, line_id=line_id, kind=ValueKind.TEXT, value=setting.rule.default, rule=rule)
    if setting.rule.required:
        raise MappingError(
            f"the source holds nothing to find {setting.name} by",
            hint=f"set defaults.{setting.name} in the flow, or add a row with an empty key to its table",
            cause=Cause.MISSING_TABLE_ROW,
        )
    return None


def _computed(setting: Setting, value: Scalar, line_id: str | None) -> Resolved | None:
    if value is None:
        if setting.fallback is not None or setting.rule.required:
            return _absent(setting, line_id)
        rule = f"expression {setting.rule.expression}"
        return Resolved(name=setting.name, line_id=line_id, kind=ValueKind.NOTHING, rule=rule)
    kind = ValueKind.TEXT
    if isinstance(value, bool):
        kind = ValueKind.FLAG
    elif isinstance(value, int | Decimal):
        kind = ValueKind.NUMBER
    elif isinstance(value, date):
        kind = ValueKind.DAY
    rule = f"expression {setting.rule.expression}"
    return Resolved(name=setting.name, line_id=line_id, kind=kind, value=show(value), rule=rule)


def _known(value: Resolved, setting: Setting) -> Any:
    """What `value.<name>` answers: the text, with the row's columns in their own types."""
    if value.value is None:
        return None
    columns: dict[str, Any] = {**value.extra}
    if setting.table is not None:
        row = setting.table.find({column: value.extra.get(column) for column in setting.table.key})
        columns = {**dict.fromkeys(setting.table.columns), **columns}
        columns.update({} if row is None else row.columns)
    return TableValue(value.value, columns)
