"""Row 15: what befalls a bus that runs: its registry is away, caches are lost, it is configured anew, a release is rolled out."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.processes import ServiceProcess
from tests.e2e.waiting import until
from tests.e2e.world import SERVICES
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import (
    CUSTOMERS,
    PRODUCTS,
    SALES,
    backfilled,
    judge_canonical,
    judge_documents,
    judge_target,
)
from tests.faults.load import Customers
from tests.faults.outages import crosses

PER_S = 2
EDITS = 30
"""Articles that are edited while a flow that sends them is added."""
AWAY_S = 10
QUIET_S = 180
BACK_S = 90
"""Until a change crosses after whatever was done."""
CACHES = ("cache", "processors")
"""Below a service's data folder: what it may lose without losing anything."""


async def changes(run: Run) -> Figures:
    """One after another, while customers are made and changed."""
    rounds = run.count(1, 10, 1)
    figures = Figures(say=run.say)
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, SALES], orders=20)
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        names: dict[str, str] = {}
        async with under(load):
            for number in range(rounds):
                for part in (registry_away, caches_lost, configured, rolled):
                    await part(run, bed, load, figures)
                    if run.broken and not figures.holds:
                        return figures
                if number == 0:
                    names = await flow_added(run, bed)
        await settled(bed, figures)
        figures.done = (
            f"{rounds} times registry away, caches lost, 3 configurations, every service replaced; "
            f"a flow added; over {load.changes} changes"
        )
        if names:
            await judge_products(bed, names, figures)
        await judge_canonical(bed, load, figures)
        await judge_documents(bed, figures, await judge_target(bed, load, figures))
    return figures


@contextlib.asynccontextmanager
async def under(load: Customers) -> AsyncIterator[None]:
    """Changes go on until this is left."""
    is_over = asyncio.Event()

    async def work() -> None:
        while not is_over.is_set():
            await load.change(new_of_ten=3)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), 1 / PER_S)

    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        is_over.set()
        await task


# --- what is done -------------------------------------------------------------------------------------------------------------


async def registry_away(run: Run, bed: Bed, load: Customers, figures: Figures) -> None:
    """Who runs needs no registry; who starts waits for it and says so."""
    await asyncio.to_thread(run.cluster.stop_registry)
    try:
        figures.most("seconds across without a registry", await crosses(bed, load), BACK_S)
        started = []
        for service in ("pollers", "processors", "sinks"):
            bed.running(service).kill()
            started.append(bed.succeed(service))
        await until(lambda: all(process.code is not None or process.said("started") for process in started), 60, "they start")
        await asyncio.sleep(AWAY_S)
        figures.zero("ended while the registry was away", [process.log.name for process in started if process.code is not None])
        waiting = [process for process in started if process.code is None]
        figures.zero("waiting and not saying so", [p.log.name for p in waiting if "registry" not in await p.reasons()])
    finally:
        await asyncio.to_thread(run.cluster.start_registry)
    if figures.holds:
        figures.most("seconds across with the registry back", await crosses(bed, load), BACK_S)


async def caches_lost(run: Run, bed: Bed, load: Customers, figures: Figures) -> None:
    """Everything is killed, and what it kept on disk is gone: the topics have it all."""
    for service in SERVICES:
        bed.running(service).kill()
    for name in CACHES:
        shutil.rmtree(bed.folder / name, ignore_errors=True)
    for service in SERVICES:
        bed.succeed(service)
    figures.most("seconds across without caches", await crosses(bed, load), BACK_S)


async def configured(run: Run, bed: Bed, load: Customers, figures: Figures) -> None:
    """A table has another row three times, in the middle of the flow; nothing is replayed for it and nothing is lost."""
    flows = [CUSTOMERS, SALES, *([PRODUCTS] if bed.flow(PRODUCTS) in bed.configuration.flows else [])]
    seconds = []
    for number in range(3):
        documents = bed._documents(flows, {})
        for document in documents:
            if document["kind"] == "Table" and document["name"] == "exact-terms":
                document["rows"] = [*document["rows"], {"code": f"Term {load.changes} {number}", "value": "30"}]
        before = bed.version
        await publish(bed, documents)
        assert bed.version > before
        seconds.append(await crosses(bed, load))
    figures.most("seconds across under another configuration, at most", max(seconds), BACK_S)


async def flow_added(run: Run, bed: Bed) -> dict[str, str]:
    """A flow that sends what is there, while what is there changes; the newest names by article."""
    names = {row["id"]: row["name"] for row in (await bed.exact.ask("books"))["products"] if row["active"]}
    await rename(bed, run, names, EDITS // 3)
    before = bed.version
    await publish(bed, bed._documents([CUSTOMERS, SALES, PRODUCTS], {PRODUCTS: "send"}))
    assert bed.version > before
    await rename(bed, run, names, EDITS)
    return names


async def settled(bed: Bed, figures: Figures) -> None:
    """Waits until nothing is on its way; objects that never have a standing are a figure, what else keeps the bus busy is not."""
    try:
        await bed.quiet(QUIET_S)
    except pytest.fail.Exception:
        unsettled = (await bed.books()).unsettled
        if not unsettled:
            raise
        figures.zero("objects without a standing", unsettled)


async def publish(bed: Bed, documents: list[dict[str, Any]]) -> None:
    """As `bus apply` does."""
    await bed._apply(documents, {bed.exact_name: bed.exact.info, bed.qbo_name: bed.qbo.info}, 1)


async def rename(bed: Bed, run: Run, names: dict[str, str], count: int) -> None:
    """Edits of articles, at a pace."""
    for number in range(count):
        own = run.chance.choice(list(names))
        names[own] = f"Renamed {bed.version} {number}"
        await bed.exact.tell("edit", {"entity": "product", "id": own, "fields": {"Description": names[own]}})
        await asyncio.sleep(1 / (2 * PER_S))


async def rolled(run: Run, bed: Bed, load: Customers, figures: Figures) -> None:
    """Each service in turn: a second process of it, and when that is ready the end of the first."""
    unclean = []
    for service in SERVICES:
        old = bed.running(service)
        instance = 1 - getattr(old, "instance", 0)
        new = bed.launch(service, instance=instance)[0]
        new.instance = instance  # type: ignore[attr-defined]
        await bed.ready(service)
        await drained(old, unclean)
    figures.zero("services that did not drain", unclean)
    figures.most("seconds across after the release", await crosses(bed, load), BACK_S)


async def drained(process: ServiceProcess, unclean: list[str]) -> None:
    """SIGTERM; whoever does not end by itself, and well, is noted."""
    process.end()
    await asyncio.to_thread(process.gone)
    if process.code != 0:
        unclean.append(f"{process.log.name} ended with {process.code}")


async def judge_products(bed: Bed, names: dict[str, str], figures: Figures) -> None:
    """What a new flow sends is at its target, as it is at the source now."""
    skus = {row["id"]: row["sku"] for row in (await bed.exact.ask("books"))["products"]}
    there: dict[str, list[str]] = {}
    for row in (await bed.qbo.ask("books"))["products"]:
        there.setdefault(row["sku"], []).append(row["name"])
    figures.zero("articles the new flow lost", [skus[own] for own in names if skus[own] not in there])
    figures.zero(
        "articles the new flow left behind",
        [
            f"{skus[own]}: {', '.join(there[skus[own]])} instead of {name}"
            for own, name in names.items()
            if skus[own] in there and name not in there[skus[own]]
        ],
    )
    figures.zero("articles made twice", [f"{sku}: {', '.join(rows)}" for sku, rows in there.items() if len(rows) > 1])
