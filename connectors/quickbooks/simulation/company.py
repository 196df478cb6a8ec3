"""State of one simulated company: rows by entity, their versions, what was deleted, answers kept by request id."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from bus.simulation.clock import SimClock
from connectors.quickbooks.simulation.entities import ENTITIES, PEOPLE, Kind
from connectors.quickbooks.simulation.refusals import Refused, bad_reference, not_found

PACIFIC = ZoneInfo("America/Los_Angeles")
"""The vendor's own time, in which it writes every moment."""
HOME_ZONE = ZoneInfo("Europe/Amsterdam")
CURRENCIES = {"EUR": "Euro", "USD": "United States Dollar", "SEK": "Swedish Krona", "GBP": "British Pound Sterling"}
EXCHANGE_RATES = {"EUR": Decimal(1), "USD": Decimal("0.92"), "SEK": Decimal("0.09"), "GBP": Decimal("1.17")}
ROW_HIDDEN = "_"
"""Members that start so are the simulator's own and never leave it."""

Row = dict[str, Any]


@dataclass
class Tombstone:
    """A transaction that was deleted: change data capture alone remembers it."""

    entity: str
    id: str
    at: str


@dataclass
class Company:
    """One company file."""

    clock: SimClock
    custom_txn_numbers: bool = True
    country: str = "NL"
    home: str = "EUR"
    close_date: str | None = None
    """Last closed day; nothing dated up to it may change."""
    tables: defaultdict[str, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    tombstones: list[Tombstone] = field(default_factory=list)
    replays: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """By request id: what was asked, and the answer."""
    links: defaultdict[tuple[str, str], dict[str, Decimal]] = field(default_factory=lambda: defaultdict(dict))
    """By invoice or credit memo: the amount each payment applies to it."""
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)
    """Id by entity and DocNumber."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Bytes of attachments."""
    generation: int = 0
    """Rises with every change."""

    def __post_init__(self) -> None:
        """Every list counts its own ids; the name lists share one count, transactions another."""
        self._ids: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self._numbers = itertools.count(1001)
        self._addresses = itertools.count(1)

    # --- time ----------------------------------------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Now, as in MetaData: Pacific offset, seconds."""
        return self.clock.now().astimezone(PACIFIC).isoformat(timespec="seconds")

    def time(self) -> str:
        """Now, as the member `time` of answers has it: milliseconds."""
        return self.clock.now().astimezone(PACIFIC).isoformat(timespec="milliseconds")

    def now(self) -> datetime:
        """Now in the company's zone, whose days are the dates of transactions."""
        return self.clock.now().astimezone(HOME_ZONE)

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def find(self, entity: str, object_id: object) -> Row | None:
        """A row, or None."""
        return self.tables[entity].get(str(object_id))

    def row(self, entity: str, object_id: object) -> Row:
        """A row. Raises Refused 610."""
        found = self.find(entity, object_id)
        if found is None:
            raise not_found(f"{entity} {object_id}")
        return found

    def referred(self, entity: str, reference: object, element: str) -> Row:
        """The row a reference names. Raises Refused 2500 for an id that is unknown, 610 for an inactive row."""
        value = str(reference.get("value", "")) if isinstance(reference, dict) else ""
        found = self.find(entity, value)
        if found is None:
            raise bad_reference(entity, value, element)
        if found.get("Active") is False:
            raise not_found(f"{entity} {value}", element)
        return found

    def id_named(self, entity: str, name: str) -> str:
        """The id of a list's row by its name. Raises KeyError."""
        for row in self.tables[entity].values():
            if row[ENTITIES[entity].name_field] == name:
                return str(row["Id"])
        raise KeyError(name)

    def add(self, entity: str, row: Row) -> Row:
        """A new row with its id, version 0."""
        kind = ENTITIES[entity].kind
        space = "transaction" if kind is Kind.TRANSACTION else "name" if entity in PEOPLE else entity
        stamp = self.stamp()
        row |= {"Id": str(next(self._ids[space])), "SyncToken": "0", "domain": "QBO", "sparse": False}
        row["MetaData"] = {"CreateTime": stamp, "LastUpdatedTime": stamp}
        self._keep(entity, row)
        return row

    def replace(self, entity: str, row: Row) -> Row:
        """A changed row instead of the one it was, as its next version."""
        old = self.tables[entity][row["Id"]]
        self._forget_number(entity, old)
        row["SyncToken"] = str(int(old["SyncToken"]) + 1)
        row["MetaData"] = {**old["MetaData"], "LastUpdatedTime": self.stamp()}
        self._keep(entity, row)
        return row

    def remove(self, entity: str, row: Row) -> None:
        """Takes a row out for good."""
        del self.tables[entity][row["Id"]]
        self._forget_number(entity, row)
        self.tombstones.append(Tombstone(entity, row["Id"], self.stamp()))
        self.generation += 1

    def _keep(self, entity: str, row: Row) -> None:
        self.tables[entity][row["Id"]] = row
        if row.get("DocNumber"):
            self.numbers.setdefault((entity, row["DocNumber"]), row["Id"])
        self.generation += 1

    def _forget_number(self, entity: str, row: Row) -> None:
        key = (entity, str(row.get("DocNumber")))
        if self.numbers.get(key) == row["Id"]:
            del self.numbers[key]

    # --- reference data ------------------------------------------------------------------------------------------------------

    def next_number(self) -> str:
        """The next document number; all sales share one range."""
        return str(next(self._numbers))

    def next_address(self) -> str:
        """The next id of an address."""
        return str(next(self._addresses))

    def rates(self) -> dict[str, tuple[str, Decimal]]:
        """Rate id and percent by tax code id."""
        found = {}
        for code in self.tables["TaxCode"].values():
            rate_id = code["SalesTaxRateList"]["TaxRateDetail"][0]["TaxRateRef"]["value"]
            found[code["Id"]] = (rate_id, Decimal(self.tables["TaxRate"][rate_id]["RateValue"]))
        return found

    def currency(self, code: str) -> dict[str, str]:
        """A reference to a currency the company uses. Raises Refused 2500."""
        used = {row["Code"] for row in self.tables["CompanyCurrency"].values() if row.get("Active", True)}
        if code != self.home and code not in used:
            raise bad_reference("CompanyCurrency", code, "CurrencyRef")
        return {"value": code, "name": CURRENCIES.get(code, code)}

    def replay(self, request_id: str, asked: str) -> Any:
        """The answer kept under a request id, None where there is none. Raises Refused 600 when something else was asked."""
        if request_id not in self.replays:
            return None
        before, answer = self.replays[request_id]
        if before != asked:
            raise Refused(
                "600", "Duplicate Request Id", f"The request id {request_id} was used for {before}.", element="requestid"
            )
        return answer
