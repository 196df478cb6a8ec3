"""What a service's slots share, and when it is read."""

import pytest

from bus.core.errors import NetworkFailure
from bus.runtime.environment import Environment
from bus.runtime.privacy import MasterKey
from bus.runtime.settings import BusSettings


async def test_a_registry_that_goes_away_behind_an_open_codec_ends_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec was opened twice: by the step that waits for the registry, and by one that took its absence for the end."""
    environment = Environment(BusSettings(registry_url="http://nowhere.invalid", master_key=MasterKey.generate()))
    read = []
    for follower in (environment.keys, environment.grants, environment.known, environment.config):

        async def start(name: str = type(follower).__name__) -> None:
            read.append(name)

        monkeypatch.setattr(follower, "start", start)

    async def away() -> dict[str, int]:
        raise NetworkFailure("registry: no answer")

    monkeypatch.setattr(environment.registry, "ids", away)
    await environment.start()
    assert sorted(read) == ["ConfigFollower", "GrantFollower", "KnownObjects", "SubjectKeys"]
    await environment.registry.close()
