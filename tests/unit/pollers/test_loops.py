"""What goes back and forth is noticed; what people do is not."""

from datetime import UTC, datetime, timedelta

from services.pollers.loops import OBJECTS_MAX, TURNS_MAX, WITHIN_S, Loops

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_news_after_each_of_several_writes_is_a_loop() -> None:
    loops = Loops()
    turns = [loops.turned("customer", "1", NOW + timedelta(seconds=n)) for n in range(TURNS_MAX + 1)]
    assert turns == [False] * (TURNS_MAX - 1) + [True, True]


def test_one_write_followed_by_many_edits_is_none() -> None:
    loops = Loops()
    assert not any(loops.turned("customer", "1", NOW) for _ in range(3 * TURNS_MAX))


def test_turns_far_apart_are_none() -> None:
    loops = Loops()
    assert not any(loops.turned("customer", "1", NOW + timedelta(seconds=n * WITHIN_S)) for n in range(3 * TURNS_MAX))


def test_objects_are_counted_apart_and_only_so_many() -> None:
    loops = Loops()
    assert not any(loops.turned("customer", str(n), NOW) for n in range(OBJECTS_MAX + 5))
    assert len(loops._turns) == OBJECTS_MAX
