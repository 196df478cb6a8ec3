"""Law 18: one replay job, whole or continued; the newest version only, at a capped rate, and never twice what was committed."""

import asyncio

import pytest

from bus.core.errors import Unavailable
from bus.core.topics import canonical, event_key
from bus.runtime.slotwork import OwnershipLost
from schemas import canon
from schemas.canon import Operation
from schemas.system import Action, JobState
from services.processors.handler import Handler
from tests.unit.processors.replaying.world import CONFIGURATION, START, World, keys, new_job, routes_of


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def room() -> asyncio.Semaphore:
    return asyncio.Semaphore(2)


async def test_a_flow_is_replayed_with_the_newest_version_of_each_object(world, room):
    world.log.event("customer", "1", 1)
    world.log.event("customer", "2", 1)
    world.log.event("customer", "1", 2)
    world.log.event("customer", "3", 1, partition=1)
    world.log.event("customer", "4", 1, connection="other")
    await world.running(new_job(flow="customers"), room).run()
    assert world.told() == [("customers", "2", 1), ("customers", "1", 2), ("customers", "3", 1)]
    assert (world.job.state, world.job.read, world.job.published) == (JobState.DONE, 3, 3)
    assert world.job.ended_at is not None
    assert world.job.positions == world.job.ends


async def test_commands_are_those_of_live_but_for_their_marks(world, room):
    record = world.log.event("customer", "1", 5)
    await world.running(new_job(flow="customers", repair="true"), room).run()
    [command] = world.commands()
    assert (command.request, command.repair, command.seq, command.config_version) == ("r-1", True, 5, 7)
    handler = Handler(world.codec)
    live = [world.codec.decode(out.topic, out.value) for out in handler.handle(record.topic, "", record.value, world.routes)]
    assert command.id == next(item.id for item in live if item.flow == "customers")
    assert command.event == record.value


async def test_what_is_gone_or_withdrawn_is_not_replayed_as_it_was(world, room):
    """A tombstone is nothing; a deletion and a cancelled document speak for their older versions."""
    world.log.event("customer", "1", 1)
    world.log.put(canonical("customer"), 0, event_key("shop", "customer", "1"), None)
    world.log.event("customer", "2", 1)
    world.log.event("customer", "2", 2, op=Operation.DELETED)
    await world.running(new_job(flow="customers"), room).run()
    [command] = world.commands()
    assert (command.source.id, command.action, command.reason) == ("2", Action.NONE, "deleted")


async def test_by_keys_and_by_entity_and_everything_of_a_connection(world, room):
    for number in range(6):
        world.log.event("customer", str(number), partition=number % 3)
        world.log.event("sales_order", str(number), partition=number % 3)
    await world.running(new_job(entity="customer", keys=keys("1", "4", "nobody")), room).run()
    assert sorted(world.told()) == [("customers", "1", 1), ("customers", "4", 1), ("to-till", "1", 1), ("to-till", "4", 1)]
    whole = World()
    whole.log = world.log
    await whole.running(new_job(), room).run()
    assert len(whole.told()) == 18
    assert [flow for flow, _, _ in whole.told()][-6:] == ["orders"] * 6, "master data before documents"


async def test_by_time_the_newest_version_decides(world, room):
    world.log.event("customer", "1", 1)
    world.log.event("customer", "1", 9)
    world.log.event("customer", "2", 3)
    world.log.event("customer", "3", 4)
    args = {"flow": "customers", "since": START.replace(hour=10).isoformat(), "until": START.replace(hour=13).isoformat()}
    await world.running(new_job(**args), room).run()
    assert world.told() == [("customers", "2", 3)]


async def test_the_flows_start_holds_for_replayed_documents(world, room):
    old = canon.SalesOrder(currency="EUR", order_date=START.date().replace(month=11))
    world.log.event("sales_order", "old", after=old)
    world.log.event("sales_order", "new", after=canon.SalesOrder(currency="EUR", order_date=START.date()))
    await world.running(new_job(flow="orders"), room).run()
    assert [(command.source.id, command.action, command.reason) for command in world.commands()] == [
        ("old", Action.NONE, "start"), ("new", Action.CREATE, None),
    ]  # fmt: skip


async def test_killed_before_any_commit_it_goes_on_with_none_missing_and_none_twice(room):
    async def until_done(dies_at: list[int]) -> World:
        world = World()
        for number in range(23):
            world.log.event("customer", str(number), partition=number % 3)
            world.log.event("customer", str(number), 2, partition=number % 3)
        job = new_job(flow="customers", rate_per_s="3")
        for step in dies_at:
            world.dies_at = step
            with pytest.raises(OwnershipLost):
                await world.running(job, room).run()
            job = world.jobs[-1] if world.jobs else job
        world.dies_at = None
        await world.running(job, room).run()
        return world

    whole = await until_done([])
    assert len(whole.told()) == 23
    for step in range(1, len(whole.commits) + 1):
        killed = await until_done([step, step])
        assert sorted(killed.told()) == sorted(whole.told()), f"killed before commit {step}"
        assert (killed.job.state, killed.job.published, killed.job.read) == (JobState.DONE, 23, 23)


async def test_no_more_commands_than_the_rate_allows(world, room):
    for number in range(100):
        world.log.event("customer", str(number))
    await world.running(new_job(flow="customers", rate_per_s="10"), room).run()
    sizes = [len(records) for records in world.commits if records]
    assert max(sizes) <= 10
    assert sum(world.slept) == pytest.approx(100 / 10)


async def test_it_waits_for_its_configuration_and_for_every_processor_and_ends_behind_both(world, room):
    world.log.event("customer", "1")
    world.routes = routes_of(6, CONFIGURATION.replace("name: to-till", "name: not-yet"))
    world.late = [[(canonical("customer"), 2)], [(canonical("customer"), 2)], []]

    def happens(_: World) -> None:
        if world.routes.version == 6:
            assert world.job.detail == "waits for configuration 7"
            world.routes = routes_of(7)
        elif world.late:  # mapped by a processor that does not know the flow yet
            world.log.event("customer", f"while {len(world.late)}")

    world.on_commit = happens
    await world.running(new_job(flow="to-till", after_version="7"), room).run()
    assert world.job.state is JobState.DONE
    assert [source for _, source, _ in world.told()] == ["1", "while 2"]
    assert world.asked_behind == [(3, 7)] * 3
    details = [job.detail for job in world.jobs if job.state is JobState.WAITING]
    assert details[1].startswith("waits for processors to report configuration 7: 1 partitions, bus.canon.customer 2")


async def test_each_batch_is_mapped_with_the_newest_configuration(world, room):
    for number in range(4):
        world.log.event("customer", str(number))

    def applied(_: World) -> None:
        world.routes = routes_of(7 + len(world.commits))

    world.on_commit = applied
    await world.running(new_job(flow="customers", rate_per_s="2"), room).run()
    assert [command.config_version for command in world.commands()] == [8, 8, 9, 9]


@pytest.mark.parametrize(
    ("connection", "args", "why"),
    [
        ("shop", {"flow": "nothing"}, "there is no flow nothing from shop"),
        ("ledger", {"flow": "customers"}, "there is no flow customers from ledger"),
        ("shop", {"flow": "customers", "entity": "product"}, "there is no flow customers of product from shop"),
        ("shop", {"entity": "product"}, "no flow reads product from shop"),
        ("ledger", {}, "no flow reads anything from ledger"),
        ("gone", {}, "there is no connection gone"),
        ("shop", {"entity": "stone"}, "there is no entity 'stone'"),
        ("shop", {"keys": "1, 2"}, "keys is no JSON list"),
        ("shop", {"keys": keys(*(str(number) for number in range(501)))}, "501 keys: at most 500"),
        ("shop", {"since": "yesterday"}, "since 'yesterday' is no ISO instant"),
        ("shop", {"until": "2026-12-01T09:00:00"}, "has no offset from UTC"),
        ("shop", {"rate_per_s": "0"}, "rate_per_s '0' is no number from 1"),
        ("shop", {"rate_per_s": "1.5"}, "rate_per_s '1.5' is no number"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_a_reason(world, room, connection, args, why):
    await world.running(new_job(connection, **args), room).run()
    assert world.job.state is JobState.REFUSED
    assert why in world.job.detail
    assert (world.commands(), world.job.ends) == ([], {})


async def test_a_flow_removed_in_the_middle_ends_the_job(world, room):
    for number in range(4):
        world.log.event("customer", str(number))

    def removed(_: World) -> None:
        if world.told():
            world.routes = routes_of(8, CONFIGURATION.replace("name: customers", "name: clients"))

    world.on_commit = removed
    await world.running(new_job(flow="customers", rate_per_s="2"), room).run()
    assert (world.job.state, world.job.detail) == (JobState.REFUSED, "there is no flow customers from shop")
    assert len(world.told()) == world.job.published == 2


async def test_a_cancelled_job_ends_at_its_next_step_and_publishes_nothing_more(world, room):
    for number in range(9):
        world.log.event("customer", str(number))
    running = world.running(new_job(flow="customers", rate_per_s="2"), room)
    world.on_commit = lambda _: running.cancel("not today") if len(world.told()) == 4 else None
    await running.run()
    assert (world.job.state, world.job.detail, world.job.published) == (JobState.CANCELLED, "not today", 4)
    assert len(world.told()) == 4


async def test_a_job_that_waits_can_be_cancelled(world, room):
    world.late = [[(canonical("customer"), 0)]] * 3
    running = world.running(new_job(flow="customers", after_version="7"), room)
    world.on_commit = lambda _: running.cancel("no")
    await running.run()
    assert world.job.state is JobState.CANCELLED


async def test_an_outage_goes_by_and_nothing_is_published_twice(world, room):
    for number in range(6):
        world.log.event("customer", str(number), partition=number % 3)

    def away(_: World) -> None:
        if len(world.told()) == 2 and world.log.fault is None and world.slept.count(7) == 0:
            world.log.fault = Unavailable("away", retry_after_s=7)

    world.on_commit = away
    await world.running(new_job(flow="customers", rate_per_s="2"), room).run()
    assert (world.job.state, sorted(world.told())) == (JobState.DONE, [("customers", str(number), 1) for number in range(6)])
    assert world.slept.count(7) == 1


async def test_bytes_nobody_can_read_are_passed_by(world, room):
    world.log.put(canonical("customer"), 0, event_key("shop", "customer", "1"), b"junk")
    world.log.put(canonical("customer"), 0, event_key("shop", "customer", "2"), b"\x00\x00\x00\x03\xe7junk")
    world.log.event("customer", "3")
    await world.running(new_job(flow="customers"), room).run()
    assert (world.told(), world.job.state) == ([("customers", "3", 1)], JobState.DONE)


async def test_a_bug_ends_the_job_and_not_its_slot(world, room, monkeypatch):
    world.log.event("customer", "1")
    monkeypatch.setattr(Handler, "commands", lambda *_: 1 / 0)
    await world.running(new_job(flow="customers"), room).run()
    assert (world.job.state, "ZeroDivisionError" in world.job.detail) == (JobState.REFUSED, True)


async def test_a_partition_with_nothing_wanted_is_looked_at_once(world, room):
    world.log.event("customer", "1", partition=1)
    await world.running(new_job(flow="customers"), room).run()
    topic = canonical("customer")
    assert [read for read in world.log.reads if read[:2] == (topic, 1)] == [(topic, 1, -2, 1), (topic, 1, 0, 1)]
    assert len(world.log.reads) == 2


async def test_a_long_look_writes_down_where_it_stands(world, room):
    for number in range(30):
        world.log.event("customer", str(number), 20)

    async def read_slowly(*place):
        async for batch in plain(*place):
            world.clock.advance(6)
            yield batch

    plain, world.log.read = world.log.read, read_slowly
    await world.running(new_job(flow="customers", until=START.isoformat()), room).run()
    assert world.commands() == []
    assert len(world.jobs) > 3, "progress was committed though nothing was published"
