"""Names of reference lists as references: what configuration tables speak of becomes what QuickBooks wants."""

from collections.abc import Callable, Mapping, Sequence

from bus.core.errors import MappingError
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.asked import Company
from connectors.quickbooks.mapping.parts import decode
from connectors.quickbooks.references import References
from schemas.system import Cause


class Row(shapes.Vendor, frozen=True, kw_only=True):
    """A row of any reference list."""

    id: str
    name: str
    active: bool = True
    acct_num: str | None = None
    fully_qualified_name: str | None = None


UNASKED = Company()


class Wanted:
    """Stands in for the lists in a plan, and remembers which ones a body needs."""

    def __init__(self) -> None:
        self.entities: set[str] = set()

    def ref(self, entity: str, name: str, *, path: str, must: bool) -> dict[str, str] | None:
        """The name itself: a plan makes no call."""
        self.entities.add(entity)
        return {"name": name}


class Lookups:
    """Answers from lists that were read."""

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        self._rows = rows
        self.left_out: dict[str, str] = {}
        """Optional values that have no counterpart, by path."""

    def ref(self, entity: str, name: str, *, path: str, must: bool) -> dict[str, str] | None:
        """The one active row of that name. Raises MappingError for a mandatory one that is missing, inactive or ambiguous."""
        text = name.strip()
        for key in KEYS:
            hits = [row for row in self._rows.get(entity, ()) if key(row) == text]
            active = [row for row in hits if row.active]
            if len(active) == 1:
                return {"value": active[0].id}
            if hits and must:
                what = f"{len(active)} active {entity} rows are" if active else f"only an inactive {entity} is"
                raise MappingError(f"{path}: {what} called {text!r}", hint="rename or activate it in QuickBooks")
        if must:
            raise MappingError(
                f"{path}: there is no {entity} {text!r} in QuickBooks",
                hint="make it there, or correct the value or table of the flow",
                cause=Cause.UNKNOWN_VALUE,
            )
        self.left_out[path] = text
        return None


KEYS: tuple[Callable[[Row], str | None], ...] = (
    lambda row: row.name.strip(),
    lambda row: row.fully_qualified_name,
    lambda row: f"{row.acct_num} {row.name}" if row.acct_num else None,
    lambda row: row.acct_num,
    lambda row: row.id,
)
"""What a row may be called, the most telling first."""


async def company_of(references: References) -> Company:
    """The company's settings. Raises errors of bus.core.errors."""
    preferences = decode(await references.preferences(), shapes.Preferences, "Preferences")
    currency = preferences.currency_prefs
    return Company(
        home_currency=currency.home_currency.value if currency.home_currency else None,
        multi_currency=currency.multi_currency_enabled,
        custom_numbers=preferences.sales_forms_prefs.custom_txn_numbers,
    )


async def lookups_of(references: References, entities: set[str]) -> Lookups:
    """The lists a body needs."""
    rows = {entity: [decode(raw, Row, entity) for raw in await references.names(entity)] for entity in sorted(entities)}
    return Lookups(rows)
