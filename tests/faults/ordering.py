"""Rows 8 to 10: deliveries that come again or in the wrong order, and one object that keeps the vendor busy."""

import asyncio
import time
from datetime import datetime
from itertools import zip_longest

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.core import topics
from services.processors.handler import TOPICS, Handler
from services.processors.routes import compile_routes
from tests.e2e.waiting import until
from tests.e2e.world import calls, plan, written
from tests.faults import oracle
from tests.faults.bed import Bed
from tests.faults.campaign import Run
from tests.faults.figures import Figures
from tests.faults.killing import CUSTOMERS, PRODUCTS, SALES, backfilled, judge_documents, judge_target
from tests.faults.load import Customers, named

SLOW_S = 5
GROUP = "bus-processors"


async def delivered_again(run: Run) -> Figures:
    """The processors' offsets go back to the beginning, then the newest commands come once more, until there are 5,000."""
    repeats = run.count(5_000, 5_000, 500)
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS, SALES, PRODUCTS], orders=60)
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        async with load.at(20, run.count(150, 1_000, 60)):
            pass
        await bed.quiet()
        before = [await written(bed.exact), await written(bed.qbo)]
        bed.running("processors").kill()
        await rewind(bed)
        bed.launch("processors")
        await bed.quiet()
        again = await produce_again(bed, repeats)
        await bed.quiet()
        after = [await written(bed.exact), await written(bed.qbo)]
        figures.done = f"all events processed again, then {again} commands delivered again"
        changed = [
            f"{name}: {now.get(name, 0) - then.get(name, 0)}" for then, now in zip(before, after, strict=True) for name in now
        ]
        figures.zero("writes caused", [item for item in changed if not item.endswith(": 0")])
        await judge_documents(bed, figures, await judge_target(bed, load, figures))
    return figures


async def rewind(bed: Bed) -> None:
    """Takes the processors' committed offsets back to the beginning, as soon as the dead member is forgotten."""
    admin = AdminClient({"bootstrap.servers": bed.settings.kafka_bootstrap, "log_level": 3})
    places = [TopicPartition(topic, number, 0) for topic in TOPICS for number in range(bed.settings.partitions)]

    def done() -> bool:
        try:
            admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP, places)])[GROUP].result(10)
        except KafkaException:
            return False
        return True

    await until(lambda: asyncio.to_thread(done), 60, "the group can be taken back")


async def produce_again(bed: Bed, count: int) -> int:
    """The newest commands of both accounts once more, byte by byte, round by round."""
    names = [topics.outbound(name) for name in bed.connections]
    rows = await asyncio.to_thread(oracle.read_committed, bed.settings.kafka_bootstrap, names)
    producer = Producer({"bootstrap.servers": bed.settings.kafka_bootstrap, "log_level": 3})
    sent = 0
    while rows and sent < count:
        for topic, partition, _, key, value in rows[-count:]:
            producer.produce(topic, value, key, partition)
            sent += 1
        producer.flush(30)
    return sent


async def swapped(run: Run) -> Figures:
    """Every version of every object reaches the sink, in an order of chance: as if by processors that know no order."""
    objects, versions = run.count(40, 400, 20), 5
    figures = run.figures()
    async with run.bed() as bed:
        await bed.open([CUSTOMERS])
        bed.launch("grants", "pollers", "sinks")
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        await load.make(objects)
        for _ in range(versions - 1):
            await bed.polls(1)
            for number in list(load.versions):
                await load.edit(number)
        await bed.polls(2)
        maxima = await produce_swapped(bed, run)
        bed.launch("processors")  # what it makes of the same events comes again, in order
        await bed.quiet()
        figures.done = f"{len(maxima)} objects, their {sum(map(len, maxima.values()))} versions in an order of chance"
        figures.zero("second creates", await judge_target(bed, load, figures))
        there = await named(bed.exact)
        stale = []
        for number, order in maxima.items():
            allowed = sum(seq == max(order[: place + 1]) for place, seq in enumerate(order)) - 1
            updates = await updates_of(bed, there[number][0]["id"])
            if updates > allowed:
                stale.append(f"customer {number}: {updates} updates, {allowed} of them newer than what was there")
        figures.zero("stale overwrites", stale)
    return figures


async def produce_swapped(bed: Bed, run: Run) -> dict[int, list[int]]:
    """Commands of the campaign's customers, each object's versions shuffled; the numbers of each object in that order."""
    topic = topics.canonical("customer")
    rows = await asyncio.to_thread(oracle.read_committed, bed.settings.kafka_bootstrap, [topic])
    handler, routes = Handler(bed.codec), compile_routes(bed.configuration, bed.version)
    made: dict[int, list[tuple[int, str, str, bytes | None]]] = {}
    for _, _, _, key, value in rows:
        if value is None or topics.split_key(key.decode())[0] != bed.qbo_name:
            continue
        event = await bed.codec.read(topic, value)
        words = (event.after.company_name or "").split() if event.after else []
        if words[:1] != ["Campaign"]:
            continue
        for out in handler.handle(topic, key.decode(), value, routes):
            made.setdefault(int(words[1]), []).append((event.meta.seq, out.topic, out.key, out.value))
    producer = Producer({"bootstrap.servers": bed.settings.kafka_bootstrap, "log_level": 3})
    for commands in made.values():
        run.chance.shuffle(commands)
    for wave in zip_longest(*made.values()):  # objects side by side, each in its own order
        for _, to, key, value in filter(None, wave):
            producer.produce(to, value, key, 0)
    producer.flush(30)
    return {number: [seq for seq, *_ in commands] for number, commands in made.items()}


async def updates_of(bed: Bed, account: str) -> int:
    """Updates of one account in the vendor's log."""
    path = f"/api/v1/{bed.exact.info['config']['division']}/crm/Accounts(guid'{account}')"
    return sum(200 <= call["status"] < 300 for call in await calls(bed.exact, "PUT", path))


async def slow_object(run: Run) -> Figures:
    """One object whose every call takes 5 s, edited all the time; how long the others take, without it and beside it."""
    others = run.count(40, 400, 20)
    figures = run.figures()
    async with run.bed(call_timeout_s=20.0) as bed:
        await bed.open([CUSTOMERS])
        bed.launch()
        await backfilled(bed)
        load = Customers(bed.qbo, run.chance)
        await load.make(2 * others + 1)
        await bed.quiet()
        there = await named(bed.exact)
        alone = await edits_take(bed, load, list(range(2, others + 2)))
        slow = f"/api/v1/{bed.exact.info['config']['division']}/crm/Accounts(guid'{there[1][0]['id']}')"
        delay = {"match": {"path_prefix": slow}, "action": "delay", "seconds": SLOW_S, "times": 10_000}
        await plan(bed.exact, delay)

        async def keep_busy() -> None:
            while True:
                await load.edit(1)
                await asyncio.sleep(0.5)

        busy = asyncio.ensure_future(keep_busy())
        try:
            await until(lambda: calls(bed.exact, "PUT", slow), 60, "the slow object is under way")
            beside = await edits_take(bed, load, list(range(others + 2, 2 * others + 2)))
        finally:
            busy.cancel()
        await plan(bed.exact)
        await bed.quiet()
        slow_calls = len(await calls(bed.exact, "PUT", slow))
        figures.done = f"{slow_calls} updates of an object that takes {SLOW_S} s per call, beside {others} others"
        figures.tell("p99 of the others without it, s", percentile(alone))
        figures.most("p99 of the others beside it, s", percentile(beside), 2 * percentile(alone) + 1)
        figures.zero("second creates", await judge_target(bed, load, figures))
    return figures


async def edits_take(bed: Bed, load: Customers, numbers: list[int]) -> list[float]:
    """Seconds from an edit at one vendor to its write in the other's log, one edit each, a few per second."""
    there = await named(bed.exact)
    prefix = f"/api/v1/{bed.exact.info['config']['division']}/crm/Accounts(guid'"
    edited: dict[str, float] = {}
    for number in numbers:
        edited[there[number][0]["id"]] = time.time()
        await load.edit(number)
        await asyncio.sleep(0.1)
    found: dict[str, float] = {}

    async def all_there() -> bool:
        for call in await calls(bed.exact, "PUT", prefix):
            account = call["path"].removeprefix(prefix).partition("'")[0]
            if account in edited and 200 <= call["status"] < 300:
                found.setdefault(account, datetime.fromisoformat(call["at"]).timestamp() - edited[account])
        return found.keys() == edited.keys()

    await until(all_there, 120, "every other edit is at the target")
    return list(found.values())


def percentile(values: list[float], part: float = 0.99) -> float:
    """The value that `part` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
