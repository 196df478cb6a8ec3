"""The pair in one process: both simulators, both real connectors, the real pollers, processors and sinks, and a log in memory.

What stands in is Kafka (`FakeLog`), the codec and the sealing (`tests/fakes.py`). The flows are those of
`examples/quickbooks-exact`, with the changes a test names.
"""

import asyncio
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bus.core import topics
from bus.core.clock import Clock
from bus.core.configuration import Configuration, parse
from bus.core.identity import Hasher
from bus.kit.auth import OAuth2, Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.connector import Connector
from bus.kit.registry import Context, load
from bus.runtime.state import AccountState
from bus.runtime.validation import Report, validate
from bus.runtime.validation.installed import installed_systems
from bus.simulation.clock import SimClock
from bus.simulation.simulator import InProcess
from connectors.exact_online.simulation import screens as exact_screens
from connectors.exact_online.simulation import writing as exact_rules
from connectors.exact_online.simulation.sets import SETS
from connectors.quickbooks.simulation import screens as qbo_screens
from schemas.system import Outcome, Standing
from services.pollers.account import AccountPoller, holds
from services.pollers.publishing import Counts, PageBuilder, Seen
from services.processors.handler import Handler
from services.processors.routes import compile_routes
from services.sinks.account import AccountSink, Delivered
from services.sinks.carrying import Carrier
from services.sinks.ledger import Ledger
from services.sinks.locks import KeyLocks
from services.sinks.task import Target
from tests.fakes import Deaths, FakeCodec, FakeLog, FakePictures, FakePrivacy, Killed, no_time

EXAMPLE = Path(__file__).parents[3] / "examples" / "quickbooks-exact"
QBO, EXACT = "qbo-nl", "exact-nl"
SYSTEMS = {QBO: "quickbooks", EXACT: "exact_online"}
ORDERS, INVOICES = "qbo-sales-to-exact-orders", "exact-orders-to-qbo"
TURNS_MAX = 20_000
"""Turns of the event loop that one round of a sink may take."""
QUIET_ROUNDS_MAX = 60


@cache
def example() -> str:
    """The text of the example's configuration."""
    return "\n---\n".join((EXAMPLE / f"{name}.yaml").read_text() for name in FILES)


FILES = ("connections", "tables", "customers", "products", "orders")


def check(text: str) -> Report:
    """What `bus validate` says of a configuration against the installed connectors."""
    return validate(parse(text), installed_systems(), lambda secret, names: [])


@cache
def accepted(text: str) -> Configuration:
    """The configuration as `bus apply` publishes it."""
    return check(text).accepted()


def changed(*changes: tuple[str, str]) -> str:
    """The example with pieces of its text replaced; each must be there exactly as often as it is meant (once)."""
    text = example()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text


def only_orders(*changes: tuple[str, str]) -> str:
    """The example without its customer and product flows, so that nobody else makes what a document misses."""
    text = changed(*changes)
    start, end = text.index("# Customers run both ways"), text.index("# A paid QuickBooks sale")
    return text[:start] + text[end:]


class PairClock(Clock):
    """One time for the bus and both vendors; it moves only when told."""

    def __init__(self) -> None:
        self.clocks: list[SimClock] = []

    def now(self) -> Any:
        return self.clocks[0].now()

    def boot_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    def boot_id(self) -> str:
        return "simulated"

    def advance(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.advance(seconds)

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class Tokens:
    """A grant that is refreshed when it is over."""

    def __init__(self, oauth: OAuth2, refresh_token: str, clock: PairClock) -> None:
        self._oauth = oauth
        self._refresh_token = SecretStr(refresh_token)
        self._clock = clock
        self._token: Token | None = None

    async def current(self) -> Token:
        if self._token is None or self._token.expires_at <= self._clock.now():
            return await self.newer_than(self._token.version if self._token else 0)
        return self._token

    async def newer_than(self, version: int) -> Token:
        issued = await self._oauth.refresh(self._refresh_token)
        if issued.refresh_token is not None:
            self._refresh_token = issued.refresh_token
        self._token = Token(version + 1, issued.access_token, issued.expires_at)
        return self._token


class Side:
    """One account of the pair."""

    def __init__(self, name: str, clock: PairClock, **options: Any) -> None:
        self.name = name
        self.loaded = load(SYSTEMS[name])
        self.simulator: Any = import_module(f"connectors.{SYSTEMS[name]}.simulator").build(**options)
        self.simulator.clock.freeze(clock.clocks[0].now() if clock.clocks else None)
        clock.clocks.append(self.simulator.clock)
        self.process = InProcess(self.simulator)
        info, manifest = self.process.info, self.loaded.manifest
        oauth = OAuth2(
            manifest.auth,
            token_url=info["token_url"],
            client_id=SecretStr(info["credentials"]["client_id"]),
            client_secret=SecretStr(info["credentials"]["client_secret"]),
            clock=clock,
            transport=self.process.transport,
        )
        self.client = VendorClient(
            manifest,
            connection=name,
            base_url=info["base_url"],
            tokens=Tokens(oauth, info["credentials"]["refresh_token"], clock),
            budgets=Budgets((), clock=clock, sleep=clock.sleep),
            clock=clock,
            transport=self.process.transport,
            sleep=clock.sleep,
        )
        self._clock = clock

    def connect(self, config: Mapping[str, Any]) -> None:
        settings = self.loaded.config_class.model_validate({**config})
        context = Context(connection=self.name, config=settings, client=self.client, clock=self._clock)
        self.connector: Connector = self.loaded.connector_class(context)

    def books(self, kind: str = "documents") -> list[dict[str, Any]]:
        """Rows of the vendor's own state in neutral form."""
        return self.simulator.books()[kind]  # type: ignore[no-any-return]

    def writes(self) -> list[str]:
        """Writes the vendor took, as `method path`, tokens aside."""
        calls = self.simulator.calls.since(0)["calls"]
        return [f"{call['method']} {call['path']}" for call in calls if call["write"] and call["status"] < 300]


class Pair:
    """Both accounts, the log between them, and a process for each service."""

    def __init__(self, text: str | None = None, *, deaths: Deaths | None = None, **options: Any) -> None:
        self.deaths = deaths or Deaths()
        self.clock = PairClock()
        self.qbo = Side(QBO, self.clock, **options.get("qbo", {}))
        self.exact = Side(EXACT, self.clock, **{"division": 1234567, **options.get("exact", {})})
        self.codec = FakeCodec()
        self.log = FakeLog(self.deaths)
        self.hasher = Hasher(b"acme")
        self.outcomes: list[tuple[str, Outcome]] = []
        self._processed = 0
        self._life: dict[str, tuple[int, AccountState]] = {}
        self.configure(text or example())

    def configure(self, text: str) -> None:
        """A new configuration version."""
        configuration = accepted(text)
        self.routes = compile_routes(configuration, 1)
        for side in (self.qbo, self.exact):
            side.connect(configuration.connections[side.name].config)

    def side(self, name: str) -> Side:
        return self.qbo if name == QBO else self.exact

    # --- what happens ---

    async def run(self, *, rounds: int = 8, wait_s: float = 61) -> "Pair":
        """Polls, maps and writes both ways until a whole round brings no record that counts."""
        for _ in range(rounds):
            before = self._traces()
            for side in (self.exact, self.qbo):
                await self.poll(side)
            self.process()
            for side in (self.exact, self.qbo):
                await self.sink(side)
            if self._traces() == before:
                return self
            self.clock.advance(wait_s)
        raise AssertionError("not quiet")

    def _traces(self) -> tuple[int, int]:
        """What counts: events, commands, dead letters, writes. A command that waits may look again every round."""
        told = sum(record.topic.startswith(("bus.canon.", "bus.outbound.", topics.DEAD_LETTERS)) for record in self.log.records)
        return told, len(self.exact.writes()) + len(self.qbo.writes())

    async def poll(self, side: Side) -> Counts:
        """One poll of every stream of an account, by a new process."""
        counts = Counts()
        poller = self._poller(side, counts)
        for stream in poller.streams:
            await poller.poll(stream.facts)
        await poller.judge_held()
        return counts

    def process(self) -> None:
        """Every new event through every flow that reads it."""
        handler = Handler(self.codec)
        outgoing = []
        for record in self.log.records[self._processed :]:
            if record.topic.startswith("bus.canon."):
                outgoing += handler.handle(record.topic, record.key, record.value, self.routes)
        self._processed = len(self.log.records)
        self.log.records += outgoing

    async def sink(self, side: Side) -> AccountState:
        """One life of an account's sink, until nothing is under way or due."""
        state = self.state(side)
        ledger = Ledger(0, self.log, self.codec)
        locks = KeyLocks()
        target = Target(
            connector=side.connector,
            account=await side.connector.check(),
            state=state,
            ledger=ledger,
            clock=self.clock,
            hasher=self.hasher,
            privacy=FakePrivacy(),
            codec=self.codec,
            locks=locks,
            pictures=FakePictures(self.log),
        )
        sink = AccountSink(
            connection=side.name,
            state=state,
            ledger=ledger,
            carrier=Carrier(target),
            codec=self.codec,
            clock=self.clock,
            locks=locks,
            on_outcome=lambda flow, connection, outcome: self.outcomes.append((flow, outcome)),
        )
        sink.restore()
        sink._release_due()
        writer = asyncio.create_task(ledger.run())
        outbound = self.log.topic(topics.outbound(side.name))
        for offset in range(state.offset or 0, len(outbound)):
            sink.deliver(Delivered(raw=outbound[offset].value, offset=offset))
        try:
            for _ in range(QUIET_ROUNDS_MAX):
                await self._drain(sink, writer)
                if not any(record.standing is Standing.PARKED for record in state.parked()):
                    return state
                self.clock.advance(30)
                sink._release_due()
            return state
        finally:
            for task in [writer, *sink._tasks]:
                task.cancel()
            await asyncio.gather(writer, *sink._tasks, return_exceptions=True)

    async def _drain(self, sink: AccountSink, writer: asyncio.Task[None]) -> None:
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)
            if writer.done():
                writer.result()
            if sink._failed is not None:
                raise sink._failed
            if not sink._lanes:
                return
        raise AssertionError("a lane hangs")

    def _poller(self, side: Side, counts: Counts) -> AccountPoller:
        state = AccountState(side.name)
        seen = Seen(side.name, self.codec, {r.key.encode(): r.value for r in self._of(side, topics.SEEN)})
        seen.recall_held()
        cursors = {c.stream: c for c in (self.codec.decode("", r.value) for r in self._of(side, topics.CURSORS))}
        applied = 0

        async def refresh() -> None:
            nonlocal applied
            records = self._of(side, topics.STATE)
            for record in records[applied:]:
                state.apply(record.key, self.codec.decode(topics.STATE, record.value) if record.value else None)
            applied = len(records)

        async def append(records: Any) -> None:
            self.log.records.extend(records)  # where pollers die is their own tests' business

        builder = PageBuilder(
            connection=side.name,
            tenant="acme",
            connector=side.connector,
            codec=self.codec,
            privacy=FakePrivacy(),
            hasher=self.hasher,
            state=state,
            seen=seen,
            slot=0,
            clock=self.clock,
        )
        return AccountPoller(
            connection=side.name,
            connector=side.connector,
            builder=builder,
            seen=seen,
            cursors=cursors,
            poll_s={},
            codec=self.codec,
            commit=append,
            refresh_state=refresh,
            holds=holds(state, seen),
            slot=0,
            clock=self.clock,
            usage=dict,
            on_poll=lambda connection, stream, page: counts.add(page),
            on_failure=lambda *args: None,
            sleep=no_time,
        )

    def _of(self, side: Side, topic: str) -> list[Any]:
        place = 1 if topic == topics.STATE else 0
        return [record for record in self.log.topic(topic) if topics.split_key(record.key)[place] == side.name]

    # --- what is known afterwards ---

    def state(self, side: Side) -> AccountState:
        """The account's state as the log has it."""
        state = AccountState(side.name)
        for record in self._of(side, topics.STATE):
            state.apply(record.key, self.codec.decode(topics.STATE, record.value) if record.value else None)
        return state

    def standings(self, flow: str) -> dict[str, Any]:
        """Standing by source id."""
        side = self.side(accepted_target(self, flow))
        return {record.source.id: record for record in self.state(side).standings() if record.flow == flow}

    def standing(self, flow: str, source_id: str) -> Any:
        """The standing of one source object in a flow."""
        return self.standings(flow)[source_id]

    def command(self, flow: str, source_id: str) -> Any:
        """The newest command of a flow for a source object."""
        target = accepted_target(self, flow)
        found = [self.codec.decode("", record.value) for record in self.log.topic(topics.outbound(target))]
        return [item for item in found if item.flow == flow and item.source.id == source_id][-1]

    def letters(self) -> list[Any]:
        """Dead letters."""
        return [self.codec.decode("", record.value) for record in self.log.topic(topics.DEAD_LETTERS)]

    def events(self, entity: str, connection: str) -> list[Any]:
        """Published versions of one account's entity."""
        found = [self.codec.decode("", r.value) for r in self.log.topic(topics.canonical(entity)) if r.value is not None]
        return [event for event in found if event.meta.connection == connection]

    async def survive(self) -> None:
        """Lives until a life ends well; a death is followed by a new owner."""
        while True:
            try:
                await self.run(rounds=12)
            except Killed:
                self.clock.advance(1)
            else:
                return

    # --- hands of users ---

    def sell(self, *lines: dict[str, Any], entity: str = "Invoice", **fields: Any) -> str:
        """A sale in QuickBooks' screens; its id as the bus names it. Customer by name, see `qbo_customer`."""
        body: dict[str, Any] = {"Line": [*lines] or [self.qbo_line()], "GlobalTaxCalculation": "TaxExcluded", **fields}
        made = qbo_screens.edit(self.qbo.simulator.company, entity, "new", body)
        return f"{entity}:{made}"

    def pay(self, invoice: str, amount: Any = None, **more: Any) -> None:
        """Money received for an invoice, all of it unless said."""
        company = self.qbo.simulator.company
        row = company.row("Invoice", invoice.partition(":")[2])
        amount = row["TotalAmt"] if amount is None else amount
        link = {"TxnId": row["Id"], "TxnType": "Invoice"}
        customer = {"value": row["CustomerRef"]["value"]}
        body = {"CustomerRef": customer, "TotalAmt": amount, "Line": [{"Amount": amount, "LinkedTxn": [link]}], **more}
        qbo_screens.edit(company, "Payment", "new", body)

    def qbo_id(self, entity: str, name: str) -> str:
        return str(self.qbo.simulator.company.id_named(entity, name))

    def qbo_ref(self, entity: str, name: str) -> dict[str, str]:
        return {"value": self.qbo_id(entity, name)}

    def qbo_customer(self, name: str, *, email: str | None = None, company: bool = True, **fields: Any) -> dict[str, str]:
        """A customer made in QuickBooks' screens, as a reference."""
        given, _, family = name.rpartition(" ")
        body: dict[str, Any] = {"DisplayName": name, **fields}
        body |= {"CompanyName": name} if company else {"GivenName": given, "FamilyName": family}
        if email is not None:
            body["PrimaryEmailAddr"] = {"Address": email}
        return {"value": qbo_screens.edit(self.qbo.simulator.company, "Customer", "new", body)}

    def qbo_item(self, sku: str | None, name: str, **fields: Any) -> dict[str, str]:
        """An item made in QuickBooks' screens, as a reference."""
        body = {
            "Name": name,
            "Type": "NonInventory",
            "UnitPrice": 10,
            "IncomeAccountRef": self.qbo_ref("Account", "Sales of Product Income"),
            **({"Sku": sku} if sku else {}),
            **fields,
        }
        return {"value": qbo_screens.edit(self.qbo.simulator.company, "Item", "new", body)}

    def qbo_line(
        self, item: dict[str, str] | None = None, amount: int = 100, tax: str = "NL 21% S", **detail: Any
    ) -> dict[str, Any]:
        """A sold line of one piece."""
        own = {"ItemRef": item or self.qbo_ref("Item", "Lamp"), "TaxCodeRef": self.qbo_ref("TaxCode", tax), **detail}
        return {"DetailType": "SalesItemLineDetail", "Amount": amount, "SalesItemLineDetail": own}

    def qbo_edit(self, entity: str, object_id: str, **fields: Any) -> None:
        """A change in QuickBooks' screens."""
        qbo_screens.edit(self.qbo.simulator.company, entity, object_id, fields)

    def exact_row(self, path: str, **fields: Any) -> str:
        """A row made in Exact's screens; its id."""
        division = self.exact.simulator.division
        division.user, user = exact_screens.SCREEN_USER, division.user
        try:
            return exact_rules.create(division, SETS[path], fields).id
        finally:
            division.user = user

    def exact_item(self, sku: str = "LAMP-1", name: str = "Lamp", **fields: Any) -> str:
        return self.exact_row(
            "logistics/Items", Code=sku, Description=name, **{"SalesVatCode": "2", "IsSalesItem": True, **fields}
        )

    def exact_picture(self, item: str, data: bytes) -> None:
        """A picture put to an item in Exact's screens."""
        division = self.exact.simulator.division
        row = division.table("logistics/Items").rows[item]
        row.picture = data
        division.change("logistics/Items", row, {"PictureName": "picture.png"})

    def exact_account(self, name: str, **fields: Any) -> str:
        return self.exact_row("crm/Accounts", Name=name, **{"Status": "C", **fields})

    def exact_order(self, buyer: str, *lines: dict[str, Any], **fields: Any) -> str:
        return self.exact_row("salesorder/SalesOrders", OrderedBy=buyer, SalesOrderLines=[*lines], **fields)

    def exact_edit(self, entity: str, object_id: str, **fields: Any) -> None:
        """A change in Exact's screens."""
        self.exact.simulator.edit(entity, object_id, fields)

    def classification(self, kind: str) -> str:
        """Id of the classification that says COMPANY or PERSON."""
        return str(self.exact.simulator.division.first("crm/AccountClassifications", "Code", kind).id)


def accepted_target(pair: Pair, flow: str) -> str:
    """The connection a flow writes to."""
    for routes in pair.routes.by_source.values():
        for route in routes:
            if route.flow.name == flow:
                return route.flow.to.connection
    raise KeyError(flow)
