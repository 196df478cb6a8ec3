"""The .avsc files by name: `canon/customer`, `system/state`, `pii/party_pii`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDERS = ("pii", "canon", "system")
"""Sealed records first, because other records speak of them."""


def names() -> tuple[str, ...]:
    """All schema files, without their ending."""
    return tuple(f"{folder}/{path.stem}" for folder in FOLDERS for path in sorted((HERE / folder).glob("*.avsc")))


@cache
def text(name: str) -> str:
    """A schema as it is registered: compact JSON, members in the order of the file. Raises FileNotFoundError."""
    return json.dumps(json.loads((HERE / f"{name}.avsc").read_text()), separators=(",", ":"), ensure_ascii=False)


def load(name: str) -> dict[str, Any]:
    """A schema as a fresh dict, safe to change."""
    loaded: dict[str, Any] = json.loads(text(name))
    return loaded
