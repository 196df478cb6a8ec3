"""What checks share: how they say that something is wrong, and that there was nothing to look at."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from bus.core.errors import BusError
from tests.contract.account import ContractAccount

Check: TypeAlias = Callable[[ContractAccount], Awaitable[None]]


class NothingToCheck(AssertionError):
    """The manifest declares nothing of the kind: the check proves nothing here and says so; see WAIVERS."""


def something(found: object, what: str) -> None:
    """A check that met nothing it could judge has not passed."""
    if not found:
        raise NothingToCheck(what)


@contextmanager
def ends_in(*kinds: type[BusError], what: str) -> Iterator[list[BusError]]:
    """The block raises one of these classes. Errors that are no BusError are bugs and pass through."""
    met: list[BusError] = []
    try:
        yield met
    except kinds as error:
        met.append(error)
        return
    except BusError as error:
        raise AssertionError(f"{what} ended in {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} was not noticed")
