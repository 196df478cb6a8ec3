"""Names that must be unique: DisplayName over customers, vendors and employees, Name over items. Pure and repeatable.

A name that is taken says nothing about whose it is, so nothing is ever linked by it: the next generation of the write carries a
suffix, the same one after a crash. https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/customer
"""

import re

from bus.core.errors import MappingError
from bus.core.identity import clean
from connectors.quickbooks.mapping.asked import Asked, cut
from schemas import canon
from schemas.canon import CustomerKind, PartyPii

DISPLAY_NAME_MAX = 500
NAME_MAX = 100
GENERATIONS = 3
_FORBIDDEN = re.compile(r"[:\t\r\n]+")


def spaced(text: str | None) -> str | None:
    """Without the characters that names may not hold."""
    return clean(re.sub(r" {2,}", " ", _FORBIDDEN.sub(" ", text or "")))


def base_name(customer: canon.Customer) -> str:
    """Company or person. Raises MappingError when the customer has no name at all."""
    pii = customer.pii if isinstance(customer.pii, PartyPii) else PartyPii()
    person = pii.full_name or " ".join(part for part in (pii.given_name, pii.middle_name, pii.family_name) if part)
    company = customer.display_name or customer.company_name or customer.trade_name
    first, second = (person, company) if customer.kind is CustomerKind.PERSON else (company, person)
    name = spaced(first) or spaced(second)
    if name is None:
        raise MappingError("the customer has neither a company name nor a person's name", hint="fill one of them at the source")
    return name


def display_name(asked: Asked, customer: canon.Customer) -> str:
    """The name a customer is made with: name, currency of its facet, and what makes it unique."""
    facet = f" {asked.facet}" if asked.facet else ""
    suffix = facet + unique_suffix(asked, customer.number, asked.value("customer.suffix"))
    return joined_name(base_name(customer), suffix, DISPLAY_NAME_MAX)


def unique_suffix(asked: Asked, number: str | None, flows_own: str | None = None) -> str:
    """What a further generation adds: the flow's suffix, the debtor number (or SKU), the source's id, then its connection too."""
    if asked.generation <= 0:
        return ""
    texts = [spaced(number), asked.source.id, f"{asked.source.connection} {asked.source.id}"]
    suffixes = [flows_own or "", *(f" ({text})" for text in texts if text)]
    fresh = [suffix for suffix in dict.fromkeys(suffixes) if suffix]
    return fresh[min(asked.generation, len(fresh)) - 1]


def joined_name(name: str, suffix: str, length: int) -> str:
    """Name and suffix; the name gives way."""
    suffix = _FORBIDDEN.sub(" ", suffix)
    return f"{cut(name, length - len(suffix))}{suffix}".strip()


def renamed(asked: Asked, customer: canon.Customer, known_display: str | None, known_base: str | None) -> str:
    """The new name of a customer that is there already: what followed its old name still follows the new one."""
    if asked.generation > 0 or asked.facet or not known_display or not known_base or not known_display.startswith(known_base):
        return display_name(asked, customer)
    return joined_name(base_name(customer), known_display.removeprefix(known_base), DISPLAY_NAME_MAX)
