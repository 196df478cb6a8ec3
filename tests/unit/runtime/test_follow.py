"""What followers make of records, without a broker: complete versions only, newest grants, waiting for tokens."""

import asyncio
from datetime import timedelta
from typing import Any, ClassVar

import msgspec
import pytest
from pydantic import SecretStr

from bus.core import topics
from bus.core.clock import FrozenClock
from bus.core.errors import AccessRevoked, TokenExpired, Unavailable
from bus.kit.auth import TokenSet
from bus.runtime.codec import Codec
from bus.runtime.follow import ConfigFollower, Documents, GrantFollower, KnownObjects, TopicFollower
from bus.runtime.grants import GrantState, Login, grants_box, login_request, open_login, seal_tokens
from bus.runtime.kafka import OffsetLost
from bus.runtime.privacy import MasterKey
from bus.runtime.reader import BEGINNING, Record
from bus.runtime.settings import BusSettings
from schemas.system import ConfigKind, ConfigRecord, CursorRecord, GrantRecord

SETTINGS = BusSettings(kafka_bootstrap="127.0.0.1:1", registry_url="http://r")
CLOCK = FrozenClock()
MASTER = MasterKey(bytes(32))


def document(kind: ConfigKind, name: str, version: int, body: Any = None) -> ConfigRecord:
    data = None if body is None else msgspec.json.encode(body)
    return ConfigRecord(kind=kind, name=name, version=version, document=data, made_at=CLOCK.now())


def complete(version: int) -> ConfigRecord:
    return ConfigRecord(kind=ConfigKind.VERSION, name="version", version=version, digest=f"d{version}", made_at=CLOCK.now())


async def test_documents_count_only_when_their_version_is_complete() -> None:
    seen: list[Documents] = []

    async def changed(documents: Documents) -> None:
        seen.append(documents)

    follower = ConfigFollower(SETTINGS, Codec.offline(), changed)
    await follower.apply(document(ConfigKind.CONNECTION, "shop", 1, {"system": "s"}))
    await follower.apply(document(ConfigKind.FLOW, "orders", 1, {"a": 1}))
    assert follower.current == Documents()
    await follower.apply(complete(1))
    await follower.apply(document(ConfigKind.FLOW, "orders", 2))
    await follower.apply(document(ConfigKind.TABLE, "codes", 2, {"rows": []}))
    assert follower.current.flows == {"orders": {"a": 1}}
    await follower.apply(complete(2))
    assert [documents.version for documents in seen] == [1, 2]
    assert follower.current == Documents(
        version=2, digest="d2", connections={"shop": {"system": "s"}}, tables={"codes": {"rows": []}}
    )


async def test_a_repeated_version_changes_nothing() -> None:
    follower = ConfigFollower(SETTINGS, Codec.offline())
    await follower.apply(complete(2))
    await follower.apply(complete(2))
    await follower.apply(complete(1))
    assert follower.current.version == 2


async def test_a_document_of_an_unknown_kind_is_left_out() -> None:
    follower = ConfigFollower(SETTINGS, Codec.offline())
    await follower.apply(document(ConfigKind.UNKNOWN, "x", 1, {}))
    await follower.apply(complete(1))
    assert follower.current == Documents(version=1, digest="d1")


async def test_waiting_for_a_version() -> None:
    follower = ConfigFollower(SETTINGS, Codec.offline())
    waiting = asyncio.ensure_future(follower.wait_version(2))
    await follower.apply(complete(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await follower.apply(complete(2))
    assert (await waiting).version == 2


# --- grants ------------------------------------------------------------------------------------------------------------------


def grant(version: int, state: GrantState = GrantState.ACTIVE, connection: str = "books", **members: Any) -> GrantRecord:
    now = CLOCK.now()
    tokens = TokenSet(SecretStr(f"access-{version}"), SecretStr(f"refresh-{version}"), now + timedelta(seconds=600), now, None)
    return GrantRecord(
        connection=connection,
        state=state,
        sealed=seal_tokens(grants_box(MASTER), connection, tokens),
        issued_at=now,
        version=version,
        **({"expires_at": tokens.expires_at} | members),
    )


@pytest.fixture
def grants() -> GrantFollower:
    return GrantFollower(SETTINGS, Codec.offline(), MASTER)


async def test_the_newest_token_of_a_connection(grants: GrantFollower) -> None:
    await grants.apply("books", grant(1))
    await grants.apply("shop", grant(7, connection="shop"))
    await grants.apply("books", grant(2))
    token = await grants.tokens("books").current()
    assert (token.version, token.access_token.get_secret_value()) == (2, "access-2")


async def test_a_refresh_in_progress_keeps_the_old_token_in_use(grants: GrantFollower) -> None:
    await grants.apply("books", grant(1, GrantState.REFRESHING))
    assert (await grants.tokens("books").current()).version == 1


async def test_waiting_for_a_newer_token(grants: GrantFollower) -> None:
    await grants.apply("books", grant(1))
    waiting = asyncio.ensure_future(grants.tokens("books").newer_than(1))
    await grants.apply("books", grant(1, GrantState.REFRESHING))
    await asyncio.sleep(0)
    assert not waiting.done()
    await grants.apply("books", grant(2))
    assert (await waiting).access_token.get_secret_value() == "access-2"


async def test_no_newer_token_in_time_and_no_grant_at_all(grants: GrantFollower) -> None:
    with pytest.raises(Unavailable, match="is the grants service running"):
        await grants.tokens("books", wait_s=0).current()
    await grants.apply("books", grant(1))
    with pytest.raises(TokenExpired, match="newer token than version 1"):
        await grants.tokens("books", wait_s=0).newer_than(1)


async def test_a_needed_login_pauses_its_connection_only(grants: GrantFollower) -> None:
    await grants.apply("books", grant(1, GrantState.LOGIN_NEEDED, detail="invalid_grant"))
    await grants.apply("shop", grant(1, connection="shop"))
    for ask in (grants.tokens("books").current(), grants.tokens("books").newer_than(1)):
        with pytest.raises(AccessRevoked, match="invalid_grant"):
            await ask
    assert (await grants.tokens("shop").current()).version == 1


async def test_those_who_wait_are_told_of_a_needed_login(grants: GrantFollower) -> None:
    await grants.apply("books", grant(1))
    waiting = asyncio.ensure_future(grants.tokens("books").newer_than(1))
    await asyncio.sleep(0)
    await grants.apply("books", grant(1, GrantState.LOGIN_NEEDED))
    with pytest.raises(AccessRevoked):
        await waiting


async def test_a_grant_that_has_only_begun_has_no_token(grants: GrantFollower) -> None:
    await grants.apply("books", grant(0, GrantState.REFRESHING, expires_at=None))
    assert grants.token("books") is None
    await grants.apply("books", None)
    assert grants.state("books") is None


def test_a_login_travels_sealed() -> None:
    login = Login(code="the-code-itself", redirect_uri="https://bus.example/cb")
    request = login_request(MASTER, request_id="r1", connection="books", login=login, made_at=CLOCK.now())
    data = Codec.offline().encode(topics.REQUESTS, request)
    assert b"the-code-itself" not in data
    assert open_login(MASTER, request) == login
    moved = msgspec.structs.replace(request, connection="shop")
    with pytest.raises(Exception, match="another master key"):
        open_login(MASTER, moved)


# --- the follower itself, over a reader in memory ----------------------------------------------------------------------------


class FakeReader:
    """Serves scripted batches; an exception in the script is raised."""

    scripts: ClassVar[list[list[Any]]] = []
    assigned: ClassVar[list[dict[int, int]]] = []
    closed = 0
    end = 2

    def __init__(self, _settings: BusSettings, _name: str) -> None:
        self.script = self.scripts.pop(0)
        self.positions: dict[tuple[str, int], int] = {}

    async def partitions(self, _topic: str) -> list[int]:
        return [0]

    async def assign(self, _topic: str, offsets: dict[int, int]) -> None:
        self.assigned.append(dict(offsets))

    async def ends(self, _topic: str) -> dict[int, int]:
        return {0: self.end}

    async def read_to(self, _topic: str, _ends: dict[int, int]) -> Any:
        yield self._next()

    async def take(self, wait_s: float) -> list[Record]:
        await asyncio.sleep(0)
        if not self.script:
            await asyncio.Event().wait()
        if callable(self.script[0]):
            await self.script.pop(0)()
        return self._next()

    def _next(self) -> list[Record]:
        entry = self.script.pop(0)
        if isinstance(entry, BaseException):
            raise entry
        self.positions["t", 0] = entry[-1] + 1
        return [Record("t", 0, offset, b"k", b"v", {}) for offset in entry]

    async def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    monkeypatch.setattr("bus.runtime.follow.LogReader", FakeReader)
    monkeypatch.setattr("bus.runtime.follow.RETRY_S", 0)
    FakeReader.scripts, FakeReader.assigned, FakeReader.closed, FakeReader.end = [], [], 0, 2
    return FakeReader.scripts


async def test_after_an_outage_it_goes_on_behind_what_was_taken(script: list[list[Any]]) -> None:
    script += [[[0, 1], Unavailable("away")], [[2], [3]]]
    taken: list[int] = []
    reached = asyncio.Event()

    async def take(record: Record) -> None:
        taken.append(record.offset)
        if record.offset == 3:
            reached.set()

    follower = TopicFollower(SETTINGS, "t", take)
    await follower.start()
    await follower.caught_up()
    await reached.wait()
    assert taken == [0, 1, 2, 3]
    assert FakeReader.assigned == [{0: BEGINNING}, {0: 2}]
    assert follower.reason is None
    await follower.stop()
    assert FakeReader.closed == 2


async def test_a_lost_offset_reads_from_the_beginning_again(script: list[list[Any]]) -> None:
    script += [[[5], OffsetLost("gone")], [[9]]]
    taken: list[int] = []
    reached = asyncio.Event()

    async def take(record: Record) -> None:
        taken.append(record.offset)
        if record.offset == 9:
            reached.set()

    follower = TopicFollower(SETTINGS, "t", take)
    await follower.start()
    await reached.wait()
    assert FakeReader.assigned == [{0: BEGINNING}, {0: BEGINNING}]
    await follower.stop()


async def test_a_bug_while_taking_ends_the_follower_and_is_told(script: list[list[Any]]) -> None:
    script += [[[0]]]

    async def take(_record: Record) -> None:
        raise KeyError("a bug")

    follower = TopicFollower(SETTINGS, "t", take)
    await follower.start()
    with pytest.raises(KeyError):
        await follower.caught_up()
    with pytest.raises(KeyError):
        await follower.failure()
    await follower.stop()


def test_the_newest_count_of_a_connection_counts_whichever_stream_told_it() -> None:
    known = KnownObjects(SETTINGS, Codec.offline())
    assert known.count("shop", "customer") is None
    now = CLOCK.now()
    later = now + timedelta(seconds=1)
    known.apply(CursorRecord(connection="shop", stream="orders", known={"customer": 7, "sales_order": 3}, known_at=later))
    known.apply(CursorRecord(connection="shop", stream="customers", known={"customer": 6}, known_at=now))
    known.apply(CursorRecord(connection="till", stream="all", known={"customer": 1}, known_at=later))
    known.apply(CursorRecord(connection="shop", stream="products"))
    assert (known.count("shop", "customer"), known.count("shop", "product"), known.count("till", "customer")) == (7, 0, 1)


async def test_a_refresh_ends_when_all_that_stood_there_is_taken(script: list[list[Any]]) -> None:
    gate = asyncio.Event()
    script += [[[0, 1], gate.wait, [2], [3]]]
    taken: list[int] = []

    async def take(record: Record) -> None:
        taken.append(record.offset)

    follower = TopicFollower(SETTINGS, "t", take)
    with pytest.raises(Unavailable):
        await follower.refresh()
    await follower.start()
    await follower.caught_up()
    await follower.refresh()
    assert taken == [0, 1]
    FakeReader.end = 4
    waiting = asyncio.ensure_future(follower.refresh())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    await waiting
    assert taken == [0, 1, 2, 3]
    await follower.stop()


async def test_a_refresh_during_an_outage_is_told_so(script: list[list[Any]]) -> None:
    gate = asyncio.Event()
    script += [[[0, 1], gate.wait, Unavailable("away")], [[2]]]

    async def take(_record: Record) -> None:
        """Nothing is kept."""

    follower = TopicFollower(SETTINGS, "t", take)
    await follower.start()
    await follower.caught_up()
    FakeReader.end = 3
    waiting = asyncio.ensure_future(follower.refresh())
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(Unavailable):
        await waiting
    await follower.stop()
