"""What makes each write of the pair safe to repeat, and how long absence takes to prove."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from bus.core.identity import create_key
from bus.kit.registry import load
from bus.simulation.faults import Fault
from schemas.system import Cause, ObjectRef, Outcome, Standing
from tests.unit.pair.rig import INVOICES, Pair

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"
DOWN, UP = "customers-exact-to-qbo", "customers-qbo-to-exact"
EXPECTED = {
    "exact_online": {
        "customer": {
            "account": "SEARCH",
            "contact": "SEARCH",
            "main_contact": "REPEATABLE",
            "address": "SEARCH",
            "update": "REPEATABLE",
            "deactivate": "REPEATABLE",
        },
        "product": {"item": "CLIENT_ID", "price": "SEARCH", "update": "REPEATABLE", "deactivate": "REPEATABLE"},
        "sales_order": {"address": "SEARCH", "order": "SEARCH"},
    },
    "quickbooks": {
        "customer": {"create": "KEY", "update": "REPEATABLE", "deactivate": "REPEATABLE"},
        "product": {"create": "KEY", "update": "REPEATABLE", "deactivate": "REPEATABLE", "image": "SEARCH"},
        "product_category": {"create": "KEY", "update": "REPEATABLE", "deactivate": "REPEATABLE"},
        "sales_invoice": {"create": "SEARCH"},
    },
}
SETTLE_S = {"exact_online": 180, "quickbooks": 120}


def facts(system: str) -> dict[str, dict[str, Any]]:
    writes = load(system).manifest.writes
    return {entity: {step.name: step for step in found.steps} for entity, found in writes.items()}


@pytest.mark.parametrize("system", EXPECTED)
def test_every_write_has_its_class(system: str) -> None:
    found = {
        entity: {name: str(step.idempotency) for name, step in steps.items() if name in EXPECTED[system][entity]}
        for entity, steps in facts(system).items()
    }
    assert found == EXPECTED[system]


@pytest.mark.parametrize("system", EXPECTED)
def test_a_search_proves_absence_only_after_the_vendors_time(system: str) -> None:
    searched = [step for steps in facts(system).values() for step in steps.values() if str(step.idempotency) == "SEARCH"]
    assert searched
    assert {step.settle_s for step in searched} == {SETTLE_S[system]}


async def test_nothing_is_made_again_before_that_time(pair: Pair) -> None:
    """The order's call ends in an outage of which nobody knows whether it was worked off."""
    pair.exact.simulator.faults.add(
        Fault("status", status=503, method="POST", path_prefix="/api/v1/1234567/salesorder/SalesOrders", times=1)
    )
    invoice = pair.sell(CustomerRef=pair.qbo_customer("Van Dijk B.V.", email=EMAIL))
    pair.pay(invoice)
    await pair.run()
    assert len(pair.exact.books()) == 1
    posts = [call for call in pair.exact.simulator.calls.since(0)["calls"] if call["path"].endswith("salesorder/SalesOrders")]
    first, second = [place for place, call in enumerate(posts) if call["method"] == "POST"]
    searches = [call for call in posts[first:second] if call["method"] == "GET"]
    assert len(searches) >= 2, "not there once is not absence"
    times = [datetime.fromisoformat(posts[place]["at"]) for place in (first, second)]
    assert times[1] - times[0] >= timedelta(seconds=180)


def test_the_key_is_the_objects_and_not_the_events() -> None:
    assert create_key("exact-nl", "customer", "qbo-nl|customer|61", None, 0) == create_key(
        "exact-nl", "customer", "qbo-nl|customer|61", None, 0
    )
    others = {
        create_key(target, entity, source, facet, generation)
        for target, entity, source, facet, generation in (
            ("exact-nl", "customer", "qbo-nl|customer|61", None, 0),
            ("exact-be", "customer", "qbo-nl|customer|61", None, 0),
            ("exact-nl", "product", "qbo-nl|customer|61", None, 0),
            ("exact-nl", "customer", "qbo-nl|customer|62", None, 0),
            ("exact-nl", "customer", "qbo-nl|customer|61", "SEK", 0),
            ("exact-nl", "customer", "qbo-nl|customer|61", None, 1),
        )
    }
    assert len(others) == 6


async def test_a_newer_version_of_an_unanswered_create_makes_no_second_one(pair: Pair) -> None:
    """The answer is lost, the customer changes, and both versions are carried out under one key."""
    await pair.run()
    path = "/v3/company/9130357849036726/customer"
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.poll(pair.exact)
    pair.exact_edit("customer", account, Phone="+31205559999")
    pair.clock.advance(61)
    await pair.poll(pair.exact)
    pair.process()
    await pair.sink(pair.qbo)
    await pair.run()
    rows = [row for row in pair.qbo.simulator.company.tables["Customer"].values() if row["DisplayName"] == "Van Dijk B.V."]
    assert [row["PrimaryPhone"]["FreeFormNumber"] for row in rows] == ["+31205559999"]


async def test_a_repeated_create_carries_the_same_request_id(pair: Pair) -> None:
    await pair.run()
    path = "/v3/company/9130357849036726/customer"
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.run()
    calls = [call for call in pair.qbo.simulator.calls.since(0)["calls"] if call["path"] == path and call["method"] == "POST"]
    intent = pair.state(pair.qbo).intent("customer", ObjectRef(connection="exact-nl", entity="customer", id=account))
    assert intent is not None
    assert [parse_qs(call["query"])["requestid"] for call in calls] == [[intent.steps[0].key]] * 2


# --- updates ---


async def linked(pair: Pair) -> tuple[str, str]:
    await pair.run()
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    await pair.run()
    link = pair.state(pair.exact).link("customer", ObjectRef(connection="qbo-nl", entity="customer", id=ref["value"]))
    assert link is not None
    return ref["value"], link.external_id


def phone(pair: Pair, source: str) -> str:
    return str(pair.qbo.simulator.company.row("Customer", source)["PrimaryPhone"]["FreeFormNumber"])


async def test_an_update_is_compared_before_it_is_sent(pair: Pair) -> None:
    """Somebody types the same number into both systems: there is nothing to write."""
    source, debtor = await linked(pair)
    writes = [*pair.exact.writes(), *pair.qbo.writes()]
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    pair.exact_edit("customer", debtor, Phone="+31205550001")
    await pair.run()
    assert [*pair.exact.writes(), *pair.qbo.writes()] == writes


@pytest.mark.parametrize("side", ["exact", "qbo"])
async def test_an_update_without_an_answer_is_settled_by_looking(pair: Pair, side: str) -> None:
    source, debtor = await linked(pair)
    if side == "exact":
        pair.exact.process.broken.add(Fault("lost_reply", method="PUT", path_prefix="/api/v1/1234567/crm/Accounts"))
        pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    else:
        path = "/v3/company/9130357849036726/customer"
        pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
        pair.exact_edit("customer", debtor, Phone="+31205550001")
    await pair.run()
    assert phone(pair, source) == "+31205550001"
    assert pair.exact.simulator.division.table("crm/Accounts").rows[debtor].values["Phone"] == "+31205550001"
    for account in (pair.exact, pair.qbo):
        assert not list(pair.state(account).open_intents())


async def test_a_deleted_debtor_switches_its_customer_off_and_once_is_enough(pair: Pair) -> None:
    source, debtor = await linked(pair)
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/v3/company/9130357849036726/customer"))
    pair.exact_edit("customer", debtor, _delete=True)
    await pair.run()
    assert pair.qbo.simulator.company.row("Customer", source)["Active"] is False
    assert pair.standing(DOWN, debtor).outcome is Outcome.DELETED
    version = pair.qbo.simulator.company.row("Customer", source)["SyncToken"]
    await pair.run()
    assert pair.qbo.simulator.company.row("Customer", source)["SyncToken"] == version


async def test_an_order_changed_after_its_invoice_was_made_changes_nothing_there(pair: Pair) -> None:
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    lamp = pair.exact.simulator.division.first("logistics/Items", "Code", "LAMP-1").id
    order = pair.exact_order(account, {"Item": lamp, "Quantity": 1, "NetPrice": 100, "VATCode": "2"}, PaymentCondition="30")
    pair.exact_edit("sales_order", order, DeliveryStatus=21)
    await pair.run()
    (sale,) = [row for row in pair.qbo.books() if row["number"]]
    line = pair.exact.simulator.division.table("salesorder/SalesOrderLines").by("OrderID", order)[0]
    pair.exact_edit("salesorder/SalesOrderLines", line.id, Description="engraved")
    await pair.run()
    assert pair.standing(INVOICES, order).standing is Standing.WRITTEN
    assert pair.standing(INVOICES, order).seq == pair.events("sales_order", "exact-nl")[-1].meta.seq, "the change was seen"
    assert [row for row in pair.qbo.books() if row["number"]] == [sale]


async def test_no_batch_is_ever_sent(pair: Pair) -> None:
    for number in range(3):
        pair.qbo_customer(f"Customer {number}", email=f"c{number}@x.test")
        pair.exact_item(f"NEW-{number}", f"New {number}")
    await pair.run()
    assert not any("batch" in call["path"] for call in pair.qbo.simulator.calls.since(0)["calls"])


async def test_a_second_link_to_one_debtor_is_for_a_person_to_decide(pair: Pair) -> None:
    source, _ = await linked(pair)
    twin = pair.qbo_customer("Van Dijk tweede", email=EMAIL)
    await pair.run()
    standing = pair.standing(UP, twin["value"])
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert source in standing.detail
