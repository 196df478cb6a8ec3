"""Exact's ways to write values: padded codes, local wall clock as if it were UTC, fractions for percentages."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import rounded

ZONE = ZoneInfo("Europe/Amsterdam")
"""Zone of the hosts nl, be, de, fr and es: recorded answers carry its wall clock."""
_DATE = re.compile(r"^\\?/Date\((-?\d+)\)\\?/$")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive on purpose: the number is a wall clock
ACCOUNT_CODE_WIDTH = 18
PRICE_DIGITS, QUANTITY_DIGITS, FRACTION_DIGITS = 8, 6, 8
"""Decimals that a unit price, a quantity and a fraction hold."""
INCLUDING = "I"
"""Type of VAT codes under which prices hold VAT."""


def wall_clock(text: str | None) -> datetime | None:
    """`/Date(ms)/` as the naive wall clock it stands for. Raises MappingError for anything else."""
    if text is None:
        return None
    found = _DATE.match(text)
    if found is None:
        raise MappingError(
            f"{text!r} is no date of the form /Date(ms)/", hint="the vendor changed a date format: see the original bytes"
        )
    return _EPOCH + timedelta(milliseconds=int(found[1]))


def instant(text: str | None) -> datetime | None:
    """An instant, aware, UTC."""
    local = wall_clock(text)
    return local.replace(tzinfo=ZONE).astimezone(UTC) if local is not None else None


def day(text: str | None) -> date | None:
    """A business day: never shifted by a zone."""
    local = wall_clock(text)
    return local.date() if local is not None else None


def iso_day(text: str | None) -> str:
    """A business day to compare with others; empty for none. Raises MappingError."""
    found = day(text)
    return found.isoformat() if found else ""


def code(text: str | None) -> str | None:
    """A code without its padding."""
    return clean(text)


def percent(fraction: Decimal | None) -> Decimal | None:
    """0.21 → 21."""
    exact = settled(fraction, FRACTION_DIGITS)
    return (exact * 100).normalize() + 0 if exact is not None else None


def settled(value: Decimal | None, digits: int) -> Decimal | None:
    """A double as the number it means: rounded where it has more decimals, else as it is. Raises MappingError."""
    if value is None:
        return None
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise MappingError(f"{value} is no number", hint="the vendor served a value of another type: see the original bytes")
    return value if -exponent <= digits else rounded(value, Decimal(1).scaleb(-digits)).normalize() + 0


def padded(number: str) -> str:
    """An account code as filters need it: 18 wide."""
    return number.rjust(ACCOUNT_CODE_WIDTH)


def search_mark(key: str) -> str:
    """The short mark of a create key that SearchCode carries."""
    return f"BUS{key.replace('-', '')[:17]}".upper()


def numbers(key: str, first: int, last: int, count: int) -> list[int]:
    """The numbers of a reserved range that an object may get, in the order of trying: the same for the same create key."""
    size = last - first + 1
    start = int(key.replace("-", "")[-16:], 16) % size
    return [first + (start + index) % size for index in range(min(count, size))]
