"""Row 11: records that cannot be carried out, one in many and every one; a bug that one record meets."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from confluent_kafka import Producer

from bus.core import topics
from bus.runtime.redriving import redrive_letters
from bus.runtime.standings import Selection
from connectors.quickbooks.simulation import screens
from connectors.quickbooks.simulator import build
from schemas.system import Cause, LinkState
from services.demonstration.stage import SimulatorProcess
from services.sinks.account import PARALLEL_OBJECTS_MAX
from services.sinks.brake import FLOW
from tests.e2e.waiting import until
from tests.e2e.world import LOOKS, QUIET_S, calls, plan
from tests.faults import oracle
from tests.faults.bed import Bed
from tests.faults.broken_rows import STUMBLE
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import CUSTOMERS, backfilled, judge_target
from tests.faults.load import Customers, company, named

ITEMS = "products-qbo-to-exact"
REFUSAL = '{"error":{"code":"","message":{"lang":"","value":"Ongeldig: Naam"}}}'
OPENS_S, CLOSES_S = 60, FLOW.probe_first_s + 60
ODD_TERM = "Net 77"
"""A term of payment the flow's table has no row for."""
ACCOUNTS, ARTICLES = "crm/Accounts", "logistics/Items"


async def poison(run: Run) -> Figures:
    """One record in many cannot be read, mapped, decoded or written, or meets a bug; then the target refuses all of a flow."""
    good = run.count(500, 5_000, 60)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, ITEMS], orders=10)
        term = await odd_term(bed)
        bed.launch("grants", "pollers", "processors")
        bed.launch("sinks", broken=run.broken or "stumble")
        await backfilled(bed)
        await bed.quiet()
        load = Customers(bed.qbo, run.chance)
        bad = await mixed(bed, run, load, good, term)
        await until(lambda: all_there(bed, load), 60 + good / 2, "the others are at the target")
        stuck = Counter(bad.values())["it meets a bug"]
        await rest(bed, stuck)
        figures.done = f"{len(bad)} records of {good} in {len(set(bad.values()))} ways, then every record of a flow"
        await judge_letters(bed, bad, figures)
        if run.broken and not figures.holds:
            return figures
        await every_record(bed, load, figures, stuck)
        if run.broken and not figures.holds:
            return figures
        figures.zero("second creates", await judge_target(bed, load, figures))
        figures.zero("processes that ended", [process.log.name for process in bed.processes if process.code is not None])
    return figures


# --- one in many --------------------------------------------------------------------------------------------------------------


async def odd_term(bed: Bed) -> str:
    """A payment term that is made at the vendor; its id, from a twin of that vendor."""
    fields = {"Name": ODD_TERM, "DueDays": 77}
    await bed.qbo.tell("edit", {"entity": "Term", "id": "new", "fields": fields})
    twin = build()
    twin.seed(10, 7)
    return screens.edit(twin.company, "Term", "new", fields)


async def mixed(bed: Bed, run: Run, load: Customers, good: int, term: str) -> dict[str, str]:
    """Good customers with bad ones among them; the bad ones by e-mail address, and what is wrong with each."""
    wrong: dict[str, dict[str, Any]] = {
        "its country is not known": {"BillAddr": {"Line1": "1", "City": "Nergens", "Country": "Atlantis"}},
        "its term is in no table": {"SalesTermRef": {"value": term}},
        "it meets a bug": {"DisplayName": f"{STUMBLE} {{}}", "CompanyName": f"{STUMBLE} {{}}"},
    }
    rounds = max(1, good // 500)
    places = sorted(run.chance.sample(range(good), rounds * (len(wrong) + 1)))
    ways = [*wrong, "its bytes are damaged"] * rounds
    run.chance.shuffle(ways)
    bad = {}
    for number in range(good):
        await load.make_one()
        if places and places[0] == number:
            places.pop(0)
            way, name = ways.pop(), f"poison{number}"
            bad[name] = way
            if way in wrong:
                fields = {key: value.format(number) if isinstance(value, str) else value for key, value in wrong[way].items()}
                own = {"DisplayName": f"Bad {number}", "CompanyName": f"Bad {number}"}
                email = {"PrimaryEmailAddr": {"Address": f"{name}@elsewhere.test"}}
                await make(bed.qbo, {**company(0), **own, **email, **fields})
            else:
                await asyncio.to_thread(damage, bed, name)
    return bad


async def make(vendor: SimulatorProcess, fields: dict[str, Any]) -> None:
    await vendor.tell("edit", {"entity": "customer", "id": "new", "fields": fields})


def damage(bed: Bed, name: str) -> None:
    """Bytes that nobody can read, where events and where commands are."""
    producer = Producer({"bootstrap.servers": bed.settings.kafka_bootstrap, "log_level": 3})
    key = topics.event_key(bed.qbo_name, "customer", name)
    producer.produce(topics.canonical("customer"), key=key, value=b"\x00\x00\x00\x00\x01 cut")
    producer.produce(topics.outbound(bed.exact_name), key=key, value=b"no record of the bus")
    assert producer.flush(20) == 0


async def all_there(bed: Bed, load: Customers) -> bool:
    return load.versions.keys() <= (await named(bed.exact)).keys()


async def judge_letters(bed: Bed, bad: dict[str, str], figures: Figures) -> None:
    """Each bad record is told once where it stopped (damage twice: as an event and as a command), and nothing else is."""
    ways = Counter(bad.values())
    parked = [s.standing for s in await bed.state() if s.standing is not None and s.standing.cause is Cause.BUG]
    told = Counter(f"{letter.stage} {letter.cause}" for letter in await letters(bed))
    expected = Counter(
        {
            "poller UNKNOWN_VALUE": ways["its country is not known"],
            "processors MISSING_TABLE_ROW": ways["its term is in no table"],
            "processors MAPPING_ERROR": ways["its bytes are damaged"],
            "sink MAPPING_ERROR": ways["its bytes are damaged"],
        }
    )
    figures.zero("bad records without a letter", (expected - told).elements())
    figures.zero("letters for good records", (told - expected).elements())
    figures.least("records parked behind a bug", len(parked), ways["it meets a bug"])


async def letters(bed: Bed) -> list[Any]:
    """Dead letters of this bed."""
    return [event.value for event in await oracle.events(bed, [topics.DEAD_LETTERS])]


# --- every one ----------------------------------------------------------------------------------------------------------------


async def every_record(bed: Bed, load: Customers, figures: Figures, stuck: int) -> None:
    """The target refuses each new customer: the flow's brake opens, others flow, a probe closes it, a redrive ends it."""
    before, products = len(await letters(bed)), await linked_products(bed)
    posted = len(await calls(bed.exact, "POST", path(bed, ACCOUNTS)))
    await plan(bed.exact, *refusals(bed))
    await load.make(80)
    await within(lambda: brake_is_open(bed), OPENS_S)
    opened = time.monotonic()
    changed = len(await calls(bed.exact, "PUT", path(bed, ARTICLES)))
    for number, product in enumerate(products):
        fields = {"Name": f"Renamed {number} of {bed.name}"}
        await bed.qbo.tell("edit", {"entity": "product", "id": product, "fields": fields})

    async def others() -> int:
        return len(await calls(bed.exact, "PUT", path(bed, ARTICLES))) - changed

    async def have_gone() -> bool:
        return await others() >= len(products)

    await within(have_gone, 45)
    figures.least("writes of another flow meanwhile", await others(), len(products))
    tried = len(await calls(bed.exact, "POST", path(bed, ACCOUNTS))) - posted
    figures.most("refused before the brake was open", tried, FLOW.run_max + PARALLEL_OBJECTS_MAX)
    dead = len(await letters(bed)) - before
    figures.most("letters before the brake was open", dead, FLOW.run_max)
    await plan(bed.exact)

    async def is_closed() -> bool:
        return not await brake_is_open(bed)

    if not await within(is_closed, CLOSES_S):
        figures.zero("brakes that stay open", 1)
        return
    figures.most("seconds until a probe closed it", time.monotonic() - opened, CLOSES_S)
    await rest(bed, stuck)
    found = await redrive_letters(bed.settings, bed.codec, Selection(flow=bed.flow(CUSTOMERS), cause=Cause.WRITE_REJECTED))
    figures.tell("redriven", len(found.letters))
    await until(lambda: all_there(bed, load), 60, "what was refused is at the target")
    await rest(bed, stuck)
    again = await redrive_letters(bed.settings, bed.codec, Selection(flow=bed.flow(CUSTOMERS), cause=Cause.WRITE_REJECTED))
    figures.zero("letters that are open after all", len(again.letters))


def refusals(bed: Bed) -> Sequence[dict[str, Any]]:
    """A business rule of the vendor's that nothing new meets."""
    match = {"method": "POST", "path_prefix": path(bed, ACCOUNTS)}
    headers = {"content-type": "application/json"}
    return [{"match": match, "action": "status", "status": 500, "body": REFUSAL, "headers": headers, "times": 1_000_000}]


def path(bed: Bed, name: str) -> str:
    """A set of the bed's division."""
    return f"/api/v1/{bed.exact.info['config']['division']}/{name}"


async def within(look: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether something becomes true in time; the figures say what it means that it did not."""
    end = time.monotonic() + seconds
    while not await look():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.2)
    return True


async def brake_is_open(bed: Bed) -> bool:
    """Whether the flow's brake is open, in the committed state."""
    return any(s.brake is not None and s.brake.open and s.brake.flow == bed.flow(CUSTOMERS) for s in await bed.state())


async def linked_products(bed: Bed) -> list[str]:
    """Products of the source that are linked at the target."""
    links = [s.link for s in await bed.state() if s.link is not None and s.connection == bed.exact_name]
    return [link.source.id for link in links if link.entity == "product" and link.state is LinkState.ACTIVE][:10]


async def rest(bed: Bed, stuck: int, seconds: float = QUIET_S) -> None:
    """Waits until nothing is on its way but so many commands that a bug holds up."""
    seen: list[bytes] = []

    async def look() -> bool:
        bed._fail_if_ended()
        books = await bed.books()
        is_quiet = books.in_flight() == books.retrying == stuck and not books.unsettled
        seen.append(books.fingerprint() if is_quiet and not books.brakes else b"")
        return len(seen) >= LOOKS and seen[-1] != b"" and len(set(seen[-LOOKS:])) == 1

    await until(look, seconds, f"nothing is on its way but {stuck}")
