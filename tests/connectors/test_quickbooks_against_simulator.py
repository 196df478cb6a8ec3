"""The connector against the simulator, over its transport alone: what neither a fake nor the contract suite shows."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.core.errors import TransientError, WriteConflict, WriteRejected
from bus.core.identity import create_key
from bus.kit.connector import Match, StepResult, Write
from bus.simulation.faults import Fault
from schemas import canon
from schemas.canon import ChargeType, LineType, PaymentStatus
from schemas.system import Resolved, ValueKind
from tests.contract.account import ContractAccount, customer, nl21
from tests.contract.exercises import EXERCISES


class Account(ContractAccount):
    """The contract's account, with a key per object as sinks make it."""

    def write_of(self, entity: str, document: Any, **more: Any) -> Write:
        write = super().write_of(entity, document, **more)
        return self.keyed(write, 0)

    def keyed(self, write: Write, generation: int) -> Write:
        key = create_key("qbo", write.entity, write.source.id, write.facet, generation)
        return msgspec.structs.replace(write, key=key, generation=generation)


@pytest.fixture
async def account() -> AsyncIterator[Account]:
    made = Account("quickbooks", EXERCISES["quickbooks"], orders=150)
    await made.open()
    yield made
    await made.close()


def books(account: Account, kind: str) -> list[dict[str, Any]]:
    return account.simulator.books()[kind]  # type: ignore[no-any-return]


async def test_a_back_fill_agrees_with_the_books_to_the_cent(account: Account) -> None:
    records, _ = await account.poll("cdc", None)
    read = {
        record.id.partition(":")[2]: account.connector.to_canonical(record)
        for record in records
        if record.entity == "sales_invoice"
    }
    documents = [item for item in books(account, "documents") if item["id"].rpartition(":")[2] in read]
    assert len(documents) >= 100
    for item in documents:
        document = read[item["id"].rpartition(":")[2]]
        assert document.totals.incl == Decimal(item["total_incl"]), item["id"]  # type: ignore[union-attr]
        by_rate = {f"{tax.rate_pct:.2f}": tax.amount for tax in document.vat_breakdown if tax.amount}  # type: ignore[union-attr]
        assert by_rate == {rate: Decimal(vat) for rate, vat in item["vat_by_rate"].items() if Decimal(vat)}


async def test_paid_is_only_what_money_paid(account: Account) -> None:
    records, _ = await account.poll("cdc", None)
    sales = [account.connector.to_canonical(record) for record in records if record.entity == "sales_invoice"]
    assert {sale.payment_status for sale in sales} >= {PaymentStatus.PAID, PaymentStatus.PARTIAL, PaymentStatus.UNPAID}  # type: ignore[union-attr]
    for sale in sales:
        if sale.payment_status is PaymentStatus.PAID:  # type: ignore[union-attr]
            assert sum(payment.amount for payment in sale.payments) >= sale.totals.incl  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["INVOICE", "RECEIPT", "ESTIMATE"])
async def test_documents_with_shipping_come_out_exact(account: Account, kind: str) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id, reference=f"T-{kind}")
    charge = canon.AllowanceCharge(type=ChargeType.SHIPPING, amount=Decimal("6.50"), taxes=[nl21(Decimal("6.50"))])
    document = msgspec.structs.replace(write.document, charges=[charge])  # type: ignore[type-var]
    vat_code = Resolved(name="vat_code", line_id="charge:0", kind=ValueKind.TEXT, value="NL 21% S", rule="t")
    ids = {**write.ids, "product:charge:0": "SHIPPING_ITEM_ID"}
    resolved = [*write.resolved, vat_code]
    write = msgspec.structs.replace(write, document=document, document_type=kind, ids=ids, resolved=resolved)
    result = await account.perform(write)
    assert result.external_id.startswith({"INVOICE": "Invoice:", "RECEIPT": "SalesReceipt:", "ESTIMATE": "Estimate:"}[kind])
    assert result.number == f"T-{kind}"
    assert result.record is not None
    answered = account.connector.to_canonical(result.record)
    assert answered.totals.incl == Decimal("128.87")  # type: ignore[union-attr]
    assert [item.amount for item in answered.charges] == [Decimal("6.50")]  # type: ignore[union-attr]
    fetched = await account.connector.fetch("sales_invoice", result.external_id)
    assert fetched is not None
    assert account.connector.to_canonical(fetched) == answered, "the answer of a write is the whole object"


async def test_text_lines_and_effective_prices_are_taken(account: Account) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id)
    (line,) = write.document.lines  # type: ignore[union-attr]
    lines = [
        msgspec.structs.replace(line, quantity=Decimal(3), unit_price_excl=Decimal("24.95"), line_excl=Decimal("67.37")),
        canon.Line(line_id="2", line_no=2, line_type=LineType.TEXT, name="with thanks", quantity=Decimal(0)),
    ]
    result = await account.perform(msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, lines=lines)))  # type: ignore[type-var]
    assert result.record is not None
    sold, text = account.connector.to_canonical(result.record).lines  # type: ignore[union-attr]
    assert (sold.quantity, sold.line_excl, text.name) == (3, Decimal("67.37"), "with thanks")


async def test_a_lost_answer_of_a_document_is_found_and_never_made_twice(account: Account) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id)
    (step,) = account.connector.plan(write)
    assert await account.connector.search(write, step, {}) is None
    account.process.broken.add(Fault("lost_reply", method="POST"))
    with pytest.raises(TransientError):
        await account.connector.perform(write, step, {})
    found = await account.connector.search(write, step, {})
    assert found is not None
    again = await account.connector.perform(write, step, {})
    assert again.external_id == found.external_id
    assert [item["id"] for item in books(account, "documents") if "T-1001" in (item["number"], item["reference"])] != []
    assert len([item for item in books(account, "documents") if item["number"] == "T-1001"]) == 1


async def test_an_existing_number_is_found_and_named(account: Account) -> None:
    made = await account.create_customer()
    first = await account.perform(await account.order(made.external_id))
    hits = await account.connector.find("sales_invoice", Match(reference="T-1001"))
    assert [hit.record.id for hit in hits] == [first.external_id]
    with pytest.raises(WriteRejected) as error:
        await account.perform(await account.order(made.external_id, source_id="O2"))
    assert (error.value.code, error.value.existing_id) == ("6140", first.external_id)


async def test_a_taken_name_gets_a_suffix_and_makes_a_second_customer(account: Account) -> None:
    first = await account.create_customer()
    twin = account.write_of("customer", customer(email="other@vandijk.test"), source_id="S2")
    with pytest.raises(WriteRejected) as error:
        await account.perform(twin)
    assert (error.value.code, error.value.regenerate) == ("6240", True)
    second = await account.perform(account.keyed(twin, 1))
    assert second.external_id != first.external_id
    assert second.record is not None
    assert account.connector.to_canonical(second.record).display_name == "Van Dijk Verlichting B.V. (C-77)"  # type: ignore[union-attr]


async def test_one_customer_per_currency(account: Account) -> None:
    await account.create_customer()
    sek = account.write_of("customer", customer(), facet="SEK")
    made = await account.perform(sek)
    assert made.record is not None
    document = account.connector.to_canonical(made.record)
    assert (document.currency, document.display_name) == ("SEK", "Van Dijk Verlichting B.V. SEK")  # type: ignore[union-attr]


async def test_a_repeated_request_answers_the_first_answer(account: Account) -> None:
    write = account.write_of("customer", customer())
    first: StepResult = await account.perform(write)
    account.simulator.clock.advance(1800)
    again = await account.perform(write)
    assert (again.external_id, again.replayed) == (first.external_id, True)


async def test_a_repeated_request_of_a_deleted_document_says_so(account: Account) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id)
    first = await account.perform(write)
    account.simulator.edit("sales_invoice", first.external_id, account.exercise.deletes["sales_invoice"])
    account.simulator.clock.advance(1800)
    again = await account.perform(write)
    assert again.record is not None
    assert (again.external_id, again.record.deleted) == (first.external_id, True)


async def test_somebody_elses_edit_is_a_conflict(account: Account) -> None:
    made = await account.create_customer()
    known = await account.connector.fetch("customer", made.external_id)
    assert known is not None
    account.simulator.edit("customer", made.external_id, {"Notes": "edited meanwhile"})
    write = msgspec.structs.replace(
        account.write_of("customer", customer(email="n@vandijk.test")),
        action="update",
        fields=frozenset({"email"}),
        external_id=made.external_id,
        known=known,
    )
    with pytest.raises(WriteConflict):
        await account.perform(write)


async def test_a_customer_is_switched_off_and_found_inactive(account: Account) -> None:
    made = await account.create_customer()
    known = await account.connector.fetch("customer", made.external_id)
    write = account.write_of("customer", customer())
    off = msgspec.structs.replace(write, action="deactivate", external_id=made.external_id, known=known)
    result = await account.perform(off)
    assert result.record is not None
    document = account.connector.to_canonical(result.record)
    assert (document.active, document.display_name) == (False, "Van Dijk Verlichting B.V.")  # type: ignore[union-attr]
    (found,) = await account.connector.find("customer", Match(email="inkoop@vandijk.test"))
    assert found.active is False


async def test_vat_numbers_come_back_masked_and_stay_absent(account: Account) -> None:
    result = await account.perform(account.write_of("customer", customer(vat_number="NL801234567B01")))
    assert result.record is not None
    assert b"NL801234567B01" not in result.record.raw
    assert account.connector.to_canonical(result.record).vat_number is None  # type: ignore[union-attr]


def priced(name: str, sku: str) -> canon.Product:
    price = canon.ProductPrice(price_mode=canon.PriceMode.EXCL, value=Decimal("31.5"), currency="EUR")
    return canon.Product(sku=sku, name=name, description_long="Bright", prices=[price], images=[PICTURE])


PICTURE = canon.Image(sha256="ab" * 32, media_type="image/png", size_bytes=4)
INCOME = Resolved(name="income_account", kind=ValueKind.TEXT, value="Sales of Product Income", rule="t")


async def test_a_product_with_category_and_picture(account: Account) -> None:
    category = await account.perform(account.write_of("product_category", canon.ProductCategory(name="Lamps"), source_id="G1"))
    document = msgspec.structs.replace(priced("Desk lamp", "LAMP-1"), categories=[canon.Ref(id="G1")])
    write = account.write_of(
        "product",
        document,
        source_id="P1",
        resolved=[INCOME],
        ids={"category:G1": category.external_id},
        pictures={PICTURE.sha256: b"\x89PNG"},
    )
    result = await account.perform(write)
    assert result.record is not None
    product = account.connector.to_canonical(result.record)
    assert (product.sku, product.kind, product.prices[0].value) == ("LAMP-1", "VIRTUAL", Decimal("31.5"))  # type: ignore[union-attr]
    assert [ref.code for ref in product.categories] == ["Lamps"]  # type: ignore[union-attr]
    picture = account.connector.plan(write)[1]
    found = await account.connector.search(write, picture, {"create": result})
    assert found is not None
    again = await account.connector.perform(write, picture, {"create": result})
    assert (again.external_id, again.replayed) == (found.external_id, True)


async def test_item_names_are_unique_and_a_sku_tells_whose_they_are(account: Account) -> None:
    first = await account.perform(account.write_of("product", priced("Lamp", "L-1"), source_id="P1", resolved=[INCOME]))
    other = account.write_of("product", priced("Lamp", "L-2"), source_id="P2", resolved=[INCOME])
    with pytest.raises(WriteRejected) as error:
        await account.perform(other)
    assert error.value.regenerate
    second = await account.perform(account.keyed(other, 1))
    assert second.record is not None
    assert account.connector.to_canonical(second.record).name == "Lamp (L-2)"  # type: ignore[union-attr]
    same = await account.perform(account.write_of("product", priced("Lamp", "L-1"), source_id="P3", resolved=[INCOME]))
    assert (same.external_id, same.replayed) == (first.external_id, True)
