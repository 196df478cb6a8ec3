"""Steps that write items, with their base price and picture, and how each is found again."""

import base64
from collections.abc import Mapping
from typing import Any

from bus.core.errors import MappingError, WriteRejected
from bus.kit.connector import Step, StepResult, Write
from connectors.exact_online.mapping import product as products
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import PRICE_DIGITS, code, iso_day, settled
from connectors.exact_online.odata import OData, guid, key_of, text
from connectors.exact_online.plans import Call, Done, Find
from connectors.exact_online.references import References
from connectors.exact_online.wholes import PRICE
from schemas import canon


class Items:
    """Writes items of one division."""

    def __init__(self, odata: OData, references: References, config: Any) -> None:
        self._odata = odata
        self._references = references
        self._config = config
        self.calls: Mapping[str, Call] = {
            "item": self._item,
            "price": self._price,
            "image": self._image,
        }
        self.finders: Mapping[str, Find] = {
            "item": self._find_item,
            "price": self._find_price,
        }

    async def _item(self, write: Write, step: Step, done: Done) -> StepResult:
        body = dict(step.body)
        if group := write.value("item_group"):
            body["ItemGroup"] = await self._group(group)
        assert isinstance(write.document, canon.Product)
        if not write.document.active:
            body["EndDate"] = self._references.day(-1)
        if vat_code := body.get("SalesVatCode"):
            await self._price_body(write.document, vat_code)  # what cannot be priced is not made
        try:
            created = await self._odata.post("logistics/Items", body)
        except WriteRejected as refusal:
            # The text says "exists already" in the user's language: a look-up decides.
            found = await self._find_item(write, step, done)
            if found is None:
                raise
            raise WriteRejected(
                str(refusal), code=refusal.code, existing_id=found, hint="an item with this SKU exists: link it"
            ) from None
        return StepResult(external_id=created["ID"])

    async def _group(self, name: str) -> str:
        rows = await self._odata.rows("logistics/ItemGroups", ("ID", "Code"), f"Code eq {text(name)}")
        if not rows:
            raise MappingError(f"item group {name!r} does not exist", hint="create it in Exact, or correct the table")
        return key_of(rows[0], "ID")

    async def _find_item(self, write: Write, step: Step, done: Done) -> str | None:
        rows = await self._odata.rows("logistics/Items", ("ID", "Code"), f"Code eq {text(step.key or '')}")
        return key_of(rows[0], "ID") if rows else None

    async def _price(self, write: Write, step: Step, done: Done) -> StepResult:
        """The base price, in the mode the item's VAT code wants: the row in force, else a new one from today."""
        item = self._item_of(write, done)
        body = await self._price_in_mode(write, item)
        known = await self._price_row(item, body["Currency"])
        if known is not None:
            await self._odata.put("logistics/SalesItemPrices", known.ID, {"Price": body["Price"]})
            return StepResult(external_id=known.ID)
        begin = {"Item": item, "Quantity": 1, "StartDate": self._references.day(0)}
        return StepResult(external_id=(await self._odata.post("logistics/SalesItemPrices", {**body, **begin}))["ID"])

    async def _find_price(self, write: Write, step: Step, done: Done) -> str | None:
        """The row in force, where it holds the price: another price there is an older one, and has to be changed."""
        item = self._item_of(write, done)
        body = await self._price_in_mode(write, item)
        known = await self._price_row(item, body["Currency"])
        return known.ID if known and settled(known.Price, PRICE_DIGITS) == body["Price"] else None

    async def _price_in_mode(self, write: Write, item: str) -> dict[str, Any]:
        """What the row of the base price has to hold. The item is asked for its VAT code unless this write gives it."""
        assert isinstance(write.document, canon.Product)
        vat_code = write.value("vat_code") if write.action == "create" else None
        if vat_code is None:
            rows = await self._odata.rows("logistics/Items", ("ID", "SalesVatCode"), f"ID eq {guid(item)}")
            vat_code = rows[0].get("SalesVatCode") if rows else None
        body = await self._price_body(write.document, code(vat_code))
        assert body is not None, "a plan has the step only for a product with a price"
        return body

    @staticmethod
    def _item_of(write: Write, done: Done) -> str:
        """The item being changed, or just made."""
        return write.external_id or done["item"].external_id

    async def _price_body(self, document: canon.Product, vat_code: str | None) -> dict[str, Any] | None:
        """Raises MappingError for a VAT code the division does not have, and for a price that cannot be put in its mode."""
        codes = await self._references.vat_codes([vat_code])
        if vat_code and vat_code not in codes:
            raise MappingError(f"VAT code {vat_code!r} does not exist in the division", hint="correct vat_code of the flow")
        vat = codes.get(vat_code or "")
        return products.price_to_vendor(document, vat.type if vat else None, vat.fraction if vat else None)

    async def _price_row(self, item: str, currency: str) -> shapes.Price | None:
        """The base price in force today: of nobody in particular, from the first piece. Raises MappingError."""
        rows = await self._odata.rows("logistics/SalesItemPrices", PRICE, f"Item eq {guid(item)}")
        prices = [shapes.converted(row, shapes.Price, "SalesItemPrice") for row in rows]
        today = self._references.today()
        fitting = [
            price
            for price in prices
            if not price.Account
            and price.Currency == currency
            and (price.Quantity or 1) <= 1
            and iso_day(price.StartDate) <= today
            and (not price.EndDate or iso_day(price.EndDate) >= today)
        ]
        return max(fitting, key=lambda price: (iso_day(price.StartDate), price.ID), default=None)

    async def _image(self, write: Write, step: Step, done: Done) -> StepResult:
        """The picture, over whatever was there: an item holds one. https://start.exactonline.nl/docs/HlpRestAPIResourcesDetails.aspx?name=LogisticsItems"""
        assert isinstance(write.document, canon.Product)
        found = products.picture_of(write.document, write.pictures, self._config.picture_bytes_max)
        if found is None:
            raise MappingError("the picture's bytes are not at hand", hint="nothing to do: it is sent with the next change")
        item = self._item_of(write, done)
        await self._odata.put("logistics/Items", item, {"Picture": base64.b64encode(found[1]).decode()})
        return StepResult(external_id=item)
