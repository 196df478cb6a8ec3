"""Reads: rows as the vendor shows them, queries, change data capture."""

import copy
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from connectors.quickbooks.simulation.company import ROW_HIDDEN, Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, SHIPPING
from connectors.quickbooks.simulation.payments import refresh_customers
from connectors.quickbooks.simulation.query import Query, parse
from connectors.quickbooks.simulation.refusals import Refused, bad_format, missing, query_error

LOOK_BACK_DAYS = 30
CHANGES_MAX = 1000
"""Objects in one answer of change data capture, over all entities; there is no second page."""
MASK = "XXXXXXX"
ISO3 = {
    "NL": "NLD",
    "BE": "BEL",
    "DE": "DEU",
    "FR": "FRA",
    "SE": "SWE",
    "GB": "GBR",
    "US": "USA",
    "DK": "DNK",
    "LU": "LUX",
    "NO": "NOR",
    "AT": "AUT",
    "ES": "ESP",
    "IT": "ITA",
    "PL": "POL",
    "IE": "IRL",
    "FI": "FIN",
    "PT": "PRT",
    "CH": "CHE",
    "CZ": "CZE",
}
ADDRESSES = ("BillAddr", "ShipAddr", "ShipFromAddr")
NAMES_SHOWN = {
    "CustomerRef": "Customer",
    "IncomeAccountRef": "Account",
    "ExpenseAccountRef": "Account",
    "AssetAccountRef": "Account",
    "ParentRef": None,
    "ItemRef": "Item",
    "GroupItemRef": "Item",
    "ClassRef": "Class",
    "DepartmentRef": "Department",
    "PaymentMethodRef": "PaymentMethod",
}
"""References that are answered with a name; the others come as the bare value."""


class Reader:
    """Shows the rows of a company."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._generation = -1

    def shown(self, entity: str, row: Row) -> Row:
        """A row as it is answered: tax numbers masked, countries with three letters, names beside references."""
        self._refresh()
        out = {name: copy.deepcopy(value) for name, value in row.items() if not name.startswith(ROW_HIDDEN)}
        if number := out.get("PrimaryTaxIdentifier"):
            out["PrimaryTaxIdentifier"] = MASK + number[-4:]
        for name in ADDRESSES:
            if isinstance(out.get(name), dict) and out[name].get("Country"):
                out[name]["Country"] = ISO3.get(out[name]["Country"].upper(), out[name]["Country"])
        self._name(entity, out)
        return out

    def _refresh(self) -> None:
        if self._generation != self._company.generation:
            refresh_customers(self._company)
            self._generation = self._company.generation

    def _name(self, entity: str, value: Any) -> None:
        """Puts names beside references, at every depth."""
        if isinstance(value, list):
            for item in value:
                self._name(entity, item)
        elif isinstance(value, dict):
            for name, member in value.items():
                if name in NAMES_SHOWN and isinstance(member, dict) and member.get("value") != SHIPPING:
                    target = NAMES_SHOWN[name] or entity
                    row = self._company.find(target, member.get("value"))
                    if row is not None:
                        member["name"] = row.get("FullyQualifiedName") or row.get(ENTITIES[target].name_field)
                else:
                    self._name(entity, member)

    # --- queries -------------------------------------------------------------------------------------------------------------

    def select(self, statement: str) -> tuple[Query, list[Row], dict[str, Any]]:
        """What was asked, the rows of the page, and the member `QueryResponse`. Raises Refused 4000 or 4001."""
        query = parse(statement)
        self._refresh()
        rows = query.rows(list(self._company.tables[query.entity].values()))
        if query.is_count:
            return query, [], {"totalCount": len(rows)}
        page = [dict(row) for row in rows[query.start - 1 : query.start - 1 + query.most]]
        if not page:
            return query, [], {}
        shown = [_projected(self.shown(query.entity, row), query.members) for row in page]
        return query, page, {query.entity: shown, "startPosition": query.start, "maxResults": len(page)}

    # --- change data capture -------------------------------------------------------------------------------------------------

    def changes(self, entities: str | None, since_text: str | None) -> tuple[list[tuple[str, list[Row]]], list[dict[str, Any]]]:
        """Rows served per entity, and the answers per entity in the order asked. Raises Refused."""
        since = self._since(since_text)
        if not entities:
            raise missing("entities")
        self._refresh()
        room, served, answers = CHANGES_MAX, [], []
        for asked in entities.split(","):
            name = next((known for known in ENTITIES if known.lower() == asked.strip().lower()), None)
            if name is None or not ENTITIES[name].is_in_cdc:
                raise query_error(f"Invalid context declaration: {asked.strip()}")
            found = self._changed(name, since)[:room]
            room -= len(found)
            shown = [row if "status" in row else self.shown(name, row) for row in found]
            answers.append({name: shown, "startPosition": 1, "maxResults": len(shown)} if shown else {})
            served.append((name, [row for row in found if "status" not in row]))
        return served, answers

    def _since(self, text: str | None) -> datetime:
        if not text:
            raise missing("changedSince")
        try:
            # A plus sign that was not encoded arrives as a blank, and is no date then.
            since = datetime.fromisoformat(text) if re.match(r"\d{4}-\d\d-\d\dT", text) else None
        except ValueError:
            since = None
        if since is None or since.tzinfo is None:
            raise bad_format("changedSince", text)
        if since < self._company.clock.now() - timedelta(days=LOOK_BACK_DAYS):
            days = f"changedSince must lie within the last {LOOK_BACK_DAYS} days: {text}"
            raise Refused("2080", "Invalid data type or format", days, element="changedSince")
        return since

    def _changed(self, entity: str, since: datetime) -> list[Row]:
        """Rows and deletes, the latest first."""
        rows: list[Row] = [row for row in self._company.tables[entity].values() if _moment(row) >= since]
        for stone in self._company.tombstones:
            gone = {"status": "Deleted", "domain": "QBO", "Id": stone.id, "MetaData": {"LastUpdatedTime": stone.at}}
            if stone.entity == entity and _moment(gone) >= since:
                rows.append(gone)
        return sorted(rows, key=_moment, reverse=True)


def _projected(row: Row, names: tuple[str, ...]) -> Row:
    """The named members only, marked sparse; all without names."""
    if not names:
        return row
    wanted = {name.partition(".")[0].lower() for name in names} | {"id", "domain"}
    return {**{name: value for name, value in row.items() if name.lower() in wanted}, "sparse": True}


def _moment(row: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(row["MetaData"]["LastUpdatedTime"])
