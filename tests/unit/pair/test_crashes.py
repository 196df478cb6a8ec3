"""The sink dies before and after each commit of a composite write on the real connectors, and nothing is made twice."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from schemas.system import Standing
from tests.fakes import Deaths, Killed
from tests.unit.pair.conftest import furnish
from tests.unit.pair.rig import Pair

EMAIL = "inkoop@vandijk.test"
THERE = {"Line1": "Havenweg 8", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"}
Story = Callable[[Pair], Awaitable[None]]


async def debtor_with_contact_and_address(pair: Pair) -> None:
    await pair.run()
    pair.qbo_customer("Jan de Boer", email=EMAIL, company=False, ShipAddr=THERE)


async def article_with_price(pair: Pair) -> None:
    await pair.run()
    pair.qbo_item("NEW-1", "New lamp", UnitPrice=12)


async def item_with_picture(pair: Pair) -> None:
    await pair.run()
    pair.exact_picture(pair.exact_item("PIC-1", "Pictured"), b"\x89PNG\r\n\x1a\n")


async def order_with_debtor_and_place(pair: Pair) -> None:
    await pair.run()
    ref = pair.qbo_customer("Jan de Boer", email=EMAIL, company=False)
    pair.pay(pair.sell(CustomerRef=ref, ShipAddr=THERE))


async def invoice_with_customer(pair: Pair) -> None:
    await pair.run()
    account = pair.exact_account("Van Dijk B.V.", Email=EMAIL, Classification1=pair.classification("COMPANY"))
    lamp = pair.exact.simulator.division.first("logistics/Items", "Code", "LAMP-1").id
    order = pair.exact_order(account, {"Item": lamp, "Quantity": 1, "NetPrice": 100, "VATCode": "2"}, PaymentCondition="30")
    pair.exact_edit("sales_order", order, DeliveryStatus=21)


STORIES = {
    story.__name__: story
    for story in (
        debtor_with_contact_and_address,
        article_with_price,
        item_with_picture,
        order_with_debtor_and_place,
        invoice_with_customer,
    )
}


def counted(pair: Pair) -> dict[str, int]:
    """What there must be one of."""
    division, company = pair.exact.simulator.division, pair.qbo.simulator.company
    exact = {path: len(division.table(path).rows) for path in division.tables}
    qbo = {f"qbo {name}": len(rows) for name, rows in company.tables.items()}
    return {**exact, **qbo}


async def lived(story: Story, at: int | None) -> tuple[Pair, int]:
    """One life of the story, dying at a point after it began; the pair, and the number of points."""
    pair = furnish(Pair())
    await story(pair)
    begun = pair.deaths.passed
    if at is not None:
        pair.deaths.at = begun + at
    await pair.survive()
    assert at is None or pair.deaths.at is None, "the death was never met"
    return pair, pair.deaths.passed - begun


@pytest.mark.parametrize("name", STORIES)
def test_a_death_between_any_two_steps_makes_nothing_twice(name: str) -> None:
    expected, points = asyncio.run(lived(STORIES[name], None))
    assert points > 8
    whole = counted(expected)
    for point in range(1, points + 1):
        pair, _ = asyncio.run(lived(STORIES[name], point))
        where = f"{name}: point {point} of {points}"
        assert counted(pair) == whole, where
        for side in (pair.exact, pair.qbo):
            state = pair.state(side)
            assert not list(state.open_intents()), where
            assert not [item for item in state.standings() if item.standing in (Standing.DEAD, Standing.WAITING)], where


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("debtor_with_contact_and_address", "crm/Accounts"),
        ("debtor_with_contact_and_address", "crm/Contacts"),
        ("debtor_with_contact_and_address", "crm/Addresses"),
        ("article_with_price", "logistics/Items"),
        ("article_with_price", "logistics/SalesItemPrices"),
        ("order_with_debtor_and_place", "crm/Addresses"),
        ("order_with_debtor_and_place", "salesorder/SalesOrders"),
    ],
)
async def test_a_death_between_the_vendors_work_and_its_answer_makes_nothing_twice(name: str, path: str) -> None:
    """The call is made, the process dies, the next owner finds what was made by its mark, code, content or reference."""
    expected, _ = await lived(STORIES[name], None)
    pair = furnish(Pair())
    await STORIES[name](pair)
    _die_after(pair, path)
    await pair.survive()
    assert counted(pair) == counted(expected)
    assert not list(pair.state(pair.exact).open_intents())


def _die_after(pair: Pair, path: str) -> None:
    """The first POST to a set is its process's last act."""
    call = pair.exact.client.call
    met = []

    async def deadly(method: str, url: str, **more: Any) -> Any:
        answer = await call(method, url, **more)
        if method == "POST" and url.endswith(path) and not met:
            met.append(url)
            raise Killed(url)
        return answer

    pair.exact.client.call = deadly  # type: ignore[method-assign]


def test_deaths_are_met() -> None:
    """The rig dies where it is told to: otherwise the tests above prove nothing."""
    pair = furnish(Pair(deaths=Deaths(at=1)))
    asyncio.run(pair.survive())
    assert pair.deaths.at is None
    assert pair.deaths.passed > 1
