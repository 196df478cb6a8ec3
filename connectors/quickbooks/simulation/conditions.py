"""Conditions of a query: how a member of a row compares with the values asked for."""

import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation.refusals import query_error

COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
MOMENTS = ("MetaData.CreateTime", "MetaData.LastUpdatedTime")

Row = Mapping[str, Any]
Test = Callable[[Row], bool]


def condition(name: str, sign: str, values: list[Any]) -> Test:
    """A test of rows. Raises Refused 4001."""
    if name == "Id" and sign not in ("=", "in"):
        raise query_error("property 'Id' supports = and IN only")
    if name in MOMENTS:
        values = [_moment(name, value) for value in values]
    if sign in ("=", "in"):
        return lambda row: any(_equal(_read(row, name), value) for value in values)
    if sign == "like":
        pattern = re.compile(".*".join(re.escape(part) for part in str(values[0]).split("%")), re.IGNORECASE | re.DOTALL)
        return lambda row: any(pattern.fullmatch(str(value)) is not None for value in _each(member(row, name)))
    compare = COMPARE[sign]
    return lambda row: _compared(compare, _read(row, name), values[0])


def member(row: Row, path: str) -> Any:
    """A member by path; a reference answers with its value, an e-mail member with its address, a list with each of its own."""
    value: Any = row
    for part in path.split("."):
        value = [_part(item, part) for item in value] if isinstance(value, list) else _part(value, part)
    if isinstance(value, Mapping):
        return value.get("value", value.get("Address"))
    return value


def sortable(name: str, value: Any) -> tuple[int, Any]:
    """A key for sorting; rows without a value come first."""
    if value is None:
        return (0, 0)
    if name == "Id":
        return (1, int(value))
    if name in MOMENTS:
        return (1, datetime.fromisoformat(value))
    return (1, value if isinstance(value, int | Decimal) else str(value).casefold())


def _read(row: Row, name: str) -> Any:
    value = member(row, name)
    return datetime.fromisoformat(value) if name in MOMENTS and value else value


def _moment(name: str, value: Any) -> datetime:
    """An offset is needed; a plus sign that was not encoded arrives as a blank and is refused."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise query_error(f"value '{value}' of {name} is no date and time") from None
    if moment.tzinfo is None:
        raise query_error(f"value '{value}' of {name} has no offset")
    return moment


def _part(value: Any, name: str) -> Any:
    """Also by another case: AttachableRef.EntityRef.Type is asked, `type` is stored."""
    if not isinstance(value, Mapping):
        return None
    return value.get(name, value.get(name[0].lower() + name[1:]))


def _each(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list) else [value]) if item is not None]


def _equal(left: Any, right: Any) -> bool:
    return any(_same(item, right) for item in _each(left))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return str(left).lower() == str(right).lower()
    if isinstance(left, int | Decimal):
        return left == _number(right)
    if isinstance(left, datetime):
        return bool(left == right)
    return str(left).casefold() == str(right).casefold()


def _compared(compare: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    if left is None:
        return False
    if isinstance(left, int | Decimal):
        number = _number(right)
        return number is not None and compare(left, number)
    return compare(left, right) if isinstance(left, datetime) else compare(str(left).casefold(), str(right).casefold())


def _number(value: Any) -> Decimal | None:
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return None
