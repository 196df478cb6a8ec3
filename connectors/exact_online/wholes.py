"""Puts whole objects together: header and lines, account and contacts, item and prices. One reader for polls, searches and
read-backs."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bus.core.errors import BusError, CredentialError, TransientError
from bus.kit.client import json_bytes
from bus.kit.connector import RawRecord
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import code, instant
from connectors.exact_online.odata import OData

PLACEHOLDER = "placeholder_item.png"
REFERENCES_S = 900


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


class Wholes:
    """Reads and assembles whole objects of one division."""

    def __init__(self, odata: OData, config: Any, clock: Any) -> None:
        self._odata = odata
        self._config = config
        self._clock = clock
        self._kinds: dict[str, str] | None = None
        self._vat_types: dict[str, str] = {}
        self._vat_fractions: dict[str, Any] = {}
        self._vat_read_at: Any = None

    # --- references --------------------------------------------------------------------------------------------------------

    async def vat_types(self) -> dict[str, str]:
        """Type (B, E, I, N) by VAT code, read anew after a quarter of an hour."""
        now = self._clock.now()
        if self._vat_read_at is None or (now - self._vat_read_at).total_seconds() > REFERENCES_S:
            rows = await self._odata.rows("vat/VATCodes", ("Code", "Type", "Percentage"))
            self._vat_types = {code(row["Code"]) or "": row["Type"] for row in rows}
            self._vat_fractions = {
                code(row["Code"]) or "": row["Percentage"] for row in rows if row.get("Percentage") is not None
            }
            self._vat_read_at = now
        return self._vat_types

    async def kinds(self) -> dict[str, str]:
        """COMPANY or PERSON by id of the classification's value, where one is configured."""
        if self._config.kind_field is None:
            return {}
        if self._kinds is None:
            rows = await self._odata.rows("crm/AccountClassifications", ("ID", "Code"))
            self._kinds = {row["ID"]: (code(row["Code"]) or "").upper() for row in rows}
        return self._kinds

    async def classification(self, kind: str) -> str | None:
        """Id of the classification that stands for a kind."""
        return next((key for key, name in (await self.kinds()).items() if name == kind), None)

    def today(self) -> str:
        """The business day of reading."""
        from connectors.exact_online.mapping.values import ZONE  # noqa: PLC0415 - one use

        return self._clock.now().astimezone(ZONE).date().isoformat()  # type: ignore[no-any-return]

    # --- customers ---------------------------------------------------------------------------------------------------------

    async def customers(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole accounts by id; the vanished are absent."""
        accounts = await self._odata.by("crm/Accounts", ACCOUNT, "ID", ids)
        known = [row["ID"] for row in accounts]
        contacts = await self._odata.by("crm/Contacts", CONTACT, "Account", known)
        addresses = await self._odata.by("crm/Addresses", ADDRESS, "Account", known)
        return await self.join_customers(accounts, contacts, addresses)

    async def join_customers(
        self, accounts: Iterable[Mapping[str, Any]], contacts: Iterable[Mapping[str, Any]], addresses: Iterable[Mapping[str, Any]]
    ) -> dict[str, RawRecord]:
        """Whole accounts of rows already read."""
        people, places, kinds = _by(contacts, "Account"), _by(addresses, "Account"), await self.kinds()
        return {
            row["ID"]: _record("customer", row["ID"], row, self._account(row, people[row["ID"]], places[row["ID"]], kinds))
            for row in accounts
        }

    def _account(self, row: Mapping[str, Any], contacts: Any, addresses: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
        kind = kinds.get(row.get(self._config.kind_field) or "") if self._config.kind_field else None
        return {
            "Account": _only(row, ACCOUNT),
            "Contacts": [_only(item, CONTACT) for item in sorted(contacts, key=lambda item: item["ID"])],
            "Addresses": [
                _only(item, ADDRESS) for item in sorted(addresses, key=lambda item: (not item.get("Main"), item["ID"]))
            ],
            "Kind": kind,
            "Today": self.today(),
        }

    # --- products ----------------------------------------------------------------------------------------------------------

    async def products(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole items by id."""
        items = await self._odata.by("logistics/Items", ITEM, "ID", ids)
        prices = await self._odata.by("logistics/SalesItemPrices", PRICE, "Item", [row["ID"] for row in items])
        return await self.join_products(items, prices)

    async def join_products(
        self, items: Iterable[Mapping[str, Any]], prices: Iterable[Mapping[str, Any]]
    ) -> dict[str, RawRecord]:
        """Whole items of rows already read."""
        rows, types = _by(prices, "Item"), await self.vat_types()
        found = {}
        for item in items:
            whole = {
                "Item": _only(item, ITEM),
                "Prices": [_only(price, PRICE) for price in sorted(rows[item["ID"]], key=lambda price: price["ID"])],
                "VatType": types.get(code(item.get("SalesVatCode")) or ""),
                "Picture": await self._picture(item),
                "ParentField": self._config.parent_field,
                "OptionFields": dict(self._config.option_fields),
                "Today": self.today(),
            }
            found[item["ID"]] = _record("product", item["ID"], item, whole)
        return found

    async def _picture(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The picture by content; the placeholder means none, one above the limit counts as none."""
        url = item.get("PictureUrl")
        if not self._config.read_pictures or not url or url.endswith(PLACEHOLDER):
            return None
        try:
            media_type, data = await self._odata.picture(url)
        except (TransientError, CredentialError):
            raise
        except BusError:
            return None
        if len(data) > self._config.picture_bytes_max:
            return None
        return {"sha256": hashlib.sha256(data).hexdigest(), "media_type": media_type, "size_bytes": len(data)}

    async def groups(self) -> list[RawRecord]:
        """All item groups."""
        rows = await self._odata.rows("logistics/ItemGroups", GROUP)
        return [RawRecord(entity="product_category", id=row["ID"], raw=json_bytes(_only(row, GROUP))) for row in rows]

    # --- orders ------------------------------------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Orders by id with lines, charges, customer and delivery address; whether they are whole is for the caller to ask."""
        headers = await self._odata.by("salesorder/SalesOrders", ORDER, "OrderID", ids)
        known = [row["OrderID"] for row in headers]
        lines = _by(await self._odata.by("salesorder/SalesOrderLines", LINE, "OrderID", known), "OrderID")
        charges = _by(await self._odata.by("salesorder/SalesOrderOrderChargeLines", CHARGE, "OrderID", known), "OrderID")
        accounts = await self.customers([row["OrderedBy"] for row in headers])
        places = [row["DeliveryAddress"] for row in headers if row.get("DeliveryAddress")]
        addresses = {row["ID"]: row for row in await self._odata.by("crm/Addresses", ADDRESS, "ID", places)}
        types = await self.vat_types()
        found = {}
        for header in headers:
            account = accounts.get(header["OrderedBy"])
            address = addresses.get(header.get("DeliveryAddress") or "")
            whole = {
                "Order": _only(header, ORDER),
                "Lines": [_only(line, LINE) for line in sorted(lines[header["OrderID"]], key=lambda line: line["ID"])],
                "Charges": [
                    _only(charge, CHARGE) for charge in sorted(charges[header["OrderID"]], key=lambda charge: charge["ID"])
                ],
                "Customer": msgspec.Raw(account.raw) if account else None,
                "DeliverTo": _only(address, ADDRESS) if address and address.get("Type") == 4 else None,
                "VatTypes": types,
                "VatFractions": self._vat_fractions,
                "Division": self._config.division,
            }
            found[header["OrderID"]] = _record("sales_order", header["OrderID"], header, whole)
        return found

    async def read(self, entity: str, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole objects of an entity by id."""
        if entity == "customer":
            return await self.customers(ids)
        if entity == "product":
            return await self.products(ids)
        if entity == "sales_order":
            return await self.orders(ids)
        return {record.id: record for record in await self.groups() if record.id in set(ids)}


def _record(entity: str, object_id: str, row: Mapping[str, Any], whole: Mapping[str, Any]) -> RawRecord:
    return RawRecord(
        entity=entity,
        id=object_id,
        raw=json_bytes(whole),
        modified_at=instant(row.get("Modified")),
        skip_unchanged=True,
    )


def _by(rows: Iterable[Mapping[str, Any]], field: str) -> defaultdict[str, list[Mapping[str, Any]]]:
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.get(field):
            found[row[field]].append(row)
    return found


def _only(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}
