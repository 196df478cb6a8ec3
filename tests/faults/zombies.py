"""Row 16: two of every service, and one half of them stopped for longer than its membership lasts, in the middle of its work."""

import asyncio
from collections.abc import Sequence

from tests.e2e.processes import ServiceProcess
from tests.e2e.waiting import until
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import (
    CUSTOMERS,
    PRODUCTS,
    SALES,
    judge_canonical,
    judge_documents,
    judge_target,
)
from tests.faults.load import Customers
from tests.faults.outages import comes_to_rest

SESSION_S = 8
FROZEN_S = SESSION_S + 5
TOLD = ("went on without", "taking over again", "slot is given away", "ended")


async def two_of_everything(run: Run) -> Figures:
    """The first half, which owns everything, is struck in a commit (poller) and behind a write (sink) when the second one comes;
    then the halves take turns, at random moments."""
    rounds = run.count(2, 20, 1)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, SALES, PRODUCTS], orders=30, existing={CUSTOMERS: "send"})
        first = bed.launch("grants", "processors")
        first += bed.launch("pollers", freeze_at=run.chance.randint(6, 12))
        first += bed.launch("sinks", freeze_after_write=run.chance.randint(3, 10))
        load = Customers(bed.qbo, run.chance)
        await until(lambda: all(process.said("started") for process in first), 60, "the first half runs")
        async with load.at(2, 40 * rounds, new_of_ten=5):
            await until(lambda: all(process.said("struck") for process in first[2:]), 120, "poller and sink are struck")
            second = bed.launch(instance=1)
            zombies = await frozen(first)
            await until(lambda: all(process.said("started") for process in second), 60, "the second half runs")
            for number in range(1, rounds):
                await bed_ready(bed, first + second)
                await asyncio.sleep(run.chance.uniform(0, 3))
                zombies += await frozen((second, first)[number % 2 - 1])
        await comes_to_rest(bed, figures)
        figures.done = (
            f"{rounds} times one half of all services stopped for {FROZEN_S} s, over {load.changes} changes and 30 orders"
        )
        figures.tell("zombies that were told", zombies)
        figures.tell("objects settled", sum(book.settled for book in (await bed.books()).flows))
        await judge_canonical(bed, load, figures)
        await judge_documents(bed, figures, await judge_target(bed, load, figures))
    return figures


async def frozen(processes: Sequence[ServiceProcess]) -> int:
    """Stops them, each in the middle of whatever it does, for longer than their session; how many say that they noticed."""
    for process in processes:
        process.freeze()
    before = [lines_of(process) for process in processes]
    await asyncio.sleep(FROZEN_S)
    for process in processes:
        process.thaw()
    await asyncio.sleep(3)
    return sum(lines_of(process) > count for process, count in zip(processes, before, strict=True))


def lines_of(process: ServiceProcess) -> int:
    """How often a process said that somebody took its place."""
    return sum(len(process.said(text)) for text in TOLD)


async def bed_ready(bed: Bed, processes: Sequence[ServiceProcess]) -> None:
    """Waits until every one of them works again."""
    for process in processes:
        await until(process.is_ready, 90, f"{process.service} is ready")
    bed._fail_if_ended()
