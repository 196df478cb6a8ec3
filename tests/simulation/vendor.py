"""An account at a vendor as it behaves on a bad day, and the connector that talks to it.

Requests travel, answers get lost, searches lag behind writes, rows show up late in lists, people edit, and some days everything
is refused. What reaches the vendor happens there whatever becomes of the process that sent it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from bus.core.errors import NetworkFailure, RateLimited, TokenExpired, Unavailable, WriteConflict, WriteRejected
from bus.core.identity import Entity
from bus.kit.connector import Found, Match, Page, RawRecord, Step, StepResult, Write
from bus.kit.manifest import Manifest
from schemas.system import IdempotencyClass
from tests.fakes import MANIFEST, Deaths, FakeConnector, FakeVendor
from tests.simulation.process import Process

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
SETTLE_S = 30
"""As the manifest declares: what a search does not find so long after the call was over was not made."""
SEARCH_LAG_S_MAX = 30.0
LIST_LAG_S_MAX = 4.0
SAVING_S_MAX = 4.0
OVERLAP_S = 6.0
"""Lists are as of up to LIST_LAG_S_MAX ago, and show an object up to SAVING_S_MAX after its stamp: so far back lists are read
twice."""
PAGE_ROWS = 3

_ENCODER = msgspec.json.Encoder(order="sorted")


def manifest(**changes: Any) -> Manifest:
    """That of the fakes, with the settle times of its steps; deletes are told by its list unless a change says otherwise."""
    writes = {}
    for entity, facts in MANIFEST["writes"].items():
        names = ("customer", "contact") if entity == "customer" else (entity,)
        steps = [{"name": name, "idempotency": "SEARCH", "settle_s": SETTLE_S} for name in names]
        writes[entity] = {**facts, "steps": steps}
    stream = {name: changes.pop(name) for name in ("deletes", "scan_s") if name in changes}
    streams = [{**MANIFEST["streams"][0], "poll_s": 10, "page_size_max": PAGE_ROWS, "deletes": "feed", **stream}]
    return Manifest.model_validate(
        {**MANIFEST, "call_timeout_s": CALL_TIMEOUT_S, "writes": writes, "streams": streams, **changes}
    )


class Mood:
    """How the vendor answers now: parts of calls that end so."""

    def __init__(self) -> None:
        self.calm()

    def calm(self) -> None:
        self.lost = self.delayed = self.refused = self.limited = self.unsent = self.unauthorised = 0.0

    def bad(self, dice: random.Random) -> None:
        """Another bad day."""
        self.calm()
        for name in dice.sample(("lost", "delayed", "refused", "limited", "unsent", "unauthorised"), dice.randint(1, 3)):
            setattr(self, name, dice.choice((0.1, 0.3, 0.7)))


class Version(NamedTuple):
    """What an object was from a time on; None: it was removed."""

    at: float
    stamp: int
    number: int
    document: Entity | None
    who: str


class SimVendor(FakeVendor):
    """The account. Times are those of the loop."""

    def __init__(self, dice: random.Random, now: Callable[[], float]) -> None:
        super().__init__()
        self.dice = dice
        self.now = now
        self.mood = Mood()
        self.made: Counter[tuple[str, str, str]] = Counter()
        """Objects made by us, per (entity, source entity, source id): more than one is a broken promise (P2)."""
        self.updates: Counter[tuple[str, str]] = Counter()
        """Updates of ours that changed something, per object."""
        self.refuses: Callable[[Write], bool] = lambda write: False
        self.found_from: dict[str, float] = {}
        """When a new object shows up in searches."""
        self.history: dict[tuple[str, str], list[Version]] = {}
        self.raws: dict[tuple[str, bytes], Entity] = {}
        self.tell: Callable[[str], None] = lambda text: None
        """For people who read a failed history."""
        self.who = "?"
        self.lag = True
        self.names_half = 0
        """Lists of ids that will be wrong: a vendor on a bad day, whom no single answer makes believe."""

    def put(self, entity: str, document: Entity, external_id: str | None = None) -> str:
        is_new = external_id is None or external_id not in self.objects[entity]
        external_id = super().put(entity, document, external_id)
        now = self.now()
        if is_new:
            lag_s = self.dice.choice((0.0, self.dice.uniform(0, SEARCH_LAG_S_MAX), SEARCH_LAG_S_MAX)) if self.lag else 0.0
            self.found_from[external_id] = now + lag_s
        self._happened(entity, external_id, document)
        what = getattr(document, "company_name", None) or getattr(document, "name", "")
        told = f"  {self.who} writes {entity} {external_id} {what!r} {getattr(document, 'language', None) or ''}"
        self.tell(f"{told}, searches find it from {self.found_from[external_id]:.1f}")
        return external_id

    def remove(self, entity: str, external_id: str) -> None:
        """A person removes it for good."""
        del self.objects[entity][external_id]
        self.versions[entity, external_id] += 1
        self._happened(entity, external_id, None)
        self.tell(f"  {entity} {external_id} is removed")

    def _happened(self, entity: str, external_id: str, document: Entity | None) -> None:
        """It is stamped when the saving begins and shown when it is done: not all are shown in the order of their stamps."""
        versions, now = self.history.setdefault((entity, external_id), []), self.now()
        begun = now - self.dice.uniform(0, SAVING_S_MAX) if self.lag and self.dice.random() < 0.3 else now
        stamp = max(int(begun), versions[-1].stamp if versions else 0)
        versions.append(Version(now, stamp, self.versions[entity, external_id], document, self.who))

    def as_of(self, at: float) -> list[tuple[str, str, Version]]:
        """Every object as a list shows it that is as of `at`."""
        found = []
        for (entity, external_id), versions in self.history.items():
            shown = next((version for version in reversed(versions) if version.at <= at), None)
            if shown is not None and entity != "contact":
                found.append((entity, external_id, shown))
        return found

    def raw(self, entity: str, document: Entity) -> bytes:
        """The bytes this vendor serves of a document."""
        raw = _ENCODER.encode(document)
        self.raws[entity, raw] = document
        return raw

    def edit(self, entity: str, external_id: str, **changes: Any) -> None:
        """A person at the vendor's screen."""
        self.who = "person"
        self.put(entity, msgspec.structs.replace(self.objects[entity][external_id], **changes), external_id)

    def record(self, entity: str, external_id: str) -> RawRecord | None:
        document = self.objects[entity].get(external_id)
        if document is None:
            return None
        raw = self.raw(entity, document)
        return RawRecord(entity=entity, id=external_id, raw=raw, version=str(self.versions[entity, external_id]))


class SimConnector(FakeConnector):
    """The connector of one process; every call goes through its gate and the vendor's mood."""

    def __init__(  # the fakes' own would check a manifest each time
        self, vendor: SimVendor, process: Process, classes: Mapping[str, IdempotencyClass], facts: Manifest
    ) -> None:
        self.manifest = facts
        self.vendor: SimVendor = vendor
        self.classes = dict(classes)
        self.deaths = Deaths()
        self.fail_next = []
        self.hidden = set()
        self.name_max = self.total_kept = None
        self._process = process

    def to_canonical(self, record: RawRecord) -> Entity:
        return self.vendor.raws[record.entity, record.raw]

    def plan(self, write: Write) -> Sequence[Step]:
        steps = super().plan(write)
        kind = self.classes.get(write.entity, IdempotencyClass.KEY)
        return [msgspec.structs.replace(step, idempotency=kind) if step.name == "contact" else step for step in steps]

    # --- reading -------------------------------------------------------------------------------------------------------------

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        return await self._call(lambda: self.vendor.record(entity, external_id))

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        found = await self._call(lambda: self._found_now(entity, match))
        return [item for item in found if self._is_findable(item.record.id)]

    def _found_now(self, entity: str, match: Match) -> Sequence[Found]:
        """The search of the fakes never waits: one step gives its answer."""
        search = FakeConnector.find(self, entity, match)
        try:
            search.send(None)
        except StopIteration as answer:
            return answer.value  # type: ignore[no-any-return]
        raise AssertionError("it waited")

    def _is_findable(self, external_id: str) -> bool:
        return self.vendor.found_from.get(external_id, 0.0) <= self.vendor.now()

    async def read(self, stream: str, position: Any) -> AsyncIterator[Page]:
        """Rows by (stamp, entity, id) from the overlap on. What is stamped while it reads comes with the next poll."""
        since = max(0, position["since"] - OVERLAP_S) if position else 0
        highest = position["since"] if position else 0
        after: tuple[float, str, str] = (since, "", "")
        while True:
            rows = await self._call(lambda after=after: self._rows(after))
            page, rest = rows[:PAGE_ROWS], rows[PAGE_ROWS:]
            highest = max([highest, *(stamp for (stamp, _, _), _ in page)])
            records = [record for _, record in page]
            yield Page(
                records=records, position={"since": highest if not rest else (position or {}).get("since", 0)}, more=bool(rest)
            )
            if not rest:
                return
            after = page[-1][0]

    def _rows(self, after: tuple[float, str, str]) -> list[tuple[tuple[int, str, str], RawRecord]]:
        """Stamps have seconds, so that many are equal; now and then a list comes from a replica that lags behind."""
        dice = self.vendor.dice
        lag_s = dice.uniform(0, LIST_LAG_S_MAX) if dice.random() < 0.3 else 0.0
        rows = []
        for entity, external_id, version in self.vendor.as_of(self.vendor.now() - lag_s):
            key = (version.stamp, entity, external_id)
            if key > after and (version.document is not None or self.manifest.streams[0].deletes == "feed"):
                rows.append((key, self._record_of(entity, external_id, version)))
        return sorted(rows, key=lambda row: row[0])

    def _record_of(self, entity: str, external_id: str, version: Version) -> RawRecord:
        number = str(version.number)
        if version.document is None:
            return RawRecord(entity=entity, id=external_id, raw=b"", version=number, deleted=True)
        raw = self.vendor.raw(entity, version.document)
        return RawRecord(entity=entity, id=external_id, raw=raw, version=number)

    async def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        for entity in self.manifest.stream(stream).entities:
            yield await self._call(lambda entity=entity: {entity: self._named(entity)})

    def _named(self, entity: str) -> list[str]:
        known = list(self.vendor.objects[entity])
        if self.vendor.names_half and len(known) > 1:
            self.vendor.names_half -= 1
            self.vendor.tell("  names half of its ids")
            return known[::2]
        return known

    # --- writing -------------------------------------------------------------------------------------------------------------

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        return await self._call(lambda: self._effect(write, step, done), writes=True)

    def _effect(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        vendor = self.vendor
        if write.action == "create" and step.primary and vendor.refuses(write):
            raise WriteRejected(f"{write.entity} {write.source.id} is not valid", hint="correct it", code="400")
        mark = f"contact|{done['customer'].external_id}" if step.name == "contact" else f"{write.entity}|{write.key}"
        if step.idempotency is IdempotencyClass.CLIENT_ID and mark in vendor.marks:
            made = vendor.marks[mark]
            return self._as_it_is(StepResult(external_id=made, record=vendor.record(write.entity, made), replayed=True))
        if write.action != "create":
            self._must_be_newest(write)
            vendor.updates[write.entity, write.external_id or ""] += 1
        before = len(vendor.writes)
        vendor.who = "bus"
        result = self._do(write, step, done)
        if write.action == "create" and len(vendor.writes) > before:
            entity = "contact" if step.name == "contact" else write.entity
            vendor.made[entity, write.source.entity, write.source.id] += 1
        return result

    def _must_be_newest(self, write: Write) -> None:
        """As a version token would."""
        assert write.external_id is not None and write.known is not None
        held = self.vendor.record(write.entity, write.external_id)
        if held is None:
            raise WriteRejected(f"{write.external_id} is gone", code="404")
        if held.version != write.known.version:
            raise WriteConflict(f"{write.external_id} was changed by somebody else")

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        found = await self._call(lambda: self._searched(write, step, done))
        if found is not None and step.idempotency is IdempotencyClass.SEARCH and not self._is_findable(found.external_id):
            return None
        return self._as_it_is(found) if found is not None else None

    @staticmethod
    def _as_it_is(found: StepResult) -> StepResult:
        """An object that has a second version is not as it was sent."""
        return msgspec.structs.replace(found, as_sent=found.record is None or found.record.version == "1")

    def _searched(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        search = FakeConnector.search(self, write, step, done)
        try:
            search.send(None)
        except StopIteration as answer:
            return answer.value  # type: ignore[no-any-return]
        raise AssertionError("it waited")

    # --- the wire ------------------------------------------------------------------------------------------------------------

    async def _call(self, effect: Callable[[], T], *, writes: bool = False) -> T:
        """Steps: 1 turned away at the door, or never sent; 2 the request travels and happens; 3 the answer travels, or not."""
        await self._process.gate()
        dice, mood = self.vendor.dice, self.vendor.mood
        self._at_the_door(dice, mood)  # 1
        is_lost = dice.random() < mood.lost
        is_delayed = dice.random() < mood.delayed
        there_s = dice.uniform(1.0, CALL_TIMEOUT_S) if is_delayed else dice.uniform(0.01, 0.2)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        loop.call_later(there_s, _happen, effect, answer)  # 2
        back_s = CALL_TIMEOUT_S if is_lost else dice.uniform(0.01, 0.2)
        await asyncio.sleep(min(there_s + back_s, CALL_TIMEOUT_S))  # 3
        await self._process.gate()
        if there_s + back_s > CALL_TIMEOUT_S or not answer.done():
            raise NetworkFailure("no answer in time")
        return answer.result()  # type: ignore[no-any-return]

    @staticmethod
    def _at_the_door(dice: random.Random, mood: Mood) -> None:
        if dice.random() < mood.unsent:
            raise NetworkFailure("connection refused", sent=False)
        if dice.random() < mood.unauthorised:
            raise TokenExpired("401")
        if dice.random() < mood.limited:
            raise RateLimited("429", retry_after_s=dice.choice((None, 2.0, 30.0)))
        if dice.random() < mood.refused:
            raise Unavailable("503")


def _happen(effect: Callable[[], Any], answer: "asyncio.Future[Any]") -> None:
    try:
        result = effect()
    except Exception as error:
        answer.set_exception(error)
        answer.exception()  # it may be that nobody hears it any more
    else:
        answer.set_result(result)


MANIFEST_HERE = manifest()
