"""Grants on a real broker: what others see when, who may write, crashes at the worst moment, logins by request."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import BaseModel

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import Connection
from bus.core.errors import AccessRevoked, TransientError
from bus.kit.auth import Token
from bus.kit.manifest import Auth
from bus.runtime.codec import Codec
from bus.runtime.follow import GrantFollower
from bus.runtime.grants import GrantState, Login, login_request
from bus.runtime.kafka import CommitUnclear, Fenced
from bus.runtime.privacy import MasterKey
from bus.runtime.provisioning import ensure_topics
from bus.runtime.publisher import Outgoing, Publisher
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.registry import RegistryClient
from bus.runtime.settings import BusSettings
from services.grants.slot import GrantSlot, Rescue

pytestmark = pytest.mark.broker

SLOT = 5
AUTH = Auth(
    kind="oauth2",
    authorize_url="https://vendor.example/auth",
    token_url="https://vendor.example/{region}/token",
    client_auth="body",
    access_token_lifetime_s=600,
    refresh_not_before_s=570,
    refresh_token_rotates=True,
    refresh_token_lifetime_s=86_400,
)


class Config(BaseModel):
    region: str = "nl"


class Vendor:
    """A token endpoint with single-use refresh tokens."""

    def __init__(self, lifetime_s: int = 600) -> None:
        self.valid = "refresh-0"
        self.lifetime_s = lifetime_s
        self.forms: list[dict[str, str]] = []
        self.urls: list[str] = []
        self.after: Callable[[int], Awaitable[None]] | None = None
        """Runs when the vendor has rotated, before its answer is read."""

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.forms.append(form)
        self.urls.append(str(request.url))
        if form["grant_type"] == "refresh_token" and form["refresh_token"] != self.valid:
            return httpx.Response(400, json={"error": "invalid_grant"})
        number = len(self.forms)
        self.valid = f"refresh-{number}"
        if self.after is not None:
            await self.after(number)
        answer = {"access_token": f"access-{number}", "refresh_token": self.valid, "expires_in": self.lifetime_s}
        return httpx.Response(200, json=answer)

    @property
    def refreshed_with(self) -> list[str]:
        return [form.get("refresh_token", form.get("code", "")) for form in self.forms]


class World:
    """A connection of its own on the shared topics, and as many owners of its slot as a test needs."""

    def __init__(self, settings: BusSettings, codec: Codec, folder: Path) -> None:
        self.name = f"books-{uuid.uuid4().hex[:8]}"
        self.settings = settings.model_copy(update={"secrets_dir": folder})
        self.codec = codec
        self.master = MasterKey(bytes(32))
        self.vendor = Vendor()
        self.secret("refresh-0")
        self.grants = GrantFollower(self.settings, codec, self.master)
        self.tasks: list[tuple[GrantSlot, asyncio.Task[None]]] = []

    def secret(self, refresh_token: str | None) -> None:
        assert self.settings.secrets_dir is not None
        folder = self.settings.secrets_dir / self.name
        folder.mkdir(exist_ok=True)
        for key, value in {
            "client_id": "the-client",
            "client_secret": "the-client-secret",
            "refresh_token": refresh_token,
        }.items():
            (folder / key).write_text(value or "")

    def owner(self, rescue: Rescue | None = None) -> GrantSlot:
        connection = Connection(kind="Connection", name=self.name, tenant="acme", system="vendor", secret=self.name)
        environment: Any = SimpleNamespace(
            settings=self.settings,
            codec=self.codec,
            master=self.master,
            clock=SystemClock(),
            connections_of=lambda _slot: [connection],
        )
        loaded: Any = SimpleNamespace(manifest=SimpleNamespace(auth=AUTH), config_class=Config)
        transport = httpx.MockTransport(self.vendor)
        return GrantSlot(environment, SLOT, {} if rescue is None else rescue, transport=transport, loader=lambda _system: loaded)

    async def run(self, owner: GrantSlot) -> asyncio.Task[None]:
        await owner.take_over()
        task = asyncio.ensure_future(owner.run())
        self.tasks.append((owner, task))
        return task

    async def end(self) -> None:
        for owner, task in self.tasks:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await owner.close()
        await self.grants.stop()

    async def token(self, after: int = 0) -> Token:
        tokens = self.grants.tokens(self.name, wait_s=20)
        return await tokens.newer_than(after)

    async def states(self) -> list[tuple[str, int]]:
        reader = LogReader(self.settings, "test")
        await reader.assign(topics.GRANTS, {SLOT: BEGINNING})
        ends = await reader.ends(topics.GRANTS)
        found = [record async for batch in reader.read_to(topics.GRANTS, ends) for record in batch]
        await reader.close()
        mine = [self.codec.decode(topics.GRANTS, record.value or b"") for record in found if record.key.decode() == self.name]
        return [(record.state, record.version) for record in mine]


@pytest.fixture
async def world(cluster: Any, tmp_path: Path) -> AsyncIterator[World]:
    settings = BusSettings(kafka_bootstrap=cluster.bootstrap, registry_url=cluster.registry_url)
    wanted = {topics.GRANTS, topics.REQUESTS}
    await ensure_topics(settings, [shape for shape in topics.fixed_topics(8) if shape.name in wanted])
    async with RegistryClient.of(settings) as registry:
        await registry.register_all()
        codec = Codec(registry)
        await codec.open()
        made = World(settings, codec, tmp_path)
        await made.grants.start()
        yield made
        await made.end()


async def test_a_token_is_visible_to_others_once_it_is_stored(world: World) -> None:
    await world.run(world.owner())
    token = await world.token()
    assert (token.version, token.access_token.get_secret_value()) == (1, "access-1")
    assert await world.states() == [("REFRESHING", 0), ("ACTIVE", 1)]
    assert world.vendor.urls == ["https://vendor.example/nl/token"]


async def test_a_newer_owner_fences_the_older_and_asks_for_nothing(world: World) -> None:
    older = world.owner()
    await world.run(older)
    await world.token()
    await world.run(world.owner())
    with pytest.raises(Fenced):
        await older._commit(older._keepers[world.name].record)  # type: ignore[arg-type]
    assert world.vendor.refreshed_with == ["refresh-0"]


async def test_fenced_between_refresh_and_store_the_successor_tries_the_old_token_once(world: World) -> None:
    """The worst moment: the vendor has rotated, the answer is not stored, and another owner takes over."""
    successor = world.owner()

    async def take_over_meanwhile(number: int) -> None:
        if number == 1:
            await successor.take_over()

    world.vendor.after = take_over_meanwhile
    first = await world.run(world.owner())
    with pytest.RaisesGroup(Fenced):
        await first
    assert await world.states() == [("REFRESHING", 0)]
    task = asyncio.ensure_future(successor.run())
    world.tasks.append((successor, task))
    with pytest.raises(AccessRevoked, match="invalid_grant"):
        await world.token()
    assert world.vendor.refreshed_with == ["refresh-0", "refresh-0"]
    assert (await world.states())[-1] == ("LOGIN_NEEDED", 0)


async def test_after_an_unclear_commit_the_tokens_in_memory_are_committed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue: Rescue = {}
    owner = world.owner(rescue)
    commit = Publisher.commit

    async def unclear(self: Publisher, records: Any) -> None:
        if self is owner._publisher and world.vendor.forms:
            raise CommitUnclear("no answer")
        await commit(self, records)

    monkeypatch.setattr(Publisher, "commit", unclear)
    with pytest.RaisesGroup(TransientError):
        await (await world.run(owner))
    await owner.close()
    assert set(rescue) == {world.name}
    await world.run(world.owner(rescue))
    assert (await world.token()).access_token.get_secret_value() == "access-1"
    assert world.vendor.refreshed_with == ["refresh-0"]
    assert await world.states() == [("REFRESHING", 0), ("ACTIVE", 1)]
    assert rescue == {}


async def test_a_hand_over_in_the_middle_of_a_refresh_stores_its_tokens_first(world: World) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(_number: int) -> None:
        asked.set()
        await answer.wait()

    world.vendor.after = slowly
    task = await world.run(world.owner())
    await asked.wait()
    task.cancel()
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(task, return_exceptions=True)
    assert await world.states() == [("REFRESHING", 0), ("ACTIVE", 1)]


async def test_a_login_by_request(world: World) -> None:
    world.secret(None)
    await world.run(world.owner())
    async with asyncio.timeout(20):
        while world.grants.state(world.name) is None:
            await asyncio.sleep(0.05)
    state = world.grants.state(world.name)
    assert state is not None
    assert state.state == GrantState.LOGIN_NEEDED
    login = Login(code="the-code", redirect_uri="https://bus.example/cb")
    request = login_request(world.master, request_id="r1", connection=world.name, login=login, made_at=datetime.now(UTC))
    publisher = Publisher(world.settings, f"bus-test-{uuid.uuid4()}")
    await publisher.open()
    await publisher.commit([Outgoing(topics.REQUESTS, SLOT, world.name, world.codec.encode(topics.REQUESTS, request))])
    await publisher.close()
    async with asyncio.timeout(20):
        while (found := world.grants.state(world.name)) is None or found.state != GrantState.ACTIVE:
            await asyncio.sleep(0.05)
    assert world.vendor.refreshed_with == ["the-code"]
    await world.run(world.owner())
    assert (await world.token()).version == 1
    assert world.vendor.refreshed_with == ["the-code"]


async def test_a_connection_without_a_secret_waits_and_goes_on_when_it_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.grants.slot.SECRET_LOOK_S", 0.1)
    assert world.settings.secrets_dir is not None
    folder = world.settings.secrets_dir / world.name
    (folder / "client_id").unlink()
    task = await world.run(world.owner())
    await asyncio.sleep(0.3)
    assert not task.done()
    assert world.vendor.forms == []
    (folder / "client_id").write_text("the-client")
    assert (await world.token()).version == 1
