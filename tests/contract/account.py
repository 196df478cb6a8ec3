"""One connector against its simulator, in process: what every contract check is given."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

import msgspec
from pydantic import SecretStr

from bus.core.clock import Clock
from bus.core.identity import create_key
from bus.kit.auth import OAuth2, Token
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.connector import Connector, Page, Position, RawRecord, StepResult, Write
from bus.kit.registry import Context, load
from bus.simulation.clock import SimClock
from bus.simulation.simulator import InProcess, Simulator
from schemas import canon
from schemas.system import ObjectRef, Resolved, ValueKind
from tests.contract.wire import DeskTokens, Wire

MOMENT = datetime(2026, 11, 18, 9, 0, tzinfo=UTC)
"""The suite's now: budgets and business days must not depend on when it runs."""
PICTURE = b"\x89PNG\r\n\x1a\n a picture of a lamp"


@dataclass(frozen=True)
class Spoil:
    """One value of one served object that no vendor should serve."""

    entity: str
    key: str
    """Member that identifies the object's rows on the wire."""
    member: str
    """Member to be spoiled; rows of the object without it are left alone. A dot goes into an object."""
    value: Any
    beside: str = ""
    """Another member of the row, where ids of several lists are alike."""


@dataclass
class Exercise:
    """What the suite cannot know of a vendor: resolved values of its documents, edits as a user makes them, its wire."""

    document: str
    """Entity of the documents it takes."""
    values: dict[str, str]
    """Values per line and charge a document write needs."""
    header: dict[str, str]
    document_type: str | None
    reference_field: str
    edits: dict[str, dict[str, Any]]
    """Entity → fields for `Simulator.edit` that change an object visibly."""
    shown_in: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Entity → entities that show its edited field, and so change with it."""
    deletes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entity → fields for `Simulator.edit` that delete an object."""
    rests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entity → fields for `Simulator.edit` that make an object inactive."""
    product_values: dict[str, str] = field(default_factory=dict)
    product_type: str | None = None
    fill: dict[str, Callable[[Any, int], None]] = field(default_factory=dict)
    """Stream → makes many objects in the simulator, so that one page cannot hold them."""
    spoils: dict[str, Spoil] = field(default_factory=dict)
    """Bad input by name: `enum`, `amount`, `key`, `date`."""
    loop: Callable[[Any, Any], Any] = lambda _request, body: body
    """Tampers with answers so that pages never end."""
    looping_stream: str = ""
    pages_rows: int = 1_001
    """Objects that no single page of the connector holds."""
    lag: Callable[[Any, float], None] | None = None
    """Makes new objects invisible to searches for some seconds, where the vendor is known to do so."""
    lag_s: float = 0
    """As long as that is known to last."""
    config: dict[str, Any] = field(default_factory=dict)
    """What an operator adds to the connection's configuration."""
    variants: tuple[dict[str, Any], ...] = ()
    """Further configurations, under which other steps are planned."""


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
        self.simulator.clock.freeze(MOMENT)
        self.simulator.seed(orders, 7)
        self.process = InProcess(self.simulator)
        self.wire = Wire(self.process.transport)
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
        self.tokens = DeskTokens(self.simulator.tokens, Token(1, issued.access_token, issued.expires_at))
        sleep = Sleeper(self.simulator.clock)
        self.client = VendorClient(
            self.manifest,
            connection="contract",
            base_url=info["base_url"],
            tokens=self.tokens,
            budgets=Budgets(self.manifest.limits, clock=self.clock, sleep=sleep),
            clock=self.clock,
            transport=self.wire,
            sleep=sleep,
        )
        self.connector = self.connector_of({})
        return self

    def connector_of(self, variant: dict[str, Any]) -> Connector:
        """The connector of the account under a variant of its configuration."""
        config = self.loaded.config_class.model_validate({**self.process.info["config"], **self.exercise.config, **variant})
        return self.loaded.connector_class(Context(connection="contract", config=config, client=self.client, clock=self.clock))

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
        """All steps of a write; the primary step's result with what the last record shows, as a sink takes it."""
        done: dict[str, StepResult] = {}
        primary = ""
        for step in self.connector.plan(write):
            done[step.name] = await self.connector.perform(write, step, done)
            primary = step.name if step.primary else primary
        last = next((result for result in reversed(done.values()) if result.record is not None), done[primary])
        number = done[primary].number or last.number
        return msgspec.structs.replace(done[primary], record=last.record, number=number)

    async def creation(self, entity: str, source_id: str = "N1") -> Write:
        """A create of any declared entity that needs every step the connector has for it; another object per source id."""
        if entity == "customer":
            return self.write_of(entity, whole_customer(source_id), source_id=source_id)
        if entity == "product":
            document, values = product(source_id), self.exercise.product_values
            resolved = [Resolved(name=n, kind=ValueKind.TEXT, value=v, rule="contract") for n, v in values.items()]
            pictures = {hashlib.sha256(PICTURE).hexdigest(): PICTURE}
            kind = self.exercise.product_type
            return self.write_of(entity, document, source_id=source_id, resolved=resolved, pictures=pictures, document_type=kind)
        if entity == "product_category":
            category = canon.ProductCategory(code=f"Category {source_id}", name=f"Category {source_id}")
            return self.write_of(entity, category, source_id=source_id)
        owner = await self.perform(self.write_of("customer", whole_customer(f"B{source_id}"), source_id=f"B{source_id}"))
        write = await self.order(owner.external_id, f"T-{source_id}", source_id)
        elsewhere = canon.Party(pii=canon.PartyPii(addresses=[delivery(f"Kade {source_id}")]))
        return msgspec.structs.replace(write, document=msgspec.structs.replace(write.document, ship_to=elsewhere))

    def change(self, action: str, made: StepResult, write: Write, known: RawRecord, **more: Any) -> Write:
        """A later write to an object that `write` made."""
        facts = {"action": action, "external_id": made.external_id, "known": known, **more}
        return msgspec.structs.replace(write, **facts)

    async def whole_of(self, entity: str, made: StepResult) -> tuple[RawRecord, Any]:
        """An object as it stands there: the record and what it means."""
        record = await self.connector.fetch(entity, made.external_id)
        assert record is not None, f"{entity} {made.external_id} cannot be fetched"
        return record, self.connector.to_canonical(record)

    def written(self) -> dict[str, int]:
        """Successful creates so far, by the vendor's own kind."""
        written = self.simulator.calls.written
        return {name: count for name, count in written.items() if name.rpartition(".")[2] in ("POST", "create")}

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


def delivery(line1: str) -> canon.Address:
    return canon.Address(type=canon.AddressType.DELIVERY, line1=line1, postal_code="1043 AA", city="Amsterdam", country_code="NL")


def whole_customer(source_id: str) -> canon.Customer:
    """A person with a delivery address: what needs the most steps."""
    made = customer(f"{source_id} Lampen", f"{source_id.lower()}@lampen.test")
    assert isinstance(made.pii, canon.PartyPii)
    pii = msgspec.structs.replace(
        made.pii,
        given_name="Ada",
        family_name=f"de Vries {source_id}",
        addresses=[*made.pii.addresses, delivery(f"Loods {source_id}")],
    )
    return msgspec.structs.replace(made, vat_number="NL810000103B02", pii=pii)


def product(source_id: str) -> canon.Product:
    image = canon.Image(sha256=hashlib.sha256(PICTURE).hexdigest(), media_type="image/png", size_bytes=len(PICTURE))
    return canon.Product(
        sku=f"NEW-{source_id}",
        kind=canon.ProductKind.SIMPLE,
        name=f"Lamp {source_id}",
        description_long=f"A lamp called {source_id}",
        gtin="8712345000011",
        prices=[canon.ProductPrice(price_mode=canon.PriceMode.EXCL, value=Decimal("12.34"), currency="EUR")],
        images=[image],
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
