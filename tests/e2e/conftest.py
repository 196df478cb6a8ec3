"""The world of a test, and its end."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.clusters import RunningCluster
from tests.e2e.world import World


@pytest.fixture
async def world(cluster: RunningCluster, tmp_path: Path) -> AsyncIterator[World]:
    """A world on the session's cluster; `open` and `launch` are the test's."""
    found = World(cluster, tmp_path, uuid4().hex[:8])
    yield found
    await found.close()
