"""What the books count, from a few picked fields: the same as from whole records."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.core import topics
from bus.core.clock import micros
from bus.runtime.bookkeeping import Notes, SeenNote, StandingNote
from bus.runtime.codec import Codec, SchemaUnknown
from bus.runtime.state import brake_key, intent_key, link_key, object_key, offset_key, standing_key
from schemas.system import (
    BrakeRecord,
    Cause,
    CursorRecord,
    IntentRecord,
    IntentState,
    LinkRecord,
    ObjectRef,
    ObjectState,
    OffsetRecord,
    Outcome,
    SeenRecord,
    Standing,
    StandingRecord,
    StateRecord,
)
from tests.unit.runtime.releases import OtherRelease

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SOURCE = ObjectRef(connection="peer", entity="customer", id="7")
MOMENTS = st.none() | st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))
STANDINGS = st.builds(
    StandingRecord,
    flow=st.sampled_from(["f", "g|h"]),
    source=st.builds(ObjectRef, connection=st.just("peer"), entity=st.just("customer"), id=st.sampled_from(["1", "2", "a|b"])),
    seq=st.integers(0, 2**62),
    config_version=st.integers(0, 300),
    standing=st.sampled_from(list(Standing)),
    outcome=st.sampled_from(list(Outcome)),
    cause=st.none() | st.sampled_from(list(Cause)),
    detail=st.none() | st.text(max_size=200),
    missing=st.lists(st.text(max_size=5), max_size=3),
    parked_at=MOMENTS,
    retry_at=MOMENTS,
    applied=st.dictionaries(st.text(max_size=5), st.text(max_size=200), max_size=3),
    settled_at=st.just(NOW),
)
SEEN = st.builds(
    SeenRecord,
    connection=st.sampled_from(["a", "b"]),
    entity=st.sampled_from(["customer", "product"]),
    source_id=st.sampled_from(["1", "2", "x|y"]),
    raw_hash=st.text(max_size=3),
    content_hash=st.sampled_from(["", "aa"]),
    seq=st.integers(0, 2**62),
    mapping_version=st.integers(0, 3),
    source_version=st.none() | st.text(max_size=3),
    deleted=st.booleans(),
    held=st.booleans(),
)
CODEC = Codec.offline()
OTHER = OtherRelease(CODEC)
for topic in (topics.STATE, topics.SEEN, topics.CURSORS):
    OTHER.teach(topic)


@given(st.lists(st.tuples(STANDINGS, st.booleans(), st.booleans()), max_size=12))
@settings(deadline=None)
def test_standings_count_as_whole_records_do(changes: list[tuple[StandingRecord, bool, bool]]) -> None:
    notes, whole = Notes(CODEC), {}
    for record, is_gone, is_foreign in changes:
        key = standing_key("here", record.flow, record.source)
        value = (OTHER if is_foreign else CODEC).encode(topics.STATE, StateRecord(connection="here", standing=record))
        notes.take(topics.STATE, key.encode(), None if is_gone else value)
        whole.pop(key, None)
        if not is_gone:
            whole[key] = record
    expected: dict[str, Counter[StandingNote]] = {}
    for record in whole.values():
        note = StandingNote(
            str(record.standing),
            str(record.outcome),
            str(record.cause) if record.cause else None,
            record.detail or "" if record.standing is Standing.FILTERED else "",
            micros(record.parked_at) if record.parked_at else None,
            record.standing is Standing.PARKED and record.retry_at is not None,
        )
        expected.setdefault(record.flow, Counter())[note] += 1
    assert {flow: found for flow, found in notes.standings() if found} == expected


@given(st.lists(st.tuples(SEEN, st.booleans(), st.booleans()), max_size=12))
@settings(deadline=None)
def test_seen_objects_count_as_whole_records_do(changes: list[tuple[SeenRecord, bool, bool]]) -> None:
    notes, whole = Notes(CODEC), {}
    for record, is_gone, is_foreign in changes:
        key = topics.event_key(record.connection, record.entity, record.source_id)
        value = (OTHER if is_foreign else CODEC).encode(topics.SEEN, record)
        notes.take(topics.SEEN, key.encode(), None if is_gone else value)
        whole.pop(key, None)
        if not is_gone:
            whole[key] = record
    expected: dict[tuple[str, str], Counter[SeenNote]] = {}
    for record in whole.values():
        note = SeenNote(bool(record.content_hash) or record.deleted, record.held)
        expected.setdefault((record.connection, record.entity), Counter())[note] += 1
    assert {(name, entity): found for name, entity, found in notes.seen() if found} == expected


def intent(state: IntentState) -> StateRecord:
    return StateRecord(
        connection="here",
        intent=IntentRecord(
            source=SOURCE, entity="customer", state=state, command=b"c", deadline_boot_ms=1, boot_id="b", opened_at=NOW
        ),
    )


@pytest.mark.parametrize("codec", [CODEC, OTHER], ids=["this release", "another"])
def test_few_are_kept_and_many_leave(codec: Any) -> None:
    notes = Notes(CODEC)
    key = intent_key("here", "customer", SOURCE, None).encode()
    link = LinkRecord(source=SOURCE, entity="customer", external_id="1")
    records = {
        offset_key("here").encode(): StateRecord(connection="here", offset=OffsetRecord(offset=5)),
        brake_key("here", "").encode(): StateRecord(connection="here", brake=BrakeRecord(flow="", open=True)),
        key: intent(IntentState.OPEN),
    }
    others = {
        object_key("here", "customer", "1").encode(): StateRecord(connection="here", object=ObjectState()),
        link_key("here", "customer", SOURCE, None).encode(): StateRecord(connection="here", link=link),
    }
    for place, record in (records | others).items():
        notes.take(topics.STATE, place, codec.encode(topics.STATE, record))
    cursor = CursorRecord(connection="here", stream="customers")
    notes.take(topics.CURSORS, b"here|customers", codec.encode(topics.CURSORS, cursor))
    assert list(notes.state()) == list(records.values()) and list(notes.cursors()) == [cursor]
    notes.take(topics.STATE, key, codec.encode(topics.STATE, intent(IntentState.CLOSED)))
    assert key not in [place for _, place in notes._few]


def test_a_release_not_known_yet_is_told_before_anything_is_noted() -> None:
    reader = Codec.offline()
    notes = Notes(reader)
    record = SeenRecord(connection="a", entity="customer", source_id="1", raw_hash="", content_hash="c", seq=1, mapping_version=1)
    value = OtherRelease(reader).encode(topics.SEEN, record)
    with pytest.raises(SchemaUnknown):
        notes.take(topics.SEEN, b"a|customer|1", value)
    assert [found for _, _, found in notes.seen() if found] == []
