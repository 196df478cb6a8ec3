"""Why a record does not go through a flow. Every refusal has a word, because it becomes a command of its own (law 4)."""

from datetime import UTC, date, datetime
from typing import Any

from bus.core.configuration import Flow
from bus.core.configuration.fields import text_of
from bus.core.identity import Entity
from schemas.canon import EventMeta
from services.processors.routes import Route
from services.processors.values import Record

ECHO = "echo"
ORIGIN = "origin"
TYPE = "type"
START = "start"
WHEN = "when"
DELETED = "deleted"
"""Words of refusal, as they stand in a command's `reason`."""

_NEVER_ORDERS = frozenset({"CREDIT_NOTE"})
"""Document types that no order flow takes: money going back is no order."""


def refuses_origin(flow: Flow, meta: EventMeta) -> str | None:
    """Our own write coming back (law 9); and a document the bus made, which is never a source for the system it came from."""
    origin = meta.origin
    if origin is None or origin.connection != flow.to.connection:
        return None
    if origin.echo:
        return ECHO
    return ORIGIN if flow.is_document and origin.created else None


def refuses_type(flow: Flow, entity: Entity) -> str | None:
    """Document types, and kinds of customers and products."""
    kind = text_of(getattr(entity, "type", None) or getattr(entity, "kind", None)) or "UNKNOWN"
    wanted, unwanted = flow.from_.types, flow.from_.without
    is_return = flow.to.entity == "sales_order" and kind in _NEVER_ORDERS
    return TYPE if is_return or kind in unwanted or (wanted and kind not in wanted) else None


def refuses_start(flow: Flow, entity: Entity) -> str | None:
    """Documents dated before the flow's start; a document without that date is not old, so it goes through."""
    begin = flow.start.from_
    if not isinstance(begin, date):  # `beginning`; `now` was resolved by `bus apply`
        return None
    dated = getattr(entity, flow.start.by or default_date(flow.from_.entity), None)
    return START if dated is not None and _is_before(dated, begin) else None


def refuses_when(route: Route, record: Record) -> str | None:
    """The flow's own filter. Raises MappingError when it cannot be computed."""
    return WHEN if route.when is not None and not route.when(record.names()) else None


def default_date(entity: str) -> str:
    """The date a document is dated by where a flow does not say."""
    return "order_date" if entity == "sales_order" else "issue_date"


def _is_before(dated: Any, begin: date) -> bool:
    """Days compare by day, in UTC where an instant meets a day; two instants by the microsecond."""
    if isinstance(dated, datetime) and isinstance(begin, datetime):
        return dated < begin
    return _day(dated) < _day(begin)


def _day(value: date) -> date:
    return value.astimezone(UTC).date() if isinstance(value, datetime) else value
