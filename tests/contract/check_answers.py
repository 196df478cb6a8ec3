"""Bad input and broken answers: each ends in its class, stops no more than it must, and tells no secret."""

import asyncio
from decimal import Decimal
from typing import Any

from bus.core.errors import (
    AccessDenied,
    ApiChanged,
    BusError,
    CredentialError,
    MappingError,
    NetworkFailure,
    RateLimited,
    RecordError,
    StreamError,
    TransientError,
    Unavailable,
    WriteConflict,
    WriteRejected,
)
from bus.kit.classify import error_class
from bus.kit.connector import Match, RawRecord, Step, StepResult, Write
from bus.simulation.faults import Fault
from schemas.system import Cause, IdempotencyClass
from tests.contract.account import ContractAccount, Spoil, customer
from tests.contract.asserting import ends_in, something
from tests.contract.check_reading import leaves

BODY_MAX = 200
"""Bytes that no list of the simulators keeps to."""
VENDORS_WAIT_S = 300
DECIMALS_MAX = 8
"""Decimals of the finest amount a canonical entity holds, a unit price."""


def narrow(account: ContractAccount) -> None:
    """A limit that every answer exceeds; the real one would need a body of 32 MB."""
    account.client.manifest = account.client.manifest.model_copy(update={"body_bytes_max": BODY_MAX})


# --- bodies nobody can read --------------------------------------------------------------------------------------------------


async def check_html_in_a_200_is_named(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        account.process.broken.add(Fault("html", times=100))
        with ends_in(ApiChanged, what=f"{stream.name}: HTML"):
            await account.poll(stream.name, None)
        account.process.broken.clear()


async def check_half_a_body_is_named(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        account.process.broken.add(Fault("half_body", times=100))
        with ends_in(ApiChanged, NetworkFailure, what=f"{stream.name}: half a body"):
            await account.poll(stream.name, None)
        account.process.broken.clear()


async def check_a_body_above_the_limit_is_named(account: ContractAccount) -> None:
    narrow(account)
    for stream in account.manifest.streams:
        with ends_in(ApiChanged, what=f"{stream.name}: a body above {BODY_MAX} bytes"):
            await account.poll(stream.name, None)


async def check_an_unreadable_answer_to_a_write_is_unclear(account: ContractAccount) -> None:
    """The write happened. To call it refused, or the stream broken, would make it again or forget it."""
    write, step = await primary_of(account)
    for action in ("html", "half_body"):
        account.process.broken.add(Fault(action, method="POST"))
        with ends_in(Unavailable, NetworkFailure, what=f"a write answered by {action}") as met:
            await account.connector.perform(write, step, {})
        assert getattr(met[0], "sent", True), "what was answered was sent"
        account.process.broken.clear()


async def check_a_write_answered_by_another_shape_is_unclear(account: ContractAccount) -> None:
    write, step = await primary_of(account)
    for body in ("{}", "[]", "null"):
        account.process.broken.add(Fault("status", method="POST", status=200, body=body))
        with ends_in(Unavailable, NetworkFailure, what=f"a write answered by {body}") as met:
            await account.connector.perform(write, step, {})
        assert getattr(met[0], "sent", True), "what was answered was sent"
        account.process.broken.clear()


async def check_a_write_answered_without_a_key_is_unclear(account: ContractAccount) -> None:
    write, step = await primary_of(account)
    member = account.exercise.spoils["key"].member

    def keyless(value: Any) -> Any:
        return {name: keyless(item) for name, item in value.items() if name != member} if isinstance(value, dict) else value

    account.wire.answered = lambda request, body: keyless(body) if request.method == "POST" else body
    with ends_in(Unavailable, NetworkFailure, what="a write answered by an object without a key") as met:
        await account.connector.perform(write, step, {})
    assert getattr(met[0], "sent", True), "what was answered was sent"


async def check_an_answer_above_the_limit_leaves_a_write_unclear(account: ContractAccount) -> None:
    write, step = await primary_of(account)
    await account.perform(await account.creation("customer"))  # reads what is remembered from then on
    narrow(account)
    with ends_in(Unavailable, NetworkFailure, what="a write answered by too much") as met:
        await account.connector.perform(write, step, {})
    assert getattr(met[0], "sent", True), "what was answered was sent"


async def check_a_failing_read_back_leaves_a_write_unclear(account: ContractAccount) -> None:
    """Once the write is made, what fails behind it may not say that it was turned away: it would be made again."""
    proven = 0
    for entity in account.manifest.writes:
        write, done = await account.creation(entity), dict[str, StepResult]()
        for step in account.connector.plan(write):
            if step.idempotency in (IdempotencyClass.KEY, IdempotencyClass.REPEATABLE):
                done[step.name] = await account.connector.perform(write, step, done)
                continue
            before = account.written()
            account.wire.answered = unreadable_behind_a_write()
            try:
                await account.connector.perform(write, step, done)
            except (Unavailable, NetworkFailure) as error:
                assert getattr(error, "sent", True), f"{entity} {step.name}: it was sent"
            except BusError as error:
                unmade = account.written() == before
                assert unmade, f"{entity} {step.name}: it was made, and ended in {type(error).__name__}: {error}"
            finally:
                account.wire.answered = None
            again = await account.connector.search(write, step, done)
            done[step.name] = again or await account.connector.perform(write, step, done)
            proven += 1
    something(proven, "no step is found again by a search")


def unreadable_behind_a_write() -> Any:
    made: list[bool] = []

    def tamper(request: Any, body: Any) -> Any:
        if request.method != "GET":
            made.append(True)
        return b"<html>Maintenance</html>" if made and request.method == "GET" else body

    return tamper


async def primary_of(account: ContractAccount) -> tuple[Write, Step]:
    """A create and its first step, once an answer has told what is left of the budgets."""
    await account.connector.check()
    write = account.write_of("customer", customer())
    return write, next(step for step in account.connector.plan(write) if step.primary)


# --- values nobody can use ---------------------------------------------------------------------------------------------------


def served(account: ContractAccount, spoil: Spoil, victim: str) -> None:
    """From now on one object is served with a spoiled member, wherever it is served."""
    own_id = victim.rpartition(":")[2]

    def spoiled(value: Any) -> Any:
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get(spoil.key) == own_id and (spoil.beside in value or not spoil.beside) and has(value, spoil.member):
            return put(value, spoil.member, spoil.value)
        return {name: spoiled(item) for name, item in value.items()}

    account.wire.answered = lambda _request, body: spoiled(body)


def has(row: dict[str, Any], path: str) -> bool:
    name, _, rest = path.partition(".")
    return name in row and (not rest or (isinstance(row[name], dict) and has(row[name], rest)))


def put(row: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {**row, name: put(row[name], rest, value) if rest else value}


async def outcomes(account: ContractAccount, stream: str) -> dict[str, Any]:
    """What becomes of each object of a stream: its content, or the error that keeps it, and it only, from going on."""
    found: dict[str, Any] = {}
    async for page in account.connector.read(stream, None):
        completed = await account.connector.complete(page.records)
        for record, whole in zip(page.records, completed, strict=True):
            if not isinstance(whole, RawRecord):
                found[f"{record.entity}/{record.id}"] = whole
                continue
            try:
                found[f"{record.entity}/{record.id}"] = account.connector.to_canonical(whole)
            except RecordError as error:
                found[f"{record.entity}/{record.id}"] = error
    return found


async def spoil_one(account: ContractAccount, name: str, *, may_be_mended: bool = False) -> tuple[Any, str]:
    """One object is spoiled; the others read as before. The error it ended in, and what was wrong."""
    something(name in account.exercise.spoils, f"no {name} to spoil")
    spoil = account.exercise.spoils[name]
    stream = next(stream.name for stream in account.manifest.streams if spoil.entity in stream.entities)
    before = await outcomes(account, stream)
    victim = next(key for key in before if key.startswith(f"{spoil.entity}/"))
    served(account, spoil, victim.partition("/")[2])
    what = f"{spoil.entity}.{spoil.member} = {spoil.value!r}"
    try:
        after = await outcomes(account, stream)
    except RecordError as error:
        raise AssertionError(f"{what} stopped the whole stream: {type(error).__name__}") from error
    ended = after.pop(victim, None)
    assert isinstance(ended, RecordError) or (may_be_mended and ended), f"{what} was taken: {type(ended).__name__}"
    expected = {key: value for key, value in before.items() if key != victim and not refers(value, victim)}
    assert {key: after.get(key) for key in expected} == expected, f"{what}: others did not go on"
    return ended, what


def refers(value: Any, victim: str) -> bool:
    """Whether a document shows the spoiled object, and so cannot read as before."""
    object_id = victim.partition("/")[2]
    return not isinstance(value, Exception) and object_id in repr(value)


async def check_an_unknown_enum_stops_its_record_only(account: ContractAccount) -> None:
    error, what = await spoil_one(account, "enum")
    assert isinstance(error, MappingError), f"{what} ended in {type(error).__name__}"
    assert error.cause is Cause.UNKNOWN_VALUE, what
    assert error.hint, f"{what}: nobody is told what to do"


async def check_an_inexact_amount_stops_its_record_only(account: ContractAccount) -> None:
    """A sum of floats, as careless programs write it: refused, or exact again by the vendor's own rule of rounding."""
    ended, what = await spoil_one(account, "amount", may_be_mended=True)
    if isinstance(ended, RecordError):
        assert isinstance(ended, MappingError), f"{what} ended in {type(ended).__name__}"
        return
    for value in leaves(ended):
        assert not isinstance(value, float), f"{what} was taken as a float"
        assert not isinstance(value, Decimal) or decimals(value) <= DECIMALS_MAX, f"{what} was taken as it came: {value}"


def decimals(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


async def check_a_word_for_an_amount_stops_its_record_only(account: ContractAccount) -> None:
    error, what = await spoil_one(account, "word")
    assert isinstance(error, MappingError), f"{what} ended in {type(error).__name__}"


async def check_a_date_without_zone_stops_its_record_only(account: ContractAccount) -> None:
    error, what = await spoil_one(account, "date")
    assert isinstance(error, MappingError), f"{what} ended in {type(error).__name__}"


async def check_a_null_key_stops_the_stream(account: ContractAccount) -> None:
    """Without a key there is nothing to file a dead letter under, and nothing to tell it from what was deleted."""
    spoil = account.exercise.spoils["key"]
    stream = next(stream.name for stream in account.manifest.streams if spoil.entity in stream.entities)
    records, _ = await account.poll(stream, None)
    served(account, spoil, next(record.id for record in records if record.entity == spoil.entity))
    with ends_in(ApiChanged, what="a null where a key should be"):
        await outcomes(account, stream)


# --- statuses and connections ------------------------------------------------------------------------------------------------


async def check_an_outage_is_transient(account: ContractAccount) -> None:
    for status in (500, 502, 503):
        account.process.broken.add(Fault("status", status=status, times=50))
        with ends_in(Unavailable, what=f"a {status}"):
            await account.connector.check()
        account.process.broken.clear()


async def check_a_status_of_a_read_ends_in_its_class(account: ContractAccount) -> None:
    table: dict[str, type[BusError]] = {"401": CredentialError, "403": AccessDenied, "404": StreamError, "418": StreamError}
    table |= {row: error_class(name) for row, name in account.manifest.errors.items() if "/" not in row}
    for status, kind in table.items():
        account.process.broken.add(Fault("status", status=int(status), times=50))
        with ends_in(kind, what=f"a {status}"):
            await account.poll(account.manifest.streams[0].name, None)
        account.process.broken.clear()


async def check_a_status_of_a_write_ends_in_its_class(account: ContractAccount) -> None:
    write, step = await primary_of(account)
    table: dict[int, tuple[type[BusError], ...]] = {
        400: (WriteRejected,),
        401: (CredentialError,),
        403: (AccessDenied,),
        409: (WriteRejected, WriteConflict),
        429: (RateLimited,),
        502: (Unavailable,),
        503: (Unavailable,),
    }
    for status, kinds in table.items():
        account.process.broken.add(Fault("status", method="POST", status=status, times=50, headers={"Retry-After": "7"}))
        asked = len(account.wire.asked)
        with ends_in(*kinds, what=f"a {status}"):
            await account.connector.perform(write, step, {})
        posts = [request for request in account.wire.asked[asked:] if request.method == "POST"]
        assert len(posts) == (2 if status == 401 else 1), f"a {status}: a write was repeated by the client"
        account.process.broken.clear()
        account.simulator.clock.advance(3_600)


async def check_throttling_keeps_the_vendors_wait(account: ContractAccount) -> None:
    headers = {"Retry-After": str(VENDORS_WAIT_S)}
    account.process.broken.add(Fault("status", status=429, headers=headers))
    calls = account.client.calls
    with ends_in(RateLimited, what="a 429") as met:
        await account.connector.find("customer", Match(email="nobody@nowhere.test"))
    error = met[0]
    assert isinstance(error, TransientError)
    assert error.retry_after_s == VENDORS_WAIT_S, "the vendor said when to come back"
    assert account.client.calls - calls == 1


async def check_a_token_that_ended_is_replaced_once(account: ContractAccount) -> None:
    await account.connector.find("customer", Match(email="nobody@nowhere.test"))
    issued = len(account.tokens.issued)
    account.simulator.tokens.expire_access()
    try:
        assert (await account.connector.check()).vendor_id
        assert (await account.connector.check()).vendor_id
    except BusError as error:
        raise AssertionError("there was a newer token, and it was not used") from error
    assert len(account.tokens.issued) == issued + 1, "one token that ended is one refresh"


async def check_a_broken_connection_says_whether_it_was_sent(account: ContractAccount) -> None:
    write, step = await primary_of(account)
    before = len(account.simulator.books()["customers"])
    for action, is_sent in (("refused", False), ("reset", True), ("timeout", True)):
        account.process.broken.add(Fault(action, method="POST"))  # type: ignore[arg-type]
        with ends_in(NetworkFailure, what=f"a connection that was {action}") as met:
            await account.connector.perform(write, step, {})
        assert getattr(met[0], "sent", None) is is_sent, f"{action}: whether it was sent decides whether it may be repeated"
        account.process.broken.clear()
    assert len(account.simulator.books()["customers"]) == before


# --- limits ------------------------------------------------------------------------------------------------------------------


async def check_declared_limits_are_never_exceeded(account: ContractAccount) -> None:
    assert account.simulator.real_limits
    for stream in account.manifest.streams:
        await account.poll(stream.name, None)
    for number in range(30):
        await account.connector.find("customer", Match(email=f"nobody{number}@nowhere.test"))
    least = min(limit.calls for limit in account.manifest.limits)
    assert account.client.calls > least, "too few calls to exceed anything"
    assert account.simulator.limits.exceeded == 0


async def check_calls_in_flight_stay_within_the_declared(account: ContractAccount) -> None:
    account.wire.pause = True
    most = account.manifest.concurrent_calls_max
    finds = (account.connector.find("customer", Match(email=f"nobody{n}@nowhere.test")) for n in range(3 * most))
    await asyncio.gather(*finds)
    assert account.wire.flying_max > 1, "nothing ran side by side"
    assert account.wire.flying_max <= most


# --- secrets -----------------------------------------------------------------------------------------------------------------


async def check_no_secret_is_in_an_error(account: ContractAccount) -> None:
    """Whatever the vendor answers, even our own words, comes out without personal data and secrets."""
    person = "secret-person@private.test"
    write = account.write_of("customer", customer("Secret Person", person))
    step = next(step for step in account.connector.plan(write) if step.primary)
    faults = [Fault("status", status=status, body=f"<p>{person}</p>", times=50) for status in (400, 403, 418, 503)]
    faults += [Fault("html", times=50), Fault("reset", times=50), Fault("timeout", times=50)]
    met: list[BusError] = []
    for fault in faults:
        account.process.broken.add(fault)
        for work in (
            account.connector.find("customer", Match(email=person)),
            account.connector.perform(write, step, {}),
            account.connector.check(),
        ):
            try:
                await work
            except BusError as error:
                met.append(error)
        account.process.broken.clear()
        account.simulator.clock.advance(3_600)
    assert len(met) >= 2 * len(faults), "errors were expected"
    for told in met:
        text = " ".join([repr(told), str(told), str(getattr(told, "hint", ""))])
        assert person not in text, f"{type(told).__name__} tells who it was about"
        assert "Secret Person" not in text
        tokens = [token.access_token.get_secret_value() for token in account.tokens.issued]
        assert not any(secret in text for secret in [*account.secrets, *tokens]), f"{type(told).__name__} tells a secret"
