"""Parts that all mappings share: decoding, exact numbers, names, contact points, addresses. Pure."""

import functools
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation
from typing import Any, TypeVar

import msgspec
import phonenumbers
from stdnum.util import clean as strip_separators

from bus.core.errors import MappingError
from bus.core.identity import clean
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.countries import alpha_2
from schemas import canon
from schemas.canon import Address, AddressType, ContactPoint
from schemas.system import Cause

T = TypeVar("T")

DELETED_SUFFIX = " (deleted)"
"""Appended to the names of inactive objects. https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/data-queries"""
JOINED_MAX = 8192
"""Decoded joined objects remembered between records."""

_SCALES = {scale: Decimal(1).scaleb(-scale) for scale in (4, 6, 8, 10)}
_EXACT = Context(prec=40, rounding=ROUND_HALF_UP, traps=[Inexact, InvalidOperation])
_MASK = re.compile(r"[X*•]{2,}", re.IGNORECASE)


def decode(data: bytes, kind: type[T], what: str) -> T:
    """A vendor object from its bytes. Raises MappingError naming the path and what is wrong there."""
    try:
        found: T = _decoder(kind).decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        unknown = "Invalid enum value" in str(error)
        raise MappingError(
            f"{what}: {error}",
            hint="QuickBooks gives something the connector does not know: extend its mapping" if unknown else "",
            cause=Cause.UNKNOWN_VALUE if unknown else Cause.MAPPING_ERROR,
        ) from None
    return found


_decoder: Callable[[Any], msgspec.json.Decoder[Any]] = functools.cache(msgspec.json.Decoder)


@functools.lru_cache(maxsize=JOINED_MAX)
def _joined(data: bytes, kind: Any, what: str) -> Any:
    return decode(data, kind, what)


class Joined:
    """Objects that a record refers to, by `Entity:id`, as `complete` joined them."""

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self._data = data

    def get(self, kind: type[T], entity: str, ref: shapes.Reference | str | None) -> T | None:
        """The object, None when nothing is referred to. Raises MappingError when it was not joined."""
        if ref is None:
            return None
        key = f"{entity}:{ref if isinstance(ref, str) else ref.value}"
        found = self.find(kind, key)
        if found is None:
            raise MappingError(
                f"{key} is referred to but does not exist", hint="correct the reference there", cause=Cause.UNRESOLVED_REFERENCE
            )
        return found

    def find(self, kind: type[T], key: str) -> T | None:
        """The object if it was joined."""
        data = self._data.get(key)
        if data is None:
            return None
        remembered: Callable[..., T] = _joined
        return remembered(data, kind, key)

    def home_currency(self) -> str:
        """The company's own currency, from its preferences."""
        preferences = self.find(shapes.Preferences, "Preferences")
        home = preferences.currency_prefs.home_currency if preferences else None
        if home is None:
            raise MappingError("Preferences.CurrencyPrefs.HomeCurrency is missing", hint="set the home currency in QuickBooks")
        return home.value


# --- numbers -----------------------------------------------------------------------------------------------------------------


def _at_scale(value: Decimal | None, scale: int, path: str) -> Decimal | None:
    """The same number at a fixed scale, so that 6.5 and 6.50 are one fact. Raises MappingError where digits would be lost."""
    if value is None:
        return None
    try:
        return value.quantize(_SCALES[scale], context=_EXACT)
    except (Inexact, InvalidOperation):
        raise MappingError(
            f"{path}: {value} has more than {scale} decimals: it is no exact number", hint="correct the amount in QuickBooks"
        ) from None


def amount(value: Decimal | None, path: str) -> Decimal | None:
    """A booked amount, 4 decimals."""
    return _at_scale(value, 4, path)


def sure_amount(value: Decimal | None, path: str) -> Decimal:
    """A booked amount that must be there."""
    found = amount(value, path)
    if found is None:
        raise MappingError(f"{path} is missing", hint="correct the document in QuickBooks")
    return found


def price(value: Decimal | None, path: str) -> Decimal | None:
    """A unit price, 8 decimals."""
    return _at_scale(value, 8, path)


def quantity(value: Decimal | None, path: str) -> Decimal:
    """A quantity, 6 decimals; one where none is given."""
    return _at_scale(value if value is not None else Decimal(1), 6, path) or Decimal(0)


def pct(value: Decimal | None, path: str) -> Decimal | None:
    """A percentage in percent points, 4 decimals."""
    return _at_scale(value, 4, path)


def fx_rate(value: Decimal | None, path: str) -> Decimal | None:
    """An exchange rate, 10 decimals."""
    return _at_scale(value, 10, path)


# --- names, contact points, addresses ----------------------------------------------------------------------------------------


def name_of(name: str | None, *, active: bool) -> str | None:
    """A list name without the mark of inactive objects, which is no update of the name."""
    text = clean(name)
    if text and not active:
        text = clean(text.removesuffix(DELETED_SUFFIX))
    return text


def emails_of(email: shapes.Email | None) -> list[ContactPoint]:
    """All addresses of a comma list, in order."""
    parts = [clean(part) for part in ((email.address if email else None) or "").split(",")]
    return [ContactPoint(type="WORK", value=part) for part in dict.fromkeys(parts) if part]


def phone_of(phone: shapes.Phone | None, kind: str, country: str | None) -> list[ContactPoint]:
    """A phone number, E.164 where it can be read as one."""
    text = clean(phone.free_form_number if phone else None)
    return [ContactPoint(type=kind, value=e164(text, country))] if text else []


@functools.lru_cache(maxsize=JOINED_MAX)
def e164(text: str, country: str | None) -> str:
    """E.164 of a valid number; else the text as given."""
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return text
    if number.extension or not phonenumbers.is_valid_number(number):
        return text
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def address_of(address: shapes.PostalAddress | None, kind: AddressType, path: str) -> Address | None:
    """An address; None when it holds nothing."""
    if address is None:
        return None
    lines = [text for text in map(clean, (address.line1, address.line2, address.line3, address.line4, address.line5)) if text]
    line1, line2, *rest = [*lines, None, None][: max(2, len(lines))]
    found = Address(
        type=kind,
        line1=line1,
        line2=line2,
        line3=", ".join(text for text in rest if text) or None,
        postal_code=clean(address.postal_code),
        city=clean(address.city),
        region=clean(address.country_sub_division_code),
        country_code=alpha_2(address.country, f"{path}.Country"),
    )
    if found == Address(type=kind):
        return None
    return msgspec.structs.replace(found, source_id=address.id)


def vat_number_of(text: str | None) -> str | None:
    """A VAT number, compact. A masked one (`XXXXXX1234`) is absent: it is nobody's number."""
    number = clean(text)
    if number is None or _MASK.search(number):
        return None
    compact: str = strip_separators(number, " -.,/").upper()
    return compact or None


def ref_of(ref: shapes.Reference | None) -> canon.Ref | None:
    """A reference of which nothing but its display name is known."""
    return None if ref is None else canon.Ref(id=ref.value, code=clean(ref.name))
