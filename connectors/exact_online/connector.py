"""The connector of Exact Online."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from bus.core.errors import AccessDenied
from bus.core.identity import Entity
from bus.kit.connector import Account, Found, Match, Page, Position, RawRecord, Step, StepResult, Write
from bus.kit.manifest import load_manifest
from bus.kit.registry import Context
from connectors.exact_online.mapping import customer, order, product
from connectors.exact_online.mapping.values import ACCOUNT_CODE_WIDTH, code, padded
from connectors.exact_online.odata import OData, any_of, key_of, text
from connectors.exact_online.plans import steps_of
from connectors.exact_online.reading import Reader, incomplete
from connectors.exact_online.references import KINDS, References
from connectors.exact_online.wholes import Wholes
from connectors.exact_online.writing import Writing

INT32_MAX = 2_147_483_647
GUID_LENGTH = 36


def _is_range(reserved: tuple[int, int] | None, last: int) -> tuple[int, int] | None:
    if reserved is not None and not 1 <= reserved[0] < reserved[1] <= last:
        raise ValueError(f"write [first, last], 1 ≤ first < last ≤ {last}")
    return reserved


class ExactOnlineConfig(BaseModel):
    """What an operator says of a division."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str = "nl"
    """Top-level domain of the host the customer lives on."""
    division: int
    kind_field: str | None = None
    """Classification (Classification1 … 8) whose values COMPANY and PERSON say what an account is."""
    parent_field: str | None = None
    """Free text field of an item that names the parent of a variant."""
    option_fields: dict[str, str] = {}
    """Variant axis by free text field, such as {color: FreeTextField_02}."""
    read_pictures: bool = True
    picture_bytes_max: int = 5 * 1024 * 1024
    """Larger pictures are neither read nor written."""
    read_extra_fields: bool = False
    """Whether the extra fields of items are read as attributes: one call more per changed item."""
    order_charges: dict[str, str] = {}
    """Code of the order charge by type of charge (SHIPPING, FEE, OTHER), for flows that name ORDER_CHARGE as shipping product."""
    code_range: Annotated[tuple[int, int] | None, AfterValidator(lambda r: _is_range(r, 10**ACCOUNT_CODE_WIDTH - 1))] = None
    """First and last debtor code that the bus alone gives: a code is refused twice. Wide: numbers are drawn from all of it."""
    order_number_range: Annotated[tuple[int, int] | None, AfterValidator(lambda r: _is_range(r, INT32_MAX))] = None
    """The same for order numbers."""


class ExactOnlineConnector:
    """One division."""

    manifest = load_manifest(Path(__file__).with_name("manifest.toml"))

    def __init__(self, context: Context) -> None:
        self._config: ExactOnlineConfig = context.config
        self._odata = OData(context.client, self._config.division)
        self._references = References(self._odata, self._config, context.clock)
        self._wholes = Wholes(self._odata, self._references, self._config)
        self._reader = Reader(self._odata, self._wholes, self._references, context.clock)
        self._writing = Writing(self._odata, self._wholes, self._references, self._config)

    async def check(self) -> Account:
        """The division, its country and currency. Raises AccessDenied when the consent does not reach it."""
        me = await self._odata.me()
        names = ("Code", "CustomerName", "Description", "Country", "Currency", "Status", "DivisionMoveDate")
        rows = await self._odata.rows("system/Divisions", names, f"Code eq {self._config.division}")
        if not rows:
            raise AccessDenied(f"division {self._config.division} is not among those user {me.get('UserName')} may use")
        row = rows[0]
        missing = sorted(set(KINDS) - set((await self._references.kinds()).values())) if self._config.kind_field else []
        return Account(
            vendor_id=str(row["Code"]),
            name=row.get("Description") or row.get("CustomerName") or str(row["Code"]),
            country=code(row.get("Country")),
            currency=code(row.get("Currency")),
            time_zone="Europe/Amsterdam",
            facts={"moved": str(row["DivisionMoveDate"])} if row.get("DivisionMoveDate") else {},
            warnings=[f"{self._config.kind_field}: make classification {name} in Exact" for name in missing],
        )

    def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """One poll of a stream. Raises ManifestError for one that is not declared."""
        self.manifest.stream(stream)
        return self._reader.read(stream, position)

    def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """All ids of a stream. Raises ManifestError for one that is not declared."""
        self.manifest.stream(stream)
        return self._reader.ids(stream)

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        """Records are read whole; an order that never became whole is answered by the reason."""
        return [record if record.deleted else (incomplete(record) or record) for record in records]

    def to_canonical(self, record: RawRecord) -> Entity:
        """Pure."""
        if record.entity == "customer":
            return customer.customer_from_vendor(record.raw)
        if record.entity == "product":
            return product.product_from_vendor(record.raw)
        if record.entity == "product_category":
            return product.category_from_vendor(record.raw)
        return order.order_from_vendor(record.raw)

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        """By a list filter: a 404 would count in the vendor's error budget."""
        if len(external_id) != GUID_LENGTH:
            return None
        return (await self._wholes.read(entity, [external_id])).get(external_id)

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        """Candidates by one natural key."""
        ids = await self._ids(entity, match)
        found = await self._wholes.read(entity, ids) if ids else {}
        return [self._found(record) for record in found.values()]

    def _found(self, record: RawRecord) -> Found:
        document = self.to_canonical(record)
        return Found(record=record, number=getattr(document, "number", None), active=getattr(document, "active", True))

    async def _ids(self, entity: str, match: Match) -> list[str]:
        rows: list[dict[str, str]] = []
        if entity == "sales_order" and match.reference:
            rows = await self._odata.rows("salesorder/SalesOrders", ("OrderID",), f"YourRef eq {text(match.reference)}")
        elif entity == "product" and (match.sku or match.gtin):
            condition = f"Code eq {text(match.sku)}" if match.sku else f"Barcode eq {text(match.gtin or '')}"
            rows = await self._odata.rows("logistics/Items", ("ID",), condition)
        elif entity == "customer" and match.email:
            rows = await self._odata.rows("crm/Accounts", ("ID",), f"Email eq {text(match.email)}")
            people = await self._odata.rows("crm/Contacts", ("Account",), f"Email eq {text(match.email)}")
            rows += [{"ID": row["Account"]} for row in people if row.get("Account")]
        elif entity == "customer" and match.vat_number:
            rows = await self._odata.rows("crm/Accounts", ("ID",), f"VATNumber eq {text(match.vat_number)}")
        elif entity == "customer" and match.number:
            forms = sorted({text(padded(match.number)), text(padded(match.number.zfill(7)))})
            rows = await self._odata.rows("crm/Accounts", ("ID",), any_of("Code", forms))
        return list(dict.fromkeys(key_of(row, "OrderID" if entity == "sales_order" else "ID") for row in rows))

    def plan(self, write: Write) -> Sequence[Step]:
        """The calls of a write."""
        return steps_of(write, self._config)

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """Makes the call of one step."""
        return await self._writing.perform(write, step, done)

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """Looks for what an unclear step may have made."""
        return await self._writing.search(write, step, done)

    async def aclose(self) -> None:
        """Nothing of its own is open."""
