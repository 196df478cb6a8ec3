"""Broken builds: each takes one guard away. A simulation that does not fail on them would prove nothing."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

import services.pollers.account
import services.pollers.judging
import services.pollers.publishing
import services.pollers.scanning
import services.sinks.account
import services.sinks.ledger
import services.sinks.settlement
import tests.simulation.vendor
from bus.core.clock import micros
from schemas.system import IntentState
from services.pollers.account import AccountPoller
from services.pollers.judging import Judgement, Verdict, next_seq
from services.pollers.slot import PollerSlot
from services.sinks.beginnings import Beginnings
from services.sinks.carrying import Carrier
from services.sinks.ledger import Entry, Ledger, Offsets
from services.sinks.locks import KeyLocks
from services.sinks.making import Maker
from services.sinks.masters import Masters
from services.sinks.writing import Writer
from tests.simulation.kafka import Broker
from tests.simulation.vendor import SimConnector


class Build(NamedTuple):
    """Which machine must catch it, by which promise, and how it is broken."""

    machine: str
    caught_by: str
    broken: Callable[[], AbstractContextManager[None]]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _put(owner: Any, name: str, value: Any) -> Callable[[], AbstractContextManager[None]]:
    return lambda: _replaced(owner, name, value)


# --- sinks --------------------------------------------------------------------------------------------------------------------

_commit = Ledger.commit


async def _only_in_memory(self: Ledger, entry: Entry) -> None:
    """An intent is known to this process and to nobody else."""
    intents = [record.intent for _, record in entry.changes if record is not None and record.intent is not None]
    if intents and len(intents) == len(entry.changes) and intents[0].state is IntentState.OPEN:
        for key, record in entry.changes:
            entry.state.apply(key, record)
        return
    await _commit(self, entry)


async def _outcome_is_lost(self: Writer, intent: Any) -> None:
    """No answer is taken for "it did not happen"."""
    closed = msgspec.structs.replace(intent, state=IntentState.CLOSED)
    await self._ledger.commit(Entry(state=self._state, changes=[self._change(closed)]))


@contextmanager
def _no_locks() -> Iterator[None]:
    @contextmanager
    def nobody() -> Iterator[None]:
        yield

    class Free(AbstractContextManager[None]):
        async def __aenter__(self) -> None:
            return None

        async def __aexit__(self, *_: object) -> None:
            return None

        def __exit__(self, *_: object) -> None:
            return None

    with _replaced(KeyLocks, "hold", lambda self, keys: Free()):
        yield


async def _no_epoch(self: Broker, transactional_id: str) -> int:
    """The broker lets an old owner go on."""
    self._epochs[transactional_id] = 1
    return 1


async def _forgets_what_the_older_wrote(self: Masters, task: Any, end: Any) -> None:
    await self._target.ledger.commit(Entry(state=self._state, changes=list(end.changes)))


_standing_change = services.sinks.settlement.standing_change


def _one_standing_per_flow(connection: str, command: Any, *rest: Any) -> Any:
    key, record = _standing_change(connection, command, *rest)
    return key.rsplit("|", 1)[0] + "|1", msgspec.structs.replace(
        record, standing=msgspec.structs.replace(record.standing, source=msgspec.structs.replace(command.source, id="1"))
    )


SINK: Mapping[str, Build] = {
    "intents are not committed": Build("sink", "P2", _put(Ledger, "commit", _only_in_memory)),
    "a lost answer counts as no": Build("sink", "P2", _put(Writer, "_ended", _outcome_is_lost)),
    "a call under way is not waited for": Build("sink", "P2", _put(Writer, "_over_s", lambda self, intent: 60.0)),
    "what a search misses was not made": Build("sink", "P2", _put(Writer, "_facts", lambda self, write: ())),
    "no locks": Build("sink", "P2", _no_locks),
    "begun creates are not looked at": Build("sink", "P2", _put(Beginnings, "need_none", lambda self, *_: None)),
    "older versions are accepted": Build("sink", "P3", _put(services.sinks.account, "is_stale", lambda *_: False)),
    "what an older write did is forgotten": Build("sink", "P3", _put(Masters, "_commit_applied", _forgets_what_the_older_wrote)),
    "offsets run ahead": Build("sink", "P", _put(Offsets, "position", lambda self: self._next)),
    "zombies are not fenced": Build("sink", "P", _put(Broker, "open", _no_epoch)),
    "nothing is tried again": Build("sink", "P4", _put(services.sinks.account.AccountSink, "_release_due", lambda self: None)),
    "one standing for all": Build("sink", "P5", _put(services.sinks.account, "standing_change", _one_standing_per_flow)),
}

# --- pollers ------------------------------------------------------------------------------------------------------------------

_batch_commit = AccountPoller.commit


async def _cursor_first(self: AccountPoller, batch: Any, cursor: Any) -> Any:
    """Two transactions: a death between them skips the page."""
    await self.put_cursors([cursor])
    return await _batch_commit(self, batch, cursor)


async def _never(self: PollerSlot) -> None:
    await asyncio.Event().wait()


def _always_news(state: Any, seen: Any, entity: str, source_id: str, content: str, fields: Any, now: Any, **_: Any) -> Judgement:
    return Judgement(verdict=Verdict.NEWS, seq=next_seq(seen, now))


def _by_the_clock(seen: Any, now: datetime) -> int:
    return micros(now)


_rule = services.pollers.scanning.rule


def _one_is_enough(cursor: Any, found: Any, **how: Any) -> Any:
    before = msgspec.structs.replace(
        cursor, absent=[item.name for item in found.missing], scanned_at=found.began_at - timedelta(seconds=3_600)
    )
    return _rule(before, found, **how)


POLLER: Mapping[str, Build] = {
    "lists are not read twice": Build("poller", "P1", _put(tests.simulation.vendor, "OVERLAP_S", 0.0)),
    "the cursor goes first": Build("poller", "P1", _put(AccountPoller, "commit", _cursor_first)),
    "unclear commits are passing trouble": Build("poller", "P", _put(PollerSlot, "_until_unclear", _never)),
    "older rows are taken": Build("poller", "P3", _put(services.pollers.account, "is_stale", lambda *_: False)),
    "the order follows the clock": Build(
        "poller", "P3", _put(services.pollers.judging, "next_seq", lambda seen, now: micros(now))
    ),
    "everything is news": Build("poller", "P", _put(services.pollers.publishing, "judge", _always_news)),
    "one comparison proves a delete": Build("poller", "P1", _put(services.pollers.account, "rule", _one_is_enough)),
    "pollers are not fenced": Build("poller", "P", _put(Broker, "open", _no_epoch)),
}

# --- both ways ----------------------------------------------------------------------------------------------------------------


def _held_once_is_known(state: Any, seen: Any, entity: str, source_id: str) -> bool:
    """An object that is served a second time while it is held counts as known."""
    return seen is None and any(intent.entity == entity for intent in state.open_intents())


_made = Maker.made


def _untold(self: Maker, *parts: Any) -> Any:
    return msgspec.structs.replace(_made(self, *parts), outgoing=[])


BOTH: Mapping[str, Build] = {
    "echoes are news": Build("both", "law 9", _put(services.pollers.judging, "_is_fresh", lambda known, seen: False)),
    "open writes hold nothing": Build("both", "", _put(services.pollers.judging, "is_held", lambda *_: False)),
    "held once is known": Build("both", "", _put(services.pollers.judging, "is_held", _held_once_is_known)),
    "outrun rows are judged": Build("both", "", _put(services.pollers.judging, "_is_outrun", lambda *_, **__: False)),
    "peers are not told of links": Build("both", "", _put(Maker, "made", _untold)),
    "an echo withdraws what waits": Build("both", "P3", _put(Carrier, "_is_owed", lambda self, command, raw: False)),
    "what was brought is forgotten": Build("both", "P3", _put(Carrier, "brought", lambda self, command, raw: None)),
    "every read-back is as sent": Build("both", "P3", _put(SimConnector, "_as_it_is", staticmethod(lambda found: found))),
}

BUILDS: Mapping[str, Build] = {**SINK, **POLLER, **BOTH}
