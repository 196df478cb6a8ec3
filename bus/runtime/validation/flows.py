"""Flows: both ends exist and can do what is asked, and the rules that keep an accountant's books right."""

from datetime import date
from typing import get_args, get_type_hints

from bus.core.configuration import Flow
from bus.core.configuration.fields import is_filled
from bus.core.configuration.problems import closest
from bus.core.expressions import Expression
from bus.core.identity import ENTITY_TYPES
from bus.core.topics import DOCUMENTS
from bus.runtime.validation.expressions import Scope, check_expression, given_members, reason_of
from bus.runtime.validation.settings import check_settings, value_columns
from bus.runtime.validation.systems import Checked, Ends
from schemas import canon

_KINDS = {"customer": canon.CustomerKind, "product": canon.ProductKind, "sales_invoice": canon.InvoiceType}
_ACTIONS = {"deactivate": "deactivate", "delete": "delete"}


def check_flows(checked: Checked) -> None:
    """All flows, then what only shows between two of them."""
    for flow in checked.configuration.flows.values():
        ends = _ends(checked, flow)
        if ends is None:
            continue
        _check_entities(checked, ends)
        _check_types(checked, ends)
        _check_start(checked, ends)
        _check_writing(checked, ends)
        if flow.when is not None:
            check_expression(checked, ends, ("when",), flow.when, Scope())
        check_settings(checked, ends)
        _check_target_type(checked, ends)
        _check_reference(checked, ends)
        _check_parties(checked, ends)
    _check_pairs(checked)


def _ends(checked: Checked, flow: Flow) -> Ends | None:
    connections = checked.configuration.connections
    for key, name in (("from", flow.from_.connection), ("to", flow.to.connection)):
        if name not in connections:
            what = f"there is no connection {name!r}"
            checked.add(flow, (key, "connection"), what, closest(name, connections))
    source, target = connections.get(flow.from_.connection), connections.get(flow.to.connection)
    if source is None or target is None:
        return None
    if source.name == target.name:
        checked.add(flow, ("to", "connection"), "a flow leads from a connection to itself", "Name another connection.")
    if source.tenant != target.tenant:
        what = f"leads from tenant {source.tenant!r} to tenant {target.tenant!r}"
        checked.add(flow, ("to", "connection"), what, "A flow never crosses tenants: name a connection of the same one.")
    source_facts, target_facts = checked.manifest(source), checked.manifest(target)
    if source_facts is None or target_facts is None:
        return None
    reads, writes = source_facts.reads.get(flow.from_.entity), target_facts.writes.get(flow.to.entity)
    if reads is None:
        fix = reason_of(source_facts.cannot, flow.from_.entity, flow.from_.entity) or closest("", source_facts.reads)
        checked.add(flow, ("from", "entity"), f"{source.system} gives no {flow.from_.entity}", fix)
    if writes is None:
        fix = reason_of(target_facts.cannot, flow.to.entity, flow.to.entity) or closest("", target_facts.writes)
        checked.add(flow, ("to", "entity"), f"{target.system} takes no {flow.to.entity}", fix)
    if reads is None or writes is None:
        return None
    return Ends(
        flow=flow, source=source, target=target, source_facts=source_facts, target_facts=target_facts, reads=reads, writes=writes
    )


def _check_entities(checked: Checked, ends: Ends) -> None:
    given, taken = ends.flow.from_.entity, ends.flow.to.entity
    if given != taken and not {given, taken} <= DOCUMENTS:
        fix = f"Write {given}; only sales orders and invoices become one another."
        checked.add(ends.flow, ("to", "entity"), f"a {given} cannot become a {taken}", fix)


def _check_types(checked: Checked, ends: Ends) -> None:
    source = ends.flow.from_
    for key in ("types", "without"):
        for index, name in enumerate(getattr(source, key)):
            path = ("from", key, index)
            if source.entity not in _KINDS:
                checked.add(ends.flow, path, f"a {source.entity} has no types", f"Remove `{key}`, and filter by `when`.")
                continue
            field = "type" if source.entity == "sales_invoice" else "kind"
            given = given_members(ends.reads, field, [str(item) for item in _KINDS[source.entity]])
            if name not in given:
                checked.add(
                    ends.flow, path, f"{ends.source.system} gives no {source.entity} of type {name!r}", closest(name, given)
                )


def _check_start(checked: Checked, ends: Ends) -> None:
    flow, start = ends.flow, ends.flow.start
    if not flow.is_document:
        if start.existing is None or start.by is not None:
            what = f"a {flow.from_.entity} is not dated"
            fix = "Write start: {existing: send} (existing ones are sent) or {existing: link} (only linked when met)."
            checked.add(flow, ("start",), what, fix)
        return
    if start.existing is not None:
        fix = "Write start: 2026-12-01, now or beginning."
        checked.add(flow, ("start",), "documents begin at a date, not at what exists", fix)
        return
    if start.by is None:
        return
    hints = get_type_hints(ENTITY_TYPES[flow.from_.entity])
    dated = [name for name, hint in hints.items() if any(_is_day(kind) for kind in (hint, *get_args(hint)))]
    filled = [name for name in dated if is_filled((name,), ends.reads.fields, ends.reads.line_fields)]
    if start.by not in filled:
        what = f"{ends.source.system} gives no date {start.by!r} on a {flow.from_.entity}"
        checked.add(flow, ("start", "by"), what, closest(start.by, filled))


def _is_day(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, date)


def _check_writing(checked: Checked, ends: Ends) -> None:
    flow, writes = ends.flow, ends.writes
    actions = {"create": "create"} if flow.write == "create" else {"create": "create", "update": "update"}
    for action in actions:
        if action not in writes.actions:
            fix = reason_of(ends.target_facts.cannot, flow.to.entity, action) or f"It can: {', '.join(writes.actions)}."
            checked.add(flow, ("write",), f"{ends.target.system} cannot {action} a {flow.to.entity}", fix)
    if (wanted := _ACTIONS.get(flow.on_delete)) and wanted not in writes.actions:
        what = f"{ends.target.system} cannot {wanted} a {flow.to.entity}"
        checked.add(flow, ("on_delete",), what, "Write on_delete: ignore, or another of deactivate and delete.")
    if flow.is_document and flow.write == "upsert":
        what = "documents are written once"
        checked.add(flow, ("write",), what, "Write write: create; an order that exists is skipped and linked.")
    for index, key in enumerate(flow.match):
        if key not in writes.match:
            what = f"{ends.target.system} cannot find a {flow.to.entity} by {key!r}"
            checked.add(flow, ("match", index), what, closest(key, writes.match))


def _check_target_type(checked: Checked, ends: Ends) -> None:
    flow, types = ends.flow, ends.writes.document_types
    if flow.to.type is None:
        if flow.to.entity in DOCUMENTS and len(types) > 1:
            what = f"{ends.target.system} has several types of {flow.to.entity}, and none is chosen"
            checked.add(flow, ("to", "type"), what, f"Add type: \"'{types[0]}'\"; it has {', '.join(types)}.")
        return
    if not types:
        checked.add(flow, ("to", "type"), f"a {flow.to.entity} of {ends.target.system} has no types", "Remove `type`.")
        return
    scope = Scope(values=value_columns(checked, flow, ends.writes))
    expression = check_expression(checked, ends, ("to", "type"), flow.to.type, scope)
    for outcome in expression.usage.outcomes or () if expression else ():
        if outcome not in types:
            what = f"{ends.target.system} has no {flow.to.entity} of type {outcome!r}"
            checked.add(flow, ("to", "type"), what, closest(outcome, types))


def _check_reference(checked: Checked, ends: Ends) -> None:
    flow, fields = ends.flow, ends.writes.reference_fields
    reference = flow.reference
    if reference is None:
        if flow.is_document and fields:
            what = "a document needs a reference, or nothing tells whether it exists already"
            fix = f"Add reference: {{to: {next(iter(fields))}, value: \"'PREFIX-' ~ source.id\"}}."
            checked.add(flow, ("reference",), what, fix)
        return
    if reference.to not in fields:
        what = f"{ends.target.system} cannot hold a reference in {reference.to!r}"
        checked.add(flow, ("reference", "to"), what, closest(reference.to, fields))
    scope = Scope(values=value_columns(checked, flow, ends.writes))
    expression = check_expression(checked, ends, ("reference", "value"), reference.value, scope)
    if expression is None:
        return
    limit, shortest = fields.get(reference.to), expression.usage.literal_length
    if limit is not None and shortest >= limit:
        what = f"its fixed part alone has {shortest} characters, and {reference.to} holds {limit}"
        checked.add(flow, ("reference", "value"), what, "Shorten the prefix.")
    if not any(path[0] in ("source", "document") for path in expression.usage.paths):
        what = "it is the same for every document"
        checked.add(flow, ("reference", "value"), what, "Add what tells documents apart, such as source.id or source.number.")


def _check_parties(checked: Checked, ends: Ends) -> None:
    flow, given = ends.flow, ends.flow.model_fields_set
    if not flow.is_document:
        for key in ("customer", "product", "reference"):
            if key in given:
                checked.add(flow, (key,), f"only documents have `{key}`", "Remove it.")
        return
    customer, scope = flow.customer, Scope(values=value_columns(checked, flow, ends.writes))
    if customer.missing == "default" and customer.default is None and "customer" not in flow.defaults:
        checked.add(flow, ("customer", "missing"), "there is no default debtor", 'Add default: {code: "…"}, an existing debtor.')
    if customer.default is not None and customer.default.when is not None:
        check_expression(checked, ends, ("customer", "default", "when"), customer.default.when, scope)
    if customer.suffix is not None:
        check_expression(checked, ends, ("customer", "suffix"), customer.suffix, scope)
    for key, names in (("customer", customer.match), ("product", flow.product.match)):
        facts = ends.target_facts.writes.get(key)
        if facts is None:
            continue
        for index, name in enumerate(names):
            if name not in facts.match and name.split("+", 1)[0] not in facts.match:
                what = f"{ends.target.system} cannot find a {key} by {name!r}"
                checked.add(flow, (key, "match", index), what, closest(name, facts.match))
    makes = ends.target_facts.writes.get("customer")
    if customer.missing == "create" and (makes is None or "create" not in makes.actions):
        what = f"{ends.target.system} cannot create customers"
        checked.add(flow, ("customer", "missing"), what, "Write missing: park, or missing: default.")


def _check_pairs(checked: Checked) -> None:
    """What shows between two flows: documents both ways, and references that cannot be told apart."""
    flows = [flow for flow in checked.configuration.flows.values() if flow.is_document]
    ways = {(flow.from_.connection, flow.to.connection): flow for flow in flows}
    for (source, target), flow in ways.items():
        back = ways.get((target, source))
        if back is not None and source < target:
            what = f"documents run both ways between {source} and {target} (the other is {back.name})"
            fix = (
                "The bus never sends its own documents back, but say in writing which system is the ledger and who closes orders."
            )
            checked.warn(flow, ("name",), what, fix)
    heads: dict[tuple[str, str, str, str], Flow] = {}
    for flow in flows:
        head = _reference_head(flow)
        if head is None:
            continue
        key = (flow.to.connection, flow.to.entity, flow.reference.to if flow.reference else "", head)
        if key in heads:
            what = f"references begin like those of {heads[key].name}, so that one's document could be taken for the other's"
            checked.add(flow, ("reference", "value"), what, "Begin with a prefix of its own.")
        heads.setdefault(key, flow)


def _reference_head(flow: Flow) -> str | None:
    """The literal a reference begins with; None when it has none or does not compile."""
    if flow.reference is None:
        return None
    try:
        return Expression(flow.reference.value).usage.literal_head
    except ValueError:
        return None
