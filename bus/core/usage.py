"""What an expression touches, found without running it: fields, literals compared with, texts it can give.

Also the place where anything is refused that could read what it must not, or take long.
"""

from collections.abc import Iterator

import msgspec
from jinja2 import nodes

from bus.core.configuration.fields import ITEM

STR_METHODS = frozenset({"startswith", "endswith", "upper", "lower", "strip"})
"""Methods of texts that may be called."""
OWN_FILTERS = ("round", "date", "default", "replace", "upper", "lower", "trim", "number", "string")
"""Filters of `bus.core.expressions` itself."""
JINJA_FILTERS = (
    *("abs", "first", "join", "last", "length", "list", "map", "max", "min", "reject", "rejectattr"),
    *("select", "selectattr", "sort", "sum", "truncate", "unique"),
)
TESTS = (
    *("defined", "none", "number", "string", "in", "eq", "ne", "lt", "le", "gt", "ge", "equalto", "sameas"),
    *("true", "false", "even", "odd"),
)
_ATTRIBUTE_FILTERS = frozenset({"map", "sum", "max", "min", "sort", "unique", "join"})
_ATTRIBUTE_TESTS = frozenset({"selectattr", "rejectattr"})
_SAME_LIST = frozenset({"list", "sort", "unique", "selectattr", "rejectattr", "select", "reject"})
_ONE_ITEM = frozenset({"first", "last", "min", "max"})


class ExpressionRefused(ValueError):
    """An expression that cannot be used at all; `fix` says what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Comparison(msgspec.Struct, frozen=True):
    """A path compared with literals: unknown enum members are found by it."""

    path: tuple[str, ...]
    literals: tuple[str, ...]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an expression touches. Paths begin with their root name."""

    paths: tuple[tuple[str, ...], ...]
    comparisons: tuple[Comparison, ...]
    outcomes: tuple[str, ...] | None
    """All texts it can give, where it only chooses between literals; else None."""
    literal_head: str | None = None
    """The text it always begins with."""
    literal_length: int = 0
    """Characters it has at least, from literals joined by `~`."""


def usage_of(tree: nodes.Expr) -> Usage:
    """Looks through a parsed expression; raises `ExpressionRefused`."""
    paths: list[tuple[str, ...]] = []
    comparisons: list[Comparison] = []
    for node in _walk(tree):
        _refuse(node)
        path = _path(node)
        if path is not None:
            paths.append(path)
        if isinstance(node, nodes.Compare):
            comparisons += _compared(node)
        if isinstance(node, nodes.Filter):
            paths += _filter_paths(node)
    longest = [path for path in paths if not any(other[: len(path)] == path and len(other) > len(path) for other in paths)]
    outcomes, parts = _outcomes(tree), _joined(tree)
    return Usage(
        paths=tuple(dict.fromkeys(longest)),
        comparisons=tuple(comparisons),
        outcomes=tuple(outcomes) if outcomes else None,
        literal_head=parts[0] if parts and parts[0] else None,
        literal_length=sum(len(part) for part in parts),
    )


def _joined(tree: nodes.Expr) -> list[str]:
    """The literals of a joined text, empty for parts that vary."""
    parts = tree.nodes if isinstance(tree, nodes.Concat) else [tree]
    return [part.value if isinstance(part, nodes.Const) and isinstance(part.value, str) else "" for part in parts]


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _refuse(node: nodes.Node) -> None:
    if isinstance(node, nodes.Pow):
        raise ExpressionRefused("uses **", "Write the multiplication out.")
    filters = sorted({*OWN_FILTERS, *JINJA_FILTERS})
    if isinstance(node, nodes.Filter) and node.name not in filters:
        raise ExpressionRefused(f"uses the filter {node.name!r}", f"Known are: {', '.join(filters)}.")
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise ExpressionRefused(f"uses the test {node.name!r}", f"Known are: {', '.join(TESTS)}.")
    if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Getattr) and node.node.attr in STR_METHODS):
        raise ExpressionRefused("calls something", f"Only {', '.join(sorted(STR_METHODS))} of a text can be called.")
    if isinstance(node, nodes.Const) and isinstance(node.value, complex):
        raise ExpressionRefused("has a complex number", "Write a decimal.")
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Name | nodes.Getattr | nodes.Getitem):
        raise ExpressionRefused("looks a field up by a computed name", "Write the field's name.")


def _path(node: nodes.Node) -> tuple[str, ...] | None:
    """The path a node stands for, or None."""
    match node:
        case nodes.Name():
            return (node.name,)
        case nodes.Getattr():
            base = _path(node.node)
            return None if base is None or node.attr in STR_METHODS else (*base, node.attr)
        case nodes.Getitem():
            base = _path(node.node)
            if base is None:
                return None
            name = node.arg.value if isinstance(node.arg, nodes.Const) else None
            return (*base, name if isinstance(name, str) else ITEM)
        case nodes.Filter() if node.node is not None:
            base = _path(node.node)
            if base is None:
                return None
            return base if node.name in _SAME_LIST else (*base, ITEM) if node.name in _ONE_ITEM else None
    return None


def _filter_paths(node: nodes.Filter) -> list[tuple[str, ...]]:
    base = _path(node.node) if node.node is not None else None
    named = [item.value for item in node.kwargs if item.key == "attribute"]
    if node.name in _ATTRIBUTE_TESTS or (node.name in ("sum", "unique") and node.args):
        named += node.args[-1:] if node.name == "unique" else node.args[:1]
    if not named:
        return []
    if node.name not in _ATTRIBUTE_FILTERS | _ATTRIBUTE_TESTS:
        raise ExpressionRefused(f"gives {node.name!r} an attribute", "Remove it.")
    if base is None or not isinstance(named[0], nodes.Const) or not isinstance(named[0].value, str):
        raise ExpressionRefused(f"uses {node.name!r} on something that is no list of the source", "Name the list and the field.")
    return [(*base, ITEM, *named[0].value.split("."))]


def _compared(node: nodes.Compare) -> list[Comparison]:
    found: list[Comparison] = []
    sides: list[nodes.Node] = [node.expr, *(operand.expr for operand in node.ops)]
    for path in (_path(side) for side in sides):
        if path is None or len(path) < 2:
            continue
        literals = [text for side in sides for text in _literals(side)]
        found.append(Comparison(path=path, literals=tuple(literals)))
    return found


def _literals(node: nodes.Node) -> list[str]:
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, nodes.List | nodes.Tuple):
        return [text for item in node.items for text in _literals(item)]
    return []


def _outcomes(node: nodes.Node | None) -> list[str]:
    """All texts a choice between literals can give; empty when anything else can come out."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, nodes.CondExpr):
        yes, no = _outcomes(node.expr1), _outcomes(node.expr2)
        return [*yes, *no] if yes and no else []
    return []
