"""The query language: one entity, AND only, 1-based paging.

https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/data-queries
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import ge, gt, le, lt
from typing import Any

from connectors.quickbooks.simulation.refusals import query_error

ROWS_MAX = 1000
ROWS_DEFAULT = 100
COMMON = ("Id", "MetaData.CreateTime", "MetaData.LastUpdatedTime")
NAMES = ("Name", "Active", "FullyQualifiedName")
SALES = ("DocNumber", "TxnDate", "CustomerRef")
QUERYABLE: Mapping[str, tuple[str, ...]] = {
    "Customer": (
        "DisplayName",
        "GivenName",
        "FamilyName",
        "CompanyName",
        "FullyQualifiedName",
        "Active",
        "Balance",
        "PrimaryEmailAddr",
    ),
    "Item": ("Name", "Sku", "Type", "Active", "FullyQualifiedName", "SubItem"),
    "Invoice": (*SALES, "DueDate", "Balance", "SalesTermRef"),
    "SalesReceipt": SALES,
    "CreditMemo": SALES,
    "RefundReceipt": SALES,
    "Estimate": SALES,
    "Payment": ("TotalAmt", "TxnDate", "CustomerRef", "PaymentRefNum", "PaymentMethodRef"),
    "Account": (*NAMES, "AccountType", "Classification"),
    "Attachable": ("FileName", "AttachableRef.EntityRef.Type", "AttachableRef.EntityRef.value"),
    "Vendor": ("DisplayName", "Active"),
    "Employee": ("DisplayName", "Active"),
    **dict.fromkeys(("Term", "PaymentMethod", "TaxCode", "TaxRate", "Class", "Department"), NAMES),
    "CompanyCurrency": ("Code", "Active"),
}
NAME_LISTS = frozenset(name for name, fields in QUERYABLE.items() if "Active" in fields)
STATEMENT = re.compile(
    r"^\s*select\s+(?P<what>.+?)\s+from\s+(?P<entity>\w+)(?:\s+where\s+(?P<where>.+?))?"
    r"(?:\s+order\s*by\s+(?P<order>[\w.]+)(?:\s+(?P<direction>asc|desc))?)?"
    r"(?:\s+startposition\s+(?P<start>\d+))?(?:\s+maxresults\s+(?P<most>\d+))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
TEXT = r"'(?:[^'\\]|\\.)*'"
TERM = re.compile(
    rf"\s*([\w.]+)\s*(=|<=|>=|<|>|\bin\b|\blike\b)\s*(\(\s*[^)]*\)|{TEXT}|true|false|-?\d+(?:\.\d+)?)\s*(?:(and)\b|$)",
    re.IGNORECASE,
)
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {"<": lt, ">": gt, "<=": le, ">=": ge}
VALUE = re.compile(rf"{TEXT}|true|false|-?\d+(?:\.\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """A parsed statement."""

    entity: str
    is_count: bool
    tests: tuple[Callable[[Mapping[str, Any]], bool], ...]
    order: str | None
    is_descending: bool
    start: int
    most: int


def parse(statement: str) -> Query:
    """Raises Refused 4000 for what cannot be read, 4001 for a property that cannot be asked."""
    found = STATEMENT.match(statement)
    if found is None:
        raise query_error(f"Encountered an unexpected word in {statement[:60]!r}", parse=True)
    entity = next((name for name in QUERYABLE if name.lower() == found["entity"].lower()), None)
    if entity is None:
        raise query_error(f"Invalid context declaration: {found['entity']}")
    terms = list(_terms(entity, found["where"]))
    if entity in NAME_LISTS and not any(name == "Active" for name, _ in terms):
        terms.append(("Active", lambda row: bool(row.get("Active", True))))
    most = int(found["most"] or ROWS_DEFAULT)
    if not 1 <= most <= ROWS_MAX:
        raise query_error(f"value {most} for MAXRESULTS is out of range")
    if found["order"]:
        _known(entity, found["order"])
    return Query(
        entity=entity,
        is_count=found["what"].replace(" ", "").lower() == "count(*)",
        tests=tuple(test for _, test in terms),
        order=found["order"],
        is_descending=(found["direction"] or "").lower() == "desc",
        start=max(1, int(found["start"] or 1)),
        most=most,
    )


def _terms(entity: str, where: str | None) -> Any:
    rest = where
    while rest:
        found = TERM.match(rest)
        if found is None:
            raise query_error(f"Encountered an unexpected word in {rest[:60]!r}", parse=True)
        name, operator, literal = found[1], found[2].lower(), found[3]
        _known(entity, name)
        yield name, _test(name, operator, [_value(item) for item in VALUE.findall(literal)])
        rest = rest[found.end() :]
        if found[4] and not rest.strip():
            raise query_error("nothing follows AND", parse=True)


def _known(entity: str, name: str) -> None:
    if name not in COMMON and name not in QUERYABLE[entity]:
        raise query_error(f"property '{name}' is not queryable")


def _value(literal: str) -> Any:
    if literal.startswith("'"):
        return re.sub(r"\\(.)", r"\1", literal[1:-1])
    return literal.lower() == "true" if literal.lower() in ("true", "false") else Decimal(literal)


def _test(name: str, operator: str, values: list[Any]) -> Callable[[Mapping[str, Any]], bool]:
    if operator == "in":
        return lambda row: any(_equal(member(row, name), value) for value in values)
    value = values[0]
    if operator == "=":
        return lambda row: _equal(member(row, name), value)
    if operator == "like":
        pattern = re.compile(".*".join(map(re.escape, str(value).split("%"))), re.IGNORECASE)
        return lambda row: pattern.fullmatch(str(member(row, name) or "")) is not None
    compare = COMPARISONS[operator]
    return lambda row: (left := comparable(member(row, name))) is not None and compare(left, comparable(value))


def member(row: Mapping[str, Any], name: str) -> Any:
    """A member of a row; references answer by their value, e-mail members by their address."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return value.get("value") or value.get("Address")
    return value


def comparable(value: Any) -> Any:
    """Moments compare as moments, everything else as it is."""
    if isinstance(value, str) and len(value) > 10 and value[4:5] == "-" and "T" in value:
        return datetime.fromisoformat(value)
    return value


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return bool(left) is bool(right)
    left, right = comparable(left), comparable(right)
    return str(left).casefold() == str(right).casefold() if isinstance(left, str) else bool(left == right)
