"""Twins of the checks of writes."""

import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import BusError, WriteConflict, WriteRejected
from bus.kit.connector import Found, Match, RawRecord, Step, StepResult, Write
from schemas import canon
from schemas.system import IdempotencyClass, Resolved, ValueKind
from tests.contract.account import ContractAccount
from tests.contract.break_answers import around, keeping_quiet, retelling
from tests.contract.twins import breaks, redeclare, replace

Done = Mapping[str, StepResult]


def rewriting(account: ContractAccount, change: Callable[[Write], Write]) -> None:
    """Another write is planned and performed than was asked for; each step is the new plan's."""
    plan, perform = account.connector.plan, account.connector.perform

    def planned(write: Write) -> Sequence[Step]:
        return plan(change(write))

    async def performed(write: Write, step: Step, done: Done) -> StepResult:
        other = change(write)
        own = next((item for item in plan(other) if item.name == step.name), step)
        return await perform(other, own, done)

    replace(account, plan=planned, perform=performed)


def rekeyed(account: ContractAccount, key_of: Callable[[], str]) -> None:
    """Calls are made under another key than the write's; searches look for the write's own."""
    plan, perform = account.connector.plan, account.connector.perform

    async def performed(write: Write, step: Step, done: Done) -> StepResult:
        other = msgspec.structs.replace(write, key=key_of())
        own = next(item for item in plan(other) if item.name == step.name)
        return await perform(other, own, done)

    replace(account, perform=performed)


async def all_of(account: ContractAccount, entity: str) -> list[RawRecord]:
    stream = next(stream for stream in account.manifest.streams if entity in stream.entities)
    records, _ = await account.poll(stream.name, None)
    return [record for record in records if record.entity == entity]


# --- finding -----------------------------------------------------------------------------------------------------------------


@breaks("a_created_customer_can_be_found_and_fetched", "every_declared_match_key_finds_its_object")
def finds_everything(account: ContractAccount) -> None:
    async def find(entity: str, _match: Match) -> list[Found]:
        return [Found(record=record) for record in await all_of(account, entity)]

    replace(account, find=find)


@breaks("a_created_customer_can_be_found_and_fetched")
def finds_somebody_for_anybody(account: ContractAccount) -> None:
    """Who was found last is found again where nobody is."""
    find, last = account.connector.find, list[Found]()

    async def lenient(entity: str, match: Match) -> Sequence[Found]:
        found = list(await find(entity, match))
        last[:] = found or last
        return last

    replace(account, find=lenient)


@breaks("a_created_customer_can_be_found_and_fetched")
def fetches_what_is_gone(account: ContractAccount) -> None:
    fetch = account.connector.fetch

    async def lenient(entity: str, external_id: str) -> RawRecord | None:
        return await fetch(entity, external_id) or (await all_of(account, entity))[0]

    replace(account, fetch=lenient)


@breaks("every_declared_match_key_finds_its_object")
def knows_one_key_only(account: ContractAccount) -> None:
    find = account.connector.find
    first = {entity: writes.match[0] for entity, writes in account.manifest.writes.items() if writes.match}

    async def narrow(entity: str, match: Match) -> Sequence[Found]:
        return await find(entity, match) if getattr(match, first[entity]) else []

    replace(account, find=narrow)


@breaks("a_written_record_is_the_object_as_it_stands", "a_created_customer_can_be_found_and_fetched")
def answers_without_the_object(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def thin(*args: Any) -> StepResult:
        return msgspec.structs.replace(await perform(*args), record=None)

    replace(account, perform=thin)


@breaks("a_written_record_is_the_object_as_it_stands")
def answers_with_another_object(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def mistaken(write: Write, step: Step, done: Done) -> StepResult:
        result = await perform(write, step, done)
        other = next(record for record in await all_of(account, write.entity) if record.id != result.external_id)
        return msgspec.structs.replace(result, record=other)

    replace(account, perform=mistaken)


# --- changing ----------------------------------------------------------------------------------------------------------------


def with_all_fields(account: ContractAccount) -> Callable[[Write], Write]:
    def change(write: Write) -> Write:
        fields = frozenset(account.manifest.writes[write.entity].fields)
        return msgspec.structs.replace(write, fields=fields) if write.action == "update" else write

    return change


@breaks("an_update_changes_what_it_names_and_nothing_else")
def sends_all_fields(account: ContractAccount) -> None:
    rewriting(account, with_all_fields(account))


@breaks("an_update_changes_what_it_names_and_nothing_else", "a_deactivated_object_is_found_inactive")
def only_says_it_was_changed(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def idle(write: Write, step: Step, done: Done) -> StepResult:
        if write.action == "create":
            return await perform(write, step, done)
        return StepResult(external_id=write.external_id or "", record=write.known)

    replace(account, perform=idle)


@breaks("an_edit_in_between_is_not_overwritten", "a_stale_version_is_a_conflict")
def writes_over_what_it_meets(account: ContractAccount) -> None:
    perform, change = account.connector.perform, with_all_fields(account)

    async def careless(write: Write, step: Step, done: Done) -> StepResult:
        if write.action != "update":
            return await perform(write, step, done)
        known = await account.connector.fetch(write.entity, write.external_id or "")
        whole = change(msgspec.structs.replace(write, known=known))
        return await perform(whole, next(iter(account.connector.plan(whole))), done)

    replace(account, perform=careless)


@breaks("a_stale_version_is_a_conflict")
def takes_a_conflict_for_a_refusal(account: ContractAccount) -> None:
    around(account, ("perform",), retelling((WriteConflict,), WriteRejected))


@breaks("a_deactivated_object_is_found_inactive", "an_inactive_object_is_found_by_its_name")
def finds_active_ones_only(account: ContractAccount) -> None:
    find = account.connector.find

    async def narrow(entity: str, match: Match) -> list[Found]:
        return [found for found in await find(entity, match) if found.active]

    replace(account, find=narrow)


@breaks("a_deactivated_object_is_found_inactive", "an_inactive_object_is_found_by_its_name")
def takes_all_for_active(account: ContractAccount) -> None:
    find = account.connector.find

    async def blind(entity: str, match: Match) -> list[Found]:
        return [msgspec.structs.replace(found, active=True) for found in await find(entity, match)]

    replace(account, find=blind)


@breaks("repeating_a_repeatable_step_changes_nothing")
def changes_more_with_every_repeat(account: ContractAccount) -> None:
    perform, numbers = account.connector.perform, itertools.count()

    async def growing(write: Write, step: Step, done: Done) -> StepResult:
        if write.action != "update":
            return await perform(write, step, done)
        name = f"Changed {next(numbers)} times"
        names = {"name": name} if hasattr(write.document, "name") else {"company_name": name, "display_name": name}
        other = msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, **names))
        return await perform(other, next(iter(account.connector.plan(other))), done)

    replace(account, perform=growing)


@breaks("repeating_a_repeatable_step_changes_nothing")
def changes_nothing_at_all(account: ContractAccount) -> None:
    only_says_it_was_changed(account)


# --- once --------------------------------------------------------------------------------------------------------------------

ONCE = ("a_lost_answer_leaves_one_object", "a_lost_answer_at_any_step_leaves_one_of_each")


@breaks(*ONCE, "a_replayed_key_makes_nothing_new")
def forgets_its_key(account: ContractAccount) -> None:
    rekeyed(account, lambda: str(uuid.uuid4()))


@breaks("a_replayed_key_makes_nothing_new")
def has_one_key_for_all(account: ContractAccount) -> None:
    rekeyed(account, lambda: "00000000-0000-5000-8000-000000000001")


@breaks("a_replayed_key_makes_nothing_new")
def does_not_say_its_key(account: ContractAccount) -> None:
    plan = account.connector.plan
    replace(account, plan=lambda write: [msgspec.structs.replace(step, key=None) for step in plan(write)])


@breaks("a_lost_answer_at_any_step_leaves_one_of_each")
def finds_nothing_it_made(account: ContractAccount) -> None:
    async def blind(*_args: Any) -> None:
        return None

    replace(account, search=blind)


@breaks("a_lost_answer_at_any_step_leaves_one_of_each")
def makes_it_again_instead_of_looking(account: ContractAccount) -> None:
    perform, numbers = account.connector.perform, itertools.count()

    async def again(write: Write, step: Step, done: Done) -> StepResult:
        write = msgspec.structs.replace(write, key=str(uuid.uuid4()), reference=f"{write.reference}{next(numbers)}"[:21])
        own = next(item for item in account.connector.plan(write) if item.name == step.name)
        return await perform(write, own, done)

    replace(account, search=again)


@breaks("a_lost_answer_leaves_one_object", "a_lost_answer_at_any_step_leaves_one_of_each")
def does_not_notice_a_lost_answer(account: ContractAccount) -> None:
    around(account, ("perform",), keeping_quiet(BusError, instead=StepResult(external_id="?")))


@breaks("a_search_for_what_was_never_made_finds_nothing")
def takes_another_for_its_own(account: ContractAccount) -> None:
    async def lenient(write: Write, _step: Step, _done: Done) -> StepResult:
        return StepResult(external_id=(await all_of(account, write.entity))[0].id, replayed=True)

    replace(account, search=lenient)


@breaks("what_shows_late_is_found_in_time")
def waits_too_short(account: ContractAccount) -> None:
    def shorter(facts: dict[str, Any]) -> None:
        for writes in facts["writes"].values():
            for step in writes["steps"]:
                step["settle_s"] = 1

    redeclare(account, shorter)


@breaks("what_shows_late_is_found_in_time")
def looks_once_only(account: ContractAccount) -> None:
    search, known = account.connector.search, dict[tuple[str, str], Any]()

    async def hasty(write: Write, step: Step, done: Done) -> StepResult | None:
        place = (write.key, step.name)
        if place not in known:
            known[place] = await search(write, step, done)
        found: StepResult | None = known[place]
        return found

    replace(account, search=hasty)


# --- exactly -----------------------------------------------------------------------------------------------------------------


@breaks("a_document_is_written_with_exact_totals")
def writes_lines_twice(account: ContractAccount) -> None:
    def doubled(write: Write) -> Write:
        lines = [
            msgspec.structs.replace(line, quantity=2 * (line.quantity or 1), line_excl=2 * (line.line_excl or 0))
            for line in getattr(write.document, "lines", [])
        ]
        if not lines:
            return write
        return msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, lines=lines))

    rewriting(account, doubled)


@breaks("a_document_is_written_with_exact_totals")
def writes_without_the_reference(account: ContractAccount) -> None:
    rewriting(account, lambda write: msgspec.structs.replace(write, reference="another") if write.reference else write)


@breaks("a_document_is_written_with_exact_totals")
def reads_other_totals_back(account: ContractAccount) -> None:
    convert = account.connector.to_canonical

    def careless(record: RawRecord) -> Any:
        document = convert(record)
        if not isinstance(document, canon.SalesOrder | canon.SalesInvoice) or document.totals is None:
            return document
        incl = (document.totals.incl or Decimal(0)) + Decimal("0.01")
        return msgspec.structs.replace(document, totals=msgspec.structs.replace(document.totals, incl=incl))

    replace(account, to_canonical=careless)


@breaks("a_charge_is_written_with_its_tax")
def leaves_charges_out(account: ContractAccount) -> None:
    def bare(write: Write) -> Write:
        if not getattr(write.document, "charges", []):
            return write
        return msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, charges=[]))

    rewriting(account, bare)


@breaks("what_is_sent_is_exact")
def sends_sums_of_floats(account: ContractAccount) -> None:
    call = account.client.call

    def noisy(value: Any) -> Any:
        if isinstance(value, Decimal):
            return Decimal(repr(float(value) + 4e-15)) if value % 1 else value + Decimal("0.00000000000001")
        if isinstance(value, Mapping):
            return {name: noisy(item) for name, item in value.items()}
        return [noisy(item) for item in value] if isinstance(value, list) else value

    async def careless(*args: Any, **more: Any) -> Any:
        return await call(*args, **{**more, "json": noisy(more["json"])} if more.get("json") is not None else more)

    account.client.call = careless  # type: ignore[method-assign]


# --- refusals ----------------------------------------------------------------------------------------------------------------


@breaks("a_refusal_carries_the_vendors_words")
def says_only_that_it_failed(account: ContractAccount) -> None:
    def handle(error: BusError) -> Any:
        raise WriteRejected("the vendor did not take it") if isinstance(error, WriteRejected) else error

    around(account, ("perform",), handle)


@breaks("a_refusal_carries_the_vendors_words", "a_gone_object_is_no_success")
def takes_a_refusal_for_success(account: ContractAccount) -> None:
    around(account, ("perform",), keeping_quiet(WriteRejected, instead=StepResult(external_id="?")))


@breaks("undeclared_entities_are_refused", "undeclared_actions_are_refused", "document_types_are_those_declared")
def plans_whatever_it_is_asked(account: ContractAccount) -> None:
    plan = account.connector.plan

    def lenient(write: Write) -> Sequence[Step]:
        try:
            return plan(write)
        except BusError:
            return [Step(name="something", idempotency=IdempotencyClass.NONE, primary=True)]

    replace(account, plan=lenient)


@breaks("document_types_are_those_declared")
def writes_one_type_only(account: ContractAccount) -> None:
    def same(write: Write) -> Write:
        known = write.document_type in account.manifest.writes[write.entity].document_types
        return msgspec.structs.replace(write, document_type=account.exercise.document_type) if known else write

    rewriting(account, same)


@breaks("a_required_value_is_asked_for")
def fills_in_what_is_missing(account: ContractAccount) -> None:
    given = {**account.exercise.values, **account.exercise.product_values}

    def filled(write: Write) -> Write:
        facts = account.manifest.writes[write.entity]
        more = [
            Resolved(name=name, line_id=line, kind=ValueKind.TEXT, value=given[name], rule="guess")
            for name in facts.required_values
            for line in (["1"] if name in facts.line_values else [None])
            if write.value(name, line) is None
        ]
        return msgspec.structs.replace(write, resolved=[*write.resolved, *more])

    rewriting(account, filled)


@breaks("a_reference_beyond_its_length_is_refused")
def cuts_a_reference(account: ContractAccount) -> None:
    def cut(write: Write) -> Write:
        longest = account.manifest.writes[write.entity].reference_fields.get(write.reference_field or "")
        return msgspec.structs.replace(write, reference=write.reference[:longest]) if write.reference and longest else write

    rewriting(account, cut)


@breaks("text_beyond_its_length_is_cut_or_refused")
def declares_shorter_texts(account: ContractAccount) -> None:
    def shorter(facts: dict[str, Any]) -> None:
        for writes in facts["writes"].values():
            writes["text_max"] = dict.fromkeys(writes["text_max"], 10)

    redeclare(account, shorter)


@breaks("text_beyond_its_length_is_cut_or_refused")
def declares_to_refuse_and_cuts(account: ContractAccount) -> None:
    redeclare(account, lambda facts: [writes.update(overlong="refuse") for writes in facts["writes"].values()])


@breaks("text_beyond_its_length_is_cut_or_refused")
def sends_texts_of_any_length(account: ContractAccount) -> None:
    """Declared longer than the vendor takes: the text is not cut where it must be."""

    def refused(error: BusError) -> Any:
        raise WriteRejected("the text is too long") from error

    around(account, ("perform",), refused)
    inner = account.connector.perform

    async def strict(write: Write, step: Step, done: Done) -> StepResult:
        result = await inner(write, step, done)
        limits = account.manifest.writes[write.entity].text_max
        if any(len(str(getattr(write.document, path, "") or "")) > longest for path, longest in limits.items()):
            raise WriteRejected("the text is too long")
        return result

    replace(account, perform=strict)


# --- plans -------------------------------------------------------------------------------------------------------------------


def replanned(account: ContractAccount, change: Callable[[list[Step]], list[Step]]) -> None:
    plan = account.connector.plan
    replace(account, plan=lambda write: change(list(plan(write))))


@breaks("exactly_one_step_is_primary")
def has_no_primary_step(account: ContractAccount) -> None:
    """Only where a plan is looked at: performing needs one."""
    plan, perform = account.connector.plan, account.connector.perform

    def without(write: Write) -> list[Step]:
        steps = list(plan(write))
        return [msgspec.structs.replace(step, primary=step.primary and write.action == "create") for step in steps]

    replace(account, plan=without, perform=perform)


@breaks("exactly_one_step_is_primary")
def has_two_primary_steps(account: ContractAccount) -> None:
    replanned(account, lambda steps: [msgspec.structs.replace(step, primary=True) for step in steps])


@breaks("exactly_one_step_is_primary")
def gives_two_steps_one_name(account: ContractAccount) -> None:
    replanned(
        account,
        lambda steps: (
            [*steps, msgspec.structs.replace(steps[0], primary=False)]
            if steps[0].idempotency is IdempotencyClass.REPEATABLE
            else steps
        ),
    )


@breaks("steps_are_those_declared")
def leaves_its_last_steps_out(account: ContractAccount) -> None:
    replanned(account, lambda steps: [step for step in steps if step.primary])


@breaks("steps_are_those_declared")
def claims_another_class(account: ContractAccount) -> None:
    replanned(account, lambda steps: [msgspec.structs.replace(step, idempotency=IdempotencyClass.NONE) for step in steps])


@breaks("steps_are_those_declared")
def declares_no_natural_key(account: ContractAccount) -> None:
    def nameless(facts: dict[str, Any]) -> None:
        for writes in facts["writes"].values():
            for step in writes["steps"]:
                step["natural_key"] = None

    redeclare(account, nameless)


@breaks("steps_are_those_declared")
def declares_a_step_it_never_makes(account: ContractAccount) -> None:
    def more(facts: dict[str, Any]) -> None:
        for writes in facts["writes"].values():
            writes["steps"] = [*writes["steps"], {"name": "blessing", "idempotency": "REPEATABLE"}]

    redeclare(account, more)


@breaks("a_create_costs_at_most_what_is_declared")
def looks_a_hundred_times(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def wasteful(*args: Any) -> StepResult:
        for _ in range(100):
            await account.connector.check()
        return await perform(*args)

    replace(account, perform=wasteful)


@breaks("a_facet_tells_two_objects_apart")
def ignores_the_facet(account: ContractAccount) -> None:
    rewriting(account, lambda write: msgspec.structs.replace(write, facet=None))


@breaks("a_gone_object_is_no_success")
def makes_what_is_gone_anew(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def eager(write: Write, step: Step, done: Done) -> StepResult:
        try:
            return await perform(write, step, done)
        except WriteRejected:
            anew = msgspec.structs.replace(write, action="create", fields=None, key=str(uuid.uuid4()), generation=1)
            return await perform(anew, next(iter(account.connector.plan(anew))), done)

    replace(account, perform=eager)
