"""A pair with one article on both sides and one buyer in QuickBooks."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.pair.rig import Pair

EMAIL = "inkoop@vandijk.test"
BUYER = "Van Dijk Verlichting B.V."


def furnish(pair: Pair) -> Pair:
    """The article LAMP-1, known on both sides."""
    pair.exact_item("LAMP-1", "Lamp")
    pair.qbo_item("LAMP-1", "Lamp")
    return pair


@pytest.fixture
def make() -> Callable[..., Pair]:
    """A pair of a changed example: `make(text, qbo={…}, exact={…})`."""

    def made(text: str | None = None, **options: Any) -> Pair:
        return furnish(Pair(text, **options))

    return made


@pytest.fixture
def pair(make: Callable[..., Pair]) -> Pair:
    return make()


@pytest.fixture
def buyer(pair: Pair) -> dict[str, str]:
    """A company in QuickBooks, as a reference."""
    return pair.qbo_customer(BUYER, email=EMAIL)
