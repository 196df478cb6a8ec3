"""What QuickBooks says, as canonical facts: golden files, and each rule by itself."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bus.core.errors import MappingError
from bus.runtime.codec import Codec
from connectors.quickbooks.mapping import canonical
from schemas import canon
from schemas.canon import CustomerKind, DocumentStatus, InvoiceType, LineType, PaymentStatus, PriceMode, ProductKind
from schemas.system import Cause
from tests.connectors.quickbooks_company import as_json

GOLDEN = Path(__file__).parents[1] / "golden" / "quickbooks"
CASES = sorted(path.name.removesuffix(".vendor.json") for path in GOLDEN.glob("*.vendor.json"))


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.vendor.json").read_text(), parse_float=Decimal)
    return found


def dumped(value: Any) -> bytes:
    from bus.kit.client import json_bytes

    return json_bytes(value)


def mapped(case: dict[str, Any], **changes: Any) -> Any:
    joined = {key: dumped(value) for key, value in case["joined"].items()}
    return canonical(case["entity"], case["id"], dumped(case["object"] | changes), joined, "9130")


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{name}.canonical.json", as_json(mapped(load(name))))


@pytest.mark.parametrize("name", CASES)
def test_every_golden_entity_can_be_published(name: str) -> None:
    case = load(name)
    entity = mapped(case)
    topic = f"bus.canon.{case['entity'].replace('_', '-')}"
    event = {
        "customer": canon.CustomerEvent,
        "product": canon.ProductEvent,
        "product_category": canon.ProductCategoryEvent,
        "sales_invoice": canon.SalesInvoiceEvent,
    }[case["entity"]]
    from datetime import UTC, datetime

    from bus.runtime.privacy import MasterKey, Privacy

    meta = canon.EventMeta(
        event_id="e",
        seq=1,
        tenant="acme",
        system="quickbooks",
        connection="qbo",
        entity=case["entity"],
        source_id=case["id"],
        observed_at=datetime(2026, 11, 19, tzinfo=UTC),
        content_hash="x",
    )

    async def sealed() -> Any:
        whole, _ = await Privacy(MasterKey(bytes(32))).seal(entity, "acme", "qbo")
        return whole

    import asyncio

    codec = Codec.offline()
    after = codec.decode(topic, codec.encode(topic, event(meta=meta, after=asyncio.run(sealed())))).after
    plain = {name: getattr(entity, name) for name in entity.__struct_fields__}
    for name, value in plain.items():
        if isinstance(value, list | str | Decimal) and name not in ("contacts", "email_index", "subject"):
            assert getattr(after, name) == value, f"{name} changed on its way: it was not at the schema's scale"


# --- customers ---------------------------------------------------------------------------------------------------------------


def test_a_company_name_makes_a_company_and_its_person_a_contact() -> None:
    customer = mapped(load("customer_company"))
    assert customer.kind is CustomerKind.COMPANY
    assert customer.pii.full_name is None
    assert customer.contacts[0].pii.full_name == "Ines Calder"


def test_a_person_is_known_by_name_parts_only_inside_pii() -> None:
    customer = mapped(load("customer_person"))
    assert (customer.kind, customer.display_name) == (CustomerKind.PERSON, None)
    assert customer.pii.full_name == "Zoë de Vries"


def test_a_customer_with_a_display_name_only_is_of_unknown_kind() -> None:
    customer = mapped(load("customer_person"), GivenName=None, MiddleName=None, FamilyName=None, DisplayName="counter")
    assert (customer.kind, customer.display_name, customer.pii.full_name) == (CustomerKind.UNKNOWN, None, "counter")


@pytest.mark.parametrize("masked", ["XXXXXX1234", "XXXXXXX6789", "******6789"])
def test_a_masked_vat_number_is_absent(masked: str) -> None:
    assert mapped(load("customer_company"), PrimaryTaxIdentifier=masked).vat_number is None


def test_a_plain_vat_number_is_compact() -> None:
    assert mapped(load("customer_company"), PrimaryTaxIdentifier="nl 8012.34.567 B01").vat_number == "NL801234567B01"


def test_countries_become_two_letters_and_unknown_ones_stop_the_record() -> None:
    assert mapped(load("customer_company")).country_code == "NL"
    with pytest.raises(MappingError, match=r"BillAddr\.Country: 'Atlantis'") as error:
        mapped(load("customer_company"), BillAddr={"Country": "Atlantis"})
    assert error.value.cause is Cause.UNKNOWN_VALUE


def test_the_mark_of_inactive_objects_is_no_part_of_the_name() -> None:
    customer = mapped(load("customer_project_inactive"))
    assert (customer.display_name, customer.active, customer.is_project) == ("Shelving 2026", False, True)
    assert mapped(load("customer_project_inactive"), Active=True).display_name == "Shelving 2026 (deleted)"


def test_a_comma_list_of_addresses_is_several() -> None:
    assert [point.value for point in mapped(load("customer_company")).pii.emails] == [
        "ap@harbourbooks.example",
        "ines@harbourbooks.example",
    ]


def test_customer_and_document_name_the_same_subject() -> None:
    assert mapped(load("customer_company")).subject == mapped(load("invoice_paid")).customer.subject


# --- products ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Inventory", ProductKind.SIMPLE),
        ("NonInventory", ProductKind.VIRTUAL),
        ("Service", ProductKind.SERVICE),
        ("Group", ProductKind.BUNDLE),
    ],
)
def test_types_of_items(kind: str, expected: ProductKind) -> None:
    assert mapped(load("product_inventory"), Type=kind).kind is expected


def test_a_price_says_whether_it_holds_vat() -> None:
    assert mapped(load("product_inventory")).prices[0].price_mode is PriceMode.EXCL
    assert mapped(load("product_service_inactive")).prices[0].price_mode is PriceMode.INCL


def test_a_parent_that_is_no_category_is_none() -> None:
    case = load("product_inventory")
    assert [ref.code for ref in mapped(case).categories] == ["Stationery"]
    case["joined"]["Item:40"]["Type"] = "Service"
    assert mapped(case).categories == []


# --- documents ---------------------------------------------------------------------------------------------------------------


def test_types_numbers_and_references_of_documents() -> None:
    types = {name: mapped(load(name)).type for name in CASES if load(name)["entity"] == "sales_invoice"}
    assert types["invoice_paid"] is InvoiceType.INVOICE
    assert types["receipt_gross_foreign"] is InvoiceType.RECEIPT
    assert {types["credit_memo"], types["refund_receipt"]} == {InvoiceType.CREDIT_NOTE}
    assert mapped(load("invoice_paid")).external_ref == "QBO:9130:Invoice:238"


def test_an_invoice_is_paid_when_payments_cover_it() -> None:
    assert mapped(load("invoice_paid")).payment_status is PaymentStatus.PAID


def test_a_deposit_that_covers_the_total_pays() -> None:
    assert mapped(load("invoice_paid"), LinkedTxn=[], Deposit=Decimal("141.17")).payment_status is PaymentStatus.PAID
    assert mapped(load("invoice_bundle_project")).payment_status is PaymentStatus.PARTIAL


def test_balance_zero_by_a_credit_is_not_paid() -> None:
    case = load("invoice_paid")
    credit = [{"TxnId": "77", "TxnType": "CreditMemo"}]
    case["joined"]["Payment:241"] |= {
        "TotalAmt": 0,
        "Line": [*case["joined"]["Payment:241"]["Line"], {"Amount": Decimal("141.17"), "LinkedTxn": credit}],
    }
    found = mapped(case)
    assert (found.payment_status, found.status) == (PaymentStatus.UNPAID, DocumentStatus.COMPLETED)
    assert found.payments == []


def test_a_payment_of_several_invoices_pays_each_its_part() -> None:
    case = load("invoice_paid")
    other = {"Amount": Decimal("50.00"), "LinkedTxn": [{"TxnId": "999", "TxnType": "Invoice"}]}
    case["joined"]["Payment:241"] |= {"TotalAmt": Decimal("191.17"), "Line": [*case["joined"]["Payment:241"]["Line"], other]}
    assert mapped(case).payments[0].amount == Decimal("141.17")


def test_a_payment_that_is_gone_pays_nothing() -> None:
    case = load("invoice_paid")
    del case["joined"]["Payment:241"]
    assert mapped(case).payment_status is PaymentStatus.UNPAID


def test_a_full_discount_is_not_paid() -> None:
    discount = {
        "Amount": Decimal("24.95"),
        "DetailType": "DiscountLineDetail",
        "DiscountLineDetail": {"PercentBased": True, "DiscountPercent": 100},
    }
    line = load("credit_memo")["object"]["Line"][0]
    found = mapped(load("invoice_paid"), Line=[line, discount], TotalAmt=0, TxnTaxDetail={}, LinkedTxn=[])
    assert (found.payment_status, found.status) == (PaymentStatus.UNPAID, DocumentStatus.COMPLETED)


def test_void_is_cancelled_and_never_paid() -> None:
    found = mapped(load("invoice_voided"))
    assert (found.status, found.payment_status) == (DocumentStatus.CANCELLED, PaymentStatus.UNPAID)
    receipt = mapped(
        load("receipt_gross_foreign") | {"joined": load("invoice_paid")["joined"]}, **load("invoice_voided")["object"]
    )
    assert (receipt.status, receipt.payment_status) == (DocumentStatus.CANCELLED, PaymentStatus.UNPAID)


def test_shipping_is_a_charge_discount_an_allowance_and_subtotals_are_nothing() -> None:
    found = mapped(load("invoice_paid"))
    assert [(charge.type, charge.amount) for charge in found.charges] == [("SHIPPING", Decimal("6.5"))]
    assert [allowance.amount for allowance in found.allowances] == [Decimal(10)]
    assert [line.line_type for line in found.lines] == [LineType.ITEM, LineType.TEXT, LineType.ITEM]
    assert found.totals.lines - found.totals.allowances + found.totals.charges == found.totals.excl


def test_a_bundle_is_a_heading_and_its_parts() -> None:
    heading, *parts = mapped(load("invoice_bundle_project")).lines
    assert (heading.line_type, heading.line_excl, heading.sku) == (LineType.TEXT, None, "SET-1")
    assert [part.parent_line_id for part in parts] == ["1", "1", None, None]


def test_taxes_name_the_code_and_its_rate_but_no_category() -> None:
    taxes = [tax for line in mapped(load("invoice_bundle_project")).lines for tax in line.taxes]
    assert [(tax.source_code, tax.rate_pct) for tax in taxes] == [
        ("NL 21% S", 21),
        ("NL 21% S", 21),
        ("EU goods", 0),
        ("NL RC", 0),
    ]
    assert {tax.category for tax in taxes} == {canon.TaxCategory.UNKNOWN}


def test_the_rate_of_the_documents_day_counts() -> None:
    found = mapped(load("credit_memo"), TxnDate="2012-09-30")
    assert found.lines[0].taxes[0].rate_pct == 19


def test_the_breakdown_names_a_code_only_where_one_can_be_meant() -> None:
    case = load("invoice_paid")
    assert [tax.source_code for tax in mapped(case).vat_breakdown] == ["NL 21% S", "NL 9% S"]
    case["joined"]["TaxCode:4"]["SalesTaxRateList"] = case["joined"]["TaxCode:3"]["SalesTaxRateList"]
    assert [tax.source_code for tax in mapped(case).vat_breakdown] == [None, None]


def test_amounts_are_net_even_when_entered_gross() -> None:
    found = mapped(load("receipt_gross_foreign"))
    assert found.price_mode is PriceMode.INCL
    assert (found.lines[0].line_excl, found.lines[0].line_incl) == (Decimal("20.62"), Decimal("24.95"))
    assert found.fx.rate == Decimal("0.08812")


def test_the_debtor_of_a_projects_document_is_the_customer_above_it() -> None:
    assert mapped(load("invoice_bundle_project")).customer.customer.id == "61"


def test_a_receipt_without_a_customer_has_none() -> None:
    case = load("receipt_gross_foreign")
    del case["object"]["CustomerRef"]
    assert mapped(case).customer is None


@pytest.mark.parametrize(("discount", "net"), [({"DiscountAmt": 5}, "69.85"), ({"DiscountRate": 10}, "67.36")])
def test_a_lines_own_discount(discount: dict[str, Any], net: str) -> None:
    line = load("invoice_paid")["object"]["Line"][0]
    line["SalesItemLineDetail"] |= discount
    found = mapped(load("invoice_paid"), Line=[line], TotalAmt=Decimal(net), TxnTaxDetail={}, LinkedTxn=[])
    assert found.lines[0].line_excl == Decimal(net)
    assert found.lines[0].line_excl + found.lines[0].allowances[0].amount == Decimal("74.85")


# --- bad inputs --------------------------------------------------------------------------------------------------------------


def refused(name: str, cause: Cause = Cause.MAPPING_ERROR, **changes: Any) -> str:
    with pytest.raises(MappingError) as error:
        mapped(load(name), **changes)
    assert error.value.cause is cause
    return str(error.value)


def test_an_unknown_enum_value_is_spelt_out() -> None:
    assert "'Rental'" in refused("product_inventory", Cause.UNKNOWN_VALUE, Type="Rental")
    assert "'TaxMaybe'" in refused("invoice_paid", Cause.UNKNOWN_VALUE, GlobalTaxCalculation="TaxMaybe")
    line = {"DetailType": "RoyaltyLineDetail", "Amount": 1}
    assert "Line[0].DetailType: 'RoyaltyLineDetail'" in refused("invoice_paid", Cause.UNKNOWN_VALUE, Line=[line])


def test_a_null_key_is_named() -> None:
    assert "$.Id" in refused("customer_company", Id=None)


def test_a_float_where_money_should_be_is_refused() -> None:
    assert "more than 4 decimals" in refused("credit_memo", TotalAmt=Decimal("30.190000000000001"))


def test_money_that_is_no_number_is_refused() -> None:
    assert "$.TotalAmt" in refused("credit_memo", TotalAmt="thirty")


def test_a_time_without_zone_is_refused() -> None:
    assert "$.MetaData.LastUpdatedTime" in refused("invoice_paid", MetaData={"LastUpdatedTime": "2026-11-19T00:41:12"})


def test_a_day_that_is_none_is_refused() -> None:
    assert "$.TxnDate" in refused("invoice_paid", TxnDate="19-11-2026")


def test_a_document_that_contradicts_itself_is_held_back() -> None:
    assert "TotalAmt" in refused("credit_memo", Cause.SOURCE_INCONSISTENT, TotalAmt=Decimal("31.19"))


def test_an_unresolved_reference_stops_the_mapping() -> None:
    case = load("credit_memo")
    del case["joined"]["Item:44"]
    with pytest.raises(MappingError) as error:
        mapped(case)
    assert error.value.cause is Cause.UNRESOLVED_REFERENCE


def test_no_message_holds_personal_data() -> None:
    text = refused("customer_person", PrimaryEmailAddr={"Address": 5}, DisplayName="Zoë de Vries")
    assert "Zoë" not in text
