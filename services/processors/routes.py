"""A configuration made ready for events: per connection and entity the flows that read it, everything compiled once."""

from collections.abc import Mapping

import msgspec

from bus.core.configuration import Configuration, Flow
from bus.core.configuration.documents import SetRule
from bus.core.errors import SettingsError
from bus.core.expressions import Expression, Nulls
from bus.core.policy import encode_policy
from bus.core.tables import LookupTable
from bus.core.topics import outbound
from bus.core.usage import ExpressionRefused


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One `set` entry, compiled."""

    name: str
    rule: SetRule
    expression: Expression | None = None
    table: LookupTable | None = None
    by: Mapping[str, Expression] = {}
    fallback: str | None = None
    """`defaults` of the flow: used where the source holds nothing."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One flow, compiled."""

    flow: Flow
    topic: str
    policy: bytes
    when: Expression | None
    type: Expression | None
    reference: Expression | None
    default_when: Expression | None
    suffix: Expression | None
    settings: tuple[Setting, ...]
    source_tax: LookupTable | None


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """All flows at one configuration version."""

    version: int
    by_source: Mapping[tuple[str, str], tuple[Route, ...]]
    connections: frozenset[str]

    def of(self, connection: str, entity: str) -> tuple[Route, ...]:
        """Flows that read an entity of a connection, by name."""
        return self.by_source.get((connection, entity), ())


NOTHING = Routes(version=0, by_source={}, connections=frozenset())


def compile_routes(configuration: Configuration, version: int) -> Routes:
    """Compiles what `bus apply` published. Raises SettingsError when it does not compile: it was published by another bus."""
    tables = {name: LookupTable(table) for name, table in configuration.tables.items()}
    by_source: dict[tuple[str, str], list[Route]] = {}
    for name in sorted(configuration.flows):
        flow = configuration.flows[name]
        try:
            route = _route(flow, configuration, tables)
        except ExpressionRefused as error:
            raise SettingsError(f"flow {name} of configuration {version}: expression {error}: run bus apply again") from error
        except KeyError as error:
            raise SettingsError(f"flow {name} of configuration {version} names {error}, which is not there") from error
        by_source.setdefault((flow.from_.connection, flow.from_.entity), []).append(route)
    return Routes(
        version=version,
        by_source={key: tuple(routes) for key, routes in by_source.items()},
        connections=frozenset(configuration.connections),
    )


def _route(flow: Flow, configuration: Configuration, tables: Mapping[str, LookupTable]) -> Route:
    source_tax = configuration.connections[flow.from_.connection].source_tax
    default = flow.customer.default
    return Route(
        flow=flow,
        topic=outbound(flow.to.connection),
        policy=encode_policy(msgspec.structs.replace(flow.policy(), category_flow=_category_flow(flow, configuration))),
        when=_compiled(flow.when),
        type=_compiled(flow.to.type, "refuse"),
        reference=_compiled(flow.reference.value if flow.reference else None, "refuse"),
        default_when=_compiled(default.when if default else None),
        suffix=_compiled(flow.customer.suffix, "refuse"),
        settings=tuple(_setting(name, rule, flow, tables) for name, rule in _ordered(flow)),
        source_tax=tables[source_tax] if source_tax and flow.is_document else None,
    )


def _category_flow(flow: Flow, configuration: Configuration) -> str | None:
    """The flow that takes the categories of a product flow's source to its target."""
    if flow.to.entity != "product":
        return None
    ends = flow.from_.connection, flow.to.connection
    others = (other for other in configuration.flows.values() if (other.from_.connection, other.to.connection) == ends)
    return next((other.name for other in others if other.to.entity == "product_category"), None)


def _ordered(flow: Flow) -> list[tuple[str, SetRule]]:
    """Tables and literals before expressions, because expressions may speak of `value`."""
    return sorted(flow.set.items(), key=lambda item: item[1].expression is not None)


def _setting(name: str, rule: SetRule, flow: Flow, tables: Mapping[str, LookupTable]) -> Setting:
    return Setting(
        name=name,
        rule=rule,
        expression=_compiled(rule.expression),
        table=tables[rule.table] if rule.table else None,
        by={column: Expression(text) for column, text in rule.by.items()},
        fallback=flow.defaults.get(name),
    )


def _compiled(text: str | None, nulls: Nulls = "blank") -> Expression | None:
    return None if text is None else Expression(text, nulls=nulls)
