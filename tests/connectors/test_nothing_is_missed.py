"""Histories of an account that changes while it is read (row 13 of the fault campaign): in the end polling knows what exists.

Real connectors against the simulators, whose pages are made small so that every history has edges: versions with equal timestamps
on both sides of an edge, edits and deletes between any two calls of a poll, processes that end between two pages, clocks that
differ, and the nights in which a clock goes back or forth. BUS_HISTORIES says how many are played; they are the same ones each
time.
"""

import contextlib
import copy
import itertools
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import connectors.exact_online.reading as exact_reading
import connectors.exact_online.simulation.sets as exact_sets
import connectors.quickbooks.api as qbo_api
import connectors.quickbooks.reading as qbo_reading
import connectors.quickbooks.simulation.reading as qbo_cdc
from bus.core.clock import Clock
from bus.core.errors import CursorInvalid
from bus.kit.budget import Budgets
from bus.kit.connector import Connector
from bus.kit.registry import Context
from tests.contract.account import ContractAccount
from tests.contract.exercises import EXERCISES

SYSTEMS = ("exact_online", "quickbooks")
PAGE, EDGE = 5, 2
CALLS_MAX = 20_000
HISTORIES = int(os.environ.get("BUS_HISTORIES", "10"))
NIGHTS = [
    datetime(2026, 11, 18, 12, 0, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 59, 30, tzinfo=UTC),  # Amsterdam goes back
    datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC),  # Amsterdam goes forth
    datetime(2026, 11, 1, 8, 59, 30, tzinfo=UTC),  # California goes back
    datetime(2026, 3, 8, 9, 59, 30, tzinfo=UTC),  # California goes forth
    datetime(2026, 12, 31, 22, 59, 30, tzinfo=UTC),  # a year ends in Amsterdam
]
NEW: dict[str, dict[str, Callable[[int], dict[str, Any]]]] = {
    "exact_online": {
        "customer": lambda n: {"Name": f"New {n}", "Status": "C"},
        "product": lambda n: {"Code": f"NEW-{n}", "Description": f"New {n}", "IsSalesItem": True},
    },
    "quickbooks": {"customer": lambda n: {"DisplayName": f"New {n}"}},
}
EDIT: dict[str, dict[str, Callable[[int], dict[str, Any]]]] = {
    "exact_online": {
        "customer": lambda n: {"Phone": f"+3120{n:07d}"},
        "product": lambda n: {"Description": f"Edited {n}"},
        "sales_order": lambda n: {"YourRef": f"Edited {n}"},
    },
    "quickbooks": {
        "customer": lambda n: {"Notes": f"edited {n}"},
        "product": lambda n: {"Description": f"edited {n}"},
        "sales_invoice": lambda n: {"PrivateNote": f"edited {n}"},
    },
}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of a limit know it; here it is a small one."""
    monkeypatch.setattr(exact_sets, "WIDE_PAGE_ROWS", PAGE)
    monkeypatch.setattr(exact_sets, "PAGE_ROWS", PAGE)
    monkeypatch.setattr(exact_reading, "OBJECTS_PER_PAGE", PAGE)
    for module in (qbo_api, qbo_reading):
        monkeypatch.setattr(module, "PAGE_SIZE_MAX", PAGE)
    monkeypatch.setattr(qbo_reading, "OVERLAP_ROWS", EDGE)
    monkeypatch.setattr(qbo_cdc, "CHANGES_MAX", PAGE)
    monkeypatch.setattr("tests.contract.wire.CALLS_MAX", CALLS_MAX)


class Skewed(Clock):
    """The bus's clock, some seconds apart from the vendor's."""

    def __init__(self, inner: Any, apart_s: float) -> None:
        self._inner = inner
        self._apart = timedelta(seconds=apart_s)

    def now(self) -> datetime:
        return self._inner.now() + self._apart  # type: ignore[no-any-return]

    def boot_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    def boot_id(self) -> str:
        return "simulated"


class History:
    """One account, somebody who works in it, and what polling has made of it."""

    def __init__(self, system: str, account: ContractAccount, apart_s: float) -> None:
        self.system = system
        self.account = account
        self._clock = Skewed(account.simulator.clock, apart_s)
        self._numbers = itertools.count(1)
        self.positions: dict[str, Any] = {}
        self.known: dict[tuple[str, str], bytes] = {}
        self.full_reads = 0
        self.unproven: set[str] = set()
        """Streams that could not tell all deletes."""
        self.connector = self.process()

    def process(self) -> Connector:
        """A new process: what the connector remembers is gone."""
        config = self.account.loaded.config_class.model_validate({**self.account.process.info["config"]})
        context = Context(connection="history", config=config, client=self.account.client, clock=self._clock)
        self.connector = self.account.loaded.connector_class(context)
        return self.connector

    def work(self, kind: str, choice: int) -> None:
        """One act of a person."""
        simulator, number = self.account.simulator, next(self._numbers)
        entities = sorted(EDIT[self.system])
        entity = entities[choice % len(entities)]
        if kind == "new":
            makers = NEW[self.system]
            entity = sorted(makers)[choice % len(makers)]
            simulator.edit(entity, "new", makers[entity](number))
            return
        ids = self.ids(entity)
        if not ids:
            return
        fields = EDIT[self.system][entity](number) if kind == "edit" else EXERCISES[self.system].deletes.get(entity)
        if fields is None:
            return
        try:
            simulator.edit(entity, ids[choice % len(ids)], copy.deepcopy(fields))
        except ValueError as refused:  # paid, delivered, referred to: the vendor says no
            assert kind == "delete" or "delivered" in str(refused), refused

    def ids(self, entity: str) -> list[str]:
        """What there is, by the simulator's own books."""
        kinds = {"customer": "customers", "product": "products"}
        return [item["id"] for item in self.account.simulator.books()[kinds.get(entity, "documents")]]

    async def poll(self, dies_after: int | None = None) -> None:
        """One poll of every stream; with `dies_after` the process ends behind so many pages."""
        pages = itertools.count(1)
        for stream in self.account.manifest.streams:
            try:
                await self._read(stream.name, self.positions.get(stream.name), pages, dies_after)
            except CursorInvalid:
                self.full_reads += 1
                await self._read(stream.name, None, pages, dies_after)

    async def _read(self, stream: str, position: Any, pages: Iterator[int], dies_after: int | None) -> None:
        async for page in self.connector.read(stream, position):
            completed = await self.connector.complete(page.records)
            for record in completed:
                if isinstance(record, Exception):
                    raise record
            for key, content in self.account.contents(list(completed)).items():  # type: ignore[arg-type]
                if content is None:
                    self.known.pop(key, None)
                else:
                    self.known[key] = content
            self.positions[stream] = page.position
            if page.deletes_unproven:
                self.unproven.add(stream)
            if dies_after is not None and next(pages) >= dies_after:
                self.process()
                return

    async def compare(self) -> None:
        """What the poller does where deletes are unproven: all ids there are, against those it knows."""
        for stream in self.unproven:
            here = {(entity, key) async for page in self.connector.ids(stream) for entity, ids in page.items() for key in ids}
            entities = self.account.manifest.stream(stream).entities
            self.known = {key: content for key, content in self.known.items() if key[0] not in entities or key in here}

    async def truth(self) -> dict[tuple[str, str], bytes]:
        """Everything, read by a connector that knows nothing, while nobody works."""
        connector = self.process()
        found: dict[tuple[str, str], bytes] = {}
        for stream in self.account.manifest.streams:
            async for page in connector.read(stream.name, None):
                completed = await connector.complete(page.records)
                contents = self.account.contents([record for record in completed if not isinstance(record, Exception)])
                found |= {key: content for key, content in contents.items() if content is not None}
        return found


async def opened(system: str, start: datetime, apart_s: float, orders: int = 4) -> History:
    account = await ContractAccount(system, EXERCISES[system], orders=orders).open()
    account.simulator.clock.freeze(start)
    account.client.budgets = Budgets((), clock=account.clock)
    return History(system, account, apart_s)


acts = st.lists(
    st.tuples(st.sampled_from(["edit", "edit", "edit", "new", "delete", "poll", "cut", "tick", "rest"]), st.integers(0, 50)),
    min_size=1,
    max_size=15,
)


@pytest.mark.parametrize("system", SYSTEMS)
@settings(
    max_examples=HISTORIES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    start=st.sampled_from(NIGHTS),
    apart_s=st.sampled_from([0.0, -45.0, 45.0, -1.0]),
    history=acts,
    between=st.lists(st.tuples(st.sampled_from(["edit", "new", "delete"]), st.integers(0, 50)), max_size=12),
    every=st.integers(1, 6),
)
async def test_nothing_is_missed(
    system: str,
    start: datetime,
    apart_s: float,
    history: list[tuple[str, int]],
    between: list[tuple[str, int]],
    every: int,
) -> None:
    """`between` happens during polls, one act after every so many answers: between two pages, between a page and its parts."""
    world = await opened(system, start, apart_s)
    left, answers = list(between), itertools.count(1)

    def answered(_request: httpx.Request, body: Any) -> Any:
        if left and next(answers) % every == 0:
            world.work(*left.pop())
        return body

    try:
        world.account.wire.answered = answered
        await world.poll()
        for kind, choice in history:
            match kind:
                case "poll":
                    await world.poll()
                case "cut":
                    await world.poll(dies_after=1 + choice % 4)
                case "tick":
                    world.account.simulator.clock.advance(choice % 3)  # often none: equal timestamps
                case "rest":
                    world.account.simulator.clock.advance([61, 3_700, 86_400, 3 * 86_400][choice % 4])
                case _:
                    world.work(kind, choice)
        left.clear()
        world.account.simulator.clock.advance(61)
        for _ in range(3):  # what waits for its lines is read again
            await world.poll()
            world.account.simulator.clock.advance(61)
        await world.compare()
        truth = await world.truth()
        missed = {key for key, content in truth.items() if world.known.get(key) != content}
        assert not missed, f"{len(missed)} versions were missed"
        extra = world.known.keys() - truth.keys()
        assert not extra, f"{len(extra)} deletes were missed"
        assert world.full_reads == 0
    finally:
        await world.account.close()


async def test_rows_deleted_while_ids_are_read_hide_no_other() -> None:
    """Pages go by offset there: more deletes than two pages overlap move rows that were never named to a page already read."""
    world = await opened("quickbooks", NIGHTS[0], 0, orders=25)
    try:
        invoices = [key for key in world.ids("sales_invoice") if key.startswith("Invoice:")]
        named: set[str] = set()
        pages = 0
        async for page in world.connector.ids("cdc"):
            some = page.get("sales_invoice", ())
            named.update(some)
            pages += any(key.startswith("Invoice:") for key in some)
            if some and len(named) <= PAGE:
                for key in invoices[: 2 * EDGE]:
                    with contextlib.suppress(ValueError):
                        world.account.simulator.edit("sales_invoice", key, {"_delete": True})
        left = set(world.ids("sales_invoice"))
        assert len(left) < len(invoices) + len([key for key in left if not key.startswith("Invoice:")]), "some were deleted"
        assert pages > 2
        assert left <= named
    finally:
        await world.account.close()


@pytest.mark.parametrize("system", SYSTEMS)
async def test_many_versions_of_one_moment_stand_on_both_sides_of_an_edge(system: str) -> None:
    """Deterministic: three pages' worth of rows that changed in the very same second, and one that changes again while they are
    read."""
    world = await opened(system, NIGHTS[0], 0)
    try:
        await world.poll()
        for number in range(3 * PAGE + 1):
            world.account.simulator.edit("customer", "new", NEW[system]["customer"](1_000 + number))
        ids = world.ids("customer")
        answers = itertools.count(1)

        def answered(_request: httpx.Request, body: Any) -> Any:
            number = next(answers)
            if number < 8:
                world.account.simulator.edit("customer", ids[-number], EDIT[system]["customer"](number))
            return body

        world.account.wire.answered = answered
        await world.poll()
        world.account.wire.answered = None
        world.account.simulator.clock.advance(2)
        await world.poll()
        truth = await world.truth()
        assert {key: world.known.get(key) for key in truth} == truth
    finally:
        await world.account.close()
