"""What a client remembers of a broker is void when that broker has been away."""

import pytest

from bus.embedded import Cluster
from bus.runtime.reader import LogReader
from bus.runtime.settings import BusSettings
from tests.clusters import create_topics

pytestmark = pytest.mark.broker


async def test_offsets_are_told_after_the_leader_has_changed(fresh_cluster: Cluster) -> None:
    """The broker came back with a newer epoch than the client learnt: asking again must not go on for ever."""
    create_topics(fresh_cluster, ["returns"])
    reader = LogReader(BusSettings(kafka_bootstrap=fresh_cluster.bootstrap), "returns")
    try:
        assert await reader.ends("returns", [0]) == {0: 0}
        fresh_cluster.stop_kafka()
        fresh_cluster.start_kafka()
        assert await reader.ends("returns", [0]) == {0: 0}
    finally:
        await reader.close()
