"""QuickBooks Online over HTTP: one company, strict, stateful, under a clock. `build` makes one.

Written from the vendor's reference (https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/account);
what it leaves open and how it was chosen stands in samples/SOURCES.md.
"""

from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from bus.simulation.limits import CallLimit
from bus.simulation.simulator import Simulator
from bus.simulation.tokens import Issued, RefreshRefused, TokenDesk
from connectors.quickbooks import generator
from connectors.quickbooks.simulation import books, gates, screens
from connectors.quickbooks.simulation.company import Company
from connectors.quickbooks.simulation.desk import Call, Desk
from connectors.quickbooks.simulation.refusals import Refused, unsupported

REALM = "9130357849036726"
CLIENT_ID = "ABsimulatedQuickBooksClient0001"
CLIENT_SECRET = "quickbooks-simulator-secret"  # noqa: S105 - opens nothing but this simulator
LIMITS = (
    CallLimit("minute", 500, "sliding", 60),
    CallLimit("second", 10, "sliding", 1),
    CallLimit("batch minute", 40, "sliding", 60, path_part="/batch"),
)
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
OPTIONS = ("real_limits", "seed_data", "custom_txn_numbers", "missing_products", "rotate_refresh")


class QuickbooksSimulator(Simulator):
    """One company of one customer, seen by one registered app."""

    system = "quickbooks"
    guarded: ClassVar[tuple[str, ...]] = ("/v3/",)

    def __init__(
        self,
        *,
        real_limits: bool = False,
        seed_data: bool = True,
        custom_txn_numbers: bool = True,
        missing_products: bool = False,
        rotate_refresh: bool = True,
    ) -> None:
        super().__init__(real_limits=real_limits)
        self.limits = self.declare(*LIMITS)
        self.tokens = TokenDesk(
            self.clock,
            lifetime_s=gates.LIFETIME_S,
            refresh_lifetime_s=gates.REFRESH_LIFETIME_S,
            rotates=rotate_refresh,
            prefix="RT1",
        )
        self.company = Company(self.clock, custom_txn_numbers=custom_txn_numbers)
        self.desk = Desk(self.company, self.calls, REALM)
        self._missing_products = missing_products
        self._consent: Issued | None = None
        if seed_data:
            generator.references(self.company)

    # --- the base's hooks ----------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """OAuth, the API, files."""
        return [
            Route("/connect/oauth2", self._consent_page),
            Route("/oauth2/v1/tokens/bearer", self._token, methods=["POST"]),
            Route("/v2/oauth2/tokens/revoke", self._revoke, methods=["POST"]),
            Route("/v3/company/{realm}/{path:path}", self._api, methods=METHODS),
            Route("/files/{number}", self._file),
        ]

    def info(self, base_url: str) -> dict[str, Any]:
        """For a Connection and its secret folder. The refresh token stays the same until it is used."""
        if self._consent is None:
            self._consent = self.tokens.grant()
        return {
            "system": self.system,
            "base_url": base_url,
            "token_url": f"{base_url}/oauth2/v1/tokens/bearer",
            "config": {"realm_id": REALM, "environment": "production"},
            "credentials": {
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "refresh_token": self._consent.refresh_token,
            },
        }

    def books(self) -> dict[str, Any]:
        """Documents, customers and items in neutral form."""
        return books.books(self.company)

    def seed(self, orders: int, seed: int) -> None:
        """Reference lists, items, customers, and `orders` documents."""
        generator.seed(self.company, orders, seed, missing_products=self._missing_products)

    def edit(self, entity: str, object_id: str, fields: dict[str, Any]) -> None:
        """A change in the product's screens; see `screens.edit`."""
        screens.edit(self.company, entity, object_id, fields)

    def is_write(self, request: Request) -> bool:
        """Posts to the company, but for queries; the token endpoint does not write."""
        path = request.url.path
        return request.method not in ("GET", "HEAD") and path.startswith("/v3/") and not path.endswith("/query")

    def unauthorised(self, request: Request) -> Response:
        """The gateway's fault 3200."""
        detail = "Token expired, revoked, malformed or missing"
        return gates.gateway_fault(401, "3200", "AuthenticationFailed", detail, "AUTHENTICATION", self.clock.now())

    def throttled(self, request: Request, limit: CallLimit) -> Response:
        """429 in XML."""
        return gates.throttled(self.company.time())

    def not_found(self, request: Request) -> Response:
        """A fault for an unknown route."""
        return self._refusal(request, unsupported(f"{request.method} {request.url.path}"))

    def _refusal(self, request: Request, refused: Refused) -> Response:
        return gates.answer(request, {"Fault": refused.fault(), "time": self.company.time()}, refused.status)

    # --- OAuth ---------------------------------------------------------------------------------------------------------------

    async def _consent_page(self, request: Request) -> Response:
        """The user agrees at once; the realm comes back with the code."""
        asked = request.query_params
        if asked.get("response_type") != "code" or asked.get("client_id") != CLIENT_ID or "redirect_uri" not in asked:
            return gates.token_error(400, "invalid_request")
        back = {"code": self.tokens.code(), "realmId": REALM, **({"state": asked["state"]} if "state" in asked else {})}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", status_code=302)

    async def _token(self, request: Request) -> Response:
        """Exchange and refresh; the client names itself in the Basic header."""
        if gates.client_of(request) != (CLIENT_ID, CLIENT_SECRET):
            return gates.token_error(401, "invalid_client")
        form = {name: values[-1] for name, values in parse_qs((await request.body()).decode(), keep_blank_values=True).items()}
        kind = form.get("grant_type")
        if kind == "authorization_code":
            made = self.tokens.exchange(form.get("code", "")) if "redirect_uri" in form else None
            return gates.token_answer(made) if made else gates.token_error(400, "invalid_grant", "Invalid authorization code")
        if kind != "refresh_token":
            return gates.token_error(400, "unsupported_grant_type")
        try:
            issued = self.tokens.refresh(form.get("refresh_token", ""))
        except RefreshRefused:
            return gates.token_error(400, "invalid_grant", "Incorrect or invalid refresh token")
        if self._consent is not None and self._consent.refresh_token == form["refresh_token"] != issued.refresh_token:
            self._consent = None
        return gates.token_answer(issued)

    async def _revoke(self, request: Request) -> Response:
        if gates.client_of(request) != (CLIENT_ID, CLIENT_SECRET):
            return gates.token_error(401, "invalid_client")
        self.tokens.revoke_all()
        return Response(status_code=200)

    # --- the API -------------------------------------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        """Realm, then the call."""
        if request.path_params["realm"] != REALM:
            name, now = "ApplicationAuthorizationFailed", self.clock.now()
            return gates.gateway_fault(403, "3100", name, "The token is not for this company", "AUTHORIZATION", now)
        call = Call(
            method=request.method,
            parts=tuple(request.path_params["path"].split("/")),
            parameters=dict(request.query_params),
            content_type=request.headers.get("content-type", ""),
            body=await request.body(),
            base_url=str(request.base_url).rstrip("/"),
        )
        try:
            answer = self.desk.answer(call)
        except Refused as refused:
            return self._refusal(request, refused)
        if call.touched is not None:
            self.touch(request, *call.touched)
        return PlainTextResponse(answer) if isinstance(answer, str) else gates.answer(request, answer)

    async def _file(self, request: Request) -> Response:
        """What an attachment's address leads to, for whoever has it."""
        number = request.path_params["number"]
        row = self.company.find("Attachable", number)
        if row is None or number not in self.company.contents:
            return Response(status_code=404)
        return Response(self.company.contents[number], media_type=row["ContentType"])


def build(**options: Any) -> QuickbooksSimulator:
    """A simulator. Options: real_limits, seed_data, custom_txn_numbers, missing_products, rotate_refresh; others are ignored."""
    return QuickbooksSimulator(**{name: value for name, value in options.items() if name in OPTIONS})
