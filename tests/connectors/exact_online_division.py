"""A division that answers from tables over an HTTP transport, and remembers what it is asked: for what no simulator is needed."""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import httpx
import msgspec
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.core.money import rounded
from bus.kit.auth import StaticTokens, Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient, json_bytes
from bus.kit.connector import RawRecord, StepResult, Write
from bus.kit.registry import Context
from connectors.exact_online.connector import ExactOnlineConfig, ExactOnlineConnector
from schemas.system import IdempotencyClass, ObjectRef, Resolved, ValueKind

SAMPLES = Path(__file__).parents[2] / "connectors" / "exact_online" / "samples"
HOST = "https://start.exactonline.nl"
DIVISION = 654321
KEY = "0d5c1f6a-0000-5000-8000-000000000001"
FEEDS = {
    "sync/CRM/Accounts": "crm/Accounts",
    "sync/CRM/Contacts": "crm/Contacts",
    "sync/CRM/Addresses": "crm/Addresses",
    "sync/Logistics/Items": "logistics/Items",
    "sync/Logistics/SalesItemPrices": "logistics/SalesItemPrices",
    "sync/SalesOrder/SalesOrderHeaders": "salesorder/SalesOrders",
    "sync/SalesOrder/SalesOrderLines": "salesorder/SalesOrderLines",
    "sync/Deleted": "sync/Deleted",
}
DELETED_TYPES = {
    "crm/Accounts": 2,
    "crm/Addresses": 3,
    "crm/Contacts": 5,
    "logistics/SalesItemPrices": 8,
    "logistics/Items": 9,
    "salesorder/SalesOrders": 32,
    "salesorder/SalesOrderLines": 33,
}
UNIQUE = {"crm/Accounts": "Code", "logistics/Items": "Code", "salesorder/SalesOrders": "OrderNumber"}
ORDERS, LINES, CHARGES = "salesorder/SalesOrders", "salesorder/SalesOrderLines", "salesorder/SalesOrderOrderChargeLines"


@dataclass
class Call:
    """One request."""

    method: str
    path: str
    """Below the division, without the key."""
    key: str | None
    query: Mapping[str, str]
    body: Any

    @property
    def filter(self) -> str:
        return self.query.get("$filter", "")


Override = Callable[[Call], httpx.Response | None]


def guid_of(number: int) -> str:
    """The n-th id."""
    return str(uuid.UUID(int=number))


def date_of(day: str) -> str:
    """A day as Exact writes it."""
    return f"/Date({int((datetime.fromisoformat(day) - datetime(1970, 1, 1)) / timedelta(milliseconds=1))})/"


@dataclass
class FakeDivision:
    """Answers reads and writes; `override` answers first."""

    clock: FrozenClock = field(default_factory=FrozenClock)
    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    override: Override | None = None
    config: dict[str, Any] = field(default_factory=dict)
    stamp: int = 61_000_000_000
    made: int = 900
    page_rows: int = 1000

    def __post_init__(self) -> None:
        self.put("system/Divisions", {"Code": DIVISION, "Description": "Groenhof", "Country": "NL ", "Currency": "EUR"}, key="1")
        self.put("current/Me", {"CurrentDivision": DIVISION, "UserName": "koppeling", "FullName": "Koppeling"}, key="1")
        for number, (code, kind, fraction) in enumerate(
            [("0  ", "E", "0"), ("1  ", "E", "0.09"), ("2  ", "E", "0.21"), ("4  ", "I", "0.21"), ("7  ", "B", "0")], 10
        ):
            self.put("vat/VATCodes", {"Code": code, "Type": kind, "Percentage": Decimal(fraction)}, key=str(number))

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def put(self, path: str, row: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Adds or replaces a row under a new Timestamp."""
        own = key or row.get("OrderID" if path == ORDERS else "ID") or self.new_id()
        self.stamp += 7
        stored = {"ID": own, **row, "Timestamp": str(self.stamp)}
        if path == ORDERS:
            stored |= {"OrderID": own}
        self.tables.setdefault(path, {}).pop(own, None)
        self.tables[path][own] = stored
        return stored

    def change(self, path: str, key: str, **values: Any) -> None:
        """Changes a row under a new Timestamp."""
        self.put(path, {**self.tables[path][key], **values}, key=key)

    def delete(self, path: str, key: str, *, stamp: int | None = None) -> None:
        """Deletes a row, if it is there, and logs it."""
        self.tables.get(path, {}).pop(key, None)
        row = self.put("sync/Deleted", {"EntityKey": key, "EntityType": DELETED_TYPES[path]})
        row["Timestamp"] = str(stamp) if stamp is not None else row["Timestamp"]

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Rows of a set."""
        return list(self.tables.get(path, {}).values())

    def new_id(self) -> str:
        """An id nobody has."""
        self.made += 1
        return guid_of(self.made)

    def load_samples(self) -> None:
        """The objects of the samples, charges aside (the sample's order has none)."""
        for name, path in (
            ("account", "crm/Accounts"),
            ("contact", "crm/Contacts"),
            ("address", "crm/Addresses"),
            ("item", "logistics/Items"),
            ("sales_item_price", "logistics/SalesItemPrices"),
            ("item_group", "logistics/ItemGroups"),
            ("sales_order", ORDERS),
            ("sales_order_lines", LINES),
        ):
            for row in sample(name):
                self.put(path, row)

    # --- answers -------------------------------------------------------------------------------------------------------------

    def asked(self, path: str, method: str = "GET") -> list[Call]:
        """Calls of a path."""
        return [call for call in self.calls if call.path == path and call.method == method]

    def writes(self) -> list[Call]:
        """What was sent."""
        return [call for call in self.calls if call.method != "GET"]

    def handle(self, request: httpx.Request) -> httpx.Response:
        """The transport's handler."""
        assert request.headers["authorization"] == "Bearer token-1"
        if request.url.path.startswith("/docs/"):
            return httpx.Response(200, content=b"\x89PNG-picture", headers={"content-type": "image/png"})
        call = self._call(request)
        self.calls.append(call)
        if self.override is not None and (found := self.override(call)) is not None:
            return found
        return self.answer(call)

    def answer(self, call: Call) -> httpx.Response:
        """What the tables say."""
        if call.method == "GET":
            return self._list(call)
        body = {name: date_of(value) if name.endswith("Date") and value else value for name, value in call.body.items()}
        if call.method == "POST":
            return self._create(call.path, body)
        if call.key not in self.tables.get(call.path, {}):
            return refusal(404, "Resource not found")
        self.change(call.path, call.key, **body)
        return httpx.Response(204)

    def _call(self, request: httpx.Request) -> Call:
        path = unquote_plus(request.url.path).removeprefix("/api/v1/").removeprefix(f"{DIVISION}/")
        found = re.fullmatch(r"([^()]+)(?:\(guid'([^']*)'\))?", path)
        assert found, path
        query = dict(part.partition("=")[::2] for part in urlsplit(str(request.url)).query.split("&") if part)
        plain = {unquote_plus(name): unquote_plus(value) for name, value in query.items()}
        body = json.loads(request.content, parse_float=Decimal) if request.content else None
        return Call(request.method, found[1], found[2], plain, body)

    def _list(self, call: Call) -> httpx.Response:
        assert "$select" in call.query, "a list without $select is refused"
        path = FEEDS.get(call.path, call.path)
        assert path in ("current/Me", "vat/VATCodes") or path.count("/") == 1
        rows = [row for row in self.rows(path) if holds(call.filter, row)]
        if call.path.startswith("sync/"):
            rows.sort(key=lambda row: int(row["Timestamp"]))
        start = int(call.query.get("$skiptoken", "0"))
        page = [self._shown(row, call.query["$select"]) for row in rows[start : start + self.page_rows]]
        inner: dict[str, Any] = {"results": page}
        if len(rows) > start + self.page_rows:
            query = {**call.query, "$skiptoken": str(start + self.page_rows)}
            inner["__next"] = str(httpx.URL(f"{HOST}/api/v1/{DIVISION}/{call.path}", params=query))
        return answered(200, {"d": inner})

    @staticmethod
    def _shown(row: dict[str, Any], names: str) -> dict[str, Any]:
        return {"__metadata": {"uri": "…"}, **{name: row.get(name) for name in names.split(",")}}

    def _create(self, path: str, body: dict[str, Any]) -> httpx.Response:
        unique = UNIQUE.get(path)
        if unique and body.get(unique) and any(code_of(row.get(unique)) == str(body[unique]) for row in self.rows(path)):
            return refusal(500, "Gegeven bestaat reeds.")
        row = self._order(body) if path == ORDERS else self.put(path, self._stored(path, body))
        shown = row if path == ORDERS else {"ID": row["ID"], "Name": None}
        return answered(201, {"d": {"__metadata": {"uri": "…"}, **shown}})

    def _stored(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "crm/Accounts":
            number = body.get("Code") or str(2_000_000 + self.made)
            return {**body, "Name": body["Name"][:50], "Code": number.rjust(18), "Country": f"{body.get('Country') or '':3}"}
        if path == "logistics/Items":
            group, vat = body.get("ItemGroup"), body.get("SalesVatCode", "2")
            return {"IsStockItem": False, **body, "ItemGroup": group, "SalesVatCode": f"{vat:3}", "Unit": "stuk    "}
        return dict(body)

    def _order(self, body: dict[str, Any]) -> dict[str, Any]:
        header = {key: value for key, value in body.items() if not isinstance(value, list)}
        number = body.get("OrderNumber") or 30_000 + self.made
        order = self.put(ORDERS, {**header, "OrderNumber": number, "Status": 12, "DeliveryStatus": 12, "InvoiceStatus": 12})
        for index, line in enumerate(body["SalesOrderLines"], 1):
            net, vat, fraction = self._split(Decimal(line["Quantity"]) * Decimal(line["NetPrice"]), line.get("VATCode"))
            priced = {"AmountFC": net, "VATAmount": vat, "VATPercentage": fraction}
            self.put(LINES, {**line, **priced, "OrderID": order["ID"], "LineNumber": index})
        for charge in body.get("SalesOrderOrderChargeLines", ()):
            net, vat, _ = self._split(Decimal(charge["AmountFCExclVAT"]), charge.get("VATCode"))
            self.put(CHARGES, {**charge, "AmountFCInclVAT": net + vat, "OrderID": order["ID"]})
        lines = [row for row in self.rows(LINES) if row["OrderID"] == order["ID"]]
        charges = [row for row in self.rows(CHARGES) if row["OrderID"] == order["ID"]]
        excl = sum(row["AmountFC"] for row in lines) + sum(Decimal(row["AmountFCExclVAT"]) for row in charges)
        gross = sum(row["AmountFC"] + row["VATAmount"] for row in lines) + sum(row["AmountFCInclVAT"] for row in charges)
        self.change(ORDERS, order["ID"], AmountFC=gross, AmountDC=gross, AmountFCExclVat=excl)
        return self.tables[ORDERS][order["ID"]]

    def _split(self, amount: Decimal, code: str | None) -> tuple[Decimal, Decimal, Decimal]:
        vat = next((row for row in self.rows("vat/VATCodes") if code_of(row["Code"]) == code), None)
        fraction = vat["Percentage"] if vat else Decimal(0)
        amount = rounded(amount)
        if vat and vat["Type"] == "I":
            tax = rounded(amount * fraction / (1 + fraction))
            return amount - tax, tax, fraction
        return amount, rounded(amount * fraction), fraction


# --- answers and filters -------------------------------------------------------------------------------------------------------


def answered(status: int, body: Any) -> httpx.Response:
    """A JSON answer with exact numbers."""
    return httpx.Response(status, content=json_bytes(body), headers={"content-type": "application/json"})


def refusal(status: int, words: str) -> httpx.Response:
    """The vendor's error envelope."""
    return answered(status, {"error": {"code": "", "message": {"lang": "", "value": words}}})


def sample(name: str) -> list[dict[str, Any]]:
    """Rows of a sample, exact numbers."""
    inner = json.loads((SAMPLES / f"{name}.json").read_text(), parse_float=Decimal)["d"]
    if isinstance(inner, dict):
        return inner.get("results", [inner])  # type: ignore[no-any-return]
    return inner  # type: ignore[no-any-return]


def code_of(value: Any) -> str:
    """Without padding."""
    return str(value).strip()


def holds(condition: str, row: dict[str, Any]) -> bool:
    """Whether a row fulfils a filter: comparisons joined by `and`, `or` and brackets."""
    text = condition.strip()
    if not text:
        return True
    for word in (" and ", " or "):
        if len(parts := _split_at(text, word)) > 1:
            found = [holds(part, row) for part in parts]
            return all(found) if word == " and " else any(found)
    if text.startswith("("):
        return holds(text[1:-1], row)
    compared = re.fullmatch(r"(\w+) (eq|gt|ge|lt|le) (?:guid|datetime)?('(?:[^']|'')*'|[\d.]+L?)", text)
    assert compared, f"no filter: {text}"
    name, operator, literal = compared.groups()
    value = row.get(name)
    if literal.startswith("'"):
        wanted: Any = literal[1:-1].replace("''", "'")
        value = "" if value is None else str(value).rstrip()
    else:
        wanted, value = Decimal(literal.rstrip("L")), Decimal(str(value))
    return {"eq": value == wanted, "gt": value > wanted, "ge": value >= wanted, "lt": value < wanted, "le": value <= wanted}[
        operator
    ]


def _split_at(text: str, word: str) -> list[str]:
    """Parts between a word, outside brackets and quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, character in enumerate(text):
        quoted ^= character == "'"
        depth += 0 if quoted else (character == "(") - (character == ")")
        if not quoted and depth == 0 and text.startswith(word, at):
            parts.append(text[start:at])
            start = at + len(word)
    return [*parts, text[start:]]


# --- the connector ------------------------------------------------------------------------------------------------------------


def client_of(division: FakeDivision, **changes: Any) -> VendorClient:
    """A client without call limits, whose waits move the clock."""

    async def sleep(seconds: float) -> None:
        division.clock.advance(seconds)

    manifest = ExactOnlineConnector.manifest.model_copy(update={"limits": (), **changes})
    token = Token(1, SecretStr("token-1"), division.clock.now() + timedelta(days=900))
    return VendorClient(
        manifest,
        connection="exact",
        base_url=HOST,
        tokens=StaticTokens(token),
        budgets=Budgets((), clock=division.clock, sleep=sleep),
        clock=division.clock,
        transport=httpx.MockTransport(division.handle),
        share="write",
        sleep=sleep,
    )


def connector_of(division: FakeDivision, **config: Any) -> ExactOnlineConnector:
    """A connector as a fresh process has it."""
    settings = ExactOnlineConfig(division=DIVISION, **{**division.config, **config})
    return ExactOnlineConnector(
        Context(connection="exact", config=settings, client=client_of(division), clock=division.clock)  # type: ignore[arg-type]
    )


def write_of(entity: str, document: Any, **more: Any) -> Write:
    """A create, unless told otherwise."""
    source = ObjectRef(connection="qbo", entity=entity, id=more.pop("source_id", "61"))
    return Write(**{"action": "create", "entity": entity, "source": source, "document": document, "key": KEY, **more})


def set_values(**values: str) -> list[Resolved]:
    """What a flow set on the header."""
    return [Resolved(name=name, kind=ValueKind.TEXT, value=value, rule="test") for name, value in values.items()]


def vat(line: str, value: str, **extra: str) -> Resolved:
    """The VAT code of a line."""
    return Resolved(name="vat_code", line_id=line, kind=ValueKind.TEXT, value=value, extra=extra, rule="test")


async def perform(connector: ExactOnlineConnector, write: Write) -> dict[str, StepResult]:
    """All steps of a write."""
    done: dict[str, StepResult] = {}
    for step in connector.plan(write):
        done[step.name] = await connector.perform(write, step, done)
    return done


async def resume(connector: ExactOnlineConnector, write: Write, done: dict[str, StepResult], *, open_step: str | None) -> None:
    """Goes on after a crash as a sink does: the open step by its class, the rest as usual. Only ids and details survived."""
    for name, result in list(done.items()):
        done[name] = StepResult(external_id=result.external_id, detail=result.detail)
    for step in connector.plan(write):
        if step.name in done:
            continue
        found = None
        if step.name == open_step and step.idempotency in (IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID):
            found = await connector.search(write, step, done)
        done[step.name] = found or await connector.perform(write, step, done)


def as_json(value: Any) -> str:
    """Reviewed form of an entity, or of calls."""
    plain = json.loads(msgspec.json.encode(value, order="sorted"))
    return json.dumps(plain, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


async def whole_of(division: FakeDivision, entity: str, key: str, **config: Any) -> RawRecord:
    """An object as the reader puts it together."""
    record = await connector_of(division, **config).fetch(entity, key)
    assert record is not None
    return record
