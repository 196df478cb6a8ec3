"""One connector against its simulator, in process: what every contract check is given."""

from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from typing import Any

import msgspec
from pydantic import SecretStr

from bus.core.clock import Clock
from bus.core.identity import create_key
from bus.kit.auth import OAuth2, StaticTokens, Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.connector import Connector, Page, Position, RawRecord, StepResult, Write
from bus.kit.registry import Context, load
from bus.simulation.clock import SimClock
from bus.simulation.simulator import InProcess, Simulator
from schemas import canon
from schemas.system import ObjectRef, Resolved, ValueKind


@dataclass
class Exercise:
    """What the suite cannot know of a vendor: resolved values of its documents, and edits as a user makes them."""

    document: str
    """Entity of the documents it takes."""
    values: dict[str, str]
    """Values per line and charge a document write needs."""
    header: dict[str, str]
    document_type: str | None
    reference_field: str
    edits: dict[str, dict[str, Any]]
    """Entity → fields for `Simulator.edit` that change an object visibly."""
    deletes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entity → fields for `Simulator.edit` that delete an object."""
    product_values: dict[str, str] = field(default_factory=dict)
    product_type: str | None = None


class Sleeper:
    """Sleeps by moving the simulator's clock."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock

    async def __call__(self, seconds: float) -> None:
        self._clock.advance(seconds)


class ClockOf(Clock):
    """The simulator's clock, as the bus asks for time."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock

    def now(self) -> Any:
        return self._clock.now()

    def boot_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def boot_id(self) -> str:
        return "simulated"


class ContractAccount:
    """A connector of one simulated account."""

    def __init__(self, system: str, exercise: Exercise, *, orders: int = 12, real_limits: bool = False, **options: Any) -> None:
        self.system = system
        self.exercise = exercise
        self.loaded = load(system)
        self.manifest = self.loaded.manifest
        module = import_module(f"connectors.{system}.simulator")
        self.simulator: Simulator = module.build(real_limits=real_limits, **options)
        self.simulator.clock.freeze()
        self.simulator.seed(orders, 7)
        self.process = InProcess(self.simulator)
        self.clock = ClockOf(self.simulator.clock)
        self.connector: Connector
        self.client: VendorClient

    async def open(self) -> "ContractAccount":
        info = self.process.info
        oauth = OAuth2(
            self.manifest.auth,
            token_url=info["token_url"],
            client_id=SecretStr(info["credentials"]["client_id"]),
            client_secret=SecretStr(info["credentials"]["client_secret"]),
            clock=self.clock,
            transport=self.process.transport,
        )
        issued = await oauth.refresh(SecretStr(info["credentials"]["refresh_token"]))
        self.secrets = [issued.access_token.get_secret_value(), info["credentials"]["client_secret"]]
        token = Token(1, issued.access_token, issued.expires_at)
        sleep = Sleeper(self.simulator.clock)
        self.client = VendorClient(
            self.manifest,
            connection="contract",
            base_url=info["base_url"],
            tokens=StaticTokens(token),
            budgets=Budgets(self.manifest.limits, share_pct=100, clock=self.clock, sleep=sleep),
            clock=self.clock,
            transport=self.process.transport,
            sleep=sleep,
        )
        config = self.loaded.config_class.model_validate(info["config"])
        self.connector = self.loaded.connector_class(
            Context(connection="contract", config=config, client=self.client, clock=self.clock)
        )
        return self

    async def close(self) -> None:
        await self.connector.aclose()
        await self.client.aclose()

    # --- reading ---------------------------------------------------------------------------------------------------------------

    async def poll(self, stream: str, position: Position | None) -> tuple[list[RawRecord], Position]:
        """One poll: whole records and the position after it."""
        records: list[RawRecord] = []
        async for page in self.connector.read(stream, position):
            records += await self.whole(page)
            position = msgspec.json.decode(msgspec.json.encode(page.position))
        assert position is not None
        return records, position

    async def whole(self, page: Page) -> list[RawRecord]:
        completed = await self.connector.complete(page.records)
        for item in completed:
            if isinstance(item, Exception):
                raise item
        return [item for item in completed if isinstance(item, RawRecord)]

    def contents(self, records: list[RawRecord]) -> dict[tuple[str, str], bytes | None]:
        """The newest content per object; None when deleted."""
        encoder = msgspec.json.Encoder(order="sorted")
        return {(r.entity, r.id): None if r.deleted else encoder.encode(self.connector.to_canonical(r)) for r in records}

    # --- writing ---------------------------------------------------------------------------------------------------------------

    def write_of(self, entity: str, document: Any, **more: Any) -> Write:
        source = ObjectRef(connection="peer", entity=entity, id=more.pop("source_id", "S1"))
        return Write(
            action="create",
            entity=entity,
            source=source,
            document=document,
            key=create_key("contract", entity, source.id, None, 0),
            **more,
        )

    async def perform(self, write: Write) -> StepResult:
        """All steps of a write; the primary step's result with the last record."""
        done: dict[str, StepResult] = {}
        primary = ""
        for step in self.connector.plan(write):
            done[step.name] = await self.connector.perform(write, step, done)
            primary = step.name if step.primary else primary
        last = next((result for result in reversed(done.values()) if result.record is not None), done[primary])
        return msgspec.structs.replace(done[primary], record=last.record)

    async def create_customer(self, name: str = "Van Dijk Verlichting B.V.", email: str = "inkoop@vandijk.test") -> StepResult:
        return await self.perform(self.write_of("customer", customer(name, email)))

    async def order(self, customer_id: str, reference: str = "T-1001", source_id: str = "O1") -> Write:
        """A document write with one product and a total of 2 × 50.00 + 21 %."""
        (found,) = await self.connector.find("product", match_sku("BUS-0001"))
        line = canon.Line(
            line_id="1",
            line_no=1,
            line_type=canon.LineType.ITEM,
            sku="BUS-0001",
            name="Two of them",
            quantity=Decimal(2),
            unit_price_excl=Decimal("50.00"),
            line_excl=Decimal("100.00"),
            taxes=[nl21(Decimal("100.00"))],
        )
        facts: dict[str, Any] = {
            "currency": "EUR",
            "price_mode": canon.PriceMode.EXCL,
            "lines": [line],
            "vat_breakdown": [nl21(Decimal("100.00"))],
            "totals": canon.Totals(lines=Decimal("100.00"), excl=Decimal("100.00"), vat=Decimal("21.00"), incl=Decimal("121.00")),
        }
        today = self.clock.now().date()
        document: Any = (
            canon.SalesOrder(order_date=today, **facts)
            if self.exercise.document == "sales_order"
            else canon.SalesInvoice(type=canon.InvoiceType.INVOICE, issue_date=today, **facts)
        )
        return self.write_of(
            self.exercise.document,
            document,
            source_id=source_id,
            document_type=self.exercise.document_type,
            resolved=[
                *(
                    Resolved(name=n, line_id="1", kind=ValueKind.TEXT, value=v, rule="contract")
                    for n, v in self.exercise.values.items()
                ),
                *(Resolved(name=n, kind=ValueKind.TEXT, value=v, rule="contract") for n, v in self.exercise.header.items()),
            ],
            ids={"customer": customer_id, "product:1": found.record.id},
            reference=reference,
            reference_field=self.exercise.reference_field,
        )


def match_sku(sku: str) -> Any:
    from bus.kit.connector import Match

    return Match(sku=sku)


def nl21(base: Decimal) -> canon.TaxLine:
    return canon.TaxLine(
        category=canon.TaxCategory.S,
        country="NL",
        scheme=canon.TaxScheme.DOMESTIC,
        rate_pct=Decimal(21),
        base=base,
        amount=base * 21 / 100,
    )


def customer(name: str = "Van Dijk Verlichting B.V.", email: str = "inkoop@vandijk.test", **more: Any) -> canon.Customer:
    address = canon.Address(
        type=canon.AddressType.BILLING, line1="Keizersgracht 12", postal_code="1015 CN", city="Amsterdam", country_code="NL"
    )
    pii = canon.PartyPii(
        emails=[canon.ContactPoint(type="WORK", value=email)],
        phones=[canon.ContactPoint(type="WORK", value="+31205550123")],
        addresses=[address],
    )
    return canon.Customer(
        kind=canon.CustomerKind.COMPANY,
        company_name=name,
        display_name=name,
        country_code="NL",
        number="C-77",
        subject="customer:S1",
        pii=pii,
        **more,
    )
