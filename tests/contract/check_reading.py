"""Streams: everything once, what changed and nothing else, deletes, pages, positions."""

import contextlib
import copy
from collections import Counter
from datetime import date
from typing import Any

import msgspec

from bus.core.errors import BusError, CursorInvalid, PageLoop
from bus.kit.connector import Page, RawRecord
from bus.kit.manifest import Stream
from bus.simulation.faults import Fault
from tests.contract.account import ContractAccount
from tests.contract.asserting import ends_in, something

PAGES_MAX = 200
DERIVED = {"subject", "email_index"}
PERSONAL = {"full_name", "given_name", "middle_name", "family_name", "email", "emails", "phone", "phones", "address"}


async def check_says_who_the_account_is(account: ContractAccount) -> None:
    found = await account.connector.check()
    assert found.vendor_id, "check gives the vendor's id of the account"
    assert str(found.vendor_id) in {str(value) for value in account.process.info["config"].values()}
    assert found.currency == "EUR"


async def everything(account: ContractAccount) -> list[RawRecord]:
    records = []
    for stream in account.manifest.streams:
        found, _ = await account.poll(stream.name, None)
        records += found
    return records


async def check_every_object_is_read_once(account: ContractAccount) -> None:
    books = account.simulator.books()
    records = await everything(account)
    ids = [(record.entity, record.id) for record in records if not record.deleted]
    assert len(ids) == len(set(ids)), "an object came twice in one back-fill"
    read = {object_id for _, object_id in ids}
    for kind in ("products", "customers", "documents"):
        assert books[kind], f"no {kind} in the simulator"
        missing = {item["id"] for item in books[kind]} - read
        assert not missing, f"{kind} are missing: {sorted(missing)[:3]}"


async def check_a_stream_gives_the_entities_it_declares(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        records, _ = await account.poll(stream.name, None)
        assert {record.entity for record in records} == set(stream.entities), stream.name
        for record in records:
            document = account.connector.to_canonical(record)
            expected = "".join(part.capitalize() for part in record.entity.split("_"))
            assert type(document).__name__ == expected, f"{record.entity} {record.id} was mapped to a {type(document).__name__}"


async def check_many_pages_are_read_to_the_end(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        if stream.name not in account.exercise.fill:
            continue
        account.exercise.fill[stream.name](account.simulator, stream.page_size_max)
        calls = account.client.calls
        records, position = await account.poll(stream.name, None)
        assert account.client.calls - calls > 1
        unique = {(record.entity, record.id) for record in records}
        assert len(unique) == len(records), f"{stream.name}: an object of the overlap of two pages came twice"
        assert len(unique) > stream.page_size_max, f"{stream.name}: {len(unique)} objects of more than {stream.page_size_max}"
        later, _ = await account.poll(stream.name, position)
        assert {(record.entity, record.id) for record in later if not record.deleted} <= unique
    something(account.exercise.fill, "no stream is longer than a page")


async def check_a_poll_cut_short_is_resumed(account: ContractAccount) -> None:
    """Died after each page in turn: what was not yet given comes from the position of that page."""
    cuts = 0
    for stream in account.manifest.streams:
        if stream.name not in account.exercise.fill:
            continue
        account.exercise.fill[stream.name](account.simulator, account.exercise.pages_rows)
        account.simulator.clock.advance(3 * 86_400)  # no overlap brings what is lost
        pages = [page async for page in account.connector.read(stream.name, None)]
        whole = {(record.entity, record.id) for page in pages for record in page.records}
        assert not pages[-1].more, f"{stream.name}: the last page says there are more"
        for number in sorted({1, len(pages) // 2, len(pages) - 1} & set(range(1, len(pages)))):
            given = {(record.entity, record.id) for page in pages[:number] for record in page.records}
            rest, _ = await account.poll(stream.name, stored(pages[number - 1]))
            missing = whole - given - {(record.entity, record.id) for record in rest}
            assert not missing, f"{stream.name}: {len(missing)} objects are lost after a crash behind page {number}"
            cuts += 1
    something(cuts, "no stream has two pages")


def stored(page: Page) -> Any:
    return msgspec.json.decode(msgspec.json.encode(page.position))


async def check_a_second_poll_yields_exactly_the_changes(account: ContractAccount) -> None:
    edited = set()
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
            assert now[entity, target.id] != first[entity, target.id], f"{stream.name}: the {entity} came in its old state"
            shown_in = account.exercise.shown_in.get(entity, ())
            others = {key: value for key, value in now.items() if key != (entity, target.id) and key[0] not in shown_in}
            assert all(first.get(key) == value for key, value in others.items()), f"{stream.name}: others changed as well"
            first |= now
            edited.add(entity)
    assert edited == set(account.exercise.edits), "an entity was never edited"


async def check_a_quiet_poll_costs_what_is_declared(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        _, position = await account.poll(stream.name, None)
        account.simulator.clock.advance(600)
        records, position = await account.poll(stream.name, position)
        account.simulator.clock.advance(600)
        calls = account.client.calls
        records, _ = await account.poll(stream.name, position)
        assert account.client.calls - calls <= stream.calls_per_poll, f"{stream.name}: dearer than the manifest says"
        assert not records or stream.kind == "full", f"{stream.name}: what did not change comes again and again"


async def check_deletes_arrive(account: ContractAccount) -> None:
    deleted = set()
    for stream in feeds(account):
        records, position = await account.poll(stream.name, None)
        for entity, fields in account.exercise.deletes.items():
            if entity not in stream.entities:
                continue
            victim = delete_one(account, [r for r in records if r.entity == entity], fields)
            account.simulator.clock.advance(3)
            changed, position = await account.poll(stream.name, position)
            assert [r.id for r in changed if r.deleted and r.entity == entity] == [victim.id], (
                f"{stream.name}: the delete of {entity} was missed, or others were reported"
            )
            deleted.add(stream.name)
    something(account.exercise.deletes, "no stream tells of deletes")
    assert deleted == {stream.name for stream in feeds(account)}, "a stream with a feed of deletes was not proven"


def delete_one(account: ContractAccount, records: list[RawRecord], fields: dict[str, Any]) -> RawRecord:
    """The youngest that the vendor lets a person delete: others are referred to, delivered or paid."""
    for record in reversed(records):
        with contextlib.suppress(ValueError):
            account.simulator.edit(record.entity, record.id, copy.deepcopy(fields))
            return record
    raise AssertionError("nothing can be deleted")


def feeds(account: ContractAccount) -> list[Stream]:
    return [stream for stream in account.manifest.streams if stream.deletes == "feed"]


async def check_a_full_read_names_every_id(account: ContractAccount) -> None:
    full = [stream for stream in account.manifest.streams if stream.kind == "full" or stream.deletes == "scan"]
    something(full, "no stream is read in full each time")
    for stream in full:
        pages = [page async for page in account.connector.read(stream.name, None)]
        given = {(record.entity, record.id) for page in pages for record in page.records}
        named = {(entity, object_id) for page in pages for entity, ids in (page.complete_ids or {}).items() for object_id in ids}
        assert given, stream.name
        assert named == given, f"{stream.name}: ids that exist are not named, and would be taken for deleted"
        assert all(page.complete_ids is None for page in pages[:-1])


async def check_a_comparison_names_what_exists_and_nothing_else(account: ContractAccount) -> None:
    """Law 15: an id that is left out would be taken for a delete."""
    for stream in account.manifest.streams:
        if stream.name in account.exercise.fill:
            account.exercise.fill[stream.name](account.simulator, stream.page_size_max)
    for stream in account.manifest.streams:
        records, _ = await account.poll(stream.name, None)
        sleeping = [
            await sent_to_sleep(account, records, entity) for entity in stream.entities if entity in account.exercise.rests
        ]
        exist = {(record.entity, record.id) for record in records if not record.deleted}
        assert exist >= {(record.entity, record.id) for record in sleeping}
        assert await named(account, stream) == exist, f"{stream.name}: not the ids of what exists"
        for entity, fields in account.exercise.deletes.items():
            if entity in stream.entities:
                victim = delete_one(account, [record for record in records if record.entity == entity], fields)
                exist.discard((entity, victim.id))
        account.simulator.clock.advance(3)
        assert await named(account, stream) == exist, f"{stream.name}: what was deleted is still named, or more is gone"
    something(account.exercise.rests, "nothing can be made inactive")


async def sent_to_sleep(account: ContractAccount, records: list[RawRecord], entity: str) -> RawRecord:
    """An object that is inactive from now on, and exists all the same."""
    target = next(record for record in records if record.entity == entity)
    account.simulator.edit(entity, target.id, copy.deepcopy(account.exercise.rests[entity]))
    return target


async def named(account: ContractAccount, stream: Stream) -> set[tuple[str, str]]:
    return {(entity, key) async for page in account.connector.ids(stream.name) for entity, ids in page.items() for key in ids}


async def check_a_comparison_cut_short_does_not_end_well(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        for action in ("reset", "half_body", "html"):
            account.process.broken.add(Fault(action, times=50))  # type: ignore[arg-type]
            with ends_in(BusError, what=f"{stream.name}: a comparison whose answer was {action}"):
                await named(account, stream)
            account.process.broken.clear()


async def check_a_position_older_than_the_window_is_invalid(account: ContractAccount) -> None:
    windows = [stream for stream in account.manifest.streams if stream.window_days is not None]
    something(windows, "no stream forgets")
    for stream in windows:
        assert stream.window_days is not None
        _, position = await account.poll(stream.name, None)
        account.simulator.clock.advance((stream.window_days - 1) * 86_400)
        _, position = await account.poll(stream.name, position)
        account.simulator.clock.advance(stream.window_days * 86_400 + 3_600)
        with ends_in(CursorInvalid, what=f"{stream.name}: a position that the vendor forgot"):
            await account.poll(stream.name, position)


async def check_a_position_of_another_shape_is_invalid(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        if stream.kind == "full":
            continue
        with ends_in(CursorInvalid, what=f"{stream.name}: a position that another release stored"):
            await account.poll(stream.name, {"page": 3})


async def check_an_undeclared_stream_is_refused(account: ContractAccount) -> None:
    with ends_in(BusError, what="a stream that does not exist"):
        await account.poll("stock", None)


async def check_a_looping_page_is_noticed(account: ContractAccount) -> None:
    something(account.exercise.looping_stream, "no stream has pages")
    account.wire.answered = account.exercise.loop
    with ends_in(PageLoop, what="a page token that loops"):
        pages = 0
        async for _ in account.connector.read(account.exercise.looping_stream, None):
            pages += 1
            assert pages < PAGES_MAX, "a page token loops, and the poll goes on for ever"


async def check_completing_answers_each_record_in_its_place(account: ContractAccount) -> None:
    for stream in account.manifest.streams:
        records = [record async for page in account.connector.read(stream.name, None) for record in page.records]
        gone = RawRecord(entity=records[0].entity, id="gone", raw=b"", deleted=True)
        asked = [*records[::-1], gone]
        completed = await account.connector.complete(asked)
        assert [(r.entity, r.id, r.deleted) for r in completed if isinstance(r, RawRecord)] == [
            (r.entity, r.id, r.deleted) for r in asked
        ], f"{stream.name}: answers stand in another order, or are missing"


async def check_mapping_is_pure(account: ContractAccount) -> None:
    encoder = msgspec.json.Encoder(order="sorted")
    records = await everything(account)
    calls = len(account.wire.asked)
    for record in records:
        first = encoder.encode(account.connector.to_canonical(record))
        account.simulator.clock.advance(86_400)
        assert encoder.encode(account.connector.to_canonical(record)) == first, f"{record.entity}: the mapping knows the time"
    assert len(account.wire.asked) == calls


async def check_mapped_fields_are_declared(account: ContractAccount) -> None:
    met: Counter[str] = Counter()
    for record in await everything(account):
        document = account.connector.to_canonical(record)
        reads = account.manifest.reads[record.entity]
        paths = [*reads.fields]
        declared = {path.split(".")[0] for path in paths} | DERIVED | ({"pii"} if PERSONAL & set(paths) else set())
        filled = {name for name, value in msgspec.structs.asdict(document).items() if value not in default_of(document, name)}
        assert filled <= declared, f"{record.entity}: {sorted(filled - declared)} is not declared"
        for line in getattr(document, "lines", []):
            own = {path.split(".")[0] for path in reads.line_fields}
            shown = {name for name, value in msgspec.structs.asdict(line).items() if value not in default_of(line, name)}
            assert shown <= own, f"{record.entity} line: {sorted(shown - own)} is not declared"
        for path, members in reads.enums.items():
            for value in values_at(document, path.split(".")):
                assert value in members, f"{record.entity}.{path}: {value} is not declared"
                met[f"{record.entity}.{path}"] += 1
    assert met, "no enum was met"


def default_of(document: Any, name: str) -> list[Any]:
    """Values that say nothing: absent, empty, the declared default."""
    field = next(item for item in msgspec.structs.fields(document) if item.name == name)
    return [None, [], {}, *([] if field.default is msgspec.NODEFAULT else [field.default])]


def values_at(value: Any, path: list[str]) -> list[str]:
    if not path:
        return [] if value is None or str(value) == "UNKNOWN" else [str(value)]
    if isinstance(value, list):
        return [found for item in value for found in values_at(item, path)]
    if not hasattr(value, path[0]):
        return (
            [found for line in getattr(value, "lines", []) for found in values_at(line, path)] if path[0] == "line_type" else []
        )
    return values_at(getattr(value, path[0]), path[1:])


async def check_what_is_read_is_exact(account: ContractAccount) -> None:
    """No float anywhere in what a mapping gives."""
    amounts = 0
    for record in await everything(account):
        for value in leaves(account.connector.to_canonical(record)):
            assert not isinstance(value, float), f"{record.entity} {record.id}: {value} is a float"
            amounts += not isinstance(value, str | bool | int | date | bytes | None)
    assert amounts, "no amount was met"


def leaves(value: Any) -> list[Any]:
    if isinstance(value, msgspec.Struct):
        return [leaf for name in value.__struct_fields__ for leaf in leaves(getattr(value, name))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value]
