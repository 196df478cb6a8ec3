"""Operators' commands on a real broker: what they choose from what stands there, what they ask for, and how they see it done.

No service runs: the tests write what services would write, and read what was asked of them. The one that does run is grants, for
a login from the vendor's page to the token.
"""

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from bus.cli.group import bus
from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import Configuration, Connection, Flow
from bus.runtime import kafka, requests
from bus.runtime.codec import Codec
from bus.runtime.privacy import MasterKey
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publication import apply
from bus.runtime.published import read_published
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings
from bus.runtime.state import standing_key
from bus.runtime.tail import read_all
from bus.simulation.simulator import Served
from connectors.quickbooks.simulator import build
from schemas.system import (
    BrakeRecord,
    Cause,
    Command,
    CommandKind,
    DeadLetter,
    JobRecord,
    JobState,
    ObjectRef,
    OffsetRecord,
    RequestKind,
    RequestRecord,
    SeenRecord,
    Standing,
    StandingRecord,
    StateRecord,
)
from services.grants.slot import GrantSlot
from tests.clusters import RunningCluster

pytestmark = pytest.mark.broker

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Desk:
    """Two accounts and a flow of their own on the shared topics, a terminal, and what the services would do."""

    def __init__(self, settings: BusSettings, codec: Codec, environment: dict[str, str]) -> None:
        name = uuid.uuid4().hex[:8]
        self.settings, self.codec, self.environment = settings, codec, environment
        self.shop, self.books, self.flow = f"shop-{name}", f"books-{name}", f"orders-{name}"

    async def publish_configuration(self, **shop: Any) -> None:
        """Beside what other tests have published."""
        connections = [
            Connection(
                kind="Connection", name=self.shop, tenant=self.flow, secret=self.shop, **({"system": "quickbooks"} | shop)
            ),
            Connection(kind="Connection", name=self.books, tenant=self.flow, system="exact_online", secret=self.books),
        ]
        document = {
            "kind": "Flow",
            "name": self.flow,
            "start": "beginning",
            "write": "create",
            "from": {"connection": self.shop, "entity": "sales_invoice"},
            "to": {"connection": self.books, "entity": "sales_order"},
        }
        known = (await read_published(self.settings, self.codec)).configuration
        wanted = Configuration(
            connections={**known.connections, **{item.name: item for item in connections}},
            flows={**known.flows, self.flow: Flow.model_validate(document)},
            tables=known.tables,
        )
        await apply(self.settings, self.codec, wanted, SystemClock(), allow_remove=True)

    async def run(self, *words: str) -> Result:
        """A command, as a process of its own would run it."""
        return await asyncio.to_thread(lambda: CliRunner().invoke(bus, words, env=self.environment))

    async def said(self, *words: str, code: int = 0) -> str:
        found = await self.run(*words)
        assert found.exit_code == code, (found.output, found.exception)
        return found.output

    async def plain(self, *words: str) -> Any:
        return json.loads(await self.said(*words, "--json"))

    # --- what the services write -------------------------------------------------------------------------------------------

    async def write(self, *records: Outgoing) -> None:
        publisher = Publisher(self.settings, f"bus-test-{uuid.uuid4()}")
        await publisher.open()
        await publisher.commit(list(records))
        await publisher.close()

    def slot(self, connection: str) -> int:
        return topics.slot_of(connection, self.settings.slots)

    def source(self, source_id: str) -> ObjectRef:
        return ObjectRef(connection=self.shop, entity="sales_invoice", id=source_id)

    def key(self, source_id: str) -> str:
        return topics.event_key(self.shop, "sales_invoice", source_id)

    def state(self, key: str, **member: Any) -> Outgoing:
        value = self.codec.encode(topics.STATE, StateRecord(connection=self.books, **member))
        return Outgoing(topics.STATE, self.slot(self.books), key, value)

    def standing(self, source_id: str, standing: Standing, cause: Cause | None = None, **more: Any) -> Outgoing:
        record = StandingRecord(
            flow=self.flow,
            source=self.source(source_id),
            seq=7,
            config_version=1,
            standing=standing,
            cause=cause,
            settled_at=NOW,
            **more,
        )
        return self.state(standing_key(self.books, self.flow, record.source), standing=record)

    def letter(self, source_id: str, cause: Cause, *, stage: str = "sink") -> Outgoing:
        is_polled = stage == "poller"
        record = DeadLetter(
            stage=stage,
            cause=cause,
            detail="what is wrong",
            hint="mend it",
            connection=self.shop if is_polled else self.books,
            flow=None if is_polled else self.flow,
            source=self.source(source_id),
            seq=0 if is_polled else 7,
            original=b"bytes",
            made_at=NOW,
        )
        return Outgoing(topics.DEAD_LETTERS, None, self.key(source_id), self.codec.encode(topics.DEAD_LETTERS, record))

    def seen(self, source_id: str, content_hash: str) -> Outgoing:
        record = SeenRecord(
            connection=self.shop,
            entity="sales_invoice",
            source_id=source_id,
            raw_hash="r",
            content_hash=content_hash,
            seq=int(NOW.timestamp() + 60) * 1_000_000 if content_hash else 0,
            mapping_version=1,
        )
        return Outgoing(topics.SEEN, self.slot(self.shop), self.key(source_id), self.codec.encode(topics.SEEN, record))

    def brake(self, request: RequestRecord) -> Outgoing:
        is_open = request.args["action"] == "open"
        record = BrakeRecord(
            flow=request.args.get("flow", ""),
            open=is_open,
            by_hand=is_open,
            reason=request.args.get("reason"),
            opened_at=NOW if is_open else None,
        )
        return self.state(topics.key("brake", self.books, record.flow), brake=record)

    def job(self, request: RequestRecord, state: JobState, **more: Any) -> Outgoing:
        record = JobRecord(
            id=request.id, connection=request.connection, state=state, args=request.args, request_offset=1, started_at=NOW, **more
        )
        key = topics.key(record.connection, record.id)
        return Outgoing(topics.JOBS, self.slot(record.connection), key, self.codec.encode(topics.JOBS, record))

    # --- what was asked ------------------------------------------------------------------------------------------------------

    async def asked(self, connection: str, kind: RequestKind) -> list[RequestRecord]:
        """Requests of an account, as its owner reads them: on its slot's partition, and no `bus apply`'s."""
        found = []
        async for record, request in read_all(self.settings, self.codec, topics.REQUESTS, connection.__eq__):
            assert record.partition == self.slot(connection)
            if request.kind is kind and request.args.get("reason") != "new flow":
                found.append(request)
        return found

    async def serve(self, connection: str, kind: RequestKind, act: Callable[[RequestRecord], Awaitable[None]]) -> None:
        """A service that carries out what is asked, without end."""
        done: set[str] = set()
        while True:
            for request in await self.asked(connection, kind):
                if request.id not in done:
                    done.add(request.id)
                    await act(request)
            await asyncio.sleep(0.1)


@pytest.fixture
async def desk(cluster: RunningCluster, cluster_environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "master.key").write_text(MasterKey.generate())
    environment = {
        **cluster_environment,
        "BUS_DATA_DIR": str(tmp_path),
        "BUS_SECRETS_DIR": str(tmp_path / "secrets"),
        "BUS_MASTER_KEY_FILE": str(tmp_path / "master.key"),
    }
    settings = BusSettings(
        kafka_bootstrap=cluster.bootstrap,
        registry_url=cluster.registry_url,
        secrets_dir=tmp_path / "secrets",
        master_key_file=tmp_path / "master.key",
    )
    async with RegistryClient.of(settings) as registry:
        await registry.register_all()
        await ensure_topics(settings, topics.fixed_topics(settings.slots, settings.partitions))
        codec = Codec(registry)
        await codec.open()
        made = Desk(settings, codec, environment)
        yield made


async def test_a_redrive_chooses_what_is_dead_now_and_only_once(desk: Desk) -> None:
    await desk.publish_configuration()
    await desk.write(
        desk.letter("1", Cause.WRITE_REJECTED),
        desk.standing("1", Standing.DEAD, Cause.WRITE_REJECTED),
        desk.letter("2", Cause.BUG),
        desk.standing("2", Standing.DEAD, Cause.BUG),
        desk.standing("2", Standing.WRITTEN),
        desk.letter("3", Cause.MAPPING_ERROR, stage="poller"),
        desk.seen("3", ""),
        desk.letter("4", Cause.MAPPING_ERROR, stage="poller"),
        desk.seen("4", "read since"),
    )
    listed = await desk.plain("dead-letters", "list", "--flow", desk.flow)
    assert [(item["key"], item["cause"], item["original_bytes"]) for item in listed["dead_letters"]] == [
        (desk.key("1"), "WRITE_REJECTED", 5)
    ]
    keys = [word for number in "1234" for word in ("--key", desk.key(number))]
    dry = await desk.plain("dead-letters", "redrive", "--dry-run", *keys)
    assert sorted(item["key"] for item in dry["chosen"]) == [desk.key("1"), desk.key("3")]
    assert await desk.asked(desk.shop, RequestKind.REPLAY) == []

    await desk.said("dead-letters", "redrive", *keys)
    [replay] = await desk.asked(desk.shop, RequestKind.REPLAY)
    assert replay.args == {"flow": desk.flow, "entity": "sales_invoice", "keys": '["1"]', "reason": "redrive"}
    [resync] = await desk.asked(desk.shop, RequestKind.RESYNC)
    assert resync.args == {"entity": "sales_invoice", "keys": '["3"]', "publish": "changed"}

    await desk.write(desk.standing("1", Standing.WRITTEN), desk.seen("3", "read now"))
    assert "nothing was asked for" in await desk.said("dead-letters", "redrive", *keys)
    assert len(await desk.asked(desk.shop, RequestKind.REPLAY)) == 1
    assert (await desk.plain("dead-letters", "list", *keys))["dead_letters"] == []
    history = (await desk.plain("dead-letters", "list", "--all", *keys))["dead_letters"]
    assert [item["is_open"] for item in history] == [False] * 4


async def test_brakes_are_turned_by_request_and_seen_in_the_state(desk: Desk) -> None:
    await desk.publish_configuration()
    sinks = asyncio.ensure_future(desk.serve(desk.books, RequestKind.BRAKE, lambda request: desk.write(desk.brake(request))))
    try:
        said = await desk.said("brake", "open", desk.books, "--flow", desk.flow, "--reason", "closing the year")
        assert "is open" in said
        mine = [item for item in (await desk.plain("brake", "list"))["brakes"] if item["connection"] == desk.books]
        assert [(item["flow"], item["open"], item["by_hand"], item["reason"]) for item in mine] == [
            (desk.flow, True, True, "closing the year")
        ]
        status = await desk.plain("status")
        assert [item["flow"] for item in status["brakes"] if item["connection"] == desk.books] == [desk.flow]
        assert "is open already" in await desk.said("brake", "open", desk.books, "--flow", desk.flow, "--reason", "again")
        assert "is closed" in await desk.said("brake", "close", desk.books, "--flow", desk.flow)
    finally:
        sinks.cancel()
    asked = await desk.asked(desk.books, RequestKind.BRAKE)
    assert [item.args["action"] for item in asked] == ["open", "close"]


async def test_what_waits_is_released_by_flow(desk: Desk) -> None:
    await desk.publish_configuration()
    await desk.write(
        desk.standing("1", Standing.WAITING, Cause.MISSING_DEPENDENCY, missing=["sku:A-1"], parked_at=NOW),
        desk.standing("2", Standing.PARKED, Cause.CREDENTIAL, parked_at=NOW - timedelta(hours=1), attempts=4, retry_at=NOW),
        desk.standing("3", Standing.WRITTEN),
    )
    waiting = (await desk.plain("parked", "list", "--connection", desk.books))["parked"]
    assert [(item["key"], item["cause"], item["missing"], item["attempts"]) for item in waiting] == [
        (desk.key("2"), "CREDENTIAL", [], 4),
        (desk.key("1"), "MISSING_DEPENDENCY", ["sku:A-1"], 0),
    ]
    await desk.said("parked", "release", "--flow", desk.flow, "--cause", "CREDENTIAL")
    [asked] = await desk.asked(desk.books, RequestKind.RELEASE)
    assert asked.args == {"flow": desk.flow, "cause": "CREDENTIAL"}


async def test_a_replay_is_followed_to_its_end_and_a_job_cancelled(desk: Desk) -> None:
    await desk.publish_configuration()

    async def replay(request: RequestRecord) -> None:
        ends = {"ends": {"sales_invoice:0": 100}}
        await desk.write(desk.job(request, JobState.RUNNING, positions={"sales_invoice:0": 10}, **ends))
        await desk.write(desk.job(request, JobState.DONE, read=90, published=3, ended_at=NOW, **ends))

    processors = asyncio.ensure_future(desk.serve(desk.shop, RequestKind.REPLAY, replay))
    try:
        said = await desk.said("replay", desk.shop, "--entity", "sales_invoice", "--since", "2026-11-20", "--wait")
        assert "done; 90 events looked at, 3 sent" in said
    finally:
        processors.cancel()
    [asked] = await desk.asked(desk.shop, RequestKind.REPLAY)
    assert asked.args == {"entity": "sales_invoice", "since": "2026-11-20T00:00:00+00:00"}
    found = await desk.plain("jobs", "show", asked.id)
    assert (found["state"], found["published"], found["offsets_read"]) == ("DONE", 3, 100)

    running = requests.request(RequestKind.REPLAY, desk.shop)
    await desk.write(desk.job(running, JobState.RUNNING))
    assert "will be cancelled" in await desk.said("jobs", "cancel", running.id, "--no-wait")
    [cancelled] = await desk.asked(desk.shop, RequestKind.CANCEL)
    assert cancelled.args == {"id": running.id}


async def test_what_ends_a_transaction_is_no_command_that_waits(desk: Desk) -> None:
    """An aborted transaction leaves its records and its end behind, which nobody ever reads; quiet must come all the same."""
    await desk.publish_configuration()
    topic = topics.outbound(desk.books)
    command = Command(kind=CommandKind.OBSERVE, id="1", made_at=NOW)
    await desk.write(Outgoing(topic, 0, "k", desk.codec.encode(topic, command)))
    assert (await desk.plain("status"))["outbound_lag"][desk.books] == 1
    await desk.write(desk.state(topics.key("offset", desk.books), offset=OffsetRecord(offset=1)))

    def abort() -> None:
        producer = Producer(kafka.producer_config(desk.settings, "test", transactional_id=f"bus-test-{uuid.uuid4()}"))
        producer.init_transactions(20)
        producer.begin_transaction()
        producer.produce(topic, value=b"never seen", key=b"k", partition=0)
        producer.flush(20)
        producer.abort_transaction(20)

    await asyncio.to_thread(abort)
    assert (await desk.plain("status"))["outbound_lag"][desk.books] == 0


async def test_a_resync_and_a_link_are_asked_of_the_account_whose_owner_acts(desk: Desk) -> None:
    await desk.publish_configuration()
    await desk.said("resync", desk.shop, "--entity", "sales_invoice", "--key", "7", "--publish", "all")
    [resync] = await desk.asked(desk.shop, RequestKind.RESYNC)
    assert resync.args == {"entity": "sales_invoice", "keys": '["7"]', "publish": "all"}
    await desk.said("link", desk.key("7"), f"{desk.books}|sales_order|guid-1", "--no-wait")
    [link] = await desk.asked(desk.books, RequestKind.LINK)
    assert link.args == {"entity": "sales_order", "source": desk.key("7"), "external_id": "guid-1"}


async def test_a_login_from_the_vendor_s_page_to_a_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Served(build()) as vendor:
        info = vendor.info
        await desk.publish_configuration(
            system="quickbooks", config=info["config"], token_url=info["token_url"], base_url=info["base_url"]
        )
        assert desk.settings.secrets_dir is not None
        folder = desk.settings.secrets_dir / desk.shop
        folder.mkdir()
        for name in ("client_id", "client_secret"):
            (folder / name).write_text(info["credentials"][name])
        document = (await read_published(desk.settings, desk.codec)).configuration.connections[desk.shop]
        environment: Any = SimpleNamespace(
            settings=desk.settings,
            codec=desk.codec,
            master=MasterKey.load(desk.settings),
            clock=SystemClock(),
            connections_of=lambda _slot: [document],
        )
        owner = GrantSlot(environment, desk.slot(desk.shop), {})
        await owner.take_over()
        task = asyncio.ensure_future(owner.run())
        try:
            while "bus grants login" not in await desk.said("grants", "list"):
                await asyncio.sleep(0.1)
            monkeypatch.setattr("click.launch", _consenting)
            said = await desk.said("grants", "login", desk.shop, "--port", str(_free_port()))
            assert f"{desk.shop}: logged in; grant version 1" in said
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await owner.close()
        mine = [item for item in (await desk.plain("grants", "list"))["grants"] if item["connection"] == desk.shop]
        assert [(item["state"], item["needs"]) for item in mine] == [("ACTIVE", None)]


def _consenting(url: str) -> int:
    """A person at a browser, who consents."""

    def person() -> None:
        with httpx.Client(trust_env=False, follow_redirects=True) as browser:
            browser.get(url)

    threading.Thread(target=person).start()
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
