"""Histories of two accounts kept in step both ways: both pollers, both sinks, the processors; people edit on both sides.

Slots and handler are the real ones. When the faults end, both sides agree, nothing goes back and forth, nothing is there twice.
"""

import asyncio
from collections import Counter
from typing import Any

from bus.core import topics
from bus.core.configuration import parse
from schemas.system import IdempotencyClass, LinkState, ObjectRef, Standing
from services.pollers.slot import PollerSlot
from services.processors.handler import Handler
from services.processors.routes import Routes, compile_routes
from services.sinks.slot import SinkSlot
from tests.fakes import company
from tests.simulation.kafka import SimReader
from tests.simulation.process import Process
from tests.simulation.sink import Broken
from tests.simulation.surroundings import Seat, SimEnvironment, Surroundings
from tests.simulation.vendor import SimVendor

LEFT, RIGHT = "left", "right"
SLOTS = {LEFT: 1, RIGHT: 5}
CLASSES = (IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH)
QUIET_S_MAX = 6 * 3_600
STILL_S = 150.0
"""Fifteen polls of each side in which nothing may happen."""
FLOWS = f"""
--- {{kind: Connection, name: {LEFT}, tenant: acme, system: fake, secret: l}}
--- {{kind: Connection, name: {RIGHT}, tenant: acme, system: fake, secret: r}}
--- {{kind: Flow, name: there, from: {{connection: {LEFT}, entity: customer}}, to: {{connection: {RIGHT}, entity: customer}},
     start: {{existing: send}}, write: upsert}}
--- {{kind: Flow, name: back, from: {{connection: {RIGHT}, entity: customer}}, to: {{connection: {LEFT}, entity: customer}},
     start: {{existing: send}}, write: upsert}}
"""


class Processors:
    """The work of one processor process: at least once, in order, not fenced by anything."""

    def __init__(self, environment: SimEnvironment, positions: dict[str, int], routes: Routes, world: Surroundings) -> None:
        self._world = world
        self._process: Process = environment.settings.process
        self._reader = SimReader(environment.settings, "canon")
        self._positions = positions
        """Committed offsets of the group, shared by all its members."""
        self._handler = Handler(environment.codec)
        self._routes = routes
        self.accounts: dict[str, Any] = {}

    async def take_over(self) -> None:
        await self._reader.assign_many([(topic, 0, self._positions.get(topic, 0)) for topic in (topics.canonical("customer"),)])

    async def run(self) -> None:
        """Handled, sent and remembered are three moments."""
        while True:
            for record in await self._reader.take(5):
                outgoing = self._handler.handle(record.topic, record.key.decode(), record.value, self._routes)
                await asyncio.sleep(self._world.dice.choice((0.001, 0.01, 0.5)))
                await self._process.gate()
                self._world.broker.plain(outgoing)
                if self._world.dice.random() < 0.5:
                    await asyncio.sleep(0.01)
                    await self._process.gate()
                    self._positions[record.topic] = max(record.offset + 1, self._positions.get(record.topic, 0))

    async def close(self) -> None:
        await self._reader.close()


class BothWays:
    """One seed."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.dice = dice = world.dice
        self.routes = ROUTES
        self.vendors: dict[str, SimVendor] = {}
        self.seats: dict[str, Seat] = {}
        for name, slot in SLOTS.items():
            self.vendors[name] = world.account(name, slot, customer=dice.choice(CLASSES)).vendor
            self.seats[f"poller {name}"] = Seat(world, "pollers", slot, PollerSlot, behind_s=3.0)  # type: ignore[arg-type]
            self.seats[f"sink {name}"] = Seat(world, "sinks", slot, SinkSlot)  # type: ignore[arg-type]
        positions: dict[str, int] = {}
        self.seats["processors"] = Seat(world, "processors", 0, lambda env, _: Processors(env, positions, self.routes, world))
        self.frozen: list[Process] = []
        self.later: set[asyncio.Task[None]] = set()
        self.made = 0
        self.on_both: set[str] = set()
        self.edits: Counter[tuple[str, str]] = Counter()
        """Edits of people, per account and object: as many writes at the other side at most."""
        self.same_field = dice.random() < 0.2
        """Whether people change one field on both sides; then only peace is promised, not whose word is the last."""

    async def run(self) -> None:
        """Steps: 1 what exists before; 2 edits and faults; 3 the faults end; 4 quiet; 5 the promises."""
        self._before()  # 1
        for seat in self.seats.values():
            seat.start()
        for _ in range(self.dice.randint(4, 20)):  # 2
            await asyncio.sleep(self.dice.choice((0.0, 0.1, 3.0, 12.0, 40.0)) * self.dice.random())
            self.dice.choices([event for event, _ in EVENTS], [weight for _, weight in EVENTS])[0](self)
        await self._calm()  # 3
        await self._quiet()  # 4
        self._check()  # 5

    def _before(self) -> None:
        for vendor in self.vendors.values():
            vendor.lag, vendor.who = False, "person"
        for number in range(self.dice.randint(0, 3)):
            on = self.dice.choice(([LEFT], [RIGHT], [LEFT, RIGHT]))
            if len(on) == 2:
                self.on_both.add(f"old{number}@vandijk.test")
            for name in on:
                self.vendors[name].put("customer", company(f"old {number}", f"old{number}@vandijk.test", language="en"))
        for vendor in self.vendors.values():
            vendor.lag = True

    # --- events --------------------------------------------------------------------------------------------------------------

    def _made(self) -> None:
        name = self.dice.choice((LEFT, RIGHT))
        self.made += 1
        self.vendors[name].who = "person"
        self.vendors[name].put("customer", company(f"new {self.made}", f"new{self.made}@vandijk.test", language="en"))

    def _edited(self) -> None:
        """People on the left change names, on the right languages."""
        name = self.dice.choice((LEFT, RIGHT))
        vendor = self.vendors[name]
        if customers := sorted(i for i in vendor.objects["customer"] if self._is_met(name, i)):
            external_id = self.dice.choice(customers)
            self.edits[name, external_id] += 1
            if name == LEFT or self.same_field:
                vendor.edit("customer", external_id, company_name=f"name {self.dice.randint(1, 4)}")
            else:
                vendor.edit("customer", external_id, language=self.dice.choice(("nl", "fr", "de")))

    def _is_met(self, name: str, external_id: str) -> bool:
        """What existed on both sides is left alone until both flows have met it: until then either side's values may be sent."""
        document: Any = self.vendors[name].objects["customer"][external_id]
        email = document.pii.emails[0].value
        if email not in self.on_both:
            return True
        for here, vendor in self.vendors.items():
            flow, there = ("there", RIGHT) if here == LEFT else ("back", LEFT)
            own = next(i for i, customer in vendor.objects["customer"].items() if customer.pii.emails[0].value == email)
            standing = self.world.state(there).standing(flow, ObjectRef(connection=here, entity="customer", id=own))
            if standing is None or standing.standing not in (Standing.WRITTEN, Standing.UNCHANGED):
                return False
        return True

    def _vendor_turns(self) -> None:
        name = self.dice.choice((LEFT, RIGHT))
        mood = self.vendors[name].mood
        mood.bad(self.dice) if self.dice.random() < 0.6 else mood.calm()
        self.world.tell(f"{name} vendor: {({k: v for k, v in vars(mood).items() if v}) or 'calm'}")

    def _broker_turns(self) -> None:
        weather, dice = self.world.broker.weather, self.dice
        weather.aborts, weather.unclear, weather.slow = (dice.choice((0, 0, 0.1, 0.3)) for _ in range(3))
        self.world.tell(f"the broker: aborts {weather.aborts}, unclear {weather.unclear}, slow {weather.slow}")

    def _one_dies(self) -> None:
        seat = self.seats[self.dice.choice(list(self.seats))]
        seat.kill()
        self._later(self._successor(seat, self.dice.choice((0.0, 0.5, 8.0, 30.0)) * self.dice.random()))

    async def _successor(self, seat: Seat, after_s: float) -> None:
        await asyncio.sleep(after_s)
        seat.start()

    def _one_freezes(self) -> None:
        seat = self.seats[self.dice.choice(list(self.seats))]
        process = seat.freeze()
        if process is not None:
            self.frozen.append(process)
            self._later(self._successor(seat, self.dice.uniform(0.5, 15)))
            asyncio.get_running_loop().call_later(self.dice.uniform(0.2, 60), process.thaw)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.later.add(task)
        task.add_done_callback(self.later.discard)

    # --- the end -------------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        for vendor in self.vendors.values():
            vendor.mood.calm()
        self.world.broker.weather.calm()
        for process in self.frozen:
            process.thaw()
        await asyncio.gather(*self.later)
        for seat in self.seats.values():
            if seat.holder is None or not seat.holder.alive:
                seat.start()
        self.world.tell("calm")
        await asyncio.sleep(60)

    def _traces(self) -> tuple[int, ...]:
        """What moves when anything is still going on."""
        changes = sum(len(versions) for vendor in self.vendors.values() for versions in vendor.history.values())
        ends = [self.world.broker.end(topics.canonical("customer")), *(self.world.broker.end(topics.outbound(n)) for n in SLOTS)]
        return changes, *ends

    async def _quiet(self) -> None:
        """Everything settled, and then a long time in which nothing happens."""
        end = asyncio.get_running_loop().time() + QUIET_S_MAX
        while asyncio.get_running_loop().time() < end:
            before = self._traces()
            await asyncio.sleep(STILL_S)
            states = {name: self.world.state(name) for name in SLOTS}
            settled = all(state.offset == self.world.broker.end(topics.outbound(name)) for name, state in states.items())
            moving = [s for state in states.values() for s in state.parked() if s.standing is Standing.PARKED]
            if settled and not moving and self._traces() == before and not self._held():
                self.states = states
                return
        raise Broken(f"P4: not quiet: {before} became {self._traces()}; parked {moving}; held {self._held()}")

    def _held(self) -> int:
        """Objects that a poller cannot judge yet."""
        held = 0
        for name in SLOTS:
            seat = self.seats[f"poller {name}"]
            assert seat.holder is not None
            account = seat.works[seat.holder.name].accounts.get(name) if seat.holder.name in seat.works else None
            held += account.held() if account is not None else 1
        return held

    def _check(self) -> None:
        if self.world.bugs:
            raise Broken(f"a bug ended an owner: {self.world.bugs!r}")
        for name, vendor in self.vendors.items():
            twice = {key: count for key, count in vendor.made.items() if count > 1}
            emails = Counter(customer.pii.emails[0].value for customer in vendor.objects["customer"].values())
            if twice or max(emails.values(), default=0) > 1:
                raise Broken(f"P2: {name}: made twice {twice}, by address {emails}")
        self._everybody_has_a_twin()
        for left, right in self._pairs():
            self._agree(left, right)
            self._no_echo(left, right)

    def _pairs(self) -> list[tuple[str, str]]:
        """Objects that are one, by the address that nobody edits."""
        by_email = {c.pii.emails[0].value: i for i, c in self.vendors[RIGHT].objects["customer"].items()}
        left = self.vendors[LEFT].objects["customer"].items()
        return [(i, by_email[c.pii.emails[0].value]) for i, c in left if c.pii.emails[0].value in by_email]

    def _everybody_has_a_twin(self) -> None:
        """P1: every object is at the other side, under one link known to both."""
        counts = {name: len(vendor.objects["customer"]) for name, vendor in self.vendors.items()}
        if len(self._pairs()) != max(counts.values()):
            stood = [(s.flow, s.source.id, s.standing, s.cause, s.detail) for st in self.states.values() for s in st.standings()]
            raise Broken(f"P1: {counts} objects, {len(self._pairs())} pairs; {stood}")
        for left, right in self._pairs():
            for here, there, own, other in ((LEFT, RIGHT, left, right), (RIGHT, LEFT, right, left)):
                link = self.states[here].active_link_to("customer", own, there)
                if link is None or link.source.id != other or link.state is not LinkState.ACTIVE:
                    raise Broken(f"law 7: {here} does not link {own} with {other} of {there}: {link}")

    def _agree(self, left: str, right: str) -> None:
        """P3 both ways: names as last edited on the left, languages as last edited on the right."""
        one: Any = self.vendors[LEFT].objects["customer"][left]
        two: Any = self.vendors[RIGHT].objects["customer"][right]
        if self.same_field:
            return
        if one.company_name != two.company_name or one.language != two.language:
            raise Broken(f"P3: {left} has {_told(one)}, {right} has {_told(two)}")
        for name, external_id, field in ((LEFT, left, "company_name"), (RIGHT, right, "language")):
            history = self.vendors[name].history["customer", external_id]
            wanted = self.wanted(name, external_id, field, getattr(history[0].document, field))
            if getattr(one, field) != wanted:
                raise Broken(f"P3: {field} of {left} and {right} is {getattr(one, field)}, a person said {wanted}")

    def wanted(self, name: str, external_id: str, field: str, first: Any) -> Any:
        """What people said last of a field that they edit at one side only."""
        said = first
        for version in self.vendors[name].history["customer", external_id]:
            if version.who == "person":
                said = getattr(version.document, field)
        return said

    def _no_echo(self, left: str, right: str) -> None:
        """At most one write per edit of the other side."""
        for name, own, other_name, other in ((LEFT, left, RIGHT, right), (RIGHT, right, LEFT, left)):
            written, edited = self.vendors[name].updates["customer", own], self.edits[other_name, other]
            if written > edited:
                raise Broken(f"law 9: {name} {own} was written {written} times for {edited} edits of {other} at {other_name}")


EVENTS: tuple[tuple[Any, float], ...] = (
    (BothWays._made, 3),
    (BothWays._edited, 8),
    (BothWays._vendor_turns, 2),
    (BothWays._broker_turns, 1),
    (BothWays._one_dies, 3),
    (BothWays._one_freezes, 2),
)


def _told(customer: Any) -> str:
    return f"{customer.company_name!r} {customer.language!r}"


async def play(world: Surroundings) -> None:
    """One history of two accounts."""
    await BothWays(world).run()


ROUTES = compile_routes(parse(FLOWS).accepted(), 1)
