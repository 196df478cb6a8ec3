"""What a manifest declares of writes is so, and what it does not declare is refused."""

from typing import Any

import msgspec

from bus.core.errors import AmbiguousWrite, BusError, MappingError, WriteConflict, WriteRejected
from bus.kit.connector import Match, RawRecord, Step
from schemas import canon
from schemas.system import IdempotencyClass
from tests.contract.account import ContractAccount, customer
from tests.contract.asserting import ends_in, something

ACTIONS = ("create", "update", "deactivate", "delete")
ENTITIES = ("customer", "product", "product_category", "sales_order", "sales_invoice")
FOUND_AGAIN = (IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID)
FORGOTTEN_S = 7_200
TALK_MIN = 15
"""Letters of a vendor's sentence that no text of ours has by chance."""


# --- refusals ----------------------------------------------------------------------------------------------------------------


async def check_a_refusal_carries_the_vendors_words(account: ContractAccount) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id)
    broken = msgspec.structs.replace(write, ids={**write.ids, "product:1": "00000000-0000-4000-8000-00000000dead"})
    said: list[Any] = []

    def listen(request: Any, body: Any) -> Any:
        if request.method == "POST":
            said.append(body)
        return body

    account.wire.answered = listen
    with ends_in(WriteRejected, WriteConflict, what="an order for a product that does not exist") as met:
        await account.perform(broken)
    sentences = [text for text in texts(said[-1]) if len(text) >= TALK_MIN]
    assert sentences, "the vendor said nothing"
    assert any(text[:40] in str(met[0]) for text in sentences), f"{met[0]} is not what the vendor said: {sentences}"


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


async def check_undeclared_entities_are_refused(account: ContractAccount) -> None:
    undeclared = sorted(set(ENTITIES) - set(account.manifest.writes))
    something(undeclared, "everything can be written")
    documents = {
        "customer": customer(),
        "product_category": canon.ProductCategory(code="A", name="A"),
        "product": canon.Product(sku="A", name="A"),
    }
    made = await account.create_customer()
    order = await account.order(made.external_id)
    for entity in undeclared:
        write = msgspec.structs.replace(order, entity=entity, document=documents.get(entity, order.document))
        with ends_in(BusError, what=f"a {entity}, which is not declared,"):
            account.connector.plan(write)


async def check_undeclared_actions_are_refused(account: ContractAccount) -> None:
    for entity, writes in account.manifest.writes.items():
        write = await account.creation(entity)
        made = await account.perform(write)
        known, _ = await account.whole_of(entity, made)
        for action in sorted(set(ACTIONS) - set(writes.actions)):
            change = account.change(action, made, write, known, fields=frozenset({"name", "email"}))
            with ends_in(BusError, what=f"{action} of a {entity}, which is not declared,"):
                account.connector.plan(change)


async def check_document_types_are_those_declared(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        if entity != account.exercise.document or not writes.document_types:
            continue
        ids = set()
        for number, kind in enumerate(writes.document_types):
            write = msgspec.structs.replace(await account.creation(entity, f"K{number}"), document_type=kind)
            made = await account.perform(write)
            (document,) = [d for d in account.simulator.books()["documents"] if d["id"] == made.external_id]
            assert document["kind"] == kind, f"a {kind} became a {document['kind']}"
            assert document["total_incl"] == "121.00", kind
            ids.add(made.external_id)
            proven += 1
        assert len(ids) == len(writes.document_types)
        with ends_in(BusError, what="a document type that does not exist"):
            account.connector.plan(msgspec.structs.replace(write, document_type="PROFORMA"))
    something(proven, "documents have one type")


async def check_a_required_value_is_asked_for(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        for name in writes.required_values:
            write = await account.creation(entity)
            without = [item for item in write.resolved if item.name != name]
            assert len(without) < len(write.resolved)
            with ends_in(MappingError, what=f"{entity} without {name}"):
                await account.perform(msgspec.structs.replace(write, resolved=without))
            proven += 1
    something(proven, "nothing is required")


async def check_a_reference_beyond_its_length_is_refused(account: ContractAccount) -> None:
    """A reference cut short finds another document."""
    proven = 0
    for entity, writes in account.manifest.writes.items():
        for name, longest in writes.reference_fields.items():
            write = await account.creation(entity, name)
            fits = msgspec.structs.replace(write, reference=("R" * longest), reference_field=name)
            assert account.connector.plan(fits)
            beyond = msgspec.structs.replace(fits, reference=f"{fits.reference}R")
            with ends_in(MappingError, WriteRejected, what=f"{entity}: a {name} of {longest + 1} characters"):
                await account.perform(beyond)
            proven += 1
    something(proven, "no document has a reference")


async def check_text_beyond_its_length_is_cut_or_refused(account: ContractAccount) -> None:
    proven = 0
    for entity, writes in account.manifest.writes.items():
        for path, longest in writes.text_max.items():
            write = await account.creation(entity, f"X{proven}")
            write = msgspec.structs.replace(write, document=overlong(write.document, path, chr(0x391 + proven) * (longest + 1)))
            try:
                made = await account.perform(write)
            except MappingError:
                proven += 1
                continue
            except WriteRejected as refusal:
                raise AssertionError(f"{entity}.{path}: more than {longest} characters were sent: {refusal}") from refusal
            assert writes.overlong == "cut", f"{entity}.{path}: a text that should be refused was taken"
            _, document = await account.whole_of(entity, made)
            assert len(text_at(document, path)) <= longest, f"{entity}.{path}: longer than declared"
            proven += 1
    something(proven, "no text has a longest length")


def text_at(document: Any, path: str) -> str:
    """A text as it was written; empty where it has another place there."""
    pii = getattr(document, "pii", None) or canon.PartyPii()
    if path in ("email", "phone"):
        points = getattr(pii, f"{path}s")
        return points[0].value if points else ""
    return getattr(document, path, None) or getattr(pii, path, None) or ""


def overlong(document: Any, path: str, text: str) -> Any:
    """A document with a text that is too long; names of items are unique, so each is another."""
    if isinstance(document, canon.Customer):
        pii = document.pii
        assert isinstance(pii, canon.PartyPii)
        if path == "email":
            point = canon.ContactPoint(type="WORK", value=f"{'o' * len(text)}@a.test")
            return msgspec.structs.replace(document, pii=msgspec.structs.replace(pii, emails=[point]))
        if path == "phone":
            point = canon.ContactPoint(type="WORK", value="0" * len(text))
            return msgspec.structs.replace(document, pii=msgspec.structs.replace(pii, phones=[point]))
        if hasattr(pii, path):
            bare = msgspec.structs.replace(pii, **{path: text})
            return msgspec.structs.replace(document, kind=canon.CustomerKind.PERSON, pii=bare)
    return msgspec.structs.replace(document, **{path: text})


# --- plans -------------------------------------------------------------------------------------------------------------------


async def plans_of(account: ContractAccount, source_id: str = "N1") -> dict[str, dict[str, list[Step]]]:
    """Every declared entity and action, planned."""
    plans: dict[str, dict[str, list[Step]]] = {}
    for entity, writes in account.manifest.writes.items():
        write = await account.creation(entity, source_id)
        plans[entity] = {"create": list(account.connector.plan(write))}
        made = await account.perform(write)
        known, document = await account.whole_of(entity, made)
        for action in set(writes.actions) - {"create"}:
            fields = frozenset({"name", "display_name"})
            change = account.change(action, made, write, known, fields=fields, document=document)
            plans[entity][action] = list(account.connector.plan(change))
    return plans


async def check_exactly_one_step_is_primary(account: ContractAccount) -> None:
    for entity, actions in (await plans_of(account)).items():
        for action, steps in actions.items():
            assert sum(step.primary for step in steps) == 1, f"{action} {entity}: one step makes or changes the object"
            assert len({step.name for step in steps}) == len(steps), f"{action} {entity}: results are kept by step name"


async def planned_steps(account: ContractAccount, source_id: str) -> dict[str, dict[str, Step]]:
    """Entity → every step of any of its plans, by name."""
    plans = await plans_of(account, source_id)
    return {entity: {step.name: step for steps in actions.values() for step in steps} for entity, actions in plans.items()}


async def check_steps_are_those_declared(account: ContractAccount) -> None:
    planned = await planned_steps(account, "P0")
    for number, variant in enumerate(account.exercise.variants):
        account.connector = account.connector_of({})
        plain = await planned_steps(account, f"P{number}-plain")
        account.connector = account.connector_of(variant)
        for entity, steps in (await planned_steps(account, f"P{number}-other")).items():
            planned[entity] |= {name: step for name, step in steps.items() if name not in plain[entity]}
    for entity, steps in planned.items():
        declared = {facts.name: facts for facts in account.manifest.writes[entity].steps}
        assert set(steps) == set(declared), f"{entity}: the manifest names other steps"
        for name, step in steps.items():
            facts = declared[name]
            assert facts.idempotency == str(step.idempotency), f"{entity} {name}: the manifest says otherwise"
            assert facts.natural_key or step.idempotency not in FOUND_AGAIN, f"{entity} {name}: found again by what?"


async def check_a_create_costs_at_most_what_is_declared(account: ContractAccount) -> None:
    for entity, writes in account.manifest.writes.items():
        write = await account.creation(entity)
        account.simulator.clock.advance(FORGOTTEN_S)  # what a connector remembers of the account is read again
        await account.connector.find("customer", Match(email="nobody@nowhere.test"))  # and this call meets the token that ended
        calls = account.client.calls
        await account.perform(write)
        spent = account.client.calls - calls
        assert spent <= writes.calls_per_create, f"{entity}: {spent} calls, {writes.calls_per_create} are declared"


async def check_a_facet_tells_two_objects_apart(account: ContractAccount) -> None:
    """`facet`: one source object is one object per currency there."""
    faceted = [entity for entity, writes in account.manifest.writes.items() if writes.facet == "currency"]
    something(faceted, "nothing has a facet")
    for entity in faceted:
        first = await account.creation(entity)
        for number, currency in enumerate(("EUR", "USD")):
            key = f"{number}{first.key[1:]}"
            made = await account.perform(msgspec.structs.replace(first, facet=currency, generation=number, key=key))
            _, document = await account.whole_of(entity, made)
            assert document.currency == currency


async def check_a_gone_object_is_no_success(account: ContractAccount) -> None:
    """An update of what does not exist is a refusal by the vendor, never an object made anew."""
    write = await account.creation("customer")
    made = await account.perform(write)
    known, document = await account.whole_of("customer", made)
    known_ids = {item["id"] for item in account.simulator.books()["customers"]}
    fake = f"{made.external_id}9" if made.external_id.isdigit() else f"{made.external_id[:-4]}dead"
    assert fake not in known_ids
    ghost = msgspec.structs.replace(known, id=fake)
    count = len(account.simulator.books()["customers"])
    change = account.change("update", msgspec.structs.replace(made, external_id=fake), write, ghost, fields=frozenset({"email"}))
    assert isinstance(known, RawRecord)
    with ends_in(WriteRejected, WriteConflict, AmbiguousWrite, what="an update of nothing"):
        await account.perform(change)
    assert len(account.simulator.books()["customers"]) == count
    _, after = await account.whole_of("customer", made)
    assert after == document
