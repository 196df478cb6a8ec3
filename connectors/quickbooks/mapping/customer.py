"""QuickBooks customers as canonical customers. Pure."""

from bus.core.identity import clean
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.parts import Joined, address_of, emails_of, name_of, phone_of, vat_number_of
from schemas import canon
from schemas.canon import AddressType, ContactPoint, CustomerKind, PartyPii


def customer_from_vendor(customer: shapes.Customer, joined: Joined) -> canon.Customer:
    """A customer. QuickBooks has no mark for companies: a company name makes one."""
    kind = kind_of(customer)
    addresses = [
        address_of(customer.bill_addr, AddressType.BILLING, "BillAddr"),
        address_of(customer.ship_addr, AddressType.DELIVERY, "ShipAddr"),
    ]
    country = next((item.country_code for item in addresses if item and item.country_code), None)
    display_name = name_of(customer.display_name, active=customer.active)
    is_company = kind is CustomerKind.COMPANY
    person = person_of(customer)
    pii = PartyPii(
        emails=emails_of(customer.primary_email_addr),
        phones=phones_of(customer, country),
        addresses=[item for item in addresses if item],
        full_name=None if is_company else person.full_name or display_name,
        given_name=None if is_company else person.given_name,
        middle_name=None if is_company else person.middle_name,
        family_name=None if is_company else person.family_name,
    )
    note = clean(customer.notes)
    return canon.Customer(
        kind=kind,
        display_name=display_name if is_company else None,
        company_name=name_of(customer.company_name, active=customer.active),
        vat_number=vat_number_of(customer.primary_tax_identifier),
        currency=customer.currency_ref.value if customer.currency_ref else joined.home_currency(),
        country_code=country,
        payment_term=named_ref(joined, "Term", customer.sales_term_ref),
        payment_method=named_ref(joined, "PaymentMethod", customer.payment_method_ref),
        vat_profile=named_ref(joined, "TaxCode", customer.default_tax_code_ref),
        active=customer.active,
        is_project=customer.job or customer.is_project,
        parent=canon.Ref(id=customer.parent_ref.value) if customer.parent_ref else None,
        contacts=[canon.Contact(is_main=True, pii=person)] if is_company and person != PartyPii() else [],
        subject=subject_of(customer.id),
        pii=pii if pii != PartyPii() else None,
        note=canon.NotePii(text=note) if note else None,
    )


def phones_of(customer: shapes.Customer, country: str | None) -> list[ContactPoint]:
    """All numbers, the primary one first; `country` is where one without a country code is."""
    return [
        *phone_of(customer.primary_phone, "WORK", country),
        *phone_of(customer.mobile, "MOBILE", country),
        *phone_of(customer.alternate_phone, "OTHER", country),
        *phone_of(customer.fax, "FAX", country),
    ]


def kind_of(customer: shapes.Customer) -> CustomerKind:
    """COMPANY with a company name, PERSON with a person's name, else UNKNOWN."""
    if clean(customer.company_name):
        return CustomerKind.COMPANY
    return CustomerKind.PERSON if clean(customer.given_name) or clean(customer.family_name) else CustomerKind.UNKNOWN


def person_of(customer: shapes.Customer) -> PartyPii:
    """The person a customer is, or a company's contact."""
    given, middle, family = clean(customer.given_name), clean(customer.middle_name), clean(customer.family_name)
    full_name = " ".join(part for part in (given, middle, family) if part) or None
    return PartyPii(full_name=full_name, given_name=given, middle_name=middle, family_name=family)


def subject_of(customer_id: str) -> str:
    """Whom a customer's personal data is about, on the customer and on its documents alike."""
    return f"customer:{customer_id}"


def named_ref(joined: Joined, entity: str, ref: shapes.Reference | None) -> canon.Ref | None:
    """A reference to a name list: configuration tables speak of its name."""
    found = joined.get(shapes.Named, entity, ref)
    return None if found is None else canon.Ref(id=found.id, code=clean(found.name))
