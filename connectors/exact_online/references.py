"""Lists of a division that change rarely: VAT codes, classifications, order charges, and whether it moved.

Read again after a quarter of an hour, and at once when a code is asked for that is not among them.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.clock import Clock
from bus.core.errors import AccessDenied, MappingError
from bus.core.identity import clean
from connectors.exact_online.mapping.values import ZONE, code
from connectors.exact_online.odata import OData, key_of
from schemas.system import Cause

AGE_MAX = timedelta(minutes=15)
MOVE_AGE_MAX = timedelta(hours=1)
KINDS = ("COMPANY", "PERSON")


class VatCode(msgspec.Struct, frozen=True):
    """A VAT code: type B (basis only), E (excluding), I (including) or N (none), and its rate as a fraction."""

    type: str | None
    fraction: Decimal | None


class References:
    """The lists of one division."""

    def __init__(self, odata: OData, config: Any, clock: Clock) -> None:
        self._odata = odata
        self._config = config
        self.clock = clock
        self._vat_codes: dict[str, VatCode] = {}
        self._kinds: dict[str, str] = {}
        self._charges: dict[str, str] = {}
        self._moved: str | None = None
        self._read_at: dict[str, datetime] = {}

    def today(self) -> str:
        """The business day of reading."""
        return self.clock.now().astimezone(ZONE).date().isoformat()

    def day(self, days: int) -> str:
        """The business day that many days from now."""
        return (self.clock.now().astimezone(ZONE).date() + timedelta(days=days)).isoformat()

    async def vat_codes(self, needed: Iterable[str | None] = ()) -> Mapping[str, VatCode]:
        """VAT codes without their padding. Those in `needed` that are not known are asked for once more."""
        names = {name for name in map(code, needed) if name}
        if self._is_old("vat", AGE_MAX) or names - self._vat_codes.keys():
            rows = await self._odata.rows("vat/VATCodes", ("Code", "Type", "Percentage"))
            self._vat_codes = {
                code(row.get("Code")) or "": VatCode(clean(row.get("Type")), _exact(row.get("Percentage"))) for row in rows
            }
            self._note("vat")
        return self._vat_codes

    async def kinds(self) -> Mapping[str, str]:
        """COMPANY or PERSON by id of the classification's value, where one is configured."""
        if self._config.kind_field is None:
            return {}
        if self._is_old("kinds", AGE_MAX):
            rows = await self._odata.rows("crm/AccountClassifications", ("ID", "Code"))
            self._kinds = {key_of(row, "ID"): (code(row.get("Code")) or "").upper() for row in rows}
            self._note("kinds")
        return self._kinds

    async def classification(self, kind: str) -> str | None:
        """Id of the classification that stands for a kind; None for UNKNOWN. Raises MappingError when it is missing."""
        if self._config.kind_field is None or kind not in KINDS:
            return None
        found = next((key for key, name in (await self.kinds()).items() if name == kind), None)
        if found is None:
            raise MappingError(
                f"classification {kind} does not exist in the division",
                hint=f"make classifications COMPANY and PERSON in Exact for {self._config.kind_field}, or drop config.kind_field",
            )
        return found

    async def charge(self, name: str) -> str:
        """Id of an order charge by its code. Raises MappingError."""
        if name not in self._charges:
            rows = await self._odata.rows("sales/OrderCharges", ("ID", "Code"))
            self._charges = {code(row.get("Code")) or "": key_of(row, "ID") for row in rows}
        if name not in self._charges:
            raise MappingError(
                f"order charge {name!r} does not exist in the division",
                hint="create it in Exact, or correct config.order_charges",
                cause=Cause.UNKNOWN_VALUE,
            )
        return self._charges[name]

    async def moved(self) -> str | None:
        """When the division moved to another database, which starts its Timestamps anew; looked at once an hour.

        Raises AccessDenied when the division is not among those the consent reaches.
        """
        if self._is_old("moved", MOVE_AGE_MAX):
            names = ("Code", "DivisionMoveDate")
            rows = await self._odata.rows("system/Divisions", names, f"Code eq {self._config.division}")
            if not rows:
                raise AccessDenied(f"division {self._config.division} is not among those the consent reaches")
            self._moved = rows[0].get("DivisionMoveDate")
            self._note("moved")
        return self._moved

    def _is_old(self, name: str, age_max: timedelta) -> bool:
        read_at = self._read_at.get(name)
        return read_at is None or self.clock.now() - read_at > age_max

    def _note(self, name: str) -> None:
        self._read_at[name] = self.clock.now()


def _exact(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)
