"""Candidates by one natural key, inactive ones included."""

from collections.abc import Sequence

from bus.core.identity import match_email, match_sku
from bus.kit.connector import Found, Match, RawRecord
from connectors.quickbooks.api import Api, quoted
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.document_body import DOC_NUMBER_MAX
from connectors.quickbooks.mapping.parts import DELETED_SUFFIX, decode, emails_of
from connectors.quickbooks.mapping.product import CATEGORY
from connectors.quickbooks.reading import record_of
from connectors.quickbooks.references import References
from connectors.quickbooks.writing import SALES

FOUND_MAX = 10


class Finder:
    """Searches one company. https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/data-queries"""

    def __init__(self, api: Api, references: References) -> None:
        self._api = api
        self._references = references

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        """At most a handful. VAT numbers and EAN cannot be searched: nothing is found by them."""
        match entity:
            case "customer":
                return await self._customers(match)
            case "product" | "product_category":
                return await self._items(entity, match)
            case "sales_invoice":
                return await self._sales(match)
            case _:
                return []

    async def _customers(self, match: Match) -> Sequence[Found]:
        """By e-mail, lists of addresses included; a number is a display name, because customers have no number here."""
        if match.email:
            wanted = match_email(match.email)
            condition = f"PrimaryEmailAddr LIKE {quoted(f'%{match.email.strip()}%')}"
            rows = await self._rows("Customer", condition)
            hits = [
                raw
                for raw in rows
                if wanted in {match_email(point.value) for point in emails_of(_customer(raw).primary_email_addr)}
            ]
        elif name := match.name or match.number:
            hits = await self._rows("Customer", _named("DisplayName", name))
        else:
            return []
        return await self._found("Customer", hits)

    async def _items(self, entity: str, match: Match) -> Sequence[Found]:
        if match.sku:
            rows = await self._rows("Item", f"Sku = {quoted(match.sku.strip())}")
            hits = [raw for raw in rows if match_sku(_item(raw).sku or "") == match_sku(match.sku)]
        elif match.name:
            hits = await self._rows("Item", _named("Name", match.name))
        else:
            return []
        is_category = entity == "product_category"
        return await self._found("Item", [raw for raw in hits if (_item(raw).type == CATEGORY) == is_category])

    async def _sales(self, match: Match) -> Sequence[Found]:
        number = match.reference or match.number
        if not number or len(number) > DOC_NUMBER_MAX:
            return []
        found: list[Found] = []
        for entity in SALES:
            found += await self._found(entity, await self._rows(entity, f"DocNumber = {quoted(number)}"))
        return found[:FOUND_MAX]

    async def _rows(self, entity: str, condition: str) -> list[bytes]:
        return [bytes(raw) for raw in (await self._api.query(entity, [condition])).rows]

    async def _found(self, entity: str, rows: Sequence[bytes]) -> list[Found]:
        records = [record_of(entity, raw) for raw in rows[:FOUND_MAX]]
        found = []
        for whole in await self._references.joined(records):
            if not isinstance(whole, RawRecord):
                raise whole
            found.append(
                Found(record=whole, number=decode(whole.raw, shapes.Numbered, entity).doc_number, active=_is_active(whole.raw))
            )
        return found


class _Active(shapes.Vendor, frozen=True, kw_only=True):
    active: bool = True


def _named(member: str, name: str) -> str:
    """Rows of a name, the inactive ones too: QuickBooks writes behind their names that they are."""
    return f"{member} IN ({quoted(name.strip())}, {quoted(name.strip() + DELETED_SUFFIX)})"


def _is_active(raw: bytes) -> bool:
    return decode(raw, _Active, "Active").active


def _customer(raw: bytes) -> shapes.Customer:
    return decode(raw, shapes.Customer, "Customer")


def _item(raw: bytes) -> shapes.Item:
    return decode(raw, shapes.Item, "Item")
