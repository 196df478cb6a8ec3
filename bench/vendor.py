"""A QuickBooks company of any size, and a transport that answers from memory: the vendor costs nothing while time is taken."""

import copy
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import httpx

from bus.core.clock import Clock, SystemClock
from bus.simulation.clock import SimClock
from bus.simulation.simulator import InProcess

LINES = 3
AGE = timedelta(days=60)
"""How long the rows have rested: longer than the change feed reaches back."""


class SimulatedTime(Clock):
    """The frozen clock of a simulator."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock

    def now(self) -> Any:
        return self._clock.now()

    def boot_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    def boot_id(self) -> str:
        return "bench"


def company(customers: int, invoices: int) -> InProcess:
    """A simulator with so many customers and invoices of three lines, copies of generated ones."""
    simulator: Any = import_module("connectors.quickbooks.simulator").build(real_limits=False)
    now = SystemClock().now()
    simulator.clock.freeze(now - AGE)  # else every row counts as changed just now, and is served by the change feed once more
    simulator.seed(60, 7)
    tables = simulator.company.tables
    people = list(tables["Customer"].values())
    sale = next(row for row in tables["Invoice"].values() if len(sold(row)) == LINES)
    for number in range(1, customers + 1 - len(people)):
        row = copy.deepcopy(people[number % len(people)])
        row["Id"] = str(100_000 + number)
        row["DisplayName"] = row["FullyQualifiedName"] = f"{row['DisplayName']} {number}"
        row["PrimaryEmailAddr"] = {"Address": f"buyer{number}@bench.test"}
        tables["Customer"][row["Id"]] = row
    ids = list(tables["Customer"])
    tables["Invoice"].clear()
    for number in range(1, invoices + 1):
        row = copy.deepcopy(sale)
        row["Id"], row["DocNumber"] = str(500_000 + number), f"B-{number}"
        row["CustomerRef"] = {"value": ids[number % len(ids)]}
        tables["Invoice"][row["Id"]] = row
    for other in ("SalesReceipt", "CreditMemo", "RefundReceipt", "Payment"):
        tables[other].clear()
    simulator.clock.freeze(now)
    return InProcess(simulator)


def sold(row: dict[str, Any]) -> list[Any]:
    """Lines that sell something."""
    return [line for line in row["Line"] if line["DetailType"] == "SalesItemLineDetail"]


class Recorded(httpx.AsyncBaseTransport):
    """Passes calls on and keeps the answers; after that the same calls are answered from memory."""

    def __init__(self, live: httpx.AsyncBaseTransport) -> None:
        self._live = live
        self._answers: dict[tuple[str, str, bytes], tuple[int, httpx.Headers, bytes]] = {}
        self.misses = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer of before, or the vendor's."""
        key = (request.method, str(request.url), await request.aread())
        if key not in self._answers:
            self.misses += 1
            answer = await self._live.handle_async_request(request)
            self._answers[key] = (answer.status_code, answer.headers, await answer.aread())
        status, headers, body = self._answers[key]
        return httpx.Response(status, headers=headers, content=body)


class ZeroDelay(httpx.AsyncBaseTransport):
    """Answers customer searches with nothing and customer creates at once; the rest is the simulator's."""

    def __init__(self, live: httpx.AsyncBaseTransport, created: Callable[[bytes, int], bytes]) -> None:
        self._live = live
        self._created = created
        self.creates = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Nothing is kept: the next search finds nothing either, as the sink's own records must do."""
        path, body = request.url.path, await request.aread()
        if request.method == "POST" and path.endswith("/customer"):
            self.creates += 1
            return httpx.Response(200, content=self._created(body, self.creates), headers={"content-type": "application/json"})
        if path.endswith("/query") and b"from customer" in request.url.query.lower().replace(b"%20", b" ").replace(b"+", b" "):
            return httpx.Response(
                200,
                content=b'{"QueryResponse":{},"time":"2026-11-21T00:00:00.000-08:00"}',
                headers={"content-type": "application/json"},
            )
        return await self._live.handle_async_request(request)
