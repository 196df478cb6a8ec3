"""Expressions of flows: sandboxed Jinja2, exact decimals, no personal data, bounded work.

Names: `source` (also `document`) is the canonical entity with snake_case fields; `value` holds what the flow's tables and
literals already gave, with the table's extra columns (`value.payment_term.paid`); `line` and `tax` exist where a value is set
per line. A null keeps being null when a field of it is asked for. Enums compare to their names. Absent custom fields are null.

Time is bounded by construction: no loops, a fixed list of filters, no powers, no repeated text, limits on length.
"""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal, DecimalException
from typing import Any, Literal, TypeAlias

import msgspec
from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.environment import TemplateExpression
from jinja2.exceptions import SecurityError, TemplateRuntimeError, UndefinedError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bus.core.configuration.fields import ALIASES, SEALED_TYPES, plain
from bus.core.errors import MappingError
from bus.core.money import EXACT
from bus.core.usage import JINJA_FILTERS, OWN_FILTERS, STR_METHODS, TESTS, ExpressionRefused, usage_of
from schemas import canon

LENGTH_MAX = 1_000
RESULT_LENGTH_MAX = 10_000
DECIMALS_MAX = 12

Nulls: TypeAlias = Literal["blank", "refuse"]
Scalar: TypeAlias = str | bool | int | Decimal | date | None

_DATE_PARTS = frozenset({"year", "month", "day"})
_JOIN = "join_texts"
_EXACT = "exact"


class TableValue(str):
    """A value a table gave; text, with the row's extra columns as attributes."""

    __slots__ = ("columns",)
    columns: Mapping[str, Any]

    def __new__(cls, text: str, columns: Mapping[str, Any]) -> "TableValue":
        """Text with columns."""
        made = super().__new__(cls, text)
        made.columns = columns
        return made


class SourceView:
    """What `source` answers: facts of the event, then fields of the entity."""

    __slots__ = ("connection", "entity", "id", "system")

    def __init__(self, entity: msgspec.Struct, *, source_id: str, connection: str, system: str) -> None:
        self.entity = entity
        self.id = source_id
        self.connection = connection
        self.system = system


class _Sandbox(ImmutableSandboxedEnvironment):
    """Answers attributes of canonical structs, tables, days and a few methods of texts; nothing else has attributes."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if obj is None:
            return None
        if isinstance(obj, SourceView):
            if attribute in ("id", "connection", "system"):
                return getattr(obj, attribute)
            return self.getattr(obj.entity, attribute)
        if isinstance(obj, msgspec.Struct):
            return self._field(obj, attribute)
        if isinstance(obj, TableValue) and attribute in obj.columns:
            return obj.columns[attribute]
        if isinstance(obj, Mapping):
            return self._member(obj, attribute)
        if isinstance(obj, str) and attribute in STR_METHODS:
            return getattr(str(obj), attribute)
        if isinstance(obj, date) and attribute in _DATE_PARTS:
            return getattr(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if obj is None:
            return None
        if isinstance(obj, Mapping):
            return self._member(obj, str(argument))
        if isinstance(obj, str | list | tuple) and isinstance(argument, int | slice):
            try:
                return _guarded(obj[argument])
            except IndexError:
                return None
        return self.getattr(obj, str(argument))

    def _field(self, obj: msgspec.Struct, attribute: str) -> Any:
        value: Any = obj
        for part in ALIASES.get(type(obj), {}).get(attribute, (attribute,)):
            if value is None:
                return None
            if part not in value.__struct_fields__:
                return self.undefined(obj=obj, name=attribute)
            value = _guarded(getattr(value, part))
        return value

    def _member(self, obj: Mapping[str, Any], name: str) -> Any:
        """A value by key, or by the part of a key after its system (`some_shop:Colour` answers to `Colour`)."""
        if name in obj:
            return plain(obj[name])
        if obj and isinstance(next(iter(obj.values())), canon.CustomValue):
            return next((plain(value) for key, value in obj.items() if key.rpartition(":")[2] == name), None)
        return None if not isinstance(obj, _Values) else self.undefined(obj=obj, name=name)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return left + right
        if not (_is_number(left) and _is_number(right)):
            raise TemplateRuntimeError(f"`{operator}` needs two numbers, not {_kind(left)} and {_kind(right)}; join texts with ~")
        return _arithmetic(operator, Decimal(left), Decimal(right))


class _Values(dict[str, Any]):
    """The names under `value`: a name that is not there is an error, not null."""


def values(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `value` answers."""
    return _Values(known)


def _guarded(value: Any) -> Any:
    if isinstance(value, SEALED_TYPES):
        raise SecurityError("personal data is sealed here")
    return plain(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "an empty field" if value is None else "a text" if isinstance(value, str) else f"a {type(value).__name__}"


def _arithmetic(operator: str, left: Decimal, right: Decimal) -> Decimal:
    match operator:
        case "+":
            return EXACT.add(left, right)
        case "-":
            return EXACT.subtract(left, right)
        case "*":
            return EXACT.multiply(left, right)
        case "/":
            return EXACT.divide(left, right)
        case "//":
            return EXACT.divide_int(left, right)
    return EXACT.remainder(left, right)


# --- functions people may use ---------------------------------------------------------------------------------------------------


def _join(*parts: Any) -> str:
    return "".join("" if part is None else show(part) for part in parts)


def _join_strictly(*parts: Any) -> str:
    if any(part is None or part == "" for part in parts):
        raise TemplateRuntimeError("a part of the text is empty")
    return _join(*parts)


def _round(value: Any, precision: int = 0) -> Any:
    if value is None:
        return None
    if not _is_number(value) or abs(precision) > DECIMALS_MAX:
        raise TemplateRuntimeError(f"round needs a number and at most {DECIMALS_MAX} decimals")
    return Decimal(value).quantize(Decimal(1).scaleb(-precision), rounding=ROUND_HALF_UP, context=EXACT)


def _day(value: Any, pattern: str = "%Y-%m-%d") -> Any:
    if value is None:
        return None
    if not isinstance(value, date):
        raise TemplateRuntimeError(f"date needs a day, not {_kind(value)}")
    return value.strftime(pattern[:40])


def _default(value: Any, fallback: Any = "") -> Any:
    return fallback if value is None or value == "" else value


def _replace(text: Any, old: str, new: str) -> Any:
    if text is None:
        return None
    if not old or len(text) // len(old) * len(new) + len(text) > RESULT_LENGTH_MAX:
        raise TemplateRuntimeError(f"replace would give more than {RESULT_LENGTH_MAX} characters")
    return show(text).replace(old, new)


def _text(method: str) -> Callable[[Any], Any]:
    return lambda value: None if value is None else getattr(show(value), method)()


def _number(value: Any) -> Any:
    if value is None or value == "":
        return None
    try:
        return Decimal(show(value))
    except DecimalException:
        raise TemplateRuntimeError("number needs digits") from None


def _exact(text: str) -> Decimal:
    return Decimal(text)


_OWN_FILTERS: Mapping[str, Callable[..., Any]] = {
    "round": _round,
    "date": _day,
    "default": _default,
    "replace": _replace,
    "upper": _text("upper"),
    "lower": _text("lower"),
    "trim": _text("strip"),
    "number": _number,
    "string": lambda value: None if value is None else show(value),
}


@functools.cache
def _environment(nulls: Nulls) -> _Sandbox:
    env = _Sandbox(undefined=StrictUndefined, optimized=False, autoescape=False, cache_size=0)
    env.filters = {**{name: env.filters[name] for name in JINJA_FILTERS}, **{name: _OWN_FILTERS[name] for name in OWN_FILTERS}}
    env.tests = {name: env.tests[name] for name in TESTS}
    env.globals = {_JOIN: _join if nulls == "blank" else _join_strictly, _EXACT: _exact}
    return env


# --- compiling ------------------------------------------------------------------------------------------------------------------


class Expression:
    """A compiled expression. `nulls`: whether `~` takes an empty part as nothing, or refuses it (references)."""

    def __init__(self, text: str, *, nulls: Nulls = "blank") -> None:
        self.text = text
        if len(text) > LENGTH_MAX:
            raise ExpressionRefused(f"is longer than {LENGTH_MAX} characters", "Shorten it, or use a table.")
        env = _environment(nulls)
        try:
            parser = Parser(env, text, state="variable")
            tree: nodes.Expr = parser.parse_expression()
            if not parser.stream.eos:
                raise ExpressionRefused(f"ends before {parser.stream.current.value!r}", "Write one expression, without {{ }}.")
            self.usage = usage_of(tree)
            ready = _rewrite(tree)
            ready.set_environment(env)
            body: list[nodes.Node] = [nodes.Assign(nodes.Name("result", "store"), ready, lineno=1)]
            self._run = TemplateExpression(env.from_string(nodes.Template(body, lineno=1)), undefined_to_none=False)
        except TemplateSyntaxError as error:
            raise ExpressionRefused(f"is not an expression: {error.message}", "Put texts in quotes and check brackets.") from None

    def __call__(self, names: Mapping[str, Any]) -> Scalar:
        """Its value; raises MappingError, whose message holds no value of the record."""
        try:
            result = self._run(names)
        except (TemplateRuntimeError, SecurityError, UndefinedError) as error:
            raise self._failed(error.message or "it cannot be computed") from None
        except DecimalException:
            raise self._failed("a number cannot be computed (division by zero, or too large)") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise self._failed(f"a value has the wrong kind ({type(error).__name__})") from None
        return self._checked(result)

    def _checked(self, result: Any) -> Scalar:
        if isinstance(result, StrictUndefined):
            raise self._failed("it names something that does not exist")
        if isinstance(result, enum.Enum):
            return str(result.value)
        if isinstance(result, canon.Ref):
            return result.code or result.id
        if result is not None and not isinstance(result, str | bool | int | Decimal | date):
            raise self._failed(f"it gives {_kind(result)} where one value is needed")
        if isinstance(result, str) and len(result) > RESULT_LENGTH_MAX:
            raise self._failed(f"it gives more than {RESULT_LENGTH_MAX} characters")
        return str(result) if isinstance(result, str) else result

    def _failed(self, why: str) -> MappingError:
        return MappingError(f"expression `{self.text}` failed: {why}", hint="mend the expression, or the record at the source")


def show(value: Any) -> str:
    """A value as text: numbers without exponent, days as ISO, booleans lower case."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value.normalize(EXACT):f}"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, canon.Ref):
        return value.code or value.id or ""
    if isinstance(value, msgspec.Struct | Sequence | Mapping) and not isinstance(value, str):
        raise TemplateRuntimeError("a whole object is no text: name one field of it")
    return str(value)


def _rewrite(node: Any) -> Any:
    """Decimals for float literals (as written), and joining that knows nulls."""
    for field, child in list(node.iter_fields()):
        if isinstance(child, list):
            setattr(node, field, [_rewrite(item) if isinstance(item, nodes.Node) else item for item in child])
        elif isinstance(child, nodes.Node):
            setattr(node, field, _rewrite(child))
    if isinstance(node, nodes.Const) and isinstance(node.value, float):
        return _call(_EXACT, [nodes.Const(repr(node.value), lineno=node.lineno)], node.lineno)
    if isinstance(node, nodes.Concat):
        return _call(_JOIN, node.nodes, node.lineno)
    return node


def _call(name: str, arguments: list[Any], line: int) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load", lineno=line), arguments, [], None, None, lineno=line)
