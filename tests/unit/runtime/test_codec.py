import copy
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import fastavro
import httpx
import msgspec
import pytest

from bus.core import topics
from bus.core.errors import MappingError, NetworkFailure, SettingsError
from bus.runtime.codec import FRAME, Codec, SchemaUnknown
from bus.runtime.registry import RegistryClient, subjects
from schemas import canon, files, history, system

CUSTOMER = "bus.canon.customer"


def sample(topic: str) -> Any:
    return history.sample(files.load(topics.schema_of(topic)))


TOPICS = [*map(topics.canonical, topics.ENTITIES), *topics.SUBJECTS, "bus.outbound.exact-nl"]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_reads_back_what_was_written(topic: str) -> None:
    codec = Codec.offline()
    value = sample(topic)
    data = codec.encode(topic, value)
    assert data[0] == 0
    assert codec.decode(topic, data) == value


def test_every_file_but_sealed_ones_has_a_subject_and_every_topic_one_of_them() -> None:
    assert sorted(subjects().values()) == sorted(name for name in files.names() if not name.startswith("pii/"))
    assert {topics.subject(topic) for topic in TOPICS} == set(subjects())


def test_all_outbound_topics_share_one_subject() -> None:
    codec = Codec.offline()
    command = sample("bus.outbound.a")
    assert codec.encode("bus.outbound.a", command) == codec.encode("bus.outbound.b", command)


def test_a_value_that_does_not_fit_is_a_mapping_error_with_its_path() -> None:
    codec = Codec.offline()
    event = sample(CUSTOMER)
    plain = msgspec.structs.replace(event, after=msgspec.structs.replace(event.after, pii=canon.PartyPii(full_name="Jan")))
    with pytest.raises(MappingError, match=r"bus\.canon\.customer: after\.pii: needs a Sealed") as caught:
        codec.encode(CUSTOMER, plain)
    assert "Jan" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\1" + bytes(20)])
def test_bytes_without_the_frame_are_refused(data: bytes) -> None:
    with pytest.raises(MappingError, match="not a framed record"):
        Codec.offline().decode(CUSTOMER, data)


def test_a_cut_record_and_one_of_another_topic_are_refused() -> None:
    codec = Codec.offline()
    data = codec.encode(CUSTOMER, sample(CUSTOMER))
    with pytest.raises(MappingError, match="do not read"):
        codec.decode(CUSTOMER, data[:40])
    with pytest.raises(MappingError, match="do not read"):
        codec.decode("bus.state", data)


def test_nothing_is_encoded_before_the_ids_are_known() -> None:
    with pytest.raises(SchemaUnknown):
        Codec(None).encode("bus.state", sample("bus.state"))


# --- a registry in memory ----------------------------------------------------------------------------------------------------


class FakeRegistry:
    """Enough of the API to look up, register and fetch; `down` makes it fail."""

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.versions: dict[str, list[int]] = {}
        self.compatibility: dict[str, str] = {}
        self.down: Callable[[httpx.Request], httpx.Response] | None = None
        self.calls: list[str] = []

    def add(self, subject: str, text: str) -> int:
        for number, known in self.schemas.items():
            if json.loads(known) == json.loads(text) and number in self.versions.get(subject, []):
                return number
        number = len(self.schemas) + 100
        self.schemas[number] = text
        self.versions.setdefault(subject, []).append(number)
        return number

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.path}")
        if self.down is not None:
            return self.down(request)
        body = json.loads(request.content) if request.content else {}
        parts = request.url.path.removeprefix("/base").strip("/").split("/")
        match [request.method, *parts]:
            case ["GET", "subjects"]:
                return httpx.Response(200, json=sorted(self.versions))
            case ["POST", "subjects", subject]:
                found = [n for n in self.versions.get(subject, []) if json.loads(self.schemas[n]) == json.loads(body["schema"])]
                return httpx.Response(200, json={"id": found[0]}) if found else httpx.Response(404, json={"error_code": 40403})
            case ["POST", "subjects", subject, "versions"]:
                return httpx.Response(200, json={"id": self.add(subject, body["schema"])})
            case ["GET", "subjects", subject, "versions"]:
                known = self.versions.get(subject)
                return httpx.Response(200, json=list(range(1, len(known) + 1))) if known else httpx.Response(404)
            case ["GET", "subjects", subject, "versions", number]:
                return httpx.Response(200, json={"schema": self.schemas[self.versions[subject][int(number) - 1]]})
            case ["PUT", "config", subject]:
                self.compatibility[subject] = body["compatibility"]
                return httpx.Response(200, json=body)
            case ["GET", "config", subject]:
                level = self.compatibility.get(subject)
                return httpx.Response(200, json={"compatibilityLevel": level}) if level else httpx.Response(404)
            case ["GET", "schemas", "ids", number]:
                text = self.schemas.get(int(number))
                return httpx.Response(200, json={"schema": text}) if text else httpx.Response(404)
        return httpx.Response(404)


@pytest.fixture
async def registry() -> Any:
    fake = FakeRegistry()
    async with RegistryClient("http://registry/base", transport=httpx.MockTransport(fake)) as client:
        yield fake, client


async def test_registering_twice_gives_the_same_ids_and_sets_compatibility(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    fake, client = registry
    ids = await client.register_all()
    assert set(ids) == set(subjects())
    assert set(fake.compatibility.values()) == {"FULL_TRANSITIVE"}
    assert set(fake.compatibility) == set(subjects())
    assert await client.register_all() == ids
    assert await client.ids() == ids
    assert await client.compatibility("bus.state-value") == "FULL_TRANSITIVE"
    assert await client.compatibility("other") is None


async def test_a_schema_that_is_not_registered_says_what_to_run(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    _, client = registry
    with pytest.raises(SettingsError, match="run: bus schemas register"):
        await Codec(client).open()


async def test_what_the_linter_refuses_is_not_registered(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    fake, client = registry
    old = files.load("system/result")
    total = next(field for field in old["fields"] if field["name"] == "source_total")
    total["type"][1]["scale"] = 2
    fake.add("bus.results-value", json.dumps(old))
    with pytest.raises(SettingsError, match=r"source_total: type changed .* \(against registered version 1\)"):
        await client.register_all()
    assert list(fake.versions) == ["bus.results-value"]
    assert fake.compatibility == {}


def newer(name: str) -> dict[str, Any]:
    """A schema as a later release might have it: one more symbol, one more field."""
    schema = copy.deepcopy(files.load(name))
    kind = next(field for field in schema["fields"] if field["name"] == "kind")
    kind["type"]["symbols"].append("REWIND")
    schema["fields"].append({"name": "later", "type": ["null", "string"], "default": None, "doc": "new"})
    return schema


async def test_a_newer_writers_symbol_reads_as_unknown(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    fake, client = registry
    await client.register_all()
    codec = Codec(client)
    await codec.open()
    schema = newer("system/request")
    schema_id = fake.add("bus.requests-value", json.dumps(schema))
    request = {"kind": "REWIND", "id": "1", "connection": "a", "args": {}, "sealed": None, "later": "x"}
    out = BytesIO()
    made_at = sample("bus.requests").made_at
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {**request, "made_at": made_at})
    data = FRAME.pack(0, schema_id) + out.getvalue()
    with pytest.raises(SchemaUnknown):
        codec.decode("bus.requests", data)
    found = await codec.read("bus.requests", data)
    assert found == system.RequestRecord(kind=system.RequestKind.UNKNOWN, id="1", connection="a", made_at=made_at)
    before = len(fake.calls)
    assert codec.decode("bus.requests", data) == found
    assert len(fake.calls) == before


async def test_an_unknown_writer_is_a_clear_message(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    _, client = registry
    await client.register_all()
    codec = Codec(client)
    await codec.open()
    with pytest.raises(SettingsError, match="does not know schema id 9999"):
        await codec.read("bus.state", FRAME.pack(0, 9999) + b"x")
    with pytest.raises(MappingError, match="unknown"):
        await Codec.offline().read("bus.state", FRAME.pack(0, 9999) + b"x")


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (lambda _: httpx.Response(503, text="busy"), "Unavailable"),
        (lambda _: httpx.Response(401, text="who?"), "SettingsError"),
        (lambda _: httpx.Response(409, text="incompatible"), "SettingsError"),
    ],
)
async def test_answers_of_a_registry_have_their_class(
    registry: tuple[FakeRegistry, RegistryClient], answer: Any, wanted: str
) -> None:
    fake, client = registry
    fake.down = answer
    with pytest.raises(Exception, match="registry GET /subjects") as caught:
        await client.health()
    assert type(caught.value).__name__ == wanted


async def test_a_registry_that_is_away_is_waited_for(registry: tuple[FakeRegistry, RegistryClient]) -> None:
    fake, client = registry

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    fake.down = refuse
    codec = Codec(client)
    with pytest.raises(NetworkFailure, match="BUS_REGISTRY_URL"):
        await codec.open()
    fake.down = None
    await client.register_all()
    await codec.open()
    assert codec.encode("bus.state", sample("bus.state"))


async def test_a_user_is_told_to_the_registry() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=[])

    async with RegistryClient("http://r", user="bus", password="word", transport=httpx.MockTransport(answer)) as client:
        await client.health()
    assert seen == ["Basic YnVzOndvcmQ="]


def test_no_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="BUS_REGISTRY_URL"):
        RegistryClient("")
