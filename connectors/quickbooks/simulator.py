"""The QuickBooks Online simulator: a company over HTTP, as the vendor documents it.

https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/account
"""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, ClassVar
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.simulation.limits import CallLimit
from bus.simulation.simulator import Simulator
from bus.simulation.tokens import RefreshRefused, TokenDesk
from connectors.quickbooks import generator
from connectors.quickbooks.simulation import books
from connectors.quickbooks.simulation.company import ENTITIES, PEOPLE, SALES, TRANSACTIONS, Company
from connectors.quickbooks.simulation.query import parse
from connectors.quickbooks.simulation.refusals import Refused, missing, query_error

REALM = "9130357849036726"
CLIENT = ("ABqboSimulatorClient0001", "qbo-simulator-secret-0001")
LOOK_BACK_DAYS = 30
CDC_ROWS_MAX = 1000
BATCH_MAX = 30
PATHS = {name.lower(): name for name in ENTITIES}
CANONICAL = {"Customer": "customer", "Estimate": "sales_invoice", **dict.fromkeys(SALES[:4], "sales_invoice")}

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class QuickbooksSimulator(Simulator):
    """One realm."""

    system = "quickbooks"
    guarded: ClassVar[tuple[str, ...]] = ("/v3/",)

    def __init__(
        self, *, real_limits: bool = False, custom_txn_numbers: bool = True, rotate_refresh: bool = True, country: str = "NL"
    ) -> None:
        super().__init__(real_limits=real_limits)
        self.tokens = TokenDesk(self.clock, lifetime_s=3600, refresh_lifetime_s=8_726_400, rotates=rotate_refresh, prefix="qbo")
        self.limits = self.declare(CallLimit("minute", 500, "sliding", 60), CallLimit("second", 10, "sliding", 1))
        self.company = Company(self.clock, custom_txn_numbers=custom_txn_numbers, country=country)
        self._refresh_token: str | None = None
        generator.references(self.company)

    # --- frame -------------------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Token endpoint and company."""
        root = f"/v3/company/{REALM}"
        return [
            Route("/oauth2/v1/tokens/bearer", self._token, methods=["POST"]),
            Route(f"{root}/query", self._answered(self._query), methods=["GET", "POST"]),
            Route(f"{root}/cdc", self._answered(self._cdc)),
            Route(f"{root}/batch", self._answered(self._batch), methods=["POST"]),
            Route(f"{root}/upload", self._answered(self._upload), methods=["POST"]),
            Route(f"{root}/companyinfo/{REALM}", self._answered(self._company_info)),
            Route(f"{root}/preferences", self._answered(self._preferences)),
            Route(f"{root}/{{entity}}/{{object_id}}", self._answered(self._read)),
            Route(f"{root}/{{entity}}", self._answered(self._write), methods=["POST"]),
        ]

    def info(self, base_url: str) -> dict[str, Any]:
        """A refresh token stays the same until it is used."""
        if self._refresh_token is None:
            self._refresh_token = self.tokens.grant().refresh_token
        return {
            "system": self.system,
            "base_url": base_url,
            "token_url": f"{base_url}/oauth2/v1/tokens/bearer",
            "config": {"realm_id": REALM, "environment": "production"},
            "credentials": {"client_id": CLIENT[0], "client_secret": CLIENT[1], "refresh_token": self._refresh_token},
        }

    def is_write(self, request: Request) -> bool:
        """Queries may come by POST."""
        return request.method == "POST" and request.url.path.startswith("/v3/") and not request.url.path.endswith("/query")

    def unauthorised(self, request: Request) -> Response:
        """The gateway's own fault, with small letters."""
        error = {
            "message": "message=AuthenticationFailed; errorCode=003200; statusCode=401",
            "detail": "Token expired",
            "code": "3200",
        }
        return JSONResponse({"warnings": None, "fault": {"error": [error], "type": "AUTHENTICATION"}, "time": 0}, status_code=401)

    def throttled(self, request: Request, limit: CallLimit) -> Response:
        """XML, although JSON was asked."""
        body = (
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
            '<IntuitResponse xmlns="http://schema.intuit.com/finance/v3">'
            '<Fault type="SERVICE"><Error code="3001">'
            "<Message>message=ThrottleExceeded; errorCode=003001; statusCode=429</Message>"
            "<Detail>The request limit was reached.  Try again later</Detail></Error></Fault></IntuitResponse>"
        )
        return Response(body, status_code=429, media_type="application/xml")

    def books(self) -> dict[str, Any]:
        """Sales, customers and items in neutral form."""
        return books.books(self.company)

    def seed(self, orders: int, seed: int) -> None:
        """Items, customers and `orders` documents."""
        generator.seed(self.company, orders, seed)

    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        """A change in the vendor's screens, with the vendor's member names; `_delete` deletes or makes inactive."""
        kind, _, number = object_id.rpartition(":")
        name = kind or {"customer": "Customer", "product": "Item", "product_category": "Item", "sales_invoice": "Invoice"}[entity]
        row = self.company.row(name, number)
        if fields.get("_delete") and name in TRANSACTIONS:
            self.company.remove(name, number)
            return
        change = {"Active": False} if fields.get("_delete") else fields
        self.company.update(name, {"Id": number, "SyncToken": row["SyncToken"], "sparse": True, **change})

    def _answered(self, work: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                return self._json(await work(request))
            except Refused as refused:
                return self._json(refused.body(self._time()), refused.status)

        return endpoint

    def _json(self, body: Any, status: int = 200) -> Response:
        return Response(_ENCODER.encode(body), status_code=status, media_type="application/json", headers={"intuit_tid": "1-sim"})

    def _time(self) -> str:
        return self.company.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "-00:00")

    # --- OAuth ---------------------------------------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        expected = "Basic " + base64.b64encode(":".join(CLIENT).encode()).decode()
        if request.headers.get("authorization") != expected:
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        form = {name: values[-1] for name, values in parse_qs((await request.body()).decode()).items()}
        try:
            if form.get("grant_type") == "authorization_code":
                issued = self.tokens.exchange(form.get("code", ""))
            else:
                issued = self.tokens.refresh(form.get("refresh_token", ""))
        except RefreshRefused:
            issued = None
        if issued is None:
            return JSONResponse(
                {"error": "invalid_grant", "error_description": "Incorrect or invalid refresh token"}, status_code=400
            )
        self._refresh_token = issued.refresh_token if self._refresh_token != form.get("refresh_token") else None
        return JSONResponse(
            {
                "token_type": "bearer",
                "access_token": issued.access_token,
                "expires_in": 3600,
                "refresh_token": issued.refresh_token,
                "x_refresh_token_expires_in": 8_726_400,
            }
        )

    # --- reading -------------------------------------------------------------------------------------------------------------

    async def _company_info(self, _request: Request) -> Any:
        company = self.company
        info = {
            "CompanyName": "Simulated Company B.V.", "LegalName": "Simulated Company B.V.", "Country": company.country, "Id": "1",
            "SyncToken": "0", "CompanyAddr": {"Country": company.country}, "DefaultTimeZone": "Europe/Amsterdam",
            "NameValue": [{"Name": "ItemCategoriesFeature", "Value": "true"}],
        }  # fmt: skip
        return {"CompanyInfo": info, "time": self._time()}

    async def _preferences(self, _request: Request) -> Any:
        company = self.company
        accounting = {"BookCloseDate": company.close_date} if company.close_date else {}
        sales = {
            "CustomTxnNumbers": company.custom_txn_numbers,
            "AllowShipping": True,
            "AllowDiscount": True,
            "AllowEstimates": True,
        }
        preferences = {
            "SalesFormsPrefs": sales,
            "CurrencyPrefs": {"MultiCurrencyEnabled": True, "HomeCurrency": {"value": company.home}},
            "TaxPrefs": {"UsingSalesTax": True},
            "ProductAndServicesPrefs": {"ForSales": True, "QuantityOnHand": True},
            "AccountingInfoPrefs": accounting,
        }
        return {"Preferences": preferences, "time": self._time()}

    async def _query(self, request: Request) -> Any:
        statement = (await request.body()).decode() if request.method == "POST" else request.query_params.get("query", "")
        return {"QueryResponse": self._select(statement), "time": self._time()}

    def _select(self, statement: str) -> dict[str, Any]:
        query = parse(statement)
        rows = self.company.select(query)
        if query.is_count:
            return {"totalCount": len(rows)}
        page = [self.company.shown(row) for row in rows[query.start - 1 : query.start - 1 + query.most]]
        self._serve(query.entity, page)
        return {query.entity: page, "startPosition": query.start, "maxResults": len(page)} if page else {}

    async def _cdc(self, request: Request) -> Any:
        try:
            since = datetime.fromisoformat(request.query_params["changedSince"].replace(" ", "+"))
        except (KeyError, ValueError):
            raise missing("changedSince") from None
        if since.tzinfo is None:
            raise missing("changedSince offset")
        if self.clock.now() - since > timedelta(days=LOOK_BACK_DAYS):
            raise query_error(f"changedSince is more than {LOOK_BACK_DAYS} days ago")
        left, answers = CDC_ROWS_MAX, []
        for name in filter(None, request.query_params.get("entities", "").split(",")):
            if name not in ENTITIES or name in ("TaxCode", "TaxRate"):
                raise query_error(f"entity {name} is not supported by change data capture")
            rows = self.company.changed(name, since)[:left]
            left -= len(rows)
            self._serve(name, [row for row in rows if row.get("status") != "Deleted"])
            answers.append({name: rows, "startPosition": 1, "maxResults": len(rows)} if rows else {})
        return {"CDCResponse": [{"QueryResponse": answers}], "time": self._time()}

    async def _read(self, request: Request) -> Any:
        entity = self._entity(request)
        row = self.company.shown(self.company.row(entity, request.path_params["object_id"]))
        self._serve(entity, [row])
        return {entity: row, "time": self._time()}

    def _serve(self, entity: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if name := _canonical(entity, row):
                self.calls.serve(name)

    def _entity(self, request: Request) -> str:
        entity = PATHS.get(request.path_params["entity"])
        if entity is None:
            raise query_error(f"unknown resource {request.path_params['entity']}")
        return entity

    # --- writing -------------------------------------------------------------------------------------------------------------

    async def _write(self, request: Request) -> Any:
        entity = self._entity(request)
        body = _DECODER.decode(await request.body())
        parameters = request.query_params
        operation = parameters.get("operation", "")
        if operation == "update" and parameters.get("include") == "void":
            operation = "void"
        return self._carry_out(entity, body, operation, parameters.get("requestid"))

    def _carry_out(self, entity: str, body: dict[str, Any], operation: str, request_id: str | None) -> dict[str, Any]:
        if request_id and request_id in self.company.replays:
            return self.company.replays[request_id]
        verb, row = self._do(entity, body, operation)
        if name := _canonical(entity, row if "Line" in row or "Type" in row or entity in PEOPLE else {"Type": ""}):
            self.calls.write(name, verb)
        answer = {entity: row if verb == "delete" else self.company.shown(row), "time": self._time()}
        if request_id:
            self.company.replays[request_id] = answer
        return answer

    def _do(self, entity: str, body: dict[str, Any], operation: str) -> tuple[str, dict[str, Any]]:
        if operation == "delete":
            return "delete", self.company.delete(entity, body)
        if operation == "void":
            return "update", self.company.void(entity, body)
        if body.get("Id") is not None:
            return "update", self.company.update(entity, body)
        return "create", self.company.create(entity, body)

    async def _batch(self, request: Request) -> Any:
        items = _DECODER.decode(await request.body()).get("BatchItemRequest", [])
        if len(items) > BATCH_MAX:
            raise Refused("1040", "Too many batch items", f"at most {BATCH_MAX}")
        return {"BatchItemResponse": [self._batch_item(item) for item in items], "time": self._time()}

    def _batch_item(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            if "Query" in item:
                return {"bId": item["bId"], "QueryResponse": self._select(item["Query"])}
            entity = next(name for name in item if name in ENTITIES)
            operation = item.get("operation", "create")
            answer = self._carry_out(entity, item[entity], operation if operation in ("delete", "void") else "", None)
            return {"bId": item["bId"], entity: answer[entity]}
        except Refused as refused:
            return {"bId": item["bId"], "Fault": refused.body("")["Fault"]}

    async def _upload(self, request: Request) -> Any:
        """Multipart: a JSON part with the metadata, a part with the bytes."""
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + await request.body())
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        answers = []
        for name, part in parts.items():
            if not str(name).startswith("file_metadata"):
                continue
            content: Any = parts[str(name).replace("metadata", "content")].get_payload(decode=True)
            metadata: Any = part.get_payload(decode=True)
            row = self.company.create("Attachable", {**msgspec.json.decode(metadata), "Size": len(content or b"")})
            self.calls.write("attachable", "create")
            answers.append({"Attachable": row})
        return {"AttachableResponse": answers, "time": self._time()}


def _canonical(entity: str, row: Mapping[str, Any]) -> str | None:
    if entity == "Item":
        return "product_category" if row.get("Type") == "Category" else "product"
    return CANONICAL.get(entity)


def build(**options: Any) -> QuickbooksSimulator:
    """A company with its reference lists; `seed` fills it."""
    return QuickbooksSimulator(**options)
