"""Expressions of a flow against what its source can say, without running them."""

from collections.abc import Collection, Mapping

import msgspec

from bus.core.configuration.fields import ITEM, UnknownField, is_filled, resolve
from bus.core.configuration.problems import closest
from bus.core.configuration.source import Path
from bus.core.expressions import Expression
from bus.core.usage import Comparison, ExpressionRefused
from bus.kit.manifest import Reads
from bus.runtime.validation.systems import Checked, Ends

SOURCE_ROOTS = ("source", "document")
LINE_ROOTS: Mapping[str, tuple[str, ...]] = {"line": ("lines", ITEM), "tax": ("lines", ITEM, "taxes", ITEM)}


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Names an expression may use beside `source`."""

    values: Mapping[str, Collection[str]] | None = None
    """Names under `value` with their columns; None: `value` does not exist there."""
    lines: bool = False


def check_expression(checked: Checked, ends: Ends, path: Path, text: str, scope: Scope) -> Expression | None:
    """Compiles it and checks every field, enum member and value it names; None when it does not compile."""
    try:
        expression = Expression(text)
    except ExpressionRefused as error:
        checked.add(ends.flow, path, f"the expression {error}", error.fix)
        return None
    for used in expression.usage.paths:
        _check_path(checked, ends, path, used, scope)
    for comparison in expression.usage.comparisons:
        _check_literals(checked, ends, path, comparison)
    return expression


def _check_path(checked: Checked, ends: Ends, path: Path, used: tuple[str, ...], scope: Scope) -> None:
    root, rest = used[0], used[1:]
    if root == "value" and scope.values is not None:
        _check_value(checked, ends, path, rest, scope.values)
        return
    if root in LINE_ROOTS and scope.lines:
        rest = (*LINE_ROOTS[root], *rest)
    elif root not in SOURCE_ROOTS:
        names = ["source", *(["value"] if scope.values is not None else []), *(LINE_ROOTS if scope.lines else [])]
        fix = f"A text goes in quotes: {root!r}. Names are {', '.join(names)}."
        checked.add(ends.flow, path, f"there is no name {root!r} here", fix)
        return
    if not rest:
        checked.add(ends.flow, path, f"{root} is the whole object", f"Name one field: {root}.<field>.")
        return
    entity = ends.flow.from_.entity
    try:
        leaf = resolve(entity, rest)
    except UnknownField as error:
        checked.add(ends.flow, path, str(error), error.fix)
        return
    if not is_filled(leaf.path, ends.reads.fields, ends.reads.line_fields):
        name = ".".join(part for part in leaf.path if part != ITEM)
        what = f"{ends.source.system} never fills {name} of a {entity}"
        checked.add(ends.flow, path, what, _instead(ends, name))


def _instead(ends: Ends, name: str) -> str:
    reason = reason_of(ends.source_facts.cannot, ends.flow.from_.entity, name)
    return reason or f"Use a field it fills: {', '.join(sorted(ends.reads.fields)[:15])}, …"


def reason_of(cannot: Mapping[str, str], entity: str, name: str) -> str | None:
    """A manifest's own words on what its system cannot do, by `entity.name` or `name`."""
    words = cannot.get(f"{entity}.{name}") or cannot.get(name)
    return f"{words[:1].upper()}{words[1:].rstrip('.')}." if words else None


def _check_value(checked: Checked, ends: Ends, path: Path, rest: tuple[str, ...], values: Mapping[str, Collection[str]]) -> None:
    if not rest or rest[0] not in values:
        name = rest[0] if rest else "value"
        checked.add(ends.flow, path, f"the flow sets no value {name!r} on the document", closest(name, values))
    elif len(rest) > 1 and rest[1] not in values[rest[0]]:
        what = f"value.{rest[0]} has no column {rest[1]!r}"
        checked.add(ends.flow, path, what, closest(rest[1], values[rest[0]]))


def _check_literals(checked: Checked, ends: Ends, path: Path, comparison: Comparison) -> None:
    root, rest = comparison.path[0], comparison.path[1:]
    if root in LINE_ROOTS:
        rest = (*LINE_ROOTS[root], *rest)
    elif root not in SOURCE_ROOTS:
        return
    try:
        leaf = resolve(ends.flow.from_.entity, rest)
    except UnknownField:
        return  # told already
    if not leaf.members:
        return
    name = ".".join(part for part in leaf.path if part != ITEM)
    given = given_members(ends.reads, name, leaf.members)
    for literal in comparison.literals:
        if literal not in leaf.members:
            checked.add(ends.flow, path, f"{name} is never {literal!r}", closest(literal, given))
        elif literal not in given:
            what = f"{ends.source.system} never gives {literal!r} as {name}"
            checked.add(ends.flow, path, what, f"It gives: {', '.join(given)}.")


def given_members(reads: Reads, name: str, members: Collection[str]) -> list[str]:
    """Members that a source gives; all but UNKNOWN where its manifest does not say."""
    for key in (name, name.removeprefix("lines.")):
        if key in reads.enums:
            return list(reads.enums[key])
    return [member for member in members if member != "UNKNOWN"]
