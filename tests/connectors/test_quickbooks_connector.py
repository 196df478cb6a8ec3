"""Finding and writing: bodies, refusals, unclear ends."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.core.clock import FrozenClock
from bus.core.errors import AmbiguousWrite, MappingError, Unavailable, WriteConflict, WriteRejected
from bus.kit.connector import Match, RawRecord, Step, StepResult, Write
from schemas import canon
from schemas.canon import AddressType, CustomerKind, LineType, PriceMode
from schemas.system import IdempotencyClass, ObjectRef, Resolved, ValueKind
from tests.connectors.quickbooks_company import Call, FakeCompany, connector_of, fault

KEY = "0d5c1f6a-0000-5000-8000-000000000001"
CREATED = "2025-01-02T01:00:00-08:00"


@pytest.fixture
def company() -> FakeCompany:
    made = FakeCompany(FrozenClock())
    meta = {"MetaData": {"CreateTime": CREATED, "LastUpdatedTime": CREATED}, "SyncToken": "0", "Active": True}
    made.rows = {
        "TaxCode": [{"Id": "3", "Name": "NL 21% S"}, {"Id": "4", "Name": "Old", "Active": False}],
        "Term": [{"Id": "8", "Name": "Net 30"}],
        "PaymentMethod": [{"Id": "2", "Name": "iDEAL"}],
        "Account": [
            {"Id": "35", "Name": "PSP clearing", "AcctNum": "1105", "FullyQualifiedName": "Banks:PSP clearing"},
            {"Id": "79", "Name": "Sales of Product Income"},
            {"Id": "80", "Name": "Cost of sales"},
            {"Id": "81", "Name": "Inventory Asset"},
        ],
        "Customer": [
            {"Id": "61", "DisplayName": "Harbour Books", "CompanyName": "Harbour Books", "CurrencyRef": {"value": "EUR"}, **meta}
        ],
        "Item": [{"Id": "44", "Name": "Notebook", "Sku": "NB", "Type": "NonInventory", "UnitPrice": 1, **meta}],
    }
    return made


def set_values(**values: str) -> list[Resolved]:
    return [Resolved(name=name, kind=ValueKind.TEXT, value=value, rule="test") for name, value in values.items()]


def write_of(entity: str, document: Any, **more: Any) -> Write:
    source = ObjectRef(connection="exact", entity=entity, id=more.pop("source_id", "guid-1"))
    return Write(**{"action": "create", "entity": entity, "source": source, "document": document, "key": KEY, **more})


async def perform(company: FakeCompany, write: Write) -> StepResult:
    connector, done = connector_of(company), {}
    for step in connector.plan(write):
        done[step.name] = await connector.perform(write, step, done)
    return next(iter(done.values()))


def posted(company: FakeCompany) -> list[Call]:
    return [call for call in company.calls if call.method == "POST"]


async def body_of(company: FakeCompany, write: Write) -> dict[str, Any]:
    await perform(company, write)
    return posted(company)[0].body  # type: ignore[no-any-return]


# --- customers ---------------------------------------------------------------------------------------------------------------


def company_customer(**more: Any) -> canon.Customer:
    address = canon.Address(type=AddressType.BILLING, line1="Kade 12", postal_code="3011 AA", city="Rotterdam", country_code="NL")
    pii = canon.PartyPii(
        emails=[canon.ContactPoint(type="WORK", value="a@b.test"), canon.ContactPoint(type="WORK", value="c@d.test")],
        phones=[canon.ContactPoint(type="WORK", value="+31205550123"), canon.ContactPoint(type="MOBILE", value="+31612345678")],
        addresses=[address],
    )
    facts = {
        "number": "C10045",
        "company_name": "Papier: en Inkt B.V.",
        "display_name": "Papier: en Inkt B.V.",
        "currency": "EUR",
    }
    return canon.Customer(**{"kind": CustomerKind.COMPANY, "pii": pii, **facts, **more})


def person(name: str = "Zoë de Vries", **more: Any) -> canon.Customer:
    return canon.Customer(**{"kind": CustomerKind.PERSON, "number": "P1", "pii": canon.PartyPii(full_name=name), **more})


async def test_a_company_is_made_once_under_its_key(company: FakeCompany) -> None:
    write = write_of("customer", company_customer(), resolved=set_values(payment_term="Net 30"))
    (step,) = connector_of(company).plan(write)
    assert (step.idempotency, step.key, step.primary) == (IdempotencyClass.KEY, KEY, True)
    result = await perform(company, write)
    (call,) = posted(company)
    assert call.params["requestid"] == KEY
    assert call.body == {
        "DisplayName": "Papier en Inkt B.V.",
        "CompanyName": "Papier: en Inkt B.V.",
        "PrimaryEmailAddr": {"Address": "a@b.test,c@d.test"},
        "PrimaryPhone": {"FreeFormNumber": "+31205550123"},
        "Mobile": {"FreeFormNumber": "+31612345678"},
        "BillAddr": {"Line1": "Kade 12", "City": "Rotterdam", "PostalCode": "3011 AA", "Country": "NL"},
        "SalesTermRef": {"value": "8"},
        "CurrencyRef": {"value": "EUR"},
    }
    assert result.external_id == "901"
    assert result.as_sent
    assert isinstance(connector_of(company).to_canonical(result.record), canon.Customer)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Zoë de Vries", "Cher", "Jan Peter van der Berg"])
async def test_a_person_of_one_text_reads_back_as_the_same_person(company: FakeCompany, name: str) -> None:
    result = await perform(company, write_of("customer", person(name)))
    found = connector_of(company).to_canonical(result.record)  # type: ignore[arg-type]
    assert (found.kind, found.pii.full_name) == (CustomerKind.PERSON, name)  # type: ignore[union-attr]


async def test_a_customer_has_one_currency_and_its_name_says_which(company: FakeCompany) -> None:
    body = await body_of(company, write_of("customer", company_customer(), facet="SEK"))
    assert (body["DisplayName"], body["CurrencyRef"]) == ("Papier en Inkt B.V. SEK", {"value": "SEK"})


def names(write: Write, company: FakeCompany) -> list[str]:
    plans = [connector_of(company).plan(msgspec.structs.replace(write, generation=n)) for n in range(4)]
    return [plan[0].body.get("DisplayName") or plan[0].body["Name"] for plan in plans]


def test_each_generation_has_a_name_of_its_own_the_same_after_a_crash(company: FakeCompany) -> None:
    write = write_of("customer", company_customer())
    first = names(write, company)
    assert first == [
        "Papier en Inkt B.V.",
        "Papier en Inkt B.V. (C10045)",
        "Papier en Inkt B.V. (guid-1)",
        "Papier en Inkt B.V. (exact guid-1)",
    ]
    assert names(write, company) == first
    assert names(write_of("customer", person(number=None)), company)[1] == "Zoë de Vries (guid-1)"
    own = write_of("customer", company_customer(), resolved=set_values(**{"customer.suffix": " / C10045"}))
    assert names(own, company)[:3] == ["Papier en Inkt B.V.", "Papier en Inkt B.V. / C10045", "Papier en Inkt B.V. (C10045)"]


def test_a_long_name_gives_way_to_its_suffix(company: FakeCompany) -> None:
    write = write_of("customer", company_customer(display_name="x" * 600), generation=1)
    name = connector_of(company).plan(write)[0].body["DisplayName"]
    assert len(name) == 500
    assert name.endswith("x (C10045)")


async def test_a_taken_name_is_never_linked_but_tried_again_with_a_suffix(company: FakeCompany) -> None:
    company.override = lambda call: (
        fault("6240", "Duplicate Name Exists Error", detail=": Id=61") if call.method == "POST" else None
    )
    with pytest.raises(WriteRejected) as error:
        await perform(company, write_of("customer", company_customer()))
    assert (error.value.code, error.value.regenerate, error.value.existing_id) == ("6240", True, None)
    with pytest.raises(WriteRejected) as error:
        await perform(company, write_of("customer", company_customer(), generation=3))
    assert error.value.regenerate is False


def updating(company: FakeCompany, entity: str, document: Any, fields: set[str], row: dict[str, Any], **more: Any) -> Write:
    known = RawRecord(entity=entity, id=row["Id"], raw=json.dumps(row).encode(), version=row["SyncToken"])
    return write_of(entity, document, action="update", fields=frozenset(fields), external_id=row["Id"], known=known, **more)


async def test_an_update_sends_the_asked_fields_and_the_version_read(company: FakeCompany) -> None:
    write = updating(company, "customer", company_customer(), {"phone"}, company.rows["Customer"][0])
    (step,) = connector_of(company).plan(write)
    assert step.idempotency is IdempotencyClass.REPEATABLE
    assert await body_of(company, write) == {
        "Id": "61",
        "SyncToken": "0",
        "sparse": True,
        "PrimaryPhone": {"FreeFormNumber": "+31205550123"},
        "Mobile": {"FreeFormNumber": "+31612345678"},
    }


async def test_emptied_fields_are_sent_empty_and_absent_ones_not_at_all(company: FakeCompany) -> None:
    row = company.rows["Customer"][0] | {"Notes": "old", "Fax": {"FreeFormNumber": "1"}}
    empty = canon.Customer(kind=CustomerKind.COMPANY, company_name="Harbour Books")
    body = await body_of(company, updating(company, "customer", empty, {"note", "phone", "email"}, row))
    assert {key: value for key, value in body.items() if key not in ("Id", "SyncToken", "sparse")} == {
        "Notes": "",
        "Fax": {"FreeFormNumber": ""},
    }


async def test_a_renamed_company_keeps_what_followed_its_name(company: FakeCompany) -> None:
    row = company.rows["Customer"][0] | {"DisplayName": "Harbour Books (C1)"}
    document = company_customer(company_name="Quay Books", display_name="Quay Books")
    body = await body_of(company, updating(company, "customer", document, {"company_name"}, row))
    assert (body["CompanyName"], body["DisplayName"]) == ("Quay Books", "Quay Books (C1)")


async def test_switching_off_is_no_change_of_the_name(company: FakeCompany) -> None:
    row = company.rows["Customer"][0] | {"DisplayName": "Harbour Books (deleted)", "Active": False}
    document = company_customer(company_name="Harbour Books", display_name="Harbour Books", active=True)
    body = await body_of(company, updating(company, "customer", document, {"active", "display_name"}, row))
    assert body["Active"] is True
    assert "DisplayName" not in body


async def test_an_update_that_has_nothing_to_send_makes_no_call(company: FakeCompany) -> None:
    document = company_customer(payment_term=canon.Ref(code="30 dagen"))
    result = await perform(company, updating(company, "customer", document, {"payment_term"}, company.rows["Customer"][0]))
    assert posted(company) == []
    assert result.detail == {"left_out": "payment_term=30 dagen"}
    assert result.replayed


async def test_a_customer_made_with_a_document_takes_no_terms_from_it(company: FakeCompany) -> None:
    values = set_values(payment_term="Net 30", payment_method="iDEAL", reference="EX-1001")
    body = await body_of(company, write_of("customer", company_customer(), resolved=values))
    assert "SalesTermRef" not in body
    assert "PaymentMethodRef" not in body


async def test_somebody_elses_change_is_a_conflict(company: FakeCompany) -> None:
    company.override = lambda call: fault("5010", "Stale Object Error", detail="someone") if call.method == "POST" else None
    with pytest.raises(WriteConflict):
        await perform(company, updating(company, "customer", company_customer(), {"phone"}, company.rows["Customer"][0]))


async def test_deactivating_touches_nothing_else(company: FakeCompany) -> None:
    row = company.rows["Customer"][0]
    write = msgspec.structs.replace(
        updating(company, "customer", company_customer(), set(), row), action="deactivate", fields=None
    )
    assert await body_of(company, write) == {"Id": "61", "SyncToken": "0", "sparse": True, "Active": False}


def test_a_customer_without_any_name_is_refused(company: FakeCompany) -> None:
    with pytest.raises(MappingError, match="neither"):
        connector_of(company).plan(write_of("customer", canon.Customer(kind=CustomerKind.PERSON)))


# --- products ----------------------------------------------------------------------------------------------------------------


def product(**more: Any) -> canon.Product:
    price = canon.ProductPrice(price_mode=PriceMode.EXCL, value=Decimal("31.50000000"), currency="EUR")
    return canon.Product(**{"sku": "AB-1", "name": "Lamp", "description_long": "A lamp", "prices": [price], **more})


INCOME = set_values(income_account="Sales of Product Income")


async def test_a_product_is_no_inventory_unless_chosen(company: FakeCompany) -> None:
    body = await body_of(company, write_of("product", product(), resolved=INCOME, ids={"category:g1": "40"}))
    assert body == {
        "Name": "Lamp",
        "Type": "NonInventory",
        "Sku": "AB-1",
        "Description": "A lamp",
        "IncomeAccountRef": {"value": "79"},
        "UnitPrice": Decimal("31.5"),
        "SalesTaxIncluded": False,
    }


async def test_inventory_needs_its_three_accounts_and_a_first_day(company: FakeCompany) -> None:
    write = write_of("product", product(), resolved=INCOME, document_type="INVENTORY")
    with pytest.raises(MappingError, match="expense_account, asset_account, inventory_start_date"):
        connector_of(company).plan(write)
    more = set_values(expense_account="Cost of sales", asset_account="Inventory Asset", inventory_start_date="2026-01-01")
    body = await body_of(company, msgspec.structs.replace(write, resolved=[*INCOME, *more]))
    assert (body["TrackQtyOnHand"], body["QtyOnHand"], body["InvStartDate"]) == (True, 0, "2026-01-01")
    assert (body["ExpenseAccountRef"], body["AssetAccountRef"]) == ({"value": "80"}, {"value": "81"})


def test_a_product_without_income_account_or_of_unknown_type_is_refused(company: FakeCompany) -> None:
    with pytest.raises(MappingError, match="income account"):
        connector_of(company).plan(write_of("product", product()))
    with pytest.raises(MappingError, match="'BUNDLE'"):
        connector_of(company).plan(write_of("product", product(), document_type="BUNDLE", resolved=INCOME))


async def test_a_product_lies_in_its_category(company: FakeCompany) -> None:
    write = write_of("product", product(categories=[canon.Ref(id="g1")]), resolved=INCOME, ids={"category:g1": "40"})
    body = await body_of(company, write)
    assert (body["SubItem"], body["ParentRef"]) == (True, {"value": "40"})


async def test_only_the_general_price_in_home_currency_has_a_place(company: FakeCompany) -> None:
    def price(**facts: Any) -> canon.ProductPrice:
        return canon.ProductPrice(**{"price_mode": PriceMode.INCL, "value": Decimal(9), "currency": "EUR", **facts})

    prices = [
        price(currency="SEK"),
        price(price_list="B2B"),
        price(min_quantity=Decimal(10)),
        price(valid_from=date(2027, 1, 1)),
        price(),
    ]
    body = await body_of(company, write_of("product", product(prices=prices), resolved=INCOME))
    assert (body["UnitPrice"], body["SalesTaxIncluded"]) == (9, True)
    await perform(company, write_of("product", product(prices=prices[:1]), resolved=INCOME))
    assert "UnitPrice" not in posted(company)[1].body


def test_a_long_sku_is_refused_a_long_name_is_cut(company: FakeCompany) -> None:
    with pytest.raises(MappingError, match="sku has 101"):
        connector_of(company).plan(write_of("product", product(sku="x" * 101), resolved=INCOME))
    (step,) = connector_of(company).plan(write_of("product", product(name="n" * 120), resolved=INCOME, generation=1))
    assert step.body["Name"] == "n" * 93 + " (AB-1)"


async def taken(company: FakeCompany, write: Write) -> StepResult:
    company.override = lambda call: fault("6240", "Duplicate Name Exists Error") if call.method == "POST" else None
    return await perform(company, write)


async def test_a_taken_product_name_is_ours_only_with_our_sku(company: FakeCompany) -> None:
    row = company.rows["Item"][0]
    same = write_of("product", product(name="Notebook", sku="nb"), resolved=INCOME)
    result = await taken(company, same)
    assert (result.external_id, result.replayed) == (row["Id"], True)
    with pytest.raises(WriteRejected) as error:
        await taken(company, write_of("product", product(name="Notebook"), resolved=INCOME))
    assert error.value.regenerate
    row["Active"] = False
    with pytest.raises(WriteRejected):
        await taken(company, same)


async def test_a_category_is_known_by_name_and_place(company: FakeCompany) -> None:
    meta = {"SyncToken": "0", "Active": True, "Type": "Category"}
    company.rows["Item"] += [{"Id": "40", "Name": "Boeken", **meta}]
    category = canon.ProductCategory(code="B", name="Boeken")
    assert (await taken(company, write_of("product_category", category))).external_id == "40"
    below = msgspec.structs.replace(category, parent=canon.Ref(id="p"))
    with pytest.raises(WriteRejected):
        await taken(company, write_of("product_category", below, ids={"category:p": "7"}))


async def test_a_category_waits_for_its_parent(company: FakeCompany) -> None:
    below = write_of("product_category", canon.ProductCategory(name="Atlas", parent=canon.Ref(id="p")))
    with pytest.raises(MappingError, match="parent"):
        connector_of(company).plan(below)
    body = await body_of(company, msgspec.structs.replace(below, ids={"category:p": "40"}))
    assert body == {"Name": "Atlas", "Type": "Category", "SubItem": True, "ParentRef": {"value": "40"}}


# --- pictures ----------------------------------------------------------------------------------------------------------------


def pictured(**more: Any) -> Write:
    image = canon.Image(sha256="ab12", media_type="image/png", size_bytes=3)
    return write_of("product", product(images=[image]), resolved=INCOME, pictures={"ab12": b"png"}, **more)


async def test_a_picture_is_uploaded_under_its_hash_after_the_item(company: FakeCompany) -> None:
    _, second = connector_of(company).plan(pictured())
    assert (second.name, second.idempotency, second.primary) == ("image", IdempotencyClass.SEARCH, False)
    company.rows["Attachable"] = []
    await perform(company, pictured())
    upload = posted(company)[1]
    assert upload.path.endswith("/upload")
    assert json.loads(upload.files["file_metadata_01"][1]) == {
        "AttachableRef": [{"EntityRef": {"type": "Item", "value": "901"}, "IncludeOnSend": False}],
        "FileName": "ab12.png",
        "ContentType": "image/png",
    }
    assert upload.files["file_content_01"] == ("ab12.png", b"png", "image/png")


async def test_a_picture_that_is_there_is_not_uploaded_again(company: FakeCompany) -> None:
    def attached(item: str) -> dict[str, Any]:
        return {"Id": "55", "FileName": "ab12.png", "AttachableRef": [{"EntityRef": {"type": "Item", "value": item}}]}

    step = connector_of(company).plan(pictured())[1]
    done = {"create": StepResult(external_id="44")}
    company.rows["Attachable"] = [attached("45")]
    assert await connector_of(company).search(pictured(), step, done) is None
    company.rows["Attachable"] = [attached("44")]
    found = await connector_of(company).perform(pictured(), step, done)
    assert (found.external_id, found.replayed) == ("55", True)
    assert posted(company) == []


def test_a_picture_without_bytes_is_left_out(company: FakeCompany) -> None:
    assert len(connector_of(company).plan(msgspec.structs.replace(pictured(), pictures={}))) == 1


# --- documents ---------------------------------------------------------------------------------------------------------------


def line(number: int = 1, **more: Any) -> canon.Line:
    facts = {"quantity": Decimal(3), "unit_price_excl": Decimal("24.95"), "line_excl": Decimal("74.85"), "name": "Notebook"}
    tax = canon.TaxLine(rate_pct=Decimal(21))
    return canon.Line(**{"line_id": str(number), "line_no": number, "line_type": LineType.ITEM, "taxes": [tax], **facts, **more})


def order(**more: Any) -> canon.SalesOrder:
    email = canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value="ap@x.test")])
    facts = {"order_date": date(2026, 11, 19), "currency": "EUR", "price_mode": PriceMode.EXCL, "lines": [line()]}
    return canon.SalesOrder(**{"customer": canon.Party(pii=email), **facts, **more})


def vat(*line_ids: str, code: str = "NL 21% S") -> list[Resolved]:
    return [Resolved(name="vat_code", line_id=line_id, kind=ValueKind.TEXT, value=code, rule="t") for line_id in line_ids]


def document(order_: canon.SalesOrder | None = None, **more: Any) -> Write:
    facts: dict[str, Any] = {
        "ids": {"customer": "61", "product:1": "44", "product:2": "44", "product:charge:0": "SHIPPING_ITEM_ID"},
        "resolved": vat("1", "2", "charge:0"),
        "document_type": "INVOICE",
        "reference": "EX-1001",
        "reference_field": "DocNumber",
    }
    return write_of("sales_invoice", order_ or order(), **{**facts, **more})


async def test_an_order_becomes_an_invoice(company: FakeCompany) -> None:
    shipping = canon.AllowanceCharge(type=canon.ChargeType.SHIPPING, amount=Decimal("6.5000"), reason="Courier")
    discount = canon.AllowanceCharge(type=canon.ChargeType.DISCOUNT, amount=Decimal(10), reason="Loyalty")
    text = canon.Line(line_id="9", line_no=9, line_type=LineType.TEXT, name="gift", quantity=Decimal(0))
    ship_to = canon.Party(
        pii=canon.PartyPii(addresses=[canon.Address(company="Depot", line1="Weg 3", city="Antwerpen", country_code="BE")])
    )
    made = order(
        lines=[line(), text],
        charges=[shipping],
        allowances=[discount],
        ship_to=ship_to,
        due_date=date(2026, 12, 19),
        customer_reference="PO 7",
    )
    write = document(made, resolved=[*vat("1", "charge:0"), *set_values(payment_term="Net 30", payment_method="iDEAL")])
    assert await body_of(company, write) == {
        "CustomerRef": {"value": "61"},
        "TxnDate": "2026-11-19",
        "DueDate": "2026-12-19",
        "DocNumber": "EX-1001",
        "PrivateNote": f"bus:{KEY} EX-1001",
        "CustomerMemo": {"value": "PO 7"},
        "CurrencyRef": {"value": "EUR"},
        "GlobalTaxCalculation": "TaxExcluded",
        "BillEmail": {"Address": "ap@x.test"},
        "ShipAddr": {"Line1": "Depot", "Line2": "Weg 3", "City": "Antwerpen", "Country": "BE"},
        "SalesTermRef": {"value": "8"},
        "Line": [
            {
                "DetailType": "SalesItemLineDetail",
                "Amount": Decimal("74.85"),
                "Description": "Notebook",
                "SalesItemLineDetail": {
                    "ItemRef": {"value": "44"},
                    "TaxCodeRef": {"value": "3"},
                    "Qty": 3,
                    "UnitPrice": Decimal("24.95"),
                },
            },
            {"DetailType": "DescriptionOnly", "DescriptionLineDetail": {}, "Description": "gift"},
            {
                "DetailType": "SalesItemLineDetail",
                "Amount": Decimal("6.50"),
                "Description": "Courier",
                "SalesItemLineDetail": {"ItemRef": {"value": "SHIPPING_ITEM_ID"}, "TaxCodeRef": {"value": "3"}},
            },
            {
                "DetailType": "DiscountLineDetail",
                "Amount": Decimal("10.00"),
                "Description": "Loyalty",
                "DiscountLineDetail": {"PercentBased": False},
            },
        ],
    }
    assert posted(company)[0].params["requestid"] == KEY


async def test_a_receipt_says_how_and_whereto_it_was_paid(company: FakeCompany) -> None:
    values = set_values(payment_method="iDEAL", deposit_account="1105 PSP clearing", payment_term="Net 30")
    write = document(document_type="RECEIPT", resolved=[*vat("1"), *values])
    result = await perform(company, write)
    (call,) = posted(company)
    assert call.path.endswith("/salesreceipt")
    assert (call.body["PaymentMethodRef"], call.body["DepositToAccountRef"]) == ({"value": "2"}, {"value": "35"})
    assert "SalesTermRef" not in call.body
    assert (result.external_id, result.number) == ("SalesReceipt:901", "EX-1001")


async def test_a_receipt_needs_no_customer_an_invoice_does(company: FakeCompany) -> None:
    ids = {"product:1": "44"}
    body = await body_of(company, document(document_type="RECEIPT", ids=ids))
    assert "CustomerRef" not in body
    with pytest.raises(MappingError, match="needs a customer"):
        connector_of(company).plan(document(ids=ids))


async def test_an_estimate_stands_in_for_an_order(company: FakeCompany) -> None:
    result = await perform(company, document(document_type="ESTIMATE"))
    assert result.external_id == "Estimate:901"
    assert "DueDate" not in posted(company)[0].body


async def test_a_number_is_sent_only_where_people_number(company: FakeCompany) -> None:
    assert "DocNumber" not in await body_of(company, document(reference_field="PrivateNote"))
    company.preferences["SalesFormsPrefs"]["CustomTxnNumbers"] = False
    await perform(company, document())
    body = posted(company)[1].body
    assert "DocNumber" not in body
    assert body["PrivateNote"] == f"bus:{KEY} EX-1001"


async def test_another_currency_needs_multicurrency(company: FakeCompany) -> None:
    assert (await body_of(company, document(order(currency="SEK"))))["CurrencyRef"] == {"value": "SEK"}
    company.preferences["CurrencyPrefs"]["MultiCurrencyEnabled"] = False
    with pytest.raises(MappingError, match="SEK"):
        await perform(company, document(order(currency="SEK")))
    assert len(posted(company)) == 1, "refused before anything was sent"


@pytest.mark.parametrize(
    ("facts", "amount", "qty", "price"),
    [
        ({}, "74.85", "3", "24.95"),
        (
            {"quantity": Decimal(1000), "unit_price_excl": Decimal("0.0385"), "line_excl": Decimal("38.50")},
            "38.50",
            "1000",
            "0.0385",
        ),
        ({"line_excl": Decimal("67.37")}, "67.37", "3", "22.4566667"),
        ({"unit_price_excl": Decimal(385), "price_base_quantity": Decimal(100), "line_excl": None}, "11.55", "3", "3.85"),
        ({"quantity": Decimal("0.75"), "unit_price_excl": Decimal("13.33"), "line_excl": None}, "10.00", "0.75", "13.33"),
        ({"quantity": Decimal("-1"), "line_excl": Decimal("-24.95")}, "-24.95", "-1", "24.95"),
        ({"quantity": Decimal(3000000), "line_excl": Decimal("10.01")}, "10.01", None, None),
        ({"quantity": Decimal(0), "line_excl": Decimal("5.00")}, "5.00", None, None),
    ],
)
async def test_amount_is_quantity_times_price_or_stands_alone(
    company: FakeCompany, facts: dict[str, Any], amount: str, qty: str | None, price: str | None
) -> None:
    (sent,) = (await body_of(company, document(order(lines=[line(**facts)]))))["Line"]
    detail = sent["SalesItemLineDetail"]
    assert sent["Amount"] == Decimal(amount)
    assert (detail.get("Qty"), detail.get("UnitPrice")) == ((Decimal(qty), Decimal(price)) if qty and price else (None, None))


async def test_gross_prices_are_stated_per_line(company: FakeCompany) -> None:
    gross = line(line_excl=None, line_incl=Decimal("49.99"), unit_price_excl=None, quantity=Decimal(1))
    charge = canon.AllowanceCharge(type=canon.ChargeType.SHIPPING, amount=Decimal(5), taxes=[canon.TaxLine(rate_pct=Decimal(21))])
    body = await body_of(company, document(order(lines=[gross], charges=[charge], price_mode=PriceMode.INCL)))
    assert body["GlobalTaxCalculation"] == "TaxInclusive"
    first, second = body["Line"]
    assert (first["Amount"], first["SalesItemLineDetail"]["TaxInclusiveAmt"]) == (Decimal("41.31"), Decimal("49.99"))
    assert second["SalesItemLineDetail"]["TaxInclusiveAmt"] == Decimal("6.05")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolved": []}, "line 1 has no tax code"),
        ({"ids": {"customer": "61"}}, "line 1 has no product"),
        ({"document_type": "CREDIT_NOTE"}, "'CREDIT_NOTE'"),
        ({"reference": "x" * 22}, "reference has 22"),
        ({"document": order(order_date=None)}, "no date"),
        ({"document": order(lines=[])}, "sells nothing"),
        ({"document": order(lines=[line(line_excl=None, unit_price_excl=None)])}, "neither amount nor price"),
        ({"document": order(lines=[line(line_excl=None, line_incl=Decimal(1), taxes=[])])}, "no single VAT rate"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_sent(company: FakeCompany, change: dict[str, Any], words: str) -> None:
    with pytest.raises(MappingError, match=words):
        connector_of(company).plan(msgspec.structs.replace(document(), **change))


@pytest.mark.parametrize(("code", "words"), [("NL 6%", "no TaxCode 'NL 6%'"), ("Old", "inactive")])
async def test_an_unknown_or_inactive_code_is_named(company: FakeCompany, code: str, words: str) -> None:
    with pytest.raises(MappingError, match=words):
        await perform(company, document(resolved=vat("1", code=code)))
    assert posted(company) == []


@pytest.mark.parametrize("field", ["PrivateNote", "DocNumber"])
async def test_a_reference_is_whole_or_refused(company: FakeCompany, field: str) -> None:
    company.rows["Invoice"] = []
    most = connector_of(company).manifest.writes["sales_invoice"].reference_fields[field]
    body = await body_of(company, document(reference="R" * most, reference_field=field))
    assert body["PrivateNote"] == f"bus:{KEY} {'R' * most}"
    company.calls.clear()
    with pytest.raises(MappingError, match="reference has"):
        await perform(company, document(reference="R" * (most + 1), reference_field=field))
    assert posted(company) == []


async def test_a_code_may_be_given_by_id(company: FakeCompany) -> None:
    (sent,) = (await body_of(company, document(resolved=vat("1", code="3"))))["Line"]
    assert sent["SalesItemLineDetail"]["TaxCodeRef"] == {"value": "3"}


async def test_lists_are_read_once(company: FakeCompany) -> None:
    connector = connector_of(company)
    for number in range(3):
        write = document(source_id=f"o{number}")
        await connector.perform(write, connector.plan(write)[0], {})
    assert len(company.statements("TaxCode")) == 1, "the whole list, which the answers refer to as well"
    assert len([call for call in company.calls if call.path.endswith("/preferences")]) == 1


# --- unclear ends and refusals -----------------------------------------------------------------------------------------------


def only_step(company: FakeCompany, write: Write) -> Step:
    (step,) = connector_of(company).plan(write)
    return step


async def test_an_unclear_document_is_found_by_its_marker_whatever_its_type(company: FakeCompany) -> None:
    write = document()
    step = only_step(company, write)
    assert step.idempotency is IdempotencyClass.SEARCH
    rows = {
        "TxnDate": "2026-11-19",
        "CustomerRef": {"value": "61"},
        "TotalAmt": 0,
        "SyncToken": "0",
        "CurrencyRef": {"value": "EUR"},
    }
    company.rows["Invoice"] = [{"Id": "1", **rows, "PrivateNote": f"bus:{KEY}9"}, {"Id": "2", **rows, "PrivateNote": "EX-1001"}]
    assert await connector_of(company).search(write, step, {}) is None
    company.rows["SalesReceipt"] = [{"Id": "3", **rows, "PrivateNote": f"bus:{KEY} EX-1001"}]
    found = await connector_of(company).search(write, step, {})
    assert found is not None
    assert (found.external_id, found.replayed) == ("SalesReceipt:3", True)
    assert all("CustomerRef = '61'" in text and "TxnDate = '2026-11-19'" in text for text in company.statements("Invoice"))


async def test_a_write_answered_by_a_page_is_unclear(company: FakeCompany) -> None:
    company.override = lambda call: (200, b'{"time":"2026-11-19T01:00:00Z"}') if call.method == "POST" else None
    with pytest.raises(Unavailable):
        await perform(company, document())


@pytest.mark.parametrize("write", ["customer", "document", "update"])
@pytest.mark.parametrize("answered", [{"SyncToken": "0"}, {"Id": None}, {"Id": 5}])
async def test_an_answered_write_is_never_turned_away(company: FakeCompany, write: str, answered: dict[str, Any]) -> None:
    """A refusal would be sent again under another key: what the answer cannot tell is told by a search, or by the same key."""
    wanted = {
        "customer": write_of("customer", company_customer()),
        "document": document(),
        "update": updating(company, "customer", company_customer(), {"phone"}, company.rows["Customer"][0]),
    }[write]
    entity = "Invoice" if write == "document" else "Customer"
    company.override = lambda call: (200, json.dumps({entity: answered}).encode()) if call.method == "POST" else None
    with pytest.raises(Unavailable):
        await perform(company, wanted)
    assert len(posted(company)) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_what_cannot_be_joined_leaves_a_made_document_made(company: FakeCompany, status: int) -> None:
    company.override = lambda call: (status, b"") if posted(company) and call.method == "GET" else None
    result = await perform(company, document())
    assert result.external_id.startswith("Invoice:")
    assert result.record is None


@pytest.mark.parametrize("status", [500, 503])
async def test_a_failing_server_leaves_it_unclear(company: FakeCompany, status: int) -> None:
    company.override = lambda call: (status, b"") if call.method == "POST" else None
    with pytest.raises(Unavailable):
        await perform(company, document())
    company.override = lambda call: fault("6000", "Business Validation Error", status=status) if call.method == "POST" else None
    with pytest.raises(WriteRejected):
        await perform(company, document())


async def test_a_taken_number_is_ours_only_with_our_marker(company: FakeCompany) -> None:
    detail = "Numéro de document en double. DocNumber=EX-1001 is assigned to TxnType=Invoice with TxnId=396"
    company.override = lambda call: (
        fault("6140", "Numéro de document en double", detail=detail) if call.method == "POST" else None
    )
    row = {
        "Id": "396",
        "TxnDate": "2026-11-19",
        "TotalAmt": 0,
        "SyncToken": "0",
        "CurrencyRef": {"value": "EUR"},
        "PrivateNote": "by hand",
    }
    company.rows["Invoice"] = [row]
    with pytest.raises(WriteRejected) as error:
        await perform(company, document())
    assert (error.value.code, error.value.existing_id, error.value.regenerate) == ("6140", "Invoice:396", False)
    row["PrivateNote"] = f"bus:{KEY} EX-1001"
    result = await perform(company, document())
    assert (result.external_id, result.replayed) == ("Invoice:396", True)


async def test_a_closed_period_is_refused_and_the_date_stays(company: FakeCompany) -> None:
    company.override = lambda call: fault("6210", "Account Period Closed") if call.method == "POST" else None
    with pytest.raises(WriteRejected, match="6210") as error:
        await perform(company, document())
    assert "never moves" in error.value.hint
    assert [call.body["TxnDate"] for call in posted(company)] == ["2026-11-19"]


async def test_a_clash_of_request_ids_is_for_a_person(company: FakeCompany) -> None:
    company.override = lambda call: fault("600", "Duplicate request id") if call.method == "POST" else None
    with pytest.raises(AmbiguousWrite):
        await perform(company, write_of("customer", company_customer()))


async def test_a_replayed_answer_of_a_deleted_document_says_that_it_is_gone(company: FakeCompany) -> None:
    row = {"Id": "238", "TxnDate": "2026-11-19", "TotalAmt": 0, "SyncToken": "0", "CurrencyRef": {"value": "EUR"}}
    old = row | {"MetaData": {"CreateTime": CREATED, "LastUpdatedTime": CREATED}}
    answer = json.dumps({"Invoice": old, "time": "2026-11-19T01:00:00Z"}).encode()
    company.override = lambda call: (200, answer) if call.method == "POST" else None
    gone = await perform(company, document())
    assert gone.record is not None
    assert (gone.external_id, gone.replayed, gone.record.deleted) == ("Invoice:238", True, True)
    company.rows["Invoice"] = [old]
    there = await perform(company, document())
    assert there.record is not None
    assert (there.replayed, there.record.deleted) == (True, False)


async def test_messages_repeat_no_names(company: FakeCompany) -> None:
    detail = "String length is too long: supplied value: Zoë de Vries, Storgatan 3"
    company.override = lambda call: fault("2050", "too long", detail=detail) if call.method == "POST" else None
    with pytest.raises(WriteRejected) as error:
        await perform(company, write_of("customer", person()))
    assert "2050" in str(error.value)
    assert "1-tid" in str(error.value)
    assert "Zoë" not in str(error.value)


def test_what_has_no_place_is_refused(company: FakeCompany) -> None:
    connector = connector_of(company)
    with pytest.raises(MappingError, match="sales_order"):
        connector.plan(msgspec.structs.replace(document(), entity="sales_order"))
    for action in ("update", "delete"):
        with pytest.raises(MappingError, match=action):
            connector.plan(msgspec.structs.replace(document(), action=action, external_id="Invoice:1"))


# --- finding -----------------------------------------------------------------------------------------------------------------


async def found(company: FakeCompany, entity: str, **match: str) -> list[tuple[str, bool]]:
    hits = await connector_of(company).find(entity, Match(**match))
    return [(hit.record.id, hit.active) for hit in hits]


async def test_a_customer_is_found_by_one_address_of_several(company: FakeCompany) -> None:
    rows = company.rows["Customer"]
    rows[0] |= {"PrimaryEmailAddr": {"Address": "ap@x.test, Info@X.test"}}
    rows.append(rows[0] | {"Id": "62", "Active": False, "PrimaryEmailAddr": {"Address": "info@x.test"}})
    rows.append(rows[0] | {"Id": "63", "PrimaryEmailAddr": {"Address": "otherinfo@x.test"}})
    assert await found(company, "customer", email="info@x.test") == [("61", True), ("62", False)]
    assert "PrimaryEmailAddr LIKE '%info@x.test%' AND Active IN (true, false)" in company.statements("Customer")[0]


async def test_quotes_are_escaped_by_a_backslash(company: FakeCompany) -> None:
    company.rows["Customer"][0]["DisplayName"] = "O'Neil \\ Sons"
    assert await found(company, "customer", name="O'Neil \\ Sons") == [("61", True)]
    assert r"DisplayName IN ('O\'Neil \\ Sons', 'O\'Neil \\ Sons (deleted)')" in company.statements("Customer")[0]


@pytest.mark.parametrize(("entity", "member"), [("customer", "DisplayName"), ("product", "Name")])
async def test_an_inactive_name_is_found_by_what_it_was(company: FakeCompany, entity: str, member: str) -> None:
    rows = company.rows["Customer" if entity == "customer" else "Item"]
    name = rows[0][member]
    rows[0] |= {"Active": False, member: f"{name} (deleted)"}
    assert await found(company, entity, name=name) == [(rows[0]["Id"], False)]


async def test_a_default_debtor_is_found_by_its_name(company: FakeCompany) -> None:
    assert await found(company, "customer", number="Harbour Books") == [("61", True)]


async def test_what_cannot_be_searched_is_not_found(company: FakeCompany) -> None:
    assert await found(company, "customer", vat_number="NL1") == []
    assert await found(company, "product", gtin="8712345678906") == []
    assert company.calls == []


async def test_products_by_sku_categories_by_name(company: FakeCompany) -> None:
    company.rows["Item"].append({"Id": "40", "Name": "Notebook", "Type": "Category", "SyncToken": "0"})
    assert await found(company, "product", sku="NB") == [("44", True)]
    assert await found(company, "product", name="Notebook") == [("44", True)]
    assert await found(company, "product_category", name="Notebook") == [("40", True)]


async def test_documents_by_number_over_all_kinds(company: FakeCompany) -> None:
    row = {"TxnDate": "2026-11-19", "TotalAmt": 0, "SyncToken": "0", "CurrencyRef": {"value": "EUR"}, "DocNumber": "EX-1"}
    company.rows |= {"Invoice": [{"Id": "1", **row}], "Estimate": [{"Id": "1", **row}]}
    hits = await connector_of(company).find("sales_invoice", Match(reference="EX-1"))
    assert [(hit.record.id, hit.number) for hit in hits] == [("Invoice:1", "EX-1"), ("Estimate:1", "EX-1")]
    assert await found(company, "sales_invoice", reference="x" * 22) == []


# --- manifest ----------------------------------------------------------------------------------------------------------------


def test_steps_are_of_the_classes_the_manifest_states(company: FakeCompany) -> None:
    connector = connector_of(company)
    row = company.rows["Customer"][0]
    customer = updating(company, "customer", company_customer(), {"phone"}, row)
    writes = [
        write_of("customer", company_customer()),
        customer,
        msgspec.structs.replace(customer, action="deactivate"),
        pictured(),
        document(),
    ]
    for write in writes:
        stated = {step.name: step.idempotency for step in connector.manifest.writes[write.entity].steps}
        steps = connector.plan(write)
        assert {step.name: str(step.idempotency) for step in steps}.items() <= stated.items()
        assert sum(step.primary for step in steps) == 1
