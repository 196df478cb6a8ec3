"""Rows 4 and 5: the broker away, and the network between the services and the broker or a vendor."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import pytest

from tests.e2e.waiting import until
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import CUSTOMERS, SALES, backfilled, judge_canonical, judge_documents, judge_target
from tests.faults.load import Customers, named
from tests.faults.proxy import Proxy

STOPPED_S = 20
HALF_OPEN_S = 10
FULL_FLOW_S = 60
"""Until a change made once the fault is over is at the target."""
NOTICED_S = 120
"""Until a change crosses although every connection open before is a hole."""


async def broker_away(run: Run) -> Figures:
    """Stopped in order, and killed, while changes go on at the vendors."""
    stops = run.count(1, 10, 3)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, SALES], orders=30)
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        flow_s = []
        async with load.at(4, 4 * (STOPPED_S + 10) * (stops + 1), new_of_ten=6):
            for number in range(stops + 1):
                await asyncio.sleep(run.chance.uniform(1, 4))
                if number < stops:
                    await asyncio.to_thread(run.cluster.stop_kafka)
                    await asyncio.sleep(STOPPED_S)
                else:
                    run.cluster.kill_kafka()
                await asyncio.to_thread(run.cluster.start_kafka)
                flow_s.append(await crosses(bed, load))
        rests = await comes_to_rest(bed, figures)
        figures.done = f"{stops} stops of {STOPPED_S} s and one kill -9, over {load.changes} changes and 30 orders"
        figures.most("seconds to full flow, at most", max(flow_s), FULL_FLOW_S)
        if not rests:
            return figures
        await judge_canonical(bed, load, figures)
        await judge_documents(bed, figures, await judge_target(bed, load, figures))
    return figures


async def comes_to_rest(bed: Bed, figures: Figures) -> bool:
    """Whether nothing is in flight any more after a while, and no process has ended; both are figures."""
    try:
        await bed.quiet(240)
    except (AssertionError, pytest.fail.Exception):
        rests = False
    else:
        rests = True
    figures.zero("processes that ended", bed.ended())
    figures.zero("never at rest", int(not rests))
    return rests


async def crosses(bed: Bed, load: Customers, seconds: float = 180) -> float:
    """Seconds until a customer made now is at the target; `seconds` when it is not there by then, or a process ends."""
    begun = time.monotonic()
    number = await load.make_one()

    async def there() -> bool:
        bed._fail_if_ended()
        return number in await named(bed.exact)

    try:
        await until(there, seconds, f"customer {number} is at the target")
    except (pytest.fail.Exception, AssertionError):
        return seconds
    return time.monotonic() - begun


async def network_cut(run: Run) -> Figures:
    """Between services and broker, then between services and vendors: cut for a while, then holes in place of connections."""
    figures = run.figures()
    cuts = [5, 30, *([120] if run.is_long else [])]
    proxies = {name: Proxy() for name in ("exact", "qbo")}
    async with contextlib.AsyncExitStack() as stack:
        broker, exact, qbo = [await stack.enter_async_context(each) for each in (run.cluster.proxied(), *proxies.values())]
        bed = await stack.enter_async_context(run.bed(bootstrap=broker.address))
        bed.stand_behind({bed.exact_name: exact, bed.qbo_name: qbo})
        await bed.open([CUSTOMERS, SALES], orders=30)
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        figures.tell("seconds across, undisturbed", await crosses(bed, load))
        async with load.at(2, 120, new_of_ten=3):
            await one_network(bed, load, figures, "the broker", [broker], cuts)
            await one_network(bed, load, figures, "the vendors", [exact, qbo], cuts if run.is_long else cuts[:1])
        rests = await comes_to_rest(bed, figures)
        figures.done = f"cuts of {', '.join(map(str, cuts))} s and half-open connections, over {load.changes} changes"
        if not rests:
            return figures
        await judge_canonical(bed, load, figures)
        await judge_documents(bed, figures, await judge_target(bed, load, figures))
    return figures


async def one_network(bed: Bed, load: Customers, figures: Figures, where: str, parts: list[Proxy], cuts: Sequence[int]) -> None:
    """Cuts, a network half open for a while, and connections forgotten for good."""
    for cut_s in cuts:
        await away(parts, Proxy.cut, cut_s)
        # Waits for a vendor double: the next one may last as long as the outage did.
        limit_s = FULL_FLOW_S + (cut_s if where == "the vendors" else 0)
        figures.most(f"full flow after {cut_s} s without {where}", await crosses(bed, load), limit_s)
    await away(parts, Proxy.swallow, HALF_OPEN_S)
    figures.most(f"full flow after {HALF_OPEN_S} s half open to {where}", await crosses(bed, load), FULL_FLOW_S)
    for part in parts:
        part.forget()
    figures.most(f"lost connections to {where} noticed and made anew", await crosses(bed, load, NOTICED_S + 60), NOTICED_S)
    for part in parts:
        part.heal()


async def away(parts: list[Proxy], fault: Callable[[Proxy], None], seconds: float) -> None:
    """A fault of all these proxies for a while."""
    for part in parts:
        fault(part)
    await asyncio.sleep(seconds)
    for part in parts:
        part.heal()
