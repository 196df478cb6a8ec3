"""Histories of one account's poller: objects that people make, edit and remove, lists that lag, owners that die or freeze.

The slot is the real one (`services/pollers/slot.py`). When the faults end, what it published is held against what happened.
"""

import asyncio
import itertools
from collections import defaultdict
from typing import Any

from bus.core import topics
from schemas import canon
from schemas.canon import Operation
from schemas.system import CommandKind
from services.pollers.slot import PollerSlot
from tests.fakes import company
from tests.simulation.process import Process
from tests.simulation.sink import Broken
from tests.simulation.surroundings import Seat, Surroundings
from tests.simulation.vendor import manifest

HERE = "shop"
SLOT = 2
ENTITIES = ("customer", "product")
CALM_S = {"feed": 60.0, "scan": 700.0}
"""After the last fault and a good poll: a few more; or a comparison of ids, and one that agrees."""
RETRY_S_MAX = 1_000.0
"""A poller that failed again and again waits so long at most."""
MANIFESTS = {"feed": manifest(), "scan": manifest(deletes="scan", scan_s=120)}
NEWER = {how: facts.model_copy(update={"mapping_version": 2}) for how, facts in MANIFESTS.items()}


class PollerHistory:
    """One seed."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.dice = world.dice
        self.deletes = self.dice.choice(("feed", "feed", "scan"))
        self.here = world.account(HERE, SLOT)
        self.here.facts = MANIFESTS[self.deletes]
        self.vendor = self.here.vendor
        self.seat = Seat(world, "pollers", SLOT, PollerSlot, behind_s=20.0)  # type: ignore[arg-type]
        self.frozen: list[Process] = []
        self.later: set[asyncio.Task[None]] = set()
        self.made = 0
        self.was_wrong = False

    async def run(self) -> None:
        """Steps: 1 what exists before; 2 edits and faults; 3 the faults end; 4 quiet; 5 the promises."""
        for _ in range(self.dice.randint(0, 7)):  # 1
            self._made()
        self.seat.start()
        for _ in range(self.dice.randint(4, 24)):  # 2
            await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.1, 1.0, 5.0, 12.0, 40.0)) * self.dice.random())
            self.dice.choices([event for event, _ in EVENTS], [weight for _, weight in EVENTS])[0](self)
        await self._calm()  # 3
        events = self.events()  # 4
        await asyncio.sleep(60)
        if len(self.events()) != len(events):
            raise Broken(f"P4: not quiet: {len(self.events()) - len(events)} events though nothing changed")
        self._check(events)  # 5

    # --- events --------------------------------------------------------------------------------------------------------------

    def _made(self) -> None:
        self.vendor.who = "person"
        self.made += 1
        if self.dice.random() < 0.6:
            self.vendor.put("customer", company(f"name {self.dice.randint(1, 3)}", f"buyer{self.made}@vandijk.test"))
        else:
            self.vendor.put("product", canon.Product(sku=f"S-{self.made}", name=f"product {self.dice.randint(1, 3)}"))

    def _some(self) -> tuple[str, str] | None:
        places = [(entity, external_id) for entity in ENTITIES for external_id in sorted(self.vendor.objects[entity])]
        return self.dice.choice(places) if places else None

    def _edited(self) -> None:
        if (place := self._some()) is not None:
            entity, external_id = place
            for _ in range(self.dice.choice((1, 1, 1, 3))):
                name = f"name {self.dice.randint(1, 3)}"
                self.vendor.edit(entity, external_id, **{"company_name" if entity == "customer" else "name": name})

    def _many_at_once(self) -> None:
        """More than a page with one stamp."""
        for _ in range(self.dice.randint(3, 8)):
            self._made()

    def _touched(self) -> None:
        """Saved without a change."""
        if (place := self._some()) is not None:
            self.vendor.edit(*place)

    def _removed(self) -> None:
        if (place := self._some()) is not None:
            self.vendor.remove(*place)

    def _ids_are_wrong(self) -> None:
        """Once in a history: two answers that agree are the proof."""
        if not self.was_wrong:
            self.was_wrong, self.vendor.names_half = True, 1

    def _vendor_turns(self) -> None:
        mood = self.vendor.mood
        mood.bad(self.dice) if self.dice.random() < 0.6 else mood.calm()
        self.world.tell(f"the vendor: {({k: v for k, v in vars(mood).items() if v}) or 'calm'}")

    def _broker_turns(self) -> None:
        weather, dice = self.world.broker.weather, self.dice
        weather.aborts, weather.unclear, weather.slow = (dice.choice((0, 0, 0.1, 0.4)) for _ in range(3))
        self.world.tell(f"the broker: aborts {weather.aborts}, unclear {weather.unclear}, slow {weather.slow}")
        if dice.random() < 0.2:
            weather.is_away = True
            asyncio.get_running_loop().call_later(dice.uniform(1, 30), setattr, weather, "is_away", False)

    def _owner_dies(self) -> None:
        self.seat.kill()
        self._later(self._successor(self.dice.choice((0.0, 0.5, 8.0, 30.0)) * self.dice.random()))

    async def _successor(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.seat.start()

    def _owner_freezes(self) -> None:
        process = self.seat.freeze()
        if process is not None:
            self.frozen.append(process)
            self._later(self._successor(self.dice.uniform(0.5, 15)))
            asyncio.get_running_loop().call_later(self.dice.uniform(0.2, 60), process.thaw)

    def _mapping_fixed(self) -> None:
        """A release with another mapping version takes over."""
        self.here.facts = NEWER[self.deletes]
        self.world.tell("the mapping is fixed")
        self._owner_dies()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.later.add(task)
        task.add_done_callback(self.later.discard)

    # --- the end -------------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        self.vendor.mood.calm()
        self.world.broker.weather.calm()
        for process in self.frozen:
            process.thaw()
        await asyncio.gather(*self.later)
        if self.seat.holder is None or not self.seat.holder.alive:
            self.seat.start()
        self.world.tell("calm")
        end = self.world.loop.time() + RETRY_S_MAX
        while not self._polls_well() and self.world.loop.time() < end:
            await asyncio.sleep(10.0)
        await asyncio.sleep(CALM_S[self.deletes])

    def _polls_well(self) -> bool:
        """Whether the owner has polled lately, and holds nothing."""
        assert self.seat.holder is not None
        work = self.seat.works.get(self.seat.holder.name)
        account = work.accounts.get(HERE) if work is not None else None
        age_s = account.age_s("all") if account is not None else None
        return account is not None and not account.held() and age_s is not None and age_s < 15

    def events(self) -> list[Any]:
        """All events published, in their order per topic."""
        return [event for entity in ENTITIES for event in self.world.decoded(topics.canonical(entity))]

    def _check(self, events: list[Any]) -> None:
        if self.world.bugs:
            raise Broken(f"a bug ended an owner: {self.world.bugs!r}")
        told: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        for event in events:
            told[event.meta.entity, event.meta.source_id].append(event)
        for place, versions in self.vendor.history.items():
            if versions[-1].document is None and not self._can_tell(place[0]):
                told.pop(place, None)
            else:
                self._newest_is_told(place, versions, told.pop(place, []))
        if told:
            raise Broken(f"events of objects that never were: {sorted(told)}")
        self._sink_knows()

    def _can_tell(self, entity: str) -> bool:
        """Whether deletes can be proven: by a comparison only while the vendor names any object of the entity."""
        return self.deletes == "feed" or bool(self.vendor.objects[entity])

    def _newest_is_told(self, place: tuple[str, str], versions: list[Any], events: list[Any]) -> None:
        """P1 and P3 of a poller: the newest version is told, older ones in their order, none twice."""
        newest, seqs = versions[-1], [event.meta.seq for event in events]
        if seqs != sorted(set(seqs)):
            raise Broken(f"P3: the order of {place} does not rise: {seqs}")
        if not events:
            if newest.document is not None:
                raise Broken(f"P1: {place} is never told")
            return  # made and removed between two polls
        last = events[-1]
        if (last.after is None) != (newest.document is None) or last.after != newest.document:
            raise Broken(f"P1: {place}: told last {_short(last.after)}, holds {_short(newest.document)}")
        for one, next_one in itertools.pairwise(events):
            if one.after == next_one.after:
                raise Broken(f"P2: {place} told twice the same: {_short(one.after)}")
        numbers = [int(event.meta.source_version) for event in events if event.meta.op is not Operation.DELETED]
        if numbers != sorted(numbers):
            raise Broken(f"P3: {place}: versions told in the order {numbers}")
        for event in events:
            if event.after is not None and all(event.after != version.document for version in versions):
                raise Broken(f"{place}: {_short(event.after)} was never there")

    def _sink_knows(self) -> None:
        """What the account's own sink is told last of each object is what exists, and it knows when it knows all."""
        commands = self.world.decoded(topics.outbound(HERE))
        observed = {(c.source.entity, c.source.id): c.observed for c in commands if c.kind is CommandKind.OBSERVE}
        for (entity, external_id), versions in self.vendor.history.items():
            document, known = versions[-1].document, observed.get((entity, external_id))
            if document is not None and (known is None or known.field_hashes != self.world.hasher.fields(document)):
                raise Broken(f"law 7: the sink is not told of {entity} {external_id}")
            if document is None and known is not None and known.active and self._can_tell(entity):
                raise Broken(f"law 15: the sink is not told that {entity} {external_id} is gone")
        ends = {command.target_entity for command in commands if command.kind is CommandKind.BACKFILLED}
        if not set(ENTITIES) <= ends:
            raise Broken(f"law 7: the end of the back-fill is not told: {ends}")


EVENTS: tuple[tuple[Any, float], ...] = (
    (PollerHistory._made, 3),
    (PollerHistory._edited, 7),
    (PollerHistory._many_at_once, 0.7),
    (PollerHistory._touched, 1),
    (PollerHistory._removed, 1.5),
    (PollerHistory._ids_are_wrong, 1),
    (PollerHistory._vendor_turns, 2.5),
    (PollerHistory._broker_turns, 1.5),
    (PollerHistory._owner_dies, 2),
    (PollerHistory._owner_freezes, 1.5),
    (PollerHistory._mapping_fixed, 0.3),
)


def _short(document: Any) -> str:
    return "nothing" if document is None else str(getattr(document, "company_name", None) or getattr(document, "name", None))


async def play(world: Surroundings) -> None:
    """One history of a poller."""
    await PollerHistory(world).run()
