"""Equal configurations publish nothing; `now` becomes an instant once; a version ends with its VERSION record."""

from datetime import UTC, date, datetime

from bus.core import topics
from bus.core.configuration import parse
from bus.core.configuration.difference import difference, digest, renamed, with_instants
from bus.core.configuration.documents import decode_document, encode_document, from_published
from bus.runtime.codec import Codec
from bus.runtime.publication import advise, records, replays
from schemas.system import ConfigKind, RequestKind

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
TEXT = """
--- {kind: Connection, name: a, tenant: acme, system: some_shop, secret: a, config: {realm: "1", poll_s: {cdc: 60}}}
--- {kind: Connection, name: b, tenant: acme, system: some_ledger, secret: b, config: {division: 2}}
--- {kind: Table, name: t, key: [code], rows: [{code: x, value: "1", paid: true, pct: 21.50}]}
--- {kind: Flow, name: f, from: {connection: a, entity: sales_invoice}, to: {connection: b, entity: sales_order}, start: now,
     write: create, product: {patience: 3d}, set: {payment_term: {table: t}, note: "'x'"}}
"""


def read(text: str = TEXT):
    return parse(text).accepted()


def test_a_published_document_reads_back_as_itself():
    for document in read().documents():
        assert decode_document(encode_document(document)) == document


def test_equal_configurations_differ_in_nothing_whatever_their_order_and_spelling():
    spelt = TEXT.replace("start: now", "start: {from: now}").replace("note: \"'x'\"", "note: {expression: \"'x'\"}")
    other = "---".join(reversed(spelt.replace("patience: 3d", "patience: 72h").split("---")))
    assert difference(read(), read(other)) == []
    assert digest(read()) == digest(read(other))
    assert digest(read()) != digest(read(TEXT.replace("3d", "4d")))


def test_changes_name_their_keys():
    changed = TEXT.replace("write: create", "write: create, on_delete: delete").replace("name: b,", "name: c,").replace(
        "connection: b", "connection: c")  # fmt: skip
    assert [(item.what, item.kind, item.name, item.keys) for item in difference(read(), read(changed))] == [
        ("added", "Connection", "c", ()),
        ("changed", "Flow", "f", ("on_delete", "to")),
        ("removed", "Connection", "b", ()),
    ]
    assert renamed(difference(read(), read(changed)), read(), read(changed)) == {"b": "c"}


def test_now_is_an_instant_and_stays_the_one_it_was():
    first = with_instants(read(), from_published(), NOW)
    assert first.flows["f"].start.from_ == NOW
    again = with_instants(read(), first, datetime(2027, 1, 1, tzinfo=UTC))
    assert difference(first, again) == []
    dated = with_instants(read(TEXT.replace("start: now", "start: 2026-12-01")), first, NOW)
    assert dated.flows["f"].start.from_ == date(2026, 12, 1)


def test_a_version_ends_with_its_record():
    wanted = with_instants(read(), from_published(), NOW)
    outgoing = records(Codec.offline(), difference(from_published(), wanted), 4, digest(wanted), NOW)
    decoded = [Codec.offline().decode(topics.CONFIG, record.value) for record in outgoing]
    assert [item.kind for item in decoded] == [
        ConfigKind.TABLE, ConfigKind.CONNECTION, ConfigKind.CONNECTION, ConfigKind.FLOW, ConfigKind.VERSION,
    ]  # fmt: skip
    assert (decoded[-1].version, decoded[-1].digest) == (4, digest(wanted))
    assert {record.partition for record in outgoing} == {0}
    assert len({record.key for record in outgoing}) == 5
    removed = records(Codec.offline(), difference(wanted, from_published()), 5, "d", NOW)
    assert Codec.offline().decode(topics.CONFIG, removed[0].value).document is None


def test_keys_of_the_bus_leave_the_vendors_config_alone():
    connection = read().connections["a"]
    assert (connection.config, connection.poll_s) == ({"realm": "1"}, {"cdc": 60})
    assert connection.poll_interval_s("cdc", ("customer",), 300) == 60
    assert connection.poll_interval_s("other", ("customer",), 300) == 300


def test_each_new_flow_and_no_other_asks_for_its_replay():
    first = read()
    [asked] = replays(difference(from_published(), first), first, 4)
    assert (asked.kind, asked.connection) == (RequestKind.REPLAY, "a")
    assert asked.args == {"flow": "f", "after_version": "4", "reason": "new flow"}
    changed = read(TEXT.replace("write: create", "write: create, when: source.number"))
    assert difference(first, changed)
    assert replays(difference(first, changed), changed, 5) == []
    assert replays(difference(first, from_published()), from_published(), 5) == []
    again = replays(difference(from_published(), first), first, 4)
    assert again[0].id != asked.id


def test_what_a_change_leaves_undone_is_told_with_its_command():
    first = read()
    mended = read(TEXT.replace("rows: [", "rows: [{code: y, value: 2, paid: true, pct: 21.50}, "))
    [told] = advise(difference(first, mended), first, mended)
    assert "table t changed" in told
    assert "`bus dead-letters redrive --flow f --cause MISSING_TABLE_ROW`" in told
    [told] = advise(difference(first, other := read(TEXT.replace("3d", "4d"))), first, other)
    assert "`bus replay --flow f`" in told
    assert advise(difference(from_published(), first), from_published(), first) == [], "a new flow is replayed by itself"
    tax = TEXT.replace("secret: a,", "secret: a, source_tax: t,").replace("payment_term: {table: t}, ", "")
    mended = tax.replace("rows: [", "rows: [{code: y, value: 2, paid: true, pct: 21.50}, ")
    [told] = advise(difference(read(tax), read(mended)), read(tax), read(mended))
    assert "table t changed" in told
