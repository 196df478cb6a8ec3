"""Twins of the checks of streams."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from bus.core.errors import BusError, CursorInvalid, ManifestError, PageLoop
from bus.kit.connector import Page, Position, RawRecord
from schemas import canon
from tests.contract.account import ContractAccount
from tests.contract.twins import breaks, redeclare, replace

Pages = AsyncIterator[Page]


def each_page(account: ContractAccount, change: Callable[[Page, Position | None, str], Page]) -> None:
    """Every page passes through a function, with the position the poll began at."""
    read = account.connector.read

    async def changed(stream: str, position: Position | None) -> Pages:
        async for page in read(stream, position):
            yield change(page, position, stream)

    replace(account, read=changed)


def keeping(account: ContractAccount, wanted: Callable[[int, RawRecord, Position | None, str], bool]) -> None:
    """Only some records of each page."""

    def chosen(page: Page, position: Position | None, stream: str) -> Page:
        kept = [record for number, record in enumerate(page.records) if wanted(number, record, position, stream)]
        return msgspec.structs.replace(page, records=kept)

    each_page(account, chosen)


def scribbled(document: Any, text: str) -> Any:
    """A document in which one text is another."""
    return msgspec.structs.replace(document, **{"number" if hasattr(document, "number") else "name": text})


@breaks("says_who_the_account_is")
def names_another_account(account: ContractAccount) -> None:
    check = account.connector.check

    async def mistaken() -> Any:
        return msgspec.structs.replace(await check(), vendor_id="0815")

    replace(account, check=mistaken)


@breaks("every_object_is_read_once")
def drops_the_second_record_of_a_page(account: ContractAccount) -> None:
    keeping(account, lambda number, _record, _position, _stream: number != 1)


@breaks("every_object_is_read_once")
def drops_the_last_document(account: ContractAccount) -> None:
    victim = account.simulator.books()["documents"][-1]["id"]
    keeping(account, lambda _number, record, _position, _stream: record.id != victim)


@breaks("every_object_is_read_once", "many_pages_are_read_to_the_end")
def gives_one_twice(account: ContractAccount) -> None:
    each_page(account, lambda page, _position, _stream: msgspec.structs.replace(page, records=[*page.records, *page.records[:1]]))


@breaks("a_stream_gives_the_entities_it_declares")
def leaves_an_entity_out(account: ContractAccount) -> None:
    last = account.manifest.streams[-1].entities[-1]
    keeping(account, lambda _number, record, _position, _stream: record.entity != last)


@breaks("a_stream_gives_the_entities_it_declares")
def takes_products_for_categories(account: ContractAccount) -> None:
    convert = account.connector.to_canonical

    def mistaken(record: RawRecord) -> Any:
        document = convert(record)
        return canon.ProductCategory(name=document.name) if isinstance(document, canon.Product) else document

    replace(account, to_canonical=mistaken)


@breaks("many_pages_are_read_to_the_end")
def stops_after_the_first_page(account: ContractAccount) -> None:
    read, most = account.connector.read, {stream.name: stream.page_size_max for stream in account.manifest.streams}

    async def short(stream: str, position: Position | None) -> Pages:
        count = 0
        async for page in read(stream, position):
            yield msgspec.structs.replace(page, records=page.records[: most[stream] - count])
            count += len(page.records)

    replace(account, read=short)


@breaks("a_poll_cut_short_is_resumed")
def moves_its_position_before_its_records(account: ContractAccount) -> None:
    read = account.connector.read

    async def early(stream: str, position: Position | None) -> Pages:
        pages = [page async for page in read(stream, position)]
        for page in pages:
            yield msgspec.structs.replace(page, position=pages[-1].position)

    replace(account, read=early)


@breaks("a_poll_cut_short_is_resumed")
def never_says_it_is_the_last(account: ContractAccount) -> None:
    each_page(account, lambda page, _position, _stream: msgspec.structs.replace(page, more=True))


@breaks("a_second_poll_yields_exactly_the_changes")
def misses_changes(account: ContractAccount) -> None:
    keeping(account, lambda _number, record, position, _stream: position is None or record.deleted)


@breaks("a_second_poll_yields_exactly_the_changes")
def believes_what_it_read_before(account: ContractAccount) -> None:
    known: dict[tuple[str, str], RawRecord] = {}
    complete = account.connector.complete

    async def stale(records: Sequence[RawRecord]) -> Any:
        completed = await complete(records)
        return [known.setdefault((item.entity, item.id), item) if isinstance(item, RawRecord) else item for item in completed]

    replace(account, complete=stale)


@breaks("a_second_poll_yields_exactly_the_changes")
def changes_others_with_the_one(account: ContractAccount) -> None:
    """What was edited is right, and a neighbour comes along in another state."""
    read, convert = account.connector.read, account.connector.to_canonical
    first: dict[str, RawRecord] = {}
    odd: set[int] = set()

    async def noisy(stream: str, position: Position | None) -> Pages:
        async for page in read(stream, position):
            more = []
            for record in page.records if position is not None else ():
                other = first[record.entity] if first[record.entity].id != record.id else None
                more += [msgspec.structs.replace(other, version="odd")] if other else []
            for record in page.records:
                first[record.entity] = record if position is None else first[record.entity]
            yield msgspec.structs.replace(page, records=[*page.records, *more])

    def mistaken(record: RawRecord) -> Any:
        return scribbled(convert(record), "odd") if record.version == "odd" else convert(record)

    assert not odd
    replace(account, read=noisy, to_canonical=mistaken)


@breaks("a_second_poll_yields_exactly_the_changes", "mapping_is_pure")
def maps_otherwise_each_time(account: ContractAccount) -> None:
    convert, numbers = account.connector.to_canonical, itertools.count()
    replace(account, to_canonical=lambda record: scribbled(convert(record), f"no. {next(numbers)}"))


@breaks("mapping_is_pure")
def maps_by_the_clock(account: ContractAccount) -> None:
    convert = account.connector.to_canonical
    replace(account, to_canonical=lambda record: scribbled(convert(record), account.clock.now().isoformat()))


@breaks("a_quiet_poll_costs_what_is_declared")
def forgets_its_position(account: ContractAccount) -> None:
    read = account.connector.read
    replace(account, read=lambda stream, _position: read(stream, None))


@breaks("a_quiet_poll_costs_what_is_declared")
def asks_more_than_it_needs(account: ContractAccount) -> None:
    read = account.connector.read

    async def wasteful(stream: str, position: Position | None) -> Pages:
        for _ in range(10):
            await account.connector.check()
        async for page in read(stream, position):
            yield page

    replace(account, read=wasteful)


@breaks("deletes_arrive")
def drops_deletes(account: ContractAccount) -> None:
    keeping(account, lambda _number, record, _position, _stream: not record.deleted)


@breaks("deletes_arrive")
def takes_a_neighbour_for_deleted(account: ContractAccount) -> None:
    def too_many(page: Page, _position: Position | None, _stream: str) -> Page:
        more = [msgspec.structs.replace(record, id="another") for record in page.records if record.deleted]
        return msgspec.structs.replace(page, records=[*page.records, *more])

    each_page(account, too_many)


@breaks("a_full_read_names_every_id")
def forgets_an_id(account: ContractAccount) -> None:
    def short(page: Page, _position: Position | None, _stream: str) -> Page:
        ids = {entity: ids[1:] for entity, ids in (page.complete_ids or {}).items()}
        return msgspec.structs.replace(page, complete_ids=ids or None)

    each_page(account, short)


@breaks("a_full_read_names_every_id")
def names_no_ids(account: ContractAccount) -> None:
    each_page(account, lambda page, _position, _stream: msgspec.structs.replace(page, complete_ids=None))


def comparing(account: ContractAccount, change: Callable[[str, dict[str, list[str]]], dict[str, list[str]]]) -> None:
    """The account's connector with other pages of ids."""
    ids = account.connector.ids

    async def changed(stream: str) -> Any:
        async for page in ids(stream):
            yield change(stream, {entity: list(some) for entity, some in page.items()})

    replace(account, ids=changed)


@breaks("a_comparison_names_what_exists_and_nothing_else")
def leaves_the_last_of_a_page_out(account: ContractAccount) -> None:
    comparing(account, lambda _stream, page: {entity: ids[:-1] for entity, ids in page.items()})


@breaks("a_comparison_names_what_exists_and_nothing_else")
def names_what_is_gone(account: ContractAccount) -> None:
    met: dict[str, dict[str, list[str]]] = {}

    def remembered(stream: str, page: dict[str, list[str]]) -> dict[str, list[str]]:
        known = met.setdefault(stream, {})
        for entity, ids in page.items():
            known[entity] = list(dict.fromkeys([*known.get(entity, []), *ids]))
        return known

    comparing(account, remembered)


@breaks("a_comparison_names_what_exists_and_nothing_else")
def names_the_first_page_only(account: ContractAccount) -> None:
    ids = account.connector.ids

    async def one_page(stream: str) -> Any:
        async for page in ids(stream):
            yield page
            return

    replace(account, ids=one_page)


@breaks("a_comparison_cut_short_does_not_end_well")
def takes_a_cut_comparison_for_whole(account: ContractAccount) -> None:
    ids = account.connector.ids

    async def silent(stream: str) -> Any:
        with contextlib.suppress(BusError):
            async for page in ids(stream):
                yield page

    replace(account, ids=silent)


def starts_again(account: ContractAccount, kind: type[BusError], stream_of: Callable[[str], str] = str) -> None:
    read = account.connector.read

    async def silent(stream: str, position: Position | None) -> Pages:
        try:
            async for page in read(stream, position):
                yield page
        except kind:
            async for page in read(stream_of(stream), None):
                yield page

    replace(account, read=silent)


@breaks("a_position_older_than_the_window_is_invalid", "a_position_of_another_shape_is_invalid")
def starts_again_without_a_word(account: ContractAccount) -> None:
    starts_again(account, CursorInvalid)


@breaks("an_undeclared_stream_is_refused")
def reads_something_else(account: ContractAccount) -> None:
    starts_again(account, ManifestError, lambda _stream: account.manifest.streams[0].name)


@breaks("a_looping_page_is_noticed")
def takes_a_loop_for_the_end(account: ContractAccount) -> None:
    read = account.connector.read

    async def short(stream: str, position: Position | None) -> Pages:
        try:
            async for page in read(stream, position):
                yield page
        except PageLoop:
            return

    replace(account, read=short)


@breaks("a_looping_page_is_noticed")
def never_notices_a_loop(account: ContractAccount) -> None:
    read = account.connector.read

    async def endless(stream: str, position: Position | None) -> Pages:
        while True:
            try:
                async for page in read(stream, position):
                    yield page
            except PageLoop:
                continue
            return

    replace(account, read=endless)


@breaks("completing_answers_each_record_in_its_place")
def completes_in_another_order(account: ContractAccount) -> None:
    complete = account.connector.complete

    async def sorted_out(records: Sequence[RawRecord]) -> Any:
        return sorted(await complete(records), key=lambda record: str(getattr(record, "id", "")))

    replace(account, complete=sorted_out)


@breaks("completing_answers_each_record_in_its_place")
def leaves_the_deleted_out(account: ContractAccount) -> None:
    complete = account.connector.complete

    async def short(records: Sequence[RawRecord]) -> Any:
        return await complete([record for record in records if not record.deleted])

    replace(account, complete=short)


@breaks("mapped_fields_are_declared")
def declares_too_few_fields(account: ContractAccount) -> None:
    def fewer(facts: dict[str, Any]) -> None:
        for reads in facts["reads"].values():
            reads["fields"] = reads["fields"][:1]

    redeclare(account, fewer)


@breaks("mapped_fields_are_declared")
def declares_no_line_fields(account: ContractAccount) -> None:
    redeclare(account, lambda facts: [reads.update(line_fields=()) for reads in facts["reads"].values()])


@breaks("mapped_fields_are_declared")
def declares_other_members(account: ContractAccount) -> None:
    def others(facts: dict[str, Any]) -> None:
        for reads in facts["reads"].values():
            reads["enums"] = dict.fromkeys(reads["enums"], ("UNHEARD_OF",))

    redeclare(account, others)


@breaks("what_is_read_is_exact")
def reads_money_as_floats(account: ContractAccount) -> None:
    convert = account.connector.to_canonical

    def careless(record: RawRecord) -> Any:
        document = convert(record)
        totals = getattr(document, "totals", None)
        if totals is None:
            return document
        return msgspec.structs.replace(document, totals=msgspec.structs.replace(totals, incl=float(totals.incl)))

    replace(account, to_canonical=careless)
