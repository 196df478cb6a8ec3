"""Row 13: what changes while it is read, in one moment, between two clocks, and in the nights a clock goes back or forth.

In one process, because the poller's reading is judged and thousands of changes are wanted: real connectors against both
simulators, the real pages and the real poller, and a log in memory. Pages are made small, so that every history is full of edges.
What is counted does not rest on what was read: each change bears a mark of its own, and the newest event of an object must show
its newest.
"""

import bisect
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

import connectors.exact_online.reading as exact_reading
import connectors.exact_online.simulation.sets as exact_sets
import connectors.quickbooks.api as qbo_api
import connectors.quickbooks.reading as qbo_reading
import connectors.quickbooks.simulation.reading as qbo_feed
from bus.core import topics
from bus.kit.auth import StaticTokens, Token
from bus.simulation.faults import Fault, FaultPlan
from connectors.exact_online import feeds as exact_feeds
from connectors.exact_online.simulation.sets import ACCOUNTS, ITEMS, ORDERS
from connectors.exact_online.simulation.state import TIMESTAMP_STEP
from connectors.quickbooks.simulation.company import PACIFIC
from services.pollers.account import AccountPoller
from services.pollers.publishing import Counts
from tests.fakes import Killed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.unit.pair.rig import Pair, Side

PAGE, EDGE = 5, 2
"""Rows of a page, and of the overlap of two pages."""
STEPS = 160
"""What is done in one history, one after another: changes, polls, deaths, the passing of time."""
NIGHTS = (
    datetime(2026, 11, 18, 12, 0, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 58, tzinfo=UTC),  # Amsterdam goes back
    datetime(2026, 3, 29, 0, 58, tzinfo=UTC),  # Amsterdam goes forth
    datetime(2026, 11, 1, 8, 58, tzinfo=UTC),  # California goes back
    datetime(2026, 3, 8, 9, 58, tzinfo=UTC),  # California goes forth
    datetime(2026, 12, 31, 22, 58, tzinfo=UTC),  # a year ends in Amsterdam
)
APART_S = (0.0, -600.0, 600.0, -45.0, 45.0, -1.0)
"""How far the bus's clock is ahead of the vendors'."""
PASSING_S = (0, 0, 0, 1, 1, 2, 61, 3_700)
MARK = "Mark {:07d}"
MARK_LENGTH = len(MARK.format(0))
QUIET_S = (61, 61, 61, 700, 700, 700)
"""Between the last polls: first what waits for its lines is read again, then comparisons of ids are due and due again."""
LATE_S, LATE_VERSIONS = 25, 20
"""By how much a slow transaction of the vendor's shows its rows behind newer ones: less than what the connectors reach back."""
WORDS = ("change", "change", "change", "new", "poll", "pass", "die", "many", "delete")


async def edges(run: Run) -> Figures:
    """Histories of both accounts, each of its own seed."""
    histories = run.count(24, 400, 24)
    figures = run.figures()
    totals: Counter[str] = Counter()
    with small_pages() as patch:
        BREAKS.get(run.broken, lambda _: None)(patch)
        for number in range(histories):
            history = History(
                random.Random(f"{run.seed}-{number}"), NIGHTS[number % len(NIGHTS)], APART_S[(number + number // 6) % 6]
            )
            await history.play()
            name = f"history {number}"
            figures.notes += [f"{name}: {what}" for what in history.wrong()][:5]
            totals += history.totals()
    figures.done = (
        f"{totals['changes']} changes in {histories} histories, {totals['within']} of them between two calls of a poll; "
        f"{totals['polls']} polls, {totals['deaths']} processes ended in the middle of one"
    )
    figures.tell("versions of one moment with another", totals["equal"])
    figures.tell("shown behind newer ones", totals["late"])
    figures.tell("events", totals["events"])
    figures.zero("missed", totals["missed"])
    figures.zero("deletes missed", totals["undeleted"])
    figures.zero("duplicates", totals["doubles"])
    figures.zero("order breaks", totals["disorder"])
    figures.zero("set aside", totals["aside"])
    return figures


@contextmanager
def small_pages() -> Iterator[pytest.MonkeyPatch]:
    """Both sides of a limit know it; here it is a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_sets, "WIDE_PAGE_ROWS", PAGE)
        patch.setattr(exact_sets, "PAGE_ROWS", PAGE)
        patch.setattr(exact_reading, "OBJECTS_PER_PAGE", PAGE)
        for module in (qbo_api, qbo_reading):
            patch.setattr(module, "PAGE_SIZE_MAX", PAGE)
        patch.setattr(qbo_reading, "OVERLAP_ROWS", EDGE)
        patch.setattr(qbo_feed, "CHANGES_MAX", PAGE)
        for module in (qbo_reading, exact_reading):
            patch.setattr(module.log, "disabled", True)
        yield patch


class Busy(FaultPlan):
    """Somebody works in the account between the calls of a poll, and the process may end there."""

    def __init__(self, before_call: Callable[[], None]) -> None:
        super().__init__()
        self._before_call = before_call

    def next(self, method: str, path: str) -> Fault | None:
        self._before_call()
        return None


class History:
    """Two accounts, somebody who works in both, and a poller of each that ends now and then."""

    def __init__(self, chance: random.Random, start: datetime, apart_s: float) -> None:
        self.chance = chance
        self.pair = Pair(qbo={}, exact={"line_delay_s": chance.choice([0, 20])})
        for clock in self.pair.clock.clocks:
            clock.freeze(start)
        vendors_now = self.pair.clock.now
        self.pair.clock.now = lambda: vendors_now() + timedelta(seconds=apart_s)  # type: ignore[method-assign]
        self.marks: dict[tuple[str, str, str], str] = {}
        """The newest mark of each object: connection, entity, id."""
        self.deleted: set[tuple[str, str, str]] = set()
        self.counted: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._moments: Counter[tuple[str, datetime]] = Counter()
        self._polling = False
        self._dies_in: int | None = None
        self._pollers: dict[str, AccountPoller] = {}
        self._kept: set[str] = set()
        """Objects nobody deletes: an account that names none at all is not believed."""
        self._lamp: dict[str, str] = {}
        self._article = ""
        self._version_before = 0
        self._begun: list[int] = []
        """Row versions of Exact that a slow transaction took and has not shown."""
        for side in self.sides:
            side.simulator.tokens.is_valid = lambda _token: True  # a poll in another year needs no login
            side.client._tokens = StaticTokens(Token(1, SecretStr("any"), datetime(2100, 1, 1, tzinfo=UTC)))
            side.process.transport.plan = Busy(lambda side=side: self._between(side))  # type: ignore[misc]

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.pair.qbo, self.pair.exact

    # --- what happens ------------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Everything, and then quiet: what waits for its lines is read again, and ids are compared where deletes are unproven."""
        pair = self.pair
        self._lamp = pair.qbo_item("LAMP-1", "Lamp")
        self._kept = {pair.exact_item(f"ART-{number}", f"Article {number}") for number in range(3)}
        self._article = min(self._kept)
        self._kept.add(pair.sell(pair.qbo_line(self._lamp), CustomerRef=pair.qbo_customer("Always There")))
        for side in self.sides:
            for _ in range(2 * PAGE + 1):
                self._make(side)
        for _ in range(STEPS):
            await self._step(self.chance.choice(WORDS))
        for passing_s in QUIET_S:
            pair.clock.advance(passing_s)
            for side in self.sides:
                await self._poll(side, quietly=True)
                while await self._pollers[side.name].step():
                    pass

    async def _step(self, word: str) -> None:
        side = self.chance.choice(self.sides)
        match word:
            case "change":
                self._change(side)
            case "new":
                self._make(side)
            case "many":
                for _ in range(2 * PAGE):
                    self._change(side)
            case "delete":
                self._delete(side)
            case "pass":
                self.pair.clock.advance(self.chance.choice(PASSING_S))
            case "poll":
                await self._poll(side)
            case "die":
                self._dies_in = self.chance.randint(1, 12)
                await self._poll(side)

    async def _poll(self, side: Side, *, quietly: bool = False) -> None:
        """One poll of every stream, by the process that lives or by a new one."""
        poller = self._pollers.get(side.name)
        if poller is None:
            side.connect(side.process.info["config"])
            poller = self._pollers[side.name] = self.pair._poller(side, Counts())
        self._polling = not quietly
        self.counted["polls"] += 1
        try:
            for stream in poller.streams:
                await poller.poll(stream.facts)
        except Killed:
            self.counted["deaths"] += 1
            del self._pollers[side.name]
        finally:
            self._polling, self._dies_in = False, None

    def _between(self, side: Side) -> None:
        """Before a call of a poll."""
        if not self._polling:
            return
        if self._dies_in is not None:
            self._dies_in -= 1
            if self._dies_in == 0:
                raise Killed("between two calls")
        if self.chance.random() < 0.25:
            self.counted["within"] += 1
            self.chance.choice((self._change, self._change, self._make))(side)
        if self.chance.random() < 0.1:
            self.pair.clock.advance(1)

    # --- people ------------------------------------------------------------------------------------------------------------

    def _make(self, side: Side) -> None:
        """A new object with its first mark."""
        mark = self._mark()
        self._version_before = 0
        pair, number = self.pair, int(mark[-7:])
        entity, made = "customer", ""
        kind = self.chance.randrange(3)
        if side is pair.qbo and kind == 2 and (buyers := self._of(side, "customer")):
            buyer = {"value": self.chance.choice(buyers)}
            entity, made = "sales_invoice", pair.sell(pair.qbo_line(self._lamp), CustomerRef=buyer, DocNumber=mark)
        elif side is pair.qbo and kind:
            made = pair.qbo_customer(f"Customer {number}", Notes=mark)["value"]
        elif side is pair.qbo:
            entity, made = "product", pair.qbo_item(f"SKU-{number}", f"Item {number}", Description=mark)["value"]
        elif kind == 0:
            entity, made = "product", pair.exact_item(f"SKU-{number}", mark)
        elif kind == 1 or not (buyers := self._of(side, "customer")):
            made = pair.exact_account(f"Customer {number}", Remarks=mark)
        else:
            line = {"Item": self._article, "Quantity": 1, "NetPrice": 10}
            entity, made = "sales_order", pair.exact_order(self.chance.choice(buyers), line, dict(line), YourRef=mark)
        self._note(side, entity, made, mark)

    def _change(self, side: Side) -> None:
        """The next mark of an object that is there."""
        there = [key for key in self.marks if key[0] == side.name and key not in self.deleted]
        if not there:
            return
        _, entity, object_id = self.chance.choice(there)
        mark = self._mark()
        member = MEMBERS[side.name, entity]
        self._version_before = self._version(side, entity, object_id)
        side.simulator.edit(entity, object_id, {member: mark})
        self._note(side, entity, object_id, mark)

    def _delete(self, side: Side) -> None:
        """An article of Exact, an invoice of QuickBooks: the vendors keep no trace of them but in their feeds of deletes."""
        entity = "product" if side is self.pair.exact else "sales_invoice"
        there = [key for key in self._of(side, entity) if key not in self._kept]
        if there:
            object_id = self.chance.choice(there)
            side.simulator.edit(entity, object_id, {"_delete": True})
            self.deleted.add((side.name, entity, object_id))
            self.counted["changes"] += 1

    def _shown_late(self, side: Side, entity: str, object_id: str) -> None:
        """The change just made is that of a slow transaction: it bears an earlier time, or a lower row version, than others that
        were there to be read before it."""
        if side is self.pair.qbo:
            company = self.pair.qbo.simulator.company
            name, _, own = object_id.rpartition(":")
            row = company.row(name or {"customer": "Customer", "product": "Item"}[entity], own)
            at = company.clock.now() - timedelta(seconds=self.chance.uniform(0, LATE_S))
            row["MetaData"]["LastUpdatedTime"] = at.astimezone(PACIFIC).isoformat(timespec="seconds")
            company.generation += 1
            return
        division = self.pair.exact.simulator.division
        table = division.table(PATHS[entity])
        row, newest = table.rows[object_id], division._stamp()
        fitting = [
            stamp for stamp in self._begun if stamp > self._version_before and newest - stamp < LATE_VERSIONS * TIMESTAMP_STEP
        ]
        if fitting:
            self._begun.remove(fitting[0])
            row.timestamp = fitting[0]
            bisect.insort(table._log, (row.timestamp, row.id))
        self._begun = [stamp for stamp in self._begun if newest - stamp < LATE_VERSIONS * TIMESTAMP_STEP]
        self._begun.append(newest)

    def _version(self, side: Side, entity: str, object_id: str) -> int:
        if side is not self.pair.exact:
            return 0
        return int(self.pair.exact.simulator.division.table(PATHS[entity]).rows[object_id].timestamp)

    def _mark(self) -> str:
        return MARK.format(next(self._numbers))

    def _note(self, side: Side, entity: str, object_id: str, mark: str) -> None:
        self.marks[side.name, entity, object_id] = mark
        self.counted["changes"] += 1
        if self.chance.random() < 0.2:
            self.counted["late"] += 1
            self._shown_late(side, entity, object_id)
        self._moments[side.name, side.simulator.clock.now().replace(microsecond=0)] += 1

    def _of(self, side: Side, entity: str) -> list[str]:
        return [key[2] for key in self.marks if key[:2] == (side.name, entity) and key not in self.deleted]

    # --- what became of it -------------------------------------------------------------------------------------------------

    def events(self) -> dict[tuple[str, str, str], list[Any]]:
        """Events of each object in their order."""
        found: dict[tuple[str, str, str], list[Any]] = {}
        for record in self.pair.log.records:
            if record.topic.startswith("bus.canon.") and record.value is not None:
                event = self.pair.codec.decode(record.topic, record.value)
                found.setdefault((event.meta.connection, event.meta.entity, event.meta.source_id), []).append(event)
        return found

    def wrong(self) -> list[str]:
        """In words."""
        judged = self.judged()
        return [f"{name}: {item}" for name in ("missed", "undeleted", "doubles", "disorder", "aside") for item in judged[name]]

    def totals(self) -> Counter[str]:
        """In numbers."""
        equal = sum(count for count in self._moments.values() if count > 1)
        found = Counter({name: len(items) for name, items in self.judged().items()})
        return found + self.counted + Counter(equal=equal, events=sum(map(len, self.events().values())))

    def judged(self) -> dict[str, list[str]]:
        """Every promise of the row against every object."""
        told = self.events()
        found: dict[str, list[str]] = {name: [] for name in ("missed", "undeleted", "doubles", "disorder", "aside")}
        for key, mark in self.marks.items():
            last = told.get(key, [None])[-1]
            shown = shown_mark(last.after) if last is not None and last.after is not None else None
            if key in self.deleted:
                if shown is not None:
                    found["undeleted"].append("|".join(key))
            elif shown != mark:
                found["missed"].append(f"{'|'.join(key)} shows {shown}, not {mark}")
        for key, events in told.items():
            for before, after in itertools.pairwise(events):
                if after.meta.seq <= before.meta.seq:
                    found["disorder"].append(f"{'|'.join(key)}: {after.meta.seq} after {before.meta.seq}")
                elif (after.meta.op, after.meta.content_hash) == (before.meta.op, before.meta.content_hash):
                    found["doubles"].append(f"{'|'.join(key)}: {after.meta.seq} says what {before.meta.seq} said")
        letters = self.pair.log.topic(topics.DEAD_LETTERS)
        found["aside"] = [str(self.pair.codec.decode("", letter.value).detail) for letter in letters]
        return found


MEMBERS = {
    ("qbo-nl", "customer"): "Notes",
    ("qbo-nl", "product"): "Description",
    ("qbo-nl", "sales_invoice"): "DocNumber",
    ("exact-nl", "customer"): "Remarks",
    ("exact-nl", "product"): "Description",
    ("exact-nl", "sales_order"): "YourRef",
}

PATHS = {"customer": ACCOUNTS, "product": ITEMS, "sales_order": ORDERS}


def shown_mark(entity: Any) -> str | None:
    """The mark in what an event says."""
    text = json.dumps(msgspec.to_builtins(entity), default=str)
    at = text.rfind(MARK[:5])
    return text[at : at + MARK_LENGTH] if at >= 0 else None


# --- broken builds ------------------------------------------------------------------------------------------------------------


def _no_overlap(patch: pytest.MonkeyPatch) -> None:
    """Pages and polls begin where the last one ended."""
    patch.setattr(qbo_reading, "OVERLAP_S", 0)
    patch.setattr(exact_feeds, "OVERLAP", 0)


def _own_clock(patch: pytest.MonkeyPatch) -> None:
    """The next poll asks from the bus's own time, not the vendor's."""
    real = qbo_reading.Reader._changes

    async def changes(self: Any, at: Any) -> Any:
        began = self._clock.now()
        async for page in real(self, at):
            if not page.more:
                position = {**page.position, "since": began.isoformat()}
                page = msgspec.structs.replace(page, position=position)
            yield page

    patch.setattr(qbo_reading.Reader, "_changes", changes)


def _cap_ignored(patch: pytest.MonkeyPatch) -> None:
    """An answer at its limit is taken for all there is."""
    patch.setattr(qbo_reading, "PAGE_SIZE_MAX", 1_000)


BREAKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no-overlap": _no_overlap,
    "own-clock": _own_clock,
    "cap-ignored": _cap_ignored,
}
