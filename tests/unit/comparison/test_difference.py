"""What would be written, told without a call: the telling is held against what the sinks then do."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from bus.core.clock import CLOCKS_APART
from schemas.system import Cause, ObjectRef, Standing
from services.comparison.fields import FieldDifference
from tests.unit.comparison.looks import foreseen, foreseen_one
from tests.unit.pair.rig import ORDERS, Pair, changed

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"
DOWN, UP = "customers-exact-to-qbo", "customers-qbo-to-exact"


def calls(pair: Pair) -> int:
    return len(pair.exact.simulator.calls.since(0)["calls"]) + len(pair.qbo.simulator.calls.since(0)["calls"])


async def polled(pair: Pair) -> None:
    """Both sides are read and mapped; the sinks have not gone on."""
    for side in (pair.exact, pair.qbo):
        await pair.poll(side)


async def joined(pair: Pair) -> tuple[str, str]:
    await pair.run()
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    await pair.run()
    link = pair.state(pair.exact).link("customer", ObjectRef(connection="qbo-nl", entity="customer", id=ref["value"]))
    assert link is not None
    return ref["value"], link.external_id


async def test_a_settled_flow_would_write_nothing_and_nobody_is_called(pair: Pair) -> None:
    await joined(pair)
    before, records = calls(pair), len(pair.log.records)
    for flow in (DOWN, UP, "products-exact-to-qbo", "products-qbo-to-exact", "categories-exact-to-qbo", ORDERS):
        found = await foreseen(pair, flow)
        assert {item.what for item in found} <= {"nothing", "filtered"}, found
    assert calls(pair) == before
    assert len(pair.log.records) == records, "a look commits nothing"


async def test_a_change_is_an_update_of_that_field_with_both_values(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.qbo_edit("Customer", source, CompanyName="Van Dijk Licht B.V.", PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await polled(pair)
    found = await foreseen_one(pair, UP, source)
    assert (found.what, found.target) == ("update", debtor)
    assert FieldDifference(path="company_name", source="Van Dijk Licht B.V.", target="Van Dijk B.V.") in found.fields
    assert FieldDifference(path="phone", personal=True) in found.fields
    assert "+31" not in str(found), "personal values are never shown"
    pair.process()
    await pair.sink(pair.exact)
    assert pair.standing(UP, source).detail == "fields: " + ", ".join(item.path for item in found.fields)


async def test_a_new_customer_is_a_create_that_the_vendors_search_may_yet_prevent(pair: Pair) -> None:
    await pair.run()
    ref = pair.qbo_customer("Nieuw B.V.", email="info@nieuw.test")
    await polled(pair)
    found = await foreseen_one(pair, UP, ref["value"])
    assert found.what == "create"
    assert found.detail is not None
    assert "was not asked" in found.detail
    assert FieldDifference(path="company_name", source="Nieuw B.V.") in found.fields


async def test_an_order_shows_total_reference_and_lines_and_that_its_customer_is_made_first(pair: Pair) -> None:
    await pair.run()
    ref = pair.qbo_customer("Nieuw B.V.", email="info@nieuw.test")
    invoice = pair.sell(CustomerRef=ref)
    pair.pay(invoice)
    await polled(pair)
    found = await foreseen_one(pair, ORDERS, invoice)
    assert found.what == "create"
    assert "its customer is made first" in (found.detail or "")
    assert {item.path: item.source for item in found.fields} == {
        "totals.incl": "121.00",
        "currency": "EUR",
        "reference": f"QBO-I{invoice}",
        "lines": "1",
    }
    await pair.run()
    assert pair.standing(ORDERS, invoice).standing is Standing.WRITTEN
    again = await foreseen_one(pair, ORDERS, invoice)
    assert (again.what, again.detail, again.fields) == ("nothing", "written earlier; agrees", [])


async def test_a_written_document_that_changed_says_how_it_differs_and_that_it_stays(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    invoice = pair.sell(CustomerRef=buyer)
    pair.pay(invoice)
    await pair.run()
    document = pair.qbo.simulator.company.row("Invoice", invoice.partition(":")[2])
    pair.qbo_edit("Invoice", document["Id"], Line=[pair.qbo_line(amount=200)])
    pair.pay(invoice, 121)
    await polled(pair)
    found = await foreseen_one(pair, ORDERS, invoice)
    assert found.what == "nothing"
    assert "written once" in (found.detail or "")
    assert FieldDifference(path="totals.incl", source="242.00", target="121.00") in found.fields


async def test_an_order_of_an_unknown_article_waits_and_names_it(pair: Pair, buyer: dict[str, str]) -> None:
    await pair.run()
    item = pair.qbo_item("ONLY-QBO", "Only here", Active=True)
    invoice = pair.sell(pair.qbo_line(item), CustomerRef=buyer)
    pair.pay(invoice)
    await polled(pair)
    found = await foreseen_one(pair, ORDERS, invoice)
    assert (found.what, found.cause) == ("waits", Cause.MISSING_DEPENDENCY)
    assert "ONLY-QBO" in (found.detail or "")


async def test_what_the_flow_refuses_and_what_it_cannot_map(make: Make) -> None:
    row = '  - {category: K, country: "*", rate_pct: "0", scheme: "*", price_mode: "*", value: "7"}\n'
    pair = make(changed((row, "")))
    buyer = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    await pair.run()
    unpaid = pair.sell(CustomerRef=buyer)
    unknown = pair.sell(pair.qbo_line(tax="EU goods"), CustomerRef=buyer)
    pair.pay(unknown)
    await polled(pair)
    found = {item.source.id: item for item in await foreseen(pair, ORDERS)}
    assert (found[unpaid].what, found[unpaid].detail) == ("filtered", "when")
    assert (found[unknown].what, found[unknown].cause) == ("dead", Cause.MISSING_TABLE_ROW)


async def test_a_target_written_after_its_last_poll_cannot_be_compared(pair: Pair) -> None:
    source, _ = await joined(pair)
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.poll(pair.qbo)
    pair.process()
    await pair.sink(pair.exact)  # and Exact is not polled
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550002"})
    await pair.poll(pair.qbo)
    found = await foreseen_one(pair, UP, source)
    assert found.what == "cannot compare"
    assert "written after its last poll" in (found.detail or "")


async def test_a_target_edited_just_before_our_write_and_polled_at_once_can_be_compared(pair: Pair) -> None:
    """The sink keeps what it knew of a field that somebody edited unseen; the event behind the write knows better."""
    source, debtor = await joined(pair)
    pair.exact_edit("customer", debtor, Name="Van Dyck B.V.")
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.poll(pair.qbo)
    pair.process()
    await pair.sink(pair.exact)
    await pair.poll(pair.exact)  # what differs from our write may be older than it, and waits
    pair.clock.advance(CLOCKS_APART.total_seconds())
    await pair.poll(pair.exact)
    pair.process()
    await pair.sink(pair.exact)  # within the seconds in which an observation may be older than our write
    known = pair.state(pair.exact).object("customer", debtor)
    assert known is not None
    assert known.field_hashes != pair.events("customer", "exact-nl")[-1].meta.field_hashes
    found = await foreseen_one(pair, UP, source, repair=True)
    assert found.what == "update"
    assert FieldDifference(path="company_name", source="Van Dijk B.V.", target="Van Dyck B.V.") in found.fields


async def test_a_target_that_was_never_polled_cannot_be_compared(pair: Pair) -> None:
    await pair.run()
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    for side in (pair.exact, pair.qbo):
        await pair.poll(side)
    pair.process()
    await pair.sink(pair.exact)
    pair.qbo_edit("Customer", ref["value"], PrimaryPhone={"FreeFormNumber": "+31205550002"})
    await pair.poll(pair.qbo)
    found = await foreseen_one(pair, UP, ref["value"])
    assert found.what == "cannot compare"
    assert "never polled" in (found.detail or "")


async def test_an_older_event_than_what_has_settled_writes_nothing(pair: Pair) -> None:
    source, _ = await joined(pair)
    kept = len(pair.log.records)
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    pair.log.records = [r for i, r in enumerate(pair.log.records) if i < kept or not r.topic.startswith("bus.canon.")]
    found = await foreseen_one(pair, UP, source)
    assert (found.what, found.detail) == ("nothing", "a newer version has settled already")


async def test_every_foresight_of_a_busy_day_is_what_then_happens(pair: Pair, buyer: dict[str, str]) -> None:
    """Held against the sink itself: whatever is told as a write is one, whatever is told as none is none."""
    await pair.run()
    sales = [pair.sell(CustomerRef=buyer, DocNumber=f"N{number}") for number in range(6)]
    for sale in sales[:4]:
        pair.pay(sale)
    pair.qbo_edit("Customer", buyer["value"], PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await polled(pair)
    told: Counter[Any] = Counter()
    for flow in (UP, ORDERS):
        told.update((flow, item.source.id, item.what) for item in await foreseen(pair, flow) if item.what in ("create", "update"))
    before = len(pair.outcomes)
    pair.process()
    await pair.sink(pair.exact)
    done = Counter(
        (record.flow, record.source.id, {"CREATED": "create", "UPDATED": "update"}[str(record.outcome)])
        for record in pair.state(pair.exact).standings()
        if str(record.outcome) in ("CREATED", "UPDATED")
    )
    assert len(pair.outcomes) > before
    assert told
    assert set(told) <= set(done)
    assert sum(told.values()) == 5
