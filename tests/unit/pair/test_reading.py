"""Whole objects only: what is read in parts is told in one piece, and a change of a part tells the whole again."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from schemas.canon import DocumentStatus, PaymentStatus
from tests.unit.pair.rig import INVOICES, ORDERS, Pair, only_orders

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"


def order(pair: Pair, *prices: int, **fields: Any) -> str:
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    lamp = pair.exact.simulator.division.first("logistics/Items", "Code", "LAMP-1").id
    lines = [{"Item": lamp, "Quantity": 1, "NetPrice": Decimal(price), "VATCode": "2"} for price in prices]
    return pair.exact_order(account, *lines, **{"PaymentCondition": "30", **fields})


async def test_an_order_is_told_when_all_its_lines_are_there(make: Make) -> None:
    pair = make(only_orders(), exact={"line_delay_s": 90})
    await pair.poll(pair.exact)
    made = order(pair, 100, 50)
    pair.clock.advance(30)
    await pair.poll(pair.exact)
    assert pair.events("sales_order", "exact-nl") == [], "half an order would be booked as a smaller one"
    pair.clock.advance(90)
    await pair.poll(pair.exact)
    (event,) = pair.events("sales_order", "exact-nl")
    assert (event.meta.source_id, len(event.after.lines), event.after.totals.excl) == (made, 2, 150)
    pair.clock.advance(90)
    await pair.poll(pair.exact)
    assert len(pair.events("sales_order", "exact-nl")) == 1


async def test_an_order_whose_charge_is_not_there_is_not_whole(pair: Pair) -> None:
    charge = pair.exact.simulator.division.first("sales/OrderCharges", "Code", "VERZEND").id
    shipping = {"OrderCharge": charge, "IsShippingCost": True, "AmountFCExclVAT": Decimal("6.95"), "VATCode": "2"}
    made = order(pair, 100, SalesOrderOrderChargeLines=[shipping])
    await pair.poll(pair.exact)
    (event,) = pair.events("sales_order", "exact-nl")
    assert (event.meta.source_id, [item.amount for item in event.after.charges]) == (made, [Decimal("6.95")])
    assert event.after.totals.excl == Decimal("106.95")


async def test_a_changed_line_alone_reads_the_whole_order_again(pair: Pair) -> None:
    made = order(pair, 100, 50)
    await pair.run()
    division = pair.exact.simulator.division
    header = division.table("salesorder/SalesOrders").rows[made].timestamp
    line = division.table("salesorder/SalesOrderLines").by("OrderID", made)[0]
    pair.exact_edit("salesorder/SalesOrderLines", line.id, Description="engraved")
    assert division.table("salesorder/SalesOrders").rows[made].timestamp == header, "the header's feed says nothing"
    await pair.run()
    event = pair.events("sales_order", "exact-nl")[-1]
    assert len(event.after.lines) == 2
    assert "engraved" in {item.name for item in event.after.lines}


async def test_a_deleted_order_is_told_as_deleted(pair: Pair) -> None:
    made = order(pair, 100)
    await pair.run()
    pair.exact_edit("sales_order", made, _delete=True)
    await pair.run()
    assert pair.events("sales_order", "exact-nl")[-1].meta.op == "DELETED"
    assert pair.standing(INVOICES, made).detail == "deleted"


async def test_a_voided_invoice_is_cancelled_and_unpaid(pair: Pair) -> None:
    invoice = pair.sell(CustomerRef=pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    pair.pay(invoice)
    await pair.poll(pair.qbo)
    assert pair.events("sales_invoice", "qbo-nl")[-1].after.payment_status is PaymentStatus.PAID
    pair.qbo_edit("Invoice", invoice, void=True)
    pair.clock.advance(61)
    await pair.poll(pair.qbo)
    after = pair.events("sales_invoice", "qbo-nl")[-1].after
    assert (after.status, after.payment_status) == (DocumentStatus.CANCELLED, PaymentStatus.UNPAID)


async def test_what_a_document_refers_to_is_told_with_it(pair: Pair) -> None:
    buyer = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    receipt = pair.sell(entity="SalesReceipt", CustomerRef=buyer, PaymentMethodRef=pair.qbo_ref("PaymentMethod", "iDEAL"))
    invoice = pair.sell(CustomerRef=buyer, SalesTermRef=pair.qbo_ref("Term", "Net 14"))
    await pair.poll(pair.qbo)
    told = {event.meta.source_id: event.after for event in pair.events("sales_invoice", "qbo-nl")}
    (line,) = told[invoice].lines
    assert (line.sku, line.taxes[0].source_code, line.taxes[0].rate_pct) == ("LAMP-1", "NL 21% S", 21)
    assert (told[invoice].customer.company_name, told[invoice].payment_term.code) == ("Van Dijk B.V.", "Net 14")
    assert told[receipt].payment_method.code == "iDEAL"


async def test_an_item_made_inactive_is_named_without_the_mark(pair: Pair) -> None:
    made = pair.qbo_item("GONE-1", "Old lamp")["value"]
    pair.qbo_edit("Item", made, Active=False)
    await pair.poll(pair.qbo)
    told = {event.after.sku: event.after for event in pair.events("product", "qbo-nl")}
    assert (told["GONE-1"].name, told["GONE-1"].active) == ("Old lamp", False)


async def test_a_sale_that_is_filtered_today_goes_through_when_it_is_paid(pair: Pair) -> None:
    """A sale that is filtered today goes through on the day it is paid, once."""
    invoice = pair.sell(CustomerRef=pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    await pair.run()
    assert pair.standing(ORDERS, invoice).detail == "when"
    pair.clock.advance(20 * 86_400)
    pair.pay(invoice)
    await pair.run()
    assert len(pair.exact.books()) == 1
