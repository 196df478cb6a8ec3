"""Item ↔ canonical product; item group → category."""

from decimal import Decimal
from typing import Any

from stdnum import ean

from bus.core.errors import MappingError
from bus.core.identity import clean
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import code, day
from schemas import canon
from schemas.canon import PriceMode, ProductKind, TextFormat

SKU_MAX = 30
NAME_MAX = 60
SHORT_MAX = 255
GRAMS = {"kg": Decimal(1000), "g": Decimal(1), "gr": Decimal(1)}
FREE_TEXT = tuple(f"FreeTextField_0{number}" for number in range(1, 6))


def product_from_vendor(raw: bytes) -> canon.Product:
    """A whole item. An item without stock is VIRTUAL, one for hours (IsTime) a SERVICE."""
    whole = shapes.decoded(raw, shapes.WholeItem, "Item")
    item = whole.Item
    group = item.ItemGroup
    texts = {name: text for name in FREE_TEXT if (text := clean(getattr(item, name)))}
    parent = texts.get(whole.ParentField or "")
    custom = {name: canon.CustomValue(text=text) for name, text in texts.items()}
    custom["IsWebshopItem"] = canon.CustomValue(flag=bool(item.IsWebshopItem))
    vat = code(item.SalesVatCode)
    begin, end = day(item.StartDate), day(item.EndDate)
    return canon.Product(
        sku=clean(item.Code),
        kind=_kind(item),
        parent=canon.Ref(code=parent) if parent else None,
        options={option: texts[name] for option, name in whole.OptionFields.items() if name in texts},
        name=clean(item.Description),
        description_short=clean(item.ExtraDescription),
        description_long=clean(item.Notes),
        description_format=TextFormat.TEXT,
        gtin=_gtin(item.Barcode),
        prices=_prices(whole),
        tax_code=canon.Ref(id=vat, code=vat) if vat else None,
        unit=code(item.Unit),
        unit_label=clean(item.UnitDescription),
        stock_tracked=item.IsStockItem,
        weight_g=_grams(item),
        categories=[canon.Ref(id=group, code=clean(item.ItemGroupCode))] if group else [],
        images=[canon.Image(sha256=p.sha256, media_type=p.media_type, size_bytes=p.size_bytes)] if (p := whole.picture) else [],
        attributes=dict(whole.Extra),
        active=(begin is None or begin.isoformat() <= whole.Today)
        and (end is None or end.isoformat() >= whole.Today)
        and item.IsSalesItem is not False,
        custom_fields=custom,
    )


def _kind(item: shapes.Item) -> ProductKind:
    if item.IsStockItem:
        return ProductKind.SIMPLE
    return ProductKind.SERVICE if item.IsTime else ProductKind.VIRTUAL


def category_from_vendor(raw: bytes) -> canon.ProductCategory:
    """An item group."""
    group = shapes.decoded(raw, shapes.ItemGroup, "ItemGroup")
    return canon.ProductCategory(code=clean(group.Code), name=clean(group.Description) or clean(group.Code))


def _prices(whole: shapes.WholeItem) -> list[canon.ProductPrice]:
    """Base prices in force on the day of reading; a price is with VAT when the item's VAT code is of type I."""
    mode = PriceMode.INCL if whole.VatType == "I" else PriceMode.EXCL
    found = []
    for price in whole.Prices:
        begin, end = day(price.StartDate), day(price.EndDate)
        if price.Account or (begin and begin.isoformat() > whole.Today) or (end and end.isoformat() < whole.Today):
            continue
        quantity = price.Quantity if price.Quantity is not None and price.Quantity > 1 else None
        found.append(
            (
                begin,
                canon.ProductPrice(price_mode=mode, value=price.Price, currency=price.Currency or "EUR", min_quantity=quantity),
            )
        )
    newest: dict[tuple[str, Decimal | None], canon.ProductPrice] = {}
    for _, price_row in sorted(found, key=lambda pair: str(pair[0] or "")):
        newest[price_row.currency, price_row.min_quantity] = price_row
    return sorted(newest.values(), key=lambda p: (p.currency, p.min_quantity or 0))


def _gtin(text: str | None) -> str | None:
    value = clean(text)
    return value if value and ean.is_valid(value) else None


def _grams(item: shapes.Item) -> Decimal | None:
    factor = GRAMS.get((clean(item.NetWeightUnit) or "").casefold())
    return item.NetWeight * factor if item.NetWeight and factor else None


# --- to the vendor -----------------------------------------------------------------------------------------------------------


def item_to_vendor(product: canon.Product, fields: frozenset[str] | None) -> dict[str, Any]:
    """Members of the item: all on create, those of the changed paths on update. A longer SKU is refused, never cut."""
    if not product.sku:
        raise MappingError(
            "product has no SKU, which Exact needs as its code", hint="give it one at the source, or filter it out"
        )
    if len(product.sku) > SKU_MAX:
        raise MappingError(f"SKU has {len(product.sku)} characters, Exact takes {SKU_MAX}", hint="shorten the SKU at the source")
    body: dict[str, Any] = {}
    if fields is None:
        body["Code"] = product.sku
    if fields is None or "name" in fields:
        body["Description"] = (product.name or product.sku)[:NAME_MAX]
    if fields is None or "description_short" in fields:
        body["ExtraDescription"] = product.description_short[:SHORT_MAX] if product.description_short else None
    if fields is None or "description_long" in fields:
        body["Notes"] = product.description_long
    if fields is None or "gtin" in fields:
        body["Barcode"] = product.gtin
    if fields is None:
        body |= {"IsSalesItem": True, "IsStockItem": product.kind is ProductKind.SIMPLE and bool(product.stock_tracked)}
        return {key: value for key, value in body.items() if value is not None}
    return body


def base_price(product: canon.Product) -> canon.ProductPrice | None:
    """The price that goes into the base price row."""
    return next((p for p in product.prices if p.price_list is None and (p.min_quantity is None or p.min_quantity <= 1)), None)
