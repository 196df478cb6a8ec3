"""Rows 1 to 3: kill -9 of a poller, of a processor, of a sink between the vendor's answer and the commit."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bus.core import topics
from tests.e2e.waiting import until
from tests.faults import oracle
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.load import Customers, named

CUSTOMERS = "customers-qbo-to-exact"
BACK = "customers-exact-to-qbo"
SALES = "qbo-sales-to-exact-orders"
ORDERS = "exact-orders-to-qbo"
PRODUCTS = "products-exact-to-qbo"
WRITES_BEFORE_DEATH_MAX = 8


async def poller_killed(run: Run) -> Figures:
    """At random moments, every third of them between flush and commit; changes go on all the time."""
    kills, changes = run.count(8, 100, 10), run.count(1_600, 20_000, 600)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS])
        bed.launch("grants")
        load = Customers(bed.qbo, run.chance)
        async with load.at(changes / (kills * 5), changes, new_of_ten=6):  # a lost edit is made good by the next one
            for number in range(kills):
                if number % 3 == 0 or run.broken:
                    (poller,) = bed.launch("pollers", die_at=run.chance.randint(2, 7))
                    await until(lambda p=poller: p.code is not None, 60, "the poller is struck in a commit")
                else:
                    (poller,) = bed.launch("pollers")
                    await bed.owns(poller)
                    await asyncio.sleep(run.chance.uniform(0, 2.5))
                poller.kill()
        bed.launch("pollers")
        figures.done = f"{kills} kills over {load.changes} changes of {len(load.versions)} customers"
        await told(bed, load)
        await judge_canonical(bed, load, figures)
    return figures


async def told(bed: Bed, load: Customers, seconds: float = 60) -> None:
    """Waits until polling has nothing new to tell: three polls, or until every newest version is there."""

    async def all_there() -> bool:
        return not lost_versions(await canonical(bed, "customer"), load)

    try:
        await until(all_there, seconds, "the newest versions are told")
    except BaseException as error:
        if type(error).__name__ != "Failed":
            raise


async def canonical(bed: Bed, *entities: str) -> list[oracle.Event]:
    """Committed canonical events."""
    return await oracle.events(bed, [topics.canonical(entity) for entity in entities])


async def judge_canonical(bed: Bed, load: Customers, figures: Figures) -> None:
    """Lost, doubled, out of order, on the canonical topic."""
    await bed.polls(2)  # what would be told twice has had its chance
    found = await canonical(bed, "customer")
    verdict = oracle.judge_events(found)
    figures.tell("events", len(found))
    figures.zero("lost", lost_versions(found, load))
    figures.zero("duplicates", verdict.repeated_ids + verdict.repeated_contents)
    figures.zero("order breaks", verdict.disorder)
    figures.zero("hung transactions", await oracle.hung_transactions(bed.settings.kafka_bootstrap))


def lost_versions(found: Sequence[oracle.Event], load: Customers) -> list[str]:
    """Customers whose newest version at the vendor is not the newest on the topic."""
    told_names = {event.after.company_name for event in oracle.newest(found).values() if event.after is not None}
    wanted = {f"Campaign {number} v{version}" for number, version in load.versions.items()}
    return sorted(wanted - told_names)


async def processor_killed(run: Run) -> Figures:
    """At random moments while events come; the sinks carry out what reaches them."""
    kills, changes = run.count(6, 100, 4), run.count(450, 20_000, 200)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS])
        bed.launch("grants", "pollers", "sinks")
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        async with load.at(changes / (kills * 5), changes, new_of_ten=1):
            for _ in range(kills):
                (processor,) = bed.launch("processors")
                await until(lambda p=processor: p.said("started"), 60, "processors run")
                await asyncio.sleep(run.chance.uniform(1, 5))
                processor.kill()
        bed.launch("processors")
        figures.done = f"{kills} kills over {load.changes} changes of {len(load.versions)} customers"
        await bed.quiet()
        events = await canonical(bed, "customer")
        commands = await oracle.events(bed, [topics.outbound(bed.exact_name)])
        asked = {(event.key, event.value.seq) for event in commands if event.value.flow == bed.flow(CUSTOMERS)}
        own = [event for event in events if event.value.meta.connection == bed.qbo_name]
        figures.tell("events", len(own))
        figures.tell("commands", len(asked))
        figures.zero("lost", [f"{e.key} {e.value.meta.seq}" for e in own if (e.key, e.value.meta.seq) not in asked])
        figures.zero("order breaks", oracle.order_breaks(commands))
        figures.zero("second creates", await judge_target(bed, load, figures))
    return figures


async def judge_target(bed: Bed, load: Customers, figures: Figures) -> list[str]:
    """Each customer is at the target, with its newest name; returns those that are there twice."""
    there = await named(bed.exact)
    stale = []
    for number, version in load.versions.items():
        rows = there.get(number, [])
        names = {row["name"] for row in rows}
        if rows and f"Campaign {number} v{version}" not in names:
            stale.append(f"customer {number}: {', '.join(sorted(names))} instead of v{version}")
    figures.zero("missing at the target", [f"customer {number}" for number in load.versions if number not in there])
    figures.zero("stale at the target", stale)
    return second_customers(there)


def second_customers(there: dict[int, list[dict[str, Any]]]) -> list[str]:
    """Customers that are there twice, or whose contact or address is."""
    found = [f"customer {number}: {len(rows)} accounts" for number, rows in there.items() if len(rows) > 1]
    parts = {number: (rows[0]["contacts"], rows[0]["addresses"]) for number, rows in there.items() if "contacts" in rows[0]}
    fewest = min(parts.values(), default=(0, 0))
    for number, (contacts, addresses) in parts.items():
        if contacts > 1 or addresses > fewest[1]:
            found.append(f"customer {number}: {contacts} contacts, {addresses} addresses")
    return found


async def sink_killed(run: Run) -> Figures:
    """Each sink dies when the vendor has answered one of its writes, before anybody could write that down."""
    kills = run.count(12, 200, 6)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, SALES, ORDERS, PRODUCTS], orders=run.count(48, 360, 24))
        bed.launch("grants", "pollers", "processors")
        await backfilled(bed)  # what is there before is only linked; what comes after is made
        load = Customers(bed.qbo, run.chance)
        for _ in range(kills):
            await load.make(3)
            sinks = bed.succeed("sinks", die_after_write=run.chance.randint(1, WRITES_BEFORE_DEATH_MAX))
            await until(lambda s=sinks: s.code is not None, 90, "the sink is struck behind an answer")
            sinks.kill()
        begun = time.monotonic()
        bed.succeed("sinks")
        await bed.quiet()
        figures.done = (
            f"{kills} kills, each behind a write; {len(load.versions)} customers, articles, and the orders of both sides"
        )
        figures.tell("seconds to full rest", time.monotonic() - begun)
        there = await named(bed.exact)
        figures.zero("lost", [f"customer {number}" for number in load.versions if number not in there])
        await judge_documents(bed, figures, second_customers(there))
    return figures


async def backfilled(bed: Bed) -> None:
    """Waits until every stream was read to its end once."""

    async def look() -> bool:
        streams = (await bed.books()).streams
        read = {stream.connection for stream in streams if stream.backfilled}
        return set(bed.connections) <= read and all(stream.backfilled for stream in streams)

    await until(look, 90, "the back-fill has ended")


async def judge_documents(bed: Bed, figures: Figures, doubles: list[str]) -> None:
    """No document of the bus is at either side twice, and every paid sale is an order or has a dead letter."""
    at_exact = (await bed.exact.ask("books"))["documents"]
    at_qbo = (await bed.qbo.ask("books"))["documents"]
    theirs = [document["reference"] for document in at_exact if (document["reference"] or "").startswith("QBO-")]
    ours = [document["number"] for document in at_qbo if (document["number"] or "").startswith("EX-")]
    figures.tell("orders made at Exact", len(theirs))
    figures.tell("sales made at QuickBooks", len(ours))
    figures.zero("second creates", doubles + oracle.twice(theirs) + oracle.twice(ours))
