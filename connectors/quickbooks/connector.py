"""QuickBooks Online for the bus: each method hands over to the module that knows."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from bus.core.errors import MappingError, WriteRejected
from bus.core.identity import Entity
from bus.kit.connector import Account, Found, Match, Page, Position, RawRecord, Step, StepResult, Write
from bus.kit.manifest import load_manifest
from bus.kit.registry import Context
from connectors.quickbooks import mapping
from connectors.quickbooks.api import Api
from connectors.quickbooks.faults import Classifier
from connectors.quickbooks.finding import Finder
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.countries import alpha_2
from connectors.quickbooks.mapping.document import split_id
from connectors.quickbooks.mapping.parts import decode
from connectors.quickbooks.plans import ENTITIES, steps_of
from connectors.quickbooks.reading import Reader, record_of
from connectors.quickbooks.references import References
from connectors.quickbooks.writing import Writer

HOSTS = {"production": "quickbooks.api.intuit.com", "sandbox": "sandbox-quickbooks.api.intuit.com"}
"""https://developer.intuit.com/app/developer/qbo/docs/learn/rest-api-features"""
UNITED_STATES = "US"
CATEGORIES = "ItemCategoriesFeature"
"""Whether the company has categories, among the names and values of CompanyInfo."""


class QuickbooksConfig(BaseModel):
    """What one connection says under `config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    realm_id: Annotated[str, Field(pattern=r"^\d{1,20}$")]
    """The company id, as the consent's redirect gave it."""
    environment: Literal["production", "sandbox"] = "production"
    source_tax: str | None = None
    """Table that says what the company's tax codes mean: the mapping itself only names the code (`source_code`)."""
    poll_s: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Seconds between polls, by stream."""

    @computed_field
    def host(self) -> str:
        """Where calls go."""
        return HOSTS[self.environment]


class QuickbooksConnector:
    """One connection to one company."""

    manifest = load_manifest(Path(__file__).with_name("manifest.toml"))

    def __init__(self, context: Context) -> None:
        self._config: QuickbooksConfig = context.config
        context.client.classifier = Classifier(self.manifest, context.clock)
        self._api = Api(context.client, self._config.realm_id)
        self._references = References(self._api, context.clock)
        self._reader = Reader(self._api, self._references, context.clock)
        self._writer = Writer(self._api, self._references, context.clock)
        self._finder = Finder(self._api, self._references)

    async def check(self) -> Account:
        """The company and its settings. Refuses companies in the United States, whose sales tax has another shape."""
        company = decode(await self._api.company_info(), shapes.CompanyInfo, "CompanyInfo")
        country = alpha_2(company.country, "CompanyInfo.Country")
        if country == UNITED_STATES:
            raise WriteRejected(
                "the company is in the United States: its sales tax is by address and has no tax code per line",
                hint="connect a company of another country",
            )
        preferences = decode(await self._references.preferences(), shapes.Preferences, "Preferences")
        currency, forms = preferences.currency_prefs, preferences.sales_forms_prefs
        closed = preferences.accounting_info_prefs.book_close_date
        facts = {
            "custom_numbers": _yes(forms.custom_txn_numbers),
            "multi_currency": _yes(currency.multi_currency_enabled),
            "shipping": _yes(forms.allow_shipping),
            "discounts": _yes(forms.allow_discount),
            **({"books_closed_until": closed.isoformat()} if closed else {}),
        }
        if feature := next((item.value for item in company.name_value if item.name == CATEGORIES), None):
            facts["categories"] = _yes(feature == "true")
        return Account(
            vendor_id=self._config.realm_id,
            name=company.company_name or company.legal_name or self._config.realm_id,
            country=country,
            currency=currency.home_currency.value if currency.home_currency else None,
            time_zone=company.default_time_zone,
            facts=facts,
            warnings=list(_warnings(preferences)),
        )

    def read(self, stream: str, position: Position | None) -> AsyncIterator[Page]:
        """One poll; see `reading`."""
        self.manifest.stream(stream)
        return self._reader.read(position)

    def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        """All ids; see `reading`."""
        self.manifest.stream(stream)
        return self._reader.ids()

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        """Joins what the objects refer to, from memory or by `Id IN (…)`."""
        return await self._references.joined(records)

    def to_canonical(self, record: RawRecord) -> Entity:
        """Pure; see `mapping`."""
        return mapping.canonical(record.entity, record.id, record.raw, record.joined, self._config.realm_id)

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        """One object by a read of its own, because a query may serve an older version."""
        if entity == "sales_invoice":
            kind, object_id = split_id(external_id)
        elif entity in ENTITIES:
            kind, object_id = ENTITIES[entity], external_id
        else:
            raise MappingError(f"QuickBooks has no {entity}")
        raw = await self._api.get(kind, object_id)
        if raw is None:
            return None
        whole = (await self._references.joined([record_of(kind, raw)]))[0]
        if isinstance(whole, RawRecord):
            return whole
        raise whole

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        """Candidates; see `finding`."""
        return await self._finder.find(entity, match)

    def plan(self, write: Write) -> Sequence[Step]:
        """Pure; see `plans`."""
        return steps_of(write)

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """One call; see `writing`."""
        return await self._writer.perform(write, step, done)

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """What an unclear call made; see `writing`."""
        return await self._writer.search(write, step, done)

    async def aclose(self) -> None:
        """Nothing of its own is open: the client belongs to whoever built it."""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _warnings(preferences: shapes.Preferences) -> list[str]:
    """What works otherwise than people may expect."""
    forms, closed = preferences.sales_forms_prefs, preferences.accounting_info_prefs.book_close_date
    found = []
    if not forms.custom_txn_numbers:
        found.append(
            "custom transaction numbers are off: QuickBooks numbers documents itself, a reference to DocNumber is not sent"
        )
    if not preferences.currency_prefs.multi_currency_enabled:
        found.append("multicurrency is off: documents in other currencies are refused")
    if closed:
        found.append(f"the books are closed until {closed.isoformat()}: documents of that time are refused, never moved")
    return found
