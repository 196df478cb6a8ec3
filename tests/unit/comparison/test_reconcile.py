"""Both ends of a flow compared live: nothing is found where nothing differs, and exactly what differs where something does."""

from collections.abc import Callable
from typing import Any

from schemas.system import Cause, ObjectRef, Standing
from services.comparison.fields import FieldDifference
from services.comparison.pairs import Finding
from tests.unit.comparison.looks import reconciled
from tests.unit.pair import test_orders_to_invoices as invoices
from tests.unit.pair.rig import INVOICES, ORDERS, Pair, changed, only_orders

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"
DOWN, UP = "customers-exact-to-qbo", "customers-qbo-to-exact"
GOODS = ("products-exact-to-qbo", "products-qbo-to-exact", "categories-exact-to-qbo")
LONG = "Van Dijk Verlichting en Aanverwante Artikelen Groothandel B.V."


async def joined(pair: Pair, name: str = "Van Dijk B.V.", **fields: Any) -> tuple[str, str]:
    """A customer made in QuickBooks after the start, and the debtor that came of it."""
    await pair.run()
    ref = pair.qbo_customer(name, email=EMAIL, **fields)
    await pair.run()
    link = pair.state(pair.exact).link("customer", ObjectRef(connection="qbo-nl", entity="customer", id=ref["value"]))
    assert link is not None
    return ref["value"], link.external_id


async def sold(pair: Pair, buyer: dict[str, str], **fields: Any) -> str:
    """A paid sale that stands in Exact."""
    invoice = pair.sell(CustomerRef=buyer, **fields)
    pair.pay(invoice)
    await pair.run()
    return invoice


def order_of(pair: Pair, invoice: str) -> str:
    link = pair.state(pair.exact).link("sales_order", ObjectRef(connection="qbo-nl", entity="sales_invoice", id=invoice))
    assert link is not None
    return link.external_id


async def clean(pair: Pair, *flows: str) -> None:
    for flow in flows:
        verdict = await reconciled(pair, flow)
        assert verdict.findings == [], flow


def one(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


# --- nothing where nothing differs ---


async def test_nothing_is_found_in_a_generated_company_that_ran_quiet(make: Make) -> None:
    pair = Pair()
    pair.qbo.simulator.seed(60, 3)
    pair.exact.simulator.seed(60, 3)
    await pair.run(rounds=20)
    compared = 0
    for flow in (DOWN, UP, *GOODS, ORDERS, INVOICES):
        verdict = await reconciled(pair, flow)
        unsettled = {
            source_id: record
            for source_id, record in pair.standings(flow).items()
            if record.standing in (Standing.WAITING, Standing.PARKED, Standing.DEAD)
        }
        assert {item.source.id for item in verdict.findings} == set(unsettled), flow
        compared += verdict.agreeing
    assert compared > 100


async def test_what_a_vendor_cuts_masks_or_cannot_hold_is_no_difference(pair: Pair) -> None:
    await joined(pair, LONG, PrimaryTaxIdentifier="NL801234567B01", Notes="belt in de ochtend")
    await clean(pair, UP, DOWN)
    assert (await reconciled(pair, UP)).kept_otherwise == 1, "and it is told that there is something"


async def test_what_differed_when_both_were_linked_is_no_difference(pair: Pair) -> None:
    pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"), Phone="+31205550000")
    pair.qbo_customer("Dijk Licht", email=EMAIL)
    await pair.run()
    await clean(pair, UP, DOWN)


async def test_an_edit_that_crossed_agrees_both_ways(pair: Pair) -> None:
    source, debtor = await joined(pair, LONG)
    pair.exact_edit("customer", debtor, Phone="+31205559999")
    await pair.run()
    pair.qbo_edit("Customer", source, BillAddr={"Line1": "Kade 1", "PostalCode": "3011 AA", "City": "Rotterdam", "Country": "NL"})
    await pair.run()
    await clean(pair, UP, DOWN)


async def test_documents_agree_where_the_target_counts_by_itself(make: Make) -> None:
    pair = make(qbo={"custom_txn_numbers": False})
    order = await invoices.delivered(pair, invoices.buyer(pair))
    assert pair.standing(INVOICES, order).standing is Standing.WRITTEN
    assert invoices.sales(pair) == [], "the reference stands where nobody reads it back"
    verdict = await reconciled(pair, INVOICES)
    assert (verdict.findings, verdict.agreeing) == ([], 1)


# --- exactly what differs ---


async def test_a_field_edited_behind_the_buss_back(pair: Pair) -> None:
    source, debtor = await joined(pair, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    pair.exact_edit("customer", debtor, Phone="+31205559999", Name="Van Dyck B.V.", ChamberOfCommerce="12345678")
    finding = one((await reconciled(pair, UP)).findings)
    assert (finding.kind, finding.source.id, finding.target) == ("differing", source, debtor)
    assert finding.fields == [
        FieldDifference(path="company_name", source="Van Dijk B.V.", target="Van Dyck B.V."),
        FieldDifference(path="display_name", source="Van Dijk B.V.", target="Van Dyck B.V."),
        FieldDifference(path="phone", personal=True),
    ], "a number that QuickBooks does not hold is Exact's own"
    assert "+31" not in str(finding)
    assert finding.mend == "replay"
    assert not finding.in_flight


async def test_an_edit_that_was_polled_and_is_not_carried_is_found(pair: Pair) -> None:
    """Exact owns e-mail addresses: what QuickBooks makes of one goes nowhere, and stays a difference."""
    source, debtor = await joined(pair)
    pair.qbo_edit("Customer", source, PrimaryEmailAddr={"Address": "other@vandijk.test"})
    await pair.run()
    finding = one((await reconciled(pair, DOWN)).findings)
    assert (finding.kind, finding.source.id, finding.target) == ("differing", debtor, source)
    assert finding.fields == [FieldDifference(path="email", personal=True)]
    await clean(pair, UP)


async def test_an_echo_of_another_field_hides_no_edit(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.qbo_edit("Customer", source, PrimaryEmailAddr={"Address": "other@vandijk.test"})
    await pair.run()
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    assert pair.standing(DOWN, debtor).detail == "echo"
    finding = one((await reconciled(pair, DOWN)).findings)
    assert finding.fields == [FieldDifference(path="email", personal=True)]


async def test_a_cut_name_that_was_edited_there_is_found(pair: Pair) -> None:
    _, debtor = await joined(pair, LONG)
    pair.exact_edit("customer", debtor, Name="Iets anders")
    finding = one((await reconciled(pair, UP)).findings)
    assert {item.path for item in finding.fields} == {"company_name", "display_name"}


async def test_a_repair_tells_what_it_would_send_besides(pair: Pair) -> None:
    debtor = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    address = {"Line1": "Kade 1", "PostalCode": "3011 AA", "City": "Rotterdam", "Country": "NL"}
    pair.qbo_customer("Dijk Licht", email=EMAIL, BillAddr=address, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    await clean(pair, UP)
    pair.exact_edit("customer", debtor, Phone="+31205559999")
    finding = one((await reconciled(pair, UP)).findings)
    assert [item.path for item in finding.fields] == ["phone"]
    assert "company_name" in finding.also


async def test_an_object_deleted_at_the_target_is_missing(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    invoice = await sold(pair, buyer)
    await sold(pair, buyer)
    order = order_of(pair, invoice)
    pair.exact_edit("sales_order", order, _delete=True)
    verdict = await reconciled(pair, ORDERS)
    finding = one(verdict.findings)
    assert (finding.kind, finding.source.id, finding.target) == ("missing", invoice, order)
    assert "gone from the target" in finding.reason
    assert finding.mend is None, "what somebody deleted is not made again"
    assert verdict.agreeing == 1


async def test_a_sale_that_was_not_polled_is_missing_and_read_anew_to_mend_it(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    invoice = pair.sell(CustomerRef=buyer)
    pair.pay(invoice)
    unpaid = pair.sell(CustomerRef=buyer)
    verdict = await reconciled(pair, ORDERS)
    finding = one(verdict.findings)
    assert (finding.kind, finding.source.id, finding.reason, finding.mend) == ("missing", invoice, "was not polled yet", "resync")
    assert verdict.not_wanted == 1, unpaid


async def test_a_parked_sale_is_told_apart_and_explained(make: Make) -> None:
    pair = make(only_orders())
    await pair.run()
    item = pair.qbo_item("ONLY-QBO", "Only here")
    buyer = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    invoice = pair.sell(pair.qbo_line(item), CustomerRef=buyer)
    pair.pay(invoice)
    await pair.run()
    finding = one((await reconciled(pair, ORDERS)).findings)
    assert (finding.kind, finding.source.id) == ("missing", invoice)
    assert (finding.in_flight, finding.standing, finding.cause) == (True, Standing.WAITING, Cause.MISSING_DEPENDENCY)
    assert "ONLY-QBO" in finding.reason


async def test_a_dead_letter_explains_what_is_missing(make: Make) -> None:
    row = '  - {category: S, country: NL, rate_pct: "21", scheme: DOMESTIC, price_mode: EXCL, value: "2"}\n'
    pair = make(changed((row, "")))
    buyer = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    await pair.run()
    invoice = await sold(pair, buyer)
    finding = one((await reconciled(pair, ORDERS)).findings)
    assert (finding.kind, finding.source.id, finding.standing) == ("missing", invoice, Standing.DEAD)
    assert finding.cause is Cause.MISSING_TABLE_ROW
    assert not finding.in_flight


async def test_a_document_edited_after_it_was_written_differs_in_total_and_vat(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    invoice = await sold(pair, buyer)
    pair.qbo_edit("Invoice", invoice.partition(":")[2], Line=[pair.qbo_line(amount=200)])
    pair.pay(invoice, 121)
    await pair.run()
    finding = one((await reconciled(pair, ORDERS)).findings)
    assert finding.kind == "differing"
    assert finding.fields == [
        FieldDifference(path="totals.incl", source="242.00", target="121.00"),
        FieldDifference(path="vat.21", source="42.00", target="21.00"),
    ]


async def test_a_reference_and_a_debtor_changed_by_hand(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    invoices = [await sold(pair, buyer) for _ in range(3)]
    other = pair.exact_account("Iemand anders", Email="ander@klant.test")
    pair.exact_edit("sales_order", order_of(pair, invoices[0]), YourRef="verkeerd")
    division = pair.exact.simulator.division
    row = division.get("salesorder/SalesOrders", order_of(pair, invoices[1]))
    division.change("salesorder/SalesOrders", row, {"OrderedBy": other})
    found = {item.source.id: item for item in (await reconciled(pair, ORDERS)).findings}
    assert set(found) == set(invoices[:2])
    (reference,) = found[invoices[0]].fields
    assert (reference.path, reference.source, reference.target) == ("reference", f"QBO-I{invoices[0]}", "verkeerd")
    (debtor,) = found[invoices[1]].fields
    assert (debtor.path, debtor.target) == ("customer", other)


async def test_what_is_at_the_target_only(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    gone, voided, kept = (pair.sell(CustomerRef=buyer, entity="SalesReceipt") for _ in range(3))
    await pair.run()
    pair.qbo_edit("SalesReceipt", gone.partition(":")[2], deleted=True)
    pair.qbo_edit("SalesReceipt", voided.partition(":")[2], void=True)
    verdict = await reconciled(pair, ORDERS)
    found = {item.source.id: item for item in verdict.findings}
    assert {key: item.kind for key, item in found.items()} == {gone: "extra", voided: "extra"}
    assert "is gone" in found[gone].reason
    assert "refuses it" in found[voided].reason
    assert [item.mend for item in found.values()] == [None, None], "extras are listed and never touched"
    assert verdict.agreeing == 1, kept


async def test_the_origin_of_a_document_is_nobodys_extra(pair: Pair) -> None:
    """The other flow made the invoice; that it is gone leaves the order it was made of where it was."""
    order = await invoices.delivered(pair, invoices.buyer(pair))
    (sale,) = invoices.sales(pair)
    pair.qbo_edit("Invoice", sale["id"].rpartition(":")[2], deleted=True)
    assert (await reconciled(pair, ORDERS)).findings == []
    finding = one((await reconciled(pair, INVOICES)).findings)
    assert (finding.kind, finding.source.id) == ("missing", order)


async def test_a_change_between_the_two_readings_is_no_finding(pair: Pair) -> None:
    source, debtor = await joined(pair, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    pair.exact_edit("customer", debtor, Phone="+31205559999")

    def mended() -> None:
        pair.exact_edit("customer", debtor, Phone="+31205550001")

    assert (await reconciled(pair, UP, late=mended)).findings == [], source


async def test_a_sample_compares_what_it_names_and_nothing_else(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    first, second = await sold(pair, buyer), await sold(pair, buyer)
    for invoice in (first, second):
        pair.exact_edit("sales_order", order_of(pair, invoice), _delete=True)
    verdict = await reconciled(pair, ORDERS, chosen=[first])
    assert [item.source.id for item in verdict.findings] == [first]


async def test_since_a_moment_leaves_out_what_is_older(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    old = await sold(pair, buyer)
    pair.exact_edit("sales_order", order_of(pair, old), _delete=True)
    pair.clock.advance(86_400)
    moment = pair.clock.now()
    pair.clock.advance(60)
    new = pair.sell(CustomerRef=buyer)
    pair.pay(new)
    verdict = await reconciled(pair, ORDERS, since=moment)
    assert [item.source.id for item in verdict.findings] == [new]
