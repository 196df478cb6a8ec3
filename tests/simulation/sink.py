"""Histories of one account's sink: commands of every kind and order, a vendor and a broker on bad days, owners that die.

The slot is the real one (`services/sinks/slot.py`) with all below it. When the faults end it must become quiet, and then the
promises are counted at the vendor and in the log.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import micros
from bus.core.identity import Entity, command_id, event_id, match_keys
from bus.core.policy import WritePolicy, encode_policy
from bus.runtime.publisher import Outgoing
from schemas import canon
from schemas.canon import EventMeta, Operation
from schemas.system import (
    Action,
    Cause,
    Command,
    CommandKind,
    IdempotencyClass,
    ObjectRef,
    ObjectState,
    Resolved,
    Standing,
    StandingRecord,
    ValueKind,
)
from services.pollers.publishing import EVENT_TYPES
from services.sinks.slot import SinkSlot
from tests.fakes import company, order
from tests.simulation.surroundings import Seat, Surroundings
from tests.simulation.vendor import Write

HERE, PEER = "target", "shop"
SLOT = 3
QUIET_S_MAX = 6 * 3_600
"""Virtual seconds after the last fault within which everything must have settled."""
CLASSES = (IdempotencyClass.KEY, IdempotencyClass.CLIENT_ID, IdempotencyClass.SEARCH, IdempotencyClass.NONE)
FLOWS = {"customer": "customers", "product": "products", "sales_invoice": "orders"}
TARGETS = {"customer": "customer", "product": "product", "sales_invoice": "sales_order"}
REFUSED = "refused"
SKUS = ("A-1", "B-2", "C-3")


class Broken(AssertionError):
    """A promise was broken."""


class SinkHistory:
    """One seed."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.dice = dice = world.dice
        kind = dice.choice(CLASSES)
        self.here = world.account(HERE, SLOT, customer=kind, product=dice.choice(CLASSES[:3]), sales_order=dice.choice(CLASSES))
        self.vendor = self.here.vendor
        self.vendor.refuses = lambda write: _name_of(write).startswith(REFUSED)
        self.seat = Seat(world, "sinks", SLOT, SinkSlot)  # type: ignore[arg-type]
        self.sent: list[tuple[str, bytes]] = []
        self.newest: dict[tuple[str, str], Command] = {}
        """Newest command per (flow, source id)."""
        self.documents: dict[tuple[str, str, int], Entity | None] = {}
        self.seqs: Counter[tuple[str, str]] = Counter()
        self.persons: dict[str, str] = {}
        """What people wrote last in the language of each customer."""
        self.frozen: list[Any] = []
        self.later: set[asyncio.Task[None]] = set()

    # --- events --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Steps: 1 what was there before; 2 events and faults; 3 the faults end; 4 quiet; 5 the promises."""
        dice = self.dice
        self._before()  # 1
        self.seat.start()
        for _ in range(dice.randint(4, 24)):  # 2
            await asyncio.sleep(dice.choice((0.0, 0.0, 0.02, 0.3, 2.0, 7.0, 25.0)) * dice.random())
            dice.choices([event for event, _ in EVENTS], [weight for _, weight in EVENTS])[0](self)
        await asyncio.sleep(dice.uniform(0, 5))
        await self._calm()  # 3
        await self._quiet()  # 4
        self._check()  # 5

    def _before(self) -> None:
        self.vendor.lag = False
        for sku in SKUS[: self.dice.randint(0, 2)]:
            self._observe("product", self.vendor.put("product", canon.Product(sku=sku, name="old")))
        if self.dice.random() < 0.4:
            key = self.dice.choice("1234")
            self._observe("customer", self.vendor.put("customer", _customer(key, "old")))
        self.vendor.lag = True
        if self.dice.random() < 0.8:
            self._backfilled()

    def _backfilled(self) -> None:
        for entity in ("customer", "product"):
            self._append(Command(kind=CommandKind.BACKFILLED, id=entity, target_entity=entity, made_at=self.world.clock.now()))

    def _customer_changes(self) -> None:
        key = self.dice.choice("1234")
        word = REFUSED if self.dice.random() < 0.08 else "name"
        self._command("customer", key, _customer(key, f"{word} {self.dice.randint(1, 3)}"))

    def _product_changes(self) -> None:
        sku = self.dice.choice(SKUS)
        self._command("product", sku, canon.Product(sku=sku, name=f"product {self.dice.randint(1, 3)}"))

    def _order_comes(self) -> None:
        number, key = self.dice.choice("abcd"), self.dice.choice("1234")
        known = next((d for (flow, i, _), d in self.documents.items() if (flow, i) == ("orders", number)), None)
        if known is None:
            buyer = "" if self.dice.random() < 0.3 else key
            known = order(buyer, sku=self.dice.choice(SKUS))
            pii = canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value=_email(key))])
            party = msgspec.structs.replace(known.customer, customer=canon.Ref(id=buyer) if buyer else None, pii=pii)
            known = msgspec.structs.replace(known, customer=party)
        self._command("sales_invoice", number, msgspec.structs.replace(known, number=str(self.dice.randint(1, 9))))

    def _filtered(self) -> None:
        number = self.dice.choice("abcd")
        known = next((d for (flow, i, _), d in self.documents.items() if (flow, i) == ("orders", number)), None)
        if known is not None:
            self._command("sales_invoice", number, known, action=Action.NONE, reason="when")

    def _sent_again(self) -> None:
        """A processor that was late or took its events again."""
        if self.sent:
            key, raw = self.dice.choice(self.sent)
            self.world.tell(f"sent again: {key}")
            self.world.broker.plain([Outgoing(topics.outbound(HERE), 0, key, raw)])

    def _person_edits(self) -> None:
        if customers := sorted(self.vendor.objects["customer"]):
            external_id, language = self.dice.choice(customers), self.dice.choice(("nl", "fr", "de"))
            self.persons[external_id] = language
            self.vendor.edit("customer", external_id, language=language)
            self.world.tell(f"a person sets the language of {external_id} to {language}")

    def _person_adds_product(self) -> None:
        sku = self.dice.choice(SKUS)
        if not any(product.sku == sku for product in self.vendor.objects["product"].values()):
            self.vendor.who = "person"
            self.world.tell(f"a person adds product {sku}")
            self.vendor.put("product", canon.Product(sku=sku, name="by a person"))

    def _seen(self) -> None:
        """The account's own poller tells what it saw, a little later."""
        for entity in ("customer", "product"):
            for external_id in sorted(self.vendor.objects[entity]):
                if self.dice.random() < 0.5:
                    self._observe(entity, external_id, after_s=self.dice.uniform(0, 10))

    def _vendor_turns(self) -> None:
        mood = self.vendor.mood
        mood.bad(self.dice) if self.dice.random() < 0.7 else mood.calm()
        self.world.tell(f"the vendor: {({k: v for k, v in vars(mood).items() if v}) or 'calm'}")

    def _broker_turns(self) -> None:
        weather, dice = self.world.broker.weather, self.dice
        weather.aborts, weather.unclear, weather.slow = (dice.choice((0, 0, 0.1, 0.3)) for _ in range(3))
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
        """As SIGSTOP: the group gives the slot to another, and the first one wakes up later."""
        process = self.seat.freeze()
        if process is not None:
            self.frozen.append(process)
            self._later(self._successor(self.dice.uniform(0.5, 15)))
            asyncio.get_running_loop().call_later(self.dice.uniform(0.2, 60), process.thaw)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.later.add(task)
        task.add_done_callback(self.later.discard)

    # --- commands ------------------------------------------------------------------------------------------------------------

    def _append(self, command: Command, after_s: float = 0.0, key: str = "k") -> bytes:
        raw = self.world.codec.encode(topics.outbound(HERE), command)
        records = [Outgoing(topics.outbound(HERE), 0, key, raw)]
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self.world.broker.plain, records)
        else:
            self.world.broker.plain(records)
        return raw

    def _observe(self, entity: str, external_id: str, after_s: float = 0.0) -> None:
        document = self.vendor.objects[entity][external_id]
        hasher = self.world.hasher
        observed = ObjectState(field_hashes=hasher.fields(document), match_keys=match_keys(document, hasher))
        ref = ObjectRef(connection=HERE, entity=entity, id=external_id)
        now = self.world.clock.now()
        self._append(
            Command(kind=CommandKind.OBSERVE, id="o", source=ref, target_entity=entity, observed=observed, made_at=now), after_s
        )

    def _command(self, entity: str, source_id: str, document: Entity, **more: Any) -> None:
        flow, key, now = FLOWS[entity], topics.event_key(PEER, entity, source_id), self.world.clock.now()
        reference = Resolved(name="reference", kind=ValueKind.TEXT, value=f"R-{source_id}", rule="t")
        self.seqs[flow, source_id] = seq = max(self.seqs[flow, source_id] + 1, micros(now))
        meta = EventMeta(
            event_id=event_id(key, seq), seq=seq, tenant="acme", system="fake", connection=PEER, entity=entity,
            source_id=source_id, observed_at=now, op=Operation.UPDATED, content_hash="x",
            field_hashes=self.world.hasher.fields(document),
        )  # fmt: skip
        action = Action.CREATE if entity == "sales_invoice" else Action.UPSERT
        fields: dict[str, Any] = {"action": action, **more}
        command = Command(
            kind=CommandKind.WRITE, id=command_id(key, seq, flow, 1), flow=flow, config_version=1, seq=seq,
            source=ObjectRef(connection=PEER, entity=entity, id=source_id), target_entity=TARGETS[entity],
            event=self.world.codec.encode("", EVENT_TYPES[entity](meta=meta, after=document)),
            resolved=[reference] if flow == "orders" else [],
            policy=encode_policy(WritePolicy(write="create" if flow == "orders" else "upsert")),
            made_at=self.world.clock.now(), **fields,
        )  # fmt: skip
        self.documents[flow, source_id, seq] = document
        self.newest[flow, source_id] = command
        self.world.tell(f"{flow} {source_id}: {fields['action']} {_title(document)} seq …{seq % 10**9} {_buyer(document)}")
        self.sent.append((key, self._append(command, key=key)))

    # --- the end -------------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """No more faults; everybody thaws; the slot has an owner; the poller has seen all there is."""
        self.vendor.mood.calm()
        self.world.broker.weather.calm()
        for process in self.frozen:
            process.thaw()
        await asyncio.gather(*self.later)
        if self.seat.holder is None or not self.seat.holder.alive:
            self.seat.start()
        self._backfilled()
        await asyncio.sleep(60)
        self.world.tell("calm")
        for entity in ("customer", "product"):
            for external_id in sorted(self.vendor.objects[entity]):
                self._observe(entity, external_id)

    async def _quiet(self) -> None:
        end = asyncio.get_running_loop().time() + QUIET_S_MAX
        step_s = 2.0
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(step_s)
            step_s = min(step_s * 1.5, 300.0)
            state = self.world.state(HERE)
            moving = [s for s in state.parked() if s.standing is Standing.PARKED or self._waits_for_an_end(s)]
            if state.offset == self.world.broker.end(topics.outbound(HERE)) and not moving and not self._lanes():
                self.state = state
                return
        parked = [_told(standing) for standing in state.parked()]
        raise Broken(f"P4: not quiet: offset {state.offset} of {self.world.broker.end(topics.outbound(HERE))}; {parked}")

    def _waits_for_an_end(self, standing: StandingRecord) -> bool:
        """It is tried again by itself, as a write that it waits for ends some time."""
        return "has begun and not ended" in (standing.detail or "") and not self._unclear("customer")

    def _lanes(self) -> int:
        """Commands under way at the owner."""
        assert self.seat.holder is not None
        work = self.seat.works.get(self.seat.holder.name)
        account = work.accounts.get(HERE) if work is not None else None
        return len(account._lanes) if account is not None else 1

    def _check(self) -> None:
        if self.world.bugs:
            raise Broken(f"a bug ended an owner: {self.world.bugs!r}")
        self._nothing_twice()
        self._everything_stands()
        for (flow, source_id), command in self.newest.items():
            self._newest_is_there(flow, source_id, command)
        self._edits_survive()

    def _nothing_twice(self) -> None:
        """P2, counted at the vendor."""
        twice = {key: count for key, count in self.vendor.made.items() if count > 1}
        if twice:
            raise Broken(f"P2: made more than once: {twice}")
        emails = Counter(point.value for customer in self.vendor.objects["customer"].values() for point in customer.pii.emails)
        if shared := {email: count for email, count in emails.items() if count > 1}:
            raise Broken(f"P2: several customers of one address: {shared}")
        skus = Counter(product.sku for product in self.vendor.objects["product"].values())
        if any(count > 1 for sku, count in skus.items() if sku not in self._added_by_people()):
            raise Broken(f"P2: several products of one SKU: {skus}")

    def _added_by_people(self) -> set[str | None]:
        return {product.sku for product in self.vendor.objects["product"].values() if product.name == "by a person"}

    def _everything_stands(self) -> None:
        """P1 and P5: one standing for each object of each flow, with a cause where it does not go on."""
        standings = {(s.flow, s.source.id): s for s in self.state.standings()}
        if standings.keys() != self.newest.keys():
            raise Broken(
                f"P5: {len(standings)} standings for {len(self.newest)} objects: {standings.keys() ^ self.newest.keys()}"
            )
        for standing in standings.values():
            if standing.standing in (Standing.DEAD, Standing.WAITING, Standing.PARKED) and standing.cause is None:
                raise Broken(f"P1: no cause: {_told(standing)}")
        letters = {(letter.flow, letter.source.id) for letter in self.world.decoded(topics.DEAD_LETTERS)}
        dead = {key for key, standing in standings.items() if standing.standing is Standing.DEAD}
        if dead - letters:
            raise Broken(f"P1: dead without a letter: {dead - letters}")

    def _newest_is_there(self, flow: str, source_id: str, command: Command) -> None:
        """P3: the standing is of the newest version and the target holds it, or it is told why not."""
        standing = self.state.standing(flow, command.source)  # type: ignore[arg-type]
        assert standing is not None
        if standing.seq != command.seq:
            raise Broken(f"P3: {_told(standing)} is not of seq {command.seq}")
        if command.action is Action.NONE:
            return
        if standing.standing in (Standing.DEAD, Standing.WAITING):
            self._is_rightly_stuck(flow, source_id, command, standing)
            return
        held = self.vendor.objects[TARGETS[command.source.entity]].get(standing.external_id or "")  # type: ignore[union-attr]
        if held is None:
            raise Broken(f"P1: {_told(standing)} but nothing is there")
        wanted = self.documents[flow, source_id, command.seq]
        if _title(held) != _title(wanted) and flow != "orders":
            raise Broken(f"P3: {flow} {source_id} holds {_title(held)!r}, newest is {_title(wanted)!r}; {_told(standing)}")

    def _is_rightly_stuck(self, flow: str, source_id: str, command: Command, standing: StandingRecord) -> None:
        document: Any = self.documents[flow, source_id, command.seq]
        skus = Counter(product.sku for product in self.vendor.objects["product"].values())
        match standing.cause:
            case Cause.AMBIGUOUS_WRITE:
                right = self._unclear("customer") or self._unclear("sales_order")
            case Cause.WRITE_REJECTED:
                right = (_title(document) or "").startswith(REFUSED)
            case Cause.MISSING_DEPENDENCY:
                begun = "has begun and not ended" in (standing.detail or "")
                right = self._unclear("customer") if begun else flow == "orders" and skus[document.lines[0].sku] == 0
            case Cause.AMBIGUOUS_MATCH:
                right = any(count > 1 for count in skus.values()) or "linked with sales_invoice:" in (standing.detail or "")
            case _:
                right = False
        if not right:
            raise Broken(f"P1: stuck without need: {_told(standing)}")

    def _unclear(self, entity: str) -> bool:
        """Whether this vendor offers no way to tell what a create without an answer has done."""
        return self.here.classes[entity] is IdempotencyClass.NONE

    def _edits_survive(self) -> None:
        """What people edit and the source did not change stays."""
        for external_id, language in self.persons.items():
            held: Any = self.vendor.objects["customer"].get(external_id)
            if held is not None and held.language != language:
                raise Broken(f"law 8: {external_id} has language {held.language}, a person set {language}")


EVENTS: tuple[tuple[Any, float], ...] = (
    (SinkHistory._customer_changes, 6),
    (SinkHistory._product_changes, 2),
    (SinkHistory._order_comes, 5),
    (SinkHistory._filtered, 0.7),
    (SinkHistory._sent_again, 2),
    (SinkHistory._person_edits, 1),
    (SinkHistory._person_adds_product, 0.7),
    (SinkHistory._seen, 1),
    (SinkHistory._vendor_turns, 3),
    (SinkHistory._broker_turns, 1.5),
    (SinkHistory._owner_dies, 2),
    (SinkHistory._owner_freezes, 1.5),
)


def _email(key: str) -> str:
    return f"buyer{key}@vandijk.test"


def _customer(key: str, name: str) -> canon.Customer:
    return company(name, _email(key))


def _title(document: Any) -> str | None:
    return getattr(document, "company_name", None) or getattr(document, "name", None) or getattr(document, "number", None)


def _buyer(document: Any) -> str:
    """For the story: whom an order names."""
    buyer = getattr(document, "customer", None)
    return f"of customer {buyer.customer.id if buyer.customer else 'without id'} {buyer.pii.emails[0].value}" if buyer else ""


def _name_of(write: Write) -> str:
    return _title(write.document) or ""


def _told(standing: StandingRecord) -> str:
    return (
        f"{standing.flow} {standing.source.id}: {standing.standing} {standing.cause or ''} {standing.detail or ''} "
        f"attempts {standing.attempts}"
    )


async def play(world: Surroundings) -> None:
    """One history of a sink."""
    await SinkHistory(world).run()


def dice_of(seed: int) -> random.Random:
    """The only source of chance of a history."""
    return random.Random(seed)
