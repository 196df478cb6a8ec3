"""The connector against the simulator, over its transport alone: what neither a fake nor the contract suite shows."""

from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.core.errors import AccessDenied, CursorInvalid, MappingError, RateLimited, TransientError, WriteRejected
from bus.core.identity import create_key
from bus.kit.connector import Match, Position, RawRecord, StepResult, Write
from bus.kit.registry import Context
from bus.simulation.faults import Fault
from connectors.exact_online.connector import ExactOnlineConnector
from schemas import canon
from schemas.canon import ChargeType, CustomerKind, PriceMode
from schemas.system import IdempotencyClass, Resolved, ValueKind
from tests.contract.account import ContractAccount, customer, nl21
from tests.contract.exercises import EXERCISES

CONTACTS, ADDRESSES, PRICES, LINES = "crm/Contacts", "crm/Addresses", "logistics/SalesItemPrices", "salesorder/SalesOrderLines"
CONFIG: dict[str, Any] = {"kind_field": "Classification1", "order_charges": {"SHIPPING": "VERZEND"}}
RANGES: dict[str, Any] = {"code_range": [5_000_000, 5_999_999], "order_number_range": [700_000, 799_999]}


class Account(ContractAccount):
    """The contract's account, with a configuration of its own and a key per object as sinks make it."""

    async def configured(self, **config: Any) -> "Account":
        await self.open()
        self.configure(**config)
        return self

    def configure(self, **config: Any) -> None:
        """As a process that starts anew."""
        settings = self.loaded.config_class.model_validate({**self.process.info["config"], **CONFIG, **config})
        self.connector = self.loaded.connector_class(
            Context(connection="contract", config=settings, client=self.client, clock=self.clock)
        )

    def write_of(self, entity: str, document: Any, **more: Any) -> Write:
        write = super().write_of(entity, document, **more)
        key = create_key("exact", write.entity, write.source.id, write.facet, 0)
        return msgspec.structs.replace(write, key=key)

    def rows(self, path: str) -> list[Any]:
        return list(self.simulator.division.table(path).rows.values())  # type: ignore[attr-defined]

    def edit(self, entity: str, key: str, **fields: Any) -> None:
        self.simulator.edit(entity, key, fields)

    async def changes(self, stream: str, position: Position) -> tuple[list[RawRecord], Position]:
        self.simulator.clock.advance(60)
        return await self.poll(stream, position)

    async def one(self, entity: str, key: str) -> Any:
        record = await self.connector.fetch(entity, key)
        assert record is not None
        return self.connector.to_canonical(record)


Make = Callable[..., Awaitable[Account]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Account] = []

    async def build(orders: int = 12, config: dict[str, Any] | None = None, **options: Any) -> Account:
        account = Account("exact_online", EXERCISES["exact_online"], orders=orders, **options)
        made.append(account)
        return await account.configured(**(config or {}))

    yield build
    for account in made:
        await account.close()


def books(account: Account, kind: str) -> list[dict[str, Any]]:
    return account.simulator.books()[kind]  # type: ignore[no-any-return]


# --- reading -----------------------------------------------------------------------------------------------------------------


async def test_a_back_fill_agrees_with_the_books_to_the_cent(make: Make) -> None:
    account = await make(orders=300)
    records, _ = await account.poll("sales_order", None)
    read = {record.id: account.connector.to_canonical(record) for record in records}
    documents = books(account, "documents")
    assert len(documents) >= 90
    for item in documents:
        document: Any = read[item["id"]]
        assert document.totals.incl == Decimal(item["total_incl"]), item["id"]
        assert document.totals.excl == Decimal(item["total_excl"])
        by_rate = {f"{tax.rate_pct:.2f}": tax.amount for tax in document.vat_breakdown if tax.amount}
        assert by_rate == {rate: Decimal(vat) for rate, vat in item["vat_by_rate"].items() if Decimal(vat)}


@pytest.mark.parametrize("discount", [{"Discount": Decimal("0.1")}, {"AmountDiscountExclVat": 7}, {"AmountDiscount": 9}])
@pytest.mark.parametrize("currency", ["EUR", "SEK"])
async def test_a_header_discount_is_read_in_document_currency(make: Make, discount: dict[str, Any], currency: str) -> None:
    account = await make()
    made = await account.create_customer()
    write = await account.order(made.external_id)
    document = msgspec.structs.replace(write.document, currency=currency)  # type: ignore[type-var]
    result = await account.perform(msgspec.structs.replace(write, document=document))
    account.edit("sales_order", result.external_id, **discount)
    (item,) = [item for item in books(account, "documents") if item["id"] == result.external_id]
    (record,) = [r for r in (await account.poll("sales_order", None))[0] if r.id == result.external_id]
    read: Any = account.connector.to_canonical(record)
    assert read.totals.incl == Decimal(item["total_incl"])
    assert read.totals.lines - read.totals.allowances == read.totals.excl == Decimal(item["total_excl"])
    assert {f"{tax.rate_pct:.2f}": tax.amount for tax in read.vat_breakdown} == {
        rate: Decimal(vat) for rate, vat in item["vat_by_rate"].items()
    }


async def test_an_order_is_shown_when_its_lines_are_visible_and_not_before(make: Make) -> None:
    account = await make(line_delay_s=150)
    account.simulator.clock.advance(200)
    _, position = await account.poll("sales_order", None)
    made = await account.create_customer()
    result = await account.perform(await account.order(made.external_id))
    shown: list[list[str]] = []
    for _ in range(4):
        records, position = await account.changes("sales_order", position)
        shown.append([record.id for record in records])
    assert shown == [[], [], [result.external_id], []]


@pytest.mark.parametrize("restarted", [False, True])
async def test_deleted_parts_read_their_wholes_again(make: Make, restarted: bool) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    order = await account.perform(await account.order(made.external_id))
    positions = {name: (await account.poll(name, None))[1] for name in ("customer", "product", "sales_order")}
    if restarted:
        account.configure()
    price = account.rows(PRICES)[0]
    account.edit(CONTACTS, account.rows(CONTACTS)[-1].id, _delete=True)
    account.edit(PRICES, price.id, _delete=True)
    line = account.rows(LINES)[-1]
    account.edit(LINES, "new", OrderID=order.external_id, Item=line.values["Item"], Quantity=1, NetPrice=5, VATCode="2")
    account.edit(LINES, line.id, _delete=True)
    wholes = {"customer": made.external_id, "product": price.values["Item"], "sales_order": order.external_id}
    for stream, key in wholes.items():
        records, position = await account.changes(stream, positions[stream])
        assert key in [record.id for record in records], stream
        if not restarted:
            assert [record.id for record in records] == [key], stream
        again, _ = await account.changes(stream, position)
        assert again == []
    assert (await account.one("customer", made.external_id)).contacts == []
    assert [item.line_excl for item in (await account.one("sales_order", order.external_id)).lines] == [5]


async def test_a_deleted_customer_and_its_parts_are_one_delete(make: Make) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    _, position = await account.poll("customer", None)
    account.edit("customer", made.external_id, _delete=True)
    records, _ = await account.changes("customer", position)
    assert [(record.id, record.deleted) for record in records] == [(made.external_id, True)]


async def test_a_moved_division_is_read_anew(make: Make) -> None:
    account = await make()
    _, position = await account.poll("customer", None)
    account.edit("system/Divisions", "987654", DivisionMoveDate="2026-11-21")
    account.configure()
    with pytest.raises(CursorInvalid, match="moved"):
        await account.poll("customer", position)
    records, _ = await account.poll("customer", None)
    assert len(records) == len(books(account, "customers"))


async def test_extra_fields_and_pictures_of_items(make: Make) -> None:
    account = await make(config={"read_extra_fields": True})
    account.simulator.clock.advance(300)
    records, position = await account.poll("product", None)
    documents: dict[str, Any] = {record.id: account.connector.to_canonical(record) for record in records}
    rich = next(key for key, document in documents.items() if document.attributes)
    assert set(documents[rich].attributes) == {"Material", "Width"}
    assert documents[rich].images[0].media_type == "image/png"
    account.edit("product", rich, _extra=[[1, "Material", "Elm"]])
    (changed,), _ = await account.changes("product", position)
    assert account.connector.to_canonical(changed).attributes == {"Material": "Elm"}  # type: ignore[union-attr]


async def test_errors_stay_below_the_block(make: Make) -> None:
    account = await make(error_block=True, denied=("sync/crm",))
    for _ in range(20):
        with pytest.raises((AccessDenied, RateLimited)):
            await account.poll("customer", None)
    await account.poll("product", None)
    refused = [call for call in account.simulator.calls.since(0)["calls"] if call["status"] == 403]
    assert 0 < len(refused) <= 10


# --- customers ---------------------------------------------------------------------------------------------------------------


def with_people(name: str = "Papier en Inkt B.V.", **more: Any) -> canon.Customer:
    document = customer(name, "ap@inkt.test")
    assert isinstance(document.pii, canon.PartyPii)
    delivery = canon.Address(
        type=canon.AddressType.DELIVERY, line1="Loods 3", postal_code="3089 JB", city="Rotterdam", country_code="NL"
    )
    pii = msgspec.structs.replace(document.pii, addresses=[*document.pii.addresses, delivery])
    ines = canon.PartyPii(
        given_name="Ines", family_name="Calder", emails=[canon.ContactPoint(type="WORK", value="ines@inkt.test")]
    )
    contact = canon.Contact(id="1", is_main=True, pii=ines)
    return msgspec.structs.replace(document, **{"contacts": [contact], "pii": pii, "vat_number": "NL810433941B01", **more})


async def test_a_customer_with_its_people_and_places_reads_back_the_same(make: Make) -> None:
    account = await make()
    write = account.write_of("customer", with_people(), resolved=set_values(payment_term="30", vat_code="7"))
    result = await account.perform(write)
    assert result.record is not None
    assert result.as_sent
    read: Any = account.connector.to_canonical(result.record)
    assert (read.kind, read.company_name, read.vat_number) == (CustomerKind.COMPANY, "Papier en Inkt B.V.", "NL810433941B01")
    assert (read.payment_term.code, read.vat_profile.code, result.number) == ("30", "7", read.number)
    assert [(contact.is_main, contact.pii.given_name) for contact in read.contacts] == [(True, "Ines")]
    assert {address.type: address.city for address in read.pii.addresses} == {"BILLING": "Amsterdam", "DELIVERY": "Rotterdam"}


async def test_a_person_stays_a_person(make: Make) -> None:
    account = await make()
    document = msgspec.structs.replace(
        customer("", "zoe@vries.test"),
        kind=CustomerKind.PERSON,
        company_name=None,
        display_name=None,
        pii=canon.PartyPii(full_name="Zoë de Vries", emails=[canon.ContactPoint(type="HOME", value="zoe@vries.test")]),
    )
    result = await account.perform(account.write_of("customer", document))
    read = await account.one("customer", result.external_id)
    assert (read.kind, read.pii.full_name) == (CustomerKind.PERSON, "Zoë de Vries")


async def test_a_name_is_cut_at_fifty_and_that_is_as_sent(make: Make) -> None:
    account = await make()
    name = "Stichting Ondersteuning Ångström & Żółć-Çelebioğlu Groep"
    made = account.write_of("customer", customer(name, "x@y.test"))
    steps = account.connector.plan(made)
    result = await account.connector.perform(made, steps[0], {})
    assert result.as_sent
    assert (await account.one("customer", result.external_id)).company_name == name[:50].strip()


async def test_customers_are_found_by_their_own_and_their_peoples_addresses(make: Make) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    for email in ("ap@inkt.test", "ines@inkt.test"):
        assert [hit.record.id for hit in await account.connector.find("customer", Match(email=email))] == [made.external_id]
    (default,) = await account.connector.find("customer", Match(number="900001"))
    assert default.number == "900001"


async def test_an_update_of_one_field_writes_one_field(make: Make) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    write = msgspec.structs.replace(
        account.write_of("customer", with_people("Another name", registration_number="27123987")),
        action="update",
        fields=frozenset({"registration_number"}),
        external_id=made.external_id,
    )
    result = await account.perform(write)
    assert result.as_sent
    read = await account.one("customer", made.external_id)
    assert (read.company_name, read.registration_number) == ("Papier en Inkt B.V.", "27123987")


async def test_a_customer_who_moves_its_goods_and_moves_them_back_is_read_so(make: Make) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    for city in ("Breda", "Rotterdam"):
        document = with_people()
        places = [
            msgspec.structs.replace(place, city=city) if place.type is canon.AddressType.DELIVERY else place
            for place in document.pii.addresses  # type: ignore[union-attr]
        ]
        document = msgspec.structs.replace(document, pii=msgspec.structs.replace(document.pii, addresses=places))  # type: ignore[type-var]
        write = account.write_of("customer", document)
        update = msgspec.structs.replace(
            write, action="update", fields=frozenset({"address.DELIVERY"}), external_id=made.external_id
        )
        result = await account.perform(update)
        read: Any = account.connector.to_canonical(result.record)  # type: ignore[arg-type]
        assert [place.city for place in read.pii.addresses if place.type is canon.AddressType.DELIVERY] == [city]
    rows = [row.values for row in account.rows(ADDRESSES)]
    cities = [row["City"] for row in rows if row.get("Account") == made.external_id and row.get("Type") == 4]
    assert sorted(cities) == ["Breda", "Rotterdam"]


async def test_the_place_of_an_order_does_not_become_the_customers(make: Make) -> None:
    account = await make()
    made = await account.perform(account.write_of("customer", with_people()))
    order = await account.order(made.external_id)
    elsewhere = canon.Party(pii=canon.PartyPii(addresses=[canon.Address(line1="Dok Noord 7", city="Gent", country_code="BE")]))
    await account.perform(
        msgspec.structs.replace(order, document=msgspec.structs.replace(order.document, ship_to=elsewhere))  # type: ignore[type-var]
    )
    read = await account.one("customer", made.external_id)
    assert [place.city for place in read.pii.addresses if place.type is canon.AddressType.DELIVERY] == ["Rotterdam"]


async def test_a_product_is_made_inactive_and_switched_on(make: Make) -> None:
    account = await make()
    write = product_write(account)
    off = msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, active=False))  # type: ignore[type-var]
    made = await account.perform(off)
    assert (await account.one("product", made.external_id)).active is False
    fields = frozenset({"active"})
    await account.perform(msgspec.structs.replace(write, action="update", fields=fields, external_id=made.external_id))
    assert (await account.one("product", made.external_id)).active is True


async def test_a_customer_is_switched_off_and_found_inactive(make: Make) -> None:
    account = await make()
    made = await account.create_customer()
    off = msgspec.structs.replace(account.write_of("customer", customer()), action="deactivate", external_id=made.external_id)
    await account.perform(off)
    (hit,) = await account.connector.find("customer", Match(email="inkoop@vandijk.test"))
    assert hit.active is False


# --- unclear ends --------------------------------------------------------------------------------------------------------------


async def through_lost_replies(account: Account, write: Write) -> StepResult:
    """Every write's answer is lost; a step is then resolved by its class, as a sink does."""
    done: dict[str, StepResult] = {}
    primary = ""
    for step in account.connector.plan(write):
        account.process.broken.add(
            Fault("lost_reply", method="PUT" if step.idempotency is IdempotencyClass.REPEATABLE else "POST")
        )
        with pytest.raises(TransientError):
            await account.connector.perform(write, step, done)
        if step.idempotency is IdempotencyClass.REPEATABLE:
            found: StepResult | None = await account.connector.perform(write, step, done)
        else:
            found = await account.connector.search(write, step, done)
        assert found is not None, step.name
        done[step.name] = StepResult(external_id=found.external_id, detail=found.detail)
        primary = step.name if step.primary else primary
    return done[primary]


@pytest.mark.parametrize("config", [{}, RANGES], ids=["searched", "numbered"])
async def test_lost_answers_leave_one_of_everything(make: Make, config: dict[str, Any]) -> None:
    account = await make(config=config)
    paths = ("crm/Accounts", CONTACTS, ADDRESSES, "logistics/Items", PRICES, "salesorder/SalesOrders", LINES)
    before = {path: len(account.rows(path)) for path in paths}
    made = await through_lost_replies(account, account.write_of("customer", with_people()))
    await through_lost_replies(account, product_write(account))
    order = await account.order(made.external_id)
    ship_to = canon.Party(pii=canon.PartyPii(addresses=[canon.Address(line1="Dok Noord 7", city="Gent", country_code="BE")]))
    document = msgspec.structs.replace(order.document, ship_to=ship_to)  # type: ignore[type-var]
    result = await through_lost_replies(account, msgspec.structs.replace(order, document=document))
    # The account's own address is its visiting address there; a delivery address each for the customer and the order.
    more = {"crm/Accounts": 1, CONTACTS: 1, ADDRESSES: 3, "logistics/Items": 1, PRICES: 1, "salesorder/SalesOrders": 1, LINES: 1}
    assert {path: len(account.rows(path)) - count for path, count in before.items()} == more
    assert (await account.one("sales_order", result.external_id)).ship_to.pii.addresses[0].city == "Gent"


async def test_numbers_of_reserved_ranges_are_refused_twice(make: Make) -> None:
    account = await make(config=RANGES)
    write = account.write_of("customer", with_people())
    made = await account.perform(write)
    assert 5_000_000 <= int(made.number or 0) <= 5_999_999
    again = await account.perform(write)
    assert (again.external_id, again.replayed) == (made.external_id, True)
    order = await account.order(made.external_id)
    first = await account.perform(order)
    second = await account.perform(order)
    assert (second.external_id, second.replayed) == (first.external_id, True)
    assert 700_000 <= int(first.number or 0) <= 799_999
    assert len([item for item in books(account, "documents") if item["reference"] == "T-1001"]) == 1


# --- products ----------------------------------------------------------------------------------------------------------------


def set_values(**values: str) -> list[Resolved]:
    return [Resolved(name=name, kind=ValueKind.TEXT, value=value, rule="t") for name, value in values.items()]


PICTURE = canon.Image(sha256="ab" * 32, media_type="image/png", size_bytes=8)


def product_write(account: Account, vat_code: str = "2", **more: Any) -> Write:
    price = canon.ProductPrice(price_mode=PriceMode.EXCL, value=Decimal("79.50"), currency="EUR")
    document = canon.Product(sku="KRUK-1", name="Kruk", kind=canon.ProductKind.VIRTUAL, prices=[price], images=[PICTURE], **more)
    resolved = set_values(item_group="LAMP", vat_code=vat_code, unit="stuk")
    return account.write_of(
        "product", document, source_id="P1", resolved=resolved, pictures={PICTURE.sha256: b"\x89PNG\r\n\x1a\n"}
    )


async def test_a_product_with_price_group_and_picture(make: Make) -> None:
    account = await make()
    result = await account.perform(product_write(account))
    read = await account.one("product", result.external_id)
    assert (read.sku, read.prices[0].value, read.categories[0].code) == ("KRUK-1", Decimal("79.5"), "LAMP")
    assert (read.images[0].media_type, read.images[0].size_bytes) == ("image/png", 8)


async def test_a_price_under_an_including_code_reads_back_with_vat(make: Make) -> None:
    account = await make()
    result = await account.perform(product_write(account, vat_code="4"))
    (price,) = (await account.one("product", result.external_id)).prices
    assert (price.price_mode, price.value) == (PriceMode.INCL, Decimal("96.20"))


async def test_an_item_that_exists_is_named(make: Make) -> None:
    account = await make()
    first = await account.perform(product_write(account))
    with pytest.raises(WriteRejected) as error:
        await account.perform(product_write(account))
    assert error.value.existing_id == first.external_id


async def test_a_picture_and_a_price_are_replaced(make: Make) -> None:
    account = await make()
    made = await account.perform(product_write(account))
    write = product_write(account)
    price = canon.ProductPrice(price_mode=PriceMode.EXCL, value=Decimal("81"), currency="EUR")
    update = msgspec.structs.replace(
        write,
        action="update",
        external_id=made.external_id,
        fields=frozenset({"prices", "images"}),
        document=msgspec.structs.replace(write.document, prices=[price]),  # type: ignore[type-var]
        pictures={PICTURE.sha256: b"\x89PNG\r\n\x1a\nother"},
    )
    await account.perform(update)
    read = await account.one("product", made.external_id)
    assert ([item.value for item in read.prices], read.images[0].size_bytes) == ([Decimal(81)], 13)


# --- orders ------------------------------------------------------------------------------------------------------------------


def shipping(amount: str) -> canon.AllowanceCharge:
    return canon.AllowanceCharge(type=ChargeType.SHIPPING, amount=Decimal(amount), taxes=[nl21(Decimal(amount))])


async def order_with(account: Account, product: str, vat_code: str, **changes: Any) -> Write:
    """2 × 50.00 with 6.50 shipping, as the flow's rule says."""
    made = await account.create_customer()
    write = await account.order(made.external_id)
    values = [
        Resolved(name="vat_code", line_id=role, kind=ValueKind.TEXT, value=vat_code, rule="t") for role in ("1", "charge:0")
    ]
    document = msgspec.structs.replace(write.document, charges=[shipping("6.50")], **changes)  # type: ignore[type-var]
    kept = [item for item in write.resolved if item.name != "vat_code"]
    return msgspec.structs.replace(
        write, document=document, resolved=[*kept, *values], ids={**write.ids, "product:charge:0": product}
    )


async def shipping_item(account: Account) -> str:
    (hit,) = await account.connector.find("product", Match(sku="VERZEND"))
    return hit.record.id


@pytest.mark.parametrize("vat_code", ["2", "4"], ids=["excluding", "including"])
@pytest.mark.parametrize("as_charge", [True, False], ids=["order charge", "item"])
async def test_documents_with_shipping_come_out_exact(make: Make, vat_code: str, as_charge: bool) -> None:
    account = await make()
    write = await order_with(account, "ORDER_CHARGE" if as_charge else await shipping_item(account), vat_code)
    write = msgspec.structs.replace(
        write,
        document=msgspec.structs.replace(  # type: ignore[type-var]
            write.document,
            lines=[msgspec.structs.replace(item, line_incl=Decimal(121)) for item in write.document.lines],  # type: ignore[union-attr]
        ),
    )
    result = await account.perform(write)
    read = await account.one("sales_order", result.external_id)
    assert read.totals.incl == Decimal("128.87")
    assert [item.amount for item in read.charges] == ([Decimal("6.50")] if as_charge else [])
    assert len(read.lines) == (1 if as_charge else 2)


@pytest.mark.parametrize("currency", ["EUR", "SEK", "USD"])
@pytest.mark.parametrize("vat_code", ["2", "4"], ids=["excluding", "including"])
async def test_a_document_discount_comes_out_exact_in_any_currency(make: Make, currency: str, vat_code: str) -> None:
    account = await make()
    made = await account.create_customer()
    write = await account.order(made.external_id)
    goal = nl21(Decimal("90.00"))
    document = msgspec.structs.replace(
        write.document,  # type: ignore[type-var]
        currency=currency,
        lines=[msgspec.structs.replace(item, line_incl=Decimal("121.00")) for item in write.document.lines],  # type: ignore[union-attr]
        allowances=[canon.AllowanceCharge(type=ChargeType.DISCOUNT, amount=Decimal("10.00"))],
        vat_breakdown=[goal],
        totals=canon.Totals(excl=Decimal(90), vat=Decimal("18.90"), incl=Decimal("108.90")),
    )
    values = [Resolved(name="vat_code", line_id="1", kind=ValueKind.TEXT, value=vat_code, rule="t")]
    kept = [item for item in write.resolved if item.name != "vat_code"]
    result = await account.perform(msgspec.structs.replace(write, document=document, resolved=[*kept, *values]))
    read = await account.one("sales_order", result.external_id)
    assert (read.currency, read.totals.incl, read.totals.vat) == (currency, Decimal("108.90"), Decimal("18.90"))
    assert read.allowances == []


async def test_a_debtor_that_is_no_customer_is_refused(make: Make) -> None:
    account = await make()
    made = await account.create_customer()
    account.edit("customer", made.external_id, Status="P")
    with pytest.raises(WriteRejected):
        await account.perform(await account.order(made.external_id))


async def test_a_debtor_of_another_division_is_refused(make: Make) -> None:
    account = await make()
    with pytest.raises(WriteRejected):
        await account.perform(await account.order("00000000-0000-4000-8000-0000000000aa"))
    assert not [item for item in books(account, "documents") if item["reference"] == "T-1001"]


async def test_an_unknown_vat_code_sends_nothing(make: Make) -> None:
    account = await make()
    write = await order_with(account, await shipping_item(account), "99")
    with pytest.raises(MappingError, match="'99'"):
        await account.perform(write)
    assert not [item for item in books(account, "documents") if item["reference"] == "T-1001"]


async def test_an_existing_reference_is_found(make: Make) -> None:
    account = await make()
    made = await account.create_customer()
    first = await account.perform(await account.order(made.external_id))
    hits = await account.connector.find("sales_order", Match(reference="T-1001"))
    assert [(hit.record.id, hit.number) for hit in hits] == [(first.external_id, first.number)]


async def test_item_groups_are_not_written(make: Make) -> None:
    account = await make()
    with pytest.raises(MappingError, match="product_category"):
        account.connector.plan(account.write_of("product_category", canon.ProductCategory(name="Lamps")))


async def test_searches_that_lag_are_why_absence_needs_its_time(make: Make) -> None:
    account = await make(search_lag_s=120)
    write = account.write_of("customer", with_people())
    step = account.connector.plan(write)[0]
    account.process.broken.add(Fault("lost_reply", method="POST"))
    with pytest.raises(TransientError):
        await account.connector.perform(write, step, {})
    assert await account.connector.search(write, step, {}) is None
    settle_s = next(f.settle_s for f in ExactOnlineConnector.manifest.writes["customer"].steps if f.name == step.name)
    account.simulator.clock.advance(settle_s)
    assert await account.connector.search(write, step, {}) is not None
