"""The brake: when it opens, what it costs while it is open, how it closes, and that nothing is lost."""

import itertools
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from bus.core import topics
from bus.core.errors import AccessRevoked, RateLimited, Unavailable, WriteRejected
from bus.runtime import metrics
from bus.runtime.state import AccountState
from schemas.system import Action, BrakeRecord, Cause, ObjectRef, Outcome, Standing
from services.sinks.brake import ACCOUNT, FLOW, Brake, Brakes, Said, Verdict
from services.sinks.waiting import RELEASED_AT_ONCE_MAX, Pace
from tests.fakes import Deaths, company
from tests.unit.sinks.world import TARGET, World, letters, standing_of, written_order

NOW = datetime(2026, 11, 21, tzinfo=UTC)
GOOD, BAD, NEITHER = Verdict.GOOD, Verdict.BAD, Verdict.NEITHER


def ref(number: int) -> ObjectRef:
    return ObjectRef(connection="shop", entity="customer", id=str(number))


def told(verdict: Verdict, account: Verdict = NEITHER, **more: Any) -> Said:
    return Said(flow=verdict, account=account, cause=Cause.WRITE_REJECTED, **more)


def after(brakes: Brakes, verdicts: list[Verdict]) -> int:
    """How many of them it took to open the flow's brake; 0: it did not open."""
    for number, verdict in enumerate(verdicts):
        brakes.judge("f", ref(number), told(verdict), brakes.enter("f", NOW), NOW)
        if brakes.of("f").record.open:
            return number + 1
    return 0


def test_a_run_of_failures_opens_it() -> None:
    assert after(Brakes({}), [BAD] * 9 + [GOOD] + [BAD] * 9) != 10
    assert after(Brakes({}), [BAD] * 50) == FLOW.run_max == 10


def test_half_of_the_newest_failing_opens_it_once_there_are_enough() -> None:
    assert after(Brakes({}), [GOOD, BAD] * 40) == FLOW.window_min == 20
    assert after(Brakes({}), [BAD, GOOD, GOOD] * 400) == 0
    assert after(Brakes({}), [GOOD] * 100 + [BAD, GOOD, BAD] * 40) < 180


def test_one_bad_record_in_five_hundred_never_opens_it() -> None:
    assert after(Brakes({}), ([GOOD] * 499 + [BAD]) * 40) == 0


def test_one_bad_record_counts_once_however_often_it_is_tried() -> None:
    brakes = Brakes({})
    for _attempt in range(100):
        brakes.judge("f", ref(1), told(BAD, BAD), brakes.enter("f", NOW), NOW)
    assert not any(record.open for record in brakes.records())


def test_probes_are_one_at_a_time_and_farther_apart_each_time() -> None:
    for rule, first_s, longest_s in ((FLOW, 60, 3_600), (ACCOUNT, 10, 300)):
        brake, now, waits = Brake(rule, BrakeRecord(flow="f", open=False)), NOW, []
        brake.open(now, "why")
        for _attempt in range(12):
            assert brake.record.probe_at is not None
            waits.append((brake.record.probe_at - now).total_seconds())
            now = brake.record.probe_at
            assert brake.holds(now - timedelta(seconds=1))
            assert brake.is_due(now)
            brake.begin_probe()
            assert brake.holds(now), "one at a time"
            brake.judge(ref(1), BAD, told(BAD), now, is_probe=True)
        assert waits[:3] == [first_s, 2 * first_s, 4 * first_s]
        assert waits[-1] == longest_s
        brake.begin_probe()
        brake.judge(ref(1), GOOD, told(GOOD), now, is_probe=True)
        assert not brake.record.open


def test_a_probe_that_tells_nothing_lets_the_next_one_pass_at_once_unless_the_vendor_wants_rest() -> None:
    brakes = Brakes({})
    brakes.of("f").open(NOW, "why")
    now = NOW + timedelta(seconds=60)
    passage = brakes.enter("f", now)
    brakes.judge("f", ref(1), told(NEITHER), passage, now)
    assert brakes.of("f").is_due(now)
    passage = brakes.enter("f", now)
    brakes.judge("f", ref(2), told(NEITHER, wait_s=500), passage, now)
    assert not brakes.of("f").is_due(now + timedelta(seconds=499))
    assert brakes.of("f").is_due(now + timedelta(seconds=500))


def test_what_a_person_opened_only_a_person_closes() -> None:
    brakes = Brakes({})
    brakes.of("f").open(NOW, "stock-taking", by_hand=True)
    assert brakes.of("f").holds(NOW + timedelta(days=100))
    assert brakes.of("f").cause is Cause.BRAKE_OPEN
    brakes.of("f").close()
    assert not brakes.of("f").holds(NOW)


def test_the_pace_is_bounded() -> None:
    pace = Pace(per_s=20, at_once_max=RELEASED_AT_ONCE_MAX)
    assert pace.room(NOW) == 0
    assert pace.room(NOW + timedelta(seconds=0.5)) == 10
    assert pace.room(NOW + timedelta(hours=1)) == RELEASED_AT_ONCE_MAX
    pace.take()
    assert pace.room(NOW + timedelta(hours=1)) == RELEASED_AT_ONCE_MAX - 1


# --- in the sink ---------------------------------------------------------------------------------------------------------------


def customers(world: World, numbers: range, **more: Any) -> None:
    for number in numbers:
        world.command(company(f"N{number}", email=f"{number}@shop.test"), source_id=str(number), **more)


def broken(world: World, error: Exception) -> list[bool]:
    """The vendor refuses every write while the list holds True."""
    perform, is_broken = world.connector.perform, [True]

    async def refusing(write: Any, step: Any, done: Any) -> Any:
        if is_broken[0]:
            world.connector._called("perform")
            raise error
        return await perform(write, step, done)

    world.connector.perform = refusing  # type: ignore[method-assign]
    return is_broken


def standings(state: AccountState) -> Counter[Standing]:
    return Counter(record.standing for record in state.standings())


def gauge(flow: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("bus_brake_open", {"connection": TARGET, "flow": flow})


async def opened(world: World, number: int = 200) -> tuple[AccountState, list[bool]]:
    world.backfilled()
    await world.live()
    is_broken = broken(world, WriteRejected("name is mandatory"))
    customers(world, range(number))
    return await world.live(), is_broken


async def test_when_every_record_fails_ten_are_dead_and_the_rest_is_parked(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.ERROR):
        state, _is_broken = await opened(world)
    assert len(letters(world)) == 10
    assert standings(state) == {Standing.DEAD: 10, Standing.PARKED: 190}
    parked = list(state.parked())
    assert {record.cause for record in parked} == {Cause.BRAKE_OPEN}
    assert {record.retry_at for record in parked} == {None}
    by_source = {world.codec.decode("", raw).source: raw for raw in world.outbound if world.codec.decode("", raw).flow}
    assert all(record.command == by_source[record.source] for record in parked), "with its bytes"
    assert world.connector.calls.count("perform") <= 10 + 32
    assert gauge("f") == 1
    alerts = [record for record in caplog.records if getattr(record, "alert", False)]
    assert len(alerts) == 1
    assert "10 objects failed" in alerts[0].reason  # type: ignore[attr-defined]
    assert world.restored().offset == len(world.outbound), "the topic goes on"


async def test_it_is_open_after_a_restart_and_what_comes_costs_no_call() -> None:
    world = World()
    await opened(world)
    calls = len(world.connector.calls)
    customers(world, range(200, 260))
    state = await world.live()
    assert len(world.connector.calls) == calls
    assert standings(state)[Standing.PARKED] == 250
    assert len(letters(world)) == 10
    assert gauge("f") == 1


async def test_failing_probes_stay_parked_and_become_rare() -> None:
    world = World()
    state, _is_broken = await opened(world)
    calls = len(world.connector.calls)
    state = await world.live(rounds=400, idle=240)  # two hours
    probes = len(world.connector.calls) - calls
    assert 5 <= probes <= 16  # each looks for the customer and tries to make it
    assert len(letters(world)) == 10
    assert standings(state) == {Standing.DEAD: 10, Standing.PARKED: 190}
    assert state.brakes["f"].probes >= 5


async def test_a_probe_that_succeeds_closes_it_and_all_goes_on_in_order_at_a_bounded_pace() -> None:
    world = World()
    state, is_broken = await opened(world)
    is_broken[0] = False
    made: list[int] = []
    for _ in range(200):
        state = await world.live(idle=1, step_s=1)
        made.append(len(world.vendor.objects["customer"]))
        if made[-1] == 190:
            break
    assert made[-1] == 190, "nothing is lost"
    steps = [later - earlier for earlier, later in itertools.pairwise(made)]
    assert max(steps) <= RELEASED_AT_ONCE_MAX + 1
    assert standings(state) == {Standing.DEAD: 10, Standing.WRITTEN: 190}
    assert not state.brakes["f"].open
    assert gauge("f") == 0
    names = [document.company_name for document in world.vendor.objects["customer"].values()]  # type: ignore[union-attr]
    numbers = [int(str(name)[1:]) for name in names[1:]]  # the first was the probe
    assert numbers == sorted(numbers)


async def test_one_bad_record_in_five_hundred_stops_nobody() -> None:
    world = World()
    world.backfilled()
    await world.live()
    perform = world.connector.perform

    async def choosy(write: Any, step: Any, done: Any) -> Any:
        if write.source.id == "250":
            raise WriteRejected("no")
        return await perform(write, step, done)

    world.connector.perform = choosy  # type: ignore[method-assign]
    customers(world, range(500))
    state = await world.live()
    assert standings(state) == {Standing.DEAD: 1, Standing.WRITTEN: 499}


async def test_a_bug_in_every_record_opens_it_too() -> None:
    world = World()
    world.backfilled()
    await world.live()
    broken(world, ZeroDivisionError())
    customers(world, range(60))
    state = await world.live(rounds=300)
    assert state.brakes["f"].open
    assert len(letters(world)) == 0
    assert standings(state) == {Standing.PARKED: 60}


async def test_what_the_processors_refuse_opens_it() -> None:
    world = World()
    world.backfilled()
    await world.live()
    customers(world, range(100), action=Action.NONE, reason="dead:MISSING_TABLE_ROW:table vat has no row")
    state = await world.live()
    assert len(letters(world)) == 10
    assert standings(state) == {Standing.DEAD: 10, Standing.PARKED: 90}


async def test_another_flow_goes_on() -> None:
    world = World()
    await opened(world, 40)
    customers(world, range(100, 101), flow="g", action=Action.NONE, reason="when")
    state = await world.live()
    assert standing_of(state, "100", flow="g").standing is Standing.FILTERED


@pytest.mark.parametrize(
    ("error", "cause"), [(Unavailable("502"), Cause.CONNECTION_UNAVAILABLE), (AccessRevoked("log in"), Cause.CREDENTIAL)]
)
async def test_an_outage_costs_a_few_calls_and_not_one_per_object(error: Exception, cause: Cause) -> None:
    world = World()
    world.backfilled()
    await world.live()
    is_broken = broken(world, error)
    customers(world, range(300))
    state = await world.live()
    assert state.brakes[""].open
    assert {record.cause for record in state.parked()} == {cause}
    assert len(list(state.parked())) == 300
    assert world.connector.calls.count("perform") <= 10 + 32
    calls = world.connector.calls.count("perform")
    customers(world, range(300, 400))
    state = await world.live(idle=120)  # an hour
    assert world.connector.calls.count("perform") - calls <= 20, "only probes call"
    assert letters(world) == []
    is_broken[0] = False
    state = await world.live(rounds=400, idle=60)
    assert standings(state) == {Standing.WRITTEN: 400}
    assert len(world.vendor.objects["customer"]) == 400


async def test_a_used_up_budget_is_no_outage() -> None:
    world = World()
    world.backfilled()
    await world.live()
    is_broken = broken(world, RateLimited("used up", retry_after_s=60))
    customers(world, range(40))
    with pytest.raises(AssertionError, match="not quiet"):
        await world.live(rounds=3)
    assert not any(record.open for record in world.restored().brakes.values())
    is_broken[0] = False
    assert standings(await world.live()) == {Standing.WRITTEN: 40}


async def test_a_later_version_of_a_written_document_is_no_concern_of_the_brake() -> None:
    world = World()
    raw = await written_order(world)
    broken(world, WriteRejected("no"))
    customers(world, range(20))
    await world.live()
    world.replay(raw, seq=world.codec.decode("", raw).seq + 5, request=None)
    state = await world.live()
    standing = standing_of(state, "Invoice:1", "sales_invoice")
    assert (standing.standing, standing.outcome) == (Standing.WRITTEN, Outcome.CREATED)


async def test_a_death_at_any_point_around_the_opening_loses_nothing() -> None:
    def history(deaths: Deaths) -> World:
        world = World(deaths)
        world.backfilled()
        customers(world, range(14))
        return world

    async def life(world: World) -> AccountState:
        broken(world, WriteRejected("no"))
        return await world.survive()

    whole = history(Deaths())
    await life(whole)
    for point in range(1, whole.deaths.passed + 1):
        world = history(Deaths(at=point))
        state = await life(world)
        assert len(list(state.standings())) == 14, point
        assert state.brakes["f"].open or standings(state)[Standing.DEAD] == 14, point


def test_a_brake_is_state() -> None:
    from bus.runtime.state import brake_key
    from schemas.system import StateRecord

    state = AccountState(TARGET)
    record = BrakeRecord(flow="f", open=True, reason="x", opened_at=NOW, probe_at=NOW)
    state.apply(brake_key(TARGET, "f"), StateRecord(connection=TARGET, brake=record))
    assert Brakes(state.brakes).of("f").record == record
    assert topics.split_key(brake_key(TARGET, "f"))[1] == TARGET
    assert msgspec.structs.asdict(record)["by_hand"] is False
