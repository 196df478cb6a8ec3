"""What the sinks tell of their accounts: what waits, where everything stands, and whether the books balance (law 17).

All of it is counted from committed records: a crash changes no figure.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from bus.core.configuration import Flow
from bus.runtime import metrics
from bus.runtime.state import AccountState
from schemas.system import Cause, Standing

Known = Callable[[str, str], int | None]
"""Objects of an entity of a connection that polling knows; None before they were counted."""


def tell_waiting(connection: str, state: AccountState, now: datetime) -> None:
    """What waits at an account, and what is under way there."""
    waiting = list(state.parked())
    causes = Counter(str(standing.cause or Cause.UNKNOWN) for standing in waiting)
    for cause in Cause:
        metrics.put("bus_parked", causes[str(cause)], connection=connection, cause=str(cause))
    since = min((standing.parked_at for standing in waiting if standing.parked_at), default=now)
    metrics.put("bus_oldest_waiting_seconds", (now - since).total_seconds(), connection=connection)
    metrics.put("bus_open_intents", sum(1 for _ in state.open_intents()), connection=connection)


def tell_books(connection: str, state: AccountState, flows: Sequence[Flow], known: Known) -> None:
    """Where the objects of each flow into an account stand, and how many stand nowhere yet."""
    for flow in flows:
        if flow.to.connection != connection:
            continue
        counts = state.counts(flow.name)
        for standing in Standing:
            if standing is not Standing.UNKNOWN:
                number = counts.get(standing, 0)
                metrics.put("bus_standings", number, connection=connection, flow=flow.name, standing=str(standing).lower())
        read = known(flow.from_.connection, flow.from_.entity)
        if read is not None:
            metrics.put("bus_books_open", read - sum(counts.values()), flow=flow.name)
