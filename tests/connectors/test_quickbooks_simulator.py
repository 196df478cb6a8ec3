"""The rules of the QuickBooks simulator, one test each, and the vendor's published client against it over a real port."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from bus.simulation.simulator import InProcess, Served
from connectors.quickbooks.simulation.totals import split
from connectors.quickbooks.simulator import REALM, QuickbooksSimulator, build

D = Decimal
JSON = {"Accept": "application/json"}


class Api:
    """An app that was granted access to a company with reference data alone."""

    def __init__(self, **options: Any) -> None:
        self.sim = build(**options)
        self.sim.clock.freeze()
        self.process = InProcess(self.sim)
        self.http = httpx.AsyncClient(transport=self.process.transport, base_url=self.process.base_url, headers=JSON)
        self.http.headers["Authorization"] = f"Bearer {self.sim.tokens.refresh(self.refresh_token).access_token}"

    @property
    def refresh_token(self) -> str:
        return str(self.sim.info("")["credentials"]["refresh_token"])

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        answer = await self.http.request(method, f"/v3/company/{REALM}/{path}", **more)
        return answer.status_code, json.loads(answer.content, parse_float=D)

    async def post(self, path: str, body: dict[str, Any], **parameters: str) -> dict[str, Any]:
        content = json.dumps(body, default=float)
        status, answer = await self.call("POST", path, content=content, params=parameters)
        assert status == 200, answer
        return next(value for name, value in answer.items() if name != "time")  # type: ignore[no-any-return]

    async def refused(self, path: str, body: dict[str, Any], **parameters: str) -> dict[str, str]:
        content = json.dumps(body, default=float)
        status, answer = await self.call("POST", path, content=content, params=parameters)
        assert status == 400, answer
        return answer["Fault"]["Error"][0]  # type: ignore[no-any-return]

    async def query(self, statement: str) -> dict[str, Any]:
        status, answer = await self.call("GET", "query", params={"query": statement})
        assert status == 200, answer
        return answer["QueryResponse"]  # type: ignore[no-any-return]

    async def query_code(self, statement: str) -> str:
        status, answer = await self.call("GET", "query", params={"query": statement})
        assert status == 400
        return str(answer["Fault"]["Error"][0]["code"])

    async def get(self, path: str) -> dict[str, Any]:
        status, answer = await self.call("GET", path)
        assert status == 200, answer
        return next(value for name, value in answer.items() if name != "time")  # type: ignore[no-any-return]

    async def cdc(self, entities: str, since: str | None = None) -> list[dict[str, Any]]:
        since = since or (self.sim.clock.now() - timedelta(hours=1)).isoformat()
        status, answer = await self.call("GET", "cdc", params={"entities": entities, "changedSince": since})
        assert status == 200, answer
        return answer["CDCResponse"][0]["QueryResponse"]  # type: ignore[no-any-return]

    def ref(self, entity: str, name: str) -> dict[str, str]:
        return {"value": self.sim.company.id_named(entity, name)}

    async def customer(self, name: str = "Harbour Books", **more: Any) -> dict[str, Any]:
        return await self.post("customer", {"DisplayName": name, **more})

    async def item(self, name: str = "Notebook", **more: Any) -> dict[str, Any]:
        income = self.ref("Account", "Sales of Product Income")
        return await self.post("item", {"Name": name, "Type": "NonInventory", "IncomeAccountRef": income, **more})

    def line(self, amount: str, code: str = "NL 21% S", **detail: Any) -> dict[str, Any]:
        detail = {"ItemRef": {"value": "SHIPPING_ITEM_ID"}, "TaxCodeRef": self.ref("TaxCode", code), **detail}
        return {"DetailType": "SalesItemLineDetail", "Amount": D(amount), "SalesItemLineDetail": detail}

    async def invoice(self, customer: dict[str, Any], *lines: dict[str, Any], **more: Any) -> dict[str, Any]:
        return await self.post("invoice", self.sale(customer, *lines, **more))

    def sale(self, customer: dict[str, Any], *lines: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"CustomerRef": {"value": customer["Id"]}, "Line": list(lines or (self.line("100.00"),)), **more}

    async def pay(self, invoice: dict[str, Any], amount: str, **more: Any) -> dict[str, Any]:
        link = {"TxnId": invoice["Id"], "TxnType": "Invoice"}
        body = {
            "CustomerRef": invoice["CustomerRef"],
            "TotalAmt": D(amount),
            "Line": [{"Amount": D(amount), "LinkedTxn": [link]}],
        }
        return await self.post("payment", {**body, **more})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    yield made
    await made.http.aclose()


def version(row: dict[str, Any]) -> dict[str, str]:
    return {"Id": row["Id"], "SyncToken": row["SyncToken"]}


# --- tokens, gateway, limits ---------------------------------------------------------------------------------------------------


async def token_call(api: Api, form: dict[str, str], secret: str | None = None) -> httpx.Response:
    credentials = api.sim.info("")["credentials"]
    basic = base64.b64encode(f"{credentials['client_id']}:{secret or credentials['client_secret']}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    return await api.http.post("/oauth2/v1/tokens/bearer", data=form, headers=headers)


async def test_a_refresh_rotates_and_an_old_token_is_an_invalid_grant(api: Api) -> None:
    old = api.sim.tokens.grant().refresh_token
    form = {"grant_type": "refresh_token", "refresh_token": old}
    assert (await token_call(api, form, "wrong")).json() == {"error": "invalid_client"}
    answer = (await token_call(api, form)).json()
    assert (answer["token_type"], answer["expires_in"], answer["x_refresh_token_expires_in"]) == ("bearer", 3600, 8_726_400)
    assert answer["refresh_token"] != old
    again = await token_call(api, form)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


async def test_consent_gives_a_code_the_realm_and_tokens(api: Api) -> None:
    asked = {
        "response_type": "code",
        "client_id": api.sim.info("")["credentials"]["client_id"],
        "redirect_uri": "http://app.test/",
    }
    back = httpx.URL((await api.http.get("/connect/oauth2", params={**asked, "state": "s"})).headers["location"])
    assert (back.params["realmId"], back.params["state"]) == (REALM, "s")
    form = {"grant_type": "authorization_code", "code": back.params["code"], "redirect_uri": "http://app.test/"}
    assert (await token_call(api, form)).status_code == 200
    assert (await token_call(api, form)).json()["error"] == "invalid_grant"


async def test_an_expired_token_meets_the_gateways_fault_in_small_letters(api: Api) -> None:
    api.sim.clock.advance(3601)
    status, answer = await api.call("GET", "preferences")
    assert (status, answer["fault"]["error"][0]["code"], answer["fault"]["type"]) == (401, "3200", "AUTHENTICATION")
    assert isinstance(answer["time"], int)


async def test_another_realm_is_forbidden_and_an_unknown_route_unsupported(api: Api) -> None:
    other = await api.http.get("/v3/company/1/preferences")
    assert (other.status_code, other.json()["fault"]["error"][0]["code"]) == (403, "3100")
    status, answer = await api.call("GET", "salesorder/1")
    assert (status, answer["Fault"]["Error"][0]["Message"]) == (400, "Unsupported Operation")
    assert "not supported" in (await api.refused("taxcode", {"Name": "x"}))["Detail"]


async def test_a_throttled_call_is_answered_in_xml() -> None:
    api = Api(real_limits=True)
    for _ in range(10):
        assert (await api.call("GET", "preferences"))[0] == 200
    answer = await api.http.get(f"/v3/company/{REALM}/preferences")
    assert answer.status_code == 429
    assert answer.text.startswith("<?xml") and 'code="3001"' in answer.text
    api.sim.clock.advance(1)
    assert (await api.call("GET", "preferences"))[0] == 200


async def test_without_an_accept_header_answers_are_xml(api: Api) -> None:
    answer = await api.http.get(f"/v3/company/{REALM}/preferences", headers={"Accept": "*/*"})
    assert answer.text.startswith("<?xml") and "<CustomTxnNumbers>true</CustomTxnNumbers>" in answer.text


async def test_the_company_and_its_preferences(api: Api) -> None:
    assert (await api.get(f"companyinfo/{REALM}"))["Country"] == "NL"
    told = await api.get("preferences")
    assert told["SalesFormsPrefs"]["CustomTxnNumbers"] is True
    assert told["CurrencyPrefs"] == {"MultiCurrencyEnabled": True, "HomeCurrency": {"value": "EUR"}}
    assert "BookCloseDate" not in told["AccountingInfoPrefs"]


# --- queries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("DisplayName = 'O\\'Brien'", ["O'Brien"]),
        ("DisplayName LIKE '%a%' AND CompanyName = 'Zeta'", ["Zeta"]),
        ("Id IN ('1', '3')", ["Alpha", "Zeta"]),
        ("PrimaryEmailAddr = 'a@x.test'", ["Alpha"]),
        ("Balance > '0'", []),
        ("DisplayName >= 'B' ORDERBY DisplayName DESC", ["Zeta", "O'Brien"]),
        ("Active = true order by Id STARTPOSITION 2 MAXRESULTS 1", ["O'Brien"]),
    ],
)
async def test_queries(api: Api, where: str, names: list[str]) -> None:
    await api.customer("Alpha", PrimaryEmailAddr={"Address": "a@x.test"})
    await api.customer("O'Brien")
    await api.customer("Zeta", CompanyName="Zeta")
    assert [row["DisplayName"] for row in (await api.query(f"select * from Customer where {where}")).get("Customer", [])] == names


async def test_counts_no_hits_projections_and_posted_queries(api: Api) -> None:
    assert await api.query("SELECT count(*) FROM Term") == {"totalCount": 3}
    assert await api.query("SELECT * FROM Invoice") == {}
    assert (await api.query("select Id, Name from Term maxresults 1"))["Term"][0].keys() == {"Id", "Name", "domain", "sparse"}
    assert "DueDays" in (await api.query("select *, Name from Term"))["Term"][0]
    headers = {"Content-Type": "application/text"}
    _, answer = await api.call("POST", "query", content="select * from Term", headers=headers)
    assert len(answer["QueryResponse"]["Term"]) == 3
    assert api.sim.calls.calls[-1]["write"] is False


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("select * from", "4001"),
        ("select * from Nothing", "4001"),
        ("select * from Customer where Name = 1 or Name = 2", "4001"),
        ("select * from Customer where Active = true or Active = false", "4000"),
        ("select * from Customer where DisplayName ~ 'x'", "4000"),
        ("select * from Invoice where PrivateNote = 'x'", "4001"),
        ("select * from Customer maxresults 1001", "4001"),
        ("select * from Customer where Id > '1'", "4001"),
        ("select * from Customer where MetaData.LastUpdatedTime > '2026-01-01T00:00:00'", "4001"),
        ("select * from Customer where MetaData.LastUpdatedTime > '2026-01-01T00:00:00 01:00'", "4001"),
    ],
)
async def test_statements_that_are_refused(api: Api, statement: str, code: str) -> None:
    assert await api.query_code(statement) == code


async def test_inactive_names_are_hidden_unless_asked_for(api: Api) -> None:
    made = await api.customer()
    gone = await api.post("customer", {**version(made), "sparse": True, "Active": False})
    assert gone["DisplayName"] == gone["FullyQualifiedName"] == "Harbour Books (deleted)"
    assert await api.query("select * from Customer") == {}
    (row,) = (await api.query("select * from Customer where Active in (true, false)"))["Customer"]
    back = await api.post("customer", {**version(row), "sparse": True, "Active": True})
    assert back["DisplayName"] == "Harbour Books"


async def test_moments_are_pacific_to_the_second_and_queries_compare_them_as_moments(api: Api) -> None:
    made = await api.customer()
    moment = made["MetaData"]["LastUpdatedTime"]
    assert len(moment) == 25 and moment[-6:] in ("-08:00", "-07:00")
    since = api.sim.clock.now().replace(microsecond=0).isoformat()
    rows = await api.query(f"select * from Customer where MetaData.LastUpdatedTime >= '{since}'")
    assert len(rows["Customer"]) == 1
    api.sim.clock.advance(1)
    later = api.sim.clock.now().isoformat()
    assert await api.query(f"select * from Customer where MetaData.LastUpdatedTime >= '{later}'") == {}


# --- change data capture -------------------------------------------------------------------------------------------------------


async def test_changes_show_rows_and_deletes_in_the_order_asked(api: Api) -> None:
    customer = await api.customer()
    invoice = await api.invoice(customer)
    await api.post("invoice", version(invoice), operation="delete")
    items, invoices, customers = await api.cdc("Item,Invoice,Customer")
    assert items == {}
    (stone,) = invoices["Invoice"]
    assert (stone["status"], stone["domain"], stone["Id"]) == ("Deleted", "QBO", invoice["Id"])
    assert stone["MetaData"].keys() == {"LastUpdatedTime"}
    assert customers["Customer"][0]["Id"] == customer["Id"]


async def test_changes_are_cut_at_a_thousand_over_all_entities(api: Api) -> None:
    for n in range(600):
        api.sim.edit("customer", "new", {"DisplayName": f"C{n}"})
        api.sim.edit("department", "new", {"Name": f"D{n}"})
    customers, departments, classes = await api.cdc("Customer,Department,Class")
    assert (len(customers["Customer"]), len(departments["Department"]), classes) == (600, 400, {})


@pytest.mark.parametrize(
    ("entities", "back", "code"),
    [("Customer", timedelta(days=30, hours=1), "2080"), ("TaxCode", timedelta(0), "4001"), ("", timedelta(0), "2020")],
)
async def test_changes_that_are_refused(api: Api, entities: str, back: timedelta, code: str) -> None:
    since = (api.sim.clock.now() - back).isoformat()
    status, answer = await api.call("GET", "cdc", params={"entities": entities, "changedSince": since})
    assert (status, answer["Fault"]["Error"][0]["code"]) == (400, code)


# --- updates -------------------------------------------------------------------------------------------------------------------


async def test_a_sparse_update_changes_what_is_given_and_a_full_one_clears_the_rest(api: Api) -> None:
    made = await api.customer(Notes="n", CompanyName="H")
    sparse = await api.post("customer", {**version(made), "sparse": True, "Notes": "m"})
    assert (sparse["CompanyName"], sparse["Notes"], sparse["SyncToken"]) == ("H", "m", "1")
    full = await api.post("customer", {**version(sparse), "DisplayName": "Harbour Books"})
    assert full.keys().isdisjoint({"Notes", "CompanyName"})
    assert (full["Active"], full["SyncToken"], full["MetaData"]["CreateTime"]) == (True, "2", made["MetaData"]["CreateTime"])


async def test_an_old_sync_token_is_stale_and_changes_nothing(api: Api) -> None:
    made = await api.customer()
    await api.post("customer", {**version(made), "sparse": True, "Notes": "first"})
    error = await api.refused("customer", {**version(made), "sparse": True, "Notes": "second"})
    assert error["code"] == "5010"
    assert (await api.get(f"customer/{made['Id']}"))["Notes"] == "first"


async def test_given_lines_replace_all_lines_and_known_ids_stay(api: Api) -> None:
    made = await api.invoice(await api.customer(), api.line("10"), api.line("20"))
    kept = {**made["Line"][1], "Description": "kept"}
    changed = await api.post("invoice", {**version(made), "sparse": True, "Line": [api.line("5"), kept]})
    assert [(line.get("Id"), line["Amount"]) for line in changed["Line"]] == [("3", D(5)), ("2", D(20)), (None, D(25))]


async def test_a_repeated_request_id_replays_even_after_a_delete_and_counts_once(api: Api) -> None:
    body = api.sale(await api.customer(), DocNumber="A-1")
    first = await api.post("invoice", body, requestid="r-1")
    await api.post("invoice", version(first), operation="delete")
    assert await api.post("invoice", body, requestid="r-1") == first
    assert (await api.call("GET", f"invoice/{first['Id']}"))[1]["Fault"]["Error"][0]["code"] == "610"
    assert api.sim.calls.written["sales_invoice.create"] == 1
    assert (await api.refused("estimate", body, requestid="r-1"))["code"] == "600"
    assert (await api.refused("invoice", body, requestid="r" * 51))["code"] == "2050"


async def test_lists_cannot_be_deleted_and_customers_with_a_balance_not_made_inactive(api: Api) -> None:
    customer = await api.customer()
    assert "not supported" in (await api.refused("customer", version(customer), operation="delete"))["Detail"]
    await api.invoice(customer)
    assert (await api.get(f"customer/{customer['Id']}"))["Balance"] == D(121)
    assert (await api.refused("customer", {**version(customer), "sparse": True, "Active": False}))["code"] == "6000"


# --- rules of names ------------------------------------------------------------------------------------------------------------


async def test_a_name_is_unique_over_people_and_inactive_rows(api: Api) -> None:
    made = await api.customer()
    assert (await api.refused("customer", {"DisplayName": "harbour books"}))["Detail"].endswith(f": Id={made['Id']}")
    for entity in ("vendor", "employee"):
        error = await api.refused(entity, {"DisplayName": "Harbour Books"})
        assert (error["code"], "Another customer, vendor or employee" in error["Detail"]) == ("6240", True)
    await api.post("customer", {**version(made), "sparse": True, "Active": False})
    assert (await api.refused("customer", {"GivenName": "Harbour", "FamilyName": "Books"}))["code"] == "6240"


async def test_an_items_name_is_unique_too_and_its_sku_is_not(api: Api) -> None:
    item = await api.item(Sku="S")
    await api.post("item", {**version(item), "sparse": True, "Active": False})
    income = api.ref("Account", "Sales of Product Income")
    error = await api.refused("item", {"Name": "Notebook", "Type": "Service", "IncomeAccountRef": income})
    assert (error["code"], error["Detail"]) == ("6240", f"The name supplied already exists. : Id={item['Id']}")
    assert (await api.item("Other", Sku="S"))["Sku"] == "S"


async def test_categories_qualify_names_and_renames_reach_their_items(api: Api) -> None:
    category = await api.post("item", {"Name": "Stationery", "Type": "Category"})
    item = await api.item(SubItem=True, ParentRef={"value": category["Id"]})
    assert (item["FullyQualifiedName"], item["Level"], item["ParentRef"]["name"]) == ("Stationery:Notebook", 1, "Stationery")
    await api.post("item", {**version(category), "sparse": True, "Name": "Paper"})
    assert (await api.get(f"item/{item['Id']}"))["FullyQualifiedName"] == "Paper:Notebook"
    assert dict(api.sim.calls.written) == {"product_category.create": 1, "product.create": 1, "product_category.update": 1}


async def test_inventory_items_need_their_accounts_and_bundles_are_made_in_screens(api: Api) -> None:
    income = api.ref("Account", "Sales of Product Income")
    body = {"Name": "Box", "Type": "Inventory", "IncomeAccountRef": income, "TrackQtyOnHand": True, "QtyOnHand": 0}
    assert (await api.refused("item", body))["element"] == "AssetAccountRef"
    body |= {"AssetAccountRef": api.ref("Account", "Inventory Asset"), "InvStartDate": "2026-01-01"}
    assert (await api.refused("item", {**body, "ExpenseAccountRef": income}))["code"] == "6000"
    box = await api.post("item", {**body, "ExpenseAccountRef": api.ref("Account", "Cost of sales")})
    assert (await api.refused("item", {"Name": "Set", "Type": "Group"}))["code"] == "6000"
    parts = {"ItemGroupLine": [{"ItemRef": {"value": box["Id"]}, "Qty": 2}]}
    api.sim.edit("product", "new", {"Name": "Set", "Type": "Group", "ItemGroupDetail": parts})
    assert len((await api.query("select * from Item where Type = 'Group'"))["Item"]) == 1


async def test_tax_numbers_are_masked_and_countries_have_three_letters(api: Api) -> None:
    made = await api.customer(PrimaryTaxIdentifier="NL810000001B01", BillAddr={"Line1": "x", "Country": "NL"})
    assert (made["PrimaryTaxIdentifier"], made["BillAddr"]["Country"]) == ("XXXXXXX1B01", "NLD")
    assert api.sim.company.row("Customer", made["Id"])["PrimaryTaxIdentifier"] == "NL810000001B01"


async def test_the_currency_of_a_customer_stays_and_must_be_one_of_the_companys(api: Api) -> None:
    made = await api.customer(CurrencyRef={"value": "SEK"})
    assert (await api.refused("customer", {**version(made), "sparse": True, "CurrencyRef": {"value": "EUR"}}))["code"] == "6000"
    assert (await api.refused("customer", {"DisplayName": "Y", "CurrencyRef": {"value": "JPY"}}))["code"] == "2500"


# --- rules of members ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "code", "element"),
    [
        ("customer", {}, "2020", "DisplayName"),
        ("customer", {"DisplayName": "a:b"}, "2080", "DisplayName"),
        ("customer", {"DisplayName": "x" * 501}, "2050", "DisplayName"),
        ("customer", {"DisplayName": "x", "BillAddr": {"PostalCode": "1" * 31}}, "2050", "BillAddr.PostalCode"),
        ("customer", {"DisplayName": "x", "SalesTermRef": {"value": "99"}}, "2500", "SalesTermRef"),
        ("customer", {"DisplayName": "x", "Active": "true"}, "2080", "Active"),
        ("item", {"Name": "x", "Type": "Thing"}, "2170", "Type"),
        ("item", {"Name": "x", "Type": "Service", "UnitPrice": "9.95"}, "2080", "UnitPrice"),
        ("item", {"Name": "x", "Type": "Service"}, "2020", "IncomeAccountRef"),
        ("item", {"Name": "x" * 101, "Type": "Service"}, "2050", "Name"),
        ("invoice", {"Line": []}, "2020", "CustomerRef"),
        ("payment", {"TotalAmt": 1}, "2020", "CustomerRef"),
        ("term", {"Name": "x" * 32, "DueDays": 1}, "2050", "Name"),
    ],
)
async def test_bodies_that_are_refused(api: Api, path: str, body: dict[str, Any], code: str, element: str) -> None:
    error = await api.refused(path, body)
    assert (error["code"], error["element"]) == (code, element)
    assert not api.sim.calls.written


async def test_a_reference_to_an_inactive_row_is_610_unless_the_row_had_it_before(api: Api) -> None:
    item = await api.item()
    customer = await api.customer()
    invoice = await api.invoice(customer, api.line("5", ItemRef={"value": item["Id"]}))
    await api.post("item", {**version(item), "sparse": True, "Active": False})
    assert (await api.refused("invoice", api.sale(customer, api.line("5", ItemRef={"value": item["Id"]}))))["code"] == "610"
    again = {**version(invoice), "sparse": True, "Line": invoice["Line"]}
    assert (await api.post("invoice", again))["SyncToken"] == "1"


async def test_misspelt_and_read_only_members_are_ignored_in_silence(api: Api) -> None:
    made = await api.customer(Balance=99, DisplayNmae="x", Id=None)
    assert (made["Balance"], made["Id"]) == (0, "1")


async def test_a_body_that_is_no_object_is_refused(api: Api) -> None:
    status, answer = await api.call("POST", "customer", content=b"[1")
    assert (status, answer["Fault"]["Error"][0]["code"]) == (400, "2010")


# --- rules of sales ------------------------------------------------------------------------------------------------------------


async def test_a_number_is_unique_per_type_when_numbers_are_the_clients(api: Api) -> None:
    customer = await api.customer()
    made = await api.invoice(customer, DocNumber="A-1")
    error = await api.refused("invoice", api.sale(customer, DocNumber="A-1"))
    assert error["code"] == "6140"
    assert error["Detail"].endswith(f"DocNumber=A-1 is assigned to TxnType=Invoice with TxnId={made['Id']}")
    await api.post("salesreceipt", api.sale(customer, DocNumber="A-1"))
    await api.post("invoice", api.sale(customer, DocNumber="A-1"), include="allowduplicatedocnum")
    assert (await api.refused("invoice", api.sale(customer, DocNumber="x" * 22)))["code"] == "2050"
    assert "DocNumber" not in await api.invoice(customer)
    assert (await api.invoice(customer, AutoDocNumber=True))["DocNumber"] == "1001"


async def test_the_server_numbers_when_numbers_are_its_own() -> None:
    api = Api(custom_txn_numbers=False)
    customer = await api.customer()
    assert [(await api.invoice(customer, DocNumber="A-1"))["DocNumber"] for _ in range(2)] == ["1001", "1002"]
    assert (await api.get("preferences"))["SalesFormsPrefs"]["CustomTxnNumbers"] is False


async def test_a_document_is_in_its_customers_currency(api: Api) -> None:
    customer = await api.customer(CurrencyRef={"value": "SEK"})
    assert (await api.refused("invoice", api.sale(customer, CurrencyRef={"value": "EUR"})))["code"] == "6000"
    made = await api.invoice(customer)
    assert (made["CurrencyRef"]["value"], made["TotalAmt"], made["HomeTotalAmt"]) == ("SEK", D(121), D("10.89"))


async def test_every_sold_line_needs_a_tax_code(api: Api) -> None:
    customer = await api.customer()
    error = await api.refused("invoice", api.sale(customer, api.line("1", TaxCodeRef=None)))
    assert (error["code"], "VAT rate" in error["Detail"]) == ("6000", True)
    assert (await api.refused("invoice", api.sale(customer, api.line("1", TaxCodeRef={"value": "99"}))))["code"] == "2500"
    text = {"DetailType": "DescriptionOnly", "Description": "hello"}
    assert (await api.refused("invoice", api.sale(customer, text)))["code"] == "2020"
    assert len((await api.invoice(customer, text, api.line("1")))["Line"]) == 3


@pytest.mark.parametrize(
    ("quantity", "price", "amount", "is_taken"),
    [(3, "24.95", "74.85", True), (3, "24.95", "74.84", False), (3, "0.335", "1.01", True), (1, "1.005", "1.00", False)],
)
async def test_amounts_are_quantity_times_price_half_up(api: Api, quantity: int, price: str, amount: str, is_taken: bool) -> None:
    body = api.sale(await api.customer(), api.line(amount, Qty=quantity, UnitPrice=D(price)))
    if is_taken:
        assert (await api.post("invoice", body))["Line"][0]["Amount"] == D(amount)
    else:
        assert (await api.refused("invoice", body))["code"] == "6070"


async def test_nothing_changes_in_a_closed_period(api: Api) -> None:
    customer = await api.customer()
    made = await api.invoice(customer, TxnDate="2026-01-31")
    api.sim.edit("preferences", "1", {"BookCloseDate": "2026-01-31"})
    assert (await api.get("preferences"))["AccountingInfoPrefs"]["BookCloseDate"] == "2026-01-31"
    assert (await api.refused("invoice", api.sale(customer, TxnDate="2026-01-31")))["code"] == "6210"
    assert (await api.refused("invoice", {**version(made), "sparse": True, "TxnDate": "2026-02-01"}))["code"] == "6210"
    assert (await api.refused("invoice", version(made), operation="delete"))["code"] == "6210"
    await api.invoice(customer, TxnDate="2026-02-01")


async def test_the_form_fills_in_due_date_and_addresses(api: Api) -> None:
    customer = await api.customer(BillAddr={"Line1": "Quay 1", "Country": "NL"})
    made = await api.invoice(customer, TxnDate="2026-01-31", SalesTermRef=api.ref("Term", "Net 30"))
    assert (made["DueDate"], made["BillAddr"]["Line1"], made["BillAddr"]["Country"]) == ("2026-03-02", "Quay 1", "NLD")
    assert made["BillAddr"]["Id"] != customer["BillAddr"]["Id"]


async def test_tax_is_rounded_per_rate_over_the_document(api: Api) -> None:
    made = await api.invoice(await api.customer(), api.line("0.12"), api.line("0.12"), api.line("1.50", "NL 9% S"))
    taxes = {tax["TaxLineDetail"]["TaxPercent"]: tax["Amount"] for tax in made["TxnTaxDetail"]["TaxLine"]}
    assert taxes == {21: D("0.05"), 9: D("0.14")}, "0.12 at 21 % twice would be 0.06 by line; 0.135 goes up"
    assert (made["TxnTaxDetail"]["TotalTax"], made["TotalAmt"]) == (D("0.19"), D("1.93"))
    assert made["Line"][-1] == {"Amount": D("1.74"), "DetailType": "SubTotalLineDetail", "SubTotalLineDetail": {}}
    rates = {row["Id"] for row in api.sim.company.tables["TaxRate"].values()}
    assert {tax["TaxLineDetail"]["TaxRateRef"]["value"] for tax in made["TxnTaxDetail"]["TaxLine"]} < rates


async def test_a_discount_lowers_the_bases_pro_rata(api: Api) -> None:
    discount = {"DetailType": "DiscountLineDetail", "Amount": D("1.00"), "DiscountLineDetail": {"PercentBased": False}}
    lines = [api.line("10.00"), api.line("10.00", "NL 9% S"), api.line("10.00", "NL 0% Z"), discount]
    made = await api.invoice(await api.customer(), *lines)
    bases = [tax["TaxLineDetail"]["NetAmountTaxable"] for tax in made["TxnTaxDetail"]["TaxLine"]]
    assert bases == [D("9.66"), D("9.67"), D("9.67")]
    assert (made["TxnTaxDetail"]["TotalTax"], made["TotalAmt"]) == (D("2.90"), D("31.90"))
    by_percent = {"DetailType": "DiscountLineDetail", "DiscountLineDetail": {"PercentBased": True, "DiscountPercent": 10}}
    assert (await api.invoice({"Id": "1"}, api.line("10"), by_percent))["TotalAmt"] == D("10.89")


def test_largest_remainder_gives_away_every_cent() -> None:
    assert split(D("0.05"), [D(1), D(1), D(1)]) == [D("0.02"), D("0.02"), D("0.01")]
    assert split(D("1.00"), [D(0)]) == [D(0)]


async def test_stated_gross_amounts_and_stated_taxes_decide(api: Api) -> None:
    customer = await api.customer()
    gross = await api.invoice(customer, api.line("8.25", TaxInclusiveAmt=D("9.99")), GlobalTaxCalculation="TaxInclusive")
    assert (gross["TotalAmt"], gross["TxnTaxDetail"]["TotalTax"]) == (D("9.99"), D("1.74"))
    rate = gross["TxnTaxDetail"]["TaxLine"][0]["TaxLineDetail"]["TaxRateRef"]
    stated = {"TaxLine": [{"Amount": D("21.01"), "DetailType": "TaxLineDetail", "TaxLineDetail": {"TaxRateRef": rate}}]}
    made = await api.invoice(customer, TxnTaxDetail=stated)
    assert (made["TotalAmt"], made["TxnTaxDetail"]["TaxLine"][0]["TaxLineDetail"]["OverrideDeltaAmount"]) == (
        D("121.01"),
        D("0.01"),
    )
    same = await api.post("invoice", {**version(made), "sparse": True, "PrivateNote": "x"})
    assert same["TotalAmt"] == D("121.01")
    fresh = await api.post("invoice", {**version(same), "sparse": True, "Line": [api.line("100")]})
    assert fresh["TotalAmt"] == D(121)


async def test_numbers_are_never_floats(api: Api) -> None:
    customer = await api.customer()
    body = api.sale(customer, api.line("0.10"), api.line("0.20"))
    answer = await api.http.post(f"/v3/company/{REALM}/invoice", content=json.dumps(body, default=float))
    assert '"Amount":0.30,' in answer.text


async def test_a_bundle_is_sold_as_its_items(api: Api) -> None:
    code = api.ref("TaxCode", "NL 21% S")
    item = await api.item(UnitPrice=D("2.50"), SalesTaxCodeRef=code)
    parts = {"ItemGroupLine": [{"ItemRef": {"value": item["Id"]}, "Qty": 2}]}
    api.sim.edit("product", "new", {"Name": "Set", "Type": "Group", "ItemGroupDetail": parts})
    group = {"GroupItemRef": api.ref("Item", "Set"), "Quantity": 3}
    made = await api.invoice(await api.customer(), {"DetailType": "GroupLineDetail", "GroupLineDetail": group})
    (line,) = made["Line"][0]["GroupLineDetail"]["Line"]
    assert (line["SalesItemLineDetail"]["Qty"], made["Line"][0]["Amount"], made["TotalAmt"]) == (6, D(15), D("18.15"))


async def test_an_estimate_is_closed_by_the_invoice_that_links_it(api: Api) -> None:
    customer = await api.customer()
    estimate = await api.post("estimate", api.sale(customer))
    assert estimate["TxnStatus"] == "Pending"
    invoice = await api.invoice(customer, LinkedTxn=[{"TxnId": estimate["Id"], "TxnType": "Estimate"}])
    closed = await api.get(f"estimate/{estimate['Id']}")
    assert (closed["TxnStatus"], closed["SyncToken"]) == ("Closed", "1")
    assert closed["LinkedTxn"] == [{"TxnId": invoice["Id"], "TxnType": "Invoice"}]


async def test_a_refund_names_the_account_and_a_receipt_needs_no_customer(api: Api) -> None:
    body = {"Line": [api.line("1")]}
    assert (await api.refused("refundreceipt", body))["element"] == "DepositToAccountRef"
    receipt = await api.post("salesreceipt", body)
    assert (receipt["DepositToAccountRef"]["value"], receipt["Balance"]) == (api.ref("Account", "Undeposited Funds")["value"], 0)


# --- payments, voids -----------------------------------------------------------------------------------------------------------


async def test_payments_lower_the_balance_raise_the_token_and_give_it_back(api: Api) -> None:
    invoice = await api.invoice(await api.customer())
    payment = await api.pay(invoice, "50.00")
    after = await api.get(f"invoice/{invoice['Id']}")
    assert (after["Balance"], after["SyncToken"]) == (D(71), "1")
    assert after["LinkedTxn"] == [{"TxnId": payment["Id"], "TxnType": "Payment"}]
    assert api.sim.books()["documents"][0]["status"] == "PARTIAL"
    await api.pay(invoice, "71.00")
    assert api.sim.books()["documents"][0]["status"] == "PAID"
    await api.post("payment", version(payment), operation="delete")
    assert (await api.get(f"invoice/{invoice['Id']}"))["Balance"] == D(50)


async def test_more_than_is_open_cannot_be_applied_and_more_money_stays_unapplied(api: Api) -> None:
    invoice = await api.invoice(await api.customer())
    link = [{"TxnId": invoice["Id"], "TxnType": "Invoice"}]
    body = {"CustomerRef": invoice["CustomerRef"], "TotalAmt": 200, "Line": [{"Amount": 122, "LinkedTxn": link}]}
    assert (await api.refused("payment", body))["code"] == "6000"
    assert (await api.pay(invoice, "121.00", TotalAmt=200))["UnappliedAmt"] == D(79)
    assert (await api.get("customer/1"))["Balance"] == D(-79)


async def test_a_credit_is_set_against_an_invoice_without_money(api: Api) -> None:
    customer = await api.customer()
    invoice, memo = await api.invoice(customer), await api.post("creditmemo", api.sale(customer))
    kinds = (("Invoice", invoice), ("CreditMemo", memo))
    lines = [{"Amount": 121, "LinkedTxn": [{"TxnId": row["Id"], "TxnType": kind}]} for kind, row in kinds]
    await api.post("payment", {"CustomerRef": {"value": customer["Id"]}, "TotalAmt": 0, "Line": lines})
    assert (await api.get(f"invoice/{invoice['Id']}"))["Balance"] == 0
    assert (await api.get(f"creditmemo/{memo['Id']}"))["RemainingCredit"] == 0
    assert [item["status"] for item in api.sim.books()["documents"]] == ["OPEN", "PAID"], "no money paid the invoice"


async def test_a_void_leaves_zeros_and_a_note_and_frees_its_payments(api: Api) -> None:
    invoice = await api.invoice(await api.customer(), PrivateNote="order 1")
    payment = await api.pay(invoice, "121.00")
    current = await api.get(f"invoice/{invoice['Id']}")
    void = await api.post("invoice", version(current), operation="void")
    assert (void["TotalAmt"], void["Balance"], void["PrivateNote"], void["LinkedTxn"]) == (0, 0, "Voided - order 1", [])
    freed = await api.get(f"payment/{payment['Id']}")
    assert (freed["Line"], freed["UnappliedAmt"], freed["SyncToken"]) == ([], D(121), "1")
    assert api.sim.books()["documents"][0]["status"] == "VOID"


async def test_receipts_and_payments_are_voided_by_their_own_way(api: Api) -> None:
    invoice = await api.invoice(await api.customer())
    payment = await api.pay(invoice, "121.00")
    assert "not supported" in (await api.refused("payment", version(payment), operation="void"))["Detail"]
    await api.post("payment", {**version(payment), "sparse": True}, operation="update", include="void")
    assert (await api.get(f"invoice/{invoice['Id']}"))["Balance"] == D(121)
    receipt = await api.post("salesreceipt", {"Line": [api.line("1")]})
    assert (await api.post("salesreceipt", {**version(receipt), "sparse": True}, operation="update", include="void"))[
        "TotalAmt"
    ] == 0


# --- batch, attachments, counts, screens, seed ---------------------------------------------------------------------------------


async def test_a_batch_answers_every_item_by_its_key_whatever_the_order(api: Api) -> None:
    items: list[dict[str, Any]] = [
        {"bId": "c1", "operation": "create", "Customer": {"DisplayName": "A"}},
        {"bId": "c2", "operation": "create", "Customer": {"DisplayName": "A"}},
        {"bId": "q", "Query": "select * from Term"},
    ]
    answers = await api.post("batch", {"BatchItemRequest": items})
    found: dict[str, Any] = {item["bId"]: item for item in answers}  # type: ignore[union-attr, index, misc]
    assert found["c1"]["Customer"]["Id"] == "1"
    assert found["c2"]["Fault"]["Error"][0]["code"] == "6240"
    assert len(found["q"]["QueryResponse"]["Term"]) == 3
    assert (await api.refused("batch", {"BatchItemRequest": [items[2]] * 31}))["code"] == "1040"


async def upload(api: Api, name: str, item_id: str) -> list[dict[str, Any]]:
    metadata = {
        "AttachableRef": [{"EntityRef": {"type": "Item", "value": item_id}}],
        "FileName": name,
        "ContentType": "image/png",
    }
    files = {
        "file_metadata_01": ("m.json", json.dumps(metadata), "application/json"),
        "file_content_01": (name, b"\x89PNG\r\n\x00\xff", "image/png"),
    }
    _, answer = await api.call("POST", "upload", files=files)
    return answer["AttachableResponse"]  # type: ignore[no-any-return]


async def test_files_are_attached_found_by_name_and_target_and_read_back(api: Api) -> None:
    item = await api.item()
    ((made),) = await upload(api, "nb.png", item["Id"])
    assert made["Attachable"]["Size"] == 8
    where = f"AttachableRef.EntityRef.Type = 'Item' and AttachableRef.EntityRef.value = '{item['Id']}' and FileName = 'nb.png'"
    (row,) = (await api.query(f"select * from Attachable where {where}"))["Attachable"]
    address = await api.http.get(f"/v3/company/{REALM}/download/{row['Id']}")
    assert (await api.http.get(address.text)).content == b"\x89PNG\r\n\x00\xff"
    assert (await upload(api, "nb.html", item["Id"]))[0]["Fault"]["Error"][0]["code"] == "6000"
    assert (await upload(api, "nb.png", "99"))[0]["Fault"]["Error"][0]["code"] == "2500"


async def test_a_version_is_counted_as_served_once(api: Api) -> None:
    made = await api.customer()
    await api.query("select * from Customer")
    await api.cdc("Customer")
    await api.get(f"customer/{made['Id']}")
    assert api.sim.calls.served == {"customer": 1}
    api.sim.edit("customer", made["Id"], {"Notes": "x"})
    await api.cdc("Customer")
    assert api.sim.calls.served == {"customer": 2}
    await api.post("item", {"Name": "Paper", "Type": "Category"})
    await api.query("select * from Item")
    assert api.sim.calls.served == {"customer": 2, "product_category": 1}


async def test_users_edit_delete_and_void_in_the_screens(api: Api) -> None:
    customer = await api.customer()
    first, second, third = [await api.invoice(customer) for _ in range(3)]
    api.sim.clock.advance(5)
    api.sim.edit("sales_invoice", f"Invoice:{first['Id']}", {"PrivateNote": "by hand"})
    edited = await api.get(f"invoice/{first['Id']}")
    assert (edited["PrivateNote"], edited["SyncToken"]) == ("by hand", "1")
    assert edited["MetaData"]["LastUpdatedTime"] > first["MetaData"]["LastUpdatedTime"]
    api.sim.edit("sales_invoice", second["Id"], {"void": True})
    api.sim.edit("sales_invoice", third["Id"], {"deleted": True})
    api.sim.edit("sales_invoice", first["Id"], {"_delete": True})
    assert [(item["id"], item["status"]) for item in api.sim.books()["documents"]] == [(f"Invoice:{second['Id']}", "VOID")]
    api.sim.edit("customer", customer["Id"], {"deleted": True})
    assert api.sim.books()["customers"][0]["active"] is False
    with pytest.raises(ValueError, match="6240"):
        api.sim.edit("customer", "new", {"DisplayName": "Harbour Books"})
    with pytest.raises(ValueError, match="unknown entity"):
        api.sim.edit("warehouse", "1", {})


def seeded(seed: int = 3, **options: Any) -> QuickbooksSimulator:
    made = build(**options)
    made.clock.freeze()
    made.seed(200, seed)
    return made


def test_the_same_seed_gives_the_same_books_and_another_gives_others() -> None:
    first, second = seeded(), seeded()
    second.clock.freeze(first.clock.now())
    assert first.books() == second.books() != seeded(4).books()


def test_a_seeded_company_has_documents_of_every_fate_of_the_last_days() -> None:
    made = seeded()
    documents = made.books()["documents"]
    today: date = made.company.now().date()
    assert len(documents) == 200
    assert {item["status"] for item in documents} == {"PAID", "OPEN", "PARTIAL", "VOID"}
    assert {item["kind"] for item in documents} == {"INVOICE", "RECEIPT", "CREDIT_NOTE", "REFUND_RECEIPT"}
    assert {"EUR", "SEK"} <= {item["currency"] for item in documents}
    ages = [(today - date.fromisoformat(item["date"])).days for item in documents]
    assert sum(age <= 13 for age in ages) >= 160 and 13 < max(ages) <= 40
    assert any(item["customer_id"] is None for item in documents)
    assert {rate for item in documents for rate in item["vat_by_rate"]} == {"0.00", "9.00", "19.00", "20.00", "21.00", "25.00"}
    known = {f"BUS-{n:04d}" for n in range(1, 11)} | {"SHIPPING_ITEM_ID"}
    assert {line["sku"] for item in documents for line in item["lines"]} == known
    for item in documents:
        total = D(item["total_excl"]) + sum(map(D, item["vat_by_rate"].values()))
        assert total == D(item["total_incl"])


def test_seeded_customers_share_one_address_between_a_company_and_a_person() -> None:
    customers = seeded().books()["customers"]
    emails = [item["email"] for item in customers]
    assert [email for email in emails if emails.count(email) > 1] == ["buyer2@example2.test"] * 2
    assert {f"buyer{n}@example{n % 7}.test" for n in range(1, 31)} == set(emails)


def test_options() -> None:
    missing = {line["sku"] for item in seeded(missing_products=True).books()["documents"] for line in item["lines"]}
    assert "QBO-ONLY-1" in missing
    assert not build(seed_data=False).company.tables["TaxCode"]
    kept = build(rotate_refresh=False)
    token = kept.info("")["credentials"]["refresh_token"]
    assert kept.tokens.refresh(token).refresh_token == token
    assert seeded(custom_txn_numbers=False).books()["documents"][0]["number"].isdigit()


# --- the vendor's published client ---------------------------------------------------------------------------------------------


class Session:
    """What the client asks of an authorised session: requests with a bearer token."""

    def __init__(self, token: str, http: httpx.Client) -> None:
        self.access_token = token
        self.http = http

    def request(
        self, method: str, url: str, *, headers: dict[str, str], params: dict[str, Any] | None = None, data: Any = None
    ) -> Any:
        return self.http.request(method, url, headers=headers, params=params, content=data or None)


def use_client(base_url: str, token: str, since: Any) -> None:
    with httpx.Client(trust_env=False) as http:
        use_published(Session(token, http), base_url, since)


def use_published(session: Session, base_url: str, since: Any) -> None:
    from quickbooks import QuickBooks
    from quickbooks.batch import batch_create
    from quickbooks.cdc import change_data_capture
    from quickbooks.exceptions import QuickbooksException
    from quickbooks.objects import Customer, Invoice

    client = QuickBooks(company_id=REALM, minorversion=75)
    client.session = session
    client.api_url_v3 = f"{base_url}/v3"
    customer = Customer()
    customer.DisplayName = "O'Brien & Zonen"
    customer.save(qb=client)
    assert customer.Id == "1"
    (found,) = Customer.filter(DisplayName="O'Brien & Zonen", qb=client)
    found.CompanyName = "O'Brien"
    found.save(qb=client)
    (again,) = Customer.where("CompanyName = 'O\\'Brien'", qb=client)
    assert again.SyncToken == "1"
    customer.Notes = "too late"
    with pytest.raises(QuickbooksException) as stale:
        customer.save(qb=client)
    assert stale.value.error_code == 5010
    changes = change_data_capture([Customer, Invoice], since.isoformat(timespec="seconds"), qb=client)
    assert [row.CompanyName for row in changes.Customer] == ["O'Brien"]
    others = [Customer(), Customer()]
    others[0].DisplayName, others[1].DisplayName = "New", "O'Brien & Zonen"
    results = batch_create(others, qb=client)
    assert [row.DisplayName for row in results.successes] == ["New"]
    assert results.faults[0].Error[0].code == "6240"


@pytest.mark.loopback
async def test_the_published_client_over_a_real_port() -> None:
    simulator = build()
    token = simulator.tokens.refresh(simulator.info("")["credentials"]["refresh_token"]).access_token
    since = simulator.clock.now() - timedelta(minutes=5)
    async with Served(simulator) as served:
        await asyncio.to_thread(use_client, served.base_url, token, since)
    assert simulator.calls.written == {"customer.create": 2, "customer.update": 1}
