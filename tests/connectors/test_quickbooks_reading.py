"""Back-fill and change data capture: nothing skipped, repeats dropped, windows and caps noticed."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bus.core.clock import FrozenClock
from bus.core.errors import (
    AccessDenied,
    ApiChanged,
    CursorInvalid,
    MappingError,
    PageLoop,
    RateLimited,
    RecordError,
    Unavailable,
    WriteRejected,
)
from bus.kit.connector import Page, Position, RawRecord
from connectors.quickbooks import reading
from schemas.system import Cause
from tests.connectors.quickbooks_company import Call, FakeCompany, connector_of, fault

OLD = "2025-01-02T01:00:00-08:00"


@pytest.fixture
def company() -> FakeCompany:
    return FakeCompany(FrozenClock())


def customer(number: int, *, changed: str = OLD, **more: Any) -> dict[str, Any]:
    dates = {"CreateTime": OLD, "LastUpdatedTime": changed}
    return {"Id": str(number), "SyncToken": "0", "MetaData": dates, "DisplayName": f"C{number}", "Active": True, **more}


def sale(number: int, *, changed: str = OLD, **more: Any) -> dict[str, Any]:
    dates = {"CreateTime": OLD, "LastUpdatedTime": changed}
    return {
        "Id": str(number),
        "SyncToken": "0",
        "MetaData": dates,
        "TxnDate": "2026-11-19",
        "TotalAmt": 0,
        "CurrencyRef": {"value": "EUR"},
        **more,
    }


async def poll(company: FakeCompany, position: Position | None = None, connector: Any = None) -> list[Page]:
    connector = connector or connector_of(company)
    return [page async for page in connector.read("cdc", position)]


def ids(pages: list[Page]) -> list[str]:
    return [record.id for page in pages for record in page.records]


# --- back-fill ---------------------------------------------------------------------------------------------------------------


async def test_a_first_poll_reads_all_lists_then_the_changes_since_it_began(company: FakeCompany) -> None:
    company.rows = {
        "Customer": [customer(1)],
        "Item": [{"Id": "2", "Type": "Category", "Name": "A"}],
        "Invoice": [sale(3)],
        "RefundReceipt": [sale(3)],
    }
    started = company.clock.now()
    pages = await poll(company)
    assert [(r.entity, r.id) for p in pages for r in p.records] == [
        ("customer", "1"),
        ("product_category", "2"),
        ("sales_invoice", "Invoice:3"),
        ("sales_invoice", "RefundReceipt:3"),
    ]
    assert [page.more for page in pages] == [True] * 6 + [False]
    assert "count(*)" in company.calls[0].statement, "the server's time is taken before the first page"
    assert company.calls[-1].params["changedSince"] == f"{started - timedelta(seconds=reading.OVERLAP_S):%Y-%m-%dT%H:%M:%S}-00:00"
    assert company.calls[-1].params["entities"] == "Customer,Item,Invoice,SalesReceipt,CreditMemo,RefundReceipt"


async def test_inactive_rows_of_name_lists_are_asked_for(company: FakeCompany) -> None:
    await poll(company)
    for entity in ("Customer", "Item"):
        assert "Active IN (true, false)" in company.statements(entity)[0]
    assert "Active" not in company.statements("Invoice")[0]


async def test_pages_overlap_and_a_poll_serves_no_row_twice(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(number) for number in range(1, 2401)]}
    found = ids(await poll(company))
    assert [s.split("STARTPOSITION ")[1] for s in company.statements("Customer")] == [
        "1 MAXRESULTS 1000",
        "951 MAXRESULTS 1000",
        "1901 MAXRESULTS 1000",
    ]
    assert sorted(map(int, found)) == list(range(1, 2401))


@pytest.mark.parametrize("count", [999, 1000, 1001])
async def test_every_row_once_around_the_page_size(company: FakeCompany, count: int) -> None:
    company.rows = {"Invoice": [sale(number) for number in range(1, count + 1)]}
    assert len(ids(await poll(company))) == count


@pytest.mark.parametrize("vanished", [30, 400])
async def test_rows_deleted_while_paging_make_no_gap(company: FakeCompany, vanished: int) -> None:
    company.rows = {"Invoice": [sale(number) for number in range(1, 2001)]}

    def deletes(call: Call) -> None:
        if "STARTPOSITION 951" in call.statement and len(company.rows["Invoice"]) == 2000:
            del company.rows["Invoice"][:vanished]

    company.override = deletes
    found = {int(i.split(":")[1]) for i in ids(await poll(company))}
    assert set(range(1, 2001)) <= found


async def test_a_broken_off_back_fill_goes_on_where_it_was(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(number) for number in range(1, 1501)], "Invoice": [sale(7)]}
    first = await anext(connector_of(company).read("cdc", None).__aiter__())
    position = msgspec.json.decode(msgspec.json.encode(first.position))
    company.calls.clear()
    rest = await poll(company, position)
    assert {int(i) for i in ids([first, *rest]) if ":" not in i} == set(range(1, 1501))
    assert not any("count(*)" in call.statement for call in company.calls), "the time before the back-fill is kept"


async def test_a_vendor_that_ignores_the_start_is_a_page_loop(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(number) for number in range(1, 1501)]}

    def same(call: Call) -> tuple[int, bytes] | None:
        if "STARTPOSITION 951" not in call.statement:
            return None
        return company._query(call.statement.replace("STARTPOSITION 951", "STARTPOSITION 1"))

    company.override = same
    with pytest.raises(PageLoop):
        await poll(company)


# --- changes -----------------------------------------------------------------------------------------------------------------


async def position_of(company: FakeCompany) -> Position:
    position = (await poll(company))[-1].position
    company.calls.clear()
    return msgspec.json.decode(msgspec.json.encode(position))  # type: ignore[no-any-return]


async def test_one_call_serves_all_entities(company: FakeCompany) -> None:
    position = await position_of(company)
    company.changed = {"Customer": [customer(1)], "CreditMemo": [sale(2)]}
    company.clock.advance(60)
    pages = await poll(company, position)
    assert ids(pages) == ["1", "CreditMemo:2"]
    assert len(company.calls) == 1
    assert [page.more for page in pages] == [False]


async def test_deleted_transactions_are_deletes_and_inactive_rows_are_updates(company: FakeCompany) -> None:
    position = await position_of(company)
    gone = {"status": "Deleted", "domain": "QBO", "Id": "233", "MetaData": {"LastUpdatedTime": "2026-11-19T00:44:02-08:00"}}
    company.changed = {"Invoice": [gone], "Customer": [customer(5, Active=False, DisplayName="C5 (deleted)")]}
    off, deleted = (await poll(company, position))[0].records
    assert (deleted.id, deleted.deleted) == ("Invoice:233", True)
    assert (off.id, off.deleted) == ("5", False)


async def test_the_next_poll_begins_before_the_servers_own_time(company: FakeCompany) -> None:
    position = await position_of(company)
    company.clock.advance(600)
    at = company.clock.now()
    following = (await poll(company, position))[-1].position
    company.clock.advance(600)
    await poll(company, following)
    assert company.calls[-1].params["changedSince"] == f"{at - timedelta(seconds=reading.OVERLAP_S):%Y-%m-%dT%H:%M:%S}-00:00"


async def test_once_a_day_the_day_before_is_read_again(company: FakeCompany) -> None:
    position = await position_of(company)
    begun = company.clock.now()
    for _ in range(24):
        company.clock.advance(3600)
        position = (await poll(company, position))[-1].position
    assert company.calls[-1].params["changedSince"] == f"{begun - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}-00:00"
    company.clock.advance(3600)
    before = company.clock.now()
    await poll(company, position)
    assert company.calls[-1].params["changedSince"] > f"{before - timedelta(hours=2):%Y-%m-%dT%H:%M:%S}"


async def test_a_gap_of_thirty_days_needs_a_full_read(company: FakeCompany) -> None:
    position = await position_of(company)
    company.clock.advance(30 * 86_400 - 60)
    await poll(company, position)
    company.clock.advance(120)
    with pytest.raises(CursorInvalid, match="30 days"):
        await poll(company, position)


async def test_a_position_nobody_can_read_needs_a_full_read(company: FakeCompany) -> None:
    with pytest.raises(CursorInvalid):
        await poll(company, {"since": "yesterday"})


async def test_an_answer_at_its_cap_is_asked_again_per_entity(company: FakeCompany) -> None:
    position = await position_of(company)
    company.changed = {"Customer": [customer(n) for n in range(1, 701)], "Invoice": [sale(n) for n in range(1, 601)]}
    company.changed["Invoice"].append({"status": "Deleted", "Id": "900"})
    pages = await poll(company, position)
    assert len(ids(pages)) == 700 + 601
    assert {record.id for page in pages for record in page.records if record.deleted} == {"Invoice:900"}
    assert [call.params.get("entities") for call in company.calls][1:] == list(reading.ENTITIES)
    assert pages[-1].more is False
    assert all(page.position == position for page in pages[:-1]), "the cursor moves only when the whole span is read"
    assert not any(page.deletes_unproven for page in pages), "each entity fitted by itself, its deletes with it"


async def test_an_entity_that_alone_is_at_the_cap_is_queried_up_to_the_answers_time(company: FakeCompany) -> None:
    position = await position_of(company)
    now = company.clock.now()
    rows = [sale(n, changed=(now - timedelta(seconds=2500 - n)).isoformat(timespec="seconds")) for n in range(1, 2501)]
    company.changed, company.rows = {"Invoice": rows}, {"Invoice": rows}
    pages = await poll(company, position | {"since": (now - timedelta(hours=2)).isoformat()})
    assert {int(i.split(":")[1]) for i in ids(pages)} == set(range(1, 2501))
    assert pages[-1].deletes_unproven, "a query names no deleted rows"
    statements = company.statements("Invoice")
    assert all(f"LastUpdatedTime <= '{now + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}-00:00'" in text for text in statements)
    assert all("ORDERBY MetaData.LastUpdatedTime STARTPOSITION 1 " in text for text in statements)


async def test_many_rows_of_one_second_are_paged_by_offset(company: FakeCompany) -> None:
    position = await position_of(company)
    rows = [sale(n, changed=company.clock.now().isoformat()) for n in range(1, 2501)]
    company.changed, company.rows = {"Invoice": rows}, {"Invoice": rows}
    assert {int(i.split(":")[1]) for i in ids(await poll(company, position))} == set(range(1, 2501))


# --- completing --------------------------------------------------------------------------------------------------------------


def invoice_with(**refs: Any) -> dict[str, Any]:
    return sale(1, **refs)


async def whole(company: FakeCompany, record: RawRecord, connector: Any = None) -> RawRecord | Exception:
    return (await (connector or connector_of(company)).complete([record]))[0]  # type: ignore[no-any-return]


async def test_references_are_joined_with_what_is_behind_them(company: FakeCompany) -> None:
    rates = {"TaxRateDetail": [{"TaxRateRef": {"value": "5"}}]}
    company.rows = {
        "Customer": [customer(61, Job=True, ParentRef={"value": "60"}), customer(60)],
        "Item": [
            {"Id": "44", "Name": "N", "Type": "Service", "ParentRef": {"value": "40"}},
            {"Id": "40", "Name": "A", "Type": "Category"},
        ],
        "TaxCode": [{"Id": "3", "Name": "S", "SalesTaxRateList": rates}],
        "TaxRate": [{"Id": "5", "RateValue": 21}],
        "Term": [{"Id": "9", "Name": "Net 30"}],
    }
    lines = [
        {
            "Amount": 1,
            "DetailType": "SalesItemLineDetail",
            "SalesItemLineDetail": {"ItemRef": {"value": item}, "TaxCodeRef": {"value": "3"}},
        }
        for item in ("44", "SHIPPING_ITEM_ID")
    ]
    invoice = invoice_with(CustomerRef={"value": "61"}, SalesTermRef={"value": "9"}, Line=lines, TotalAmt=2)
    record = reading.record_of("Invoice", msgspec.json.encode(invoice))
    joined = await whole(company, record)
    assert isinstance(joined, RawRecord)
    assert set(joined.joined) == {"Customer:61", "Customer:60", "Item:44", "Item:40", "TaxCode:3", "TaxRate:5", "Term:9"}
    assert all("Id IN (" in call.statement for call in company.calls)


async def test_a_page_asks_once_for_what_its_records_share(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(n) for n in range(1, 251)]}
    records = [
        reading.record_of("Invoice", msgspec.json.encode(sale(n, CustomerRef={"value": str(n % 250 + 1)})))
        for n in range(1, 1001)
    ]
    connector = connector_of(company)
    await connector.complete(records)
    assert len(company.statements("Customer")) == 3, "250 ids, at most 100 a call"
    await connector.complete(records)
    assert len(company.statements("Customer")) == 3, "remembered"
    company.clock.advance(901)
    await connector.complete(records)
    assert len(company.statements("Customer")) == 6, "not for ever"


async def test_rows_seen_while_polling_replace_remembered_ones(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(61)]}
    connector = connector_of(company)
    position = (await poll(company, None, connector))[-1].position
    record = reading.record_of("Invoice", msgspec.json.encode(sale(1, CustomerRef={"value": "61"})))
    company.changed = {"Customer": [customer(61, CompanyName="Renamed B.V.")]}
    await poll(company, position, connector)
    company.calls.clear()
    joined = await whole(company, record, connector)
    assert isinstance(joined, RawRecord)
    assert b"Renamed" in joined.joined["Customer:61"]
    assert company.calls == []


async def test_one_unresolvable_reference_stops_one_record(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(61)]}
    good, bad, broken = (
        reading.record_of("Invoice", msgspec.json.encode(sale(n, CustomerRef={"value": c}, TotalAmt=t)))
        for n, c, t in ((1, "61", 0), (2, "62", 0), (3, "61", "much"))
    )
    first, second, third = await connector_of(company).complete([good, bad, broken])
    assert isinstance(first, RawRecord)
    assert isinstance(second, RecordError)
    assert second.cause is Cause.UNRESOLVED_REFERENCE
    assert "Customer:62" in str(second)
    assert isinstance(third, MappingError)


async def test_a_broken_referred_object_stops_only_who_refers_to_it(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(61)], "TaxCode": [{"Id": "3"}]}
    line = {"Amount": 1, "DetailType": "SalesItemLineDetail", "SalesItemLineDetail": {"TaxCodeRef": {"value": "3"}}}
    bad, good = (
        reading.record_of("Invoice", msgspec.json.encode(sale(n, CustomerRef={"value": "61"}, Line=lines)))
        for n, lines in ((1, [line]), (2, []))
    )
    first, second = await connector_of(company).complete([bad, good])
    assert isinstance(first, MappingError)
    assert isinstance(second, RawRecord)


# --- bad answers -------------------------------------------------------------------------------------------------------------


def answering(company: FakeCompany, status: int, body: bytes) -> None:
    company.override = lambda call: (status, body)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>maintenance</html>",
        b'{"QueryResponse":{"Custo',
        b'{"QueryResponse":{}}',
        b'{"QueryResponse":{},"time":"2026-11-19T01:00:00"}',
    ],
)
async def test_answers_that_are_not_what_was_promised(company: FakeCompany, body: bytes) -> None:
    answering(company, 200, body)
    with pytest.raises(ApiChanged):
        await poll(company)


async def test_an_object_without_a_key_has_no_place(company: FakeCompany) -> None:
    company.rows = {"Customer": [{"Id": None, "DisplayName": "?"}]}
    with pytest.raises(ApiChanged, match=r"\$\.Id"):
        await poll(company)


async def test_a_time_without_zone_stops_its_own_record_only(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(1, changed="2026-11-19T00:41:12"), customer(2)]}
    first, second = (await poll(company))[0].records
    assert (first.modified_at, second.modified_at is None) == (None, False)
    assert isinstance(await whole(company, first), MappingError)


THROTTLED = (
    b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><IntuitResponse time="2026-11-03T02:11:09.417-08:00" '
    b'xmlns="http://schema.intuit.com/finance/v3"><Fault type="SERVICE"><Error code="3001"><Message>message=ThrottleExceeded; '
    b"errorCode=003001; statusCode=429</Message></Error></Fault></IntuitResponse>"
)
GATEWAY = (
    b'{"warnings":null,"fault":{"error":[{"message":"message=AuthenticationFailed","detail":"Token expired","code":"3100",'
    b'"element":null}],"type":"AUTHENTICATION"},"report":null}'
)


@pytest.mark.parametrize("status", [429, 403])
async def test_throttling_is_told_in_xml(company: FakeCompany, status: int) -> None:
    answering(company, status, THROTTLED)
    with pytest.raises(RateLimited) as error:
        await poll(company)
    assert error.value.retry_after_s == 60


async def test_the_gateways_lower_case_fault(company: FakeCompany) -> None:
    answering(company, 403, GATEWAY)
    with pytest.raises(AccessDenied):
        await poll(company)


async def test_a_fault_inside_a_200_is_an_error(company: FakeCompany) -> None:
    answering(company, *fault("4001", "QueryValidationError: property 'X' is not queryable", status=200))
    with pytest.raises(ApiChanged, match="4001"):
        await poll(company)
    answering(company, *fault("10000", "An application error has occurred", status=200, kind="SystemFault"))
    with pytest.raises(Unavailable):
        await poll(company)


async def test_the_word_fault_in_a_text_is_none(company: FakeCompany) -> None:
    company.rows = {"Customer": [customer(1, Notes='says "Fault" a lot')]}
    assert ids(await poll(company)) == ["1"]


# --- account -----------------------------------------------------------------------------------------------------------------


async def test_check_reads_company_and_settings(company: FakeCompany) -> None:
    company.preferences["AccountingInfoPrefs"] = {"BookCloseDate": "2026-10-31"}
    company.company["NameValue"] = [{"Name": "ItemCategoriesFeature", "Value": "true"}]
    account = await connector_of(company).check()
    assert (account.vendor_id, account.name, account.country, account.currency) == ("9130", "Papier B.V.", "NL", "EUR")
    assert account.facts == {
        "custom_numbers": "yes",
        "multi_currency": "yes",
        "shipping": "yes",
        "discounts": "yes",
        "books_closed_until": "2026-10-31",
        "categories": "yes",
    }
    assert any("2026-10-31" in text for text in account.warnings)


@pytest.mark.parametrize("country", ["US", "USA"])
async def test_companies_of_the_united_states_are_refused(company: FakeCompany, country: str) -> None:
    company.company["Country"] = country
    with pytest.raises(WriteRejected, match="United States"):
        await connector_of(company).check()


async def test_what_is_not_there_is_none(company: FakeCompany) -> None:
    assert await connector_of(company).fetch("sales_invoice", "Invoice:1") is None
