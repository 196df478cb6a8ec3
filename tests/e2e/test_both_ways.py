"""Customers both ways at once: an edit crosses once, and what the bus wrote is news nowhere."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from schemas.system import LinkState
from tests.e2e.world import NEVER_S, World, written

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

FLOWS = ("customers-exact-to-qbo", "customers-qbo-to-exact")
SEED = 11
ROUNDS = 10
SINGLE = 8
"""Edits per side and round of an object that only this side edits; with BOTH they are 100 edits per side."""
BOTH = 2
"""Edits per side and round of an object that the other side edits too, between the same two polls."""
NAME_MAX = 50
"""Characters of a name that Exact keeps."""


@dataclass(frozen=True)
class Pair:
    """One customer on both sides."""

    qbo: str
    exact: str
    is_company: bool


@dataclass(frozen=True)
class Edit:
    """Members as the vendor's user sets them, and whether the other side is to learn of it."""

    fields: dict[str, Any]
    crosses: bool


def at_quickbooks(chance: random.Random, pair: Pair, number: int) -> Edit:
    """Exact owns e-mail addresses and has no place for notes; names longer than it keeps are cut there."""
    edits = [
        Edit({"PrimaryPhone": {"FreeFormNumber": f"+3110{number:07}"}}, crosses=True),
        Edit(
            {"BillAddr": {"Line1": f"Kade {number}", "PostalCode": "3011 AA", "City": "Rotterdam", "Country": "NL"}}, crosses=True
        ),
        Edit({"PrimaryEmailAddr": {"Address": f"anders{number}@klant.test"}}, crosses=False),
        Edit({"Notes": f"belt liever in de ochtend {number}"}, crosses=False),
    ]
    if pair.is_company:
        edits.append(
            Edit({"CompanyName": f"{number} Handelsonderneming met een heel erg lange naam in Rotterdam B.V."}, crosses=True)
        )
    return chance.choice(edits)


def at_exact(chance: random.Random, pair: Pair, number: int) -> Edit:
    """QuickBooks has no place for a language; what is sent of a VAT number cannot be read back."""
    edits = [
        Edit({"Email": f"nieuw{number}@klant.test"}, crosses=True),
        Edit({"Remarks": f"betaalt altijd op tijd {number}"}, crosses=True),
        Edit({"Language": chance.choice(["EN", "DE", "FR"])}, crosses=False),
    ]
    return chance.choice(edits)


async def test_a_hundred_edits_on_each_side_cross_once_each_and_never_echo(world: World) -> None:
    await world.open(FLOWS, poll_s=NEVER_S)
    world.launch()
    await world.quiet()
    chance = random.Random(SEED)
    pairs = await linked(world)
    assert len(pairs) >= 2 * SINGLE + BOTH
    assert await written(world.exact) == {}, "linking what exists writes nothing"
    assert await written(world.qbo) == {}
    expected: Counter[str] = Counter()
    numbers = iter(range(1, 10_000))
    for _ in range(ROUNDS):
        expected += await one_round(world, chance, pairs, numbers)
        await world.poll()
        await world.quiet()
        assert await writes(world) == expected
    await world.poll()
    await world.quiet()
    assert await writes(world) == expected, "an echo was written"


async def one_round(world: World, chance: random.Random, pairs: list[Pair], numbers: Iterator[int]) -> Counter[str]:
    """Edits as they happen between two polls; how many writes each side must see of them."""
    chosen = chance.sample(pairs, 2 * SINGLE + BOTH)
    left, right = chosen[: SINGLE + BOTH], chosen[SINGLE:]
    expected: Counter[str] = Counter()
    for pair in left:
        edit = at_quickbooks(chance, pair, next(numbers))
        await world.qbo.tell("edit", {"entity": "customer", "id": pair.qbo, "fields": edit.fields})
        expected["exact"] += edit.crosses
    for pair in right:
        edit = at_exact(chance, pair, next(numbers))
        await world.exact.tell("edit", {"entity": "customer", "id": pair.exact, "fields": edit.fields})
        expected["qbo"] += edit.crosses
    return expected


async def writes(world: World) -> Counter[str]:
    """Successful writes per side, whatever they are called."""
    return Counter(exact=sum((await written(world.exact)).values()), qbo=sum((await written(world.qbo)).values()))


async def linked(world: World) -> list[Pair]:
    """Customers that are one on both sides."""
    links = [s.link for s in await world.state() if s.link is not None and s.connection == world.exact_name]
    companies = {c["id"] for c in (await world.exact.ask("books"))["customers"] if c["kind"] == "COMPANY"}
    met = Counter(link.external_id for link in links)
    return sorted(
        (
            Pair(link.source.id, link.external_id, link.external_id in companies)
            for link in links
            if link.state is LinkState.ACTIVE and met[link.external_id] == 1
        ),
        key=lambda pair: pair.qbo,
    )
