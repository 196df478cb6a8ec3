"""Which calls go through a proxy of the environment."""

import pytest

from bus.kit.transport import is_here


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8081/apis", True),
        ("http://[::1]:8081", True),
        ("http://localhost:9", True),
        ("https://start.exactonline.nl", False),
        ("http://10.0.0.7:8081", False),
    ],
)
def test_this_machine_is_reached_without_one(url: str, here: bool) -> None:
    assert is_here(url) is here
