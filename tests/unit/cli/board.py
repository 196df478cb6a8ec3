"""A bus without Kafka for commands: topics are lists in memory, requests are remembered, and a service may answer them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bus.core import topics
from bus.core.configuration import Configuration, Connection, Flow
from bus.runtime.codec import Codec
from bus.runtime.publication import Published
from bus.runtime.reader import Record
from bus.runtime.settings import BusSettings
from bus.runtime.state import intent_key, link_key, object_key, standing_key
from schemas.system import (
    BrakeRecord,
    Cause,
    DeadLetter,
    GrantRecord,
    IntentRecord,
    JobRecord,
    LinkRecord,
    ObjectRef,
    ObjectState,
    RequestRecord,
    SeenRecord,
    Standing,
    StandingRecord,
    StateRecord,
)

NOW = datetime(2026, 11, 21, 12, 4, 46, 130_000, tzinfo=UTC)
SHOP, BOOKS, STRANGER = "qbo-nl", "exact-nl", "other-nl"
ORDERS, CUSTOMERS = "sales-to-orders", "customers-to-books"
FLOW = {"kind": "Flow", "start": "beginning", "write": "create"}


def connection(name: str, system: str, tenant: str = "acme", **more: Any) -> Connection:
    return Connection(kind="Connection", name=name, tenant=tenant, system=system, secret=name, **more)


def configuration() -> Configuration:
    flow_docs: list[dict[str, Any]] = [
        {
            **FLOW,
            "name": ORDERS,
            "from": {"connection": SHOP, "entity": "sales_invoice"},
            "to": {"connection": BOOKS, "entity": "sales_order"},
        },
        {
            **FLOW,
            "name": CUSTOMERS,
            "start": {"existing": "send"},
            "write": "upsert",
            "from": {"connection": SHOP, "entity": "customer"},
            "to": {"connection": BOOKS, "entity": "customer"},
        },
    ]
    connections = [
        connection(SHOP, "quickbooks", config={"realm_id": "9130357"}),
        connection(BOOKS, "exact_online", config={"region": "nl", "division": 1}),
        connection(STRANGER, "exact_online", tenant="rival", config={"region": "nl", "division": 2}),
    ]
    flows = [Flow.model_validate(item) for item in flow_docs]
    return Configuration(connections={c.name: c for c in connections}, flows={f.name: f for f in flows})


class Board:
    """What stands on the topics, and what was asked for."""

    def __init__(self) -> None:
        self.codec = Codec.offline()
        self.settings = BusSettings(kafka_bootstrap="nowhere:1", registry_url="http://nowhere")
        self.records: dict[str, list[Record]] = {}
        self.asked: list[RequestRecord] = []
        self.answer: Callable[[RequestRecord], None] = lambda _request: None
        """What the services do about a request."""
        self.published = Published(version=3, digest=None, configuration=configuration())

    def put(self, topic: str, key: str, value: msgspec.Struct | None, partition: int = 0) -> None:
        log = self.records.setdefault(topic, [])
        data = self.codec.encode(topic, value) if value is not None else None
        log.append(Record(topic, partition, len(log), key.encode(), data, {}))

    async def ask(self, _settings: Any, _codec: Any, requests: Sequence[RequestRecord]) -> None:
        for request in requests:
            self.asked.append(request)
            self.answer(request)

    # --- what the services write -------------------------------------------------------------------------------------------

    def _state(self, key: str, name: str, **member: Any) -> None:
        self.put(topics.STATE, key, StateRecord(connection=name, **member))

    def brake(self, name: str, *, open: bool, by_hand: bool = False, flow: str = "", **more: Any) -> None:  # noqa: A002
        record = BrakeRecord(flow=flow, open=open, by_hand=by_hand, opened_at=NOW, **more)
        self._state(topics.key("brake", name, flow), name, brake=record)

    def standing(
        self,
        source_id: str,
        standing: Standing,
        cause: Cause | None = None,
        *,
        flow: str = ORDERS,
        at: datetime = NOW,
        seq: int = 7,
        **more: Any,
    ) -> None:
        source = ObjectRef(connection=SHOP, entity="sales_invoice" if flow == ORDERS else "customer", id=source_id)
        waits = standing in (Standing.PARKED, Standing.WAITING)
        record = StandingRecord(
            flow=flow,
            source=source,
            seq=seq,
            config_version=3,
            standing=standing,
            cause=cause,
            parked_at=at if waits else None,
            settled_at=at,
            **more,
        )
        self._state(standing_key(BOOKS, flow, source), BOOKS, standing=record)

    def letter(
        self, source_id: str, cause: Cause, *, flow: str | None = ORDERS, stage: str = "sink", at: datetime = NOW, seq: int = 7
    ) -> None:
        source = ObjectRef(connection=SHOP, entity="customer" if flow == CUSTOMERS else "sales_invoice", id=source_id)
        record = DeadLetter(
            stage=stage,
            cause=cause,
            detail=f"what is wrong with {source_id}",
            hint="mend it",
            connection=BOOKS if flow else SHOP,
            flow=flow,
            source=source,
            seq=seq if flow else 0,
            made_at=at,
        )
        self.put(topics.DEAD_LETTERS, topics.event_key(source.connection, source.entity, source.id), record)

    def seen(self, source_id: str, content_hash: str, seq: int = 0) -> None:
        record = SeenRecord(
            connection=SHOP,
            entity="sales_invoice",
            source_id=source_id,
            raw_hash="r",
            content_hash=content_hash,
            seq=seq,
            mapping_version=1,
        )
        self.put(topics.SEEN, topics.event_key(SHOP, "sales_invoice", source_id), record)

    def job(self, job: JobRecord) -> None:
        self.put(topics.JOBS, topics.key(job.connection, job.id), job)

    def grant(self, record: GrantRecord) -> None:
        self.put(topics.GRANTS, record.connection, record)

    def link(self, record: LinkRecord) -> None:
        self._state(link_key(BOOKS, record.entity, record.source, record.facet), BOOKS, link=record)

    def intent(self, record: IntentRecord) -> None:
        self._state(intent_key(BOOKS, record.entity, record.source, record.facet), BOOKS, intent=record)

    def object(self, entity: str, external_id: str) -> None:
        self._state(object_key(BOOKS, entity, external_id), BOOKS, object=ObjectState())

    # --- the reader's side -------------------------------------------------------------------------------------------------

    def reader(self, _settings: Any, _name: str) -> "BoardReader":
        return BoardReader(self)


class BoardReader:
    """A LogReader of a board; partitions do not matter to it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._places: dict[str, int] = {}

    async def partitions(self, _topic: str) -> list[int]:
        return [0]

    async def assign(self, topic: str, _offsets: Mapping[int, int]) -> None:
        self._places[topic] = 0

    async def ends(self, topic: str) -> dict[int, int]:
        return {0: len(self._board.records.get(topic, []))}

    async def read_to(self, _topic: str, _ends: Mapping[int, int]) -> AsyncIterator[list[Record]]:
        yield await self.take()

    async def take(self, wait_s: float = 0.0) -> list[Record]:
        await asyncio.sleep(0)
        found = []
        for topic, place in self._places.items():
            new = self._board.records.get(topic, [])[place:]
            self._places[topic] = place + len(new)
            found += new
        return found

    async def close(self) -> None:
        self._places.clear()
