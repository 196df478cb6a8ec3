"""Puts whole objects together: header and lines, account and contacts, item and prices. One reader for polls, searches and
read-backs."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from bus.core.errors import BusError, CredentialError, MappingError, TransientError
from bus.kit.client import json_bytes
from bus.kit.connector import RawRecord
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.customer import DELIVERY_TYPE
from connectors.exact_online.mapping.values import code, instant
from connectors.exact_online.odata import OData, guid, key_of
from connectors.exact_online.references import References

PLACEHOLDER = "placeholder_item.png"
EXTRA_FIELDS = "read/logistics/ItemExtraField"
EXTRA = ("ItemID", "Description", "Value")


def members(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Members to select: exactly those the mapping reads."""
    return kind.__struct_fields__


ACCOUNT = members(shapes.Account)
CONTACT = members(shapes.Contact)
ADDRESS = members(shapes.Address)
ITEM = members(shapes.Item)
PRICE = members(shapes.Price)
ORDER = members(shapes.Order)
LINE = members(shapes.OrderLine)
CHARGE = members(shapes.ChargeLine)
GROUP = members(shapes.ItemGroup)

Row = Mapping[str, Any]


class Wholes:
    """Reads and assembles whole objects of one division."""

    def __init__(self, odata: OData, references: References, config: Any) -> None:
        self._odata = odata
        self._references = references
        self._config = config

    # --- customers ---------------------------------------------------------------------------------------------------------

    async def customers(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole accounts by id; the vanished are absent."""
        accounts = await self._odata.by("crm/Accounts", ACCOUNT, "ID", ids)
        known = [key_of(row, "ID") for row in accounts]
        contacts = await self._odata.by("crm/Contacts", CONTACT, "Account", known)
        addresses = await self._odata.by("crm/Addresses", ADDRESS, "Account", known)
        return await self.join_customers(accounts, contacts, addresses)

    async def join_customers(
        self, accounts: Iterable[Row], contacts: Iterable[Row], addresses: Iterable[Row]
    ) -> dict[str, RawRecord]:
        """Whole accounts of rows already read."""
        people, places, kinds = _by(contacts, "Account"), _by(addresses, "Account"), await self._references.kinds()
        found = {}
        for row in accounts:
            key = key_of(row, "ID")
            found[key] = _record("customer", key, row, self._account(row, people[key], places[key], kinds))
        return found

    def _account(self, row: Row, contacts: list[Row], addresses: list[Row], kinds: Mapping[str, str]) -> dict[str, Any]:
        kind = kinds.get(row.get(self._config.kind_field) or "") if self._config.kind_field else None
        return {
            "Account": _only(row, ACCOUNT),
            "Contacts": [_only(item, CONTACT) for item in sorted(contacts, key=_id)],
            "Addresses": [_only(item, ADDRESS) for item in sorted(addresses, key=lambda item: (not item.get("Main"), _id(item)))],
            "Kind": kind,
            "Today": self._references.today(),
        }

    # --- products ----------------------------------------------------------------------------------------------------------

    async def products(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole items by id."""
        items = await self._odata.by("logistics/Items", ITEM, "ID", ids)
        known = [key_of(row, "ID") for row in items]
        prices = await self._odata.by("logistics/SalesItemPrices", PRICE, "Item", known)
        return await self.join_products(items, prices, await self._extra_of(known))

    async def join_products(self, items: Iterable[Row], prices: Iterable[Row], extra: Iterable[Row]) -> dict[str, RawRecord]:
        """Whole items of rows already read."""
        items = list(items)
        rows, extras = _by(prices, "Item"), _by(extra, "ItemID")
        codes = await self._references.vat_codes(item.get("SalesVatCode") for item in items)
        found = {}
        for item in items:
            key = key_of(item, "ID")
            vat = codes.get(code(item.get("SalesVatCode")) or "")
            picture = await self._picture(item)
            whole = {
                "Item": _only(item, ITEM),
                "Prices": [_only(price, PRICE) for price in sorted(rows[key], key=_id)],
                "VatType": vat.type if vat else None,
                "Extra": {row["Description"]: row["Value"] for row in extras[key] if row.get("Description") and row.get("Value")},
                "Picture": picture[0] if picture else None,
                "ParentField": self._config.parent_field,
                "OptionFields": dict(self._config.option_fields),
                "Today": self._references.today(),
            }
            record = _record("product", key, item, whole)
            pictures = {picture[0]["sha256"]: picture[1]} if picture else {}
            found[key] = msgspec.structs.replace(record, pictures=pictures)
        return found

    async def _extra_of(self, ids: Sequence[str]) -> list[Row]:
        """Extra fields, one call per item: only where they are asked for."""
        if not self._config.read_extra_fields:
            return []
        return [row for key in ids for row in await self._odata.function(EXTRA_FIELDS, EXTRA, {"itemId": guid(key)})]

    async def extra_since(self, moment: datetime) -> list[Row]:
        """Extra fields changed since a moment of the division's wall clock, in one call."""
        if not self._config.read_extra_fields:
            return []
        condition = f"Modified ge datetime'{moment:%Y-%m-%dT%H:%M:%S}'"
        return [row async for page in self._odata.pages(EXTRA_FIELDS, EXTRA, condition) for row in page]

    async def _picture(self, item: Row) -> tuple[dict[str, Any], bytes] | None:
        """What the picture is by content, and its bytes; the placeholder means none, one above the limit counts as none."""
        url = item.get("PictureUrl")
        if not self._config.read_pictures or not isinstance(url, str) or not url or url.endswith(PLACEHOLDER):
            return None
        try:
            media_type, data = await self._odata.picture(url)
        except (TransientError, CredentialError):
            raise
        except BusError:
            return None
        if len(data) > self._config.picture_bytes_max:
            return None
        return {"sha256": hashlib.sha256(data).hexdigest(), "media_type": media_type, "size_bytes": len(data)}, data

    async def groups(self) -> list[RawRecord]:
        """All item groups."""
        rows = await self._odata.rows("logistics/ItemGroups", GROUP)
        return [RawRecord(entity="product_category", id=key_of(row, "ID"), raw=json_bytes(_only(row, GROUP))) for row in rows]

    # --- orders ------------------------------------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Orders by id with lines, charges, customer and delivery address; whether they are whole is for the caller to ask."""
        headers = await self._odata.by("salesorder/SalesOrders", ORDER, "OrderID", ids)
        known = [key_of(row, "OrderID") for row in headers]
        lines = _by(await self._odata.by("salesorder/SalesOrderLines", LINE, "OrderID", known), "OrderID")
        charges = _by(await self._odata.by("salesorder/SalesOrderOrderChargeLines", CHARGE, "OrderID", known), "OrderID")
        accounts = await self.customers([key_of(row, "OrderedBy") for row in headers])
        places = [row["DeliveryAddress"] for row in headers if row.get("DeliveryAddress")]
        addresses = {key_of(row, "ID"): row for row in await self._odata.by("crm/Addresses", ADDRESS, "ID", places)}
        await self._references.vat_codes(row.get("VATCode") for rows in (*lines.values(), *charges.values()) for row in rows)
        found = {}
        for header in headers:
            key = key_of(header, "OrderID")
            account, address = accounts.get(header["OrderedBy"]), addresses.get(header.get("DeliveryAddress") or "")
            whole = {
                "Order": _only(header, ORDER),
                "Lines": [_only(line, LINE) for line in sorted(lines[key], key=_id)],
                "Charges": [_only(charge, CHARGE) for charge in sorted(charges[key], key=_id)],
                "Customer": msgspec.Raw(account.raw) if account else None,
                "DeliverTo": _only(address, ADDRESS) if address and address.get("Type") == DELIVERY_TYPE else None,
                **await self._vat_of([*lines[key], *charges[key]]),
                "Division": self._config.division,
            }
            found[key] = _record("sales_order", key, header, whole)
        return found

    async def _vat_of(self, rows: Iterable[Row]) -> dict[str, Any]:
        """What the VAT codes of an order mean: those it uses, so that a new code elsewhere changes no order."""
        codes = await self._references.vat_codes()
        used = sorted({name for row in rows if (name := code(row.get("VATCode"))) and name in codes})
        return {
            "VatTypes": {name: codes[name].type for name in used},
            "VatFractions": {name: codes[name].fraction for name in used if codes[name].fraction is not None},
        }

    async def read(self, entity: str, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole objects of an entity by id."""
        if entity == "customer":
            return await self.customers(ids)
        if entity == "product":
            return await self.products(ids)
        if entity == "sales_order":
            return await self.orders(ids)
        return {record.id: record for record in await self.groups() if record.id in set(ids)}


def _record(entity: str, object_id: str, row: Row, whole: Mapping[str, Any]) -> RawRecord:
    return RawRecord(
        entity=entity, id=object_id, raw=json_bytes(whole), modified_at=_modified(row.get("Modified")), skip_unchanged=True
    )


def _modified(text: Any) -> datetime | None:
    """When Exact says it changed; a date nobody can read is the mapping's to complain of, not the poll's."""
    try:
        return instant(text if isinstance(text, str) else None)
    except MappingError:
        return None


def _by(rows: Iterable[Row], field: str) -> defaultdict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get(field):
            found[row[field]].append(row)
    return found


def _id(row: Row) -> str:
    return key_of(row, "ID")


def _only(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}
