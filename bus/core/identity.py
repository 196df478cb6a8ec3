"""Identity: keyed hashes, match keys, event ids, create keys.

Hashes are HMACs under a tenant key, because a plain hash of an e-mail address can be guessed. They are comparable within a
tenant only.
"""

import contextlib
import hashlib
import hmac
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import idna
import msgspec

from schemas import canon

NAMESPACE = uuid.UUID("6f1d6f0e-9c7e-5b55-8a55-3d1f0c6a51b0")
"""Root of all UUIDv5 the bus derives. Changing it would create everything a second time."""

ENTITY_TYPES: dict[str, type[msgspec.Struct]] = {
    "customer": canon.Customer,
    "product": canon.Product,
    "product_category": canon.ProductCategory,
    "sales_order": canon.SalesOrder,
    "sales_invoice": canon.SalesInvoice,
}

Entity: TypeAlias = canon.Customer | canon.Product | canon.ProductCategory | canon.SalesOrder | canon.SalesInvoice

_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")
_DERIVED = frozenset({"subject", "email_index"})
_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="string")
_NUMBERS = msgspec.json.Encoder(order="sorted", decimal_format="number")
_TEXT_OR_FRACTION = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+(?:E[+-]?\d+)?|E[+-]?\d+)')
"""A JSON text, which stays as it is, or a number with a fraction or exponent."""


class Hasher:
    """HMAC-SHA-256 under one tenant's key, prepared once."""

    def __init__(self, tenant_key: bytes) -> None:
        self._base = hmac.new(tenant_key, digestmod=hashlib.sha256)

    def hex(self, data: bytes, length: int = 32) -> str:
        """The first `length` bytes of the keyed hash, as hex."""
        mac = self._base.copy()
        mac.update(data)
        return mac.digest()[:length].hex()

    def content(self, entity: msgspec.Struct) -> str:
        """Hash of a canonical entity in plain form; equal content gives an equal hash whatever optional fields a schema gains."""
        return self.hex(_ENCODER.encode(entity))

    def fields(self, entity: msgspec.Struct) -> dict[str, str]:
        """Hash per field path (see `field_values`), 8 bytes each: enough to tell equal from changed."""
        return {path: self.hex(_plain(value), 8) for path, value in field_values(entity)}


def _plain(value: Any) -> bytes:
    """Equal bytes for equal values: 79.95 is 79.95000000, which is what the log makes of it."""
    if type(value) is str:
        return _ENCODER.encode(value)
    return _TEXT_OR_FRACTION.sub(_shortest, _NUMBERS.encode(value))


def _shortest(found: "re.Match[bytes]") -> bytes:
    text = found[0]
    if text.startswith(b'"'):
        return text
    if b"E" in text:
        text = f"{Decimal(text.decode()):f}".encode()
    return text.rstrip(b"0").rstrip(b".") if b"." in text else text


def field_values(entity: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """The paths that field ownership, `create_only` and change detection speak of.

    Top-level fields go by their name; personal data by its own (`full_name`, `email`, `phone`, `address.BILLING`), so that
    configuration need not know what is sealed. A reference counts by its code where it has one, because ids of two systems
    are never comparable. Empty values are left out: absent and null are the same fact.
    """
    for name in entity.__struct_fields__:
        value = getattr(entity, name)
        if name in _DERIVED or value is None or value in ([], {}):
            continue
        if isinstance(value, canon.PartyPii):
            yield from _pii_values(value)
        elif isinstance(value, canon.Ref):
            yield name, value.code or value.id
        elif isinstance(value, list) and value and isinstance(value[0], canon.Contact):
            yield name, [_contact_value(contact) for contact in value]
        else:
            yield name, value


_TOLD_TOGETHER = (
    frozenset({"display_name", "company_name", "full_name", "given_name", "middle_name", "family_name", "contacts"}),
    frozenset({"email", "emails", "contacts"}),
    frozenset({"phone", "phones", "contacts"}),
    frozenset({"country_code", "address.BILLING", "address.POSTAL", "address.VISIT", "address.DELIVERY"}),
)


def told_together(paths: Iterable[str]) -> frozenset[str]:
    """These paths and those that systems derive from them: whoever is given a full name fills the family name himself."""
    given = frozenset(paths)
    return given.union(*(group for group in _TOLD_TOGETHER if group & given))


def _pii_values(pii: canon.PartyPii) -> Iterator[tuple[str, Any]]:
    for name in ("full_name", "given_name", "middle_name", "family_name"):
        if value := getattr(pii, name):
            yield name, value
    for name, points in (("email", pii.emails), ("phone", pii.phones)):
        if points:
            yield name, points[0].value
        if len(points) > 1:
            yield f"{name}s", points[1:]
    for address in pii.addresses:
        yield f"address.{address.type}", msgspec.structs.replace(address, source_id=None)


def _contact_value(contact: canon.Contact) -> Any:
    return [contact.is_main, contact.pii]


# --- normalisation -----------------------------------------------------------------------------------------------------------


def clean(text: str | None) -> str | None:
    """NFC, trimmed; empty becomes None."""
    if text is None:
        return None
    return unicodedata.normalize("NFC", text).strip() or None


def match_email(email: str) -> str:
    """Form in which e-mail addresses are compared: trimmed, NFC, lower case, domain as A-label. Dots and tags stay."""
    text = unicodedata.normalize("NFC", email.strip()).lower()
    local, at, domain = text.rpartition("@")
    if not at:
        return text
    return f"{local}@{_a_label(domain)}"


@lru_cache(maxsize=4_096)
def _a_label(domain: str) -> str:
    with contextlib.suppress(idna.IDNAError):
        return idna.encode(domain, uts46=True).decode()
    return domain


def match_sku(sku: str) -> str:
    """Form in which SKUs are compared: NFKC, spaces collapsed, casefolded, dashes folded. Leading zeros are significant."""
    text = unicodedata.normalize("NFKC", sku).translate(_DASHES)
    return re.sub(r"\s+", " ", text).strip().casefold()


def match_vat(number: str) -> str:
    """Form in which VAT numbers are compared: upper case, no separators, GR as EL."""
    text = re.sub(r"[^0-9A-Z+*]", "", number.upper())
    return f"EL{text[2:]}" if text.startswith("GR") else text


def email_index(pii: canon.PartyPii, hasher: Hasher) -> list[str]:
    """Keyed hashes of a party's e-mail addresses, sorted."""
    return sorted({hasher.hex(match_email(point.value).encode(), 16) for point in pii.emails})


def match_keys(entity: msgspec.Struct, hasher: Hasher) -> list[str]:
    """Keys by which an object of an account can be found without asking the vendor.

    Customers and parties answer to `email`, `email+kind`, `vat` and `number`; products to `sku` and `gtin`. The e-mail keys
    use `email_index` when the personal data is sealed.
    """
    keys: set[str] = set()
    if isinstance(entity, canon.Customer | canon.Party):
        emails = set(entity.email_index)
        if isinstance(entity.pii, canon.PartyPii):
            emails |= set(email_index(entity.pii, hasher))
        for contact in getattr(entity, "contacts", []):
            emails |= set(contact.email_index)
            if isinstance(contact.pii, canon.PartyPii):
                emails |= set(email_index(contact.pii, hasher))
        keys |= {f"email:{email}" for email in emails}
        keys |= {f"email+kind:{email}:{entity.kind}" for email in emails}
        if entity.vat_number:
            keys.add(f"vat:{hasher.hex(match_vat(entity.vat_number).encode(), 16)}")
        number = getattr(entity, "number", None) or (
            entity.customer.code if isinstance(entity, canon.Party) and entity.customer else None
        )
        if number:
            keys.add(f"number:{hasher.hex(number.strip().encode(), 16)}")
    elif isinstance(entity, canon.Product):
        if entity.sku:
            keys.add(sku_key(entity.sku, hasher))
        if entity.gtin:
            keys.add(f"gtin:{hasher.hex(entity.gtin.encode(), 16)}")
    elif isinstance(entity, canon.ProductCategory) and entity.code:
        keys.add(f"code:{hasher.hex(entity.code.encode(), 16)}")
    return sorted(keys)


def sku_key(sku: str, hasher: Hasher) -> str:
    """Match key of an SKU."""
    return f"sku:{hasher.hex(match_sku(sku).encode(), 16)}"


# --- ids ---------------------------------------------------------------------------------------------------------------------


def event_id(event_key: str, seq: int) -> str:
    """Made once per version of an object: A → B → A gives three ids."""
    return str(uuid.uuid5(NAMESPACE, f"event|{event_key}|{seq}"))


def command_id(event_key: str, seq: int, flow: str, config_version: int) -> str:
    """Same event and configuration, same id, however often a processor emits it."""
    return str(uuid.uuid5(NAMESPACE, f"command|{event_key}|{seq}|{flow}|{config_version}"))


def create_key(target: str, entity: str, source_key: str, facet: str | None, generation: int) -> str:
    """Idempotency key of a create: it belongs to the object, not to the event, so that no newer event can create twice."""
    return str(uuid.uuid5(NAMESPACE, f"create|{target}|{entity}|{source_key}|{facet or ''}|{generation}"))
