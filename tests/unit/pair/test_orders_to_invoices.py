"""Exact orders become QuickBooks invoices, receipts or estimates: which, under what number, for whom."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bus.simulation.faults import Fault
from schemas.system import Cause, LinkState, ObjectRef, Outcome, Standing
from tests.unit.pair.rig import INVOICES, ORDERS, Pair, changed, only_orders

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"
SUFFIX = ("  suffix: \"' (' ~ source.customer.number ~ ')'\"\n", "")
"""The example's flow puts the debtor's number behind every name; without that the bus does so only where a name is taken."""
TYPE = "type: \"'RECEIPT' if value.payment_term.paid else 'INVOICE'\""


def buyer(pair: Pair, name: str = "Van Dijk B.V.", kind: str = "COMPANY", **fields: Any) -> str:
    return pair.exact_account(name, **{"Email": EMAIL, "Classification1": pair.classification(kind), **fields})


def line(pair: Pair, price: str = "100", sku: str = "LAMP-1", **fields: Any) -> dict[str, Any]:
    item = pair.exact.simulator.division.first("logistics/Items", "Code", sku).id
    return {"Item": item, "Quantity": 1, "NetPrice": Decimal(price), "VATCode": "2", **fields}


async def delivered(pair: Pair, account: str, *lines: dict[str, Any], **fields: Any) -> str:
    """An order that is delivered, taken through the pair."""
    order = pair.exact_order(account, *(lines or [line(pair)]), **{"PaymentCondition": "30", **fields})
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    return order


def sales(pair: Pair) -> list[dict[str, Any]]:
    return [row for row in pair.qbo.books() if (row["number"] or "").startswith("EX-")]


def row_of(pair: Pair, sale: dict[str, Any]) -> dict[str, Any]:
    entity = {"INVOICE": "Invoice", "RECEIPT": "SalesReceipt", "ESTIMATE": "Estimate"}[sale["kind"]]
    found: dict[str, Any] = pair.qbo.simulator.company.row(entity, sale["id"].rpartition(":")[2])
    return found


def number(pair: Pair, order: str) -> str:
    return str(pair.exact.simulator.division.table("salesorder/SalesOrders").rows[order].values["OrderNumber"])


def customer_of(pair: Pair, sale: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pair.qbo.simulator.company.row("Customer", sale["customer_id"])
    return found


# --- which orders ---


@pytest.mark.parametrize("state", ["open", "partly delivered", "invoiced", "cancelled"])
async def test_what_is_not_delivered_or_already_invoiced_is_filtered(pair: Pair, state: str) -> None:
    order = pair.exact_order(buyer(pair), line(pair, Quantity=2), PaymentCondition="30")
    moves = {
        "open": {},
        "partly delivered": {"DeliveryStatus": 20},
        "invoiced": {"DeliveryStatus": 21, "InvoiceStatus": 21},
        "cancelled": {"Status": 45},
    }[state]
    if moves:
        pair.exact_edit("sales_order", order, **moves)
    await pair.run()
    standing = pair.standing(INVOICES, order)
    assert (standing.standing, standing.detail) == (Standing.FILTERED, "when")
    assert sales(pair) == []


@pytest.mark.parametrize(
    ("term", "kind", "name"), [("30", "INVOICE", "Net 30"), ("14", "INVOICE", "Net 14"), ("PI", "RECEIPT", None)]
)
async def test_the_payment_condition_decides_between_invoice_and_receipt(
    pair: Pair, term: str, kind: str, name: str | None
) -> None:
    order = await delivered(pair, buyer(pair), PaymentCondition=term)
    (sale,) = sales(pair)
    assert (sale["kind"], sale["total_incl"], sale["vat_by_rate"]) == (kind, "121.00", {"21.00": "21.00"})
    assert sale["number"] == f"EX-{number(pair, order)}"
    row = row_of(pair, sale)
    if name:
        assert row["SalesTermRef"]["value"] == pair.qbo_id("Term", name)
    else:
        assert row["PaymentMethodRef"]["value"] == pair.qbo_id("PaymentMethod", "iDEAL")
        assert row["DepositToAccountRef"]["value"] == pair.qbo_id("Account", "1105 PSP clearing")
    writes = [*pair.exact.writes(), *pair.qbo.writes()]
    await pair.run()
    assert [*pair.exact.writes(), *pair.qbo.writes()] == writes, "a second look writes nothing"


async def test_an_estimate_stands_for_an_order(make: Make) -> None:
    pair = make(changed((TYPE, "type: \"'ESTIMATE'\"")))
    await delivered(pair, buyer(pair))
    assert [sale["kind"] for sale in sales(pair)] == ["ESTIMATE"]


ESTIMATES = """
---
kind: Flow
name: exact-orders-to-estimates
from: {connection: exact-nl, entity: sales_order}
to: {connection: qbo-nl, entity: sales_invoice, type: "'ESTIMATE'"}
start: {from: 2026-01-01, by: order_date}
when: source.fulfilment_status == 'NONE'
reference: {to: DocNumber, value: "'OFFER-' ~ source.number"}
write: create
on_delete: ignore
customer: {match: [email+kind], missing: create, found: link}
product: {match: [sku], missing: park, patience: 3d}
set:
  vat_code: {table: qbo-vat}
"""


def kinds(pair: Pair) -> list[str]:
    return sorted(sale["kind"] for sale in pair.qbo.books() if (sale["number"] or "").startswith(("EX-", "OFFER-")))


async def test_one_order_becomes_an_estimate_and_later_an_invoice(make: Make) -> None:
    """Two documents of one order at one target: each flow has its own, and neither makes it twice."""
    pair = make(changed() + ESTIMATES)
    order = pair.exact_order(buyer(pair), line(pair), PaymentCondition="30")
    await pair.run()
    assert kinds(pair) == ["ESTIMATE"]
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    assert kinds(pair) == ["ESTIMATE", "INVOICE"]
    offer, sale = pair.standing("exact-orders-to-estimates", order), pair.standing(INVOICES, order)
    assert (offer.standing, sale.standing) == (Standing.WRITTEN, Standing.WRITTEN)
    assert offer.external_id != sale.external_id
    for words in ("first edit", "second edit"):
        pair.exact_edit("sales_order", order, YourRef=words)
        await pair.run()
    assert kinds(pair) == ["ESTIMATE", "INVOICE"]


async def test_a_lost_answer_of_the_second_document_is_not_the_first_one(make: Make) -> None:
    pair = make(changed() + ESTIMATES)
    order = pair.exact_order(buyer(pair), line(pair), PaymentCondition="30")
    await pair.run()
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/v3/company/9130357849036726/invoice"))
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    assert kinds(pair) == ["ESTIMATE", "INVOICE"]
    assert pair.standing(INVOICES, order).external_id != pair.standing("exact-orders-to-estimates", order).external_id


async def test_an_invoice_whose_term_says_paid_later_gets_no_receipt_too(pair: Pair) -> None:
    """Invoice and receipt are one sale in two forms."""
    order = await delivered(pair, buyer(pair), PaymentCondition="30")
    pair.exact_edit("sales_order", order, PaymentCondition="PI")
    await pair.run()
    assert kinds(pair) == ["INVOICE"]
    standing = pair.standing(INVOICES, order)
    assert (standing.standing, standing.outcome) == (Standing.WRITTEN, Outcome.CREATED), "known by its link, not by a search"


async def test_a_condition_without_a_row_stops_the_document(make: Make) -> None:
    pair = make(changed(('  - {code: "14", value: Net 14, paid: false}\n', "")))
    order = await delivered(pair, buyer(pair), PaymentCondition="14")
    standing = pair.standing(INVOICES, order)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.MISSING_TABLE_ROW)
    assert "qbo-terms has no row for code=14" in standing.detail


# --- the bus's own documents ---


async def test_an_order_the_bus_made_never_goes_back_even_after_edits(pair: Pair) -> None:
    pair.pay(pair.sell(CustomerRef=pair.qbo_customer("Van Dijk B.V.", email=EMAIL)))
    await pair.run()
    (order,) = pair.exact.books()
    before = len(pair.qbo.books())
    pair.exact_edit("sales_order", order["id"], DeliveryStatus=21)
    await pair.run()
    pair.exact_edit("sales_order", order["id"], YourRef="edited by a person")
    await pair.run()
    assert len(pair.qbo.books()) == before
    assert pair.standing(INVOICES, order["id"]).detail.endswith("origin")


async def test_a_sale_the_bus_made_never_goes_back_even_when_it_is_paid(pair: Pair) -> None:
    await delivered(pair, buyer(pair))
    (sale,) = sales(pair)
    pair.pay(sale["id"] if sale["id"].startswith("Invoice:") else f"Invoice:{sale['id']}")
    await pair.run()
    pair.qbo_edit("Invoice", sale["id"].rpartition(":")[2], CustomerMemo={"value": "edited by a person"})
    await pair.run()
    assert len(pair.exact.books()) == 1
    (standing,) = pair.standings(ORDERS).values()
    assert standing.detail.endswith("origin")


# --- number ---


async def test_quickbooks_numbers_where_custom_numbers_are_off(make: Make) -> None:
    pair = make(qbo={"custom_txn_numbers": False})
    account = await pair.qbo.connector.check()
    assert account.facts["custom_numbers"] == "no"
    assert any("DocNumber is not sent" in warning for warning in account.warnings)
    order = await delivered(pair, buyer(pair))
    (sale,) = pair.qbo.books()
    assert sale["number"] == "1001"
    assert f"EX-{number(pair, order)}" in row_of(pair, sale)["PrivateNote"]


async def test_the_flow_may_leave_the_number_to_quickbooks(make: Make) -> None:
    pair = make(changed(("reference: {to: DocNumber,", "reference: {to: PrivateNote,")))
    order = await delivered(pair, buyer(pair))
    (sale,) = pair.qbo.books()
    assert not (sale["number"] or "").startswith("EX-")
    assert f"EX-{number(pair, order)}" in row_of(pair, sale)["PrivateNote"]


async def test_a_number_in_use_for_another_debtor_is_a_conflict(pair: Pair) -> None:
    account = buyer(pair)
    order = pair.exact_order(account, line(pair), PaymentCondition="30")
    other = pair.qbo_customer("Bakker B.V.", email="b@bakker.test")
    pair.sell(CustomerRef=other, DocNumber=f"EX-{number(pair, order)}")
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    standing = pair.standing(INVOICES, order)
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert len(sales(pair)) == 1


async def test_a_number_with_its_debtor_and_total_is_skipped_and_linked(pair: Pair) -> None:
    order = pair.exact_order(buyer(pair), line(pair), PaymentCondition="30")
    own = pair.sell(CustomerRef=pair.qbo_customer("Van Dijk B.V.", email=EMAIL), DocNumber=f"EX-{number(pair, order)}")
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    standing = pair.standing(INVOICES, order)
    assert (standing.outcome, standing.external_id) == (Outcome.SKIPPED, own)
    assert len(sales(pair)) == 1


# --- customers ---


async def test_a_missing_customer_is_made_with_the_invoice(make: Make) -> None:
    pair = make(only_orders(SUFFIX))
    pair.exact_row("crm/Contacts", Account=buyer(pair), FirstName="Anna", LastName="Bos", Email="anna@vandijk.test")
    await delivered(pair, pair.exact.books("customers")[-1]["id"])
    (sale,) = sales(pair)
    row = customer_of(pair, sale)
    assert (row["DisplayName"], row["CompanyName"]) == ("Van Dijk B.V.", "Van Dijk B.V.")
    assert row["PrimaryEmailAddr"]["Address"] == EMAIL


async def test_a_person_is_made_as_a_person(make: Make) -> None:
    pair = make(only_orders(SUFFIX))
    await delivered(pair, buyer(pair, "Jan de Boer", "PERSON"))
    row = customer_of(pair, sales(pair)[0])
    assert "CompanyName" not in row
    assert row["FamilyName"]


async def test_an_inactive_or_foreign_namesake_is_never_taken_by_its_name(make: Make) -> None:
    pair = make(only_orders(SUFFIX))
    namesake = pair.qbo_customer("Van Dijk B.V.", email="other@elsewhere.test")
    await delivered(pair, buyer(pair))
    (sale,) = sales(pair)
    assert sale["customer_id"] != namesake["value"]


@pytest.mark.parametrize("holder", ["Customer", "Vendor", "Employee", "inactive"])
async def test_a_taken_name_gets_the_debtors_number(make: Make, holder: str) -> None:
    pair = make(only_orders(SUFFIX))
    if holder in ("Vendor", "Employee"):
        names = {"GivenName": "Van", "FamilyName": "Dijk"} if holder == "Employee" else {}
        pair.qbo_edit(holder, "new", DisplayName="Van Dijk B.V.", **names)
    else:
        ref = pair.qbo_customer("Van Dijk B.V.", email="other@elsewhere.test")
        if holder == "inactive":
            pair.qbo_edit("Customer", ref["value"], Active=False)
    account = buyer(pair)
    await delivered(pair, account)
    code = next(row["number"] for row in pair.exact.books("customers") if row["id"] == account).strip()
    assert customer_of(pair, sales(pair)[0])["DisplayName"] == f"Van Dijk B.V. ({code})"


async def test_the_suffix_is_the_same_after_a_lost_answer(make: Make) -> None:
    pair = make(only_orders(SUFFIX))
    pair.qbo_customer("Van Dijk B.V.", email="other@elsewhere.test")
    account = buyer(pair)
    path = "/v3/company/9130357849036726/customer"
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path, nth=2))
    await delivered(pair, account)
    names = [row["DisplayName"] for row in pair.qbo.simulator.company.tables["Customer"].values()]
    code = next(row["number"] for row in pair.exact.books("customers") if row["id"] == account).strip()
    assert sorted(names) == ["Van Dijk B.V.", f"Van Dijk B.V. ({code})"]
    assert len(sales(pair)) == 1


async def test_a_customer_is_found_in_a_comma_list_and_an_inactive_one_is_not_used(make: Make) -> None:
    pair = make(only_orders(SUFFIX))
    gone = pair.qbo_customer("Van Dijk oud", email=EMAIL)
    pair.qbo_edit("Customer", gone["value"], Active=False)
    held = pair.qbo_customer("Van Dijk", email=f"boek@vandijk.test, {EMAIL}")
    await delivered(pair, buyer(pair))
    assert [sale["customer_id"] for sale in sales(pair)] == [held["value"]]


async def test_one_quickbooks_customer_per_currency(make: Make) -> None:
    pair = make(changed(SUFFIX))
    account = buyer(pair)
    await delivered(pair, account)
    await delivered(pair, account, Currency="SEK")
    await delivered(pair, account, Currency="SEK")
    kronor = [customer_of(pair, sale) for sale in sales(pair) if sale["currency"] == "SEK"]
    euro = [customer_of(pair, sale) for sale in sales(pair) if sale["currency"] == "EUR"]
    assert {row["DisplayName"] for row in euro} == {"Van Dijk B.V."}
    assert {row["DisplayName"] for row in kronor} == {"Van Dijk B.V. SEK"}
    source = ObjectRef(connection="exact-nl", entity="customer", id=account)
    state = pair.state(pair.qbo)
    links = {facet: state.link("customer", source, facet) for facet in (None, "SEK")}
    assert {facet: link.external_id for facet, link in links.items() if link} == {None: euro[0]["Id"], "SEK": kronor[0]["Id"]}


@pytest.mark.parametrize("flows", [changed(SUFFIX), only_orders(SUFFIX)], ids=["linked by the customer flow", "matched"])
async def test_a_customer_of_another_currency_is_not_taken_for_this_one(make: Make, flows: str) -> None:
    pair = make(flows)
    kronor = pair.qbo_customer("Van Dijk B.V.", email=EMAIL, CurrencyRef={"value": "SEK"})
    account = buyer(pair)
    await pair.run()
    order = await delivered(pair, account)
    (sale,) = sales(pair)
    assert (sale["currency"], sale["customer_id"] != kronor["value"]) == ("EUR", True)
    assert pair.standing(INVOICES, order).outcome is Outcome.CREATED
    await delivered(pair, account, Currency="SEK")
    assert [sale["customer_id"] for sale in sales(pair) if sale["currency"] == "SEK"] == [kronor["value"]]


async def test_a_customer_made_for_another_currency_is_told_all_that_the_debtor_says(make: Make) -> None:
    pair = make(changed(SUFFIX))
    pair.qbo_customer("Van Dijk B.V.", email=EMAIL, CurrencyRef={"value": "SEK"})
    account = buyer(pair, Remarks="Levert achterom")
    await pair.run()  # the debtor's changes went to the customer in kronor until now
    await delivered(pair, account)
    assert "Notes" not in customer_of(pair, sales(pair)[0])  # an order does not know them
    pair.exact_edit("customer", account, Phone="+31 20 1234567")
    await pair.run()
    row = customer_of(pair, sales(pair)[0])
    assert row["CurrencyRef"]["value"] == "EUR"
    assert (row["PrimaryPhone"]["FreeFormNumber"], row["Notes"]) == ("+31 20 1234567", "Levert achterom")


# --- amounts ---


async def test_charges_and_prices_with_vat_come_out_to_the_cent(pair: Pair) -> None:
    charge = pair.exact.simulator.division.first("sales/OrderCharges", "Code", "VERZEND").id
    shipping = {"OrderCharge": charge, "IsShippingCost": True, "AmountFCExclVAT": Decimal("6.95"), "VATCode": "2"}
    pair.qbo_item("VERZEND", "Verzendkosten")
    lines = [line(pair, "19.99", VATCode="4", Quantity=3), line(pair, "7.77", VATCode="3")]
    order = await delivered(pair, buyer(pair), *lines, SalesOrderOrderChargeLines=[shipping])
    (sale,) = sales(pair)
    source = next(row for row in pair.exact.books() if row["id"] == order)
    assert (sale["total_incl"], sale["vat_by_rate"]) == (source["total_incl"], source["vat_by_rate"])
    assert pair.standing(INVOICES, order).outcome is Outcome.CREATED


async def test_the_proof_of_totals_is_taken_from_the_writes_answer(pair: Pair) -> None:
    order = await delivered(pair, buyer(pair))
    results = [pair.codec.decode("", r.value) for r in pair.log.topic("bus.results")]
    (made,) = [result for result in results if result.source.id == order and result.outcome is Outcome.CREATED]
    assert (made.source_total, made.target_total) == (Decimal("121.00"), Decimal("121.00"))


async def test_a_closed_period_refuses_and_the_date_is_never_moved(pair: Pair) -> None:
    pair.qbo_edit("preferences", "1", BookCloseDate="2026-11-30")
    order = await delivered(pair, buyer(pair), OrderDate="2026-11-20")
    standing = pair.standing(INVOICES, order)
    assert standing.standing is Standing.DEAD
    (letter,) = [letter for letter in pair.letters() if letter.source.id == order]
    assert "6210" in letter.detail
    assert "closed" in letter.hint
    assert sales(pair) == []
    pair.qbo_edit("preferences", "1", BookCloseDate=None)
    pair.exact_edit("sales_order", order, YourRef="once more")
    await pair.run()
    assert [row_of(pair, sale)["TxnDate"] for sale in sales(pair)] == ["2026-11-20"]


@pytest.mark.parametrize(("number_", "is_held"), [("BE0400000123", False), (None, True)])
async def test_an_intra_community_sale_needs_the_debtors_number(pair: Pair, number_: str | None, is_held: bool) -> None:
    own = {"VATNumber": number_} if number_ else {}
    account = buyer(pair, "Leuven Licht NV", **own)
    await delivered(pair, account, line(pair, VATCode="7"))
    assert (sales(pair) == []) is is_held


# --- after a lost answer ---


@pytest.mark.parametrize("kind", ["Invoice", "SalesReceipt"])
async def test_a_lost_answer_makes_no_second_document(pair: Pair, kind: str) -> None:
    path = f"/v3/company/9130357849036726/{kind.lower()}"
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
    order = await delivered(pair, buyer(pair), PaymentCondition="30" if kind == "Invoice" else "PI")
    assert len(sales(pair)) == 1
    assert pair.standing(INVOICES, order).standing is Standing.WRITTEN


async def test_a_document_deleted_at_the_target_is_retired_and_not_made_again(pair: Pair) -> None:
    order = await delivered(pair, buyer(pair))
    (sale,) = sales(pair)
    pair.qbo_edit("Invoice", sale["id"].rpartition(":")[2], deleted=True)
    pair.exact_edit("sales_order", order, YourRef="once more")
    await pair.run()
    assert sales(pair) == []


async def test_a_replayed_document_that_is_gone_is_retired_and_not_made_again(pair: Pair) -> None:
    """The answer of the create is lost, a person deletes the invoice, and the repeated request answers the first answer."""
    path = "/v3/company/9130357849036726/invoice"
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
    look = pair.qbo.connector.search

    async def search(*asked: Any) -> Any:
        for sale in sales(pair):
            pair.qbo_edit("Invoice", sale["id"].rpartition(":")[2], deleted=True)
        return await look(*asked)

    pair.qbo.connector.search = search  # type: ignore[method-assign]
    order = await delivered(pair, buyer(pair))
    assert sales(pair) == []
    link = pair.state(pair.qbo).link("sales_invoice", ObjectRef(connection="exact-nl", entity="sales_order", id=order))
    assert link is not None
    assert link.state is LinkState.RETIRED
    assert "deleted" in (pair.standing(INVOICES, order).detail or "")
    pair.exact_edit("sales_order", order, YourRef="once more")
    await pair.run()
    assert sales(pair) == []
