"""What Exact says, as canonical facts, and what it is told: golden files, and each rule by itself."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.errors import MappingError
from bus.core.money import rounded
from bus.kit.client import json_bytes
from bus.kit.connector import RawRecord, Write
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey, Privacy
from connectors.exact_online.mapping import customer as customers
from connectors.exact_online.mapping import order as orders
from connectors.exact_online.mapping import product as products
from connectors.exact_online.mapping import shapes, values
from connectors.exact_online.mapping.order_body import Asked, order_parts, unit_price
from schemas import canon
from schemas.canon import AddressType, ChargeType, CustomerKind, LineType, PriceMode, ProductKind
from schemas.system import Cause, Resolved
from tests.connectors.exact_online_division import (
    KEY,
    FakeDivision,
    as_json,
    connector_of,
    guid_of,
    perform,
    set_values,
    vat,
    whole_of,
    write_of,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "exact_online"
CASES = sorted(path.name.removesuffix(".vendor.json") for path in GOLDEN.glob("*.vendor.json"))
SAMPLES = {
    "sample_customer": ("customer", "a1f0c2d4-0b1e-4c55-9d0a-6b1c2d3e4f01"),
    "sample_product": ("product", "a1f0c2d4-0b1e-4c55-9d0a-6b1c2d3e4f04"),
    "sample_product_category": ("product_category", "a1f0c2d4-0b1e-4c55-9d0a-6b1c2d3e4f08"),
    "sample_sales_order": ("sales_order", "a1f0c2d4-0b1e-4c55-9d0a-6b1c2d3e4f05"),
}
CONNECTOR = connector_of(FakeDivision())
MANIFEST = CONNECTOR.manifest


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.vendor.json").read_text(), parse_float=Decimal)
    return found


def mapped(case: dict[str, Any]) -> Any:
    return CONNECTOR.to_canonical(RawRecord(entity=case["entity"], id="1", raw=json_bytes(case["whole"])))


def changed(name: str, part: str, **changes: Any) -> Any:
    """A case with other members in its `part`, or in the first of them."""
    case = load(name)
    place = case["whole"][part]
    (place[0] if isinstance(place, list) else place).update(changes)
    return mapped(case)


def of_samples(entity: str, key: str) -> Any:
    division = FakeDivision()
    division.load_samples()
    return CONNECTOR.to_canonical(asyncio.run(whole_of(division, entity, key)))


# --- golden files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_read_from_the_wire(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{name}.canonical.json", as_json(of_samples(*SAMPLES[name])))


@pytest.mark.parametrize("name", CASES)
def test_whole_objects(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{name}.canonical.json", as_json(mapped(load(name))))


def entities() -> list[tuple[str, Any]]:
    read = [(entity, of_samples(entity, key)) for entity, key in SAMPLES.values()]
    return read + [(load(name)["entity"], mapped(load(name))) for name in CASES]


EVENTS = {
    "customer": canon.CustomerEvent,
    "product": canon.ProductEvent,
    "product_category": canon.ProductCategoryEvent,
    "sales_order": canon.SalesOrderEvent,
}


@pytest.mark.parametrize("entity", EVENTS)
def test_every_golden_entity_can_be_published(entity: str) -> None:
    meta = canon.EventMeta(
        event_id="e",
        seq=1,
        tenant="acme",
        system="exact_online",
        connection="exact",
        entity=entity,
        source_id="1",
        observed_at=datetime(2026, 11, 21, tzinfo=UTC),
        content_hash="x",
    )
    codec, topic = Codec.offline(), f"bus.canon.{entity.replace('_', '-')}"
    for _, document in (pair for pair in entities() if pair[0] == entity):
        sealed, _ = asyncio.run(Privacy(MasterKey(bytes(32))).seal(document, "acme", "exact"))
        after = codec.decode(topic, codec.encode(topic, EVENTS[entity](meta=meta, after=sealed))).after
        for name in document.__struct_fields__:
            value = getattr(document, name)
            if isinstance(value, list | str | Decimal) and name not in ("contacts", "email_index", "subject"):
                assert getattr(after, name) == value, f"{name} changed on its way: it was not at the schema's scale"


@pytest.mark.parametrize("entity", EVENTS)
def test_the_manifest_lists_exactly_what_is_ever_filled(entity: str) -> None:
    """`when` and `set` are checked against it: a field listed and never filled would be promised for nothing."""
    found, line_found = set(), set()
    for _, document in (pair for pair in entities() if pair[0] == entity):
        blank = {f.name: f.default for f in msgspec.structs.fields(document)}
        found |= {name for name in document.__struct_fields__ if getattr(document, name) not in (blank[name], None, [], {})}
        for line in getattr(document, "lines", []):
            line_found |= {name for name in line.__struct_fields__ if getattr(line, name) not in (None, [])}
        if isinstance(document, canon.Customer) and isinstance(document.pii, canon.PartyPii):
            found |= {"full_name"} if document.pii.full_name else set()
            found |= {"email"} if document.pii.emails else set()
            found |= {"phone"} if document.pii.phones else set()
            found |= {"address"} if document.pii.addresses else set()
    reads = MANIFEST.reads[entity]
    found -= {"subject", "external_ref"} - set(reads.fields)
    always = {"active"}  # true is its default
    assert found | always & set(reads.fields) == set(reads.fields)
    assert line_found == set(reads.line_fields)


@pytest.mark.parametrize("name", ["customer_company", "customer_person", "product", "order", "order_charges"])
def test_bodies_of_writes(name: str, golden: Callable[[Path, str], None]) -> None:
    division = FakeDivision(config={"order_charges": {"SHIPPING": "VERZEND"}, "parent_field": "FreeTextField_01"})
    division.put("sales/OrderCharges", {"Code": "VERZEND"}, key=guid_of(70))
    division.put("logistics/ItemGroups", {"Code": "MEUBEL"}, key=guid_of(71))
    asyncio.run(perform(connector_of(division), WRITES[name]))
    sent = [{"method": call.method, "path": call.path, "key": call.key, "body": call.body} for call in division.writes()]
    golden(GOLDEN / f"write_{name}.calls.json", as_json(sent))


# --- documents to write -------------------------------------------------------------------------------------------------------


def company(**more: Any) -> canon.Customer:
    addresses = [
        canon.Address(type=AddressType.BILLING, line1="Kade 12", postal_code="3011 AA", city="Rotterdam", country_code="NL"),
        canon.Address(type=AddressType.DELIVERY, line1="Loods 3", postal_code="3089 JB", city="Rotterdam", country_code="NL"),
    ]
    pii = canon.PartyPii(
        emails=[canon.ContactPoint(type="WORK", value="ap@inkt.example")],
        phones=[canon.ContactPoint(type="WORK", value="+31205550123")],
        addresses=addresses,
    )
    person = canon.PartyPii(full_name="Ines Calder", given_name="Ines", family_name="Calder")
    facts = {
        "kind": CustomerKind.COMPANY,
        "number": "C10045",
        "company_name": "Papier en Inkt B.V.",
        "display_name": "Papier en Inkt B.V.",
        "vat_number": "NL801234567B01",
        "registration_number": "34123456",
        "language": "nl-NL",
        "payment_term": canon.Ref(id="3", code="Net 30"),
        "contacts": [canon.Contact(id="1", is_main=True, pii=person)],
        "pii": pii,
    }
    return canon.Customer(**{**facts, **more})


def private(name: str = "Zoë de Vries", **more: Any) -> canon.Customer:
    pii = canon.PartyPii(full_name=name, emails=[canon.ContactPoint(type="HOME", value="zoe@vries.example")])
    return canon.Customer(**{"kind": CustomerKind.PERSON, "pii": pii, **more})


def stool(**more: Any) -> canon.Product:
    facts = {
        "sku": "KRUK-1",
        "kind": ProductKind.SIMPLE,
        "name": "Kruk",
        "description_short": "Van eiken",
        "description_long": "Massief, geolied.",
        "gtin": "8712345000417",
        "stock_tracked": True,
        "parent": canon.Ref(code="KRUK"),
        "prices": [canon.ProductPrice(price_mode=PriceMode.EXCL, value=Decimal("79.50"), currency="EUR")],
        "images": [canon.Image(sha256="ab" * 32, media_type="image/png", size_bytes=4)],
    }
    return canon.Product(**{**facts, **more})


def tax(code: str, rate: str, base: str, amount: str) -> canon.TaxLine:
    return canon.TaxLine(rate_pct=Decimal(rate), base=Decimal(base), amount=Decimal(amount), source_code=code)


def line(line_id: str, excl: str, rate: str = "21", *, quantity: str = "1", code: str = "S", **more: Any) -> canon.Line:
    net = Decimal(excl)
    amount = rounded(net * Decimal(rate) / 100)
    facts = {
        "line_id": line_id,
        "line_no": int(line_id),
        "line_type": LineType.ITEM,
        "name": f"Thing {line_id}",
        "quantity": Decimal(quantity),
        "line_excl": net,
        "line_incl": net + amount,
        "taxes": [tax(code, rate, excl, str(amount))],
    }
    return canon.Line(**{**facts, **more})


def discount(amount: str) -> list[canon.AllowanceCharge]:
    return [canon.AllowanceCharge(type=ChargeType.DISCOUNT, amount=Decimal(amount))]


def shipping(amount: str) -> list[canon.AllowanceCharge]:
    taxes = [tax("S", "21", amount, str(rounded(Decimal(amount) * 21 / 100)))]
    return [canon.AllowanceCharge(type=ChargeType.SHIPPING, amount=Decimal(amount), reason="Shipping", taxes=taxes)]


def order(lines: list[canon.Line], **more: Any) -> canon.SalesOrder:
    facts = {"number": "S-1001", "order_date": date(2026, 11, 19), "delivery_date": date(2026, 11, 21), "currency": "EUR"}
    return canon.SalesOrder(**{**facts, "lines": lines, **more})


def order_write(document: canon.SalesOrder, codes: list[Resolved], **ids: str) -> Write:
    products_of = {f"product:{item.line_id}": guid_of(100 + int(item.line_id)) for item in document.lines}
    return write_of(
        "sales_order",
        document,
        ids={"customer": guid_of(40), **products_of, **{f"product:charge:{key[1:]}": value for key, value in ids.items()}},
        resolved=[*set_values(payment_term="30"), *codes],
        reference="QBO-I238",
        reference_field="YourRef",
    )


SHIP_TO = canon.Party(
    pii=canon.PartyPii(addresses=[canon.Address(type=AddressType.DELIVERY, line1="Dok Noord 7", city="Gent", country_code="BE")])
)
WRITES = {
    "customer_company": write_of("customer", company(), resolved=set_values(payment_term="30", vat_code="2")),
    "customer_person": write_of("customer", private()),
    "product": write_of(
        "product",
        stool(),
        resolved=set_values(item_group="MEUBEL", vat_code="2", unit="stuk"),
        pictures={"ab" * 32: b"\x89PNG"},
    ),
    "order": order_write(
        order(
            [line("1", "149.85", quantity="3"), line("2", "50.00", "9", code="R")],
            charges=shipping("6.50"),
            allowances=discount("20.00"),
            ship_to=SHIP_TO,
        ),
        [vat("1", "2"), vat("2", "1"), vat("charge:0", "2")],
        c0=guid_of(200),
    ),
    "order_charges": order_write(
        order([line("1", "100.00", quantity="2")], charges=shipping("6.50")),
        [vat("1", "4"), vat("charge:0", "4")],
        c0="ORDER_CHARGE",
    ),
}


# --- values ------------------------------------------------------------------------------------------------------------------


@given(st.text("0123456789ABCxyz-", min_size=1, max_size=18))
def test_codes_lose_their_padding_and_filters_get_it(number: str) -> None:
    assert len(values.padded(number)) == 18
    assert values.code(values.padded(number)) == number
    assert values.code(f"{number:20}") == number


@given(st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2090, 1, 1)))
def test_dates_are_the_wall_clock_taken_as_utc(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    number = (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1)
    assert values.wall_clock(f"/Date({number})/") == values.wall_clock(f"\\/Date({number})\\/") == moment
    assert values.day(f"/Date({number})/") == moment.date(), "a business day is never shifted"


def test_an_instant_is_put_into_the_divisions_zone() -> None:
    assert values.instant("/Date(1773498490000)/") == datetime(2026, 3, 14, 13, 28, 10, tzinfo=UTC)
    assert values.instant("/Date(1783952890000)/") == datetime(2026, 7, 13, 12, 28, 10, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-03-14", "/Date(x)/", "/Date(12)", ""])
def test_another_date_format_is_named(text: str) -> None:
    with pytest.raises(MappingError, match="is no date"):
        values.day(text)


@given(st.uuids(), st.integers(1, 10**6), st.integers(1, 10**6))
def test_numbers_of_a_range_are_its_own_and_the_same_again(key: Any, first: int, size: int) -> None:
    drawn = values.numbers(str(key), first, first + size, 5)
    assert drawn == values.numbers(str(key), first, first + size, 5)
    assert len(set(drawn)) == len(drawn) == min(5, size + 1)
    assert all(first <= number <= first + size for number in drawn)


@given(st.decimals(-99999, 99999, places=2), st.decimals("0.001", 9999, places=3))
def test_a_price_gives_its_amount_back_to_the_cent(net: Decimal, quantity: Decimal) -> None:
    try:
        price = unit_price(net, quantity)
    except MappingError:
        return
    assert rounded(price * quantity) == net


# --- customers ---------------------------------------------------------------------------------------------------------------


def test_a_classification_says_what_an_account_is() -> None:
    assert mapped(load("customer_person")).kind is CustomerKind.PERSON
    company_too = changed("customer_person", "Account", VATNumber="DE136695976")
    assert company_too.kind is CustomerKind.PERSON, "the configured word counts before any number"


@pytest.mark.parametrize("number", [{"VATNumber": "NL 8104.33.941.B01"}, {"ChamberOfCommerce": "27123987"}])
def test_a_vat_or_registration_number_makes_a_company(number: dict[str, str]) -> None:
    found = changed("customer_unknown_ended", "Account", **number)
    assert (found.kind, found.company_name, found.pii.full_name) == (CustomerKind.COMPANY, "Loket", None)


def test_without_any_of_them_the_kind_is_unknown() -> None:
    found = mapped(load("customer_unknown_ended"))
    assert (found.kind, found.company_name, found.pii.full_name) == (CustomerKind.UNKNOWN, None, "Loket")


def test_a_name_of_a_person_is_nowhere_but_in_pii() -> None:
    found = mapped(load("customer_person"))
    assert (found.display_name, found.company_name, found.pii.full_name) == (None, None, "Zoë Çelik")


def test_a_debtor_code_that_is_zero_filled_stays_so() -> None:
    assert changed("customer_person", "Account", Code="           0000011").number == "0000011"


def test_vat_numbers_are_compact() -> None:
    assert changed("customer_person", "Account", VATNumber="nl 8104.33.941.b01").vat_number == "NL810433941B01"


@pytest.mark.parametrize(("status", "active"), [("C", True), ("P", False), ("A", False), (None, False)])
def test_only_a_customer_is_active(status: str | None, active: bool) -> None:
    assert changed("customer_person", "Account", Status=status).active is active


def test_an_end_date_switches_off_the_day_after() -> None:
    case = load("customer_unknown_ended")
    assert mapped(case).active is False
    case["whole"]["Today"] = "2026-11-20"
    assert mapped(case).active is True


def test_a_discount_is_a_fraction_there_and_percent_here() -> None:
    assert mapped(load("customer_person")).discount_pct == Decimal("5.5")


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs", "P")), min_size=1, max_size=120))
def test_a_long_name_is_cut_never_hashed(name: str) -> None:
    document = company(company_name=name, display_name=None)
    clean = values.code(name)
    if clean is None:
        return
    sent = customers.account_to_vendor(document, None, {})["Name"]
    assert len(sent) <= 50
    assert clean.startswith(sent)
    assert sent == clean if len(clean) <= 50 else len(sent) > 0


def test_decomposed_letters_count_once() -> None:
    text = "Stichting Ondersteuning Ångström & Żółć-Çelebioğlu Groep"
    import unicodedata

    sent = customers.account_to_vendor(company(company_name=unicodedata.normalize("NFD", text)), None, {})["Name"]
    assert sent == text[:50].strip()


def test_only_a_value_a_flow_set_is_a_payment_term_there() -> None:
    document = company(payment_term=canon.Ref(id="3", code="Net 30"))
    assert "PaymentConditionSales" not in customers.account_to_vendor(document, None, {})
    assert customers.account_to_vendor(document, None, {"payment_term": "30"})["PaymentConditionSales"] == "30"
    assert customers.account_to_vendor(document, frozenset({"payment_term"}), {}) == {}


def test_an_update_clears_what_became_empty_and_touches_nothing_else() -> None:
    empty = company(vat_number=None, pii=canon.PartyPii())
    fields = frozenset({"email", "vat_number", "address.BILLING"})
    assert customers.account_to_vendor(empty, fields, {}) == {
        "Email": None,
        "VATNumber": None,
        **dict.fromkeys(customers.ADDRESS_FIELDS),
    }


def test_the_contact_of_a_company_is_its_main_person() -> None:
    other = canon.Contact(id="2", pii=canon.PartyPii(given_name="Noor", middle_name="van", family_name="Hasselt"))
    document = company(contacts=[other, *company().contacts])
    assert customers.contact_to_vendor(document) == {"FirstName": "Ines", "LastName": "Calder", "Email": "ap@inkt.example"}
    only = customers.contact_to_vendor(company(contacts=[other]))
    assert only == {"FirstName": "Noor", "MiddleName": "van", "LastName": "Hasselt", "Email": "ap@inkt.example"}
    assert customers.contact_to_vendor(company(contacts=[])) is None, "a company without a person has no contact"


def test_a_person_known_by_one_text_is_a_last_name() -> None:
    assert customers.contact_to_vendor(private()) == {"LastName": "Zoë de Vries", "Email": "zoe@vries.example"}


def test_nobody_is_refused() -> None:
    with pytest.raises(MappingError, match="neither a name"):
        customers.account_name(canon.Customer())


# --- products ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"), [("I", PriceMode.INCL), ("E", PriceMode.EXCL), ("B", PriceMode.EXCL), ("N", PriceMode.EXCL)]
)
def test_the_type_of_the_vat_code_says_whether_prices_hold_vat(kind: str, mode: PriceMode) -> None:
    case = load("product_gross")
    case["whole"]["VatType"] = kind
    assert {price.price_mode for price in mapped(case).prices} == {mode}


def test_prices_of_the_day_of_everybody() -> None:
    found = [(p.currency, p.min_quantity, p.value) for p in mapped(load("product_gross")).prices]
    assert found == [("EUR", None, Decimal("84.95")), ("EUR", Decimal(10), Decimal("74.5")), ("SEK", None, Decimal(949))]
    case = load("product_gross")
    case["whole"]["Today"] = "2027-01-01"
    assert mapped(case).prices[0].value == Decimal("89.95")


def test_an_unknown_vat_code_of_an_item_stops_it() -> None:
    case = load("product_gross")
    case["whole"]["VatType"] = None
    with pytest.raises(MappingError, match="SalesVatCode '4' is unknown") as error:
        mapped(case)
    assert error.value.cause is Cause.UNKNOWN_VALUE


def test_kinds_of_items() -> None:
    kinds = {name: mapped(load(name)).kind for name in CASES if load(name)["entity"] == "product"}
    assert kinds == {
        "product_gross": ProductKind.SIMPLE,
        "product_service": ProductKind.SERVICE,
        "product_virtual_wrong_barcode": ProductKind.VIRTUAL,
    }


def test_a_barcode_with_a_wrong_check_digit_is_none() -> None:
    assert mapped(load("product_virtual_wrong_barcode")).gtin is None
    assert mapped(load("product_gross")).gtin == "8712345000417"


def test_parent_and_options_of_a_variant_are_read_from_their_fields_and_written_there() -> None:
    found = mapped(load("product_gross"))
    assert (found.parent.code, found.options) == ("KRUK-EIK", {"height": "45 cm"})
    places = products.Places(parent="FreeTextField_01", options={"height": "FreeTextField_02"})
    body = products.item_to_vendor(msgspec.structs.replace(found, custom_fields={}), None, places)
    assert (body["FreeTextField_01"], body["FreeTextField_02"]) == ("KRUK-EIK", "45 cm")
    assert products.item_to_vendor(found, frozenset({"options"}), places) == {"FreeTextField_02": "45 cm"}


NOWHERE = products.Places()


def test_a_long_sku_is_refused_and_a_long_name_cut() -> None:
    with pytest.raises(MappingError, match="31 characters"):
        products.item_to_vendor(stool(sku="x" * 31), None, NOWHERE)
    with pytest.raises(MappingError, match="no SKU"):
        products.item_to_vendor(stool(sku=None), None, NOWHERE)
    body = products.item_to_vendor(stool(name="n" * 80, description_short="s" * 300), None, NOWHERE)
    assert (len(body["Description"]), len(body["ExtraDescription"])) == (60, 255)


def test_an_update_of_an_item_never_repeats_its_code() -> None:
    assert products.item_to_vendor(stool(), frozenset({"name", "sku", "gtin"}), NOWHERE) == {
        "Description": "Kruk",
        "Barcode": "8712345000417",
    }


def price(mode: PriceMode, value: str, **more: Any) -> canon.ProductPrice:
    return canon.ProductPrice(**{"price_mode": mode, "value": Decimal(value), "currency": "EUR", **more})


@pytest.mark.parametrize(
    ("prices", "kind", "sent"),
    [
        ([price(PriceMode.EXCL, "79.50")], "E", "79.50"),
        ([price(PriceMode.EXCL, "79.50")], "I", "96.20"),
        ([price(PriceMode.INCL, "96.20")], "E", "79.5041"),
        ([price(PriceMode.EXCL, "79.50"), price(PriceMode.INCL, "95.95")], "I", "95.95"),
        ([price(PriceMode.EXCL, "70", min_quantity=Decimal(10)), price(PriceMode.EXCL, "79.50")], "E", "79.50"),
        ([price(PriceMode.EXCL, "60", price_list="B2B"), price(PriceMode.UNKNOWN, "79.50")], "I", "79.50"),
    ],
)
def test_a_price_is_put_in_the_mode_of_the_items_vat_code(prices: list[canon.ProductPrice], kind: str, sent: str) -> None:
    body = products.price_to_vendor(stool(prices=prices), kind, Decimal("0.21"))
    assert body == {"Price": Decimal(sent), "Currency": "EUR"}


def test_a_price_that_cannot_be_converted_is_refused() -> None:
    with pytest.raises(MappingError, match="rate is unknown"):
        products.price_to_vendor(stool(), "I", None)


# --- orders: reading ---------------------------------------------------------------------------------------------------------


def sums(found: canon.SalesOrder) -> tuple[Decimal, ...]:
    totals = found.totals
    assert totals is not None
    assert totals.lines is not None
    return totals.lines, totals.allowances, totals.charges, totals.excl, totals.vat, totals.incl  # type: ignore[return-value]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("order")])
def test_parts_add_up_to_the_header(name: str) -> None:
    found = mapped(load(name))
    lines, allowances, charges, excl, tax_amount, incl = sums(found)
    assert lines - allowances + charges == excl
    assert excl + tax_amount == incl
    assert sum(item.base for item in found.vat_breakdown) == excl
    assert sum(item.amount for item in found.vat_breakdown) == tax_amount


def test_a_header_discount_lowers_the_vat_of_each_rate() -> None:
    found = mapped(load("order_charges_discount"))
    assert [(item.source_code, item.base, item.amount) for item in found.vat_breakdown] == [
        ("1", Decimal("45.00"), Decimal("4.05")),
        ("2", Decimal("190.00"), Decimal("39.90")),
    ]


def test_a_line_discount_is_in_its_net_price() -> None:
    found = mapped(load("order_charges_discount")).lines[1]
    assert (found.unit_price_excl, found.line_excl, found.allowances) == (Decimal(50), Decimal(50), [])


def test_a_header_discount_in_division_currency_is_told_in_the_documents() -> None:
    found = mapped(load("order_foreign_discount"))
    assert [item.amount for item in found.allowances] == [Decimal("224.00")]
    assert found.currency == "SEK"


@given(st.decimals("0.1", 400, places=4), st.decimals(1, 9999, places=2), st.integers(0, 90))
def test_a_whole_order_of_any_currency_is_whole(rate: Decimal, lines: Decimal, percent: int) -> None:
    case = load("order_foreign_discount")["whole"]
    less = rounded(lines * percent / 100)
    excl = lines - less
    incl = excl + rounded(excl / 4)
    in_division = {"AmountDC": rounded(incl / rate), "AmountDiscountExclVat": rounded(less / rate)}
    case["Order"] |= {"AmountFC": incl, "AmountFCExclVat": excl, **in_division}
    case["Lines"][0] |= {"AmountFC": lines}
    if in_division["AmountDC"] < 1:
        return
    whole = shapes.decoded(json_bytes(case), shapes.WholeOrder, "SalesOrder")
    assert orders.is_whole(whole)
    assert orders.discount_of(whole) == (less if in_division["AmountDiscountExclVat"] else 0)


@pytest.mark.parametrize(("stated", "found"), [("20.00", True), ("19.99", False), ("0", False), ("224", False)])
def test_in_a_foreign_currency_an_order_is_whole_to_a_cent_times_the_rate(stated: str, found: bool) -> None:
    case = load("order_foreign_discount")["whole"]
    case["Order"]["AmountDiscountExclVat"] = Decimal(stated)
    assert orders.is_whole(shapes.decoded(json_bytes(case), shapes.WholeOrder, "SalesOrder")) is found


@pytest.mark.parametrize("part", ["Lines", "Charges"])
def test_an_order_without_one_of_its_parts_is_not_whole(part: str) -> None:
    case = load("order_charges_discount")["whole"]
    assert orders.is_whole(shapes.decoded(json_bytes(case), shapes.WholeOrder, "SalesOrder"))
    case[part].pop()
    assert not orders.is_whole(shapes.decoded(json_bytes(case), shapes.WholeOrder, "SalesOrder"))


def test_prices_under_an_including_code_hold_vat() -> None:
    found = mapped(load("order_gross"))
    assert found.price_mode is PriceMode.INCL
    (sold,) = found.lines
    assert (sold.unit_price_incl, sold.unit_price_excl) == (Decimal("60.5"), None)
    assert (sold.line_excl, sold.line_incl) == (Decimal(100), Decimal(121))


def test_an_amount_that_is_missing_follows_from_the_price_in_its_mode() -> None:
    assert changed("order_gross", "Lines", AmountFC=None).lines[0].line_excl == Decimal(100)


def test_mixed_codes_make_an_order_without_vat_in_its_prices() -> None:
    case = load("order_charges_discount")
    case["whole"]["VatTypes"]["1"] = "I"
    found = mapped(case)
    assert found.price_mode is PriceMode.EXCL
    assert found.lines[1].unit_price_incl == 50


def test_the_buyers_vat_number_comes_from_the_debtor() -> None:
    """Intra-community and reverse charge need it, and no order holds it."""
    found = mapped(load("order_intra_community_trade_in_cancelled"))
    assert (found.customer.vat_number, found.customer.kind) == ("BE0403019261", CustomerKind.COMPANY)
    assert [item.source_code for item in found.vat_breakdown] == ["7"]
    case = load("order_intra_community_trade_in_cancelled")
    del case["whole"]["Customer"]["Account"]["VATNumber"]
    assert mapped(case).customer.vat_number is None, "without it the document is held further on"


@pytest.mark.parametrize("part", ["Lines", "Charges"])
def test_an_unknown_vat_code_stops_the_order_and_is_named(part: str) -> None:
    with pytest.raises(MappingError, match="VATCode '9X' is unknown") as error:
        changed("order_charges_discount", part, VATCode="9X ")
    assert error.value.cause is Cause.UNKNOWN_VALUE


@pytest.mark.parametrize("member", ["Status", "DeliveryStatus", "InvoiceStatus"])
def test_an_unknown_status_is_named(member: str) -> None:
    with pytest.raises(MappingError, match=rf"SalesOrder\.{member} 30") as error:
        changed("order_gross", "Order", **{member: 30})
    assert error.value.cause is Cause.UNKNOWN_VALUE


def test_a_visiting_address_is_no_place_to_deliver_to() -> None:
    assert mapped(load("order_gross")).ship_to is None
    assert mapped(load("order_charges_discount")).ship_to.pii.addresses[0].city == "Gent"


# --- orders: writing -----------------------------------------------------------------------------------------------------------


def parts_of(
    document: canon.SalesOrder, codes: list[Resolved], types: dict[str, str | None] | None = None, **ids: str
) -> list[dict[str, Any]]:
    """Order lines as sent."""
    write = order_write(document, codes, **ids)
    asked = Asked(ids=write.ids, resolved=write.resolved, vat_types=types)
    return order_parts(document, asked)[0]


def nets(lines: list[dict[str, Any]]) -> list[Decimal]:
    return [rounded(item["NetPrice"] * item["Quantity"]) for item in lines]


def test_a_discount_goes_into_the_prices_whatever_the_currency() -> None:
    document = order([line("1", "60.00"), line("2", "30.00", quantity="3")], allowances=discount("10.00"), currency="SEK")
    sent = parts_of(document, [vat("1", "2"), vat("2", "2")])
    assert nets(sent) == [Decimal("53.33"), Decimal("26.67")]
    assert all(set(item) <= {"Item", "Quantity", "NetPrice", "VATCode", "Description"} for item in sent)


def test_each_rate_bears_what_the_sources_totals_say() -> None:
    breakdown = [tax("S", "21", "90.00", "18.90"), tax("R", "9", "100.00", "9.00")]
    document = order(
        [line("1", "100.00"), line("2", "100.00", "9", code="R")], allowances=discount("10.00"), vat_breakdown=breakdown
    )
    assert nets(parts_of(document, [vat("1", "2"), vat("2", "1")])) == [Decimal("90.00"), Decimal("100.00")]


@given(
    st.lists(st.tuples(st.integers(1, 99_999), st.sampled_from(["21", "9", "0"])), min_size=1, max_size=6),
    st.integers(1, 99),
)
def test_whatever_the_lines_the_discount_is_taken_off_once(amounts: list[tuple[int, str]], percent: int) -> None:
    lines = [line(str(n), f"{cents / 100:.2f}", rate, code=rate) for n, (cents, rate) in enumerate(amounts, 1)]
    total = sum(item.line_excl for item in lines)  # type: ignore[misc]
    less = rounded(total * percent / 100)
    if not less:
        return
    document = order(lines, allowances=discount(str(less)))
    sent = parts_of(document, [vat(item.line_id, "2") for item in lines])
    assert sum(nets(sent)) == total - less


def test_goods_bear_the_discount_not_the_shipping() -> None:
    document = order([line("1", "100.00")], charges=shipping("6.50"), allowances=discount("10.00"))
    codes = [vat("1", "2"), vat("charge:0", "2")]
    assert nets(parts_of(document, codes, c0=guid_of(200))) == [Decimal("90.00"), Decimal("6.50")]
    known = msgspec.structs.replace(document, vat_breakdown=[tax("S", "21", "96.50", "20.27")])
    assert nets(parts_of(known, codes, c0=guid_of(200))) == [Decimal("90.00"), Decimal("6.50")]


def test_under_an_including_code_the_discounts_vat_goes_too() -> None:
    """10.00 without VAT is 12.10 of a price that holds 21 %."""
    document = order([line("1", "100.00")], allowances=discount("10.00"))
    codes = [vat("1", "4", price_mode="INCL")]
    assert nets(parts_of(document, codes)) == [Decimal("108.90")]
    known = order([line("1", "100.00")], allowances=discount("10.00"), vat_breakdown=[tax("S", "21", "90.00", "18.90")])
    assert nets(parts_of(known, codes)) == [Decimal("108.90")]


@given(st.lists(st.integers(100, 99_999), min_size=1, max_size=5), st.integers(1, 90))
def test_a_gross_order_keeps_its_total_with_vat(cents: list[int], percent: int) -> None:
    lines = [line(str(n), f"{amount / 100:.2f}") for n, amount in enumerate(cents, 1)]
    total = sum((item.line_excl for item in lines), Decimal(0))  # type: ignore[misc]
    less = rounded(total * percent / 100)
    if not less:
        return
    base = total - less
    goal = tax("S", "21", str(base), str(rounded(base * 21 / 100)))
    document = order(lines, allowances=discount(str(less)), vat_breakdown=[goal])
    sent = parts_of(document, [vat(item.line_id, "4") for item in lines], {"4": "I"})
    assert sum(nets(sent)) == goal.base + goal.amount  # type: ignore[operator]


def test_the_division_itself_says_which_codes_include_vat() -> None:
    document = order([line("1", "100.00")])
    assert nets(parts_of(document, [vat("1", "4")], {"4": "I"})) == [Decimal("121.00")]
    assert nets(parts_of(document, [vat("1", "4", price_mode="INCL")], {"4": "E"})) == [Decimal("100.00")]


def test_a_vat_code_the_division_does_not_have_is_named_and_nothing_sent() -> None:
    with pytest.raises(MappingError, match="VAT code '99' does not exist") as error:
        parts_of(order([line("1", "100.00")]), [vat("1", "99")], {"2": "E"})
    assert error.value.cause is Cause.UNKNOWN_VALUE


def test_a_gross_price_needs_an_amount_with_vat() -> None:
    bare = line("1", "100.00", line_incl=None, taxes=[canon.TaxLine(source_code="S")])
    with pytest.raises(MappingError, match="no amount with VAT"):
        parts_of(order([bare]), [vat("1", "4")], {"4": "I"})


def test_a_discount_on_lines_of_nothing_is_refused() -> None:
    with pytest.raises(MappingError, match="cannot be spread"):
        parts_of(order([line("1", "0.00")], allowances=discount("5.00")), [vat("1", "2")])


def test_lines_without_a_product_are_left_out_and_descriptions_cut() -> None:
    text = canon.Line(line_id="9", line_no=9, line_type=LineType.TEXT, name="with thanks", quantity=Decimal(0))
    document = order([line("1", "100.00", name="x" * 80), text])
    write = order_write(order([document.lines[0]]), [vat("1", "2")])
    lines, _ = order_parts(document, Asked(ids=write.ids, resolved=write.resolved))
    assert [len(item["Description"]) for item in lines] == [60]


def test_a_charge_may_be_an_order_charge_and_then_states_its_amount_without_vat() -> None:
    document = order([line("1", "100.00")], charges=shipping("6.50"))
    write = order_write(document, [vat("1", "4"), vat("charge:0", "4")], c0="ORDER_CHARGE")
    asked = Asked(ids=write.ids, resolved=write.resolved, vat_types={"4": "I"}, charges={"SHIPPING": "VERZEND"})
    lines, charges = order_parts(document, asked)
    assert len(lines) == 1
    assert charges == [{"OrderCharge": "VERZEND", "IsShippingCost": True, "AmountFCExclVAT": Decimal("6.50"), "VATCode": "4"}]
    with pytest.raises(MappingError, match="SHIPPING has no order charge"):
        order_parts(document, msgspec.structs.replace(asked, charges={}))


# --- bad inputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "member", "value"),
    [
        ("customer_person", "Account", "ID", None),
        ("customer_person", "Account", "Name", {"text": "Zoë"}),
        ("order_gross", "Order", "AmountFC", "much"),
        ("order_gross", "Lines", "Quantity", None),
        ("product_gross", "Prices", "Price", "cheap"),
    ],
)
def test_a_value_of_another_type_is_named_without_personal_data(name: str, part: str, member: str, value: Any) -> None:
    with pytest.raises(MappingError) as error:
        changed(name, part, **{member: value})
    assert member in str(error.value)
    assert "Zoë" not in str(error.value)


def test_half_a_json_is_named() -> None:
    with pytest.raises(MappingError, match="not whole JSON"):
        CONNECTOR.to_canonical(RawRecord(entity="customer", id="1", raw=b'{"Account": {"ID'))


def test_marks_are_short_and_follow_from_the_key() -> None:
    assert values.search_mark(KEY) == "BUS0D5C1F6A000050008"
