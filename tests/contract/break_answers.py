"""Twins of the checks of bad input, statuses, limits and secrets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import msgspec

from bus.core.errors import (
    ApiChanged,
    BusError,
    CredentialError,
    MappingError,
    NetworkFailure,
    RateLimited,
    StreamError,
    TransientError,
    Unavailable,
    WriteRejected,
)
from bus.kit.auth import StaticTokens
from bus.kit.connector import Page, Position, RawRecord, StepResult
from schemas import canon
from tests.contract.account import ContractAccount
from tests.contract.exercises import FLOAT_SUM
from tests.contract.twins import breaks, replace, retold

UNREADABLE = ("html_in_a_200_is_named", "half_a_body_is_named", "a_body_above_the_limit_is_named")
UNCLEAR = (
    "an_unreadable_answer_to_a_write_is_unclear",
    "a_write_answered_by_another_shape_is_unclear",
    "an_answer_above_the_limit_leaves_a_write_unclear",
)
SPOILT = (
    "an_unknown_enum_stops_its_record_only",
    "a_word_for_an_amount_stops_its_record_only",
    "a_date_without_zone_stops_its_record_only",
)


def around(account: ContractAccount, methods: tuple[str, ...], handle: Callable[[BusError], Any]) -> None:
    """Errors of some methods pass through a function, which raises another or gives an answer in their place."""

    def guarded(method: Any) -> Any:
        async def call(*args: Any) -> Any:
            try:
                return await method(*args)
            except BusError as error:
                return handle(error)

        return call

    replace(account, **{name: guarded(getattr(account.connector, name)) for name in methods})


def around_reading(account: ContractAccount, handle: Callable[[BusError], Any]) -> None:
    """The same for `read`, which ends where `handle` raises nothing."""
    read = account.connector.read

    async def guarded(stream: str, position: Position | None) -> AsyncIterator[Page]:
        try:
            async for page in read(stream, position):
                yield page
        except BusError as error:
            handle(error)
            yield Page(records=[], position={}, more=False)

    replace(account, read=guarded)


def retelling(kinds: tuple[type[BusError], ...], as_kind: type[BusError]) -> Callable[[BusError], Any]:
    def handle(error: BusError) -> Any:
        raise retold(error, as_kind) if isinstance(error, kinds) else error

    return handle


def keeping_quiet(*kinds: type[BusError], instead: Any = None) -> Callable[[BusError], Any]:
    def handle(error: BusError) -> Any:
        if not isinstance(error, kinds):
            raise error
        return instead

    return handle


@breaks(*UNREADABLE, "a_null_key_stops_the_stream")
def takes_the_unreadable_for_the_end(account: ContractAccount) -> None:
    around_reading(account, keeping_quiet(ApiChanged, NetworkFailure))


@breaks(*UNREADABLE, "a_null_key_stops_the_stream")
def takes_the_unreadable_for_an_outage(account: ContractAccount) -> None:
    around_reading(account, retelling((ApiChanged, NetworkFailure), Unavailable))


@breaks("a_body_above_the_limit_is_named", "an_answer_above_the_limit_leaves_a_write_unclear")
def keeps_no_limit(account: ContractAccount) -> None:
    async def whole(response: httpx.Response, _ask: Any) -> bytes:
        return await response.aread()

    vars(account.client)["_body"] = whole


@breaks(*UNCLEAR)
def takes_the_unreadable_for_a_refusal(account: ContractAccount) -> None:
    around(account, ("perform",), retelling((Unavailable, NetworkFailure), WriteRejected))


@breaks(*UNCLEAR, "a_write_answered_without_a_key_is_unclear")
def takes_the_unreadable_for_a_closed_door(account: ContractAccount) -> None:
    around(account, ("perform",), retelling((Unavailable, NetworkFailure), ApiChanged))


@breaks("a_failing_read_back_leaves_a_write_unclear")
def lets_a_failing_look_undo_a_write(account: ContractAccount) -> None:
    perform, check = account.connector.perform, account.connector.check

    async def performed(*args: Any) -> StepResult:
        result = await perform(*args)
        await check()  # a read behind the write, whose errors nobody tells from the write's own
        return result

    replace(account, perform=performed)


@breaks(*UNCLEAR)
def takes_the_unreadable_for_success(account: ContractAccount) -> None:
    around(account, ("perform",), keeping_quiet(Unavailable, NetworkFailure, instead=StepResult(external_id="?")))


@breaks(*SPOILT)
def guesses_what_was_meant(account: ContractAccount) -> None:
    convert, complete = account.connector.to_canonical, account.connector.complete
    known: dict[str, Any] = {}

    def lenient(record: RawRecord) -> Any:
        try:
            known[record.entity] = convert(record)
        except MappingError:
            return known[record.entity]
        return known[record.entity]

    async def complete_anyhow(records: Any) -> Any:
        completed = await complete(records)
        return [record if isinstance(whole, Exception) else whole for record, whole in zip(records, completed, strict=True)]

    replace(account, to_canonical=lenient, complete=complete_anyhow)


@breaks(*SPOILT)
def stops_all_for_one(account: ContractAccount) -> None:
    read, convert, complete = account.connector.read, account.connector.to_canonical, account.connector.complete

    async def strict(stream: str, position: Position | None) -> AsyncIterator[Page]:
        async for page in read(stream, position):
            for whole in await complete(page.records):
                if isinstance(whole, Exception):
                    raise whole
                convert(whole)
            yield page

    replace(account, read=strict)


@breaks(*SPOILT)
def blames_a_write(account: ContractAccount) -> None:
    convert, complete = account.connector.to_canonical, account.connector.complete

    def mistaken(record: RawRecord) -> Any:
        try:
            return convert(record)
        except MappingError as error:
            raise retold(error, WriteRejected) from error

    async def completed(records: Any) -> Any:
        return [retold(item, WriteRejected) if isinstance(item, MappingError) else item for item in await complete(records)]

    replace(account, to_canonical=mistaken, complete=completed)


@breaks("an_unknown_enum_stops_its_record_only")
def says_neither_cause_nor_fix(account: ContractAccount) -> None:
    convert, complete = account.connector.to_canonical, account.connector.complete

    def terse(record: RawRecord) -> Any:
        try:
            return convert(record)
        except MappingError as error:
            raise MappingError(str(error)) from error

    async def completed(records: Any) -> Any:
        return [MappingError(str(item)) if isinstance(item, MappingError) else item for item in await complete(records)]

    replace(account, to_canonical=terse, complete=completed)


@breaks("an_inexact_amount_stops_its_record_only")
def takes_a_sum_of_floats(account: ContractAccount) -> None:
    convert = account.connector.to_canonical

    def lenient(record: RawRecord) -> Any:
        if str(FLOAT_SUM).encode() not in record.raw:
            return convert(record)
        return canon.SalesInvoice(currency="EUR", totals=canon.Totals(incl=FLOAT_SUM))

    replace(account, to_canonical=lenient)


@breaks("an_inexact_amount_stops_its_record_only")
def blames_a_write_for_a_sum_of_floats(account: ContractAccount) -> None:
    convert = account.connector.to_canonical

    def mistaken(record: RawRecord) -> Any:
        if str(FLOAT_SUM).encode() in record.raw:
            raise WriteRejected(f"{FLOAT_SUM} is no amount")
        return convert(record)

    replace(account, to_canonical=mistaken)


# --- statuses and connections ------------------------------------------------------------------------------------------------


@breaks("an_outage_is_transient")
def takes_an_outage_for_a_change(account: ContractAccount) -> None:
    around(account, ("check",), retelling((Unavailable,), ApiChanged))


@breaks("a_status_of_a_read_ends_in_its_class", "a_token_that_ended_is_replaced_once")
def takes_every_status_for_an_outage(account: ContractAccount) -> None:
    account.client.classifier = lambda answer: Unavailable("no") if answer.status >= 400 else None


@breaks("a_status_of_a_read_ends_in_its_class")
def takes_every_error_for_the_end(account: ContractAccount) -> None:
    around_reading(account, keeping_quiet(StreamError, CredentialError))


@breaks("a_status_of_a_write_ends_in_its_class")
def takes_every_status_for_a_refusal(account: ContractAccount) -> None:
    account.client.classifier = lambda answer: WriteRejected("no") if answer.status >= 400 else None


@breaks("a_status_of_a_write_ends_in_its_class")
def repeats_a_write(account: ContractAccount) -> None:
    perform = account.connector.perform

    async def twice(*args: Any) -> Any:
        try:
            return await perform(*args)
        except TransientError:
            return await perform(*args)

    replace(account, perform=twice)


@breaks("throttling_keeps_the_vendors_wait")
def comes_back_when_it_likes(account: ContractAccount) -> None:
    account.client.classifier = lambda answer: RateLimited("later", retry_after_s=1) if answer.status == 429 else None


@breaks("throttling_keeps_the_vendors_wait")
def forgets_the_vendors_wait(account: ContractAccount) -> None:
    around(account, ("find",), retelling((RateLimited,), RateLimited))


@breaks("a_token_that_ended_is_replaced_once")
def has_one_token_only(account: ContractAccount) -> None:
    account.client._tokens = StaticTokens(account.tokens.issued[0])


@breaks("a_token_that_ended_is_replaced_once")
def asks_for_a_token_each_time(account: ContractAccount) -> None:
    check = account.connector.check

    async def restless() -> Any:
        await account.tokens.newer_than(0)
        return await check()

    replace(account, check=restless)


@breaks("a_broken_connection_says_whether_it_was_sent")
def says_it_never_left(account: ContractAccount) -> None:
    def handle(error: BusError) -> Any:
        raise NetworkFailure(str(error), sent=False)

    around(account, ("perform",), handle)


@breaks("a_broken_connection_says_whether_it_was_sent")
def says_it_always_left(account: ContractAccount) -> None:
    around(account, ("perform",), retelling((NetworkFailure,), NetworkFailure))


# --- limits and secrets ------------------------------------------------------------------------------------------------------


class NoBudget:
    """Never waits."""

    waited_s = 0.0

    async def take(self, path: str, wait_max_s: float = 0.0) -> None:
        """At once."""

    def correct(self, headers: Mapping[str, str], path: str) -> None:
        """Nothing is learned."""

    def refused(self, path: str, retry_after_s: float | None) -> float:
        return retry_after_s or 60.0


@breaks("declared_limits_are_never_exceeded")
def never_waits(account: ContractAccount) -> None:
    account.client.budgets = NoBudget()  # type: ignore[assignment]


@breaks("calls_in_flight_stay_within_the_declared")
def calls_all_at_once(account: ContractAccount) -> None:
    account.client._room = account.client._reads = asyncio.Semaphore(1_000)


def telling(account: ContractAccount, secret: str) -> None:
    def handle(error: BusError) -> Any:
        raise type(error)(f"{error} ({secret})") from error

    around(account, ("find", "perform", "check"), handle)


@breaks("no_secret_is_in_an_error")
def tells_the_token(account: ContractAccount) -> None:
    telling(account, account.tokens.issued[0].access_token.get_secret_value())


@breaks("no_secret_is_in_an_error")
def tells_the_client_secret(account: ContractAccount) -> None:
    telling(account, account.secrets[-1])


@breaks("no_secret_is_in_an_error")
def tells_whom_it_looked_for(account: ContractAccount) -> None:
    find = account.connector.find

    async def talkative(entity: str, match: Any) -> Any:
        try:
            return await find(entity, match)
        except BusError as error:
            raise type(error)(f"{error}: {msgspec.to_builtins(match)}") from error

    replace(account, find=talkative)
