"""The document a target must hold: the source's facts with the flow's values put in. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import Entity
from bus.core.policy import WritePolicy
from bus.kit.manifest import Writes
from schemas import canon
from schemas.system import Command, Resolved, ValueKind

_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)


def with_values(document: Entity, resolved: list[Resolved]) -> Entity:
    """Puts header values that are canonical fields into the document; the rest stays with the write."""
    hints = _hints(type(document))
    changes: dict[str, object] = {}
    custom = dict(document.custom_fields) if hasattr(document, "custom_fields") else {}
    for item in resolved:
        if item.line_id is not None:
            continue
        head, _, field_id = item.name.partition(".")
        if head == "custom_fields" and field_id:
            custom[field_id] = _custom(item)
        elif item.name in hints:
            changes[item.name] = _typed(item, get_args(hints[item.name]) or (hints[item.name],))
    if custom != getattr(document, "custom_fields", {}):
        changes["custom_fields"] = custom
    return msgspec.structs.replace(document, **changes) if changes else document


def _typed(item: Resolved, kinds: tuple[object, ...]) -> object:
    if item.kind is ValueKind.NOTHING or item.value is None:
        return None
    if canon.Ref in kinds:
        return canon.Ref(code=item.value)
    if Decimal in kinds:
        return Decimal(item.value)
    if bool in kinds:
        return item.value == "true"
    if date in kinds:
        return date.fromisoformat(item.value)
    if str in kinds:
        return item.value
    raise MappingError(f"{item.name} cannot be set by a flow", hint="remove it from `set`")


def _custom(item: Resolved) -> canon.CustomValue:
    if item.value is None:
        return canon.CustomValue()
    match item.kind:
        case ValueKind.NUMBER:
            return canon.CustomValue(number=Decimal(item.value))
        case ValueKind.FLAG:
            return canon.CustomValue(flag=item.value == "true")
        case ValueKind.DAY:
            return canon.CustomValue(day=date.fromisoformat(item.value))
        case _:
            return canon.CustomValue(text=item.value)


def has_place(path: str, facts: Writes) -> bool:
    """Whether the target has a place for a field path."""
    return path in facts.fields or path.split(".", 1)[0] in facts.fields


def owned_paths(paths: Iterable[str], policy: WritePolicy, facts: Writes) -> set[str]:
    """Those of the field paths that the flow may write, and that have a place at the target."""
    return {path for path in paths if policy.owner_of(path) in ("last_change", "source") and has_place(path, facts)}


def kept_otherwise(
    now: Mapping[str, str], held: Mapping[str, str], looked: Collection[str] | None, before: Mapping[str, str]
) -> dict[str, str]:
    """What a target holds in another form than the source's fields `now`: its hash by path, empty for nothing.

    A vendor cuts names and masks numbers, and objects that were linked differ from the start: none of it is a difference that
    anybody made. `looked` are the paths that `held` is believed for (None: all), of the others counts what was told before.
    """
    paths = now.keys() if looked is None else now.keys() & looked
    kept = {path: known for path, known in before.items() if path in now and path not in paths}
    return kept | {path: held.get(path, "") for path in paths if held.get(path) != now[path]}


def unlike(now: Mapping[str, str], held: Mapping[str, str], applied: Mapping[str, str], otherwise: Mapping[str, str]) -> set[str]:
    """Paths of the source's fields that the target does not hold, nor what it made of them when they were settled."""
    return {
        path
        for path in now.keys() | applied.keys()
        if now.get(path) != held.get(path)
        and not (path in otherwise and now.get(path) == applied.get(path) and held.get(path, "") == otherwise[path])
        and (path in now or now.get(path) != applied.get(path))
    }


def facet_of(facts: Writes, currency: str | None, home_currency: str | None) -> str | None:
    """The facet of a link: the currency where the target's objects have one, none for the account's own currency."""
    return currency if facts.facet == "currency" and currency and currency != home_currency else None


def facet_of_type(document_type: str | None) -> str | None:
    """The facet of a document that is none of its entity's canonical types: an estimate is no invoice, so one order may have
    both. An invoice and a receipt are one sale in two forms and share a link, whichever it became first."""
    return document_type if document_type and document_type not in canon.InvoiceType.__members__ else None


def value_of(command: Command, name: str) -> str | None:
    """A header value the flow resolved."""
    return next((item.value for item in command.resolved if item.name == name and item.line_id is None), None)


def customer_from(party: canon.Party, currency: str | None) -> canon.Customer:
    """The customer an order names, as far as the order knows it."""
    return canon.Customer(
        kind=party.kind,
        number=party.customer.code if party.customer else None,
        display_name=party.company_name,
        company_name=party.company_name,
        vat_number=party.vat_number,
        registration_number=party.registration_number,
        currency=currency or party.currency,
        language=party.language,
        country_code=party.country_code,
        subject=party.subject,
        email_index=party.email_index,
        pii=party.pii,
    )
