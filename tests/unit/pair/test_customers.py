"""Customers both ways: kind, ownership, what is sent and what is not, echoes."""

from collections.abc import Callable
from typing import Any

import pytest

from bus.core import topics
from bus.simulation.faults import Fault
from connectors.exact_online.mapping.values import search_mark
from schemas.system import Cause, LinkState, ObjectRef, Outcome, Standing
from tests.unit.pair.rig import Pair, changed

Make = Callable[..., Pair]
EMAIL = "inkoop@vandijk.test"
DOWN, UP = "customers-exact-to-qbo", "customers-qbo-to-exact"
LONG = "Van Dijk Verlichting en Aanverwante Artikelen Groothandel B.V."
NAMES = {"company": ("Van Dijk B.V.", True), "person": ("Jan de Boer", False)}


async def joined(pair: Pair, name: str = "Van Dijk B.V.", *, company: bool = True, **fields: Any) -> tuple[str, str]:
    """A customer made in QuickBooks after the start, and the debtor that came of it."""
    await pair.run()
    ref = pair.qbo_customer(name, email=EMAIL, company=company, **fields)
    await pair.run()
    link = pair.state(pair.exact).link("customer", ObjectRef(connection="qbo-nl", entity="customer", id=ref["value"]))
    assert link is not None
    return ref["value"], link.external_id


def account(pair: Pair, account_id: str) -> dict[str, Any]:
    found: dict[str, Any] = pair.exact.simulator.division.table("crm/Accounts").rows[account_id].values
    return found


def customer(pair: Pair, customer_id: str) -> dict[str, Any]:
    found: dict[str, Any] = pair.qbo.simulator.company.row("Customer", customer_id)
    return found


def bodies(pair: Pair, path: str) -> list[str]:
    return [call for call in pair.exact.writes() if path in call]


# --- what a customer is ---


@pytest.mark.parametrize("kind", NAMES)
async def test_the_kind_is_written_to_the_classification(pair: Pair, kind: str) -> None:
    name, is_company = NAMES[kind]
    _, debtor = await joined(pair, name, company=is_company)
    assert account(pair, debtor)["Classification1"] == pair.classification(kind.upper())


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"Classification1": "PERSON", "VATNumber": "NL801234567B01"}, "PERSON"),
        ({"Classification1": "COMPANY"}, "COMPANY"),
        ({"VATNumber": "NL801234567B01"}, "COMPANY"),
        ({"ChamberOfCommerce": "12345678"}, "COMPANY"),
        ({}, "UNKNOWN"),
    ],
)
async def test_the_kind_is_read_from_the_classification_then_the_numbers(pair: Pair, fields: dict[str, str], kind: str) -> None:
    if "Classification1" in fields:
        fields = {**fields, "Classification1": pair.classification(fields["Classification1"])}
    debtor = pair.exact_account("Somebody", Email=EMAIL, **fields)
    await pair.run()
    (event,) = [event for event in pair.events("customer", "exact-nl") if event.meta.source_id == debtor]
    assert event.after.kind == kind


async def test_a_debtor_of_several_calls_is_whole(pair: Pair) -> None:
    ship = {"Line1": "Havenweg 8", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"}
    _, debtor = await joined(pair, "Jan de Boer", company=False, ShipAddr=ship)
    division = pair.exact.simulator.division
    (contact,) = division.table("crm/Contacts").by("Account", debtor)
    assert account(pair, debtor)["MainContact"] == contact.id
    assert (contact.values["LastName"], contact.values["Email"]) == ("Boer", EMAIL)
    places = [row.values["AddressLine1"] for row in division.table("crm/Addresses").by("Account", debtor)]
    assert "Havenweg 8" in places
    writes = [call.rpartition("/1234567/")[2].partition("(")[0] for call in pair.exact.writes()]
    assert writes == ["crm/Accounts", "crm/Contacts", "crm/Addresses", "crm/Accounts"]


async def test_projects_are_left_out(pair: Pair) -> None:
    parent, _ = await joined(pair)
    job = pair.qbo_customer("Verbouwing", Job=True, ParentRef={"value": parent}, BillWithParent=True)
    await pair.run()
    assert (pair.standing(UP, job["value"]).standing, pair.standing(UP, job["value"]).detail) == (Standing.FILTERED, "when")
    assert len(bodies(pair, "crm/Accounts")) == 1


# --- what the parts of a whole do ---


async def test_a_changed_contact_or_address_alone_reads_the_debtor_again(pair: Pair) -> None:
    debtor = pair.exact_account("Van Dijk", Email=EMAIL)
    contact = pair.exact_row("crm/Contacts", Account=debtor, FirstName="Anna", LastName="Bos", Email="anna@vandijk.test")
    await pair.run()
    before = len(pair.events("customer", "exact-nl"))
    pair.exact_edit("crm/Contacts", contact, Email="anna.bos@vandijk.test")
    await pair.run()
    pair.exact_row("crm/Addresses", Account=debtor, Type=4, AddressLine1="Havenweg 8", City="Amsterdam", Country="NL")
    await pair.run()
    events = pair.events("customer", "exact-nl")[before:]
    assert [event.meta.source_id for event in events] == [debtor, debtor]
    assert events[0].after.contacts[0].pii.emails[0].value == "anna.bos@vandijk.test"
    assert {address.type for address in events[1].after.pii.addresses} >= {"DELIVERY"}


# --- only what changed ---


async def test_a_phone_edited_in_exact_sends_neither_the_cut_name_nor_the_masked_number(pair: Pair) -> None:
    source, debtor = await joined(pair, LONG, PrimaryTaxIdentifier="NL801234567B01")
    assert account(pair, debtor)["Name"] == LONG[:50].strip()
    assert account(pair, debtor).get("VATNumber") is None, "a masked number is nobody's number"
    held = customer(pair, source)["SyncToken"]
    pair.exact_edit("customer", debtor, Phone="+31205559999")
    await pair.run()
    row = customer(pair, source)
    assert (row["DisplayName"], row["CompanyName"]) == (LONG, LONG)
    assert row["PrimaryTaxIdentifier"] == "NL801234567B01" or row["PrimaryTaxIdentifier"].endswith("B01")
    assert row["PrimaryPhone"]["FreeFormNumber"] == "+31205559999"
    assert int(row["SyncToken"]) == int(held) + 1
    assert pair.standing(DOWN, debtor).detail == "fields: phone"


async def test_a_number_known_to_exact_survives_an_edit_in_quickbooks(pair: Pair) -> None:
    source, debtor = await joined(pair, PrimaryTaxIdentifier="NL801234567B01")
    pair.exact_edit("customer", debtor, VATNumber="NL801234567B01")
    await pair.run()
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    assert account(pair, debtor)["VATNumber"] == "NL801234567B01"
    assert account(pair, debtor)["Phone"] == "+31205550001"
    assert pair.standing(UP, source).detail == "fields: phone"


async def test_neither_side_echoes(pair: Pair) -> None:
    source, debtor = await joined(pair)
    assert pair.standing(DOWN, debtor).detail == "echo"
    writes = [*pair.exact.writes(), *pair.qbo.writes()]
    for _ in range(3):
        pair.clock.advance(3_600)
        await pair.run()
    assert [*pair.exact.writes(), *pair.qbo.writes()] == writes
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    pair.exact_edit("customer", debtor, Phone="+31205550002")
    await pair.run()
    assert len([*pair.exact.writes(), *pair.qbo.writes()]) == len(writes) + 2


# --- ownership ---


async def test_exact_owns_the_address_it_owns_whatever_quickbooks_says(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.qbo_edit("Customer", source, PrimaryEmailAddr={"Address": "other@vandijk.test"})
    await pair.run()
    assert account(pair, debtor)["Email"] == EMAIL
    pair.exact_edit("customer", debtor, Email="boek@vandijk.test")
    await pair.run()
    assert customer(pair, source)["PrimaryEmailAddr"]["Address"] == "boek@vandijk.test"


async def test_the_last_change_wins_where_nobody_owns(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    assert account(pair, debtor)["Phone"] == "+31205550001"
    pair.exact_edit("customer", debtor, Phone="+31205550002")
    await pair.run()
    assert customer(pair, source)["PrimaryPhone"]["FreeFormNumber"] == "+31205550002"


async def test_a_name_edited_at_both_ends_is_not_taken_for_ours_when_only_its_sibling_was_written(pair: Pair) -> None:
    """Exact has one name for what QuickBooks has two: the later edit stays there, the other name is written beside it."""
    qbo_id, exact_id = await joined(pair)
    pair.exact_edit("customer", exact_id, Name="Edited First B.V.")
    pair.clock.advance(5)
    pair.qbo_edit("Customer", qbo_id, CompanyName="Edited Last B.V.")
    await pair.poll(pair.exact)
    pair.process()
    await pair.sink(pair.qbo)  # before QuickBooks is polled
    await pair.run()
    names = {row["id"]: row["name"] for row in pair.exact.books("customers")}
    assert names[exact_id] == "Edited Last B.V."


async def test_what_the_vendor_made_of_an_unheard_update_is_no_persons_edit(pair: Pair) -> None:
    """Exact cuts the name and the answer is lost: on the next attempt the cut name is neither a conflict nor sent back."""
    qbo_id, exact_id = await joined(pair)
    written = len(pair.qbo.writes())
    pair.qbo_edit("Customer", qbo_id, CompanyName=LONG)
    pair.exact.simulator.faults.add(Fault("lost_reply", method="PUT"))
    await pair.run()
    results = [pair.codec.decode("", record.value) for record in pair.log.topic(topics.RESULTS)]
    assert [result.conflicts for result in results if result.conflicts] == []
    assert {row["id"]: row["name"] for row in pair.exact.books("customers")}[exact_id] == LONG[:50].rstrip()
    assert len(pair.qbo.writes()) == written


async def test_an_order_never_updates_its_customer(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.exact_item("X-1", "X")
    pair.exact_edit("customer", debtor, Phone="+31205550002", AddressLine1="Nieuwe Weg 1", City="Breda", Country="NL")
    await pair.run()
    before = dict(account(pair, debtor))
    bill = {"Line1": "Oude Weg 9", "City": "Delft", "PostalCode": "2611 AA", "Country": "NL"}
    invoice = pair.sell(CustomerRef={"value": source}, BillAddr=bill)
    pair.pay(invoice)
    await pair.run()
    (order,) = pair.exact.books()
    assert order["customer_id"] == debtor
    assert {name: account(pair, debtor)[name] for name in ("Phone", "AddressLine1", "City")} == {
        name: before[name] for name in ("Phone", "AddressLine1", "City")
    }


# --- the start ---


async def test_existing_customers_are_linked_by_address_and_kind_and_none_is_made(pair: Pair) -> None:
    debtor = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL.upper())
    pair.qbo_customer("Alone B.V.", email="alone@x.test")
    await pair.run()
    assert pair.standing(UP, ref["value"]).external_id == debtor
    assert [row["number"] for row in pair.exact.books("customers")].count("900001") == 1
    assert not [call for call in [*pair.exact.writes(), *pair.qbo.writes()] if "ccount" in call or call.endswith("/customer")]


async def test_no_debtor_is_made_before_the_list_is_read_to_its_end(pair: Pair) -> None:
    """QuickBooks is read and mapped while Exact cannot be: everything waits, and goes on by itself."""
    await pair.poll(pair.qbo)
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    pair.clock.advance(61)
    await pair.poll(pair.qbo)
    invoice = pair.sell(CustomerRef=ref)
    pair.pay(invoice)
    pair.clock.advance(61)
    await pair.poll(pair.qbo)
    pair.process()
    await pair.sink(pair.exact)
    for flow, source in ((UP, ref["value"]), ("qbo-sales-to-exact-orders", invoice)):
        standing = pair.standing(flow, source)
        assert standing.standing is Standing.WAITING
        assert standing.cause in (Cause.BACKFILL_INCOMPLETE, Cause.MISSING_DEPENDENCY)
    assert pair.exact.writes() == []
    await pair.run()
    assert len(bodies(pair, "crm/Accounts")) == 1


async def test_our_records_find_and_the_vendor_confirms(pair: Pair) -> None:
    """A debtor that was made inactive after it was read is no match."""
    debtor = pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.run()
    pair.exact_edit("customer", debtor, EndDate="2026-01-01")
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    pair.clock.advance(61)
    await pair.poll(pair.qbo)
    pair.process()
    await pair.sink(pair.exact)
    standing = pair.standing(UP, ref["value"])
    assert standing.outcome is Outcome.CREATED
    assert standing.external_id != debtor


async def test_two_of_one_address_and_kind_are_for_a_person_to_decide(pair: Pair) -> None:
    for _ in range(2):
        pair.exact_account("Van Dijk", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.run()
    ref = pair.qbo_customer("Van Dijk B.V.", email=EMAIL)
    await pair.run()
    standing = pair.standing(UP, ref["value"])
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)


# --- idempotency ---


async def test_a_lost_answer_of_a_debtor_is_found_by_its_mark(pair: Pair) -> None:
    await pair.run()
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/crm/Accounts"))
    ref = pair.qbo_customer("Jan de Boer", email=EMAIL, company=False)
    await pair.run()
    rows = [row for row in pair.exact.books("customers") if row["email"] == EMAIL]
    assert [(row["contacts"], row["is_customer"]) for row in rows] == [(1, True)]
    source = ObjectRef(connection="qbo-nl", entity="customer", id=ref["value"])
    intent = pair.state(pair.exact).intent("customer", source)
    assert intent is not None
    assert account(pair, rows[0]["id"])["SearchCode"] == intent.steps[0].key
    assert str(intent.steps[0].key).startswith(search_mark("")[:3])
    assert intent.steps[0].body_hash


async def test_a_debtors_code_of_a_reserved_range_is_taken_once(make: Make) -> None:
    """A lost answer is settled by the code, which Exact refuses twice, and by no mark that a user may edit."""
    kind = "  kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    pair = make(changed((kind, kind + "\n  code_range: [5000000, 5999999]")))
    await pair.run()
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/crm/Accounts"))
    ref = pair.qbo_customer("Jan de Boer", email=EMAIL, company=False)
    await pair.run()
    (row,) = [row for row in pair.exact.books("customers") if row["email"] == EMAIL]
    assert 5_000_000 <= int(account(pair, row["id"])["Code"]) <= 5_999_999
    standing = pair.standing(UP, ref["value"])
    assert (standing.standing, standing.external_id) == (Standing.WRITTEN, row["id"])


async def test_a_stale_version_is_read_again_and_nothing_of_another_is_lost(pair: Pair) -> None:
    source, debtor = await joined(pair)
    fetch = pair.qbo.connector.fetch

    async def late(entity: str, external_id: str) -> Any:
        found = await fetch(entity, external_id)
        if entity == "customer" and not customer(pair, source).get("Notes"):
            pair.qbo_edit("Customer", source, Notes="edited in between")
        return found

    pair.qbo.connector.fetch = late  # type: ignore[method-assign]
    pair.exact_edit("customer", debtor, Phone="+31205559999")
    await pair.run()
    row = customer(pair, source)
    assert (row["Notes"], row["PrimaryPhone"]["FreeFormNumber"]) == ("edited in between", "+31205559999")


async def test_a_debtor_that_is_gone_is_retired_and_not_made_again(pair: Pair) -> None:
    source, debtor = await joined(pair)
    pair.exact_edit("customer", debtor, _delete=True)
    pair.qbo_edit("Customer", source, PrimaryPhone={"FreeFormNumber": "+31205550001"})
    await pair.run()
    link = pair.state(pair.exact).link("customer", ObjectRef(connection="qbo-nl", entity="customer", id=source))
    assert link is not None
    assert link.state is LinkState.RETIRED
    assert not [row for row in pair.exact.books("customers") if row["email"] == EMAIL]


async def test_nothing_answers_404_because_that_counts_as_an_error(pair: Pair) -> None:
    await joined(pair)
    assert await pair.exact.connector.fetch("customer", "00000000-0000-4000-8000-00000000dead") is None
    assert await pair.exact.connector.fetch("customer", "no id of Exact") is None
    statuses = {call["status"] for call in pair.exact.simulator.calls.since(0)["calls"]}
    assert statuses <= {200, 201, 204}


# --- currencies ---


async def test_a_debtor_known_in_another_currency_only_is_that_customer_and_no_second_one(pair: Pair) -> None:
    kronor = pair.qbo_customer("Van Dijk B.V.", email=EMAIL, CurrencyRef={"value": "SEK"})["value"]
    debtor = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    await pair.run()
    pair.exact_edit("customer", debtor, Remarks="betaalt altijd op tijd")
    await pair.run()
    assert customer(pair, kronor)["Notes"] == "betaalt altijd op tijd"
    assert [row["id"] for row in pair.qbo.books("customers")] == [kronor]
    link = pair.state(pair.qbo).link("customer", ObjectRef(connection="exact-nl", entity="customer", id=debtor), "SEK")
    assert link is not None
    assert link.external_id == kronor
