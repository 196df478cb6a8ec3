"""Changes as people make them at a vendor, at a pace, and what the vendor's own books then say of them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from services.demonstration.stage import SimulatorProcess

DOMAIN = "campaign.test"


def company(number: int, version: int = 0) -> dict[str, Any]:
    """A customer of QuickBooks with a name that tells its version, and goods going elsewhere than the bill."""
    name = name_of(number, version)
    return {
        "DisplayName": name,
        "CompanyName": name,
        "PrimaryEmailAddr": {"Address": f"c{number}@{DOMAIN}"},
        "BillAddr": {"Line1": f"Gracht {number}", "PostalCode": "1015 CN", "City": "Amsterdam", "Country": "NL"},
        "ShipAddr": {"Line1": f"Loods {number}", "PostalCode": "1043 AA", "City": "Amsterdam", "Country": "NL"},
    }


def name_of(number: int, version: int) -> str:
    """The name of a customer in a version."""
    return f"Campaign {number} v{version}"


def rename(number: int, version: int) -> dict[str, Any]:
    """An edit that gives a customer its next version."""
    return {"DisplayName": name_of(number, version), "CompanyName": name_of(number, version)}


class Customers:
    """Makes and edits customers at QuickBooks; one object is edited by one hand at a time."""

    def __init__(self, vendor: SimulatorProcess, chance: random.Random) -> None:
        self._vendor = vendor
        self._chance = chance
        self.versions: dict[int, int] = {}
        """Newest version by number."""
        self._ids: dict[int, str] = {}
        self._last = 0
        self.changes = 0

    async def make(self, count: int) -> None:
        """New customers."""
        for _ in range(count):
            await self.make_one()

    async def make_one(self) -> int:
        """A new customer; its number."""
        self._last += 1
        number = self._last
        await self._vendor.tell("edit", {"entity": "customer", "id": "new", "fields": company(number)})
        self.versions[number] = 0
        self.changes += 1
        return number

    async def learn(self) -> None:
        """Which id each customer has."""
        for row in (await self._vendor.ask("books"))["customers"]:
            if (number := number_of(row)) is not None:
                self._ids[number] = row["id"]

    async def edit(self, number: int) -> None:
        """The next version of one customer."""
        if number not in self._ids:
            await self.learn()
        self.versions[number] += 1
        body = {"entity": "customer", "id": self._ids[number], "fields": rename(number, self.versions[number])}
        await self._vendor.tell("edit", body)
        self.changes += 1

    async def change(self, new_of_ten: int = 2) -> None:
        """One change: a new customer, or an edit of one that is there."""
        if not self.versions or self._chance.randrange(10) < new_of_ten:
            await self.make(1)
        else:
            await self.edit(self._chance.choice(list(self.versions)))

    @asynccontextmanager
    async def at(self, per_s: float, total: int, new_of_ten: int = 2) -> AsyncIterator[asyncio.Task[None]]:
        """Changes beside the caller, evenly, until so many were made; leaving waits for the last."""

        async def work() -> None:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for done in range(total):
                await asyncio.sleep(max(0.0, begun + done / per_s - loop.time()))
                await self.change(new_of_ten)

        task = asyncio.ensure_future(work())
        try:
            yield task
            await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def number_of(row: dict[str, Any]) -> int | None:
    """The campaign's number of a customer in a vendor's books."""
    name, _, domain = (row.get("email") or "").partition("@")
    return int(name[1:]) if domain == DOMAIN and name[1:].isdigit() else None


async def named(vendor: SimulatorProcess) -> dict[int, list[dict[str, Any]]]:
    """The campaign's customers in a vendor's books, by number."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in (await vendor.ask("books"))["customers"]:
        if (number := number_of(row)) is not None:
            found.setdefault(number, []).append(row)
    return found
