"""A poller against a fake vendor and a fake log; it can be killed and started again."""

from typing import Any

from bus.core import topics
from bus.core.clock import FrozenClock
from bus.core.identity import Hasher
from bus.runtime.state import AccountState
from schemas.system import CommandKind, StateRecord
from services.pollers.account import AccountPoller, holds
from services.pollers.publishing import Counts, PageBuilder, Seen
from tests.fakes import Deaths, FakeCodec, FakeConnector, FakeLog, FakePrivacy, FakeVendor, no_time

HERE = "shop"


class Poller:
    """One account and the process that reads it."""

    def __init__(self, deaths: Deaths | None = None) -> None:
        self.clock = FrozenClock()
        self.codec = FakeCodec()
        self.vendor = FakeVendor()
        self.log = FakeLog(deaths)
        self.connector = FakeConnector(self.vendor)
        self.hasher = Hasher(b"tenant")
        self.written: list[tuple[str, StateRecord]] = []
        self.counts = Counts()

    def life(self) -> AccountPoller:
        """A new process: everything it knows comes from the log."""
        self.state = AccountState(HERE)
        raw = {r.key.encode(): r.value for r in self.log.topic(topics.SEEN)}
        self.offset = 0
        seen = self.seen = Seen(HERE, self.codec, raw)
        seen.recall_held()
        cursors = {c.stream: c for c in (self.codec.decode("", r.value) for r in self.log.topic(topics.CURSORS))}
        applied = 0

        async def refresh() -> None:
            nonlocal applied
            for key, record in self.written[applied:]:
                self.state.apply(key, record)
            applied = len(self.written)

        builder = PageBuilder(
            connection=HERE,
            tenant="acme",
            connector=self.connector,
            codec=self.codec,
            privacy=FakePrivacy(),
            hasher=self.hasher,
            state=self.state,
            seen=seen,
            slot=0,
            clock=self.clock,
        )
        return AccountPoller(
            connection=HERE,
            connector=self.connector,
            builder=builder,
            seen=seen,
            cursors=cursors,
            poll_s={},
            codec=self.codec,
            commit=self.log.commit,
            refresh_state=refresh,
            holds=holds(self.state, seen),
            slot=0,
            clock=self.clock,
            usage=dict,
            on_poll=lambda connection, stream, counts: self.counts.add(counts),
            on_failure=lambda *args: None,
            sleep=no_time,
        )

    async def poll(self, poller: AccountPoller | None = None) -> list[Any]:
        """One poll; the events it published."""
        poller = poller or self.life()
        before = len(self.log.records)
        self.clock.advance(1)
        await poller.poll(poller.streams[0].facts)
        return self.events(before)

    def events(self, start: int = 0) -> list[Any]:
        return [
            self.codec.decode(r.topic, r.value)
            for r in self.log.records[start:]
            if r.topic.startswith("bus.canon.") and r.value is not None
        ]

    def commands(self, kind: CommandKind) -> list[Any]:
        found = [self.codec.decode(r.topic, r.value) for r in self.log.topic(topics.outbound(HERE))]
        return [command for command in found if command.kind is kind]
