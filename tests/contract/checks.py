"""The contract, as named behaviours. Each raises AssertionError when a connector breaks it; each has a broken twin that must."""

from collections.abc import Awaitable, Callable

import msgspec

from bus.core.errors import (
    ApiChanged,
    BusError,
    MappingError,
    NetworkFailure,
    StreamError,
    TransientError,
    Unavailable,
    WriteConflict,
    WriteRejected,
)
from bus.kit.connector import Match
from bus.simulation.faults import Fault
from schemas.system import IdempotencyClass
from tests.contract.account import ContractAccount, customer

Check = Callable[[ContractAccount], Awaitable[None]]


async def check_says_who_the_account_is(account: ContractAccount) -> None:
    found = await account.connector.check()
    assert found.vendor_id, "check gives the vendor's id of the account"
    assert str(found.vendor_id) in {str(value) for value in account.process.info["config"].values()}
    assert found.currency


async def check_every_object_is_read_once(account: ContractAccount) -> None:
    books = account.simulator.books()
    records = []
    for stream in account.manifest.streams:
        found, _ = await account.poll(stream.name, None)
        records += found
    ids = [(record.entity, record.id) for record in records if not record.deleted]
    assert len(ids) == len(set(ids)), "an object came twice in one back-fill"
    products = {record.id for record in records if record.entity == "product"}
    assert {item["id"] for item in books["products"]} <= products, "products are missing"


async def check_a_second_poll_yields_exactly_the_changes(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        records, position = await account.poll(stream.name, None)
        first = account.contents(records)
        account.simulator.clock.advance(3)
        again, position = await account.poll(stream.name, position)
        assert all(first.get(key) == value for key, value in account.contents(again).items()), (
            f"{stream.name}: something changed by itself"
        )
        for entity in stream.entities:
            target = next((r for r in records if r.entity == entity and not r.deleted), None)
            if entity not in account.exercise.edits or target is None:
                continue
            account.simulator.edit(entity, target.id, account.exercise.edits[entity])
            account.simulator.clock.advance(3)
            changed, position = await account.poll(stream.name, position)
            now = account.contents(changed)
            assert (entity, target.id) in now, f"{stream.name}: the changed {entity} was missed"
            assert all(first.get(key) == value for key, value in now.items() if key != (entity, target.id))
            first |= now


async def check_deletes_arrive(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        if stream.deletes != "feed":
            continue
        records, position = await account.poll(stream.name, None)
        for entity, fields in account.exercise.deletes.items():
            victim = next((r for r in records if r.entity == entity), None)
            if victim is None or entity not in stream.entities:
                continue
            account.simulator.edit(entity, victim.id, fields)
            account.simulator.clock.advance(3)
            changed, position = await account.poll(stream.name, position)
            assert any(r.id == victim.id and r.deleted for r in changed), f"{stream.name}: the delete of {entity} was missed"


async def check_a_created_customer_can_be_found_and_fetched(account: ContractAccount) -> None:
    made = await account.create_customer()
    assert made.record is not None, "the last step carries the written object"
    found = await account.connector.find("customer", Match(email="inkoop@vandijk.test"))
    assert [item.record.id for item in found] == [made.external_id]
    fetched = await account.connector.fetch("customer", made.external_id)
    assert fetched is not None
    document = account.connector.to_canonical(fetched)
    assert document.pii.emails[0].value == "inkoop@vandijk.test"  # type: ignore[union-attr]
    assert await account.connector.fetch("customer", made.external_id + "0") is None


async def check_an_update_changes_what_it_names_and_nothing_else(account: ContractAccount) -> None:
    made = await account.create_customer()
    known = await account.connector.fetch("customer", made.external_id)
    assert known is not None
    before = account.connector.to_canonical(known)
    wanted = customer("Some other name", "new@vandijk.test")
    write = msgspec.structs.replace(
        account.write_of("customer", wanted),
        action="update",
        fields=frozenset({"email"}),
        external_id=made.external_id,
        known=known,
    )
    result = await account.perform(write)
    assert result.record is not None
    after = account.connector.to_canonical(result.record)
    assert after.pii.emails[0].value == "new@vandijk.test"  # type: ignore[union-attr]
    assert after.company_name == before.company_name  # type: ignore[union-attr]
    assert after.pii.phones == before.pii.phones  # type: ignore[union-attr]


async def check_a_lost_answer_leaves_one_object(account: ContractAccount) -> None:
    write = account.write_of("customer", customer())
    steps = account.connector.plan(write)
    step = next(step for step in steps if step.primary)
    account.process.broken.add(Fault("lost_reply", method="POST"))
    try:
        await account.connector.perform(write, step, {})
    except TransientError as error:
        assert getattr(error, "sent", True), "a lost answer may have been sent"
    else:
        raise AssertionError("a lost answer was not noticed")
    before = len(account.simulator.books()["customers"])
    if step.idempotency is IdempotencyClass.KEY:
        found = await account.connector.perform(write, step, {})
    else:
        maybe = await account.connector.search(write, step, {})
        assert maybe is not None, "the object a lost answer made was not found"
        found = maybe
    assert len(account.simulator.books()["customers"]) == before
    assert found.external_id in {item["id"] for item in account.simulator.books()["customers"]}


async def check_a_search_for_what_was_never_made_finds_nothing(account: ContractAccount) -> None:
    write = account.write_of("customer", customer("Nobody B.V.", "nobody@nowhere.test"))
    for step in account.connector.plan(write):
        if step.primary and step.idempotency in (IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID):
            assert await account.connector.search(write, step, {}) is None


async def check_a_document_is_written_with_exact_totals(account: ContractAccount) -> None:
    made = await account.create_customer()
    result = await account.perform(await account.order(made.external_id))
    document = next(
        d for d in account.simulator.books()["documents"] if result.external_id.endswith(d["id"]) or d["id"] == result.external_id
    )
    assert document["total_incl"] == "121.00"
    assert document["reference"] == "T-1001" or document["number"] == "T-1001"
    assert result.record is not None
    totals = account.connector.to_canonical(result.record).totals  # type: ignore[union-attr]
    assert totals is not None
    assert totals.incl == 121


async def check_html_and_half_bodies_are_named(account: ContractAccount) -> None:
    for action in ("html", "half_body"):
        account.process.broken.add(Fault(action, method="GET", times=10))  # type: ignore[arg-type]
        try:
            await account.poll(account.manifest.streams[0].name, None)
        except (ApiChanged, NetworkFailure):
            account.process.broken.clear()
        else:
            raise AssertionError(f"{action} was taken for an answer")


async def check_an_outage_is_transient(account: ContractAccount) -> None:
    account.process.broken.add(Fault("status", status=503, times=50))
    try:
        await account.connector.check()
    except Unavailable:
        account.process.broken.clear()
    else:
        raise AssertionError("a 503 was taken for an answer")


async def check_a_refusal_carries_the_vendors_words(account: ContractAccount) -> None:
    made = await account.create_customer()
    write = await account.order(made.external_id)
    broken = msgspec.structs.replace(write, ids={**write.ids, "product:1": "00000000-0000-4000-8000-00000000dead"})
    try:
        await account.perform(broken)
    except (WriteRejected, WriteConflict) as refusal:
        assert len(str(refusal)) > 20, "a refusal says what the vendor said"
    except (MappingError, StreamError):
        pass
    else:
        raise AssertionError("an order for a product that does not exist was taken")


async def check_what_is_not_declared_is_refused(account: ContractAccount) -> None:
    undeclared = {"customer", "product", "product_category", "sales_order", "sales_invoice"} - set(account.manifest.writes)
    for entity in undeclared:
        try:
            account.connector.plan(msgspec.structs.replace(account.write_of("customer", customer()), entity=entity))
        except BusError:
            continue
        raise AssertionError(f"{entity} is not declared and was planned all the same")


async def check_declared_limits_are_never_exceeded(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        await account.poll(stream.name, None)
    for number in range(30):
        await account.connector.find("customer", Match(email=f"nobody{number}@nowhere.test"))
    assert account.simulator.limits.exceeded == 0


async def check_no_secret_is_in_an_error(account: ContractAccount) -> None:
    account.process.broken.add(Fault("status", status=400, body="refused", times=50))
    try:
        await account.connector.find("customer", Match(email="secret-person@private.test"))
    except BusError as error:
        text = repr(error) + str(error)
        assert "secret-person" not in text
        assert not any(secret in text for secret in account.secrets)
    finally:
        account.process.broken.clear()


async def check_exactly_one_step_is_primary(account: ContractAccount) -> None:
    made = await account.create_customer()
    for write in (account.write_of("customer", customer()), await account.order(made.external_id)):
        steps = account.connector.plan(write)
        assert sum(step.primary for step in steps) == 1, f"{write.entity}: one step makes the object"
        declared = {facts.name: facts.idempotency for facts in account.manifest.writes[write.entity].steps}
        for step in steps:
            assert declared.get(step.name) == str(step.idempotency), f"{write.entity} {step.name}: the manifest says otherwise"


CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
REAL_LIMITS = frozenset({"declared_limits_are_never_exceeded"})
