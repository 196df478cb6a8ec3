"""Structs ↔ bytes on topics: Avro in the Confluent frame (one zero byte, four bytes of schema id, the record).

Encoding and decoding are compiled from this release's schema. Bytes of another release's writer go through fastavro, from the
schema they were written with to this release's, so that a newer writer's enum symbol reads as UNKNOWN and its new fields are left
out.
"""

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, TypeAlias, TypeVar

import fastavro
import msgspec
from fastavro.types import Schema

from bus.core import topics
from bus.core.errors import MappingError, TransientError
from bus.runtime.registry import RegistryClient, subjects
from schemas import files
from schemas.decoder import compile_decoder
from schemas.encoder import Put, Refused, compile_encoder, model_of

T = TypeVar("T", bound=msgspec.Struct)
Build: TypeAlias = Callable[[Any], Any]

_DAMAGED = (ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, fastavro.read.SchemaResolutionError)
FRAME = struct.Struct(">bI")


class SchemaUnknown(TransientError):
    """The writer's schema is not loaded yet: `await codec.learn(schema_id)`, then decode again."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"schema id {schema_id} is not loaded yet")
        self.schema_id = schema_id


class Codec:
    """Encodes and decodes the values of all topics of the bus."""

    def __init__(self, registry: RegistryClient | None) -> None:
        self._registry = registry
        self._ids: dict[str, int] = {}
        self._puts: dict[str, tuple[bytes, Put]] = {}
        self._readers: dict[str, tuple[Schema, Build]] = {}
        self._gets: dict[str, Callable[[bytes, int], Any]] = {}
        self._writers: dict[int, Schema] = {}
        self._own: dict[int, str] = {}

    @classmethod
    def offline(cls) -> "Codec":
        """Without a registry, for tests: ids are 1, 2, 3 … over the sorted subjects, this release's schemas only."""
        codec = cls(None)
        codec.use({subject: number for number, subject in enumerate(sorted(subjects()), 1)})
        return codec

    async def open(self) -> None:
        """Looks up the ids of this release's schemas.

        Raises TransientError while the registry is away: wait and call it again. Raises SettingsError when a schema is not
        registered.
        """
        if self._registry is not None:
            self.use(await self._registry.ids())

    def use(self, ids: Mapping[str, int]) -> None:
        """Takes the ids of this release's schemas, by subject."""
        self._ids = dict(ids)
        self._own = {number: subjects()[subject] for subject, number in ids.items()}
        self._puts.clear()

    async def learn(self, schema_id: int) -> None:
        """Loads the schema of a writer of another release. Raises TransientError while the registry is away."""
        if schema_id in self._writers or schema_id in self._own:
            return
        if self._registry is None:
            raise MappingError(f"schema id {schema_id} is unknown", hint="an offline codec reads its own release only")
        self._writers[schema_id] = fastavro.parse_schema(await self._registry.schema(schema_id), _write_hint=False)

    # --- encoding ----------------------------------------------------------------------------------------------------------

    def encode(self, topic: str, value: msgspec.Struct) -> bytes:
        """The framed bytes of a value. Raises MappingError naming the field that does not fit."""
        found = self._puts.get(topic)
        if found is None:
            found = self._puts[topic] = self._prepare(topic)
        frame, put = found
        out = bytearray(frame)
        try:
            put(value, out)
        except Refused as error:
            raise MappingError(f"{topic}: {error}", hint="a connector or flow gave a value its schema cannot hold") from error
        return bytes(out)

    def _prepare(self, topic: str) -> tuple[bytes, Put]:
        return self.frame(topic), compile_encoder(files.load(topics.schema_of(topic)))

    # --- decoding ----------------------------------------------------------------------------------------------------------

    def decode(self, topic: str, data: bytes) -> Any:
        """The Struct of framed bytes.

        Raises SchemaUnknown when the writer's schema must be learnt first (see `read`), MappingError when the bytes are not a
        record of this topic.
        """
        if len(data) < FRAME.size or data[0] != 0:
            raise MappingError(f"{topic}: not a framed record", hint="something else writes to this topic")
        schema_id = FRAME.unpack_from(data)[1]
        name = topics.schema_of(topic)
        try:
            if self._own.get(schema_id) == name:
                return self._decoder(name)(data, FRAME.size)
            return self._resolve(name, schema_id, data)
        except _DAMAGED as error:
            raise MappingError(
                f"{topic}: the bytes do not read as schema id {schema_id} ({type(error).__name__})",
                hint="a damaged record, or one of another topic",
            ) from error

    def _resolve(self, name: str, schema_id: int, data: bytes) -> Any:
        reader, build = self._reader(name)
        if schema_id in self._writers:
            writer = self._writers[schema_id]
        elif schema_id in self._own:
            writer = self._reader(self._own[schema_id])[0]
        else:
            raise SchemaUnknown(schema_id)
        return build(fastavro.schemaless_reader(BytesIO(data[FRAME.size :]), writer, reader))

    def _decoder(self, name: str) -> Callable[[bytes, int], Any]:
        found = self._gets.get(name)
        if found is None:
            found = self._gets[name] = compile_decoder(files.load(name))
        return found

    def frame(self, topic: str) -> bytes:
        """The bytes with which a topic's values of this release begin. Raises SchemaUnknown before `open`."""
        if not self._ids:
            raise SchemaUnknown(0)
        return FRAME.pack(0, self._ids[topics.subject(topic)])

    async def read(self, topic: str, data: bytes) -> Any:
        """`decode`, loading the writer's schema where needed. Raises TransientError while the registry is away."""
        try:
            return self.decode(topic, data)
        except SchemaUnknown as error:
            await self.learn(error.schema_id)
            return self.decode(topic, data)

    def _reader(self, name: str) -> tuple[Schema, Build]:
        found = self._readers.get(name)
        if found is None:
            schema = files.load(name)
            found = self._readers[name] = (fastavro.parse_schema(schema, _write_hint=False), compile_builder(schema))
        return found


def compile_builder(schema: Any) -> Build:
    """From what fastavro reads (dicts, lists, strings) to the generated Structs and enums."""
    build = _builder(schema, {})
    return build if build is not None else lambda value: value


def _builder(schema: Any, known: dict[str, Build | None]) -> Build | None:
    """The builder of a type; None where fastavro's value is already right."""
    if isinstance(schema, list):
        branch = _builder(schema[1], known)
        return None if branch is None else lambda value: None if value is None else branch(value)
    if isinstance(schema, str):
        return known.get(schema)
    match schema["type"]:
        case "array":
            item = _builder(schema["items"], known)
            return None if item is None else lambda value: [item(part) for part in value]
        case "map":
            entry = _builder(schema["values"], known)
            return None if entry is None else lambda value: {name: entry(part) for name, part in value.items()}
        case "enum":
            model = model_of(f"{schema['namespace']}.{schema['name']}")
            known[f"{schema['namespace']}.{schema['name']}"] = model
            return model
        case "record":
            return _record_builder(schema, known)
    return None


def _record_builder(schema: dict[str, Any], known: dict[str, Build | None]) -> Build:
    full = f"{schema['namespace']}.{schema['name']}"
    model = model_of(full)
    pairs = [(field["name"], _builder(field["type"], known)) for field in schema["fields"]]
    parts = tuple((name, inner) for name, inner in pairs if inner is not None)

    def build(value: dict[str, Any]) -> Any:
        for name, inner in parts:
            value[name] = inner(value[name])
        return model(**value)

    known[full] = build
    return build
