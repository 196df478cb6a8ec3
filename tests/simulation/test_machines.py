"""Small machines under random orders of events (hypothesis): the offset book, and the poller's judgement."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bus.runtime.state import AccountState, intent_key, object_key
from schemas.system import (
    IdempotencyClass,
    IntentRecord,
    IntentState,
    ObjectRef,
    ObjectState,
    SeenRecord,
    StateRecord,
    StepRecord,
    StepState,
)
from services.pollers import judging
from services.pollers.judging import Verdict, judge
from services.sinks.ledger import Offsets

HERE, PEER = "here", "there"
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


class OffsetBook(RuleBasedStateMachine):
    """Commands are taken in order and settled in any order; a new owner begins at the committed position."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Offsets(0)
        self.taken = 0
        self.settled: set[int] = set()
        self.committed = 0

    @rule()
    def take(self) -> None:
        self.book.taken(self.taken)
        self.taken += 1

    @precondition(lambda self: len(self.settled) < self.taken)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from([offset for offset in range(self.taken) if offset not in self.settled]))
        self.book.settled(offset)
        self.settled.add(offset)
        self.committed = self.book.position()

    @rule()
    def another_owner(self) -> None:
        """Reads again from what was committed; what was settled behind it is taken and settled twice."""
        self.book = Offsets(self.committed)
        for offset in range(self.committed, self.taken):
            self.book.taken(offset)
        self.settled = {offset for offset in self.settled if offset < self.committed}

    @invariant()
    def nothing_unsettled_is_behind_the_position(self) -> None:
        assert all(offset in self.settled for offset in range(self.committed))

    @invariant()
    def the_position_is_the_first_that_is_open(self) -> None:
        wanted = next((offset for offset in range(self.taken) if offset not in self.settled), self.taken)
        assert self.book.position() == wanted
        assert len(self.book) == self.taken - len(self.settled)


class Judgements(RuleBasedStateMachine):
    """One object of one account: people edit it, we write it, it is polled at any time and any number of times.

    What is promised: no edit of a person is ever told as ours, none of ours as a person's, and each content is told once.
    """

    FIELDS = ("name", "language")

    def __init__(self) -> None:
        super().__init__()
        self.state = AccountState(HERE)
        self.seen: SeenRecord | None = None
        self.holds = {"name": "0", "language": "0"}
        self.persons: dict[str, str] = {}
        """Fields edited by people and not told yet, with their values."""
        self.clock = NOW
        self.number = 1
        self.values = 0
        self.told: list[dict[str, str]] = []
        self.open: IntentRecord | None = None

    def _tick(self) -> datetime:
        self.clock += timedelta(seconds=1)
        return self.clock

    def _new_value(self) -> str:
        self.values += 1
        return str(self.values)

    @rule(field=st.sampled_from(FIELDS))
    def person_edits(self, field: str) -> None:
        self.holds[field] = self.persons[field] = self._new_value()
        self.number += 1

    @precondition(lambda self: self.open is None and self.seen is not None)
    @rule()
    def our_write_begins(self) -> None:
        source = ObjectRef(connection=PEER, entity="customer", id="61")
        step = StepRecord(name="update", idempotency=IdempotencyClass.REPEATABLE, body_hash="x", state=StepState.OPEN)
        self.open = IntentRecord(
            source=source, entity="customer", state=IntentState.OPEN, generation=0, command=b"c", steps=[step], external_id="C1",
            deadline_boot_ms=0, boot_id="b", opened_at=self._tick(),
        )  # fmt: skip
        self._put(intent=self.open)

    @precondition(lambda self: self.open is not None)
    @rule(field=st.sampled_from(FIELDS))
    def our_write_is_done(self, field: str) -> None:
        """Of one field; what people edited of it before is overwritten, the rest is as it was known."""
        assert self.open is not None
        self.holds[field] = self._new_value()
        self.persons.pop(field, None)
        self.number += 1
        known = self.state.object("customer", "C1")
        base = dict(known.field_hashes) if known is not None else dict(self.seen.field_hashes if self.seen else {})
        hashes = {**base, field: self.holds[field]}
        exact = hashes == self.holds
        self._put(
            object=ObjectState(
                version=str(self.number), content_hash=self._content() if exact else None, field_hashes=hashes, by_bus=True,
                written_at=self._tick(), writer=self.open.source,
            )
        )  # fmt: skip
        closed = IntentState.CLOSED
        self._put(intent=IntentRecord(**{**{n: getattr(self.open, n) for n in self.open.__struct_fields__}, "state": closed}))
        self.open = None

    def _put(self, **member: object) -> None:
        record = StateRecord(connection=HERE, **member)  # type: ignore[arg-type]
        if record.intent is not None:
            self.state.apply(intent_key(HERE, "customer", record.intent.source, None), record)
        else:
            self.state.apply(object_key(HERE, "customer", "C1"), record)

    def _content(self) -> str:
        return "|".join(f"{name}={value}" for name, value in sorted(self.holds.items()))

    @rule()
    def polled(self) -> None:
        """By the newest state and the newest row."""
        fields = dict(self.holds)
        found = judge(self.state, self.seen, "customer", "C1", self._content(), fields, self._tick(), version=str(self.number))
        if self.open is not None:
            assert found.verdict is Verdict.HELD
            return
        if found.verdict is Verdict.UNCHANGED:
            assert self.told
            assert self.told[-1] == fields
            assert not self.persons
            return
        assert found.verdict is Verdict.NEWS
        before = self.seen.field_hashes if self.seen is not None else {}
        news = {name for name in fields if fields[name] != before.get(name)} - set(found.echo_fields)
        if self.seen is not None:
            assert set(self.persons) == news, "people's edits are told, and nothing else"
            assert bool(found.origin and found.origin.echo) <= (not self.persons), "an edit is no echo"
            assert found.seq > self.seen.seq
        self.told.append(fields)
        self.persons.clear()
        self.seen = SeenRecord(
            connection=HERE, entity="customer", source_id="C1", raw_hash="r", content_hash=self._content(), seq=found.seq,
            mapping_version=1, source_version=str(self.number), judged_write=found.judged_write, field_hashes=fields,
        )  # fmt: skip


TestOffsetBook = OffsetBook.TestCase
TestOffsetBook.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestJudgements = Judgements.TestCase
TestJudgements.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("machine", "owner", "name", "broken"),
    [
        (OffsetBook, Offsets, "position", lambda self: self._next),
        (OffsetBook, Offsets, "settled", lambda self, offset: None),
        (Judgements, judging, "_is_fresh", lambda known, seen: False),
        (Judgements, judging, "is_held", lambda *_: False),
        (Judgements, judging, "_own_fields", lambda write, seen, fields: tuple(fields)),
        (Judgements, judging, "next_seq", lambda seen, now: 1),
    ],
)
def test_a_broken_build_is_caught(
    machine: type[RuleBasedStateMachine], owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine, settings=settings(max_examples=200, database=None, deadline=None, report_multiple_bugs=False)
        )


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.booleans())
def test_an_outrun_row_is_held_and_a_rested_read_never(version: int, written: int, is_list: bool) -> None:
    """Vendors count by whole numbers, and some begin again: a read by itself, a minute after our write, is believed."""
    state = AccountState(HERE)
    object_state = ObjectState(version=str(written), field_hashes={"name": "1"}, by_bus=True, written_at=NOW)
    state.apply(object_key(HERE, "customer", "C1"), StateRecord(connection=HERE, object=object_state))
    later = NOW + timedelta(seconds=61)
    found = judge(state, None, "customer", "C1", "c", {"name": "2"}, later, version=str(version), is_list=is_list)
    assert (found.verdict is Verdict.HELD) == (is_list and version < written)
