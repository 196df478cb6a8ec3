"""Exact Online over HTTP: strict, stateful, under a clock. `build` makes one.

Written from the vendor's reference (https://start.exactonline.nl/docs/HlpRestAPIResources.aspx) and observed traffic; what the
sources leave open and how it was chosen stands in samples/SOURCES.md.
"""

import json
import re
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode
from zoneinfo import ZoneInfo

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bus.simulation.limits import CallLimit, CallLimits
from bus.simulation.simulator import Simulator
from bus.simulation.tokens import Issued, RefreshRefused, TokenDesk
from connectors.exact_online import generator
from connectors.exact_online.simulation import books, functions, gates, reference, screens, writing
from connectors.exact_online.simulation.odata import Literal, literal
from connectors.exact_online.simulation.queries import parse_options, read_query
from connectors.exact_online.simulation.reading import Reader
from connectors.exact_online.simulation.refusals import Refused, bad_request, forbidden, not_found
from connectors.exact_online.simulation.sets import SETS, VIEWS, EntitySet, View
from connectors.exact_online.simulation.state import Division, Row

LIFETIME_S, EARLIEST_S, REFRESH_LIFETIME_S = 600, 570, 30 * 86_400
CALLS_PER_MINUTE, CALLS_PER_DAY = 60, 5_000
RAISED = 10_000
"""Factor on the limits where they are not to be felt."""
PLACE = re.compile(r"(?P<set>[A-Za-z/]+)(\((?P<key>[^()]*)\))?(/(?P<child>[A-Za-z]+|\$count))?")
METHODS = ["GET", "POST", "PUT", "DELETE"]
ATOM = b'<?xml version="1.0" encoding="utf-8"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Exact Online</title></feed>'
PIXEL = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
ENCODER = msgspec.json.Encoder(decimal_format="number")


class ExactOnlineSimulator(Simulator):
    """One division of one customer, seen by one registered app."""

    system = "exact_online"

    def __init__(
        self,
        *,
        division: int = 987654,
        real_limits: bool = False,
        error_block: bool | None = None,
        line_delay_s: float = 0,
        search_lag_s: float = 0,
        mandatory_filter: bool = True,
        denied: tuple[str, ...] = (),
        zone: str = "Europe/Amsterdam",
        client_id: str = "3f0c6a51-1111-4a2b-9c3d-000000000001",
        client_secret: str = "exact-simulator-secret",  # noqa: S107 - opens nothing but this simulator
    ) -> None:
        super().__init__(real_limits=real_limits)
        factor = 1 if real_limits else RAISED
        minute = CallLimit("minute", CALLS_PER_MINUTE * factor, "clock_minute")
        self.limits = CallLimits(self.clock, [minute, CallLimit("day", CALLS_PER_DAY * factor, "utc_day")])
        self.tokens = TokenDesk(
            self.clock,
            lifetime_s=LIFETIME_S,
            refresh_lifetime_s=REFRESH_LIFETIME_S,
            rotates=True,
            not_before_s=EARLIEST_S,
            prefix="stampNL001",
        )
        self.budget = gates.ErrorBudget(self.clock, enabled=real_limits if error_block is None else error_block)
        self.division = Division(division, self.clock, ZoneInfo(zone))
        reference.fill(self.division)
        self.division.line_delay_s, self.division.search_lag_s = line_delay_s, search_lag_s
        self.served = books.Served(self.division, self.calls)
        self._client = (client_id, client_secret)
        self._mandatory_filter = mandatory_filter
        self._denied = {path.lower() for path in denied}
        self._consent: Issued | None = None
        self._codes: set[str] = set()

    # --- the base's hooks ----------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """OAuth, the API, pictures."""
        return [
            Route("/api/oauth2/auth", self._consent_page),
            Route("/api/oauth2/token", self._token, methods=["POST"]),
            Route("/api/v1/{path:path}", self._api, methods=METHODS),
            Route("/docs/SysImage.aspx", self._image),
            Route("/docs/images/{name}", self._placeholder),
            Route("//docs/images/{name}", self._placeholder),
        ]

    def info(self, base_url: str) -> dict[str, Any]:
        """For a Connection and its secret folder. The refresh token stays the same until it is used."""
        if self._consent is None:
            self._consent = self.tokens.grant()
        client_id, client_secret = self._client
        return {
            "system": self.system,
            "base_url": base_url,
            "token_url": f"{base_url}/api/oauth2/token",
            "config": {"region": "nl", "division": self.division.number},
            "credentials": {
                "client_id": client_id,
                "client_secret": client_secret,
                "refresh_token": self._consent.refresh_token,
            },
        }

    def books(self) -> dict[str, Any]:
        """Orders, customers and items in neutral form."""
        return books.books(self.division)

    def seed(self, orders: int, seed: int) -> None:
        """The catalogue, customers, and a third of `orders` as sales orders."""
        generator.seed(self.division, orders, seed)

    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        """A change in the vendor's screens; see `screens.edit`."""
        screens.edit(self.division, entity, object_id, fields)

    def is_write(self, request: Request) -> bool:
        """Only API calls write; the token endpoint does not."""
        return request.method != "GET" and request.url.path.startswith("/api/v1/")

    def not_found(self, request: Request) -> Response:
        """The envelope of an unknown segment."""
        return _refusal(not_found(request.url.path.rsplit("/", 1)[-1]))

    # --- OAuth ---------------------------------------------------------------------------------------------------------------

    async def _consent_page(self, request: Request) -> Response:
        """The user agrees at once."""
        asked = request.query_params
        if asked.get("response_type") != "code" or not self._is_client(asked.get("client_id")) or "redirect_uri" not in asked:
            return gates.token_error(400, "invalid_request")
        code = self.tokens.code()
        self._codes.add(code)
        back = {"code": code, **({"state": asked["state"]} if "state" in asked else {})}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", status_code=302)

    async def _token(self, request: Request) -> Response:
        """Exchange and refresh, credentials in the form."""
        form = {name: values[-1] for name, values in parse_qs((await request.body()).decode(), keep_blank_values=True).items()}
        if not self._is_client(form.get("client_id")) or form.get("client_secret") != self._client[1]:
            return gates.token_error(400, "invalid_request")
        if form.get("grant_type") == "authorization_code":
            return self._exchange(form)
        if form.get("grant_type") != "refresh_token" or "refresh_token" not in form:
            return gates.token_error(400, "invalid_request")
        try:
            issued = self.tokens.refresh(form["refresh_token"])
        except RefreshRefused as refused:
            return gates.refresh_error(refused, self.clock.now())
        if self._consent is not None and self._consent.refresh_token == form["refresh_token"]:
            self._consent = None
        return gates.token_answer(issued, LIFETIME_S)

    def _exchange(self, form: dict[str, str]) -> Response:
        if "redirect_uri" not in form:
            return gates.token_error(400, "invalid_request")
        code = form.get("code", "")
        if code in self._codes:
            # A second consent of the same app and user breaks the older chain.
            self._codes.discard(code)
            self.tokens.revoke_all()
            self._consent = None
        issued = self.tokens.exchange(code)
        if issued is None:
            return gates.token_error(400, "invalid_request")
        return gates.token_answer(issued, LIFETIME_S)

    def _is_client(self, client_id: str | None) -> bool:
        return client_id is not None and client_id.strip("{}").lower() == self._client[0]

    def _authorize(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.tokens.is_valid(token):
            raise Refused(401, None)

    # --- the API -------------------------------------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        """Token, error budget, call limits, then the call."""
        path, body = request.path_params["path"], await request.body()
        endpoint = re.sub(r"\(.*", "", re.sub(r"^\d+/", "", path)).lower()
        try:
            self._authorize(request)
            if self.budget.is_blocked(endpoint):
                raise forbidden("Forbidden - too many errors for this endpoint", "EndpointBlocked")
            exceeded = self.limits.take()
            if exceeded is not None:
                return gates.throttled(exceeded)
            answer = self._call(request, path, body)
        except Refused as refused:
            answer = _refusal(refused)
        self.budget.note(endpoint, answer.status_code)
        if answer.status_code != 401:
            answer.headers.update(gates.limit_headers(self.limits.limits))
        return answer

    def _call(self, request: Request, path: str, body: bytes) -> Response:
        if path.lower() != "current/me":
            number, _, path = path.partition("/")
            if number != str(self.division.number):
                raise forbidden("Forbidden", "NoDivisionAccess")
        lower = path.lower()
        if any(lower.startswith(denied) for denied in self._denied):
            area = lower.split("/", 1)[0]
            raise forbidden(f"Forbidden - Application Scope Violated. Cannot read '{area}' scope.")
        query = request.url.query
        if lower in functions.QUERIES and request.method == "GET":
            return _json(200, functions.QUERIES[lower](self.division, query), request)
        if lower in functions.ACTIONS and request.method == "POST":
            name, act = functions.ACTIONS[lower]
            result = act(self.division, _body(body, request))
            self.calls.write(name, "POST")
            return _json(201, result, request)
        place = PLACE.fullmatch(path)
        view = VIEWS.get(place["set"].lower()) if place else None
        if place is None or view is None:
            raise not_found(path.split("(", 1)[0].rsplit("/", 1)[-1])
        if request.method == "GET":
            return self._read(request, view, place["key"], place["child"], query)
        return self._write(request, view, place["key"], body)

    def _reader(self, request: Request) -> Reader:
        return Reader(self.division, str(request.base_url).rstrip("/"), self.served)

    def _row(self, view: View, key: str) -> Row:
        if view.family == "sync":
            raise not_found(view.path.rsplit("/", 1)[-1])
        given = Literal("text", key) if key.isdigit() else literal(key)
        row = self.division.get(view.base.path, str(given.value))
        if row is None:
            raise not_found(view.base.segment)
        return row

    def _read(self, request: Request, view: View, key: str | None, child: str | None, query_text: str) -> Response:
        reader, options = self._reader(request), parse_options(query_text)
        if key is None and child is None:
            self._set_time(view)
            query = read_query(view, options, mandatory_filter=self._mandatory_filter)
            return _json(200, reader.page(view, query, options), request)
        if key is None:
            if child != "$count":
                raise not_found(child or "")
            query = read_query(view, {**options, "$select": view.base.key}, mandatory_filter=self._mandatory_filter)
            return Response(str(reader.count(view, query)), media_type="text/plain")
        row = self._row(view, key)
        if child is None:
            query = read_query(view, options, by_key=True)
            return _json(200, {"d": reader.entity(view, row, query)}, request)
        if child not in view.base.children:
            raise not_found(child)
        path, link = view.base.children[child]
        nested = VIEWS[path.lower()]
        rows = self.division.table(path).by(link, row.id)
        return _json(200, reader.page(nested, read_query(nested, options), options, rows), request)

    def _set_time(self, view: View) -> None:
        if view.path == "current/Me":
            for row in self.division.table("current/Me").rows.values():
                row.values["ServerTime"] = self.division.local().isoformat(timespec="seconds")
                row.values["ServerUtcOffset"] = Decimal(self.division.utc_offset_s())

    def _write(self, request: Request, view: View, key: str | None, body: bytes) -> Response:
        entity_set, verb = view.base, request.method
        if view.family != "plain" or verb not in entity_set.verbs:
            raise writing.refused_verb(verb, entity_set)
        if (key is None) != (verb == "POST"):
            raise writing.refused_verb(verb, entity_set)
        if request.url.query:
            raise bad_request("Query options are not allowed on a write.")
        if key is None:
            row = writing.create(self.division, entity_set, _body(body, request))
            self.calls.write(entity_set.path, verb)
            return _json(201, {"d": self._created(request, entity_set, row)}, request)
        row = self._row(view, key)
        if verb == "PUT":
            writing.update(self.division, entity_set, row, _body(body, request))
        else:
            writing.delete(self.division, entity_set, row)
        self.calls.write(entity_set.path, verb)
        return Response(status_code=204)

    def _created(self, request: Request, entity_set: EntitySet, row: Row) -> dict[str, Any]:
        reader = self._reader(request)
        if entity_set.thin and "return=representation" not in request.headers.get("prefer", ""):
            return reader.thin(entity_set, row)
        view = VIEWS[entity_set.path.lower()]
        return reader.entity(view, row, read_query(view, {}, by_key=True))

    # --- pictures ------------------------------------------------------------------------------------------------------------

    async def _image(self, request: Request) -> Response:
        """An item's picture; the bearer token is needed here too."""
        try:
            self._authorize(request)
            exceeded = self.limits.take()
            if exceeded is not None:
                return gates.throttled(exceeded)
            row = self.division.get(SETS["logistics/Items"].path, request.query_params.get("ID"))
            if request.query_params.get("Table") != "Items" or row is None or not row.picture:
                raise not_found("SysImage")
        except Refused as refused:
            return _refusal(refused)
        kind = "image/png" if row.picture.startswith(b"\x89PNG") else "image/jpeg"
        return Response(row.picture, media_type=kind, headers=gates.limit_headers(self.limits.limits))

    async def _placeholder(self, _request: Request) -> Response:
        return Response(PIXEL, media_type="image/gif")


def _body(body: bytes, request: Request) -> Any:
    """A JSON body, numbers exact. Raises Refused (400)."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise bad_request("Error processing request stream. The content type of the request is not supported.")
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, UnicodeDecodeError):
        raise bad_request("Error processing request stream. The request body is not valid JSON.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _json(status: int, body: dict[str, Any], request: Request) -> Response:
    """JSON for those who ask for it; Atom XML for the rest, as the vendor does."""
    if "application/json" not in request.headers.get("accept", ""):
        return Response(ATOM, status_code=status, media_type="application/atom+xml")
    return Response(ENCODER.encode(body), status_code=status, media_type="application/json")


def _refusal(refused: Refused) -> Response:
    headers = {"Reason": refused.reason} if refused.reason else {}
    body = refused.body()
    if body is None:
        return Response(status_code=refused.status, headers=headers)
    return Response(ENCODER.encode(body), status_code=refused.status, headers=headers, media_type="application/json")


def build(**options: Any) -> ExactOnlineSimulator:
    """A simulator. Options: division, real_limits, error_block, line_delay_s, search_lag_s, mandatory_filter, denied, zone,
    client_id, client_secret.
    """
    return ExactOnlineSimulator(**options)
