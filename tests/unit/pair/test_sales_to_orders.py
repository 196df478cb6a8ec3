"""QuickBooks sales become Exact orders: which, whose, of what, for how much."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bus.simulation.faults import Fault
from connectors.quickbooks.simulation import screens
from schemas.system import Cause, Outcome, Standing
from tests.unit.pair.rig import ORDERS, Pair, changed, only_orders

Ref = dict[str, str]
Make = Callable[..., Pair]
MISSING = "  missing: create\n  found: link\n  default: {code"
EMAIL = "inkoop@vandijk.test"


async def sold(pair: Pair, buyer: Ref, *lines: dict[str, Any], **fields: Any) -> str:
    """A paid invoice, taken through the pair."""
    invoice = pair.sell(*lines, CustomerRef=buyer, **fields)
    pair.pay(invoice)
    await pair.run()
    return invoice


def orders(pair: Pair) -> list[dict[str, Any]]:
    return [row for row in pair.exact.books() if (row["reference"] or "").startswith("QBO-")]


# --- which documents ---


async def test_a_paid_invoice_becomes_one_order(pair: Pair, buyer: Ref) -> None:
    invoice = await sold(pair, buyer)
    (order,) = orders(pair)
    assert (order["total_incl"], order["vat_by_rate"], order["currency"]) == ("121.00", {"21.00": "21.00"}, "EUR")
    assert order["lines"] == [{"sku": "LAMP-1", "quantity": "1", "net": "100.00", "vat_code": "2"}]
    assert pair.standing(ORDERS, invoice).outcome is Outcome.CREATED
    writes = [*pair.exact.writes(), *pair.qbo.writes()]
    await pair.run()
    assert [*pair.exact.writes(), *pair.qbo.writes()] == writes, "a second look writes nothing"


@pytest.mark.parametrize("fate", ["unpaid", "half paid", "credited", "voided", "fully discounted"])
async def test_what_money_did_not_pay_is_filtered(pair: Pair, buyer: Ref, fate: str) -> None:
    company = pair.qbo.simulator.company
    lines = [pair.qbo_line()]
    if fate == "fully discounted":
        lines.append({"DetailType": "DiscountLineDetail", "Amount": 100, "DiscountLineDetail": {"PercentBased": False}})
    invoice = pair.sell(*lines, CustomerRef=buyer)
    if fate == "half paid":
        pair.pay(invoice, 60)
    if fate == "credited":
        pair.sell(CustomerRef=buyer, entity="CreditMemo")
        memo = next(iter(company.tables["CreditMemo"].values()))
        links = [
            {"Amount": 121, "LinkedTxn": [{"TxnId": invoice.partition(":")[2], "TxnType": "Invoice"}]},
            {"Amount": 121, "LinkedTxn": [{"TxnId": memo["Id"], "TxnType": "CreditMemo"}]},
        ]
        screens.edit(company, "Payment", "new", {"CustomerRef": buyer, "TotalAmt": 0, "Line": links})
    if fate == "voided":
        pair.qbo_edit("Invoice", invoice, void=True)
    row = company.row("Invoice", invoice.partition(":")[2])
    assert (row["Balance"] == 0) == (fate in ("credited", "voided", "fully discounted")), "a balance of nothing proves nothing"
    await pair.run()
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.detail) == (Standing.FILTERED, "when")
    assert orders(pair) == []


async def test_a_deposit_and_a_payment_together_pay(pair: Pair, buyer: Ref) -> None:
    invoice = pair.sell(CustomerRef=buyer, Deposit=Decimal(21))
    await pair.run()
    assert pair.standing(ORDERS, invoice).standing is Standing.FILTERED
    pair.pay(invoice, 100)
    await pair.run()
    assert pair.standing(ORDERS, invoice).outcome is Outcome.CREATED


@pytest.mark.parametrize("types", [", types: [INVOICE, RECEIPT]", ""])
@pytest.mark.parametrize("entity", ["CreditMemo", "RefundReceipt"])
async def test_a_credit_never_becomes_an_order(make: Make, entity: str, types: str) -> None:
    """Whatever the flow says of types, and of payments."""
    when = "when: source.payment_status == 'PAID' and source.status != 'CANCELLED'\n"
    pair = make(changed((", types: [INVOICE, RECEIPT]", types), (when, "")))
    more = {"DepositToAccountRef": pair.qbo_ref("Account", "1105 PSP clearing")} if entity == "RefundReceipt" else {}
    credit = pair.sell(entity=entity, CustomerRef=pair.qbo_customer("A B.V.", email=EMAIL), **more)
    await pair.run()
    standing = pair.standing(ORDERS, credit)
    assert (standing.standing, standing.detail) == (Standing.FILTERED, "type")
    assert orders(pair) == []


async def test_a_receipt_is_paid_by_being_one(pair: Pair, buyer: Ref) -> None:
    receipt = pair.sell(entity="SalesReceipt", CustomerRef=buyer)
    await pair.run()
    (order,) = orders(pair)
    assert order["reference"] == f"QBO-R{receipt}"
    assert pair.standing(ORDERS, receipt).outcome is Outcome.CREATED


async def test_a_document_from_before_the_start_is_never_sent(pair: Pair, buyer: Ref) -> None:
    old = await sold(pair, buyer, TxnDate="2025-12-31")
    standing = pair.standing(ORDERS, old)
    assert (standing.standing, standing.detail) == (Standing.FILTERED, "start")


async def test_a_reference_to_nothing_stops_its_document_only(pair: Pair, buyer: Ref) -> None:
    company = pair.qbo.simulator.company
    bad, good = pair.sell(CustomerRef=buyer), pair.sell(CustomerRef=buyer)
    company.row("Invoice", bad.partition(":")[2])["Line"][0]["SalesItemLineDetail"]["ItemRef"] = {"value": "4711", "name": "Lamp"}
    pair.pay(bad)
    pair.pay(good)
    await pair.run()
    (letter,) = pair.letters()
    assert (letter.source.id, letter.cause) == (bad, Cause.UNRESOLVED_REFERENCE)
    assert "Item:4711" in letter.detail
    assert {event.meta.source_id for event in pair.events("sales_invoice", "qbo-nl")} == {good}
    assert [order["reference"] for order in orders(pair)] == [f"QBO-I{good}"]


# --- VAT ---


async def test_an_unknown_tax_code_stops_the_document_and_is_spelt_out(make: Make) -> None:
    pair = make(changed(('  - {tax_code: NL 9% S, category: S, country: NL, rate_pct: "9"}\n', "")))
    invoice = await sold(pair, pair.qbo_customer("A B.V."), pair.qbo_line(tax="NL 9% S"))
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.MISSING_TABLE_ROW)
    assert "qbo-tax has no row for tax_code=NL 9% S" in standing.detail
    assert orders(pair) == []


@pytest.mark.parametrize(
    ("code", "meaning", "vat_code"),
    [
        ("NL 21% S", None, "2"),
        ("NL 9% S", None, "1"),
        ("NL 0% Z", None, "0"),
        ("OSS DE", None, "D19"),
        ("NL 0% Z", "category: G, country: NL", "6"),
        ("NL 0% Z", "category: AE, country: NL", "8"),
        ("EU goods", None, "7"),
    ],
)
async def test_the_source_table_decides_what_nought_per_cent_means(
    make: Make, code: str, meaning: str | None, vat_code: str
) -> None:
    rows = (
        '  - {category: G, country: "*", rate_pct: "0", scheme: "*", price_mode: "*", value: "6"}\n'
        '  - {category: AE, country: "*", rate_pct: "0", scheme: "*", price_mode: "*", value: "8"}\n'
    )
    anchor = '  - {category: S, country: DE, rate_pct: "19", scheme: OSS_UNION, price_mode: EXCL, value: D19}\n'
    changes = [(anchor, rows + anchor)]
    if meaning:
        changes.append(("tax_code: NL 0% Z, category: Z, country: NL", f"tax_code: NL 0% Z, {meaning}"))
    pair = make(changed(*changes))
    buyer = pair.qbo_customer("Leuven Licht NV", email="a@leuven.test")
    pair.exact_account(
        "Leuven Licht NV", Email="a@leuven.test", VATNumber="BE0400000123", Classification1=pair.classification("COMPANY")
    )
    await sold(pair, buyer, pair.qbo_line(tax=code))
    (order,) = orders(pair)
    assert [line["vat_code"] for line in order["lines"]] == [vat_code]


@pytest.mark.parametrize(("number", "is_held"), [("BE0400000123", False), (None, True)])
async def test_an_intra_community_sale_needs_the_buyers_number(pair: Pair, number: str | None, is_held: bool) -> None:
    """QuickBooks masks it, so it is the Exact debtor's."""
    buyer = pair.qbo_customer("Leuven Licht NV", email="a@leuven.test", PrimaryTaxIdentifier="BE0400000123")
    own = {"VATNumber": number} if number else {}
    pair.exact_account("Leuven Licht NV", Email="a@leuven.test", Classification1=pair.classification("COMPANY"), **own)
    invoice = await sold(pair, buyer, pair.qbo_line(tax="EU goods"))
    assert (orders(pair) == []) is is_held
    assert (pair.standing(ORDERS, invoice).standing is Standing.WRITTEN) is not is_held


# --- whose ---


async def test_a_missing_customer_is_made_with_the_order(pair: Pair, buyer: Ref) -> None:
    await sold(pair, buyer)
    (order,) = orders(pair)
    (made,) = [row for row in pair.exact.books("customers") if row["name"] == "Van Dijk Verlichting B.V."]
    assert order["customer_id"] == made["id"]
    assert (made["email"], made["kind"], made["is_customer"]) == (EMAIL, "COMPANY", True)
    writes = [call.rpartition("/")[2] for call in pair.exact.writes()]
    assert writes.index("Accounts") < writes.index("SalesOrders"), "the debtor is the first step of the order's write"


async def test_two_orders_of_one_new_customer_make_one_debtor(pair: Pair, buyer: Ref) -> None:
    for _ in range(2):
        pair.pay(pair.sell(CustomerRef=buyer))
    await pair.run()
    assert len({order["customer_id"] for order in orders(pair)}) == 1
    assert len([row for row in pair.exact.books("customers") if row["email"] == EMAIL]) == 1


async def test_park_waits_for_the_customer_and_names_it_then_goes_on(make: Make) -> None:
    pair = make(only_orders((MISSING, MISSING.replace("create", "park"))))
    invoice = await sold(pair, pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    standing = pair.standing(ORDERS, invoice)
    assert standing.standing is Standing.WAITING
    assert any(key.startswith("customer|email") for key in standing.missing)
    assert orders(pair) == []
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.run()
    assert [order["customer_id"] for order in orders(pair)] == [account]


async def test_default_takes_the_default_debtor_for_an_unknown_customer(make: Make) -> None:
    pair = make(only_orders((MISSING, MISSING.replace("create", "default"))))
    known = pair.exact_account("Bekend B.V.", Email="b@bekend.test", Classification1=pair.classification("COMPANY"))
    await sold(pair, pair.qbo_customer("Bekend B.V.", email="b@bekend.test"))
    await sold(pair, pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    debtors = {row["id"]: row["number"] for row in pair.exact.books("customers")}
    assert [order["customer_id"] == known for order in orders(pair)] == [True, False]
    assert debtors[orders(pair)[1]["customer_id"]] == "900001"
    assert len(debtors) == 2, "no debtor is made"


async def test_a_receipt_without_a_customer_goes_to_the_default_debtor(pair: Pair) -> None:
    pair.sell(entity="SalesReceipt")
    await pair.run()
    (order,) = orders(pair)
    assert {row["id"]: row["number"] for row in pair.exact.books("customers")}[order["customer_id"]] == "900001"


async def test_a_receipt_without_a_customer_and_without_a_default_waits_and_says_so(make: Make) -> None:
    pair = make(changed(('  default: {code: "900001"} # for receipts without a customer\n', "")))
    receipt = pair.sell(entity="SalesReceipt")
    await pair.run()
    standing = pair.standing(ORDERS, receipt)
    assert standing.standing is Standing.WAITING
    assert "names no customer" in standing.detail
    assert orders(pair) == []


async def test_a_default_debtor_must_exist_and_is_found_under_its_padded_code(make: Make) -> None:
    pair = make(changed(('default: {code: "900001"}', 'default: {code: "4711"}')))
    receipt = pair.sell(entity="SalesReceipt")
    await pair.run()
    standing = pair.standing(ORDERS, receipt)
    assert standing.standing is Standing.WAITING
    assert "default debtor 4711 does not exist" in standing.detail
    pair.exact_account("Kassa", Code="4711")
    pair.clock.advance(86_400)
    await pair.run()
    (order,) = orders(pair)
    assert {row["id"]: row["name"] for row in pair.exact.books("customers")}[order["customer_id"]] == "Kassa"


@pytest.mark.parametrize("is_company", [True, False])
async def test_one_address_of_a_company_and_a_person_names_two_debtors(pair: Pair, is_company: bool) -> None:
    company = pair.exact_account("Jan de Boer", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    person = pair.exact_account("Jan de Boer", Email=EMAIL, Classification1=pair.classification("PERSON"))
    await sold(pair, pair.qbo_customer("Jan de Boer", email=EMAIL, company=is_company))
    assert [order["customer_id"] for order in orders(pair)] == [company if is_company else person]


@pytest.mark.parametrize(("there", "is_company"), [("PERSON", True), ("COMPANY", False)])
async def test_a_debtor_of_the_other_kind_is_not_meant(pair: Pair, there: str, is_company: bool) -> None:
    account = pair.exact_account("Jan de Boer", Email=EMAIL, Classification1=pair.classification(there))
    await sold(pair, pair.qbo_customer("Jan de Boer", email=EMAIL, company=is_company))
    (order,) = orders(pair)
    assert order["customer_id"] != account
    kinds = {row["id"]: row["kind"] for row in pair.exact.books("customers")}
    assert (kinds[account], kinds[order["customer_id"]]) == (there, "COMPANY" if is_company else "PERSON")


async def test_an_unknown_kind_is_taken_by_its_address_when_one_debtor_answers(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email=EMAIL)
    await sold(pair, buyer)
    assert [order["customer_id"] for order in orders(pair)] == [account]


async def test_an_unknown_kind_beside_another_holder_is_for_a_person_to_decide(pair: Pair, buyer: Ref) -> None:
    pair.exact_account("Van Dijk", Email=EMAIL)
    pair.exact_account("Van Dijk privé", Email=EMAIL, Classification1=pair.classification("PERSON"))
    invoice = await sold(pair, buyer)
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert orders(pair) == []


async def test_a_debtor_is_found_by_a_contacts_address(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email="info@vandijk.test", Classification1=pair.classification("COMPANY"))
    pair.exact_row("crm/Contacts", Account=account, FirstName="Anna", LastName="Bos", Email=EMAIL)
    await sold(pair, buyer)
    assert [order["customer_id"] for order in orders(pair)] == [account]


async def test_a_contact_newer_than_our_records_is_found_at_the_vendor(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email="info@vandijk.test", Classification1=pair.classification("COMPANY"))
    await pair.run()
    pair.exact_row("crm/Contacts", Account=account, FirstName="Anna", LastName="Bos", Email=EMAIL)
    pair.pay(pair.sell(CustomerRef=buyer))
    pair.clock.advance(61)
    await pair.poll(pair.qbo)
    pair.process()
    await pair.sink(pair.exact)
    assert [order["customer_id"] for order in orders(pair)] == [account]


async def test_a_projects_document_is_the_customers_and_a_project_is_no_debtor(pair: Pair, buyer: Ref) -> None:
    project = pair.qbo_customer("Verbouwing hal", Job=True, ParentRef=buyer, BillWithParent=True)
    await sold(pair, project)
    (order,) = orders(pair)
    assert order["customer"] == "Van Dijk Verlichting B.V."
    pair.qbo_edit("Customer", project["value"], Notes="edited")
    await pair.run()
    standing = pair.standing("customers-qbo-to-exact", project["value"])
    assert (standing.standing, standing.detail) == (Standing.FILTERED, "when")
    assert "Verbouwing hal" not in {row["name"] for row in pair.exact.books("customers")}


# --- exists already ---


def own_order(pair: Pair, invoice: str, account: str, price: str = "100") -> str:
    lines = {"Item": pair.exact.simulator.division.first("logistics/Items", "Code", "LAMP-1").id, "Quantity": 1, "VATCode": "2"}
    return pair.exact_order(account, {**lines, "NetPrice": Decimal(price)}, YourRef=f"QBO-I{invoice}")


async def test_an_order_with_reference_debtor_and_total_is_skipped_and_linked(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    invoice = pair.sell(CustomerRef=buyer)
    order = own_order(pair, invoice, account)
    pair.pay(invoice)
    await pair.run()
    standing = pair.standing(ORDERS, invoice)
    assert (standing.outcome, standing.external_id) == (Outcome.SKIPPED, order)
    assert len(orders(pair)) == 1


async def test_a_document_that_was_only_linked_is_no_source_back(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    invoice = pair.sell(CustomerRef=buyer)
    order = own_order(pair, invoice, account)
    pair.pay(invoice)
    await pair.run()
    sales = len(pair.qbo.books())
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    assert len(pair.qbo.books()) == sales


@pytest.mark.parametrize("price", ["100.02", "100.50", "99.60", "50"])
async def test_another_total_is_a_conflict(pair: Pair, buyer: Ref, price: str) -> None:
    account = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    invoice = pair.sell(CustomerRef=buyer)
    own_order(pair, invoice, account, price)
    pair.pay(invoice)
    await pair.run()
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert len(orders(pair)) == 1


async def test_another_debtor_is_a_conflict(pair: Pair, buyer: Ref) -> None:
    pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    stranger = pair.exact_account("Bakker", Email="b@bakker.test")
    invoice = pair.sell(CustomerRef=buyer)
    own_order(pair, invoice, stranger)
    pair.pay(invoice)
    await pair.run()
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert len(orders(pair)) == 1


async def test_a_buyers_own_number_in_the_reference_field_means_nothing(pair: Pair, buyer: Ref) -> None:
    account = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    invoice = pair.sell(CustomerRef=buyer)
    lamp = pair.exact.simulator.division.first("logistics/Items", "Code", "LAMP-1").id
    pair.exact_order(account, {"Item": lamp, "Quantity": 1, "NetPrice": 100, "VATCode": "2"}, YourRef=invoice)
    pair.pay(invoice)
    await pair.run()
    assert len(pair.exact.books()) == 2, "without the flow's prefix it is the buyer's word, and the order is made"


# --- of what ---


async def test_missing_products_park_the_order_and_are_all_named(make: Make) -> None:
    pair = make(only_orders())
    buyer = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    lines = [pair.qbo_line(pair.qbo_item(sku, f"Item {sku}"), 10) for sku in ("ZZ-2", "AA-1")]
    invoice = await sold(pair, buyer, pair.qbo_line(), *lines)
    standing = pair.standing(ORDERS, invoice)
    assert standing.standing is Standing.WAITING
    assert standing.detail == "no product at the target for SKU AA-1, ZZ-2"
    assert orders(pair) == []
    pair.exact_item("AA-1", "Item AA-1")
    await pair.run()
    assert pair.standing(ORDERS, invoice).detail.endswith("SKU ZZ-2")
    pair.exact_item("ZZ-2", "Item ZZ-2")
    await pair.run()
    (order,) = orders(pair)
    assert [line["sku"] for line in order["lines"]] == ["LAMP-1", "ZZ-2", "AA-1"]


async def test_patience_ends_in_a_dead_letter_that_names_what_is_missing(make: Make) -> None:
    pair = make(only_orders())
    invoice = await sold(pair, pair.qbo_customer("A B.V.", email=EMAIL), pair.qbo_line(pair.qbo_item("ZZ-2", "Z"), 10))
    pair.clock.advance(3 * 86_400 + 4_000)
    await pair.run()
    assert pair.standing(ORDERS, invoice).standing is Standing.DEAD
    assert [letter.cause for letter in pair.letters()] == [Cause.MISSING_DEPENDENCY]
    assert "ZZ-2" in pair.letters()[0].detail


async def test_a_line_without_a_product_takes_the_flows_stand_in(pair: Pair, buyer: Ref) -> None:
    service = pair.qbo_item(None, "Without a number")
    await sold(pair, buyer, pair.qbo_line(), pair.qbo_line(service, 20))
    assert [line["sku"] for line in orders(pair)[0]["lines"]] == ["LAMP-1", "DIVERS"]


async def test_a_line_without_a_product_and_without_a_stand_in_stops(make: Make) -> None:
    product = "product: {match: [sku], missing: park, patience: 3d, line_without_product: DIVERS, shipping: VERZEND}"
    text = changed()
    pair = make(text.replace(product, "product: {match: [sku], missing: park, patience: 3d}"))
    buyer = pair.qbo_customer("A B.V.", email=EMAIL)
    bare = pair.sell(pair.qbo_line(pair.qbo_item(None, "Without a number"), 20), CustomerRef=buyer)
    shipped = pair.sell(pair.qbo_line(), pair.qbo_line({"value": "SHIPPING_ITEM_ID"}, 7), CustomerRef=buyer)
    pair.pay(bare)
    pair.pay(shipped)
    await pair.run()
    for document, word in ((bare, "line_without_product"), (shipped, "product.shipping")):
        standing = pair.standing(ORDERS, document)
        assert standing.standing is Standing.DEAD
        (letter,) = [letter for letter in pair.letters() if letter.source.id == document]
        assert word in letter.hint
    assert orders(pair) == []


async def test_shipping_takes_its_own_item_and_its_own_vat(pair: Pair, buyer: Ref) -> None:
    await sold(pair, buyer, pair.qbo_line(tax="NL 9% S"), pair.qbo_line({"value": "SHIPPING_ITEM_ID"}, 7))
    (order,) = orders(pair)
    assert [(line["sku"], line["net"], line["vat_code"]) for line in order["lines"]] == [
        ("LAMP-1", "100.00", "1"),
        ("VERZEND", "7.00", "2"),
    ]


async def test_a_description_carries_no_money_and_becomes_no_line(pair: Pair, buyer: Ref) -> None:
    text = {"DetailType": "DescriptionOnly", "Description": "With our thanks", "DescriptionLineDetail": {}}
    invoice = await sold(pair, buyer, pair.qbo_line(), text)
    (order,) = orders(pair)
    assert len(order["lines"]) == 1
    assert pair.standing(ORDERS, invoice).outcome is Outcome.CREATED


async def test_a_bundle_becomes_its_parts(pair: Pair, buyer: Ref) -> None:
    bulb = pair.qbo_item("BULB-1", "Bulb")
    pair.exact_item("BULB-1", "Bulb")
    parts = [{"ItemRef": ref, "Qty": 1} for ref in (pair.qbo_ref("Item", "Lamp"), bulb)]
    company = pair.qbo.simulator.company
    body = {"Name": "Set", "Sku": "SET-1", "Type": "Group", "ItemGroupDetail": {"ItemGroupLine": parts}}
    bundle = {"value": screens.edit(company, "Item", "new", body)}
    line = {
        "DetailType": "GroupLineDetail",
        "GroupLineDetail": {
            "GroupItemRef": bundle,
            "Quantity": 1,
            "Line": [pair.qbo_line(amount=60), pair.qbo_line(bulb, 40)],
        },
    }
    await sold(pair, buyer, line)
    (order,) = orders(pair)
    assert [(row["sku"], row["net"]) for row in order["lines"]] == [("LAMP-1", "60.00"), ("BULB-1", "40.00")]


# --- for how much ---


async def test_a_document_discount_is_in_the_prices(pair: Pair, buyer: Ref) -> None:
    discount = {"DetailType": "DiscountLineDetail", "Amount": 10, "DiscountLineDetail": {"PercentBased": False}}
    await sold(pair, buyer, pair.qbo_line(), pair.qbo_line(amount=50, tax="NL 9% S"), discount)
    (order,) = orders(pair)
    books = next(row for row in pair.qbo.books() if row["kind"] == "INVOICE")
    assert (order["total_incl"], order["vat_by_rate"]) == (books["total_incl"], books["vat_by_rate"])
    row = pair.exact.simulator.division.table("salesorder/SalesOrders").rows[order["id"]]
    assert not row.values.get("AmountDiscount")


async def test_the_proof_of_totals_is_by_reading_back(pair: Pair, buyer: Ref) -> None:
    invoice = await sold(pair, buyer)
    results = [pair.codec.decode("", r.value) for r in pair.log.topic("bus.results")]
    (made,) = [result for result in results if result.source.id == invoice and result.outcome is Outcome.CREATED]
    assert (made.source_total, made.target_total) == (Decimal("121.00"), Decimal("121.00"))
    assert made.totals_by_rate == {"21": "21.0000/21.00"} or set(made.totals_by_rate) == {"21"}


async def test_a_cent_too_much_is_shown_at_once(make: Make) -> None:
    wrong = '{category: S, country: NL, rate_pct: "21", scheme: DOMESTIC, price_mode: EXCL, value: "2"}'
    pair = make(changed((wrong, wrong.replace('value: "2"', 'value: "1"'))))
    invoice = await sold(pair, pair.qbo_customer("A B.V.", email=EMAIL))
    standing = pair.standing(ORDERS, invoice)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.TOTALS_MISMATCH)
    assert "total 121" in standing.detail
    assert [letter.cause for letter in pair.letters()] == [Cause.TOTALS_MISMATCH]
    assert len(orders(pair)) == 1, "it is there: a person corrects it, nothing is made again"
    await pair.run()
    assert len(orders(pair)) == 1


# --- deliver to ---


async def test_another_place_of_delivery_is_an_address_of_its_own_used_again(pair: Pair, buyer: Ref) -> None:
    there = {"Line1": "Havenweg 8", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"}
    again = {**there, "Line1": " HAVENWEG  8", "PostalCode": "1043AA"}
    await sold(pair, buyer, ShipAddr=there)
    await sold(pair, buyer, ShipAddr=again)
    writes = [call.rpartition("/")[2] for call in pair.exact.writes()]
    assert writes.count("Addresses") == 1
    assert writes.index("Addresses") < writes.index("SalesOrders"), "the order needs the address's id"
    rows = pair.exact.simulator.division.table("salesorder/SalesOrders").rows
    assert len({rows[order["id"]].values["DeliveryAddress"] for order in orders(pair)}) == 1


async def test_a_lost_answer_of_an_order_makes_no_second_one(pair: Pair, buyer: Ref) -> None:
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/salesorder/SalesOrders"))
    invoice = await sold(pair, buyer)
    assert len(orders(pair)) == 1
    assert pair.standing(ORDERS, invoice).standing is Standing.WRITTEN


async def test_order_numbers_of_a_reserved_range_are_taken_once(make: Make) -> None:
    """A lost answer is settled by the number, which Exact refuses twice."""
    kind = "  kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    pair = make(changed((kind, kind + "\n  order_number_range: [700000, 799999]")))
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/salesorder/SalesOrders"))
    invoice = await sold(pair, pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    (order,) = orders(pair)
    assert 700_000 <= int(order["number"]) <= 799_999
    assert pair.standing(ORDERS, invoice).external_id == order["id"]
