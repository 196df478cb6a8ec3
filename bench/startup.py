"""Start-up of the embedded Kafka and registry: on an empty folder, and on one that was used."""

import tempfile
import time
from pathlib import Path

from bench.measure import Figure
from bus.embedded import Cluster


async def figures(_size: int) -> list[Figure]:
    """Seconds until both answer; the artifacts are in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        cold, _ = _started(Path(folder))
        warm, memory = _started(Path(folder))
    return [
        Figure(name="embedded parts, cold", value=cold, unit="s", note="empty data folder"),
        Figure(name="embedded parts, warm", value=warm, unit="s", peak_mib=memory, note="the folder of before"),
    ]


def _started(folder: Path) -> tuple[float, float]:
    cluster = Cluster(folder, kafka_port=0, registry_port=0)
    began = time.perf_counter()
    cluster.start()
    try:
        return time.perf_counter() - began, float(sum(cluster.rss_mb().values()))
    finally:
        cluster.stop()
