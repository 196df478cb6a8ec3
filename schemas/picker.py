"""Picks a few fields out of Avro bytes and steps over all others: what an index needs of a record, at a tenth of decoding it.

The code is written out as Python source, a line or two per field, as in `schemas.encoder`. Like `schemas.decoder` it reads bytes
of the schema it was made of; those of another release's writer are for the codec. Nothing behind the last wanted field is read.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from schemas.decoder import Damaged, get_integer

Pick: TypeAlias = Callable[[bytes, int], list[Any]]
"""The wanted values in their order, from a place in the bytes on; None for what is absent. Texts stay UTF-8 bytes."""

_VARINTS = frozenset({"int", "long", "enum"})


def step_over_piece(data: bytes, at: int) -> int:
    """The place behind a string or bytes."""
    length, at = get_integer(data, at)
    if length < 0 or at + length > len(data):
        raise Damaged("a length beyond the end")
    return at + length


def step_over_integer(data: bytes, at: int) -> int:
    """The place behind a zig-zag varint."""
    while data[at] > 127:
        at += 1
    return at + 1


def _blocks(step: Callable[[bytes, int], int]) -> Callable[[bytes, int], int]:
    """Over the blocks of an array or map; a block that tells its size is jumped over."""

    def step_over(data: bytes, at: int) -> int:
        while first := data[at]:
            if first & _NEGATIVE and first < 128:  # as below, without the calls: maps are written so
                at = step_over_piece(data, at + 1)
                continue
            count, at = get_integer(data, at)
            if count < 0:
                at = step_over_piece(data, at)
                continue
            if count > len(data):
                raise Damaged("more items than bytes")
            for _ in range(count):
                at = step(data, at)
        return at + 1

    return step_over


_NEGATIVE = 1
"""Of the first byte of a count."""
_NOT_SMALL = 0b1000_0001
"""Of the first byte of a count: it has another byte, or is negative and followed by a size."""


def _get_pieces(data: bytes, at: int) -> tuple[list[bytes], int]:
    """A list of texts, as bytes. One cut off at the end is no list: its terminator is missing, and that is looked for."""
    found = []
    while count := data[at]:
        if count & _NOT_SMALL:
            number, at = get_integer(data, at)
            if number < 0:
                number = -number
                _, at = get_integer(data, at)
        else:
            number, at = count >> 1, at + 1
        for _ in range(number):
            length = data[at]
            if length < 128:
                end = at + 1 + (length >> 1)
                found.append(data[at + 1 : end])
            else:
                end = step_over_piece(data, at)
                found.append(data[get_integer(data, at)[1] : end])
            at = end
    return found, at + 1


class _Writer:
    """The source of one picker."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = {path: index for index, path in enumerate(wanted)}
        self.left = set(wanted)
        self._named: dict[str, Any] = {}
        self.lines = ["def pick(data, at):", f"    found = [None] * {len(wanted)}"]
        self.scope: dict[str, Any] = {
            "over_piece": step_over_piece,
            "over_integer": step_over_integer,
            "get_integer": get_integer,
            "get_pieces": _get_pieces,
        }

    def add(self, indent: int, line: str) -> None:
        self.lines.append("    " * indent + line)

    def write(self, schema: Any, path: str, indent: int) -> None:
        """Steps over one value, picking what is wanted of it."""
        if isinstance(schema, str):
            schema = self._named.get(schema, {"type": schema})
        if isinstance(schema, list):
            self._union(schema, path, indent)
            return
        if "name" in schema:
            self._named[f"{schema['namespace']}.{schema['name']}"] = schema
        if path in self.left:
            self._pick(schema, path, indent)
            return
        match schema["type"]:
            case "record":
                self._record(schema, path, indent)
            case "boolean":
                self.add(indent, "at += 1")
            case "string" | "bytes":
                self.add(indent, "n = data[at]")
                self.add(indent, "at = at + 1 + (n >> 1) if n < 128 else over_piece(data, at)")
            case "array" | "map":
                name = f"over_{len(self.scope)}"
                self.scope[name] = self._items(schema)
                self.add(indent, f"at = {name}(data, at)")
            case _:
                self.add(indent, "at = over_integer(data, at)")

    def _union(self, schema: list[Any], path: str, indent: int) -> None:
        if schema[0] != "null" or len(schema) != 2:
            raise ValueError(f"{path}: a union must be of null and one type")
        self.add(indent, "if data[at]:")
        self.add(indent + 1, "at += 1")
        self.write(schema[1], path, indent + 1)
        self.add(indent, "else: at += 1")

    def _record(self, schema: dict[str, Any], path: str, indent: int) -> None:
        for field in schema["fields"]:
            self.write(field["type"], f"{path}.{field['name']}" if path else field["name"], indent)
            if not self.left and self._wanted:
                return

    def _pick(self, schema: dict[str, Any], path: str, indent: int) -> None:
        self.left.discard(path)
        target = f"found[{self._wanted[path]}]"
        match schema["type"]:
            case "string":
                self.add(indent, "end = over_piece(data, at)")
                self.add(indent, f"{target} = data[at + 1 if data[at] < 128 else get_integer(data, at)[1]:end]")
                self.add(indent, "at = end")
            case "boolean":
                self.add(indent, f"{target} = data[at] == 1")
                self.add(indent, "at += 1")
            case "array" if schema["items"] == "string":
                self.add(indent, f"{target}, at = get_pieces(data, at)")
            case kind if kind in _VARINTS:
                self.add(indent, f"{target}, at = get_integer(data, at)")
                if kind == "enum":
                    self.scope[f"symbols_{self._wanted[path]}"] = schema["symbols"]
                    self.add(indent, f"{target} = symbols_{self._wanted[path]}[{target}]")
            case kind:
                raise ValueError(f"{path}: a {kind} cannot be picked")

    def _items(self, schema: dict[str, Any]) -> Callable[[bytes, int], int]:
        """Over the items of an array, or the names and values of a map."""
        inner = _Writer([])
        inner._named = self._named
        if schema["type"] == "map":
            inner.write("string", "", 1)
        inner.write(schema["items" if schema["type"] == "array" else "values"], "-", 1)
        inner.add(1, "return at")
        step: Callable[[bytes, int], int] = inner.made()
        return _blocks(step)

    def made(self) -> Any:
        exec("\n".join(self.lines), self.scope)  # noqa: S102 - names come from our own schemas, which are linted to be identifiers
        return self.scope["pick"]


def compile_picker(schema: dict[str, Any], wanted: Sequence[str]) -> Pick:
    """A function that gives the values of `wanted`: dotted paths of texts, whole numbers, flags, symbols and lists of texts.

    It raises Damaged or IndexError for bytes that are no record of the schema, as far as they are looked at.
    Raises ValueError for a path that is not there or of another type.
    """
    writer = _Writer(wanted)
    writer.write(schema, "", 1)
    if writer.left:
        raise ValueError(f"not in the schema: {sorted(writer.left)}")
    writer.add(1, "return found")
    pick: Pick = writer.made()
    return pick
