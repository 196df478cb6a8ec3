"""Finding and writing: plans, bodies, refusals, unclear ends."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import ValidationError

from bus.core.errors import (
    AccessDenied,
    BusError,
    MappingError,
    NetworkFailure,
    TransientError,
    Unavailable,
    WriteRejected,
)
from bus.kit.connector import Match, StepResult, Write
from connectors.exact_online import plans
from connectors.exact_online.connector import ExactOnlineConfig
from connectors.exact_online.writing_back import DEBTOR_AGE_MAX
from schemas import canon
from schemas.canon import CustomerKind, PriceMode
from schemas.system import IdempotencyClass
from tests.connectors.exact_online_division import (
    CHARGES,
    DIVISION,
    KEY,
    LINES,
    ORDERS,
    Call,
    FakeDivision,
    answered,
    connector_of,
    date_of,
    guid_of,
    perform,
    refusal,
    resume,
    set_values,
    vat,
    write_of,
)
from tests.connectors.test_exact_online_mapping import SHIP_TO, company, line, order, order_write, private, shipping, stool

ACCOUNTS, CONTACTS, ADDRESSES = "crm/Accounts", "crm/Contacts", "crm/Addresses"
ITEMS, PRICES = "logistics/Items", "logistics/SalesItemPrices"
RANGES = {"code_range": [5_000_000, 5_999_999], "order_number_range": [700_000, 799_999]}


@pytest.fixture
def division() -> FakeDivision:
    made = FakeDivision(config={"order_charges": {"SHIPPING": "VERZEND"}})
    made.put(ACCOUNTS, {"ID": guid_of(40), "Name": "Debtor", "Code": f"{'40':>18}", "Status": "C", "Email": "debtor@x.example"})
    made.put(ITEMS, {"ID": guid_of(101), "Code": "THING-1", "SalesVatCode": "2  ", "IsSalesItem": True})
    made.put(ITEMS, {"ID": guid_of(200), "Code": "VERZEND", "SalesVatCode": "2  ", "IsSalesItem": True})
    made.put("sales/OrderCharges", {"ID": guid_of(70), "Code": "VERZEND"})
    made.put("crm/AccountClassifications", {"ID": guid_of(80), "Code": "COMPANY "})
    made.put("crm/AccountClassifications", {"ID": guid_of(81), "Code": "PERSON "})
    return made


CUSTOMER = write_of("customer", company())
PRODUCT = write_of("product", stool(), resolved=set_values(vat_code="2"), pictures={"ab" * 32: b"\x89PNG"})
ORDER = order_write(order([line("1", "100.00")], ship_to=SHIP_TO), [vat("1", "2")])


def updating(entity: str, document: Any, fields: set[str], key: str, **more: Any) -> Write:
    return write_of(entity, document, action="update", fields=frozenset(fields), external_id=key, **more)


def sent(division: FakeDivision, path: str, method: str = "POST") -> list[Any]:
    return [call.body for call in division.asked(path, method)]


async def one(division: FakeDivision, write: Write, **config: Any) -> StepResult:
    """The primary step's result after all steps, with what the last one shows."""
    connector = connector_of(division, **config)
    done = await perform(connector, write)
    steps = connector.plan(write)
    made, last = next(done[step.name] for step in steps if step.primary), done[steps[-1].name]
    return msgspec.structs.replace(made, number=made.number or last.number, record=last.record, as_sent=last.as_sent)


# --- account -----------------------------------------------------------------------------------------------------------------


async def test_check_says_who_the_division_is(division: FakeDivision) -> None:
    found = await connector_of(division).check()
    assert (found.vendor_id, found.name, found.country, found.currency) == (str(DIVISION), "Groenhof", "NL", "EUR")
    assert found.warnings == []


async def test_check_misses_the_classifications_a_kind_field_needs(division: FakeDivision) -> None:
    assert (await connector_of(division, kind_field="Classification1").check()).warnings == []
    del division.tables["crm/AccountClassifications"][guid_of(81)]
    (warning,) = (await connector_of(division, kind_field="Classification1").check()).warnings
    assert "PERSON" in warning


async def test_a_division_of_somebody_else_is_denied(division: FakeDivision) -> None:
    division.tables["system/Divisions"].clear()
    with pytest.raises(AccessDenied, match="koppeling"):
        await connector_of(division).check()


@pytest.mark.parametrize(
    "config",
    [
        {"code_range": [9, 9]},
        {"code_range": [0, 9]},
        {"code_range": [1, 10**18]},
        {"order_number_range": [1, 2**31]},
        {"regoin": "nl"},
    ],
)
def test_a_range_that_is_none_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExactOnlineConfig(division=1, **config)


# --- finding -----------------------------------------------------------------------------------------------------------------


async def found(division: FakeDivision, entity: str, **match: str) -> list[tuple[str, bool]]:
    hits = await connector_of(division).find(entity, Match(**match))
    return [(hit.record.id, hit.active) for hit in hits]


async def test_a_customer_is_found_by_its_own_address_and_by_its_peoples(division: FakeDivision) -> None:
    division.put(ACCOUNTS, {"ID": guid_of(41), "Name": "B", "Status": "C", "Email": "ines@x.example"})
    division.put(ACCOUNTS, {"ID": guid_of(42), "Name": "C", "Status": "P"})
    for number, owner in ((51, 41), (52, 42), (53, 42)):
        division.put(CONTACTS, {"ID": guid_of(number), "Account": guid_of(owner), "Email": "ines@x.example"})
    assert await found(division, "customer", email="ines@x.example") == [(guid_of(41), True), (guid_of(42), False)]
    assert [call.filter for call in division.calls][:2] == ["Email eq 'ines@x.example'"] * 2


@pytest.mark.parametrize("stored", ["                40", "           0000040"])
async def test_a_code_is_searched_with_its_blanks_and_zeros(division: FakeDivision, stored: str) -> None:
    division.change(ACCOUNTS, guid_of(40), Code=stored.rjust(18))
    assert await found(division, "customer", number="40") == [(guid_of(40), True)]
    (call,) = [call for call in division.asked(ACCOUNTS) if "Code" in call.filter]
    assert f"Code eq '{'40':>18}'" in call.filter
    assert f"Code eq '{'0000040':>18}'" in call.filter


async def test_a_customer_is_found_by_vat_number(division: FakeDivision) -> None:
    division.change(ACCOUNTS, guid_of(40), VATNumber="NL810433941B01")
    assert await found(division, "customer", vat_number="NL810433941B01") == [(guid_of(40), True)]


async def test_products_by_code_and_barcode_orders_by_reference(division: FakeDivision) -> None:
    division.change(ITEMS, guid_of(101), Barcode="8712345000417")
    division.put(ORDERS, {**plain_order(60), "YourRef": "QBO-I1"})
    assert await found(division, "product", sku="THING-1") == [(guid_of(101), True)]
    assert await found(division, "product", gtin="8712345000417") == [(guid_of(101), True)]
    (hit,) = await connector_of(division).find("sales_order", Match(reference="QBO-I1"))
    assert (hit.record.id, hit.number) == (guid_of(60), "60")


def plain_order(number: int) -> dict[str, Any]:
    statuses = dict.fromkeys(("Status", "DeliveryStatus", "InvoiceStatus"), 12)
    return {"OrderID": guid_of(number), "OrderNumber": number, "OrderedBy": guid_of(40), **statuses}


async def test_quotes_are_doubled(division: FakeDivision) -> None:
    division.change(ITEMS, guid_of(101), Code="O'Neil")
    assert await found(division, "product", sku="O'Neil") == [(guid_of(101), True)]
    assert division.calls[0].filter == "Code eq 'O''Neil'"


async def test_what_cannot_be_searched_is_not_found(division: FakeDivision) -> None:
    assert await found(division, "customer", name="Debtor") == []
    assert await found(division, "product_category", name="Vazen") == []
    assert division.calls == []


# --- plans -------------------------------------------------------------------------------------------------------------------


def classes(write: Write, **config: Any) -> list[tuple[str, str, bool]]:
    steps = connector_of(FakeDivision(config={"order_charges": {"SHIPPING": "VERZEND"}}), **config).plan(write)
    return [(step.name, str(step.idempotency), step.primary) for step in steps]


def test_a_customer_is_account_contact_address_and_main_contact() -> None:
    rest = [("contact", "SEARCH", False), ("address", "SEARCH", False), ("main_contact", "REPEATABLE", False)]
    assert classes(CUSTOMER) == [("account", "SEARCH", True), *rest]
    assert classes(CUSTOMER, **RANGES) == [("numbered_account", "CLIENT_ID", True), *rest]
    bare = write_of("customer", company(contacts=[], pii=canon.PartyPii()))
    assert classes(bare) == [("account", "SEARCH", True)]


def test_a_product_is_item_price_and_picture() -> None:
    assert classes(PRODUCT) == [("item", "CLIENT_ID", True), ("price", "SEARCH", False), ("image", "REPEATABLE", False)]
    assert classes(write_of("product", stool(prices=[]))) == [("item", "CLIENT_ID", True)]


def test_an_order_is_an_address_and_the_order() -> None:
    assert classes(ORDER) == [("address", "SEARCH", False), ("order", "SEARCH", True)]
    assert classes(ORDER, **RANGES) == [("address", "SEARCH", False), ("numbered_order", "CLIENT_ID", True)]
    at_home = msgspec.structs.replace(
        ORDER,
        document=order(
            [line("1", "100.00")], ship_to=SHIP_TO, customer=canon.Party(pii=canon.PartyPii(addresses=[billing_of(SHIP_TO)]))
        ),
    )
    assert [name for name, _, _ in classes(at_home)] == ["order"], "where the customer lives no further address is needed"


def billing_of(party: canon.Party) -> canon.Address:
    assert isinstance(party.pii, canon.PartyPii)
    return msgspec.structs.replace(party.pii.addresses[0], type=canon.AddressType.BILLING, line1=" DOK  Noord 7")


@pytest.mark.parametrize("config", [{}, RANGES])
def test_steps_are_of_the_classes_the_manifest_states(config: dict[str, Any]) -> None:
    connector = connector_of(FakeDivision(), **config)
    update = updating("customer", company(), {"phone"}, guid_of(40))
    writes = [CUSTOMER, PRODUCT, ORDER, update, msgspec.structs.replace(update, action="deactivate")]
    for write in writes:
        stated = {facts.name: facts.idempotency for facts in connector.manifest.writes[write.entity].steps}
        steps = connector.plan(write)
        assert {step.name: str(step.idempotency) for step in steps}.items() <= stated.items()
        assert sum(step.primary for step in steps) == 1


def test_every_step_of_the_manifest_is_in_some_plan() -> None:
    update = updating("customer", company(), {"phone"}, guid_of(40))
    of_product = updating("product", stool(), {"name"}, guid_of(101))
    planned: dict[str, set[str]] = {"customer": set(), "product": set(), "sales_order": set()}
    for config in ({}, RANGES):
        for write in (CUSTOMER, PRODUCT, ORDER, update, of_product, *(off(write) for write in (update, of_product))):
            planned[write.entity] |= {name for name, _, _ in classes(write, **config)}
    stated = connector_of(FakeDivision()).manifest.writes
    assert {entity: {step.name for step in facts.steps} for entity, facts in stated.items()} == planned


def off(write: Write) -> Write:
    return msgspec.structs.replace(write, action="deactivate", fields=None)


def test_what_has_no_place_is_refused() -> None:
    connector = connector_of(FakeDivision())
    with pytest.raises(MappingError, match="sales_invoice"):
        connector.plan(msgspec.structs.replace(ORDER, entity="sales_invoice"))
    for action in ("update", "deactivate", "delete"):
        with pytest.raises(MappingError, match="never changed"):
            connector.plan(msgspec.structs.replace(ORDER, action=action, external_id=guid_of(1)))
    with pytest.raises(MappingError, match="reference"):
        connector.plan(msgspec.structs.replace(ORDER, reference=None))
    with pytest.raises(MappingError, match="longer than 30"):
        connector.plan(msgspec.structs.replace(ORDER, reference="x" * 31))
    with pytest.raises(MappingError, match="no line"):
        connector.plan(msgspec.structs.replace(ORDER, ids={"customer": guid_of(40)}))


# --- customers ---------------------------------------------------------------------------------------------------------------


async def test_a_thin_answer_is_read_back(division: FakeDivision) -> None:
    result = await one(division, CUSTOMER)
    assert result.record is not None
    assert (result.number, result.as_sent, result.replayed) == ("2000900", True, False)
    written = connector_of(division).to_canonical(result.record)
    assert written.company_name == "Papier en Inkt B.V."  # type: ignore[union-attr]


async def test_the_last_step_shows_the_whole_customer(division: FakeDivision) -> None:
    done = await perform(connector_of(division), CUSTOMER)
    record = done["main_contact"].record
    assert record is not None
    written = connector_of(division).to_canonical(record)
    (contact,) = written.contacts  # type: ignore[union-attr]
    assert (contact.is_main, contact.pii.family_name) == (True, "Calder")  # type: ignore[union-attr]
    assert {address.type for address in written.pii.addresses} == {"BILLING", "DELIVERY"}  # type: ignore[union-attr]


async def test_a_cut_name_counts_as_sent(division: FakeDivision) -> None:
    assert (await one(division, write_of("customer", company(company_name="x" * 80)))).as_sent


async def test_somebody_who_was_faster_is_no_echo(division: FakeDivision) -> None:
    write = write_of("customer", company(contacts=[], pii=canon.PartyPii()))
    division.override = lambda call: (
        answered(200, {"d": [{**sent_account(division), "Name": "Somebody else"}]})
        if call.method == "GET" and call.path == ACCOUNTS
        else None
    )
    assert (await one(division, write)).as_sent is False


def sent_account(division: FakeDivision) -> dict[str, Any]:
    return next(row for row in division.rows(ACCOUNTS) if str(row.get("SearchCode", "")).startswith("BUS"))


@pytest.mark.parametrize(("document", "number"), [(company(), 80), (private(), 81)])
async def test_the_kind_goes_to_its_classification(division: FakeDivision, document: canon.Customer, number: int) -> None:
    await perform(connector_of(division, kind_field="Classification1"), write_of("customer", document))
    assert sent(division, ACCOUNTS)[0]["Classification1"] == guid_of(number)


async def test_an_unknown_kind_has_none_and_a_missing_one_stops_before_anything_is_sent(division: FakeDivision) -> None:
    connector = connector_of(division, kind_field="Classification1")
    await perform(connector, write_of("customer", company(kind=CustomerKind.UNKNOWN)))
    assert "Classification1" not in sent(division, ACCOUNTS)[0]
    division.tables["crm/AccountClassifications"].clear()
    division.calls.clear()
    with pytest.raises(MappingError, match="COMPANY"):
        await perform(connector_of(division, kind_field="Classification1"), CUSTOMER)
    assert division.writes() == []


async def test_only_a_value_the_flow_set_becomes_a_payment_term(division: FakeDivision) -> None:
    await one(division, CUSTOMER)
    await one(division, write_of("customer", company(), resolved=set_values(payment_term="30")))
    of_order = write_of("customer", company(), resolved=set_values(payment_term="30", reference="QBO-I1"))
    await one(division, of_order)
    assert [body.get("PaymentConditionSales") for body in sent(division, ACCOUNTS)] == [None, "30", None]
    write = updating("customer", company(), {"payment_term"}, guid_of(40))
    await one(division, write)
    await one(division, msgspec.structs.replace(write, resolved=set_values(payment_term="14")))
    assert sent(division, ACCOUNTS, "PUT")[-1] == {"PaymentConditionSales": "14"}
    assert len([body for body in sent(division, ACCOUNTS, "PUT") if "MainContact" not in body]) == 1


async def test_an_update_sends_the_asked_members_and_never_the_code(division: FakeDivision) -> None:
    result = await one(division, updating("customer", company(), {"phone", "email"}, guid_of(40)))
    assert sent(division, ACCOUNTS, "PUT") == [{"Email": "ap@inkt.example", "Phone": "+31205550123"}]
    assert result.replayed is False
    assert [call.key for call in division.writes()] == [guid_of(40)]


async def test_an_update_with_nothing_to_send_makes_no_write(division: FakeDivision) -> None:
    result = await one(division, updating("customer", company(), {"display_name_of_old"}, guid_of(40)))
    assert division.writes() == []
    assert result.record is not None
    assert result.replayed


async def test_a_delivery_address_of_the_same_content_is_used_again(division: FakeDivision) -> None:
    place = {"Account": guid_of(40), "Type": 4, "AddressLine1": "LOODS  3", "Postcode": "3089JB", "City": "rotterdam"}
    division.put(ADDRESSES, {"ID": guid_of(90), **place, "Country": "NL "})
    await one(division, updating("customer", company(), {"address.DELIVERY"}, guid_of(40)))
    assert [(call.method, call.key, call.body) for call in division.writes()] == [("PUT", guid_of(90), {"Main": True})]
    division.calls.clear()
    again = await perform(connector_of(division), updating("customer", company(), {"address.DELIVERY"}, guid_of(40)))
    assert division.writes() == []
    assert [result.replayed for result in again.values()] == [True, True]
    division.change(ADDRESSES, guid_of(90), Postcode="3089 JC")
    await one(division, updating("customer", company(), {"address.DELIVERY"}, guid_of(40)))
    assert [(body["Postcode"], body["Main"]) for body in sent(division, ADDRESSES)] == [("3089 JB", True)]


@pytest.mark.parametrize("paths", [{"address.DELIVERY"}, {"prices"}])
async def test_what_an_update_makes_is_searched_and_never_repeated_blindly(division: FakeDivision, paths: set[str]) -> None:
    write = (
        updating("product", stool(), paths, guid_of(101))
        if "prices" in paths
        else updating("customer", company(), paths, guid_of(40))
    )
    connector = connector_of(division)
    update, step = connector.plan(write)
    assert step.idempotency is IdempotencyClass.SEARCH
    done = {update.name: await connector.perform(write, update, {})}
    assert await connector.search(write, step, done) is None
    division.override = crashing(division, 1, after=True)
    with pytest.raises(TransientError):
        await connector.perform(write, step, done)
    division.override = None
    found = await connector.search(write, step, done)
    assert found is not None
    assert found.record is not None
    assert len(division.writes()) == 1


async def test_a_price_that_was_not_changed_yet_is_no_find(division: FakeDivision) -> None:
    price_row(division, 306)
    connector, write = connector_of(division), updating("product", stool(), {"prices"}, guid_of(101))
    update, step = connector.plan(write)
    done = {update.name: await connector.perform(write, update, {})}
    assert await connector.search(write, step, done) is None
    await connector.perform(write, step, done)
    assert (await connector.search(write, step, done)) is not None


async def test_switching_off_is_an_end_date_in_the_past(division: FakeDivision) -> None:
    write = msgspec.structs.replace(updating("customer", company(), set(), guid_of(40)), action="deactivate", fields=None)
    await one(division, write)
    assert sent(division, ACCOUNTS, "PUT") == [{"EndDate": "2026-11-20"}]


# --- reserved numbers ----------------------------------------------------------------------------------------------------------


def drawn(name: str) -> list[str]:
    first, last = RANGES[name]
    return plans.codes_of(CUSTOMER, (first, last))


async def test_a_number_of_the_range_is_sent_and_refused_twice(division: FakeDivision) -> None:
    first = await one(division, CUSTOMER, **RANGES)
    assert (sent(division, ACCOUNTS)[0]["Code"], first.number) == (drawn("code_range")[0],) * 2
    again = await one(division, CUSTOMER, **RANGES)
    assert (again.external_id, again.replayed) == (first.external_id, True)
    assert len([row for row in division.rows(ACCOUNTS) if row["Name"].startswith("Papier")]) == 1


@pytest.mark.parametrize("edit", [{"SearchCode": "edited"}, {"Name": "Edited", "Email": None}])
async def test_our_account_is_known_by_what_nobody_edited(division: FakeDivision, edit: dict[str, Any]) -> None:
    first = await one(division, CUSTOMER, **RANGES)
    division.change(ACCOUNTS, first.external_id, **edit)
    assert (await one(division, CUSTOMER, **RANGES)).external_id == first.external_id


async def test_a_number_that_another_object_has_gives_way_to_the_next(division: FakeDivision) -> None:
    numbers = drawn("code_range")
    for number in numbers[:2]:
        division.put(ACCOUNTS, {"Name": "Other", "Code": number.rjust(18), "Status": "C"})
    assert (await one(division, CUSTOMER, **RANGES)).number == numbers[2]
    for number in numbers[3:]:
        division.put(ACCOUNTS, {"Name": "Other", "Code": number.rjust(18), "Status": "C"})
    division.change(
        ACCOUNTS, next(r["ID"] for r in division.rows(ACCOUNTS) if r["Name"].startswith("Papier")), Code="1", Name="x"
    )
    division.put(ACCOUNTS, {"Name": "Other", "Code": numbers[2].rjust(18), "Status": "C"})
    with pytest.raises(WriteRejected, match="code_range") as error:
        await one(division, CUSTOMER, **RANGES)
    assert error.value.regenerate


async def test_a_refusal_for_another_reason_is_that_reason(division: FakeDivision) -> None:
    division.override = lambda call: refusal(500, "Ongeldig: BTW-nummer") if call.method == "POST" else None
    with pytest.raises(WriteRejected, match="BTW-nummer"):
        await one(division, CUSTOMER, **RANGES)
    assert len(division.writes()) == 1
    with pytest.raises(WriteRejected, match="BTW-nummer"):
        await one(division, order_write(order([line("1", "1.00")]), [vat("1", "2")]), **RANGES)


async def test_an_order_number_of_the_range_guards_the_order(division: FakeDivision) -> None:
    numbers = drawn("order_number_range")
    division.put(ORDERS, {**plain_order(61), "OrderNumber": int(numbers[0]), "OrderedBy": guid_of(41), "YourRef": "QBO-I238"})
    first = await one(division, ORDER, **RANGES)
    assert first.number == numbers[1]
    again = await one(division, ORDER, **RANGES)
    assert (again.external_id, again.replayed) == (first.external_id, True)
    assert len(division.rows(ORDERS)) == 2


# --- products ----------------------------------------------------------------------------------------------------------------


async def test_an_item_that_exists_is_named_and_not_made_again(division: FakeDivision) -> None:
    with pytest.raises(WriteRejected) as error:
        await one(division, write_of("product", stool(sku="THING-1")))
    assert (error.value.existing_id, error.value.regenerate) == (guid_of(101), False)


async def test_a_price_under_an_including_code_holds_vat(division: FakeDivision) -> None:
    await one(division, write_of("product", stool(), resolved=set_values(vat_code="4")))
    assert sent(division, PRICES)[0]["Price"] == Decimal("96.20")


async def test_what_cannot_be_priced_is_not_made(division: FakeDivision) -> None:
    with pytest.raises(MappingError, match="'99' does not exist"):
        await one(division, write_of("product", stool(), resolved=set_values(vat_code="99")))
    division.put("vat/VATCodes", {"Code": "X  ", "Type": "I", "Percentage": None})
    with pytest.raises(MappingError, match="rate is unknown"):
        await one(division, write_of("product", stool(), resolved=set_values(vat_code="X")))
    assert division.writes() == []


async def test_an_unknown_item_group_is_named(division: FakeDivision) -> None:
    with pytest.raises(MappingError, match="'LAMPEN'"):
        await one(division, write_of("product", stool(), resolved=set_values(item_group="LAMPEN")))
    assert division.writes() == []


def price_row(division: FakeDivision, number: int, **more: Any) -> None:
    facts = {"ID": guid_of(number), "Item": guid_of(101), "Price": 70, "Currency": "EUR", "Quantity": 1}
    division.put(PRICES, {**facts, "StartDate": date_of("2026-01-01"), **more})


async def test_a_new_price_changes_the_base_row_in_force_and_no_other(division: FakeDivision) -> None:
    price_row(division, 301, Quantity=10, StartDate=date_of("2026-11-01"))
    price_row(division, 302, EndDate=date_of("2026-10-31"))
    price_row(division, 303, StartDate=date_of("2027-01-01"))
    price_row(division, 304, Account=guid_of(40))
    price_row(division, 305, Currency="SEK")
    price_row(division, 306)
    price_row(division, 307, StartDate=date_of("2026-07-01"))
    await one(division, updating("product", stool(), {"prices"}, guid_of(101)))
    assert [(call.method, call.key, call.body) for call in division.writes()] == [
        ("PUT", guid_of(307), {"Price": Decimal("79.5")})
    ]


async def test_a_price_row_nobody_can_read_stops_the_price_and_says_so(division: FakeDivision) -> None:
    price_row(division, 306, Price="a lot")
    with pytest.raises(MappingError, match="SalesItemPrice"):
        await one(division, updating("product", stool(), {"prices"}, guid_of(101)))
    assert division.writes() == []


async def test_a_first_price_begins_today(division: FakeDivision) -> None:
    price_row(division, 303, StartDate=date_of("2027-01-01"))
    await one(division, updating("product", stool(), {"prices"}, guid_of(101)))
    assert sent(division, PRICES) == [
        {"Price": Decimal("79.5"), "Currency": "EUR", "Item": guid_of(101), "Quantity": 1, "StartDate": "2026-11-21"}
    ]


@pytest.mark.parametrize(("active", "body"), [(True, {"EndDate": None, "IsSalesItem": True}), (False, {"EndDate": "2026-11-20"})])
async def test_an_item_is_switched_on_and_off(division: FakeDivision, active: bool, body: dict[str, Any]) -> None:
    await one(division, updating("product", stool(active=active), {"active"}, guid_of(101)))
    assert sent(division, ITEMS, "PUT") == [body]


@pytest.mark.parametrize(("active", "end"), [(True, None), (False, "2026-11-20")])
async def test_an_item_is_made_as_active_as_its_source(division: FakeDivision, active: bool, end: str | None) -> None:
    await one(division, write_of("product", stool(active=active)))
    assert sent(division, ITEMS)[0].get("EndDate") == end


async def test_a_picture_is_put_over_the_old_one(division: FakeDivision) -> None:
    pictures = {"ab" * 32: b"\x89PNG"}
    write = updating("product", stool(), {"images"}, guid_of(101), pictures=pictures)
    await one(division, write)
    assert sent(division, ITEMS, "PUT") == [{"Picture": "iVBORw=="}]
    division.calls.clear()
    await one(division, msgspec.structs.replace(write, fields=frozenset({"name"})))
    assert sent(division, ITEMS, "PUT") == [{"Description": "Kruk"}]


def test_a_picture_without_its_bytes_or_above_the_limit_is_no_step() -> None:
    assert "image" not in [name for name, _, _ in classes(msgspec.structs.replace(PRODUCT, pictures={}))]
    assert "image" not in [name for name, _, _ in classes(PRODUCT, picture_bytes_max=3)]


# --- orders ------------------------------------------------------------------------------------------------------------------


async def test_an_order_comes_out_with_its_totals_and_reference(division: FakeDivision) -> None:
    result = await one(division, ORDER)
    assert result.record is not None
    written = connector_of(division).to_canonical(result.record)
    assert (written.totals.incl, written.customer_reference) == (Decimal("121.00"), "QBO-I238")  # type: ignore[union-attr]
    (body,) = sent(division, ORDERS)
    assert body["DeliveryAddress"] == division.rows(ADDRESSES)[0]["ID"]
    assert result.number == str(division.rows(ORDERS)[0]["OrderNumber"])


async def test_a_second_order_to_the_same_place_uses_its_address_again(division: FakeDivision) -> None:
    connector = connector_of(division)
    first = await perform(connector, ORDER)
    again = await perform(connector, msgspec.structs.replace(ORDER, reference="QBO-I239"))
    assert (first["address"].replayed, again["address"].replayed) == (False, True)
    assert len(division.rows(ADDRESSES)) == 1
    assert {row["DeliveryAddress"] for row in division.rows(ORDERS)} == {again["address"].external_id}


async def test_an_unknown_vat_code_is_named_and_nothing_is_sent(division: FakeDivision) -> None:
    with pytest.raises(MappingError, match="'99'"):
        await one(division, order_write(order([line("1", "100.00")]), [vat("1", "99")]))
    assert division.writes() == []


async def test_a_vat_code_made_meanwhile_is_known(division: FakeDivision) -> None:
    connector = connector_of(division)
    await perform(connector, ORDER)
    division.put("vat/VATCodes", {"Code": "5I ", "Type": "I", "Percentage": Decimal("0.21")})
    fresh = order_write(order([line("1", "100.00")]), [vat("1", "5I")])
    await perform(connector, msgspec.structs.replace(fresh, reference="QBO-I239"))
    assert sent(division, ORDERS)[-1]["SalesOrderLines"][0]["NetPrice"] == Decimal("121")


async def test_a_debtor_is_read_once_for_its_orders_until_it_is_written_or_minutes_old(division: FakeDivision) -> None:
    connector, write = connector_of(division), order_write(order([line("1", "100.00")]), [vat("1", "2")])

    async def ordered() -> int:
        before = len(division.asked(ACCOUNTS))
        (result,) = (await perform(connector, write)).values()
        assert result.record is not None
        assert result.as_sent
        written = connector.to_canonical(result.record)
        assert written.customer.customer.id == write.ids["customer"]  # type: ignore[union-attr]
        return len(division.asked(ACCOUNTS)) - before

    assert [await ordered(), await ordered()] == [1, 0]
    before = len(division.asked(ACCOUNTS))
    await perform(connector, ORDER)  # its delivery address is a new one of the debtor
    assert len(division.asked(ACCOUNTS)) == before + 1
    division.clock.advance(DEBTOR_AGE_MAX.total_seconds())
    assert [await ordered(), await ordered()] == [1, 0]


async def test_shipping_as_an_order_charge(division: FakeDivision) -> None:
    document = order([line("1", "100.00")], charges=shipping("6.50"))
    result = await one(division, order_write(document, [vat("1", "2"), vat("charge:0", "2")], c0="ORDER_CHARGE"))
    assert result.record is not None
    written = connector_of(division).to_canonical(result.record)
    assert [(charge.type, charge.amount) for charge in written.charges] == [("SHIPPING", Decimal("6.5"))]  # type: ignore[union-attr]
    assert written.totals.incl == Decimal("128.87")  # type: ignore[union-attr]
    assert [row["OrderCharge"] for row in division.rows(CHARGES)] == [guid_of(70)]


async def test_an_order_charge_nobody_knows_is_named_and_nothing_is_sent(division: FakeDivision) -> None:
    division.tables["sales/OrderCharges"].clear()
    document = order([line("1", "100.00")], charges=shipping("6.50"))
    with pytest.raises(MappingError, match="'VERZEND'"):
        await one(division, order_write(document, [vat("1", "2"), vat("charge:0", "2")], c0="ORDER_CHARGE"))
    assert division.writes() == []


async def test_a_debtor_dropped_in_silence_is_noticed(division: FakeDivision) -> None:
    """A GUID of another division: 201, and the property is null."""
    shown = answered(201, {"d": {"OrderID": guid_of(66), "OrderNumber": 66, "OrderedBy": None}})
    division.override = lambda call: shown if call.method == "POST" and call.path == ORDERS else None
    for config in ({}, RANGES):
        division.calls.clear()
        with pytest.raises(WriteRejected, match="debtor") as error:
            await one(division, ORDER, **config)
        assert error.value.existing_id == guid_of(66)
        assert len(division.asked(ORDERS, "POST")) == 1
        assert not any("OrderNumber" in call.filter for call in division.calls)


async def test_an_order_whose_lines_show_later_is_no_echo_yet(division: FakeDivision) -> None:
    division.override = lambda call: answered(200, {"d": []}) if call.method == "GET" and call.path == LINES else None
    result = await one(division, ORDER)
    assert result.record is not None
    assert result.as_sent is False


# --- refusals and unclear ends -----------------------------------------------------------------------------------------------


REFUSALS: list[tuple[httpx.Response, type[Exception]]] = [
    (refusal(500, "Verplicht: Naam"), WriteRejected),
    (refusal(400, "Error processing request stream."), WriteRejected),
    (refusal(404, "Resource not found"), WriteRejected),
    (refusal(403, "Forbidden"), AccessDenied),
    (httpx.Response(500), Unavailable),
    (httpx.Response(503), Unavailable),
    (httpx.Response(201, content=b'{"d":{"Name":null}}'), Unavailable),
    (httpx.Response(201, content=b"<html>"), Unavailable),
]


@pytest.mark.parametrize(("answer", "error"), REFUSALS, ids=lambda value: getattr(value, "status_code", ""))
async def test_a_write_is_never_repeated_and_its_end_is_named(
    division: FakeDivision, answer: httpx.Response, error: type[Exception]
) -> None:
    division.override = lambda call: answer if call.method == "POST" else None
    with pytest.raises(error):
        await one(division, CUSTOMER)
    assert len(division.writes()) == 1


async def test_a_validation_refusal_carries_the_vendors_words(division: FakeDivision) -> None:
    division.override = lambda call: refusal(500, "Verplicht: Artikel") if call.method == "POST" else None
    with pytest.raises(WriteRejected, match="Verplicht: Artikel") as error:
        await one(division, CUSTOMER)
    assert (error.value.code, error.value.regenerate) == ("500", False)


async def test_messages_repeat_nothing_that_was_sent(division: FakeDivision) -> None:
    words = "Ongeldig: zoe@vries.example van Zoë de Vries"
    division.override = lambda call: refusal(500, words) if call.method == "POST" else None
    with pytest.raises(WriteRejected) as error:
        await one(division, write_of("customer", private()))
    assert "Ongeldig" in str(error.value)
    assert "vries" not in str(error.value).casefold()


@pytest.mark.parametrize("answer", [httpx.Response(429), refusal(403, "Forbidden"), refusal(500, "no"), httpx.Response(503)])
@pytest.mark.parametrize(("write", "path"), [(CUSTOMER, ACCOUNTS), (PRODUCT, ITEMS), (ORDER, ORDERS)])
async def test_what_is_made_stays_made_when_it_cannot_be_read_back(
    division: FakeDivision, write: Write, path: str, answer: httpx.Response
) -> None:
    """An error that says `not sent` would make the object a second time."""
    connector = connector_of(division)
    step = next(step for step in connector.plan(write) if step.primary)
    reads = {"made": False}

    def after_the_write(call: Call) -> httpx.Response | None:
        reads["made"] |= call.method == "POST" and call.path == path
        return answer if reads["made"] and call.method == "GET" else None

    division.override = after_the_write
    done = {"address": StepResult(external_id=guid_of(90))} if write is ORDER else {}
    result = await connector.perform(write, step, done)
    assert result.external_id in division.tables[path]
    assert result.record is None


CRASHES = [
    (CUSTOMER, {}),
    (CUSTOMER, RANGES),
    (PRODUCT, {}),
    (ORDER, {}),
    (ORDER, RANGES),
]
EXPECTED = {
    "customer": {ACCOUNTS: 2, CONTACTS: 1, ADDRESSES: 1},
    "product": {ITEMS: 3, PRICES: 1},
    "sales_order": {ORDERS: 1, LINES: 1, ADDRESSES: 1},
}


def crashing(division: FakeDivision, wanted: int, *, after: bool) -> Callable[[Call], httpx.Response | None]:
    """Breaks the connection at the n-th write, before the vendor sees it or after."""
    seen = {"writes": 0}

    def break_off(call: Call) -> httpx.Response | None:
        if call.method == "GET":
            return None
        seen["writes"] += 1
        if seen["writes"] != wanted:
            return None
        if after:
            division.answer(call)
        raise httpx.ReadError("gone")

    return break_off


@pytest.mark.parametrize("after", [True, False], ids=["answer lost", "call lost"])
@pytest.mark.parametrize(
    ("write", "config"), CRASHES, ids=["customer", "numbered customer", "product", "order", "numbered order"]
)
async def test_a_crash_between_any_two_steps_leaves_one_object_of_each(write: Write, config: dict[str, Any], after: bool) -> None:
    names = [step.name for step in connector_of(FakeDivision(), **config).plan(write)]
    for index, name in enumerate(names):
        division = fresh()
        connector, done = connector_of(division, **config), {}
        for step in connector.plan(write)[:index]:
            done[step.name] = await connector.perform(write, step, done)
        division.override = crashing(division, 1, after=after)
        with pytest.raises(TransientError):
            await connector.perform(write, connector.plan(write)[index], done)
        division.override = None
        await resume(connector_of(division, **config), write, done, open_step=name)
        assert {path: len(division.rows(path)) for path in EXPECTED[write.entity]} == EXPECTED[write.entity], name
        assert list(done) == names


def fresh() -> FakeDivision:
    made = FakeDivision()
    made.put(ACCOUNTS, {"ID": guid_of(40), "Name": "Debtor", "Code": f"{'40':>18}", "Status": "C"})
    for number in (101, 102):
        made.put(ITEMS, {"ID": guid_of(number), "Code": f"THING-{number}", "SalesVatCode": "2  "})
    return made


@pytest.mark.parametrize("name", ["account", "contact", "address", "main_contact"])
async def test_a_process_that_dies_after_a_step_goes_on_with_the_next(division: FakeDivision, name: str) -> None:
    connector, done = connector_of(division), {}
    for step in connector.plan(CUSTOMER):
        done[step.name] = await connector.perform(CUSTOMER, step, done)
        if step.name == name:
            break
    await resume(connector_of(division), CUSTOMER, done, open_step=None)
    assert (len(division.rows(ACCOUNTS)), len(division.rows(CONTACTS)), len(division.rows(ADDRESSES))) == (2, 1, 1)
    assert division.tables[ACCOUNTS][done["account"].external_id]["MainContact"] == done["contact"].external_id


@pytest.mark.parametrize(("write", "config"), CRASHES)
async def test_a_search_for_what_was_never_made_finds_nothing(write: Write, config: dict[str, Any]) -> None:
    division = fresh()
    connector = connector_of(division, **config)
    for step in connector.plan(write):
        if step.primary and step.idempotency in (IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID):
            assert await connector.search(write, step, {}) is None


async def test_a_search_shows_the_object_whole(division: FakeDivision) -> None:
    bare = write_of("customer", company(contacts=[], pii=canon.PartyPii()))
    made = await one(division, bare)
    connector = connector_of(division)
    result = await connector.search(bare, connector.plan(bare)[0], {})
    assert result is not None
    assert (result.external_id, result.replayed, result.number) == (made.external_id, True, made.number)
    assert result.record is not None


async def test_another_debtors_order_with_the_same_reference_is_not_ours(division: FakeDivision) -> None:
    division.put(ORDERS, {**plain_order(62), "OrderedBy": guid_of(41), "YourRef": "QBO-I238"})
    connector = connector_of(division)
    step = next(step for step in connector.plan(ORDER) if step.primary)
    assert await connector.search(ORDER, step, {}) is None


async def test_a_connection_that_never_was_says_not_sent(division: FakeDivision) -> None:
    def refuses(call: Call) -> None:
        raise httpx.ConnectError("refused")

    division.override = refuses
    connector = connector_of(division)
    with pytest.raises(NetworkFailure) as error:
        await connector.perform(CUSTOMER, connector.plan(CUSTOMER)[0], {})
    assert error.value.sent is False


async def test_everything_that_goes_wrong_is_an_error_of_ours(division: FakeDivision) -> None:
    for answer in (httpx.Response(418), httpx.Response(302), refusal(409, "x"), httpx.Response(204)):
        division.override = lambda call, answer=answer: answer if call.method == "POST" else None
        with pytest.raises(BusError):
            await one(division, CUSTOMER)


def test_prices_of_a_gross_source_need_no_code_of_the_other_kind() -> None:
    gross = canon.ProductPrice(price_mode=PriceMode.INCL, value=Decimal("96.20"), currency="EUR")
    assert classes(write_of("product", stool(prices=[gross])))[1] == ("price", "SEARCH", False)


def test_the_same_key_gives_the_same_plan() -> None:
    connector = connector_of(FakeDivision(), **RANGES)
    assert [step.key for step in connector.plan(CUSTOMER)] == [step.key for step in connector.plan(CUSTOMER)]
    other = msgspec.structs.replace(CUSTOMER, key=KEY.replace("1f6a", "1f6b").replace("0001", "0002"))
    assert connector.plan(CUSTOMER)[0].key != connector.plan(other)[0].key
