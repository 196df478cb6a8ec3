"""The simulator refuses what the vendor refuses: one test per rule."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from exactonline import rawapi
from exactonline.api import ExactApi
from exactonline.exceptions import ObjectDoesNotExist
from exactonline.http import Options
from exactonline.storage import ExactOnlineConfig, MissingSetting

from bus.simulation.faults import Fault
from bus.simulation.simulator import InProcess, Served
from connectors.exact_online.simulator import ExactOnlineSimulator, build

SUMMER = datetime(2026, 7, 14, 8, 30, tzinfo=UTC)
UNKNOWN = "11111111-2222-4333-8444-555555555555"


class Api:
    """The documented calls, with the exact numbers of the answers."""

    def __init__(self, simulator: ExactOnlineSimulator, client: httpx.AsyncClient, credentials: dict[str, str]) -> None:
        self.sim = simulator
        self.client = client
        self.credentials = credentials
        self.headers = {"Accept": "application/json"}
        self.prefix = f"/api/v1/{simulator.division.number}/"

    async def token(self, **form: str) -> httpx.Response:
        secrets = {name: self.credentials[name] for name in ("client_id", "client_secret")}
        return await self.client.post("/api/oauth2/token", data={**secrets, **form})

    async def refresh(self) -> httpx.Response:
        answer = await self.token(grant_type="refresh_token", refresh_token=self.credentials["refresh_token"])
        if answer.status_code == 200:
            self.credentials["refresh_token"] = answer.json()["refresh_token"]
            self.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        url = path if path.startswith(("http", "/")) else self.prefix + path
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        return await self.client.request(method, url, content=content, headers={**self.headers, **kind, **headers})

    async def rows(self, path: str) -> list[dict[str, Any]]:
        answer = await self.call("GET", path)
        assert answer.status_code == 200, answer.text
        inner = json.loads(answer.text, parse_float=Decimal)["d"]
        return inner if isinstance(inner, list) else inner["results"]

    async def one(self, path: str) -> dict[str, Any]:
        answer = await self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal)["d"]

    async def create(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.call("POST", path, body)
        assert answer.status_code == 201, answer.text
        return json.loads(answer.text, parse_float=Decimal)["d"]

    async def account(self, **fields: Any) -> str:
        return (await self.create("crm/Accounts", **{"Name": "Van Dijk", "Status": "C", **fields}))["ID"]

    async def item(self, code: str = "LAMP", **fields: Any) -> str:
        body = {"Code": code, "Description": "Hanglamp", "SalesVatCode": "2", **fields}
        return (await self.create("logistics/Items", **body))["ID"]

    async def order(self, lines: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
        buyer = fields.pop("OrderedBy", None) or await self.account()
        if lines is None:
            lines = [{"Item": await self.item(f"SKU-{buyer[:8]}"), "Quantity": 2, "NetPrice": 79, "VATCode": "2"}]
        return await self.create("salesorder/SalesOrders", OrderedBy=buyer, SalesOrderLines=lines, **fields)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    clients: list[httpx.AsyncClient] = []

    async def make(**options: Any) -> Api:
        simulator = build(**options)
        simulator.clock.freeze(SUMMER)
        inside = InProcess(simulator)
        client = httpx.AsyncClient(transport=inside.transport, base_url=inside.base_url)
        clients.append(client)
        api = Api(simulator, client, inside.info["credentials"])
        assert (await api.refresh()).status_code == 200
        return api

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def api(start: Callable[..., Any]) -> Api:
    return await start()


def words(answer: httpx.Response) -> str:
    """The envelope's text; the envelope's shape is checked on the way."""
    body = answer.json()
    assert set(body) == {"error"}
    assert body["error"]["code"] == ""
    assert set(body["error"]["message"]) == {"lang", "value"}
    return body["error"]["message"]["value"]


# --- tokens --------------------------------------------------------------------------------------------------------------------


async def test_token_lifetime_is_a_string_and_the_pair_rotates(api: Api) -> None:
    before = api.credentials["refresh_token"]
    api.sim.clock.advance(570)
    body = (await api.refresh()).json()
    assert body["expires_in"] == "600"
    assert body["token_type"] == "bearer"
    assert body["refresh_token"] != before


async def test_refresh_before_570_s_is_refused_and_nothing_is_lost(api: Api) -> None:
    api.sim.clock.advance(569)
    early = await api.refresh()
    assert early.status_code == 400
    assert early.headers["Reason"] == "TooEarlyToRefreshTokens: Rate limit exceeded: access_token not expired"
    assert early.json()["error"] == "access_denied"
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 200
    api.sim.clock.advance(1)
    assert (await api.refresh()).status_code == 200


async def test_reused_refresh_token_breaks_the_chain(api: Api) -> None:
    old = api.credentials["refresh_token"]
    api.sim.clock.advance(570)
    await api.refresh()
    again = await api.token(grant_type="refresh_token", refresh_token=old)
    assert again.status_code == 401
    assert again.json() == {"error": "unauthorized_client", "error_description": "Old refresh token used."}
    api.sim.clock.advance(570)
    broken = await api.refresh()
    assert broken.status_code == 400
    assert broken.json()["error"] == "invalid_grant"
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 401


async def test_refresh_token_ends_after_30_days(api: Api) -> None:
    api.sim.clock.advance(30 * 86_400 + 1)
    over = await api.refresh()
    assert over.status_code == 400
    assert over.json()["error"] == "invalid_request"
    assert over.json()["error_description"].startswith("The refresh token expired at 8/13/2026 8:30:00 AM and it is now")


async def test_access_token_ends_after_600_s_with_an_empty_401(api: Api) -> None:
    api.sim.clock.advance(599)
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 200
    api.sim.clock.advance(1)
    over = await api.call("GET", "/api/v1/current/Me")
    assert (over.status_code, over.content) == (401, b"")


async def test_code_works_once_and_a_second_consent_breaks_the_first(api: Api) -> None:
    asked = {"client_id": "{3f0c6a51-1111-4a2b-9c3d-000000000001}", "redirect_uri": "https://bus.example/back"}
    page = await api.client.get("/api/oauth2/auth", params={**asked, "response_type": "code", "state": "s 1"})
    back = httpx.URL(page.headers["location"])
    assert (page.status_code, back.host, back.params["state"]) == (302, "bus.example", "s 1")
    form = {"grant_type": "authorization_code", "code": back.params["code"], "redirect_uri": asked["redirect_uri"]}
    assert (await api.token(**form)).status_code == 200
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 401
    second = await api.token(**form)
    assert (second.status_code, second.json()["error"]) == (400, "invalid_request")


async def test_wrong_client_is_refused(api: Api) -> None:
    wrong = await api.token(client_secret="nope", grant_type="refresh_token", refresh_token=api.credentials["refresh_token"])
    assert (wrong.status_code, wrong.json()) == (400, {"error": "invalid_request"})


async def test_info_keeps_its_refresh_token_until_it_is_used() -> None:
    simulator = build(division=42)
    first = simulator.info("http://x:1")
    assert first["credentials"] == simulator.info("http://x:1")["credentials"]
    assert first["config"] == {"region": "nl", "division": 42}
    assert first["token_url"] == "http://x:1/api/oauth2/token"


# --- limits --------------------------------------------------------------------------------------------------------------------


async def test_minute_limit_answers_429_with_only_its_own_headers_and_no_body(start: Callable[..., Any]) -> None:
    api = await start(real_limits=True)
    for left in range(59, -1, -1):
        answer = await api.call("GET", "/api/v1/current/Me")
        assert answer.headers["X-RateLimit-Minutely-Remaining"] == str(left)
    assert answer.headers["X-RateLimit-Minutely-Reset"] == str(int(SUMMER.timestamp() + 60) * 1000)
    assert answer.headers["X-RateLimit-Remaining"] == "4940"
    assert answer.headers["X-RateLimit-Reset"] == str(int(datetime(2026, 7, 15, tzinfo=UTC).timestamp()) * 1000)
    over = await api.call("GET", "/api/v1/current/Me")
    assert (over.status_code, over.content) == (429, b"")
    assert "X-RateLimit-Minutely-Limit" in over.headers
    assert "X-RateLimit-Limit" not in over.headers
    assert api.sim.calls.calls[-1]["limit_exceeded"]
    api.sim.clock.advance(60)
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 200


async def test_day_limit_answers_with_only_the_daily_headers(start: Callable[..., Any]) -> None:
    api = await start(real_limits=True)
    api.sim.limits.limits[1].calls = 1
    assert (await api.call("GET", "/api/v1/current/Me")).status_code == 200
    over = await api.call("GET", "/api/v1/current/Me")
    assert over.status_code == 429
    assert over.headers["X-RateLimit-Limit"] == "1"
    assert "X-RateLimit-Minutely-Limit" not in over.headers


async def test_limits_are_raised_unless_asked_for(api: Api) -> None:
    answer = await api.call("GET", "/api/v1/current/Me")
    assert int(answer.headers["X-RateLimit-Minutely-Limit"]) > 60


async def test_more_than_ten_errors_an_hour_block_the_endpoint(start: Callable[..., Any]) -> None:
    api = await start(error_block=True)
    missing = f"crm/Accounts(guid'{UNKNOWN}')"
    for _ in range(11):
        assert (await api.call("GET", missing)).status_code == 404
    blocked = await api.call("GET", "crm/Accounts?$filter=Code eq '1'&$select=ID")
    assert (blocked.status_code, blocked.headers["Reason"]) == (403, "EndpointBlocked")
    assert (await api.call("GET", "vat/VATCodes")).status_code == 200
    api.sim.clock.advance(3600)
    await api.refresh()
    assert (await api.call("GET", "crm/Accounts?$filter=Code eq '1'&$select=ID")).status_code == 200


async def test_ten_errors_spread_over_more_than_an_hour_block_nothing(start: Callable[..., Any]) -> None:
    api = await start(error_block=True)
    for _ in range(12):
        assert (await api.call("GET", f"crm/Accounts(guid'{UNKNOWN}')")).status_code == 404
        api.sim.clock.advance(571)
        await api.refresh()
    assert (await api.call("GET", f"crm/Accounts(guid'{UNKNOWN}')")).status_code == 404


# --- envelopes, pages, queries -------------------------------------------------------------------------------------------------


async def test_collection_has_results_and_top_gives_a_bare_array(api: Api) -> None:
    full = (await api.call("GET", "vat/VATCodes?$select=Code")).json()["d"]
    assert set(full) == {"results"}
    bare = (await api.call("GET", "vat/VATCodes?$select=Code&$top=2")).json()["d"]
    assert isinstance(bare, list)
    assert len(bare) == 2
    wide = (await api.call("GET", "vat/VATCodes?$select=Code&$top=100")).json()["d"]
    assert set(wide) == {"results"}
    none = await api.rows("crm/Accounts?$filter=Code eq '0'&$select=ID")
    assert none == []


async def test_pages_of_60_follow_each_other_by_skiptoken_and_top_counts_down(api: Api) -> None:
    for n in range(130):
        await api.item(f"P-{n:03d}")
    url: str | None = "logistics/Items?$filter=startswith(Code,'P-')&$orderby=Modified desc&$select=ID,Code,Modified&$top=100"
    sizes, codes = [], []
    while url:
        inner = (await api.call("GET", url)).json()["d"]
        sizes.append(len(inner["results"]))
        codes += [row["Code"] for row in inner["results"]]
        url = inner.get("__next")
        if url:
            assert "$top=40" in url
            assert "$skiptoken=datetime'" in url
    assert sizes == [60, 40]
    assert len(set(codes)) == 100


async def test_page_without_order_continues_after_the_key(api: Api) -> None:
    for n in range(61):
        await api.item(f"P-{n:03d}")
    first = (await api.call("GET", "logistics/Items?$filter=startswith(Code,'P-')&$select=ID,Code")).json()["d"]
    assert "$skiptoken=guid'" in first["__next"]
    rest = (await api.call("GET", first["__next"])).json()["d"]
    assert len(rest["results"]) == 1
    assert "__next" not in rest
    assert not {row["ID"] for row in rest["results"]} & {row["ID"] for row in first["results"]}


async def test_feed_pages_hold_1000_rows(api: Api) -> None:
    for n in range(1001):
        api.sim.edit("logistics/Items", "new", {"Code": f"P-{n:04d}", "Description": "x"})
    first = (await api.call("GET", "sync/Logistics/Items?$filter=Timestamp gt 1L&$select=ID,Timestamp")).json()["d"]
    assert len(first["results"]) == 1000
    assert first["__next"].endswith(f"$skiptoken={first['results'][-1]['Timestamp']}L")
    rest = (await api.call("GET", first["__next"])).json()["d"]
    assert len(rest["results"]) == 3
    bulk = (await api.call("GET", "bulk/Logistics/Items?$select=ID")).json()["d"]
    assert len(bulk["results"]) == 1000


@pytest.mark.parametrize("path", ["logistics/SalesItemPrices?$filter=Quantity eq 1", "sync/CRM/Accounts", "bulk/CRM/Accounts"])
async def test_select_is_demanded(api: Api, path: str) -> None:
    refused = await api.call("GET", path)
    assert refused.status_code == 400
    assert words(refused) == "Please add a $select or a $top=1 statement to the query string."
    one = await api.call("GET", path + ("&" if "?" in path else "?") + "$top=1")
    assert one.status_code == 200


async def test_lists_with_a_feed_demand_a_filter_unless_the_app_is_exempt(start: Callable[..., Any]) -> None:
    api = await start()
    for path in ("crm/Accounts", "logistics/Items", "salesorder/SalesOrders", "salesorder/SalesOrderLines"):
        refused = await api.call("GET", f"{path}?$select=Created")
        assert refused.status_code == 400
        assert "mandatory filtering" in words(refused)
    assert (await api.call("GET", "crm/Accounts?$select=ID&$filter=Remarks eq 'x'")).status_code == 400
    exempt = await start(mandatory_filter=False)
    assert (await exempt.call("GET", "crm/Accounts?$select=ID")).status_code == 200


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Code eq 'A-1'", {"A-1"}),
        ("Code ne 'A-1' and startswith(Code,'A-')", {"A-2", "A-3"}),
        ("Code eq 'A-1' or Code eq 'A-3'", {"A-1", "A-3"}),
        ("not (Code eq 'A-1') and startswith(Code,'A-') eq true", {"A-2", "A-3"}),
        ("substringof('lamp',Description) and startswith(Code,'A-')", {"A-1"}),
        ("tolower(Description) eq 'o''neill lamp'", {"A-2"}),
        ("trim(Description) eq 'vaas'", {"A-3"}),
        ("NetWeight gt 1.5 and Code ne ''", {"A-2", "A-3"}),
        ("NetWeight ge 1.5 and NetWeight lt 3 and startswith(Code,'A-')", {"A-1", "A-2"}),
        ("NetWeight le 1.5 and IsSalesItem eq true and startswith(Code,'A-')", {"A-1"}),
        ("Barcode eq null and startswith(Code,'A-')", {"A-2", "A-3"}),
        ("Created ge datetime'2026-07-14T10:30:00' and startswith(Code,'A-')", {"A-1", "A-2", "A-3"}),
        ("Created lt datetime'2026-07-14T10:30:00' and startswith(Code,'A-')", set()),
        ("Unit eq 'stuk' and startswith(Code,'A-')", {"A-1", "A-2", "A-3"}),
    ],
)
async def test_filters_are_evaluated(api: Api, condition: str, expected: set[str]) -> None:
    await api.item("A-1", Description="hanglamp", NetWeight=1.5, Barcode="8712345678906")
    await api.item("A-2", Description="O'Neill Lamp", NetWeight=2)
    await api.item("A-3", Description="vaas", NetWeight=3)
    rows = await api.client.get(
        api.prefix + "logistics/Items", params={"$filter": condition, "$select": "Code"}, headers=api.headers
    )
    assert {row["Code"] for row in rows.json()["d"]["results"]} == expected


@pytest.mark.parametrize(
    "query",
    [
        "$filter=Colour eq 'red'&$select=ID",
        "$filter=Code eq 'a' and&$select=ID",
        "$filter=Code in ('a')&$select=ID",
        "$filter=Code like 'a'&$select=ID",
        "$filter=contains(Code,'a')&$select=ID",
        "$filter=ID eq 'abc'&$select=ID",
        "$filter=ID eq guid'abc'&$select=ID",
        "$filter=Modified gt '2026-01-01'&$select=ID",
        "$filter=Modified gt datetime'2026-01-01T00:00:00Z'&$select=ID",
        "$filter=Code eq 5&$select=ID",
        "$filter=((Code eq 'a')&$select=ID",
        "$filter=Code eq 'a'&$select=Colour",
        "$filter=Code eq 'a'&$select=Picture",
        "$filter=Code eq 'a'&$orderby=Colour",
        "$filter=Code eq 'a'&$top=many",
        "$filter=Code eq 'a'&$expand=Lines",
        "$filter=Code eq 'a'&limit=5",
        "$filter=Code eq 'a'&$search=x",
        "$filter=Code eq 'a'&$skiptoken=1,2,3",
    ],
)
async def test_queries_the_vendor_does_not_know_are_refused(api: Api, query: str) -> None:
    refused = await api.call("GET", f"logistics/Items?{query}")
    assert refused.status_code == 400
    assert words(refused)


async def test_feeds_are_filtered_by_timestamp_only(api: Api) -> None:
    refused = await api.call("GET", "sync/CRM/Accounts?$filter=Name eq 'x'&$select=ID")
    assert (refused.status_code, words(refused)) == (400, "This $filter parameter is not supported for this resource")
    big = await api.call("GET", "sync/CRM/Accounts?$filter=Timestamp gt 55123459871&$select=ID")
    assert big.status_code == 400


async def test_inlinecount_skip_count_and_expand(api: Api) -> None:
    order = await api.order()
    counted = (await api.call("GET", "vat/VATCodes?$inlinecount=allpages&$top=0")).json()["d"]
    assert counted["results"] == []
    assert counted["__count"].isdigit()
    assert (await api.call("GET", "vat/VATCodes/$count")).text == counted["__count"]
    assert len(await api.rows("vat/VATCodes?$skip=3")) == int(counted["__count"]) - 3
    listed = await api.rows(
        "salesorder/SalesOrders?$filter=OrderNumber eq 30001&$select=OrderID,SalesOrderLines/NetPrice&$expand=SalesOrderLines"
    )
    assert listed[0]["SalesOrderLines"]["results"][0]["NetPrice"] == 79
    assert set(listed[0]["SalesOrderLines"]["results"][0]) == {"__metadata", "NetPrice"}
    link = order["SalesOrderLines"]["__deferred"]["uri"]
    assert len((await api.call("GET", link)).json()["d"]["results"]) == 1


async def test_atom_is_answered_to_who_does_not_ask_for_json(api: Api) -> None:
    answer = await api.call("GET", "vat/VATCodes", Accept="*/*")
    assert answer.headers["content-type"].startswith("application/atom+xml")


async def test_paths_mind_no_case_but_must_exist(api: Api) -> None:
    assert (await api.call("GET", "VAT/vatcodes")).status_code == 200
    missing = await api.call("GET", "crm/Customers")
    assert (missing.status_code, words(missing)) == (404, "Resource not found for the segment 'Customers'.")
    assert (await api.call("GET", "/api/v2/x")).status_code == 404
    gone = await api.call("GET", f"logistics/Items(guid'{UNKNOWN}')")
    assert (gone.status_code, words(gone)) == (404, "Resource not found for the segment 'Items'.")


async def test_other_divisions_and_missing_scopes_are_forbidden(start: Callable[..., Any]) -> None:
    api = await start(denied=("crm/Accounts",))
    other = await api.call("GET", "/api/v1/111/vat/VATCodes")
    assert (other.status_code, other.headers["Reason"]) == (403, "NoDivisionAccess")
    scope = await api.call("GET", "crm/Accounts?$select=ID")
    assert scope.status_code == 403
    assert words(scope).startswith("Forbidden - Application Scope Violated.")


# --- values --------------------------------------------------------------------------------------------------------------------


async def test_codes_are_padded_and_the_filter_needs_the_blanks(api: Api) -> None:
    key = await api.account(Code="1000421", Country="NL", SalesVATCode="2")
    row = await api.one(f"crm/Accounts(guid'{key}')?$select=Code,Country,SalesVATCode")
    assert (row["Code"], row["Country"], row["SalesVATCode"]) == ("           1000421", "NL ", "2  ")
    assert await api.rows("crm/Accounts?$filter=Code eq '1000421'&$select=ID") == []
    assert len(await api.rows("crm/Accounts?$filter=Code eq '           1000421'&$select=ID")) == 1
    assert len(await api.rows("crm/Accounts?$filter=trim(Code) eq '1000421'&$select=ID")) == 1
    item = await api.one(f"logistics/Items(guid'{await api.item('LAMP-OAK-60')}')?$select=Code,Unit,SalesVatCode")
    assert (item["Code"], item["Unit"], item["SalesVatCode"]) == ("LAMP-OAK-60", "stuk    ", "2  ")


@pytest.mark.parametrize(("moment", "hours"), [(SUMMER, 2), (datetime(2026, 1, 14, 8, 30, tzinfo=UTC), 1)])
async def test_dates_are_the_wall_clock_counted_as_utc(api: Api, moment: datetime, hours: int) -> None:
    api.sim.clock.freeze(moment)
    issued = api.sim.tokens.exchange(api.sim.tokens.code())
    assert issued is not None
    api.headers["Authorization"] = f"Bearer {issued.access_token}"
    row = await api.one(f"crm/Accounts(guid'{await api.account()}')?$select=Created")
    assert row["Created"] == f"/Date({(int(moment.timestamp()) + hours * 3600) * 1000})/"
    assert (await api.rows("/api/v1/current/Me"))[0]["ServerUtcOffset"] == hours * 3600


async def test_date_shapes_on_the_wire(api: Api) -> None:
    order = await api.order(OrderDate="2026-07-10")
    assert order["OrderDate"] == f"/Date({int(datetime(2026, 7, 10, tzinfo=UTC).timestamp()) * 1000})/"
    assert order["Created"] == f"/Date({(int(SUMMER.timestamp()) + 7200) * 1000})/"
    me = (await api.rows("/api/v1/current/Me"))[0]
    assert (me["ServerTime"], me["ServerUtcOffset"]) == ("2026-07-14T10:30:00", 7200)


async def test_timestamps_are_strings_and_rise_over_all_feeds(api: Api) -> None:
    account = await api.account()
    item = await api.item()
    await api.call("PUT", f"crm/Accounts(guid'{account}')", {"Phone": "1"})
    feed = await api.rows("sync/CRM/Accounts?$filter=Timestamp gt 1L&$select=ID,Timestamp")
    items = await api.rows("sync/Logistics/Items?$filter=Timestamp gt 1L&$select=ID,Timestamp")
    own = next(row["Timestamp"] for row in feed if row["ID"] == account)
    other = next(row["Timestamp"] for row in items if row["ID"] == item)
    assert isinstance(own, str)
    assert int(own) > int(other)
    assert feed[-1]["ID"] == account
    assert await api.rows(f"sync/CRM/Accounts?$filter=Timestamp gt {own}L&$select=ID") == []
    assert (await api.rows("system/Divisions?$select=Hid"))[0]["Hid"] == "1"


async def test_percentages_are_fractions_and_numbers_are_plain(api: Api) -> None:
    codes = {row["Code"]: row for row in await api.rows("vat/VATCodes")}
    assert codes["2  "]["Percentage"] == Decimal("0.21")
    assert (codes["2  "]["Type"], codes["4  "]["Type"], codes["7  "]["Type"]) == ("E", "I", "B")
    assert (codes["D19"]["OssCountry"], codes["S26"]["Type"]) == ("DE", "I")
    answer = await api.call("GET", "vat/VATCodes?$filter=Code eq '2'&$select=Percentage")
    assert '"Percentage":0.21' in answer.text


@pytest.mark.parametrize(
    ("field", "value", "type_name"),
    [
        ("WarehouseID", "", "Guid"),
        ("ShippingMethod", "x", "Guid"),
        ("OrderDate", "14-07-2026", "DateTime"),
        ("OrderDate", "2026-07-14T10:00:00Z", "DateTime"),
        ("OrderNumber", "many", "Int32"),
        ("Discount", "", "Double"),
        ("YourRef", 5, "String"),
    ],
)
async def test_values_of_the_wrong_type_are_conversion_errors(api: Api, field: str, value: Any, type_name: str) -> None:
    body = {"OrderedBy": UNKNOWN, "SalesOrderLines": [], field: value}
    refused = await api.call("POST", "salesorder/SalesOrders", body)
    assert refused.status_code == 400
    assert f"for property '{field}' to type '{type_name}'" in words(refused)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"Name": NaN}', b"", b'{"Naam":"x"}'])
async def test_bodies_that_cannot_be_read_are_refused(api: Api, body: bytes) -> None:
    refused = await api.call("POST", "crm/Accounts", body)
    assert refused.status_code == 400
    assert words(refused).startswith("Error processing request stream.")


# --- writing -------------------------------------------------------------------------------------------------------------------


async def test_create_answers_are_thin_unless_asked_otherwise(api: Api) -> None:
    account = await api.create("crm/Accounts", Name="Van Dijk", Status="C", Code="77")
    assert {name for name, value in account.items() if value is not None and name[0] != "_"} == {
        "ID",
        "CostPaid",
        "IsAccountant",
        "BankAccounts",
    }
    key = account["ID"]
    for path, body in (
        ("crm/Contacts", {"Account": key, "LastName": "de Boer"}),
        ("crm/Addresses", {"Account": key, "Type": 4, "City": "Amsterdam"}),
        ("logistics/Items", {"Code": "X", "Description": "x"}),
    ):
        thin = await api.create(path, **body)
        assert thin["ID"]
        assert all(thin[name] is None for name in body)
    full = await api.call("POST", "crm/Accounts", {"Name": "B", "Code": "78"}, Prefer="return=representation")
    assert full.json()["d"]["Name"] == "B"
    assert full.json()["d"]["Code"].strip() == "78"


async def test_put_and_delete_answer_204_and_change_only_what_was_sent(api: Api) -> None:
    key = await api.account(Phone="1", City="Amsterdam")
    changed = await api.call("PUT", f"crm/Accounts(guid'{key}')", {"Phone": None})
    assert (changed.status_code, changed.content) == (204, b"")
    row = await api.one(f"crm/Accounts(guid'{key}')")
    assert (row["Phone"], row["City"]) == (None, "Amsterdam")
    gone = await api.call("DELETE", f"crm/Accounts(guid'{key}')")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.call("DELETE", f"crm/Accounts(guid'{key}')")).status_code == 404
    assert (await api.call("PUT", f"crm/Accounts(guid'{key}')", {"Phone": "1"})).status_code == 404


async def test_deletes_appear_in_their_own_feed_only(api: Api) -> None:
    key = await api.account(City="Amsterdam")
    contact = (await api.create("crm/Contacts", Account=key, LastName="x"))["ID"]
    item = await api.item()
    price = (await api.create("logistics/SalesItemPrices", Item=item, Price=1))["ID"]
    order = await api.order(OrderedBy=await api.account())
    line = (await api.rows(f"salesorder/SalesOrderLines?$filter=OrderID eq guid'{order['OrderID']}'&$select=ID"))[0]["ID"]
    for path in (
        f"crm/Accounts(guid'{key}')",
        f"logistics/Items(guid'{item}')",
        f"salesorder/SalesOrders(guid'{order['OrderID']}')",
    ):
        assert (await api.call("DELETE", path)).status_code == 204
    rows = await api.rows("sync/Deleted?$filter=Timestamp gt 1L&$select=ID,EntityKey,EntityType,Timestamp,DeletedDate")
    kinds = {row["EntityKey"]: row["EntityType"] for row in rows}
    expected = {key: 2, contact: 5, item: 9, price: 8, order["OrderID"]: 32, line: 33}
    assert expected.items() <= kinds.items()
    assert sorted(kinds.values()).count(3) == 1
    only = await api.rows("sync/Deleted?$filter=Timestamp gt 1L and EntityType eq 2&$select=EntityKey")
    assert [row["EntityKey"] for row in only] == [key]
    live = await api.rows("sync/CRM/Accounts?$filter=Timestamp gt 1L&$select=ID")
    assert key not in {row["ID"] for row in live}


async def test_duplicates_are_500_with_an_envelope(api: Api) -> None:
    await api.item("A")
    key = await api.account(Code="5")
    item = await api.call("POST", "logistics/Items", {"Code": "A", "Description": "x"})
    assert (item.status_code, words(item)) == (500, "Gegeven bestaat reeds.")
    account = await api.call("POST", "crm/Accounts", {"Name": "x", "Code": " 5"})
    assert (account.status_code, words(account)) == (500, "Gegeven bestaat reeds.")
    repeated = await api.call("PUT", f"crm/Accounts(guid'{key}')", {"Code": "5", "Phone": "1"})
    assert (repeated.status_code, words(repeated)) == (500, "Gegeven bestaat reeds.")
    order = await api.order(OrderNumber=90001)
    second = await api.call(
        "POST",
        "salesorder/SalesOrders",
        {"OrderedBy": order["OrderedBy"], "OrderNumber": 90001, "SalesOrderLines": [{"Item": await api.item("B")}]},
    )
    assert (second.status_code, words(second)) == (500, "Verkoopordernummer: Bestaat reeds")


async def test_missing_fields_are_named(api: Api) -> None:
    for path, body, text in (
        ("crm/Accounts", {"Status": "C"}, "Verplicht: Naam"),
        ("crm/Contacts", {"LastName": "x"}, "Verplicht: Relatie"),
        ("logistics/Items", {"Code": "A"}, "Verplicht: Omschrijving"),
        ("salesorder/SalesOrders", {"OrderedBy": await api.account()}, "Verplicht: Verkooporderregels"),
    ):
        refused = await api.call("POST", path, body)
        assert (refused.status_code, words(refused)) == (500, text)


async def test_foreign_id_is_dropped_in_silence(api: Api) -> None:
    order = await api.order(ShippingMethod=UNKNOWN)
    assert order["ShippingMethod"] is None
    key = await api.account(Classification1=UNKNOWN)
    assert (await api.one(f"crm/Accounts(guid'{key}')?$select=Classification1"))["Classification1"] is None
    # Where the property must be filled, what is left of it is missing.
    refused = await api.call("POST", "salesorder/SalesOrders", {"OrderedBy": key, "SalesOrderLines": [{"Item": UNKNOWN}]})
    assert (refused.status_code, words(refused)) == (500, "Verplicht: Artikel")


@pytest.mark.parametrize("status", ["A", "P", "S", None])
async def test_order_for_a_debtor_who_is_no_customer_is_refused(api: Api, status: str | None) -> None:
    key = await api.account(Status=status)
    refused = await api.call(
        "POST", "salesorder/SalesOrders", {"OrderedBy": key, "SalesOrderLines": [{"Item": await api.item()}]}
    )
    assert (refused.status_code, words(refused)) == (500, "Ongeldig: Besteld door")
    assert api.sim.books()["documents"] == []


@pytest.mark.parametrize("path", ["logistics/ItemGroups", "sales/ShippingMethods"])
async def test_item_groups_and_shipping_methods_are_never_written(api: Api, path: str) -> None:
    refused = await api.call("POST", path, {"Code": "X", "Description": "x"})
    assert refused.status_code == 403
    assert words(refused) == "Forbidden"


async def test_verbs_a_set_does_not_have_are_405(api: Api) -> None:
    assert (await api.call("POST", "logistics/Units", {})).status_code == 405
    assert (await api.call("POST", "sync/CRM/Accounts", {})).status_code == 405
    assert (await api.call("DELETE", "crm/Accounts")).status_code == 405


async def test_standard_sales_price_is_read_only_and_follows_the_price_in_force(api: Api) -> None:
    key = await api.item(StandardSalesPrice=99)
    place = f"logistics/Items(guid'{key}')?$select=StandardSalesPrice"
    assert (await api.one(place))["StandardSalesPrice"] == 0
    assert (await api.call("PUT", f"logistics/Items(guid'{key}')", {"StandardSalesPrice": 99})).status_code == 204
    assert (await api.one(place))["StandardSalesPrice"] == 0
    await api.create("logistics/SalesItemPrices", Item=key, Price=79.5, StartDate="2026-07-01")
    await api.create("logistics/SalesItemPrices", Item=key, Price=850, Currency="SEK")
    await api.create("logistics/SalesItemPrices", Item=key, Price=70, Quantity=10)
    assert (await api.one(place))["StandardSalesPrice"] == Decimal("79.5")
    before = await api.rows("sync/Logistics/Items?$filter=Timestamp gt 1L&$select=ID,Timestamp")
    await api.create("logistics/SalesItemPrices", Item=key, Price=85, StartDate="2026-07-16")
    assert (await api.one(place))["StandardSalesPrice"] == Decimal("79.5")
    api.sim.clock.advance(2 * 86_400)
    await api.refresh()
    assert (await api.one(place))["StandardSalesPrice"] == 85
    after = await api.rows("sync/Logistics/Items?$filter=Timestamp gt 1L&$select=ID,Timestamp")
    assert after == before  # a price that takes effect by its date changes no row


async def test_lengths_are_cut_or_refused(api: Api) -> None:
    key = await api.account(Name="N" * 56)
    assert (await api.one(f"crm/Accounts(guid'{key}')?$select=Name"))["Name"] == "N" * 50
    item = await api.item("C" * 30, Description="D" * 70)
    assert (await api.one(f"logistics/Items(guid'{item}')?$select=Description"))["Description"] == "D" * 60
    refused = await api.call("POST", "logistics/Items", {"Code": "C" * 31, "Description": "x"})
    assert (refused.status_code, words(refused)) == (500, "Ongeldig: Code")


async def test_codes_of_reference_data_must_exist(api: Api) -> None:
    for path, body in (
        ("crm/Accounts", {"Name": "x", "PaymentConditionSales": "99"}),
        ("crm/Accounts", {"Name": "x", "SalesVATCode": "99"}),
        ("crm/Accounts", {"Name": "x", "Country": "NLD"}),
        ("crm/Accounts", {"Name": "x", "Country": "NL", "VATNumber": "XXXXXXXXX2345"}),
        ("logistics/Items", {"Code": "x", "Description": "x", "Unit": "boom"}),
        ("logistics/SalesItemPrices", {"Item": await api.item(), "Price": 1, "Currency": "XXX"}),
    ):
        refused = await api.call("POST", path, body)
        assert refused.status_code == 500
        assert words(refused).startswith("Ongeldig: ")


async def test_main_contact_and_addresses_follow_their_rules(api: Api) -> None:
    key, other = await api.account(AddressLine1="Keizersgracht 12", City="Amsterdam"), await api.account()
    foreign = (await api.create("crm/Contacts", Account=other, LastName="x"))["ID"]
    assert (await api.call("PUT", f"crm/Accounts(guid'{key}')", {"MainContact": foreign})).status_code == 500
    own = (await api.create("crm/Contacts", Account=key, FirstName="Eva", LastName="de Boer", Email="eva@x.test"))["ID"]
    assert (await api.call("PUT", f"crm/Contacts(guid'{own}')", {"Account": other})).status_code == 500
    assert (await api.call("PUT", f"crm/Accounts(guid'{key}')", {"MainContact": own})).status_code == 204
    contact = await api.one(f"crm/Contacts(guid'{own}')")
    assert (contact["IsMainContact"], contact["FullName"], contact["BusinessEmail"]) == (True, "Eva de Boer", "eva@x.test")
    delivery = [
        (await api.create("crm/Addresses", Account=key, Type=4, City=city, Main=True))["ID"] for city in ("Breda", "Delft")
    ]
    rows = await api.rows(f"crm/Addresses?$filter=Account eq guid'{key}'&$select=ID,Type,Main,City&$orderby=Type,City")
    assert [(row["Type"], row["City"], row["Main"]) for row in rows] == [
        (1, "Amsterdam", True),
        (4, "Breda", False),
        (4, "Delft", True),
    ]
    order = await api.order(OrderedBy=key)
    assert order["DeliveryAddress"] == delivery[1]
    assert order["OrderedByContactPerson"] == own
    await api.call("PUT", f"crm/Accounts(guid'{key}')", {"City": "Utrecht"})
    assert (await api.rows(f"crm/Addresses?$filter=Account eq guid'{key}' and Type eq 1&$select=City"))[0]["City"] == "Utrecht"


# --- orders --------------------------------------------------------------------------------------------------------------------


async def test_deep_insert_answers_the_full_header_and_defaults(api: Api) -> None:
    buyer = await api.account(PaymentConditionSales="30")
    order = await api.order(OrderedBy=buyer, YourRef="WEB-1")
    assert order["OrderNumber"] == 30001
    assert (order["AmountFCExclVat"], order["AmountFC"], order["AmountDC"]) == (158, Decimal("191.18"), Decimal("191.18"))
    assert (order["PaymentCondition"], order["Currency"], order["WarehouseCode"]) == ("30", "EUR", "1")
    assert (order["DeliverTo"], order["InvoiceTo"]) == (buyer, buyer)
    assert (order["Status"], order["DeliveryStatus"], order["InvoiceStatus"], order["ApprovalStatus"]) == (12, 12, 12, 1)
    line = (await api.rows(f"salesorder/SalesOrderLines?$filter=OrderID eq guid'{order['OrderID']}'"))[0]
    assert (line["LineNumber"], line["AmountFC"], line["VATAmount"], line["VATCode"]) == (1, 158, Decimal("33.18"), "2  ")
    assert (line["UnitPrice"], line["UnitCode"], line["OrderNumber"]) == (0, "stuk", 30001)


async def test_prices_include_vat_by_the_type_of_the_code(api: Api) -> None:
    item = await api.item()
    lines = [
        {"Item": item, "Quantity": 1, "NetPrice": 14.95, "VATCode": "4"},
        {"Item": item, "Quantity": 2, "NetPrice": 12.95, "VATCode": "3"},
        {"Item": item, "Quantity": 1000, "NetPrice": 0.0385, "VATCode": "2"},
    ]
    order = await api.order(lines)
    rows = await api.rows(f"salesorder/SalesOrderLines?$filter=OrderID eq guid'{order['OrderID']}'&$orderby=LineNumber")
    amounts = [(row["AmountFC"], row["VATAmount"]) for row in rows]
    assert amounts == [
        (Decimal("12.36"), Decimal("2.59")),
        (Decimal("23.76"), Decimal("2.14")),
        (Decimal("38.5"), Decimal("8.09")),
    ]
    assert order["AmountFC"] == Decimal("14.95") + Decimal("25.90") + Decimal("46.59")
    assert api.sim.books()["documents"][0]["vat_by_rate"] == {"9.00": "2.14", "21.00": "10.68"}


async def test_line_discount_price_list_and_foreign_currency(api: Api) -> None:
    item = await api.item()
    buyer = await api.account()
    await api.create("logistics/SalesItemPrices", Item=item, Price=100)
    await api.create("logistics/SalesItemPrices", Item=item, Price=90, Account=buyer)
    await api.create("logistics/SalesItemPrices", Item=item, Price=1120, Currency="SEK")
    order = await api.order([{"Item": item, "Quantity": 2, "Discount": 0.1, "UnitPrice": 50}, {"Item": item}], OrderedBy=buyer)
    assert order["AmountFCExclVat"] == 90 + 90
    other = await api.order([{"Item": item}], OrderedBy=await api.account(), Currency="SEK")
    assert (other["AmountFCExclVat"], other["AmountFC"], other["AmountDC"]) == (1120, Decimal("1355.2"), 121)


async def test_header_discounts_agree_in_all_three_properties(api: Api) -> None:
    item = await api.item()
    lines = [{"Item": item, "Quantity": 1, "NetPrice": 1120, "VATCode": "2"}]
    order = await api.order(lines, Currency="SEK", AmountDiscountExclVat=10)
    assert order["AmountFCExclVat"] == 1120 - 112
    assert (order["AmountDiscountExclVat"], order["AmountDiscount"], order["Discount"]) == (10, Decimal("12.1"), Decimal("0.1"))
    assert order["AmountFC"] == Decimal("1219.68")
    share = await api.order(lines, Currency="SEK", Discount=0.1)
    assert (share["AmountFCExclVat"], share["AmountFC"]) == (order["AmountFCExclVat"], order["AmountFC"])


async def test_order_charges_count_in_the_totals_and_raise_the_header(api: Api) -> None:
    charge = (await api.rows("sales/OrderCharges?$filter=Code eq 'VERZEND'&$select=ID"))[0]["ID"]
    order = await api.order(
        SalesOrderOrderChargeLines=[{"OrderCharge": charge, "IsShippingCost": True, "AmountFCExclVAT": 5, "VATCode": "2"}]
    )
    key = order["OrderID"]
    assert (order["AmountFCExclVat"], order["AmountFC"]) == (163, Decimal("197.23"))
    feed = "sync/SalesOrder/SalesOrderHeaders?$filter=Timestamp gt 1L&$select=ID,OrderID,Timestamp"
    before = (await api.rows(feed))[0]
    assert before["ID"] == before["OrderID"] == key
    added = await api.create(
        "salesorder/SalesOrderOrderChargeLines", OrderID=key, OrderCharge=charge, AmountFCInclVAT=12.1, VATCode="2"
    )
    assert (added["AmountFCExclVAT"], added["LineNumber"]) == (10, 2)
    assert int((await api.rows(feed))[0]["Timestamp"]) > int(before["Timestamp"])
    assert (await api.one(f"salesorder/SalesOrders(guid'{key}')?$select=AmountFC"))["AmountFC"] == Decimal("209.33")


async def test_lines_change_at_their_own_set_and_not_under_the_header(api: Api) -> None:
    order = await api.order()
    key = order["OrderID"]
    deep = await api.call("PUT", f"salesorder/SalesOrders(guid'{key}')", {"SalesOrderLines": []})
    assert deep.status_code == 400
    assert "Binding to new entities" in words(deep)
    feed = "sync/SalesOrder/SalesOrderHeaders?$filter=Timestamp gt 1L&$select=Timestamp"
    header = await api.rows(feed)
    item = await api.item("EXTRA")
    line = await api.create("salesorder/SalesOrderLines", OrderID=key, Item=item, Quantity=1, NetPrice=10, VATCode="2")
    assert (line["LineNumber"], line["AmountFC"]) == (2, 10)
    assert (await api.call("PUT", f"salesorder/SalesOrderLines(guid'{line['ID']}')", {"Quantity": 3})).status_code == 204
    changed = await api.one(f"salesorder/SalesOrderLines(guid'{line['ID']}')?$select=AmountFC,VATAmount,NetPrice")
    assert (changed["AmountFC"], changed["VATAmount"], changed["NetPrice"]) == (30, Decimal("6.3"), 10)
    assert await api.rows(feed) == header  # a line does not raise its header
    assert (await api.one(f"salesorder/SalesOrders(guid'{key}')?$select=AmountFCExclVat"))["AmountFCExclVat"] == 188
    assert (await api.call("DELETE", f"salesorder/SalesOrderLines(guid'{line['ID']}')")).status_code == 204


async def test_refused_order_leaves_nothing_behind(api: Api) -> None:
    item = await api.item()
    lines = [{"Item": item, "NetPrice": 1}, {"Item": item, "NetPrice": 1, "VATCode": "99"}]
    refused = await api.call("POST", "salesorder/SalesOrders", {"OrderedBy": await api.account(), "SalesOrderLines": lines})
    assert (refused.status_code, words(refused)) == (500, "Ongeldig: Btw-code")
    assert api.sim.books()["documents"] == []
    assert not api.sim.division.table("salesorder/SalesOrderLines").rows


async def test_status_moves_by_deliveries_and_invoices_only(api: Api) -> None:
    order = await api.order()
    key = order["OrderID"]
    place = f"salesorder/SalesOrders(guid'{key}')"
    state = f"{place}?$select=Status,DeliveryStatus,InvoiceStatus"
    assert (await api.call("PUT", place, {"Status": 21})).status_code == 204

    async def states() -> tuple[int, int, int]:
        row = await api.one(state)
        return row["Status"], row["DeliveryStatus"], row["InvoiceStatus"]

    assert await states() == (12, 12, 12)
    line = (await api.rows(f"salesorder/SalesOrderLines?$filter=OrderID eq guid'{key}'&$select=ID"))[0]["ID"]
    part = {"DeliveryDate": "2026-07-14", "GoodsDeliveryLines": [{"SalesOrderLineID": line, "QuantityDelivered": 1}]}
    assert (await api.call("POST", "salesorder/GoodsDeliveries", part)).status_code == 201
    assert await states() == (20, 20, 12)
    assert (await api.call("DELETE", place)).status_code == 500
    assert (await api.call("POST", "salesorder/GoodsDeliveries", part)).status_code == 201
    assert await states() == (20, 21, 12)
    assert (await api.call("POST", "salesorder/GoodsDeliveries", part)).status_code == 500
    made = await api.create("salesinvoice/InvoiceSalesOrders", JournalCode="70", SalesOrderIDs=[{"ID": key}])
    assert (made["NumberOfCreatedInvoices"], made["NumberOfFailedInvoices"]) == (1, 0)
    assert await states() == (21, 21, 21)
    assert (await api.call("PUT", place, {"YourRef": "x"})).status_code == 500


async def test_complete_closes_the_rest(api: Api) -> None:
    order = await api.order()
    body = {"OrderID": order["OrderID"], "CompleteDelivery": True, "CompleteInvoice": True}
    assert (await api.call("POST", "salesorder/CompleteSalesOrder", body)).status_code == 201
    row = await api.one(f"salesorder/SalesOrders(guid'{order['OrderID']}')?$select=Status,InvoiceStatus")
    assert (row["Status"], row["InvoiceStatus"]) == (21, 21)


async def test_buyer_of_an_order_cannot_change(api: Api) -> None:
    order = await api.order()
    refused = await api.call("PUT", f"salesorder/SalesOrders(guid'{order['OrderID']}')", {"OrderedBy": await api.account()})
    assert refused.status_code == 500


# --- time --------------------------------------------------------------------------------------------------------------------


async def test_lines_are_visible_later_than_their_header(start: Callable[..., Any]) -> None:
    api = await start(line_delay_s=5)
    order = await api.order()
    heads = await api.rows("sync/SalesOrder/SalesOrderHeaders?$filter=Timestamp gt 1L&$select=OrderID,AmountFCExclVat")
    assert (heads[0]["OrderID"], heads[0]["AmountFCExclVat"]) == (order["OrderID"], 158)
    feed = "sync/SalesOrder/SalesOrderLines?$filter=Timestamp gt 1L&$select=OrderID"
    plain = f"salesorder/SalesOrderLines?$filter=OrderID eq guid'{order['OrderID']}'&$select=OrderID"
    assert (await api.rows(feed), await api.rows(plain)) == ([], [])
    api.sim.clock.advance(5)
    assert len(await api.rows(feed)) == len(await api.rows(plain)) == 1


async def test_search_lags_behind_the_key(start: Callable[..., Any]) -> None:
    api = await start(search_lag_s=30)
    key = await api.account(Email="a@x.test")
    search = "crm/Accounts?$filter=Email eq 'a@x.test'&$select=ID"
    assert await api.rows(search) == []
    assert (await api.one(f"crm/Accounts(guid'{key}')?$select=Email"))["Email"] == "a@x.test"
    api.sim.clock.advance(30)
    assert len(await api.rows(search)) == 1


async def test_sync_timestamp_starts_a_feed_from_a_moment(api: Api) -> None:
    await api.order()
    api.sim.clock.advance(60)
    later = await api.order()
    path = "read/sync/Sync/SyncTimestamp?modified=datetime'2026-07-14T10:30:30'&endPoint='SalesOrderHeaders'"
    start = (await api.rows(path))[0]
    assert start["API"] == "SalesOrderHeaders"
    feed = f"sync/SalesOrder/SalesOrderHeaders?$filter=Timestamp gt {start['TimeStampAsBigInt']}L&$select=OrderID"
    assert [row["OrderID"] for row in await api.rows(feed)] == [later["OrderID"]]
    assert (await api.call("GET", "read/sync/Sync/SyncTimestamp")).status_code == 400


# --- pictures and extra fields -------------------------------------------------------------------------------------------------


async def test_picture_needs_the_token_and_takes_one_upload(api: Api) -> None:
    key = await api.item()
    place = f"logistics/Items(guid'{key}')?$select=PictureUrl,PictureName"
    assert (await api.one(place))["PictureUrl"].endswith("//docs/images/placeholder_item.png")
    content = b"\x89PNG\r\n\x1a\nrest"
    sent = {"Picture": base64.b64encode(content).decode()}
    assert (await api.call("PUT", f"logistics/Items(guid'{key}')", sent)).status_code == 204
    row = await api.one(place)
    assert row["PictureName"] == "LAMP.png"
    assert (await api.client.get(row["PictureUrl"])).status_code == 401
    shown = await api.call("GET", row["PictureUrl"])
    assert (shown.status_code, shown.content, shown.headers["content-type"]) == (200, content, "image/png")
    assert (await api.call("PUT", f"logistics/Items(guid'{key}')", {"Picture": "no base64!"})).status_code == 400
    assert "Picture" not in (await api.one(f"logistics/Items(guid'{key}')"))


async def test_extra_fields_are_a_function_with_a_parameter(api: Api) -> None:
    key = await api.item()
    api.sim.edit("product", "LAMP", {"_extra": [[1, "Material", "oak"]]})
    rows = await api.rows(f"read/logistics/ItemExtraField?itemId=guid'{key}'&$select=ItemID,Number,Description,Value")
    assert rows == [{"ItemID": key, "Number": 1, "Description": "Material", "Value": "oak"}]
    refused = await api.call("GET", "read/logistics/ItemExtraField?$select=ItemID")
    assert (refused.status_code, words(refused)) == (400, "Bad Request - Error in query syntax.")


# --- control API ---------------------------------------------------------------------------------------------------------------


async def test_seed_is_repeatable_and_fills_what_the_demo_needs() -> None:
    first, second, other = build(), build(), build()
    for simulator, seed in ((first, 7), (second, 7), (other, 8)):
        simulator.clock.freeze(SUMMER)
        simulator.seed(60, seed)
    assert first.books() == second.books()
    assert first.books()["documents"] != other.books()["documents"]
    books = first.books()
    assert len(books["documents"]) == 20
    assert {(row["delivery"], row["invoicing"]) for row in books["documents"]} == {
        ("COMPLETE", "OPEN"),
        ("COMPLETE", "COMPLETE"),
        ("PARTIAL", "OPEN"),
        ("OPEN", "OPEN"),
    }
    assert {f"BUS-{n:04d}" for n in range(1, 41)} | {"DIVERS", "VERZEND"} == {row["sku"] for row in books["products"]}
    emails = [row["email"] for row in books["customers"]]
    assert emails.count("buyer3@example3.test") == 2
    assert {row["kind"] for row in books["customers"]} == {"COMPANY", "PERSON", None}
    assert sum(row["has_picture"] for row in books["products"]) == 5
    first.seed(0, 7)
    assert len(first.books()["customers"]) == len(books["customers"])


async def test_edit_is_a_users_change_and_no_call(api: Api) -> None:
    api.sim.seed(30, 1)
    api.sim.edit("customer", "900001", {"Phone": "+31201234567"})
    order = next(row for row in api.sim.books()["documents"] if row["delivery"] == "OPEN")
    api.sim.edit("sales_order", order["number"], {"DeliveryStatus": 21})
    api.sim.edit("sales_order", order["id"], {"InvoiceStatus": 21})
    after = next(row for row in api.sim.books()["documents"] if row["id"] == order["id"])
    assert (after["delivery"], after["invoicing"], after["status"]) == ("COMPLETE", "COMPLETE", "COMPLETE")
    other = next(row for row in api.sim.books()["documents"] if row["delivery"] == "OPEN")
    api.sim.edit("sales_order", other["id"], {"Status": 45})
    assert (await api.one(f"salesorder/SalesOrders(guid'{other['id']}')?$select=Status"))["Status"] == 45
    partial = next(row for row in api.sim.books()["documents"] if row["status"] == "PARTIAL")
    with pytest.raises(ValueError, match="Status moves to 45 only"):
        api.sim.edit("sales_order", partial["id"], {"Status": 21})
    api.sim.edit("product", "new", {"Code": "NEW-1", "Description": "New", "NetWeight": 0.1})
    api.sim.edit("product", "NEW-1", {"_delete": True})
    with pytest.raises(ValueError, match="Gegeven bestaat reeds"):
        api.sim.edit("product", "new", {"Code": "BUS-0001", "Description": "New"})
    assert api.sim.counts()["written"] == {}
    control = await api.client.post("/_sim/edit", json={"entity": "nothing", "id": "1", "fields": {}})
    assert control.status_code == 422


async def test_counts_name_versions_once_and_writes_by_verb(api: Api) -> None:
    key = await api.account(City="Amsterdam")
    feed = "sync/CRM/Accounts?$filter=Timestamp gt 1L&$select=ID"
    await api.rows(feed)
    await api.rows(feed)
    counts = api.sim.counts()
    assert counts["written"] == {"crm/Accounts.POST": 1}
    assert (counts["served"]["sync/CRM/Accounts"], counts["served"]["customer"]) == (2, 2)
    await api.rows("sync/CRM/Addresses?$filter=Timestamp gt 1L&$select=ID")
    assert api.sim.counts()["served"]["customer"] == 2
    await api.call("PUT", f"crm/Accounts(guid'{key}')", {"Phone": "1"})
    await api.rows(feed)
    counts = api.sim.counts()
    assert (counts["served"]["customer"], counts["written"]["crm/Accounts.PUT"]) == (3, 1)
    assert (await api.call("POST", "crm/Accounts", {})).status_code == 500
    assert api.sim.counts()["written"]["crm/Accounts.POST"] == 1


async def test_lost_reply_leaves_one_object(api: Api) -> None:
    api.sim.faults.add(Fault(action="lost_reply", method="POST", path_prefix=f"{api.prefix}crm/Accounts"))
    with pytest.raises(httpx.TransportError):
        await api.call("POST", "crm/Accounts", {"Name": "x", "Status": "C", "Code": "5"})
    assert [row["number"] for row in api.sim.books()["customers"]] == ["900001", "5"]
    again = await api.call("POST", "crm/Accounts", {"Name": "x", "Status": "C", "Code": "5"})
    assert again.status_code == 500


# --- a published client --------------------------------------------------------------------------------------------------------


class Storage(ExactOnlineConfig):
    """Settings of the published client, in memory."""

    def __init__(self, info: dict[str, Any]) -> None:
        secrets = info["credentials"]
        self.settings = {
            ("server", "auth_url"): f"{info['base_url']}/api/oauth2/auth",
            ("server", "rest_url"): f"{info['base_url']}/api",
            ("server", "token_url"): info["token_url"],
            ("application", "client_id"): secrets["client_id"],
            ("application", "client_secret"): secrets["client_secret"],
            ("transient", "refresh_token"): secrets["refresh_token"],
            ("transient", "access_token"): "none yet",
        }

    def get(self, section: str, option: str) -> str:
        if (section, option) not in self.settings:
            raise MissingSetting(option)
        return self.settings[section, option]

    def set(self, section: str, option: str, value: str) -> None:
        self.settings[section, option] = value


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    simulator = build(mandatory_filter=False)
    simulator.seed(30, 1)
    async with Served(simulator) as server:
        yield server


@pytest.mark.loopback
async def test_published_client_works(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package exactonline 0.4.0 refreshes, finds its division, pages, creates, finds by padded code, updates and deletes.

    It refuses anything but https; that one check is opened, the rest is the package as published.
    """
    monkeypatch.setattr(rawapi, "opt_secure", Options())
    storage = Storage(served.info)
    await asyncio.to_thread(use_published_client, ExactApi(storage=storage))
    assert storage.settings["transient", "access_token"].startswith("stampNL001")


def use_published_client(client: ExactApi) -> None:
    choices, current = client.get_divisions()
    assert choices == {987654: "Webwinkel B.V."}
    client.set_division(current)
    debtor = client.relations.get(relation_code="900001")
    assert debtor["Code"] == "            900001"
    for n in range(61):
        client.relations.create({"Name": f"Paged {n}", "Code": f"{5000 + n:>18}", "Status": "C"})
    assert len(client.relations.filter(filter="startswith(Name,'Paged')")) == 61
    made = client.relations.get(relation_code="5060")
    client.relations.update(made["ID"], {"Name": "Changed"})
    assert client.relations.get(relation_code="5060")["Name"] == "Changed"
    client.relations.delete(made["ID"])
    with pytest.raises(ObjectDoesNotExist):
        client.relations.get(relation_code="5060")
    assert client.vatcodes.get_percentage(vat_code="2") == 0.21
    assert len(client.contacts.all()) == 35


# --- samples -------------------------------------------------------------------------------------------------------------------

SAMPLES = Path(__file__).parents[2] / "connectors" / "exact_online" / "samples"
LISTS = {
    "contact": "bulk/CRM/Contacts",
    "address": "bulk/CRM/Addresses",
    "account": "bulk/CRM/Accounts",
    "item": "bulk/Logistics/Items",
    "sales_item_price": "bulk/Logistics/SalesItemPrices",
    "sales_order": "bulk/SalesOrder/SalesOrders",
    "sales_order_lines": "bulk/SalesOrder/SalesOrderLines",
    "feed_sales_order_headers": "sync/SalesOrder/SalesOrderHeaders",
    "feed_accounts": "sync/CRM/Accounts",
    "feed_deleted": "sync/Deleted",
    "vat_code": "vat/VATCodes",
    "payment_condition": "cashflow/PaymentConditions",
    "item_group": "logistics/ItemGroups",
    "division": "system/Divisions",
    "me": "/api/v1/current/Me",
}


def first_row(body: Any) -> dict[str, Any]:
    inner = body["d"]
    rows = inner.get("results", [inner]) if isinstance(inner, dict) else inner
    return rows[0]


@pytest.mark.parametrize("name", sorted(LISTS))
async def test_answers_have_the_shape_of_the_samples(api: Api, name: str) -> None:
    """Every property of a sample is answered, in the same JSON type, width and number form, for the properties it fills."""
    api.sim.seed(30, 1)
    api.sim.edit("crm/Accounts", "new", {"Name": "Gone"})
    api.sim.edit("customer", "1000036", {"_delete": True})
    sample = first_row(json.loads((SAMPLES / f"{name}.json").read_text()))
    properties = [known for known in sample if known != "__metadata"]
    answers = await api.rows(f"{LISTS[name]}?$select={','.join(properties)}")
    assert {*properties, "__metadata"} == set(answers[-1])
    assert answers[-1]["__metadata"]["type"] == sample["__metadata"]["type"]
    for known in properties:
        filled = [row[known] for row in answers if row[known] is not None]
        if sample[known] is None or not filled:
            continue
        assert shape(sample[known]) in [shape(value) for value in filled], known


def shape(value: Any) -> Any:
    """What must agree of a value: its JSON type; for text its width where blanks fill it, and whether it is a date."""
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, dict):
        return sorted(value)
    text = str(value)
    if text.startswith("/Date("):
        return "date"
    return len(text) if text != text.strip() else "text"


def test_every_sample_names_its_source() -> None:
    listed = (SAMPLES / "SOURCES.md").read_text()
    for path in SAMPLES.glob("*.json"):
        assert f"`{path.name}`" in listed, path.name
