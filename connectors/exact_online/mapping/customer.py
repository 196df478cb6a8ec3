"""Account ↔ canonical customer.

The account's own address counts as the billing address: it is the one on documents unless another is chosen, and the other side
of every flow has a billing address but no visit address.
"""

from collections.abc import Mapping
from typing import Any

from bus.core.errors import MappingError
from bus.core.identity import clean, match_vat
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import code, day, instant, percent
from schemas import canon
from schemas.canon import AddressType, CustomerKind

NAME_MAX = 50
DELIVERY_TYPE = 4
ADDRESS_TYPES = {2: AddressType.POSTAL, 3: AddressType.BILLING, DELIVERY_TYPE: AddressType.DELIVERY}
NAME_PATHS = frozenset({"display_name", "company_name", "full_name", "given_name", "middle_name", "family_name"})
ADDRESS_FIELDS = ("AddressLine1", "AddressLine2", "AddressLine3", "Postcode", "City", "State", "Country")


def customer_from_vendor(raw: bytes) -> canon.Customer:
    """A whole account."""
    whole = shapes.decoded(raw, shapes.WholeAccount, "Account")
    instant(whole.Account.Modified)  # a time nobody can place stops the record
    return customer_of(whole)


def customer_of(whole: shapes.WholeAccount) -> canon.Customer:
    """The customer an account is."""
    account = whole.Account
    kind = kind_of(whole)
    name = clean(account.Name)
    is_company = kind is CustomerKind.COMPANY
    end = day(account.EndDate)
    term = code(account.PaymentConditionSales)
    vat = code(account.SalesVATCode)
    return canon.Customer(
        kind=kind,
        number=code(account.Code),
        display_name=name if is_company else None,
        company_name=name if is_company else None,
        vat_number=match_vat(account.VATNumber) if clean(account.VATNumber) else None,  # type: ignore[arg-type]
        registration_number=clean(account.ChamberOfCommerce),
        currency=code(account.SalesCurrency),
        language=code(account.Language).lower() if code(account.Language) else None,  # type: ignore[union-attr]
        country_code=code(account.Country),
        payment_term=canon.Ref(id=term, code=term) if term else None,
        vat_profile=canon.Ref(id=vat, code=vat) if vat else None,
        discount_pct=percent(account.DiscountSales) if account.DiscountSales else None,
        active=(end is None or end.isoformat() >= whole.Today) and code(account.Status) == "C",
        blocked=bool(account.Blocked),
        contacts=[_contact(contact, account.MainContact) for contact in whole.Contacts],
        subject=f"customer:{account.ID}",
        pii=_pii(whole, is_company),
        note=canon.NotePii(text=remarks) if (remarks := clean(account.Remarks)) else None,
    )


def kind_of(whole: shapes.WholeAccount) -> CustomerKind:
    """The configured classification, else a VAT or registration number; nothing else says company, and nothing says person."""
    if whole.Kind in ("COMPANY", "PERSON"):
        return CustomerKind(whole.Kind)
    if clean(whole.Account.VATNumber) or clean(whole.Account.ChamberOfCommerce):
        return CustomerKind.COMPANY
    return CustomerKind.UNKNOWN


def _pii(whole: shapes.WholeAccount, is_company: bool) -> canon.PartyPii:
    account = whole.Account
    addresses = [address_of(account, AddressType.BILLING), *(_typed(address) for address in whole.Addresses)]
    first: dict[AddressType, canon.Address] = {}
    for address in addresses:
        if address is not None:
            first.setdefault(address.type, address)
    return canon.PartyPii(
        full_name=None if is_company else clean(account.Name),
        emails=_points(account.Email),
        phones=_points(account.Phone),
        addresses=list(first.values()),
    )


def _typed(address: shapes.Address) -> canon.Address | None:
    kind = ADDRESS_TYPES.get(address.Type)
    return address_of(address, kind) if kind is not None else None


def address_of(row: shapes.Account | shapes.Address, kind: AddressType) -> canon.Address | None:
    """A postal address; None when it has neither line nor city."""
    if not (clean(row.AddressLine1) or clean(row.City) or clean(row.Postcode)):
        return None
    return canon.Address(
        type=kind,
        source_id=row.ID if isinstance(row, shapes.Address) else None,
        line1=clean(row.AddressLine1),
        line2=clean(row.AddressLine2),
        line3=clean(row.AddressLine3),
        postal_code=clean(row.Postcode),
        city=clean(row.City),
        region=code(row.State),
        country_code=code(row.Country),
    )


def _contact(contact: shapes.Contact, main: str | None) -> canon.Contact:
    return canon.Contact(
        id=contact.ID,
        is_main=main == contact.ID,
        subject=f"contact:{contact.ID}",
        pii=canon.PartyPii(
            given_name=clean(contact.FirstName),
            middle_name=clean(contact.MiddleName),
            family_name=clean(contact.LastName),
            emails=_points(contact.Email),
            phones=_points(contact.Phone) or _points(contact.Mobile),
        ),
    )


def _points(text: str | None) -> list[canon.ContactPoint]:
    value = clean(text)
    return [canon.ContactPoint(type="WORK", value=value)] if value else []


# --- to the vendor -----------------------------------------------------------------------------------------------------------


def plain(customer: canon.Customer | canon.Party) -> canon.PartyPii:
    """The opened personal data; an erased person has none."""
    return customer.pii if isinstance(customer.pii, canon.PartyPii) else canon.PartyPii()


def account_name(customer: canon.Customer) -> str:
    """The name of the account, cut to what Exact holds."""
    pii = plain(customer)
    person = " ".join(part for part in (pii.given_name, pii.middle_name, pii.family_name) if part)
    name = clean(customer.company_name or customer.display_name or pii.full_name or person)
    if not name and pii.emails:
        name = pii.emails[0].value
    if not name:
        raise MappingError("customer has neither a name nor an e-mail address", hint="give it a name at the source")
    return name[:NAME_MAX].strip()


def account_to_vendor(customer: canon.Customer, fields: frozenset[str] | None, set_values: Mapping[str, str]) -> dict[str, Any]:
    """Members of the account: all on create, those of the changed paths on update (None clears).

    Codes of the division (payment term, VAT code) are only those a flow set: the source's own mean nothing here.
    """
    pii = plain(customer)

    def wanted(path: str) -> bool:
        return fields is None or path in fields

    body: dict[str, Any] = {}
    if fields is None or fields & NAME_PATHS:
        body["Name"] = account_name(customer)
    if wanted("email"):
        body["Email"] = pii.emails[0].value if pii.emails else None
    if wanted("phone"):
        body["Phone"] = pii.phones[0].value if pii.phones else None
    if wanted("vat_number"):
        body["VATNumber"] = customer.vat_number
    if wanted("registration_number"):
        body["ChamberOfCommerce"] = customer.registration_number
    if wanted("language"):
        body["Language"] = customer.language.split("-")[0].upper() if customer.language else None
    if wanted("payment_term") and "payment_term" in set_values:
        body["PaymentConditionSales"] = set_values["payment_term"]
    if fields is None and "vat_code" in set_values:
        body["SalesVATCode"] = set_values["vat_code"]
    if wanted("address.BILLING"):
        body |= address_to_vendor(billing_of(pii))
    return {key: value for key, value in body.items() if value is not None} if fields is None else body


def billing_of(pii: canon.PartyPii) -> canon.Address | None:
    """The address that goes onto the account."""
    return next((a for kind in (AddressType.BILLING, AddressType.VISIT) for a in pii.addresses if a.type is kind), None)


def delivery_of(pii: canon.PartyPii) -> canon.Address | None:
    """A delivery address that differs from the billing address."""
    found = next((a for a in pii.addresses if a.type is AddressType.DELIVERY), None)
    billing = billing_of(pii)
    return found if found is not None and (billing is None or content_of(found) != content_of(billing)) else None


def address_to_vendor(address: canon.Address | None) -> dict[str, Any]:
    """Address members; an absent address clears them."""
    if address is None:
        return dict.fromkeys(ADDRESS_FIELDS)
    values = (
        address.line1,
        address.line2,
        address.line3,
        address.postal_code,
        address.city,
        address.region,
        address.country_code,
    )
    return dict(zip(ADDRESS_FIELDS, values, strict=True))


def content_of(address: canon.Address) -> tuple[str, ...]:
    """What makes two addresses the same: lines, postal code, city and country, whatever the case and blanks."""
    parts = (address.line1, address.line2, address.line3, address.postal_code, address.city, address.country_code)
    return tuple("".join((part or "").split()).casefold() for part in parts)


def contact_to_vendor(customer: canon.Customer) -> dict[str, Any] | None:
    """The person of an account: the main contact of a company where the source names one, else the buyer."""
    own = plain(customer)
    person = _main_person(customer) or own
    if not (person.given_name or person.family_name or person.full_name):
        return None
    emails, phones = person.emails or own.emails, person.phones
    body: dict[str, Any] = {
        "FirstName": clean(person.given_name),
        "MiddleName": clean(person.middle_name),
        "LastName": clean(person.family_name) or (None if person.given_name else clean(person.full_name)),
        "Email": emails[0].value if emails else None,
        "Phone": phones[0].value if phones else None,
    }
    return {key: value for key, value in body.items() if value}


def _main_person(customer: canon.Customer) -> canon.PartyPii | None:
    people = sorted(customer.contacts, key=lambda contact: not contact.is_main)
    return next((contact.pii for contact in people if isinstance(contact.pii, canon.PartyPii)), None)
