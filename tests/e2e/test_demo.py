"""`bus demo`, small: both systems agree by their own books, and a second reading of everything writes nothing."""

from pathlib import Path

import pytest

from services.demonstration.play import Play
from tests.e2e.world import EXAMPLE

pytestmark = [pytest.mark.broker, pytest.mark.e2e]


async def test_the_books_balance_and_a_second_run_writes_nothing(tmp_path: Path) -> None:
    play = Play(
        folder=tmp_path / "demo", example=EXAMPLE, orders=24, seed=5, real_limits=False, tell=lambda _: None, show=lambda _: None
    )
    outcomes = await play.run()
    assert all(finding.expected for finding in outcomes.findings), "nothing was expected: the demo proves nothing"
    assert outcomes.second_run_writes == {"exact-nl": 0, "qbo-nl": 0}
    assert outcomes.holds, outcomes
