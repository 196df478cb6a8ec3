"""Canonical customers as QuickBooks bodies. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.asked import Asked, Names, cut, fits, named
from connectors.quickbooks.mapping.names import display_name, renamed, spaced
from connectors.quickbooks.mapping.parts import name_of
from schemas import canon
from schemas.canon import Address, AddressType, ContactPoint, CustomerKind, PartyPii

EMAIL_MAX, PHONE_MAX, PERSON_MAX, COMPANY_MAX = 100, 30, 100, 100
LINE_MAX, CITY_MAX, POSTAL_CODE_MAX = 500, 255, 30
EMPTY_ADDRESS = dict.fromkeys(("Line1", "Line2", "Line3", "City", "CountrySubDivisionCode", "PostalCode", "Country"), "")

MEMBERS: Mapping[str, tuple[str, ...]] = {
    "company_name": ("CompanyName",),
    **dict.fromkeys(
        ("full_name", "given_name", "middle_name", "family_name", "contacts"), ("GivenName", "MiddleName", "FamilyName")
    ),
    **dict.fromkeys(("email", "emails"), ("PrimaryEmailAddr",)),
    **dict.fromkeys(("phone", "phones"), ("PrimaryPhone", "Mobile", "AlternatePhone", "Fax")),
    **dict.fromkeys(("address.BILLING", "address.POSTAL", "address.VISIT", "address.UNKNOWN"), ("BillAddr",)),
    "address.DELIVERY": ("ShipAddr",),
    "vat_number": ("PrimaryTaxIdentifier",),
    "payment_term": ("SalesTermRef",),
    "payment_method": ("PaymentMethodRef",),
    "vat_profile": ("DefaultTaxCodeRef",),
    "note": ("Notes",),
    "active": ("Active",),
}
"""Members that a canonical field path stands for."""
CLEARED: Mapping[str, Any] = {
    "PrimaryEmailAddr": {"Address": ""},
    **{member: {"FreeFormNumber": ""} for member in ("PrimaryPhone", "Mobile", "AlternatePhone", "Fax")},
    **dict.fromkeys(("BillAddr", "ShipAddr"), EMPTY_ADDRESS),
    **dict.fromkeys(("CompanyName", "GivenName", "MiddleName", "FamilyName", "PrimaryTaxIdentifier", "Notes"), ""),
}
"""What empties a member in a sparse update, where only given members change. References cannot be emptied."""
PHONES = {"MOBILE": "Mobile", "FAX": "Fax", "OTHER": "AlternatePhone"}
NAMED = frozenset({"company_name", "display_name", "full_name", "given_name", "middle_name", "family_name"})


def customer_create(asked: Asked, customer: canon.Customer, names: Names) -> dict[str, Any]:
    """The whole customer. Its currency is fixed from here on."""
    body = {"DisplayName": display_name(asked, customer), **_members(asked, customer, names)}
    currency = asked.facet or customer.currency
    if currency:
        body["CurrencyRef"] = {"value": currency}
    return body


def customer_update(asked: Asked, customer: canon.Customer, names: Names, known: shapes.Customer) -> dict[str, Any]:
    """A sparse body with the asked fields only; emptied ones are sent empty."""
    fields = asked.fields or frozenset()
    whole = _members(asked, customer, names)
    body: dict[str, Any] = {}
    for path in sorted(fields):
        for member in MEMBERS.get(path, ()):
            if member in whole:
                body[member] = whole[member]
            elif member in CLEARED and _held(known, member):
                body[member] = CLEARED[member]
    if fields & (NAMED - {"company_name"} if customer.kind is CustomerKind.PERSON else {"company_name", "display_name"}):
        held = name_of(known.display_name, active=known.active)
        name = renamed(asked, customer, held, _known_base(known))
        if name != held:
            body["DisplayName"] = name
    return body


def _known_base(known: shapes.Customer) -> str | None:
    """The name that the known DisplayName begins with."""
    if known.company_name:
        return spaced(known.company_name)
    return spaced(" ".join(part for part in (known.given_name, known.middle_name, known.family_name) if part))


_ATTRIBUTES = {
    "PrimaryEmailAddr": "primary_email_addr",
    "PrimaryPhone": "primary_phone",
    "Mobile": "mobile",
    "AlternatePhone": "alternate_phone",
    "Fax": "fax",
    "BillAddr": "bill_addr",
    "ShipAddr": "ship_addr",
    "CompanyName": "company_name",
    "GivenName": "given_name",
    "MiddleName": "middle_name",
    "FamilyName": "family_name",
    "PrimaryTaxIdentifier": "primary_tax_identifier",
    "Notes": "notes",
}


def _held(known: shapes.Customer, member: str) -> bool:
    return bool(getattr(known, _ATTRIBUTES[member]))


def _members(asked: Asked, customer: canon.Customer, names: Names) -> dict[str, Any]:
    pii = customer.pii if isinstance(customer.pii, PartyPii) else PartyPii()
    is_company = customer.kind is CustomerKind.COMPANY
    company = customer.company_name or (customer.display_name if is_company else None)
    body: dict[str, Any] = {
        "CompanyName": cut(company, COMPANY_MAX) if customer.kind is not CustomerKind.PERSON else None,
        **_person(_contact_of(customer) if is_company else pii, whole=is_company or customer.kind is CustomerKind.PERSON),
        "PrimaryEmailAddr": _emails(pii.emails),
        **_phones(pii.phones),
        "BillAddr": _first_address(
            pii.addresses, (AddressType.BILLING, AddressType.POSTAL, AddressType.VISIT, AddressType.UNKNOWN)
        ),
        "ShipAddr": _first_address(pii.addresses, (AddressType.DELIVERY,)),
        "PrimaryTaxIdentifier": customer.vat_number,
        "SalesTermRef": _default(asked, names, "payment_term", "Term", customer.payment_term),
        "PaymentMethodRef": _default(asked, names, "payment_method", "PaymentMethod", customer.payment_method),
        "DefaultTaxCodeRef": _default(asked, names, "vat_profile", "TaxCode", customer.vat_profile),
        "Notes": customer.note.text if isinstance(customer.note, canon.NotePii) else None,
    }
    body = {member: value for member, value in body.items() if value}
    if asked.fields is not None:
        body["Active"] = customer.active
    return body


def _default(asked: Asked, names: Names, name: str, entity: str, ref: canon.Ref | None) -> dict[str, str] | None:
    """A customer's own default. A customer made with its first document gets none: what that flow sets is the document's."""
    return None if asked.value("reference") is not None else named(asked, names, name, entity, ref)


def _contact_of(customer: canon.Customer) -> PartyPii:
    """A company's main contact, the one person QuickBooks has a place for."""
    people = sorted(customer.contacts, key=lambda contact: not contact.is_main)
    found = next((contact.pii for contact in people if isinstance(contact.pii, PartyPii)), None)
    return found or PartyPii()


def _person(pii: PartyPii, *, whole: bool) -> dict[str, str | None]:
    """Name parts. A person known by one text only is split at its first space, so that the text reads back the same and the
    customer stays a person."""
    given, middle, family = pii.given_name, pii.middle_name, pii.family_name
    if whole and not given and not family and (text := spaced(pii.full_name)):
        given, _, rest = text.partition(" ")
        family = rest or given
        given = given if rest else None
        middle = None
    return {
        "GivenName": cut(spaced(given), PERSON_MAX),
        "MiddleName": cut(spaced(middle), PERSON_MAX),
        "FamilyName": cut(spaced(family), PERSON_MAX),
    }


def _emails(points: Sequence[ContactPoint]) -> dict[str, str] | None:
    """A comma list, as many as there is room for; the first must fit."""
    if not points:
        return None
    text = fits(points[0].value, EMAIL_MAX, "email") or ""
    for point in points[1:]:
        if len(text) + 1 + len(point.value) > EMAIL_MAX:
            break
        text += f",{point.value}"
    return {"Address": text} if text else None


def _phones(points: Sequence[ContactPoint]) -> dict[str, dict[str, str]]:
    """Numbers by kind; the first plain one is the primary one. A number that is too long is no number and is left out."""
    body: dict[str, dict[str, str]] = {}
    for point in points:
        if len(point.value) > PHONE_MAX:
            continue
        wanted = PHONES.get(point.type.upper(), "PrimaryPhone")
        member = wanted if wanted not in body else "AlternatePhone"
        body.setdefault(member, {"FreeFormNumber": point.value})
    return body


def _first_address(addresses: Sequence[Address], kinds: Sequence[AddressType]) -> dict[str, str] | None:
    for kind in kinds:
        for address in addresses:
            if address.type is kind and (body := address_body(address)):
                return body
    return None


def address_body(address: Address | None, *, with_names: bool = False) -> dict[str, str]:
    """An address; on documents the addressee's name takes the first lines."""
    if address is None:
        return {}
    texts = [address.line1, address.line2, address.line3]
    if with_names:
        texts = [address.company, address.name, *texts]
    lines = [text for text in (cut(text, LINE_MAX) for text in texts) if text]
    body = {f"Line{number}": text for number, text in enumerate(lines, start=1)}
    rest = {
        "City": cut(address.city, CITY_MAX),
        "CountrySubDivisionCode": cut(address.region, CITY_MAX),
        "PostalCode": cut(address.postal_code, POSTAL_CODE_MAX),
        "Country": address.country_code,
    }
    return body | {member: text for member, text in rest.items() if text}
