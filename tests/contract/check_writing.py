"""Writes: what is asked and nothing else, once, and exactly."""

import contextlib
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import TransientError, WriteConflict, WriteRejected
from bus.kit.connector import Match, Step, StepResult, Write
from bus.simulation.faults import Fault
from schemas import canon
from schemas.system import IdempotencyClass
from tests.contract.account import ContractAccount, customer, nl21
from tests.contract.asserting import ends_in, something

FOUND_AGAIN = (IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID)
DECIMALS_MAX = 8


# --- finding -----------------------------------------------------------------------------------------------------------------


async def check_a_created_customer_can_be_found_and_fetched(account: ContractAccount) -> None:
    made = await account.create_customer()
    assert made.record is not None, "the last step carries the written object"
    found = await account.connector.find("customer", Match(email="inkoop@vandijk.test"))
    assert [item.record.id for item in found] == [made.external_id]
    assert not await account.connector.find("customer", Match(email="verkoop@vandijk.test")), "nobody has that address"
    fetched = await account.connector.fetch("customer", made.external_id)
    assert fetched is not None
    document = account.connector.to_canonical(fetched)
    assert document.pii.emails[0].value == "inkoop@vandijk.test"  # type: ignore[union-attr]
    assert await account.connector.fetch("customer", made.external_id + "0") is None


async def check_every_declared_match_key_finds_its_object(account: ContractAccount) -> None:
    for entity, writes in account.manifest.writes.items():
        write = await account.creation(entity)
        made = await account.perform(write)
        _, document = await account.whole_of(entity, made)
        for key in writes.match:
            value = key_of(key, write, made, document)
            found = await account.connector.find(entity, Match(**{key: value}))
            assert [item.record.id for item in found] == [made.external_id], f"{entity} by {key} {value!r}"
            other = "NL003563200B43" if key == "vat_number" else f"0{value}" if key == "number" else f"no {value}"
            assert not await account.connector.find(entity, Match(**{key: other})), f"{entity} by {key}: {other!r} was found"
    assert any(writes.match for writes in account.manifest.writes.values())


def key_of(key: str, write: Write, made: StepResult, document: Any) -> str:
    """The value of a match key as the object has it."""
    values: dict[str, Callable[[], Any]] = {
        "email": lambda: write.document.pii.emails[0].value,  # type: ignore[union-attr]
        "vat_number": lambda: document.vat_number,
        "reference": lambda: write.reference,
        "number": lambda: made.number or getattr(document, "number", None) or document.display_name or document.pii.full_name,
        "name": lambda: document.name if hasattr(document, "name") else document.display_name or document.pii.full_name,
        "sku": lambda: document.sku,
        "gtin": lambda: document.gtin,
    }
    value = values[key]()
    assert value, f"{write.entity} has no {key}"
    return str(value)


async def check_a_written_record_is_the_object_as_it_stands(account: ContractAccount) -> None:
    """The bus takes a write's answer for what the next poll will see: a difference would be an edit nobody made."""
    for entity in account.manifest.writes:
        made = await account.perform(await account.creation(entity))
        assert made.record is not None, f"{entity}: the last step carries the written object"
        _, document = await account.whole_of(entity, made)
        assert account.connector.to_canonical(made.record) == document, f"{entity}: the answer differs from what stands there"
        polled = await polled_one(account, entity, made)
        assert polled == document, f"{entity}: a poll sees something else than the answer of the write"


async def polled_one(account: ContractAccount, entity: str, made: StepResult) -> Any:
    for stream in account.manifest.streams:
        if entity in stream.entities:
            records, _ = await account.poll(stream.name, None)
            return next(
                (
                    account.connector.to_canonical(record)
                    for record in records
                    if (record.entity, record.id) == (entity, made.external_id)
                ),
                None,
            )
    raise AssertionError(f"{entity} is written and never read")


# --- changing ----------------------------------------------------------------------------------------------------------------


async def check_an_update_changes_what_it_names_and_nothing_else(account: ContractAccount) -> None:
    made = await account.create_customer()
    known, before = await account.whole_of("customer", made)
    wanted = customer("Some other name", "new@vandijk.test")
    write = account.change("update", made, account.write_of("customer", wanted), known, fields=frozenset({"email"}))
    result = await account.perform(write)
    assert result.record is not None
    _, after = await account.whole_of("customer", made)
    assert account.connector.to_canonical(result.record) == after, "the answer differs from what stands there"
    assert after.pii.emails[0].value == "new@vandijk.test"
    assert after.company_name == before.company_name
    assert after.pii.full_name == before.pii.full_name
    assert after.pii.phones == before.pii.phones


async def check_an_edit_in_between_is_not_overwritten(account: ContractAccount) -> None:
    """Somebody edits what an update does not name, after it was read: a conflict, or both changes stand."""
    made = await account.create_customer()
    known, before = await account.whole_of("customer", made)
    account.simulator.edit("customer", made.external_id, account.exercise.edits["customer"])
    _, edited = await account.whole_of("customer", made)
    assert edited != before, "the edit does not show"
    wanted = msgspec.structs.replace(before, pii=customer(email="new@vandijk.test").pii)
    write = account.change("update", made, account.write_of("customer", wanted), known, fields=frozenset({"email"}))
    with contextlib.suppress(WriteConflict):
        await account.perform(write)
    _, after = await account.whole_of("customer", made)
    kept = msgspec.structs.replace(after, pii=msgspec.structs.replace(after.pii, emails=edited.pii.emails))
    assert kept == edited, "somebody's edit was overwritten"


async def check_a_stale_version_is_a_conflict(account: ContractAccount) -> None:
    """What changed since it was read is read again and compared: neither written over nor refused for good."""
    proven = 0
    for entity, writes in account.manifest.writes.items():
        if "update" not in writes.actions:
            continue
        write = await account.creation(entity)
        made = await account.perform(write)
        known, _ = await account.whole_of(entity, made)
        if known.version is None:
            continue
        changed = renamed(write.document)
        fields = frozenset({"name", "display_name", "company_name"})
        update = account.change("update", made, write, known, document=changed, fields=fields)
        await account.perform(update)
        again = msgspec.structs.replace(update, document=renamed(changed))
        with ends_in(WriteConflict, what=f"{entity}: an update of a version that is gone"):
            await account.perform(again)
        proven += 1
    something(proven, "no object has a version")


async def check_a_deactivated_object_is_found_inactive(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        if "deactivate" not in writes.actions:
            continue
        write = await account.creation(entity)
        made = await account.perform(write)
        known, document = await account.whole_of(entity, made)
        assert document.active, entity
        await account.perform(account.change("deactivate", made, write, known))
        _, after = await account.whole_of(entity, made)
        assert not after.active, f"{entity}: still active"
        for key in [key for key in ("sku", "email") if key in writes.match]:
            await found_inactive(account, entity, key, key_of(key, write, made, document), made)
        proven += 1
    something(proven, "nothing can be deactivated")


async def found_inactive(account: ContractAccount, entity: str, key: str, value: str, made: StepResult) -> None:
    found = await account.connector.find(entity, Match(**{key: value}))
    assert (made.external_id, False) in [(item.record.id, item.active) for item in found], (
        f"{entity} by {key}: an inactive one that is not found would be made again"
    )


async def check_an_inactive_object_is_found_by_its_name(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        for key in [key for key in ("name", "number", "vat_number", "gtin") if key in writes.match]:
            if "deactivate" not in writes.actions:
                continue
            write = await account.creation(entity, f"I-{key}")
            made = await account.perform(write)
            known, document = await account.whole_of(entity, made)
            await account.perform(account.change("deactivate", made, write, known))
            await found_inactive(account, entity, key, key_of(key, write, made, document), made)
            proven += 1
    something(proven, "nothing is found by a name or number")


async def check_repeating_a_repeatable_step_changes_nothing(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        for action in [action for action in ("update", "deactivate") if action in writes.actions]:
            write = await account.creation(entity, f"R{action}")
            made = await account.perform(write)
            known, document = await account.whole_of(entity, made)
            changed = renamed(write.document)
            facts = {
                "document": changed,
                "fields": frozenset({"name", "display_name", "full_name", "given_name", "company_name"}),
            }
            change = account.change(action, made, write, known, **(facts if action == "update" else {}))
            (step,) = account.connector.plan(change)
            assert step.idempotency is IdempotencyClass.REPEATABLE, f"{entity}: {action}"
            await account.perform(change)
            known, once = await account.whole_of(entity, made)
            assert once != document, f"{entity}: {action} did nothing"
            await account.perform(msgspec.structs.replace(change, known=known))
            _, twice = await account.whole_of(entity, made)
            assert twice == once, f"{entity}: {action} is not repeatable"
            proven += 1
    something(proven, "nothing is repeatable")


def renamed(document: Any) -> Any:
    if isinstance(document, canon.Customer):
        assert isinstance(document.pii, canon.PartyPii)
        pii = msgspec.structs.replace(document.pii, given_name="Grace")
        name = f"{document.display_name} II"
        return msgspec.structs.replace(document, company_name=name, display_name=name, pii=pii)
    return msgspec.structs.replace(document, name=f"{document.name} II")


# --- once --------------------------------------------------------------------------------------------------------------------


async def check_a_lost_answer_leaves_one_object(account: ContractAccount) -> None:
    write = account.write_of("customer", customer())
    steps = account.connector.plan(write)
    step = next(step for step in steps if step.primary)
    account.process.broken.add(Fault("lost_reply", method="POST"))
    with ends_in(TransientError, what="a lost answer") as met:
        await account.connector.perform(write, step, {})
    assert getattr(met[0], "sent", True), "a lost answer may have been sent"
    before = len(account.simulator.books()["customers"])
    found = await settled(account, write, step, {})
    assert len(account.simulator.books()["customers"]) == before
    assert found.external_id in {item["id"] for item in account.simulator.books()["customers"]}


async def settled(account: ContractAccount, write: Write, step: Step, done: dict[str, StepResult]) -> StepResult:
    """What a sink does after an unclear end, by the step's class."""
    if step.idempotency in (IdempotencyClass.KEY, IdempotencyClass.REPEATABLE):
        return await repeated(account, write, step, done)
    found = await account.connector.search(write, step, done)
    assert found is not None, f"{write.entity} {step.name}: what a lost answer made was not found"
    return found


async def repeated(account: ContractAccount, write: Write, step: Step, done: dict[str, StepResult]) -> StepResult:
    """The same call again, which the vendor must know as the same."""
    try:
        return await account.connector.perform(write, step, done)
    except WriteRejected as refusal:
        raise AssertionError(f"{write.entity} {step.name}: the same call was taken for another: {refusal}") from refusal


async def check_a_lost_answer_at_any_step_leaves_one_of_each(account: ContractAccount) -> None:
    """Each step of each create loses its answer once; what stands there in the end is what an undisturbed write makes."""
    for entity in account.manifest.writes:
        undisturbed = await account.creation(entity, "U1")
        before = account.written()
        await account.perform(undisturbed)
        expected = grown(account, before)
        assert expected, f"{entity}: nothing was made"
        for broken in account.connector.plan(undisturbed):
            write = await account.creation(entity, f"L-{broken.name}")
            before, done = account.written(), dict[str, StepResult]()
            for step in account.connector.plan(write):
                if step.name != broken.name:
                    done[step.name] = await account.connector.perform(write, step, done)
                    continue
                verb = "PUT" if step.idempotency is IdempotencyClass.REPEATABLE else "POST"
                account.process.broken.add(Fault("lost_reply", method=verb))
                with ends_in(TransientError, what=f"{entity} {step.name}: a lost answer"):
                    await account.connector.perform(write, step, done)
                done[step.name] = await settled(account, write, step, done)
            assert grown(account, before) == expected, f"{entity}: a lost answer at {broken.name} made other objects"


def grown(account: ContractAccount, before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in account.written().items() if count != before.get(name, 0)}


async def check_a_replayed_key_makes_nothing_new(account: ContractAccount) -> None:
    """KEY: the same call again is answered by the same object, and another key by another one."""
    proven = 0
    for entity in account.manifest.writes:
        write = await account.creation(entity)
        step = next(step for step in account.connector.plan(write) if step.primary)
        if step.idempotency is not IdempotencyClass.KEY:
            continue
        assert step.key == write.key, f"{entity}: the key is the write's own, or a restart would not know it"
        first = await account.connector.perform(write, step, {})
        before = account.written()
        again = await repeated(account, write, step, {})
        assert again.external_id == first.external_id
        assert grown(account, before) == {}, f"{entity}: one key made two objects"
        other = await account.creation(entity, "N2")
        assert other.key != write.key
        made = await account.connector.perform(other, next(step for step in account.connector.plan(other) if step.primary), {})
        assert made.external_id != first.external_id
        proven += 1
    something(proven, "no step has an idempotency key")


async def check_a_search_for_what_was_never_made_finds_nothing(account: ContractAccount) -> None:
    proven = 0
    for entity in account.manifest.writes:
        write = await account.creation(entity)
        await account.perform(sibling(write, await account.creation(entity, "SIB")))
        done: dict[str, StepResult] = {}
        for step in account.connector.plan(write):
            if step.idempotency in FOUND_AGAIN:
                found = await account.connector.search(write, step, done)
                assert found is None, f"{entity} {step.name}: something else was taken for what was never made"
                proven += 1
            done[step.name] = await account.connector.perform(write, step, done)
    assert proven, "nothing is ever searched"


def sibling(write: Write, other: Write) -> Write:
    """Another object as like as can be: a document of the same customer and day, a namesake."""
    if "customer" in write.ids:
        return msgspec.structs.replace(other, ids={**other.ids, "customer": write.ids["customer"]})
    if isinstance(write.document, canon.Customer):
        return msgspec.structs.replace(other, document=write.document, generation=1)
    return other


async def check_what_shows_late_is_found_in_time(account: ContractAccount) -> None:
    """`settle_s`: from then on a search that finds nothing is believed, and the object is made again."""
    assert account.manifest.writes
    something(account.exercise.lag, "searches see writes at once")
    assert account.exercise.lag is not None
    for entity in account.manifest.writes:
        write = await account.creation(entity, "LATE")
        step = next(step for step in account.connector.plan(write) if step.primary)
        if step.idempotency is not IdempotencyClass.SEARCH:
            continue
        facts = next(facts for facts in account.manifest.writes[entity].steps if facts.name == step.name)
        account.exercise.lag(account.simulator, account.exercise.lag_s)
        account.process.broken.add(Fault("lost_reply", method="POST"))
        with ends_in(TransientError, what="a lost answer"):
            await account.connector.perform(write, step, {})
        account.exercise.lag(account.simulator, 0.0)
        assert await account.connector.search(write, step, {}) is None, "the lag does not show"
        account.simulator.clock.advance(facts.settle_s)
        found = await account.connector.search(write, step, {})
        assert found is not None, f"{entity}: {facts.settle_s} s are too short, or the search forgot to look again"


# --- exactly -----------------------------------------------------------------------------------------------------------------


async def check_a_document_is_written_with_exact_totals(account: ContractAccount) -> None:
    made = await account.create_customer()
    result = await account.perform(await account.order(made.external_id))
    document = next(
        d for d in account.simulator.books()["documents"] if result.external_id.endswith(d["id"]) or d["id"] == result.external_id
    )
    assert document["total_incl"] == "121.00"
    assert {Decimal(rate): vat for rate, vat in document["vat_by_rate"].items()} == {Decimal(21): "21.00"}
    assert document["reference"] == "T-1001" or document["number"] == "T-1001"
    assert document["customer_id"] == made.external_id
    assert [(line["sku"], line["quantity"]) for line in document["lines"]] == [("BUS-0001", "2")]
    assert result.record is not None
    totals = account.connector.to_canonical(result.record).totals  # type: ignore[union-attr]
    assert totals is not None
    assert totals.incl == 121


async def check_a_charge_is_written_with_its_tax(account: ContractAccount) -> None:
    """Shipping stands on a product, and on the vendor's own marker in place of one."""
    made = await account.create_customer()
    write = await account.order(made.external_id)
    markers = (write.ids["product:1"], *account.manifest.writes[write.entity].product_markers)
    for number, marker in enumerate(markers):
        charge = canon.AllowanceCharge(
            type=canon.ChargeType.SHIPPING, amount=Decimal("6.50"), taxes=[nl21(Decimal("6.50"))], reason="Shipping"
        )
        more = [
            msgspec.structs.replace(item, line_id="charge:0")
            for item in write.resolved
            if item.line_id == "1" and item.name in account.exercise.values
        ]
        charged = msgspec.structs.replace(
            write,
            document=msgspec.structs.replace(write.document, charges=[charge], totals=None, vat_breakdown=[]),
            resolved=[*write.resolved, *more],
            ids={**write.ids, "product:charge:0": marker},
            reference=f"S-{number}",
            key=f"{number}{write.key[1:]}",
        )
        result = await account.perform(charged)
        (document,) = [d for d in account.simulator.books()["documents"] if d["id"] == result.external_id]
        assert document["total_incl"] == "128.87", f"{marker}: {document['total_incl']}"
        parts = [*document["lines"], *document.get("charges", [])]  # where charges are no lines, they are listed apart
        assert [part["net"] for part in parts] == ["100.00", "6.50"], marker


def numbers_of(content: bytes) -> list[str]:
    """The texts of all numbers with a point or exponent."""
    met: list[str] = []

    def keep(text: str) -> str:
        met.append(text)
        return text

    json.loads(content, parse_float=keep)
    return met


async def check_what_is_sent_is_exact(account: ContractAccount) -> None:
    """3 × 0.10 is 0.30 on the wire, not 0.30000000000000004."""
    made = await account.create_customer()
    write = await account.order(made.external_id)
    tax = [nl21(Decimal("0.30"))]
    lines = [
        msgspec.structs.replace(line, quantity=Decimal(3), unit_price_excl=Decimal("0.10"), line_excl=Decimal("0.30"), taxes=tax)
        for line in write.document.lines  # type: ignore[union-attr]
    ]
    document = msgspec.structs.replace(write.document, lines=lines, vat_breakdown=tax, totals=None)
    asked = len(account.wire.asked)
    await account.perform(msgspec.structs.replace(write, document=document))
    await account.perform(await account.creation("product"))
    numbers: list[str] = []
    for request in account.wire.asked[asked:]:
        if request.headers.get("content-type", "").startswith("application/json"):
            numbers += numbers_of(request.content)
    assert numbers, "no amount was sent"
    for text in numbers:
        assert re.fullmatch(rf"-?\d+\.\d{{1,{DECIMALS_MAX}}}", text), f"{text} went over the wire"
