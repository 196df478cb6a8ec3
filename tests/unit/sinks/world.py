"""A sink against a fake vendor and a fake log: it can be killed at any point and started again."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from bus.core import topics
from bus.core.clock import FrozenClock, micros
from bus.core.identity import Entity, Hasher, command_id, event_id
from bus.core.policy import WritePolicy, encode_policy
from bus.kit.client import _TALLY
from bus.kit.connector import Found, Match, RawRecord, Step, StepResult, Write
from bus.runtime.publisher import Outgoing
from bus.runtime.state import AccountState
from schemas import canon
from schemas.canon import EventMeta, Operation
from schemas.system import (
    Action,
    Command,
    CommandKind,
    ObjectRef,
    ObjectState,
    Outcome,
    RequestKind,
    RequestRecord,
    Resolved,
    Standing,
    StateRecord,
    ValueKind,
)
from services.pollers.publishing import EVENT_TYPES
from services.sinks.account import AccountSink, Delivered
from services.sinks.carrying import Carrier
from services.sinks.ledger import Ledger
from services.sinks.locks import KeyLocks
from services.sinks.pictures import Pictures
from services.sinks.requests import Requests
from services.sinks.task import Target
from tests.fakes import Deaths, FakeCodec, FakeConnector, FakeLog, FakePictures, FakePrivacy, FakeVendor, Killed, order

TARGET = "target"
PEER = "shop"
ORDER: dict[str, Any] = {"entity": "sales_order", "source_entity": "sales_invoice", "source_id": "Invoice:1"}


class CountedConnector(FakeConnector):
    """Tells its calls as a vendor's client does."""

    def __init__(self, vendor: FakeVendor, **options: Any) -> None:
        super().__init__(vendor, **options)
        self.calls: list[str] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if (tally := _TALLY.get()) is not None:
            tally.calls += 1

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        self._called("fetch")
        return await super().fetch(entity, external_id)

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        self._called("find")
        return await super().find(entity, match)

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        self._called("perform")
        return await super().perform(write, step, done)

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        self._called("search")
        return await super().search(write, step, done)


class World:
    """One target account, its outbound topic, and the process that serves it."""

    def __init__(self, deaths: Deaths | None = None, **connector: Any) -> None:
        self.deaths = deaths or Deaths()
        self.clock = FrozenClock()
        self.codec = FakeCodec()
        self.vendor = FakeVendor()
        self.connector = CountedConnector(self.vendor, deaths=self.deaths, **connector)
        self.log = FakeLog(self.deaths)
        self.pictures: Pictures = FakePictures(self.log)
        self.hasher = Hasher(b"tenant")
        self.outbound: list[bytes] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self.used_today: dict[str, int] = {}
        self.versions = 0
        self.asked: list[RequestRecord] = []

    # --- what others put on the outbound topic -------------------------------------------------------------------------------

    def backfilled(self, *entities: str) -> None:
        for entity in entities or ("customer", "product"):
            self._add(Command(kind=CommandKind.BACKFILLED, id=entity, target_entity=entity, made_at=self.clock.now()))

    def observe(self, entity: str, external_id: str) -> None:
        from bus.core.identity import match_keys

        document = self.vendor.objects[entity][external_id]
        self._add(
            Command(
                kind=CommandKind.OBSERVE,
                id="o",
                source=ObjectRef(connection=TARGET, entity=entity, id=external_id),
                target_entity=entity,
                observed=ObjectState(field_hashes=self.hasher.fields(document), match_keys=match_keys(document, self.hasher)),
                made_at=self.clock.now(),
            )
        )

    def linked_by_peer(self, entity: str, external_id: str, source_id: str = "61") -> None:
        """The peer's sink joined its object with ours."""
        source = ObjectRef(connection=PEER, entity=entity, id=source_id)
        self._add(
            Command(
                kind=CommandKind.LINK,
                id="l",
                source=source,
                target_entity=entity,
                target_id=external_id,
                made_at=self.clock.now(),
            )
        )

    def command(
        self,
        document: Entity | None,
        *,
        entity: str = "customer",
        source_entity: str | None = None,
        source_id: str = "61",
        flow: str = "f",
        action: Action = Action.UPSERT,
        policy: WritePolicy | None = None,
        resolved: dict[str, str] | None = None,
        categories: dict[str, str] | None = None,
        seq: int | None = None,
        version: int = 1,
        reason: str | None = None,
        echo_fields: tuple[str, ...] = (),
        existing: bool = False,
        request: str | None = None,
        repair: bool = False,
        source_modified_at: datetime | None = None,
    ) -> bytes:
        source_entity = source_entity or entity
        self.versions += 1
        seq = seq or micros(self.clock.now()) + self.versions
        key = topics.event_key(PEER, source_entity, source_id)
        meta = EventMeta(
            event_id=event_id(key, seq),
            seq=seq,
            tenant="acme",
            system="fake",
            connection=PEER,
            entity=source_entity,
            source_id=source_id,
            source_modified_at=source_modified_at,
            observed_at=self.clock.now(),
            op=Operation.UPDATED,
            content_hash="x",
            field_hashes=self.hasher.fields(document) if document is not None else {},
            echo_fields=list(echo_fields),
        )
        event = EVENT_TYPES[source_entity](meta=meta, after=document)
        return self._add(
            Command(
                kind=CommandKind.WRITE,
                id=command_id(key, seq, flow, version),
                flow=flow,
                config_version=version,
                seq=seq,
                source=ObjectRef(connection=PEER, entity=source_entity, id=source_id),
                target_entity=entity,
                action=action,
                reason=reason,
                existing=existing,
                request=request,
                repair=repair,
                event=self.codec.encode("", event),
                resolved=[
                    Resolved(
                        name=name,
                        kind=ValueKind.TEXT,
                        value=value,
                        rule="test",
                        extra={"category": categories[name]} if categories and name in categories else {},
                    )
                    for name, value in (resolved or {}).items()
                ],
                policy=encode_policy(policy or WritePolicy(write="upsert")),
                made_at=self.clock.now(),
            )
        )

    def replay(self, raw: bytes, *, repair: bool = False, request: str = "job-1", **changes: Any) -> bytes:
        """A command once more, because somebody asked for it."""
        command = self.codec.decode(topics.outbound(TARGET), raw)
        return self._add(msgspec.structs.replace(command, request=request, repair=repair, **changes))

    def ask(self, kind: RequestKind, **args: str) -> None:
        """What an operator puts on the topic of requests."""
        self.asked.append(
            RequestRecord(kind=kind, id=str(len(self.asked)), connection=TARGET, args=args, made_at=self.clock.now())
        )

    def _add(self, command: Command) -> bytes:
        raw = self.codec.encode(topics.outbound(TARGET), command)
        self.outbound.append(raw)
        return raw

    # --- the process -----------------------------------------------------------------------------------------------------------

    def restored(self) -> AccountState:
        state = AccountState(TARGET)
        for record in self.log.topic(topics.STATE):
            state.apply(record.key, self.codec.decode(topics.STATE, record.value) if record.value else None)
        return state

    async def tell_state(self, key: str, record: StateRecord) -> None:
        """A record of `bus.state` that an earlier owner committed."""
        await self.log.commit([Outgoing(topic=topics.STATE, partition=0, key=key, value=self.codec.encode(topics.STATE, record))])

    async def live(self, rounds: int = 200, *, idle: int = 0, step_s: float = 30) -> AccountState:
        """Runs one life of the process until nothing is left to do and `idle` rounds more, or until it dies."""
        state = self.restored()
        ledger = Ledger(0, self.log, self.codec)
        locks = KeyLocks()
        target = Target(
            connector=self.connector,
            account=await self.connector.check(),
            state=state,
            ledger=ledger,
            clock=self.clock,
            hasher=self.hasher,
            privacy=FakePrivacy(),
            codec=self.codec,
            locks=locks,
            pictures=self.pictures,
        )
        sink = AccountSink(
            connection=TARGET,
            state=state,
            ledger=ledger,
            carrier=Carrier(target),
            codec=self.codec,
            clock=self.clock,
            locks=locks,
            on_outcome=lambda flow, connection, outcome: self.outcomes.append((flow, outcome)),
            used_today=lambda: self.used_today,
        )
        self.sink = sink
        sink.restore()
        sink._release_due()
        writer = asyncio.create_task(ledger.run())
        position = state.offset or 0
        for offset in range(position, len(self.outbound)):
            sink.deliver(Delivered(raw=self.outbound[offset], offset=offset))
        requests = Requests(sink, target, ledger, lambda: ["f", "g"])
        asking = asyncio.create_task(self._carry_out(requests))
        try:
            for _ in range(rounds):
                for _ in range(50):
                    await asyncio.sleep(0)
                if writer.done():
                    writer.result()
                if sink._failed is not None:
                    raise sink._failed
                if asking.done():
                    asking.result()
                if not sink._lanes and not self._due(state) and asking.done():
                    if idle == 0:
                        return state
                    idle -= 1
                if not sink._lanes and asking.done():
                    self.clock.advance(step_s)
                    sink._release_due()
            raise AssertionError(f"not quiet: {list(state.parked())}")
        finally:
            for task in [writer, asking, *sink._tasks]:
                task.cancel()
            await asyncio.gather(writer, asking, *sink._tasks, return_exceptions=True)

    async def _carry_out(self, requests: Requests) -> None:
        for offset, request in enumerate(self.asked):
            await requests.act(offset, request)

    def _due(self, state: AccountState) -> bool:
        """Waiting for a dependency or behind a brake is quiet; parked with a next attempt is not."""
        return any(record.standing is Standing.PARKED and record.retry_at is not None for record in state.parked())

    async def survive(self) -> AccountState:
        """Lives until a life ends well; a death is followed by a new owner."""
        while True:
            try:
                return await self.live()
            except Killed:
                self.clock.advance(1)


def standing_of(state: AccountState, source_id: str = "61", entity: str = "customer", flow: str = "f") -> Any:
    record = state.standing(flow, ObjectRef(connection=PEER, entity=entity, id=source_id))
    assert record is not None
    return record


def letters(world: World) -> list[Any]:
    return [world.codec.decode("", record.value) for record in world.log.topic(topics.DEAD_LETTERS)]


def results(world: World) -> list[Any]:
    return [world.codec.decode("", record.value) for record in world.log.topic(topics.RESULTS)]


async def written_order(world: World, total: str = "121.00") -> bytes:
    world.backfilled()
    world.observe("product", world.vendor.put("product", canon.Product(sku="A-1", kind=canon.ProductKind.SIMPLE)))
    raw = world.command(order(total=total), action=Action.CREATE, **ORDER)
    await world.live()
    return raw
