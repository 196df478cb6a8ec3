"""Does an object go back and forth between two accounts? An alert of last resort: echoes are told apart before (law 9).

Kept in memory only: it stops nothing and decides nothing, so that nothing is lost with it. An object that does go back and forth
makes its five turns in every process that lives as long as they take, and is told by the next one.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

TURNS_MAX = 5
WITHIN_S = 3_600
OBJECTS_MAX = 10_000
"""Objects remembered; those that rest longest are forgotten first."""


class Loops:
    """Writes of ours that news followed, by object."""

    def __init__(self) -> None:
        self._turns: OrderedDict[tuple[str, str], list[datetime]] = OrderedDict()

    def turned(self, entity: str, source_id: str, written_at: datetime) -> bool:
        """News of an object that we wrote at `written_at`. True once TURNS_MAX writes within WITHIN_S were followed by news."""
        key = (entity, source_id)
        turns = self._turns.pop(key, [])
        turns = [turn for turn in turns if turn > written_at - timedelta(seconds=WITHIN_S)]
        if written_at not in turns:
            turns.append(written_at)
        self._turns[key] = turns
        if len(self._turns) > OBJECTS_MAX:
            self._turns.popitem(last=False)
        return len(turns) >= TURNS_MAX
