"""Stuck is: events wait and no offset moves, or no fetch is answered."""

from services.processors.engine.watch import ENGINE, STUCK_S, Progress, Stuck, Watch


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def progress(committed=0, waiting=0, fetched_at=1000.0):
    return Progress(committed=committed, open=waiting, fetched_at=fetched_at)


def test_moving_or_idle_is_well():
    time = Time()
    watch = Watch(time, stall_s=60, fetch_age_s=6_000)
    for committed in range(5):
        time.now += 59
        assert watch.reason(progress(committed, 10)) is None
    time.now += 500
    assert watch.reason(progress(4, 0)) is None
    time.now += 59
    assert watch.reason(progress(4, 3)) is None


def test_waiting_events_without_a_commit_are_told():
    time = Time()
    watch = Watch(time, stall_s=60, fetch_age_s=6_000)
    assert watch.reason(progress(4, 3)) is None
    time.now += 61
    assert watch.reason(progress(4, 3)) == "3 events wait and no offset moved for 61 s"
    assert watch.reason(progress(5, 2)) is None


def test_a_dead_fetcher_is_told_even_without_events():
    time = Time()
    watch = Watch(time, stall_s=60, fetch_age_s=60)
    assert watch.reason(progress(fetched_at=0.0)) is None
    time.now += 61
    assert watch.reason(progress(fetched_at=1000.0)) == "no answer to a fetch for 61 s"


def test_an_engine_is_stuck_only_while_all_it_needs_answers():
    """After a half-open network Faust never fetched again, and stood still for five minutes before anybody ended it (found by the
    campaign, row 5)."""
    time = Time()
    stuck, watch = Stuck(time), Watch(time)

    def reason(found, away):
        stands_still = watch.reason(found)
        return stuck.reason(away | ({ENGINE: stands_still} if stands_still else {}))

    for _ in range(20):
        assert reason(progress(), {"kafka": "no answer"}) is None, "a broker that is away is waited for"
        time.now += 60
    assert reason(progress(), {"registry": "no answer"}) is None
    time.now += STUCK_S
    assert reason(progress(), {}) is None, "it has just come back"
    time.now += 1
    assert "no answer to a fetch" in (reason(progress(), {}) or "")
    assert reason(progress(fetched_at=time.now), {}) is None
