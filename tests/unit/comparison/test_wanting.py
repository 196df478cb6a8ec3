"""A source object is compared in the form its event has on the log, sealed as processors get it."""

from decimal import Decimal
from typing import Any

from bus.core.clock import FrozenClock
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey, Privacy
from bus.runtime.state import AccountState, link_key
from schemas import canon
from schemas.system import LinkedBy, LinkRecord, LinkState, ObjectRef, StateRecord
from services.comparison.reconciling import route_of
from services.comparison.wanting import Wanting
from tests.unit.pair.rig import EXACT, INVOICES, QBO, accepted, example


def wanting(flow: str, state: AccountState | None = None) -> Wanting:
    route = route_of(accepted(example()), 1, flow)
    privacy = Privacy(MasterKey(bytes(32)), clock=FrozenClock())
    source = state or AccountState(route.flow.from_.connection)
    return Wanting(route, "acme", "fake", source, privacy, Codec.offline(), FrozenClock())


async def test_an_amount_has_the_digits_it_has_on_the_log() -> None:
    live = canon.Product(
        sku="A-1",
        name="Lamp",
        kind=canon.ProductKind.SIMPLE,
        prices=[canon.ProductPrice(value=Decimal("79.95"), currency="EUR", price_mode=canon.PriceMode.EXCL)],
    )
    wanted = await wanting("products-exact-to-qbo").of("1", live)
    assert wanted.is_wanted
    document: Any = wanted.document
    assert str(document.prices[0].value) == "79.95000000"


async def test_personal_data_is_sealed_for_the_flow_and_open_for_the_comparison() -> None:
    pii = canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value="jan@deboer.test")], full_name="Jan de Boer")
    wanted = await wanting("customers-exact-to-qbo").of("1", canon.Customer(kind=canon.CustomerKind.PERSON, pii=pii))
    document: Any = wanted.document
    assert document.pii == pii
    assert document.email_index, "as processors get it"


async def test_what_cannot_be_put_on_the_log_is_told_and_stops_nobody() -> None:
    wanted = await wanting("products-exact-to-qbo").of("1", canon.Product(sku="A", weight_g=Decimal("1e40")))
    assert not wanted.is_wanted
    assert wanted.cause is not None


async def test_a_document_of_the_buss_own_is_no_source_for_where_it_came_from() -> None:
    state = AccountState(EXACT)
    source = ObjectRef(connection=QBO, entity="sales_invoice", id="Invoice:1")
    link = LinkRecord(source=source, entity="sales_order", external_id="9", state=LinkState.ACTIVE, linked_by=LinkedBy.CREATED)
    state.apply(link_key(EXACT, "sales_order", source, None), StateRecord(connection=EXACT, link=link))
    order = canon.SalesOrder(number="9", currency="EUR")
    wanted = await wanting(INVOICES, state).of("9", order)
    assert (wanted.is_refused, wanted.reason) == (True, "origin")
    assert (await wanting(INVOICES).of("9", order)).reason == "when"
