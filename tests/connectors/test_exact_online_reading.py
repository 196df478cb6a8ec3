"""Feeds, deletes and whole objects: nothing skipped, nothing half, nothing lost."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from bus.core.errors import (
    AccessDenied,
    ApiChanged,
    CursorInvalid,
    MappingError,
    NetworkFailure,
    PageLoop,
    RateLimited,
    RecordError,
    Unavailable,
)
from bus.kit.connector import Page, Position, RawRecord
from connectors.exact_online import feeds, parents, reading
from schemas.system import Cause
from tests.connectors.exact_online_division import (
    CHARGES,
    DIVISION,
    HOST,
    LINES,
    ORDERS,
    Call,
    FakeDivision,
    answered,
    connector_of,
    date_of,
    guid_of,
    refusal,
)

ACCOUNTS, CONTACTS, ADDRESSES = "crm/Accounts", "crm/Contacts", "crm/Addresses"
ITEMS, PRICES = "logistics/Items", "logistics/SalesItemPrices"


@pytest.fixture
def division() -> FakeDivision:
    made = FakeDivision()
    for number in (1, 2):
        account(made, number)
    made.put(CONTACTS, {"ID": guid_of(11), "Account": guid_of(1), "LastName": "Calder"})
    made.put(ADDRESSES, {"ID": guid_of(21), "Account": guid_of(1), "Type": 4, "City": "Gent"})
    item(made, 31)
    price(made, 32, 31)
    order(made, 40)
    return made


def account(division: FakeDivision, number: int, **more: Any) -> None:
    facts = {
        "ID": guid_of(number),
        "Name": f"A{number}",
        "Code": f"{number:18}",
        "Status": "C",
        "Modified": date_of("2026-11-20"),
    }
    division.put(ACCOUNTS, {**facts, **more})


def item(division: FakeDivision, number: int, **more: Any) -> None:
    facts = {"ID": guid_of(number), "Code": f"SKU-{number}", "SalesVatCode": "2  ", "IsSalesItem": True, "IsStockItem": True}
    division.put(ITEMS, {**facts, **more})


def price(division: FakeDivision, number: int, of: int, **more: Any) -> None:
    facts = {"ID": guid_of(number), "Item": guid_of(of), "Price": 10, "Currency": "EUR", "Quantity": 1}
    division.put(PRICES, {**facts, **more})


def order(division: FakeDivision, number: int, lines: int = 2, **more: Any) -> None:
    excl = Decimal(10 * lines)
    facts = {
        "OrderID": guid_of(number),
        "OrderNumber": number,
        "OrderedBy": guid_of(1),
        "AmountFC": excl * Decimal("1.21"),
        "AmountDC": excl * Decimal("1.21"),
        "AmountFCExclVat": excl,
        "Status": 12,
        "DeliveryStatus": 12,
        "InvoiceStatus": 12,
    }
    division.put(ORDERS, {**facts, **more})
    for index in range(1, lines + 1):
        line(division, number * 10 + index, number)


def line(division: FakeDivision, number: int, of: int, **more: Any) -> None:
    facts = {"ID": guid_of(number), "OrderID": guid_of(of), "LineNumber": number % 10, "Quantity": 1, "NetPrice": 10}
    vat = {"AmountFC": 10, "VATAmount": Decimal("2.10"), "VATCode": "2  ", "VATPercentage": Decimal("0.21")}
    division.put(LINES, {**facts, **vat, **more})


async def poll(division: FakeDivision, stream: str, position: Position | None = None, connector: Any = None) -> list[Page]:
    connector = connector or connector_of(division)
    return [page async for page in connector.read(stream, position)]


def plain(position: Position) -> Position:
    """As stored and read again."""
    return msgspec.json.decode(msgspec.json.encode(position))  # type: ignore[no-any-return]


def ids(pages: Iterable[Page], *, deleted: bool = False) -> list[str]:
    return [record.id for page in pages for record in page.records if record.deleted is deleted]


def end(pages: list[Page]) -> Position:
    assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
    return plain(pages[-1].position)


class Stream:
    """Polls of one process, one after another."""

    def __init__(self, division: FakeDivision, name: str, **config: Any) -> None:
        self.division, self.name, self.config = division, name, config
        self.connector = connector_of(division, **config)
        self.position: Position | None = None

    async def poll(self) -> list[Page]:
        self.division.calls.clear()
        self.division.clock.advance(60)
        pages = await poll(self.division, self.name, self.position, self.connector)
        self.position = end(pages)
        return pages

    def restart(self) -> None:
        self.connector = connector_of(self.division, **self.config)


# --- everything --------------------------------------------------------------------------------------------------------------


async def test_a_first_read_takes_whole_objects_from_the_feeds_alone(division: FakeDivision) -> None:
    pages = await poll(division, "customer")
    assert ids(pages) == [guid_of(1), guid_of(2)]
    paths = [call.path for call in division.calls if call.path.startswith(("sync/", "crm/"))]
    assert paths == ["sync/CRM/Accounts", "sync/CRM/Contacts", "sync/CRM/Addresses", "sync/Deleted"]
    whole = connector_of(division).to_canonical(pages[0].records[0])
    assert whole.contacts[0].pii.family_name == "Calder"  # type: ignore[union-attr]
    assert whole.pii.addresses[0].city == "Gent"  # type: ignore[union-attr]
    assert pages[-1].complete_ids == {"customer": [guid_of(1), guid_of(2)]}


async def test_feeds_are_paged_by_their_own_links(division: FakeDivision) -> None:
    division.page_rows = 3
    for number in range(100, 110):
        account(division, number)
    assert len(ids(await poll(division, "customer"))) == 12
    assert len(division.asked("sync/CRM/Accounts")) == 4


async def test_a_link_that_comes_twice_is_a_page_loop(division: FakeDivision) -> None:
    link = f"{HOST}/api/v1/{DIVISION}/sync/CRM/Accounts?$select=ID&$skiptoken=7L"
    division.override = lambda call: (
        answered(200, {"d": {"results": [], "__next": link}}) if call.path == "sync/CRM/Accounts" else None
    )
    with pytest.raises(PageLoop):
        await poll(division, "customer")


async def test_a_link_to_another_host_is_not_followed(division: FakeDivision) -> None:
    body = {"d": {"results": [], "__next": "https://elsewhere.example/api/v1/1/sync/CRM/Accounts?$skiptoken=1L"}}
    division.override = lambda call: answered(200, body) if call.path == "sync/CRM/Accounts" else None
    with pytest.raises(ApiChanged, match="another host"):
        await poll(division, "customer")


async def test_the_newest_version_of_a_row_served_twice_counts(division: FakeDivision) -> None:
    rows = [
        {"ID": guid_of(1), "Name": "old", "Status": "C", "Timestamp": "61000000001"},
        {"ID": guid_of(1), "Name": "new", "Status": "C", "Timestamp": "61000000009"},
    ]
    division.override = lambda call: answered(200, {"d": rows}) if call.path == "sync/CRM/Accounts" else None
    (page, _) = await poll(division, "customer")
    assert [b'"new"' in record.raw for record in page.records] == [True]


async def test_what_is_deleted_while_a_first_read_runs_is_not_shown(division: FakeDivision) -> None:
    def vanishes(call: Call) -> None:
        if call.path == "sync/CRM/Contacts" and guid_of(2) in division.tables[ACCOUNTS]:
            division.delete(ACCOUNTS, guid_of(2))

    division.override = vanishes
    pages = await poll(division, "customer")
    assert ids(pages) == [guid_of(1)]
    assert ids(pages, deleted=True) == []


async def test_a_broken_off_first_read_begins_again_and_misses_no_delete(
    division: FakeDivision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "OBJECTS_PER_PAGE", 1)
    first = await anext(connector_of(division).read("customer", None).__aiter__())
    assert ids([first]) == [guid_of(1)]
    division.delete(ACCOUNTS, guid_of(1))
    rest = await poll(division, "customer", plain(first.position))
    assert ids(rest) == [guid_of(2)]
    assert ids(rest, deleted=True) == [guid_of(1)]


async def test_groups_are_read_in_full(division: FakeDivision) -> None:
    division.put("logistics/ItemGroups", {"ID": guid_of(9), "Code": "VAAS", "Description": "Vazen"})
    (page,) = await poll(division, "product_category", {})
    assert page.complete_ids == {"product_category": [guid_of(9)]}


# --- what changed ------------------------------------------------------------------------------------------------------------


async def test_a_quiet_poll_asks_the_feeds_and_the_log_and_nothing_more(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    assert ids(await stream.poll()) == []
    assert [call.path for call in division.calls] == [*(feed.path for feed in feeds.FEEDS["customer"]), "sync/Deleted"]


@pytest.mark.parametrize(
    ("path", "number"),
    [(ACCOUNTS, 1), (CONTACTS, 11), (ADDRESSES, 21)],
)
async def test_a_change_of_any_part_reads_the_whole_customer(division: FakeDivision, path: str, number: int) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    division.change(path, guid_of(number), Phone="1")
    assert ids(await stream.poll()) == [guid_of(1)]


@pytest.mark.parametrize(("path", "number"), [(ITEMS, 31), (PRICES, 32)])
async def test_a_change_of_any_part_reads_the_whole_product(division: FakeDivision, path: str, number: int) -> None:
    stream = Stream(division, "product")
    await stream.poll()
    division.change(path, guid_of(number), Unit="kg")
    assert ids(await stream.poll()) == [guid_of(31)]


@pytest.mark.parametrize(("path", "number"), [(ORDERS, 40), (LINES, 402)])
async def test_a_change_in_either_feed_reads_the_whole_order(division: FakeDivision, path: str, number: int) -> None:
    stream = Stream(division, "sales_order")
    assert ids(await stream.poll()) == [guid_of(40)]
    division.change(path, guid_of(number), Description="x")
    (record,) = [record for page in await stream.poll() for record in page.records]
    assert len(connector_of(division).to_canonical(record).lines) == 2  # type: ignore[union-attr]


async def test_feeds_are_asked_from_below_their_highest_timestamp(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    highest = int(division.tables[ACCOUNTS][guid_of(2)]["Timestamp"])
    await stream.poll()
    assert division.asked("sync/CRM/Accounts")[0].filter == f"Timestamp gt {highest - feeds.OVERLAP}L"


async def test_a_row_version_committed_late_is_not_missed(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    account(division, 3)
    division.tables[ACCOUNTS][guid_of(3)]["Timestamp"] = str(int(division.tables[ACCOUNTS][guid_of(2)]["Timestamp"]) - 1)
    assert ids(await stream.poll()) == [guid_of(3)]
    assert ids(await stream.poll()) == [], "and is not handed out again"


async def test_an_order_waits_until_its_lines_are_there(division: FakeDivision) -> None:
    stream = Stream(division, "sales_order")
    await stream.poll()
    order(division, 50, lines=0, AmountFC=Decimal("24.20"), AmountDC=Decimal("24.20"), AmountFCExclVat=20)
    assert ids(await stream.poll()) == []
    line(division, 501, 50)
    assert ids(await stream.poll()) == [], "half an order would be booked as a smaller one"
    line(division, 502, 50)
    assert ids(await stream.poll()) == [guid_of(50)]
    assert stream.position is not None
    assert stream.position["again"] == {}


async def test_lines_that_appear_without_any_timestamp_are_found_all_the_same(division: FakeDivision) -> None:
    """Charges have no feed, and lines may show later in lists than in their feed: what waits is asked for again."""
    stream = Stream(division, "sales_order")
    order(division, 50, lines=1, AmountFC=Decimal("18.15"), AmountDC=Decimal("18.15"), AmountFCExclVat=15)
    await stream.poll()
    charge = {
        "ID": guid_of(509),
        "OrderID": guid_of(50),
        "AmountFCExclVAT": 5,
        "AmountFCInclVAT": Decimal("6.05"),
        "VATCode": "2",
    }
    division.put(CHARGES, charge)
    assert ids(await stream.poll()) == [guid_of(50)]


async def test_an_order_that_never_adds_up_is_shown_with_the_reason(division: FakeDivision) -> None:
    stream = Stream(division, "sales_order")
    order(division, 50, AmountFCExclVat=999)
    await stream.poll()
    for _ in range(reading.AGAIN_TRIES_MAX - 1):
        assert ids(await stream.poll()) == []
    pages = await stream.poll()
    assert ids(pages) == [guid_of(50)]
    (answer,) = await stream.connector.complete(pages[0].records)
    assert isinstance(answer, RecordError)
    assert answer.cause is Cause.SOURCE_INCONSISTENT
    assert ids(await stream.poll()) == []


async def test_no_order_that_waits_is_ever_dropped(division: FakeDivision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AGAIN_MAX", 3)
    stream = Stream(division, "sales_order")
    for number in range(50, 56):
        order(division, number, AmountFCExclVat=999)
    pages = await stream.poll()
    assert stream.position is not None
    shown, waiting = set(ids(pages)) - {guid_of(40)}, set(stream.position["again"])
    assert shown | waiting == {guid_of(number) for number in range(50, 56)}
    assert len(waiting) == 3
    records = [record for page in pages for record in page.records if record.id in shown]
    answers = await stream.connector.complete(records)
    assert all(isinstance(answer, RecordError) for answer in answers), "what cannot wait is set aside, with its bytes"


async def test_waiting_orders_outlive_the_process(division: FakeDivision) -> None:
    stream = Stream(division, "sales_order")
    order(division, 50, AmountFCExclVat=30)
    await stream.poll()
    stream.restart()
    line(division, 503, 50)
    assert ids(await stream.poll()) == [guid_of(50)]


async def test_an_order_that_cannot_be_read_stops_itself_alone(division: FakeDivision) -> None:
    order(division, 50, AmountFC="much")
    pages = await poll(division, "sales_order")
    records = [record for page in pages for record in page.records]
    good, bad = await connector_of(division).complete(records)
    assert isinstance(good, RawRecord)
    assert isinstance(bad, RawRecord)
    with pytest.raises(MappingError, match="AmountFC"):
        connector_of(division).to_canonical(bad)


@pytest.mark.parametrize("member", ["Modified", "EndDate"])
async def test_a_date_nobody_can_read_stops_no_poll(division: FakeDivision, member: str) -> None:
    stream = Stream(division, "product")
    await stream.poll()
    item(division, 33, **{member: "yesterday"})
    division.clock.advance(86_400)
    pages = await stream.poll()
    (record,) = [record for page in pages for record in page.records]
    assert record.modified_at is None
    with pytest.raises(MappingError, match="yesterday"):
        stream.connector.to_canonical(record)


# --- days --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "path", "number", "window"),
    [
        ("product", PRICES, 32, {"StartDate": date_of("2026-11-22")}),
        ("product", PRICES, 32, {"EndDate": date_of("2026-11-21")}),
        ("product", ITEMS, 31, {"EndDate": date_of("2026-11-21")}),
        ("product", ITEMS, 31, {"StartDate": date_of("2026-11-22")}),
        ("customer", ACCOUNTS, 2, {"EndDate": date_of("2026-11-21")}),
    ],
)
async def test_what_begins_or_ends_on_a_day_is_read_on_that_day(
    division: FakeDivision, stream: str, path: str, number: int, window: dict[str, str]
) -> None:
    division.change(path, guid_of(number), **window)
    polls = Stream(division, stream)
    await polls.poll()
    assert ids(await polls.poll()) == []
    division.clock.advance(86_400)
    assert ids(await polls.poll()) == [guid_of(31 if stream == "product" else 2)]
    assert ids(await polls.poll()) == [], "once a day"


async def test_a_standstill_of_days_covers_each_of_them(division: FakeDivision) -> None:
    for number, day in ((51, "2026-11-23"), (52, "2026-11-25"), (53, "2026-11-30")):
        price(division, number, 31 if number == 51 else number + 10, StartDate=date_of(day))
        item(division, number + 10)
    stream = Stream(division, "product")
    await stream.poll()
    division.clock.advance(5 * 86_400)
    assert set(ids(await stream.poll())) == {guid_of(31), guid_of(62)}


# --- deletes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "path", "number"), [("customer", ACCOUNTS, 2), ("product", ITEMS, 31), ("sales_order", ORDERS, 40)]
)
async def test_a_deleted_object_is_a_delete(division: FakeDivision, stream: str, path: str, number: int) -> None:
    polls = Stream(division, stream)
    await polls.poll()
    division.delete(path, guid_of(number))
    assert ids(await polls.poll(), deleted=True) == [guid_of(number)]
    assert ids(await polls.poll(), deleted=True) == [], "the overlap repeats no delete"


async def test_deletes_from_before_the_first_read_are_none(division: FakeDivision) -> None:
    division.delete(ACCOUNTS, guid_of(2))
    division.delete(ORDERS, guid_of(77))
    assert ids(await poll(division, "customer"), deleted=True) == []
    assert ids(await poll(division, "sales_order"), deleted=True) == []


async def test_the_log_is_asked_after_the_feeds_and_for_the_streams_own_types(division: FakeDivision) -> None:
    wanted = {"customer": (2, 5, 3), "product": (9, 8), "sales_order": (32, 33)}
    for name, kinds in wanted.items():
        division.calls.clear()
        await poll(division, name)
        paths = [call.path for call in division.calls]
        assert paths.index("sync/Deleted") > max(paths.index(feed.path) for feed in feeds.FEEDS[name])
        terms = " or ".join(f"EntityType eq {kind}" for kind in kinds)
        assert division.asked("sync/Deleted")[0].filter == f"Timestamp gt 1L and ({terms})"


async def test_a_delete_older_than_the_objects_row_is_void(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    stamp = division.stamp + 1
    account(division, 2, Name="restored")
    division.delete(ACCOUNTS, guid_of(99), stamp=stamp)
    division.tables["sync/Deleted"].popitem()
    division.put("sync/Deleted", {"EntityKey": guid_of(2), "EntityType": 2})["Timestamp"] = str(stamp)
    pages = await stream.poll()
    assert ids(pages, deleted=True) == []
    assert ids(pages) == [guid_of(2)]


async def test_a_delete_committed_late_is_not_missed(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    division.delete(ACCOUNTS, guid_of(77))
    await stream.poll()
    late = int(division.rows("sync/Deleted")[0]["Timestamp"]) - 1
    division.delete(ACCOUNTS, guid_of(2), stamp=late)
    division.tables[ACCOUNTS].pop(guid_of(2), None)
    assert ids(await stream.poll(), deleted=True) == [guid_of(2)]


@pytest.mark.parametrize(
    ("stream", "path", "part", "whole"),
    [("customer", CONTACTS, 11, 1), ("customer", ADDRESSES, 21, 1), ("product", PRICES, 32, 31)],
)
async def test_a_deleted_part_reads_its_whole_again(
    division: FakeDivision, stream: str, path: str, part: int, whole: int
) -> None:
    polls = Stream(division, stream)
    await polls.poll()
    division.delete(path, guid_of(part))
    pages = await polls.poll()
    assert ids(pages) == [guid_of(whole)]
    assert guid_of(part).encode() not in pages[0].records[0].raw
    assert ids(await polls.poll()) == []


async def test_a_deleted_line_reads_its_order_again(division: FakeDivision) -> None:
    stream = Stream(division, "sales_order")
    await stream.poll()
    division.delete(LINES, guid_of(402))
    division.tables[ORDERS][guid_of(40)] |= {"AmountFCExclVat": 10, "AmountFC": Decimal("12.10"), "AmountDC": Decimal("12.10")}
    pages = await stream.poll()
    assert ids(pages) == [guid_of(40)]
    assert len(stream.connector.to_canonical(pages[0].records[0]).lines) == 1  # type: ignore[union-attr]


async def test_after_a_restart_an_unknown_part_reads_everything_with_its_deletes(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    stream.restart()
    division.delete(CONTACTS, guid_of(11))
    division.delete(ACCOUNTS, guid_of(2))
    pages = await stream.poll()
    assert ids(pages) == [guid_of(1)]
    assert ids(pages, deleted=True) == [guid_of(2)]
    division.delete(ADDRESSES, guid_of(21))
    await stream.poll()
    assert len(division.asked("sync/CRM/Accounts")) == 1, "from then on the process knows the parts"


async def test_after_a_restart_an_unknown_line_reads_the_open_orders(division: FakeDivision) -> None:
    order(division, 50, Status=21)
    stream = Stream(division, "sales_order")
    await stream.poll()
    stream.restart()
    division.delete(LINES, guid_of(402))
    division.tables[ORDERS][guid_of(40)] |= {"AmountFCExclVat": 10, "AmountFC": Decimal("12.10"), "AmountDC": Decimal("12.10")}
    assert ids(await stream.poll()) == [guid_of(40)]


async def test_parts_of_a_deleted_object_bring_nothing_back(division: FakeDivision) -> None:
    stream = Stream(division, "sales_order")
    await stream.poll()
    for number in (401, 402):
        division.delete(LINES, guid_of(number))
    division.delete(ORDERS, guid_of(40))
    pages = await stream.poll()
    assert ids(pages) == []
    assert ids(pages, deleted=True) == [guid_of(40)]


def test_the_memory_of_parts_is_bounded() -> None:
    known = parents.Parents(parts_max=2)
    for number in (1, 2, 3):
        known.note(guid_of(number), guid_of(number + 100))
    assert [known.of(guid_of(number)) for number in (1, 2, 3)] == [None, guid_of(102), guid_of(103)]


# --- positions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["customer", "product", "sales_order"])
async def test_a_moved_division_needs_a_full_read(division: FakeDivision, stream: str) -> None:
    polls = Stream(division, stream)
    await polls.poll()
    division.change("system/Divisions", "1", DivisionMoveDate=date_of("2026-11-21"))
    division.clock.advance(3_601)
    with pytest.raises(CursorInvalid, match="moved"):
        await polls.poll()
    assert ids(await poll(division, stream, None, polls.connector)) != []
    polls.position = None
    await polls.poll()
    assert ids(await polls.poll()) == [], "and then goes on"


async def test_the_move_date_is_asked_once_an_hour_for_all_streams(division: FakeDivision) -> None:
    connector = connector_of(division)
    for name in ("customer", "product", "sales_order"):
        await poll(division, name, None, connector)
    assert len(division.asked("system/Divisions")) == 1


async def test_a_division_out_of_reach_is_denied(division: FakeDivision) -> None:
    division.tables["system/Divisions"].clear()
    with pytest.raises(AccessDenied, match=str(DIVISION)):
        await poll(division, "customer")


async def test_a_standstill_longer_than_the_log_needs_a_full_read(division: FakeDivision) -> None:
    stream = Stream(division, "customer")
    await stream.poll()
    division.clock.advance(timedelta(days=reading.STANDSTILL_DAYS).total_seconds() - 120)
    await stream.poll()
    division.clock.advance(timedelta(days=reading.STANDSTILL_DAYS, seconds=1).total_seconds())
    with pytest.raises(CursorInvalid, match="60 days"):
        await stream.poll()


async def test_a_position_nobody_can_read_needs_a_full_read(division: FakeDivision) -> None:
    with pytest.raises(CursorInvalid):
        await poll(division, "customer", {"feeds": {}, "read_at": "yesterday"})


async def test_the_position_moves_only_when_all_is_handed_out(division: FakeDivision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "OBJECTS_PER_PAGE", 1)
    stream = Stream(division, "customer")
    await stream.poll()
    for number in (1, 2):
        division.change(ACCOUNTS, guid_of(number), Phone="1")
    before = stream.position
    pages = await poll(division, "customer", before, stream.connector)
    assert [plain(page.position) == before for page in pages] == [True, True, False]


# --- products ----------------------------------------------------------------------------------------------------------------


def extra_fields(division: FakeDivision, number: int, value: str) -> None:
    division.put("read/logistics/ItemExtraField", {"ItemID": guid_of(number), "Description": "Houtsoort", "Value": value})


async def test_extra_fields_are_attributes_where_they_are_asked_for(division: FakeDivision) -> None:
    extra_fields(division, 31, "Eiken")

    def function(call: Call) -> httpx.Response | None:
        if call.path != "read/logistics/ItemExtraField":
            return None
        rows = [row for row in division.rows(call.path) if call.query.get("itemId") in (None, f"guid'{row['ItemID']}'")]
        since = call.filter.removeprefix("Modified ge ")
        return answered(200, {"d": {"results": rows if since < "datetime'2026" else []}})

    division.override = function
    stream = Stream(division, "product", read_extra_fields=True)
    (page, _) = await stream.poll()
    assert stream.connector.to_canonical(page.records[0]).attributes == {"Houtsoort": "Eiken"}  # type: ignore[union-attr]
    assert len(division.asked("read/logistics/ItemExtraField")) == 1, "a first read asks once for all"
    division.change(ITEMS, guid_of(31), Description="x")
    (page, _) = await stream.poll()
    assert stream.connector.to_canonical(page.records[0]).attributes == {"Houtsoort": "Eiken"}  # type: ignore[union-attr]
    await poll(division, "product", None, connector_of(division))
    assert len(division.asked("read/logistics/ItemExtraField")) == 2, "without the setting nobody asks"


@pytest.mark.parametrize(("url", "pictures"), [("/docs/SysImage.aspx?ID=1", 1), ("//docs/images/placeholder_item.png", 0)])
async def test_a_picture_is_read_with_the_token_and_the_placeholder_means_none(
    division: FakeDivision, url: str, pictures: int
) -> None:
    division.change(ITEMS, guid_of(31), PictureUrl=f"{HOST}{url}")
    (page, _) = await poll(division, "product")
    found = connector_of(division).to_canonical(page.records[0]).images  # type: ignore[union-attr]
    assert [(image.media_type, image.size_bytes) for image in found] == [("image/png", 12)] * pictures


async def test_a_picture_above_the_limit_counts_as_none(division: FakeDivision) -> None:
    division.change(ITEMS, guid_of(31), PictureUrl=f"{HOST}/docs/SysImage.aspx?ID=1")
    (page, _) = await poll(division, "product", None, connector_of(division, picture_bytes_max=11))
    assert connector_of(division).to_canonical(page.records[0]).images == []  # type: ignore[union-attr]


async def test_a_vat_code_made_meanwhile_is_asked_for(division: FakeDivision) -> None:
    stream = Stream(division, "product")
    await stream.poll()
    division.put("vat/VATCodes", {"Code": "9I ", "Type": "I", "Percentage": Decimal("0.09")})
    division.change(ITEMS, guid_of(31), SalesVatCode="9I ")
    (page, _) = await stream.poll()
    assert stream.connector.to_canonical(page.records[0]).prices[0].price_mode == "INCL"  # type: ignore[union-attr]


# --- answers -----------------------------------------------------------------------------------------------------------------


def answering(division: FakeDivision, answer: httpx.Response) -> None:
    division.override = lambda call: answer if call.path == "sync/CRM/Accounts" else None


BAD: list[tuple[httpx.Response, type[Exception]]] = [
    (httpx.Response(200, content=b"<html>", headers={"content-type": "text/html"}), ApiChanged),
    (httpx.Response(200, content=b'{"d": {"results": [{"ID"'), ApiChanged),
    (httpx.Response(200, content=b'{"d": {"results": [1]}}'), ApiChanged),
    (httpx.Response(200, content=b"[]"), ApiChanged),
    (answered(200, {"d": [{"ID": None, "Timestamp": "5"}]}), ApiChanged),
    (answered(200, {"d": [{"ID": guid_of(1), "Timestamp": None}]}), ApiChanged),
    (answered(200, {"d": [{"ID": guid_of(1), "Timestamp": "5.5"}]}), ApiChanged),
    (refusal(400, "This $filter parameter is not supported for this resource"), ApiChanged),
    (refusal(403, "Forbidden"), AccessDenied),
    (refusal(404, "Resource not found for the segment 'Accounts'."), ApiChanged),
    (refusal(500, "Ongeldig: Filter"), ApiChanged),
    (httpx.Response(500), Unavailable),
    (httpx.Response(503), Unavailable),
    (httpx.Response(429), RateLimited),
]


@pytest.mark.parametrize(("answer", "error"), BAD, ids=lambda value: getattr(value, "status_code", ""))
async def test_a_bad_answer_is_of_its_class(division: FakeDivision, answer: httpx.Response, error: type[Exception]) -> None:
    answering(division, answer)
    with pytest.raises(error):
        await poll(division, "customer")


async def test_a_refusal_of_a_read_is_for_good_and_an_outage_is_asked_again(division: FakeDivision) -> None:
    answering(division, refusal(500, "Ongeldig: Filter"))
    with pytest.raises(ApiChanged, match="Ongeldig: Filter"):
        await poll(division, "customer")
    assert len(division.asked("sync/CRM/Accounts")) == 1, "500 with an envelope is no outage"
    answering(division, httpx.Response(500))
    with pytest.raises(Unavailable):
        await poll(division, "customer")
    assert len(division.asked("sync/CRM/Accounts")) > 2


async def test_half_an_answer_is_a_network_failure(division: FakeDivision) -> None:
    answering(division, httpx.Response(200, content=b'{"d":', headers={"content-length": "999"}))
    with pytest.raises((NetworkFailure, ApiChanged)):
        await poll(division, "customer")


async def test_an_endpoint_is_left_alone_before_ten_errors_an_hour(division: FakeDivision) -> None:
    answering(division, refusal(404, "Resource not found"))
    connector = connector_of(division)
    seen: list[type[Exception]] = []
    for _ in range(15):
        try:
            await poll(division, "customer", None, connector)
        except (ApiChanged, RateLimited) as error:
            seen.append(type(error))
    calls = len(division.asked("sync/CRM/Accounts"))
    assert calls < 10
    assert seen == [ApiChanged] * calls + [RateLimited] * (15 - calls)
    with pytest.raises(RateLimited) as error:
        await poll(division, "customer", None, connector)
    assert 0 < (error.value.retry_after_s or 0) <= 3_600
    assert ids(await poll(division, "product", None, connector)) == [guid_of(31)], "others go on"
    division.clock.advance(3_601)
    division.override = None
    assert len(ids(await poll(division, "customer", None, connector))) == 2


async def test_what_is_not_there_is_asked_for_by_a_list_so_that_no_404_counts(division: FakeDivision) -> None:
    connector = connector_of(division)
    for entity in ("customer", "product", "sales_order", "product_category"):
        assert await connector.fetch(entity, guid_of(999)) is None
    assert all(call.key is None for call in division.calls)
    division.calls.clear()
    assert await connector.fetch("customer", "no-guid") is None
    assert division.calls == []


async def test_both_list_envelopes_are_taken(division: FakeDivision) -> None:
    row = {"ID": guid_of(5), "Name": "bare", "Status": "C", "Timestamp": "61000000001"}
    for body in ({"d": [row]}, {"d": {"results": [row]}}):
        answering(division, answered(200, body))
        assert ids(await poll(division, "customer")) == [guid_of(5)]
