"""Connection, Flow and Table as frozen models that refuse unknown keys, and the whole of them as `Configuration`.

Short forms are spelt out while parsing (`start: 2026-12-01`, a `set` that is a plain expression), so that everything after
sees one form only, and equal configurations give equal bytes.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from bus.core.policy import CustomerPolicy, Ownership, ProductPolicy, WritePolicy
from bus.core.topics import DOCUMENTS, ENTITIES

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Names go into topic names and Kafka metrics, where `.` and `_` collide."""

WILDCARD = "*"
BUS_KEYS = ("poll_s", "source_tax")
"""Keys an operator writes inside a connection's `config` that belong to the bus and not to the vendor."""

_DURATION = re.compile(r"^([1-9][0-9]{0,5})([smhd])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
Entity: TypeAlias = Literal["customer", "product", "product_category", "sales_order", "sales_invoice"]
Cell: TypeAlias = str | bool | None
"""Numbers and days of a table are text: they are compared and sent, never added up."""


def seconds(value: object) -> int:
    """`3d` → 259200; a bare number is refused, because nobody can see its unit."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f"{value!r} is not a duration: write a number and s, m, h or d, such as 3d")
    return int(found[1]) * _SECONDS[found[2]]


Duration: TypeAlias = Annotated[int, BeforeValidator(seconds), PlainSerializer(lambda value: f"{value}s", return_type=str)]


class Part(BaseModel):
    """Base: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class Connection(Part):
    """One authorised account at a system. Secrets are named here and never written here."""

    kind: Literal["Connection"]
    name: Name
    tenant: Name
    system: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    secret: Name
    config: dict[str, Any] = {}
    base_url: str | None = None
    token_url: str | None = None
    poll_s: dict[str, Annotated[int, Field(ge=1, le=604_800)]] = {}
    """Seconds between polls, per stream."""
    quotas: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Calls per window the vendor granted this account's app beyond its published limit, by limit name."""
    source_tax: str | None = None
    """Table that says what this account's tax codes mean."""

    @model_validator(mode="before")
    @classmethod
    def _hoist(cls, data: Any) -> Any:
        """`config.poll_s` and `config.source_tax` belong to the bus: the vendor's part stays alone in `config`."""
        if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
            return data
        config = {key: value for key, value in data["config"].items() if key not in BUS_KEYS}
        bus = {key: data["config"][key] for key in BUS_KEYS if key in data["config"]}
        twice = [key for key in bus if data.get(key)]
        if twice:
            raise ValueError(f"{twice[0]} is given twice: keep the one in config")
        return {**data, **bus, "config": config}

    def poll_interval_s(self, stream: str, entities: Iterable[str], default_s: int) -> int:
        """Seconds between polls of a stream: by its name, else the shortest of its entities, else `default_s`."""
        if stream in self.poll_s:
            return self.poll_s[stream]
        return min((self.poll_s[entity] for entity in entities if entity in self.poll_s), default=default_s)


class FlowSource(Part):
    """What a flow reads."""

    connection: Name
    entity: Entity
    types: tuple[str, ...] = ()
    """Document types, or kinds of customers and products; empty: all."""
    without: tuple[str, ...] = ()
    """Types or kinds that never go through; `bus apply` adds those the target has no place for."""


class FlowTarget(Part):
    """What a flow writes."""

    connection: Name
    entity: Entity
    type: str | None = None
    """Expression that gives the document or item type."""


class Start(Part):
    """Where a flow begins: documents from a day or instant on, other entities by what happens to existing objects."""

    from_: date | datetime | Literal["now", "beginning"] | None = Field(None, alias="from")
    by: str | None = None
    existing: Literal["send", "link"] | None = None

    @field_validator("from_", mode="before")
    @classmethod
    def _moment(cls, value: Any) -> Any:
        """Text of a published document back into a day or an instant."""
        if isinstance(value, str) and value[:1].isdigit():
            return datetime.fromisoformat(value) if "T" in value else date.fromisoformat(value)
        if isinstance(value, str) and value not in ("now", "beginning"):
            raise ValueError(f"{value!r} is no start: write a day (2026-12-01), now or beginning")
        return value

    @model_validator(mode="after")
    def _one(self) -> "Start":
        if (self.from_ is None) == (self.existing is None):
            raise ValueError("give either `from` (documents) or `existing` (customers, products, categories)")
        if isinstance(self.from_, datetime) and self.from_.tzinfo is None:
            raise ValueError(f"{self.from_} has no time zone: end it with Z")
        return self


class Reference(Part):
    """What people see at the target, and what is searched for before a create."""

    to: str
    value: str
    length_max: int | None = None
    """Filled by `bus apply` from the target's manifest."""


class DefaultDebtor(Part):
    """An existing debtor of the target; without `when` it stands in where there is no customer."""

    code: str
    when: str | None = None


class CustomerRule(Part):
    """What an order flow does about its customer."""

    match: tuple[Literal["email+kind", "email", "vat", "number"], ...] = ("email+kind",)
    missing: Literal["create", "park", "default"] = "create"
    found: Literal["link"] = "link"
    default: DefaultDebtor | None = None
    suffix: str | None = None
    patience: Duration = 3 * 86_400


class ProductRule(Part):
    """What an order flow does about its products."""

    match: tuple[Literal["sku", "gtin"], ...] = ("sku",)
    missing: Literal["park"] = "park"
    patience: Duration = 3 * 86_400
    line_without_product: str | None = None
    shipping: str | None = None


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, int | Decimal | date) and not isinstance(value, bool) else value


class SetRule(Part):
    """Where an added value comes from: exactly one of expression, table and value."""

    expression: str | None = None
    table: str | None = None
    value: Annotated[str | bool | None, BeforeValidator(_cell)] = None
    by: dict[str, str] = {}
    """Expressions for key columns of the table that have no field of the same name."""
    default: str | None = None
    """Used where the table has no row; without it a missing row stops the record."""
    level: Literal["header", "line"] | None = None
    """Filled by `bus apply` from the target's manifest."""
    required: bool = False
    """Filled by `bus apply` from the target's manifest."""

    @model_validator(mode="after")
    def _one(self) -> "SetRule":
        given = [name for name in ("expression", "table", "value") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of expression, table and value, not {' and '.join(given) or 'none'}")
        if self.table is None and (self.default is not None or self.by):
            raise ValueError("`default` and `by` belong to a table")
        return self


def _spell_out(value: Any) -> Any:
    return {"expression": value} if isinstance(value, str) else value


class Flow(Part):
    """A configured way from one connection's entity to another's."""

    kind: Literal["Flow"]
    name: Name
    from_: FlowSource = Field(alias="from")
    to: FlowTarget
    start: Start
    when: str | None = None
    reference: Reference | None = None
    write: Literal["create", "upsert"]
    on_delete: Literal["ignore", "deactivate", "delete"] = "ignore"
    match: tuple[Literal["email+kind", "email", "vat", "number", "sku", "gtin", "code", "name"], ...] = ()
    """How customers, products and categories themselves are matched; empty: the entity's default."""
    customer: CustomerRule = CustomerRule()
    product: ProductRule = ProductRule()
    owner: dict[str, Ownership] = {}
    create_only: tuple[str, ...] = ()
    set: dict[str, Annotated[SetRule, BeforeValidator(_spell_out)]] = {}
    defaults: dict[str, str] = {}
    """Literal values where the source holds nothing; `customer` is the default debtor."""

    @field_validator("start", mode="before")
    @classmethod
    def _short_start(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Start) else {"from": value}

    @property
    def is_document(self) -> bool:
        """Whether it moves documents, which are written once."""
        return self.from_.entity in DOCUMENTS

    def policy(self) -> WritePolicy:
        """The policy its commands carry."""
        return WritePolicy(
            write=self.write,
            on_delete=self.on_delete,
            existing=self.start.existing or "send",
            create_only=self.create_only,
            owner=dict(self.owner),
            match=self.match,
            customer=CustomerPolicy(
                match=self.customer.match,
                missing=self.customer.missing,
                found=self.customer.found,
                patience_s=self.customer.patience,
            ),
            product=ProductPolicy(
                match=self.product.match,
                missing=self.product.missing,
                patience_s=self.product.patience,
                line_without_product=self.product.line_without_product,
                shipping=self.product.shipping,
            ),
        )


class Table(Part):
    """Mapping rows; `*` in a key column matches anything, the row with the fewest of them wins."""

    kind: Literal["Table"]
    name: Name
    key: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    rows: tuple[dict[str, Annotated[Cell, BeforeValidator(_cell)]], ...]

    @property
    def columns(self) -> frozenset[str]:
        """All columns that any row has."""
        return frozenset(self.key).union(*(row.keys() for row in self.rows))


Document: TypeAlias = Connection | Flow | Table
MODELS: dict[str, type[Connection] | type[Flow] | type[Table]] = {"Connection": Connection, "Flow": Flow, "Table": Table}


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured, by name."""

    connections: Mapping[str, Connection] = {}
    flows: Mapping[str, Flow] = {}
    tables: Mapping[str, Table] = {}

    @classmethod
    def of(cls, documents: "list[Document]") -> "Configuration":
        """From documents with unique names."""
        return cls(
            connections={item.name: item for item in documents if isinstance(item, Connection)},
            flows={item.name: item for item in documents if isinstance(item, Flow)},
            tables={item.name: item for item in documents if isinstance(item, Table)},
        )

    def documents(self) -> list[Document]:
        """All documents, tables first and flows last: each names only what stands before it."""
        return [*self.tables.values(), *self.connections.values(), *self.flows.values()]


_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="string")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def encode_document(document: Document) -> bytes:
    """Stable bytes: equal documents give equal bytes. Short forms are spelt out, defaults left out."""
    return _ENCODER.encode({**document.model_dump(by_alias=True, exclude_defaults=True), "kind": document.kind})


def decode_document(data: bytes) -> Document:
    """A published document; a pydantic `ValidationError` here means that an older bus wrote it."""
    value = _DECODER.decode(data)
    return MODELS[value["kind"]].model_validate(value)


def from_published(*kinds: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """What a follower of bus.config holds (documents by name, one mapping per kind), typed."""
    return Configuration.of([MODELS[value["kind"]].model_validate(value) for kind in kinds for value in kind.values()])


assert set(ENTITIES) == set(Entity.__args__)  # type: ignore[attr-defined]
