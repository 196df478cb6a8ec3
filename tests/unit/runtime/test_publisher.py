"""The order of a commit and the five ways it ends, with a producer that fails on purpose."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.core.errors import BusError, NetworkFailure, RecordError
from bus.runtime import kafka, publisher
from bus.runtime.publisher import CommitAborted, CommitUnclear, Fenced, Outgoing, Publisher
from bus.runtime.settings import BusSettings
from schemas.system import Cause

FENCED = KafkaError(KafkaError._FENCED, "fenced", True, False, False)
TIMED_OUT = KafkaError(KafkaError._TIMED_OUT, "no answer", False, True, False)
MUST_ABORT = KafkaError(KafkaError.NOT_ENOUGH_REPLICAS, "too few", False, False, True)


class FakeProducer:
    """Records its calls; `fails` says which of them raise what."""

    def __init__(self, fails: dict[str, KafkaError], refuses: KafkaError | None = None) -> None:
        self.calls: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.fails = fails
        self.refuses = refuses

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise KafkaException(self.fails[name])

    def init_transactions(self, _timeout: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, **members: Any) -> None:
        self._call("produce")
        self.sent.append({"topic": topic, **members})

    def commit_transaction(self, _timeout: float) -> None:
        if self.refuses is not None:
            for record in self.sent:
                record["on_delivery"](self.refuses, None)
        self._call("commit")

    def abort_transaction(self, _timeout: float) -> None:
        self._call("abort")

    def purge(self) -> None:
        self._call("purge")


Open = Callable[..., Any]


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    made: list[Publisher] = []

    async def open_with(refuses: KafkaError | None = None, **fails: KafkaError) -> tuple[Publisher, FakeProducer]:
        fake = FakeProducer(fails, refuses)
        monkeypatch.setattr(publisher, "Producer", lambda _config: fake)
        one = Publisher(BusSettings(kafka_bootstrap="x:1"), "bus-test-0")
        made.append(one)
        await one.open()
        return one, fake

    yield open_with
    for one in made:
        await one.close()


RECORDS = [
    Outgoing("bus.state", 3, "key|1", b"value", {"ce_id": "1"}),
    Outgoing("bus.results", None, "key|2", None),
]


async def test_a_commit_begins_sends_all_and_commits(opened: Open) -> None:
    one, fake = await opened()
    await one.commit(RECORDS)
    assert fake.calls == ["init", "begin", "produce", "produce", "commit"]
    first, second = fake.sent
    assert (first["topic"], first["partition"], first["key"], first["value"]) == ("bus.state", 3, b"key|1", b"value")
    assert first["headers"] == [("ce_id", b"1")]
    assert (second["partition"], second["value"]) == (-1, None)


async def test_nothing_to_commit_is_no_transaction(opened: Open) -> None:
    one, fake = await opened()
    await one.commit([])
    assert fake.calls == ["init"]


async def test_a_record_too_large_is_refused_before_anything_begins(opened: Open) -> None:
    one, fake = await opened()
    with pytest.raises(RecordError, match=r"bus\.state: key\|big has") as caught:
        await one.commit([RECORDS[0], Outgoing("bus.state", 0, "key|big", b"x" * kafka.RECORD_BYTES_MAX)])
    assert caught.value.cause is Cause.TOO_LARGE
    assert fake.calls == ["init"]
    await one.commit(RECORDS)


async def test_a_record_without_a_key_is_a_bug(opened: Open) -> None:
    one, fake = await opened()
    with pytest.raises(ValueError, match="no key"):
        await one.commit([Outgoing("bus.state", 0, "", b"x")])
    assert fake.calls == ["init"]


async def test_too_many_records_for_one_transaction_is_a_bug(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "RECORDS_MAX", 1)
    one, _ = await opened()
    with pytest.raises(ValueError, match="2 records"):
        await one.commit(RECORDS)


async def test_fenced_while_opening(opened: Open) -> None:
    with pytest.raises(Fenced):
        await opened(init=FENCED)


async def test_no_answer_while_opening_may_be_repeated(opened: Open) -> None:
    with pytest.raises(NetworkFailure):
        await opened(init=TIMED_OUT)


@pytest.mark.parametrize("where", ["begin", "produce", "commit"])
async def test_fenced_destroys_the_producer_and_never_aborts(opened: Open, where: str) -> None:
    one, fake = await opened(**{where: FENCED})
    with pytest.raises(Fenced):
        await one.commit(RECORDS)
    assert "abort" not in fake.calls
    assert fake.calls[-1] == "purge"
    assert not one.is_open


async def test_an_unclear_commit_destroys_the_producer_and_is_not_repeated(opened: Open) -> None:
    one, fake = await opened(commit=TIMED_OUT)
    with pytest.raises(CommitUnclear):
        await one.commit(RECORDS)
    assert fake.calls.count("commit") == 1
    assert "abort" not in fake.calls
    assert not one.is_open
    with pytest.raises(CommitUnclear, match="take over again"):
        await one.commit(RECORDS)


async def test_an_aborted_commit_leaves_the_publisher_open_for_another_try(opened: Open) -> None:
    one, fake = await opened(commit=MUST_ABORT)
    with pytest.raises(CommitAborted):
        await one.commit(RECORDS)
    assert fake.calls[-1] == "abort"
    assert one.is_open
    fake.fails.clear()
    await one.commit(RECORDS)


async def test_a_failure_before_the_commit_is_never_unclear(opened: Open) -> None:
    one, fake = await opened(produce=TIMED_OUT)
    with pytest.raises(CommitAborted):
        await one.commit(RECORDS)
    assert fake.calls[-1] == "abort"


@pytest.mark.parametrize(("second", "wanted"), [(FENCED, Fenced), (TIMED_OUT, CommitUnclear)])
async def test_an_abort_that_fails_decides(opened: Open, second: KafkaError, wanted: type[BusError]) -> None:
    one, _ = await opened(commit=MUST_ABORT, abort=second)
    with pytest.raises(wanted):
        await one.commit(RECORDS)
    assert not one.is_open


async def test_a_size_the_broker_refuses_is_the_records_fault(opened: Open) -> None:
    one, _ = await opened(refuses=KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), commit=MUST_ABORT)
    with pytest.raises(RecordError) as caught:
        await one.commit(RECORDS)
    assert caught.value.cause is Cause.TOO_LARGE
    assert one.is_open


async def test_a_closed_publisher_commits_nothing(opened: Open) -> None:
    one, fake = await opened()
    await one.close()
    with pytest.raises(CommitUnclear, match="is closed"):
        await one.commit(RECORDS)
    assert "begin" not in fake.calls
    await one.close()
