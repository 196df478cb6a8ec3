"""Row 14: one set of customers edited at both ends, often between the same two polls, while services are struck."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from bus.core import topics
from bus.core.errors import TransientError
from bus.runtime.requests import poll_now
from tests.e2e.test_both_ways import FLOWS, NAME_MAX, Pair, at_exact, at_quickbooks, linked, writes
from tests.e2e.waiting import until
from tests.e2e.world import NEVER_S
from tests.faults import oracle
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures

SINGLE = 5
"""Objects of a round that only one side edits, for each side."""
CROSSED = 2
"""Objects that each side edits in another field."""
CONTESTED = 4
"""Objects that both sides edit in one field: the first half a name, whose last change counts, the rest an address, which Exact
owns."""
WITHIN = SINGLE * 2 + CROSSED + CONTESTED
POLL_TRIES_MAX = 5
APART_S = 1.2
"""Between the two edits of a contested name: vendors tell times in seconds."""


class Contest(NamedTuple):
    """A field edited at both ends, and the value that must stand at both in the end."""

    pair: Pair
    member: str
    value: str


class Round(NamedTuple):
    """What a round must lead to: writes per side, and how each contest ends."""

    expected: Counter[str]
    possible: Counter[str]
    """Writes beside them that may be. Exact has one name where QuickBooks has two: a name edited at Exact that loses to one
    edited at QuickBooks is still written to the other of the two if Exact is polled first. Exact cuts long names: nobody can see
    there whether an update that was not heard of has happened, so it is repeated."""
    contests: list[Contest]


async def both_ways(run: Run) -> Figures:
    """Rounds of edits, each followed by a poll in which a service is struck."""
    rounds = run.count(3, 40, 3)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open(FLOWS, poll_s=NEVER_S)
        bed.launch()
        await bed.quiet()
        numbers = itertools.count(1)
        echoes, unsent = Counter[str](), Counter[str]()
        contests: list[Contest] = []
        wrong: list[str] = []
        for number in range(rounds):
            pairs = await linked(bed)
            before = await writes(bed)
            planned = await edit(bed, run, pairs, numbers)
            await strike(bed, run, number)
            for _ in range(2):  # what the first poll led to is polled as well
                await polled(bed)
                await bed.quiet()
            seen = await writes(bed)
            seen.subtract(before)
            contests += planned.contests
            echoes += seen - planned.expected - planned.possible
            unsent += planned.expected - seen
            wrong += await ended_otherwise(bed, planned.contests)
            if run.broken and (echoes or unsent or wrong):
                break
        figures.done = (
            f"{rounds} rounds of {2 * (WITHIN - SINGLE)} edits at both ends, {len(contests)} fields edited at both at once; "
            "a service struck in each"
        )
        figures.zero("echo writes", [f"{count} at {side}" for side, count in echoes.items() for _ in range(count)])
        figures.zero("contests that ended otherwise", wrong)
        figures.zero("edits that did not cross", [f"{count} to {side}" for side, count in unsent.items() for _ in range(count)])
        await judge_conflicts(bed, contests, figures)
        verdict = oracle.judge_events(await oracle.events(bed, [topics.canonical("customer")]))
        figures.zero("duplicates", verdict.repeated_ids + verdict.repeated_contents)
        figures.zero("order breaks", verdict.disorder)
    return figures


# --- edits --------------------------------------------------------------------------------------------------------------------


async def edit(bed: Bed, run: Run, pairs: list[Pair], numbers: Iterator[int]) -> Round:
    """The edits of a round, all of them between two polls."""
    companies = [pair for pair in pairs if pair.is_company]
    contested = run.chance.sample(companies, CONTESTED)
    others = run.chance.sample([pair for pair in pairs if pair not in contested], 2 * SINGLE + CROSSED)
    expected, possible = Counter[str](), Counter[str]()
    for pair in others[: SINGLE + CROSSED]:
        change = at_quickbooks(run.chance, pair, next(numbers))
        await at(bed, "qbo", pair, change.fields)
        expected["exact"] += change.crosses
        possible["exact"] += len(str(change.fields.get("CompanyName", ""))) > NAME_MAX
    for pair in others[SINGLE:]:
        change = at_exact(run.chance, pair, next(numbers))
        await at(bed, "exact", pair, change.fields)
        expected["qbo"] += change.crosses
    contests = []
    for place, pair in enumerate(contested):
        by_name = place < CONTESTED // 2
        sides = ["qbo", "exact"]
        run.chance.shuffle(sides)
        values = {side: f"{'Strijd' if by_name else 'strijd'}{next(numbers)}{side}" for side in sides}
        for side in sides:
            await at(bed, side, pair, renamed(side, values[side]) if by_name else readdressed(side, values[side]))
            await asyncio.sleep(APART_S if by_name else 0)
        winner = sides[1] if by_name else "exact"
        expected["exact" if winner == "qbo" else "qbo"] += 1
        possible["qbo"] += by_name and winner == "qbo"
        value = values[winner] if by_name else f"{values[winner]}@klant.test"
        contests.append(Contest(pair, "name" if by_name else "email", value))
    return Round(expected, possible, contests)


async def at(bed: Bed, side: str, pair: Pair, fields: dict[str, Any]) -> None:
    """An edit at one side."""
    simulator, own = (bed.qbo, pair.qbo) if side == "qbo" else (bed.exact, pair.exact)
    await simulator.tell("edit", {"entity": "customer", "id": own, "fields": fields})


def renamed(side: str, value: str) -> dict[str, Any]:
    return {"CompanyName": value} if side == "qbo" else {"Name": value}


def readdressed(side: str, value: str) -> dict[str, Any]:
    address = f"{value}@klant.test"
    return {"PrimaryEmailAddr": {"Address": address}} if side == "qbo" else {"Email": address}


# --- strikes ------------------------------------------------------------------------------------------------------------------


async def strike(bed: Bed, run: Run, number: int) -> None:
    """Asks for a poll, and kills one service while it does its part; its successor goes on."""
    service = ("sinks", "pollers", "processors")[number % 3]
    old = bed.running(service)
    if service == "processors":
        await ask_for_polls(bed)
        old.kill()
    else:
        old.kill()
        how = {"die_after_write": run.chance.randint(1, 4)} if service == "sinks" else {"die_at": run.chance.randint(2, 5)}
        doomed = bed.succeed(service, **how)
        await ask_for_polls(bed)
        await until(lambda: doomed.code is not None, 90, f"{service} are struck")
        doomed.kill()
    bed.succeed(service)
    await bed.ready(service)


async def polled(bed: Bed) -> None:
    """One poll of everything; a broker that is busy with itself is asked again."""
    for _ in range(POLL_TRIES_MAX):
        with contextlib.suppress(TransientError):
            return await bed.poll()
        await asyncio.sleep(1)
    return await bed.poll()


async def ask_for_polls(bed: Bed) -> None:
    for connection in bed.connections:
        await poll_now(bed.settings, bed.codec, connection, None)


# --- verdicts -----------------------------------------------------------------------------------------------------------------


async def ended_otherwise(bed: Bed, contests: list[Contest]) -> list[str]:
    """Both ends hold the value that counts. Names as the canonical events tell them: QuickBooks' books show another name."""
    addresses = {}
    for simulator in (bed.qbo, bed.exact):
        addresses |= {row["id"]: row["email"] for row in (await simulator.ask("books"))["customers"]}
    newest = oracle.newest(await oracle.events(bed, [topics.canonical("customer")]))
    names = {event.meta.source_id: event.after.company_name for event in newest.values() if event.after is not None}
    shown = {"name": names, "email": addresses}
    return [
        f"{contest.member} of {own}: {shown[contest.member].get(own)} instead of {contest.value}"
        for contest in contests
        for own in (contest.pair.qbo, contest.pair.exact)
        if shown[contest.member].get(own) != contest.value
    ]


async def judge_conflicts(bed: Bed, contests: list[Contest], figures: Figures) -> None:
    """Each contest is in the record of an attempt, by field."""
    told: Counter[str] = Counter()
    for event in await oracle.events(bed, [topics.RESULTS]):
        if event.value.conflicts:
            told[event.value.source.id] += 1
    fought = Counter(contest.pair.qbo for contest in contests)
    figures.tell("conflicts recorded", sum(told.values()))
    figures.zero(
        "conflicts without a record",
        [
            f"{contest.member} of {contest.pair.qbo}"
            for contest in contests
            if told[contest.pair.qbo] + told[contest.pair.exact] < fought[contest.pair.qbo]
        ],
    )
