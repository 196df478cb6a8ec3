"""The settings topics are made with."""

import pytest

from bus.core import topics
from bus.runtime.provisioning import _new_topic


@pytest.mark.parametrize(("copies", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_a_write_counts_when_all_copies_but_one_hold_it(copies: int, in_sync: str) -> None:
    """Of three copies and more one may be lost without a committed record; of two, one broker goes on alone."""
    shapes = topics.fixed_topics(8)
    made = [_new_topic(shape, copies) for shape in shapes]
    assert {topic.config["min.insync.replicas"] for topic in made} == {in_sync}
    assert {topic.replication_factor for topic in made} == {copies}
