"""The company's desk: takes a call below /v3/company/{realm}/, answers it, counts what was served and written."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from bus.simulation.calls import CallLog
from connectors.quickbooks.simulation import uploads, writing
from connectors.quickbooks.simulation.company import EXCHANGE_RATES, Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, canonical_name
from connectors.quickbooks.simulation.facts import company_info, preferences
from connectors.quickbooks.simulation.reading import Reader
from connectors.quickbooks.simulation.refusals import Refused, missing, not_found, too_long, unreadable, unsupported

BATCH_MAX = 30
REQUEST_ID_MAX, BATCH_REQUEST_ID_MAX = 50, 36
REPEATED_NUMBER = "allowduplicatedocnum"
OPERATIONS = ("", "create", "update", "delete", "void")
PATHS: Mapping[str, str] = {name.lower(): name for name in ENTITIES}
DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)

Answer = dict[str, Any]


@dataclass
class Call:
    """One call: the path below the realm in parts, its parameters and body; `touched` is the object it turned out to be about."""

    method: str
    parts: tuple[str, ...]
    parameters: Mapping[str, str]
    content_type: str
    body: bytes
    base_url: str
    touched: tuple[str, str] | None = None

    def json(self) -> Answer:
        """The body, numbers exact. Raises Refused 2010."""
        try:
            return DECODER.decode(self.body)
        except msgspec.DecodeError as error:
            raise unreadable(f"The body is no JSON object: {error}") from None


class Desk:
    """Answers calls from the state of one company."""

    def __init__(self, company: Company, calls: CallLog, realm: str) -> None:
        self._company, self._calls, self._realm = company, calls, realm
        self._reader = Reader(company)
        self._seen: set[tuple[str, str, str]] = set()

    def answer(self, call: Call) -> Answer | str:
        """What is answered with status 200; text for a download. Raises Refused."""
        self._company.tables["CompanyInfo"]["1"] = company_info(self._company)
        self._company.tables["Preferences"]["1"] = preferences(self._company)
        fixed: Mapping[tuple[str, str], Callable[[Call], Answer]] = {
            ("GET", "query"): self._query,
            ("POST", "query"): self._query,
            ("GET", "cdc"): self._cdc,
            ("GET", "exchangerate"): self._exchange_rate,
            ("POST", "batch"): self._batch,
            ("POST", "upload"): self._upload,
        }
        first, count = call.parts[0], len(call.parts)
        if count == 1 and (call.method, first) in fixed:
            return self._timed(fixed[(call.method, first)](call))
        if call.method == "GET" and first == "download" and count == 2:
            return f"{call.base_url}{self._company.row('Attachable', call.parts[1])['TempDownloadUri']}"
        entity = PATHS.get(first)
        if entity and call.method == "GET" and (count == 2 or (count == 1 and entity == "Preferences")):
            return self._timed(self._read(call, entity))
        if entity and call.method == "POST" and count == 1:
            return self._write(call, entity)
        raise unsupported(f"{call.method} /{'/'.join(call.parts)}")

    def _timed(self, answer: Answer) -> Answer:
        return {**answer, "time": self._company.time()}

    # --- reads ---------------------------------------------------------------------------------------------------------------

    def _read(self, call: Call, entity: str) -> Answer:
        is_company = entity == "Preferences" or (entity == "CompanyInfo" and call.parts[1] == self._realm)
        row = self._company.row(entity, "1" if is_company else call.parts[1])
        call.touched = (canonical_name(entity, row) or entity, row["Id"])
        self._serve(entity, [row])
        return {entity: self._shown(call, entity, row)}

    def _shown(self, call: Call, entity: str, row: Row) -> Row:
        shown = self._reader.shown(entity, row)
        if "TempDownloadUri" in shown:
            shown["TempDownloadUri"] = call.base_url + shown["TempDownloadUri"]
        return shown

    def _serve(self, entity: str, rows: Iterable[Row]) -> None:
        """Counts each version once, however often it is read."""
        for row in rows:
            name, version = canonical_name(entity, row), (entity, row["Id"], row["SyncToken"])
            if name and version not in self._seen:
                self._seen.add(version)
                self._calls.serve(name)

    def _query(self, call: Call) -> Answer:
        if call.method == "GET":
            statement = call.parameters.get("query", "")
        elif call.content_type.startswith(("application/text", "text/plain")):
            statement = call.body.decode(errors="replace")
        else:
            raise unreadable("A query is posted as application/text.")
        if not statement.strip():
            raise missing("query")
        return {"QueryResponse": self._select(statement)}

    def _select(self, statement: str) -> Answer:
        query, rows, answer = self._reader.select(statement)
        self._serve(query.entity, rows)
        return answer

    def _cdc(self, call: Call) -> Answer:
        served, answers = self._reader.changes(call.parameters.get("entities"), call.parameters.get("changedSince"))
        for entity, rows in served:
            self._serve(entity, rows)
        return {"CDCResponse": [{"QueryResponse": answers}]}

    def _exchange_rate(self, call: Call) -> Answer:
        code = call.parameters.get("sourcecurrencycode", "")
        if code not in EXCHANGE_RATES:
            raise not_found(f"exchange rate of {code}")
        day = call.parameters.get("asofdate") or self._company.now().date().isoformat()
        rate = {
            "SourceCurrencyCode": code,
            "TargetCurrencyCode": self._company.home,
            "Rate": EXCHANGE_RATES[code],
            "AsOfDate": day,
        }
        return {"ExchangeRate": rate}

    # --- writes --------------------------------------------------------------------------------------------------------------

    def _write(self, call: Call, entity: str) -> Answer:
        include = call.parameters.get("include", "").lower().split(",")
        operation = _operation(entity, call.parameters.get("operation", ""), include)
        request_id, asked = _request_id(call, REQUEST_ID_MAX), f"{operation} {entity}".strip()
        answer: Answer | None = self._company.replay(request_id, asked) if request_id else None
        if answer is None:
            shown = self._carry_out(call, entity, call.json(), operation, may_repeat=REPEATED_NUMBER in include)
            answer = self._timed({entity: shown})
            if request_id:
                self._company.replays[request_id] = (asked, answer)
        call.touched = (canonical_name(entity, answer[entity]), answer[entity]["Id"])
        return answer

    def _carry_out(self, call: Call, entity: str, body: Answer, operation: str, *, may_repeat: bool) -> Answer:
        """One write, counted. The row as it then is, or what is left of a deleted one."""
        company = self._company
        if operation == "delete":
            row = writing.delete(company, entity, body)
            self._calls.write(canonical_name(entity, row), "delete")
            return {"status": "Deleted", "domain": "QBO", "Id": row["Id"]}
        if operation == "void":
            row, verb = writing.void(company, entity, body), "update"
        elif body.get("Id") in (None, "") and operation != "update":
            row, verb = writing.create(company, entity, body, may_repeat_number=may_repeat), "create"
        else:
            row, verb = writing.update(company, entity, body, may_repeat_number=may_repeat), "update"
        self._calls.write(canonical_name(entity, row), verb)
        return self._shown(call, entity, row)

    def _batch(self, call: Call) -> Answer:
        items = call.json().get("BatchItemRequest", [])
        if len(items) > BATCH_MAX:
            raise Refused("1040", "The maximum number of batch items was exceeded", f"A batch holds at most {BATCH_MAX} items.")
        request_id = _request_id(call, BATCH_REQUEST_ID_MAX)
        asked = f"batch {hashlib.sha256(call.body).hexdigest()}"
        answer: Answer | None = self._company.replay(request_id, asked) if request_id else None
        if answer is None:
            # The order of answers is not promised: they come from the last to the first.
            answer = {"BatchItemResponse": [self._item(call, item) for item in items][::-1]}
            if request_id:
                self._company.replays[request_id] = (asked, answer)
        return answer

    def _item(self, call: Call, item: Answer) -> Answer:
        key = {"bId": item.get("bId", "")}
        try:
            if "Query" in item:
                return {**key, "QueryResponse": self._select(item["Query"])}
            entity = next((name for name in item if name in ENTITIES), None)
            operation = item.get("operation", "")
            if entity is None or operation not in ("create", "update", "delete"):
                raise unsupported(f"batch operation {operation}")
            may_repeat = REPEATED_NUMBER in item.get("optionsData", "").lower()
            return {**key, entity: self._carry_out(call, entity, item[entity], operation, may_repeat=may_repeat)}
        except Refused as refused:
            return {**key, "Fault": refused.fault()}

    def _upload(self, call: Call) -> Answer:
        answers: list[Answer] = []
        for found in uploads.store(self._company, call.content_type, call.body):
            if isinstance(found, Refused):
                answers.append({"Fault": found.fault()})
            else:
                self._calls.write("attachable", "create")
                answers.append({"Attachable": self._shown(call, "Attachable", found)})
        return {"AttachableResponse": answers}


def _operation(entity: str, operation: str, include: list[str]) -> str:
    """What a write is to do. Invoices are voided by one way, other sales and payments by another. Raises Refused."""
    if operation not in OPERATIONS:
        raise unsupported(operation)
    if operation == "void" and entity not in writing.VOIDED_BY_OPERATION:
        raise unsupported(f"void of {entity}")
    if "void" not in include:
        return operation
    if operation != "update" or entity not in writing.VOIDED_BY_INCLUDE:
        raise unsupported(f"void of {entity}")
    return "void"


def _request_id(call: Call, length_max: int) -> str:
    request_id = call.parameters.get("requestid", "")
    if len(request_id) > length_max:
        raise too_long("requestid", length_max, len(request_id))
    return request_id
