"""How twins are made: a connector, client or manifest that is as it was but for one property.

A twin is a function that breaks an opened account. It is registered for the checks that must notice.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from bus.core.errors import BusError
from bus.kit.manifest import Manifest
from tests.contract.account import ContractAccount

Twin: TypeAlias = Callable[[ContractAccount], None]
TWINS: dict[str, list[Twin]] = defaultdict(list)
"""Check → its broken twins."""


def breaks(*checks: str) -> Callable[[Twin], Twin]:
    """Registers a twin for the checks that must fail on it."""

    def register(twin: Twin) -> Twin:
        for check in checks:
            TWINS[check].append(twin)
        return twin

    return register


class Wrapped:
    """An object that behaves as another, but for what is replaced."""

    def __init__(self, inner: Any, replaced: dict[str, Any]) -> None:
        self._inner = inner
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def replace(account: ContractAccount, **methods: Any) -> None:
    """The account's connector with other methods."""
    account.connector = Wrapped(account.connector, methods)


def redeclare(account: ContractAccount, change: Callable[[dict[str, Any]], object]) -> None:
    """The account's manifest with other facts; the connector stays what it is."""
    facts = account.manifest.model_dump()
    change(facts)
    account.manifest = Manifest.model_validate(facts)


def retold(error: BusError, kind: type[BusError], **more: Any) -> BusError:
    """An error under another class, with the same words."""
    return kind(str(error), **more)
