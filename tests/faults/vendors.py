"""Rows 6 and 7: vendors that fail, throttle, or fall silent behind what they did."""

from collections import Counter
from typing import Any

from tests.e2e.waiting import until
from tests.e2e.world import calls, plan
from tests.faults import oracle
from tests.faults.bed import ManyAccounts
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import CUSTOMERS, PRODUCTS, SALES, backfilled, judge_documents, judge_target
from tests.faults.load import Customers, named

SILENT_EVERY = 8
"""One write in so many is never answered: more would be a vendor that is away, and the brake's business."""
UNDER_WAY_MAX = 30
"""Customers made and not yet at the target."""
SILENT_S = 30
"""Longer than anybody waits for it."""
BURST_MAX = 3
GAP_MEAN = 5
"""Calls between two bursts, of two failures on the mean: 30 % fail."""


def silences(count: int, path_prefix: str) -> list[dict[str, Any]]:
    """Every eighth POST is done, and its answer does not come. A fault counts the calls that those before it left alone."""
    return [
        {
            "match": {"method": "POST", "path_prefix": path_prefix, "nth": (SILENT_EVERY - 1) * number + 1},
            "action": "hold",
            "seconds": SILENT_S,
            "times": 1,
        }
        for number in range(1, count + 1)
    ]


async def silent_vendor(run: Run) -> Figures:
    """The vendor commits, then silence until the caller gives up; both vendors, all their kinds of writes."""
    wanted = run.count(60, 1_000, 20)
    figures = run.figures()
    async with run.bed(call_timeout_s=3.0, settle_s=2) as bed:
        await bed.open([CUSTOMERS, SALES, PRODUCTS], orders=run.count(40, 240, 12))
        api = f"/api/v1/{bed.exact.info['config']['division']}/"
        at_qbo = wanted // 10
        await plan(bed.exact, *silences(wanted - at_qbo, api))
        await plan(bed.qbo, *silences(at_qbo, "/v3/company/"))
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)

        async def enough() -> bool:
            bed._fail_if_ended()
            if len(load.versions) - len(await named(bed.exact)) < UNDER_WAY_MAX:
                await load.make(5)
            return len(await calls(bed.exact, "POST", api)) >= SILENT_EVERY * (wanted - at_qbo)

        await until(enough, 120 + 3 * wanted, "so many writes were made")
        await bed.quiet(240 + wanted)
        posts = [await calls(bed.exact, "POST", api), await calls(bed.qbo, "POST", "/v3/company/")]
        silent = sum(min(most, len(made) // SILENT_EVERY) for most, made in zip((wanted - at_qbo, at_qbo), posts, strict=True))
        figures.done = (
            f"{silent} silences behind writes of {len(load.versions)} customers, articles, and the orders of both sides"
        )
        figures.least("silences", silent, wanted * 9 // 10)
        doubles = await judge_target(bed, load, figures)
        doubles += oracle.twice(row["sku"] for row in (await bed.qbo.ask("books"))["products"])
        await judge_documents(bed, figures, doubles)
    return figures


async def failing_vendor(run: Run) -> Figures:
    """Four accounts with their real limits, four sinks; many calls fail, some with 429, with and without Retry-After."""
    figures = run.figures()
    async with run.bed(kind=ManyAccounts, call_timeout_s=20.0) as bed:
        assert isinstance(bed, ManyAccounts)
        wanted = {f"BUS-{number:04}" for number in range(11, 11 + run.count(10, 30, 5))}
        await bed.open([PRODUCTS], real_limits=True, when={PRODUCTS: f"source.sku in {sorted(wanted)}"})
        for vendor in bed.targets:
            await plan(vendor, *bursts(run, run.count(120, 3_000, 100)))
        for instance in range(4):
            bed.launch("sinks", instance=instance)
        bed.launch("grants", "pollers", "processors")
        await bed.quiet(run.count(420, 3_600, 300))
        exceeded, doubles, missing, statuses = {}, [], [], Counter[int]()
        for name, vendor in zip(bed.target_names, bed.targets, strict=True):
            exceeded[name] = (await vendor.ask("counts"))["limit_exceeded"]
            rows = (await vendor.ask("books"))["products"]
            doubles += [f"{name}: {item}" for item in oracle.twice(row["sku"] for row in rows)]
            missing += [f"{name}: {sku}" for sku in sorted(wanted - {row["sku"] for row in rows})]
            statuses.update(call["status"] for call in (await vendor.ask("calls"))["calls"])
        failed = sum(count for status, count in statuses.items() if status in (429, 500, 502))
        figures.done = f"{statuses.total()} calls to 4 accounts at their real limits, {failed} of them failed, by 4 sinks"
        figures.tell("answers", ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items())))
        figures.most("calls above a limit, of the worst account", max(exceeded.values()), 1)
        figures.zero("missing at the targets", missing)
        figures.zero("second creates", doubles)
    return figures


def bursts(run: Run, among: int) -> list[dict[str, Any]]:
    """Failures of 30 % of the next calls, one to three in a row; some throttle, one of them without saying for how long."""
    hit: dict[int, dict[str, Any]] = {}
    number = 0
    while number < among:
        number += run.chance.randint(1, 2 * GAP_MEAN - 1)
        for _ in range(run.chance.randint(1, BURST_MAX)):
            hit[number] = run.chance.choice(FAILURES)
            number += 1
    for place, throttle in zip(sorted(run.chance.sample(sorted(hit), len(THROTTLES))), THROTTLES, strict=True):
        hit[place] = throttle
    # A fault counts the calls that those before it left alone.
    return [
        {"match": {"path_prefix": "/v3/", "nth": number - before}, "action": "status", "times": 1, **hit[number]}
        for before, number in enumerate(sorted(hit))
    ]


FAILURES: list[dict[str, Any]] = [
    {"status": 500, "body": "<html>busy</html>"},
    {"status": 502, "body": "<html>bad gateway</html>"},
    {"status": 500, "body": ""},
    {"status": 502, "body": ""},
]
THROTTLES: list[dict[str, Any]] = [
    {"status": 429, "headers": {"Retry-After": "2"}},
    {"status": 429},
    {"status": 429, "headers": {"Retry-After": "1"}},
]
