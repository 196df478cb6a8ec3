"""Places for objects under way at one account: documents first, and nobody waits for ever.

A shop's orders must not stand behind ten thousand products of a first read. One place in so many goes to whoever has waited
longest, so that products come through while orders never end.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bus.core.topics import DOCUMENTS

FAIR_EVERY = 4
"""One place in so many goes to whoever has waited longest, whatever its rank."""
RANKS = {**dict.fromkeys(DOCUMENTS, 0), "customer": 1, "product": 1, "product_category": 2, "stock": 3}
"""Which entity goes first; lower is earlier. The calls of a write bear the same rank where they wait for a vendor's limit."""
RANK_OTHERWISE = 1

Waiter = tuple[int, int, asyncio.Future[None]]


def rank_of(entity: str | None) -> int:
    """Rank of an entity's writes."""
    return RANKS.get(entity or "", RANK_OTHERWISE)


class Room:
    """So many at a time, by rank."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._by_rank: list[Waiter] = []
        self._by_age: list[tuple[int, asyncio.Future[None]]] = []
        self._numbers = 0
        self._given = 0

    @asynccontextmanager
    async def hold(self, rank: int) -> AsyncIterator[None]:
        """Holds a place."""
        await self._enter(rank)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, rank: int) -> None:
        if self._free:
            self._free -= 1
            return
        self._numbers += 1
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._by_rank, (rank, self._numbers, place))
        heapq.heappush(self._by_age, (self._numbers, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # let in and cancelled at once
                self._leave()
            raise

    def _leave(self) -> None:
        self._given += 1
        place = self._oldest() if self._given % FAIR_EVERY == 0 else self._first()
        if place is None:
            self._free += 1
        else:
            place.set_result(None)

    def _first(self) -> asyncio.Future[None] | None:
        while self._by_rank:
            place = heapq.heappop(self._by_rank)[2]
            if not place.done():
                return place
        return None

    def _oldest(self) -> asyncio.Future[None] | None:
        while self._by_age:
            place = heapq.heappop(self._by_age)[1]
            if not place.done():
                return place
        return None

    def __len__(self) -> int:
        return sum(1 for _, _, place in self._by_rank if not place.done())
