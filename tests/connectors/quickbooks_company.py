"""A company that answers from tables, and a client that records what it is asked: for what no simulator is needed."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.clock import FrozenClock
from bus.kit.client import Answer, json_bytes
from bus.kit.registry import Context
from connectors.quickbooks.connector import QuickbooksConfig, QuickbooksConnector

PREFERENCES = {
    "CurrencyPrefs": {"MultiCurrencyEnabled": True, "HomeCurrency": {"value": "EUR"}},
    "SalesFormsPrefs": {"CustomTxnNumbers": True, "AllowShipping": True, "AllowDiscount": True},
}
COMPANY = {"CompanyName": "Papier B.V.", "Country": "NL", "DefaultTimeZone": "Europe/Amsterdam"}


@dataclass
class Call:
    method: str
    path: str
    params: Mapping[str, str]
    body: Any
    purpose: str
    files: Any = None

    @property
    def statement(self) -> str:
        return self.params.get("query", "")


Override = Callable[[Call], tuple[int, bytes] | None]


@dataclass
class FakeCompany:
    """Answers `query`, `cdc`, reads by id and writes; `override` answers first."""

    clock: FrozenClock
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    changed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    preferences: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(PREFERENCES)))
    company: dict[str, Any] = field(default_factory=lambda: dict(COMPANY))
    calls: list[Call] = field(default_factory=list)
    override: Override | None = None
    next_id: int = 900

    def now(self) -> str:
        return self.clock.now().isoformat(timespec="milliseconds")

    def answer(self, call: Call) -> tuple[int, bytes]:
        self.calls.append(call)
        if self.override is not None and (found := self.override(call)) is not None:
            return found
        path = call.path.removeprefix("/v3/company/9130/")
        assert call.params["minorversion"] == "75"
        if path == "query":
            return self._query(call.statement)
        if path == "cdc":
            return self._cdc(call.params)
        if path == "preferences":
            return self._ok({"Preferences": self.preferences, "time": self.now()})
        if path.startswith("companyinfo/"):
            return self._ok({"CompanyInfo": self.company, "time": self.now()})
        if path == "upload":
            return self._ok({"AttachableResponse": [{"Attachable": {"Id": "55", "FileName": "x"}}], "time": self.now()})
        name, _, object_id = path.partition("/")
        return self._read(self._entity(name), object_id) if call.method == "GET" else self._write(self._entity(name), call.body)

    def _ok(self, body: Any) -> tuple[int, bytes]:
        return 200, json_bytes(body)

    def _entity(self, name: str) -> str:
        names = ("Customer", "Item", "Invoice", "SalesReceipt", "CreditMemo", "RefundReceipt", "Estimate")
        return next(entity for entity in names if entity.lower() == name)

    def _read(self, entity: str, object_id: str) -> tuple[int, bytes]:
        for row in self.rows.get(entity, []):
            if row["Id"] == object_id:
                return self._ok({entity: row, "time": self.now()})
        return fault("610", "Object Not Found")

    def _query(self, statement: str) -> tuple[int, bytes]:
        if "count(*)" in statement:
            return self._ok({"QueryResponse": {"totalCount": 0}, "time": self.now()})
        entity = re.search(r"FROM (\w+)", statement)[1]  # type: ignore[index]
        rows = list(self.rows.get(entity, []))
        if ids := re.search(r"Id IN \(([^)]*)\)", statement):
            wanted = set(re.findall(r"'([^']*)'", ids[1]))
            rows = [row for row in rows if row["Id"] in wanted]
        for name, value in re.findall(r"(\w+) = '((?:[^'\\]|\\.)*)'", statement):
            text = re.sub(r"\\(.)", r"\1", value)
            rows = [row for row in rows if _value(row, name) == text]
        for low in re.findall(r"LastUpdatedTime >= '([^']*)'", statement):
            rows = [row for row in rows if _when(row) >= datetime.fromisoformat(low)]
        if "ORDERBY MetaData.LastUpdatedTime" in statement:
            rows.sort(key=_when)
        start = int(re.search(r"STARTPOSITION (\d+)", statement)[1])  # type: ignore[index]
        size = int(re.search(r"MAXRESULTS (\d+)", statement)[1])  # type: ignore[index]
        page = rows[start - 1 : start - 1 + size]
        return self._ok({"QueryResponse": {entity: page, "startPosition": start} if page else {}, "time": self.now()})

    def _cdc(self, params: Mapping[str, str]) -> tuple[int, bytes]:
        parts, left = [], 1000
        for entity in params["entities"].split(","):
            rows = self.changed.get(entity, [])[:left]
            left -= len(rows)
            parts.append({entity: rows, "startPosition": 1, "maxResults": len(rows)} if rows else {})
        return self._ok({"CDCResponse": [{"QueryResponse": parts}], "time": self.now()})

    def _write(self, entity: str, body: dict[str, Any]) -> tuple[int, bytes]:
        plain = json.loads(json_bytes(body), parse_float=Decimal)
        held = next((row for row in self.rows.get(entity, []) if row["Id"] == plain.get("Id")), None)
        if held is not None:
            held.update({key: value for key, value in plain.items() if key != "sparse"})
            held["SyncToken"] = str(int(held["SyncToken"]) + 1)
            return self._ok({entity: held, "time": self.now()})
        self.next_id += 1
        dates = {"CreateTime": self.now(), "LastUpdatedTime": self.now()}
        row = {"TotalAmt": 0, "Active": True, **plain, "Id": str(self.next_id), "SyncToken": "0", "MetaData": dates}
        self.rows.setdefault(entity, []).append(row)
        return self._ok({entity: row, "time": self.now()})

    def statements(self, entity: str) -> list[str]:
        return [call.statement for call in self.calls if f"FROM {entity} " in call.statement]


def _value(row: dict[str, Any], name: str) -> Any:
    value = row.get(name)
    return value["value"] if isinstance(value, dict) and "value" in value else value


def _when(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["MetaData"]["LastUpdatedTime"])


def fault(code: str, message: str, *, detail: str = "", status: int = 400, kind: str = "ValidationFault") -> tuple[int, bytes]:
    error = {"Message": message, "Detail": detail, "code": code, "element": ""}
    return status, json.dumps({"Fault": {"Error": [error], "type": kind}, "time": "2026-11-19T01:40:00.118-08:00"}).encode()


class FakeClient:
    """What a connector sees of the client."""

    def __init__(self, company: FakeCompany) -> None:
        self._company = company
        self.classifier: Any = None
        self.calls = 0

    async def call(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        purpose: str = "read",
        files: Any = None,
    ) -> Answer:
        self.calls += 1
        status, body = self._company.answer(Call(method, path_or_url, params or {}, json, purpose, files))
        answer = Answer(status, {"intuit_tid": "1-tid"}, body, path_or_url, purpose == "write")
        if error := self.classifier(answer):
            raise error
        return answer


def connector_of(company: FakeCompany) -> QuickbooksConnector:
    config = QuickbooksConfig(realm_id="9130")
    context = Context(connection="qbo", config=config, client=FakeClient(company), clock=company.clock)  # type: ignore[arg-type]
    return QuickbooksConnector(context)


def as_json(entity: msgspec.Struct) -> str:
    text = msgspec.json.encode(entity, order="sorted")
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
