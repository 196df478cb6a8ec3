"""One slot of the pollers: takeover, then the accounts of the slot until it is given away."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import msgspec

from bus.core import topics
from bus.core.configuration import Connection
from bus.core.errors import BusError, TransientError
from bus.runtime import metrics
from bus.runtime.connections import OpenConnection
from bus.runtime.environment import Environment
from bus.runtime.publisher import CommitUnclear, Outgoing, Publisher, commit_surely
from bus.runtime.reader import BEGINNING, LogReader
from bus.runtime.slotstate import SlotState
from bus.runtime.table import PartitionTable, keep_absorbed, load_all
from schemas.system import CursorRecord
from services.pollers.account import AccountPoller, holds
from services.pollers.known import SlotSeen
from services.pollers.publishing import Counts, PageBuilder

REPORT_EVERY_S = 5.0

log = logging.getLogger(__name__)


class PollerSlot:
    """The work of one slot."""

    def __init__(self, environment: Environment, slot: int) -> None:
        self._env = environment
        self.slot = slot
        settings = environment.settings
        self._publisher = Publisher(settings, f"{settings.client_prefix}-pollers-{slot}")
        names = [connection.name for connection in environment.connections_of(slot)]
        self._seen = SlotSeen(settings, environment.codec, slot, names)
        self._cursors = PartitionTable(settings, f"cursors-{slot}")
        self._requests = LogReader(settings, f"requests-{slot}")
        self._view = SlotState(settings, environment.codec, "pollers", slot, names, is_matched=False)
        """The sink's records, so that a page is judged by what was true after it arrived."""
        self.accounts: dict[str, AccountPoller] = {}
        self._open: list[OpenConnection] = []
        self._ended = asyncio.Event()
        self._unclear: CommitUnclear | None = None

    async def take_over(self) -> None:
        """Steps: 1 fence the old owner; 2 read what polling knows, where it stands, and the sink's state; 3 requests of the last
        days: what was asked while nobody owned the slot is not lost, and what was done left its trace."""
        # 1
        await self._publisher.open()
        # 2
        await load_all(self._seen.load(), self._cursors.load(topics.CURSORS, self.slot), self._view.load())
        # 3
        await self._requests.assign(topics.REQUESTS, {self.slot: BEGINNING})
        log.info("took over", extra={"slot": self.slot, "cursors": len(self._cursors), "warm": self._seen.is_warm})

    async def run(self) -> None:
        """Works until cancelled. Raises what ended an account or the intake of requests."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_requests(), name=f"requests-{self.slot}")
            tasks.create_task(self._report(), name=f"report-{self.slot}")
            tasks.create_task(self._until_unclear(), name=f"commits-{self.slot}")
            tasks.create_task(self._absorb(), name=f"absorb-{self.slot}")
            for connection in self._env.connections_of(self.slot):
                self.accounts[connection.name] = poller = self._account(connection)
                tasks.create_task(poller.run(), name=connection.name)

    async def close(self) -> None:
        """Lets readers, connectors and the producer go."""
        for opened in self._open:
            with contextlib.suppress(BusError):
                await opened.close()
        for part in (self._requests, self._seen, self._cursors, self._view, self._publisher):
            await part.close()

    def _account(self, connection: Connection) -> AccountPoller:
        opened = self._env.open(connection, "poll")
        self._open.append(opened)
        codec, state = self._env.codec, self._view.accounts[connection.name]
        seen = self._seen.accounts[connection.name]
        cursors = self._cursors_of(connection.name)
        today = self._env.clock.now().date()
        for cursor in cursors.values():
            if cursor.budget_day is not None:
                opened.budgets.restore(cursor.budgets, cursor.budget_day)
        log.info("polling", extra={"connection": connection.name, "known": len(cursors), "day": today.isoformat()})
        builder = PageBuilder(
            connection=connection.name,
            tenant=connection.tenant,
            connector=opened.connector,
            codec=codec,
            privacy=self._env.privacy,
            hasher=self._env.privacy.tenant_hasher(connection.tenant),
            state=state,
            seen=seen,
            slot=self.slot,
            clock=self._env.clock,
        )
        return AccountPoller(
            connection=connection.name,
            connector=opened.connector,
            builder=builder,
            seen=seen,
            cursors=cursors,
            poll_s={
                stream.name: connection.poll_interval_s(stream.name, stream.entities, stream.poll_s)
                for stream in opened.manifest.streams
            },
            codec=codec,
            commit=self._commit,
            refresh_state=self._view.refresh,
            holds=holds(state, seen),
            slot=self.slot,
            clock=self._env.clock,
            usage=opened.budgets.used,
            on_poll=_counted,
            on_failure=_failed,
            on_turn=_polled,
        )

    async def _report(self) -> None:
        """Tells how every account stands."""
        while True:
            for name, poller in self.accounts.items():
                metrics.put("bus_held_objects", poller.held(), connection=name)
                for entity, number in self._seen.accounts[name].known_after(()).items():
                    metrics.put("bus_known_objects", number, connection=name, entity=entity)
                for stream in poller.streams:
                    labels = {"connection": name, "stream": stream.facts.name}
                    metrics.put("bus_stream_paused", 0 if stream.paused is None else 1, **labels)
                    proven = poller.deletes_are_proven(stream.facts.name)
                    metrics.put("bus_deletes_unproven", 0 if proven else 1, **labels)
                    metrics.put("bus_deletes_refused", poller.deletes_refused(stream.facts.name), **labels)
                    if (age_s := poller.age_s(stream.facts.name)) is not None:
                        metrics.put("bus_poll_age_seconds", age_s, **labels)
            for opened in self._open:
                opened.report()
            await asyncio.sleep(REPORT_EVERY_S)

    async def _commit(self, records: Sequence[Outgoing]) -> None:
        """Raises what the publisher raises; after an unclear end the whole slot is taken over anew, whoever hears the error."""
        try:
            await commit_surely(self._publisher, records)
        except CommitUnclear as error:
            self._unclear = error
            self._ended.set()
            raise

    async def _until_unclear(self) -> None:
        """Law 21: the producer is gone, and a poll that took it for passing trouble would try for ever."""
        await self._ended.wait()
        raise self._unclear or CommitUnclear("a commit ended unclear")

    async def _absorb(self) -> None:
        """Reads what was committed into the local copies."""

        def recent() -> int:
            return sum(seen.recent() for seen in self._seen.accounts.values())

        async def refresh() -> None:
            await self._seen.refresh()
            await self._view.refresh()

        await keep_absorbed(recent, refresh, self.slot)

    def _cursors_of(self, name: str) -> dict[str, CursorRecord]:
        cursors = {}
        for _, value in self._cursors.items(topics.key(name, "")):
            cursor: CursorRecord = self._env.codec.decode(topics.CURSORS, value)
            cursors[cursor.stream] = cursor
        return cursors

    async def _take_requests(self) -> None:
        """Hands on what an operator asked for."""
        while True:
            try:
                batch = await self._requests.take(100, 0.5)
            except TransientError as error:
                log.warning("requests wait: %s", error)
                await asyncio.sleep(1)
                continue
            for record in batch:
                if record.value is None:
                    continue
                request = await self._env.codec.read(topics.REQUESTS, record.value)
                poller = self.accounts.get(request.connection)
                if poller is not None:
                    poller.ask(request, record.offset)


def _counted(connection: str, stream: str, counts: Counts) -> None:
    for outcome, number in msgspec.structs.asdict(counts).items():
        if number:
            metrics.count("bus_poll_records_total", number, connection=connection, stream=stream, outcome=outcome)


def _polled(connection: str, stream: str, seconds: float) -> None:
    metrics.count("bus_polls_total", connection=connection, stream=stream, outcome="well")
    metrics.observe("bus_poll_seconds", seconds, connection=connection, stream=stream)


def _failed(connection: str, stream: str, error: str) -> None:
    metrics.count("bus_polls_total", connection=connection, stream=stream, outcome=error)
