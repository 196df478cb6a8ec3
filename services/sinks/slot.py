"""One slot of the sinks: takeover, then the accounts of the slot until it is given away."""

import asyncio
import contextlib
import logging
from collections import defaultdict

from bus.core import topics
from bus.core.errors import BusError, CredentialError, RecordError, TransientError
from bus.kit.connector import Account
from bus.runtime import metrics
from bus.runtime.connections import OpenConnection
from bus.runtime.environment import Environment
from bus.runtime.kafka import OffsetLost
from bus.runtime.publisher import Publisher
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.retry import wait_s
from bus.runtime.slotstate import SlotState
from bus.runtime.slotwork import OwnershipLost
from bus.runtime.state import AccountState
from bus.runtime.table import keep_absorbed
from bus.runtime.tail import read_all
from schemas.system import Outcome, RequestRecord
from services.sinks.account import AccountSink, Delivered
from services.sinks.carrying import Carrier
from services.sinks.ledger import Ledger
from services.sinks.locks import KeyLocks
from services.sinks.pictures import KafkaPictureLog, LoggedPictures
from services.sinks.recovery import Recovery, flows_of, is_lost
from services.sinks.reporting import tell_books, tell_waiting
from services.sinks.requests import Requests
from services.sinks.task import Target

log = logging.getLogger(__name__)

BACKLOG_MAX = 1_000
"""Commands of one account taken and not settled; above it its topic is not read further."""
BACKLOG_LOW = 200
LOST_AGAIN_S = 5.0
"""Between two tries to come back after retention took commands away."""
REPORT_EVERY_S = 5.0


class SinkSlot:
    """The work of one slot."""

    def __init__(self, environment: Environment, slot: int) -> None:
        self._env = environment
        self.slot = slot
        self._publisher = Publisher(environment.settings, f"{environment.settings.client_prefix}-sinks-{slot}")
        names = [connection.name for connection in environment.connections_of(slot)]
        self._state = SlotState(environment.settings, environment.codec, "sinks", slot, names)
        self._ledger = Ledger(slot, self._publisher, environment.codec)
        self._reader = LogReader(environment.settings, f"outbound-{slot}")
        self._requests = LogReader(environment.settings, f"sink-requests-{slot}")
        self._pictures = LoggedPictures(KafkaPictureLog(environment.settings))
        self.accounts: dict[str, AccountSink] = {}
        self._held_at: dict[str, int] = {}
        """Accounts not read further, and where their reading goes on."""
        self._known: dict[str, AccountState] = {}
        self._asked: defaultdict[str, asyncio.Queue[tuple[int, RequestRecord]]] = defaultdict(asyncio.Queue)
        """Requests by account, for when it is open."""
        self._open: list[OpenConnection] = []
        self._is_draining = False

    async def take_over(self) -> None:
        """Steps: 1 fence the old owner; 2 read its state to the end it had then; 3 know what each account waits for; 4 requests
        from their beginning: each account knows which it has carried out."""
        # 1
        await self._publisher.open()
        # 2
        await self._state.load()
        # 3
        self._known = self._state.accounts
        log.info("took over", extra={"slot": self.slot, "warm": self._state.is_warm, "connections": sorted(self._known)})
        # 4
        await self._requests.assign(topics.REQUESTS, {self.slot: BEGINNING})

    async def run(self) -> None:
        """Works until cancelled. Raises what ended the ledger (fencing), the intake or a lane."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ledger.run(), name=f"ledger-{self.slot}")
            tasks.create_task(self._intake(), name=f"intake-{self.slot}")
            tasks.create_task(self._take_requests(), name=f"requests-{self.slot}")
            tasks.create_task(self._report(), name=f"report-{self.slot}")
            tasks.create_task(keep_absorbed(self._recent, self._state.refresh, self.slot), name=f"absorb-{self.slot}")
            for connection in self._env.connections_of(self.slot):
                tasks.create_task(self._account(connection.name), name=connection.name)

    async def drain(self) -> None:
        """Takes no more commands; what is under way ends and is committed."""
        self._is_draining = True
        await asyncio.gather(*(sink.drain() for sink in self.accounts.values()))

    async def close(self) -> None:
        """Lets readers, connectors and the producer go."""
        for opened in self._open:
            with contextlib.suppress(BusError):
                await opened.close()
        await self._pictures.close()
        await self._reader.close()
        await self._requests.close()
        await self._state.close()
        await self._publisher.close()

    # --- accounts ------------------------------------------------------------------------------------------------------------

    async def _account(self, name: str) -> None:
        """Opens an account and serves it; an account that cannot be opened holds up no other."""
        document = next(item for item in self._env.connections_of(self.slot) if item.name == name)
        opened = self._env.open(document, "write")
        self._open.append(opened)
        account = await self._checked(name, opened)
        if account is None:
            await asyncio.Event().wait()  # the reason is in the log and in the metric: a new configuration starts anew
            return
        if self._is_draining:
            return
        state = self._known[name]
        for budget in state.budgets.values():
            opened.budgets.restore({budget.limit: budget.used}, budget.window_start.date())
        locks = KeyLocks()
        target = Target(
            connector=opened.connector,
            account=account,
            state=state,
            ledger=self._ledger,
            clock=self._env.clock,
            hasher=self._env.privacy.tenant_hasher(document.tenant),
            privacy=self._env.privacy,
            codec=self._env.codec,
            locks=locks,
            pictures=self._pictures,
        )
        sink = AccountSink(
            connection=name,
            state=state,
            ledger=self._ledger,
            carrier=Carrier(target),
            codec=self._env.codec,
            clock=self._env.clock,
            locks=locks,
            on_outcome=_counted,
            used_today=opened.budgets.used_today,
        )
        sink.restore()
        self.accounts[name] = sink
        await self._resume(name)
        requests = Requests(sink, target, self._ledger, lambda: self._flows_to(name))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sink.run(), name=name)
            tasks.create_task(self._act(name, requests), name=f"requests-{name}")

    def _flows_to(self, name: str) -> list[str]:
        flows = self._env.config.current.flows
        return [flow for flow, document in flows.items() if document.get("to", {}).get("connection") == name]

    async def _act(self, name: str, requests: Requests) -> None:
        """Carries out what is asked of an account, in the order it was asked."""
        while True:
            offset, request = await self._asked[name].get()
            if not self._is_draining:
                await requests.act(offset, request)

    async def _checked(self, name: str, opened: OpenConnection) -> Account | None:
        """Asks who the account is until it answers; None when it must not be served."""
        attempt = 0
        while True:
            attempt += 1
            try:
                account = await opened.connector.check()
            except (TransientError, CredentialError) as error:
                metrics.put("bus_connection_paused", 1, service="sinks", connection=name)
                if attempt == 1:
                    log.warning("connection waits: %s", error, extra={"connection": name})
                await asyncio.sleep(getattr(error, "retry_after_s", None) or wait_s(attempt, longest_s=60))
            except RecordError as error:
                log.error("connection is not served: %s", error, extra={"connection": name})
                metrics.put("bus_connection_paused", 1, service="sinks", connection=name)
                return None
            else:
                metrics.put("bus_connection_paused", 0, service="sinks", connection=name)
                return account

    async def _report(self) -> None:
        """Tells how every account stands."""
        while True:
            flows = flows_of(self._env.config.current)
            for name, state in self._known.items():
                with contextlib.suppress(TransientError):
                    metrics.put("bus_outbound_lag", await self._lag(name), connection=name)
                tell_waiting(name, state, self._env.clock.now())
                tell_books(name, state, flows, self._env.known.count)
            for opened in self._open:
                opened.report()
            await asyncio.sleep(REPORT_EVERY_S)

    def _recent(self) -> int:
        return sum(state.recent() for state in self._known.values())

    async def _lag(self, name: str) -> int:
        """Commands on the topic that are not settled, those not read yet included."""
        topic = topics.outbound(name)
        sink = self.accounts.get(name)
        if sink is None:
            return await self._length(topic) - (self._known[name].offset or 0)
        position = self._held_at.get(name, self._reader.positions.get((topic, 0), 0))
        return sink.backlog() + max(0, await self._length(topic) - position)

    async def _length(self, topic: str) -> int:
        return (await self._reader.ends(topic, [0]))[0]

    # --- intake --------------------------------------------------------------------------------------------------------------

    async def _intake(self) -> None:
        """Hands commands to the accounts in offset order; an account with too much in hand is not read further."""
        while not self._is_draining:
            try:
                batch = await self._reader.take(500, 0.2) if self._reader.positions else []
            except OffsetLost as error:
                log.error("commands were lost to retention: %s", error)
                await self._recover()
                continue
            except TransientError as error:
                log.warning("intake waits: %s", error)
                await asyncio.sleep(1)
                continue
            for record in batch:
                sink = self.accounts.get(record.topic.removeprefix("bus.outbound."))
                if sink is not None and record.value is not None:
                    sink.deliver(Delivered(raw=record.value, offset=record.offset))
            await self._hold_back()
            if not batch:
                await asyncio.sleep(0.05)

    async def _take_requests(self) -> None:
        """Sorts what operators ask by account; what nobody can read is passed by."""
        while not self._is_draining:
            try:
                batch = await self._requests.take(100, 0.5)
                for record in batch:
                    await self._sort(record)
            except OffsetLost:  # older requests have left the topic: nothing is left to do for them
                await self._requests.assign(topics.REQUESTS, {self.slot: BEGINNING})
            except TransientError as error:
                log.warning("requests wait: %s", error)
                await asyncio.sleep(1)

    async def _sort(self, record: Record) -> None:
        """One request to its account; waits while the registry is away."""
        while record.value is not None:
            try:
                request: RequestRecord = await self._env.codec.read(topics.REQUESTS, record.value)
            except TransientError as error:
                log.warning("requests wait: %s", error)
                await asyncio.sleep(1)
                continue
            except RecordError as error:
                log.warning("a request cannot be read: %s", error, extra={"offset": record.offset})
            else:
                if request.connection in self._known:
                    self._asked[request.connection].put_nowait((record.offset, request))
            return

    async def _recover(self) -> None:
        """Finds the accounts whose place is gone, and lets them come back (law 18); again while Kafka is away."""
        recovery = Recovery(
            slots=self._env.settings.slots,
            read_all=lambda topic, wanted: read_all(self._env.settings, self._env.codec, topic, wanted),
            flows=lambda: flows_of(self._env.config.current),
            clock=self._env.clock,
        )
        for name in list(self.accounts):
            while True:
                try:
                    await self._recover_account(name, recovery)
                    break
                except OwnershipLost:
                    raise
                except TransientError as error:
                    log.warning("recovery waits: %s", error, extra={"connection": name})
                    await asyncio.sleep(LOST_AGAIN_S)

    async def _recover_account(self, name: str, recovery: Recovery) -> None:
        topic = topics.outbound(name)
        position = self._reader.positions.get((topic, 0))
        if position is None:
            return  # held back: its loss is met when it is read on
        beginning = (await self._reader.beginnings(topic, [0]))[0]
        if is_lost(position, beginning, await self._length(topic)):
            await recovery.recover(self._known[name], self._ledger, position, beginning)
            await self._reader.assign(topic, {0: beginning})

    async def _hold_back(self) -> None:
        for name, sink in self.accounts.items():
            backlog = sink.backlog()
            if backlog > BACKLOG_MAX and name not in self._held_at:
                await self._pause(name)
            elif backlog < BACKLOG_LOW and name in self._held_at:
                await self._reader.assign(topics.outbound(name), {0: self._held_at.pop(name)})

    async def _pause(self, name: str) -> None:
        topic = topics.outbound(name)
        self._held_at[name] = self._reader.positions[topic, 0]
        await self._reader.unassign(topic, 0)

    async def _resume(self, name: str) -> None:
        """From what is settled; from 0 where nothing is: a beginning that has moved since is a loss too (law 18)."""
        await self._reader.assign(topics.outbound(name), {0: self._known[name].offset or 0})


def _counted(flow: str, connection: str, outcome: Outcome) -> None:
    metrics.count("bus_outcomes_total", connection=connection, flow=flow, outcome=str(outcome).lower())
