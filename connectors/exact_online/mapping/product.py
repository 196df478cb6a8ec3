"""Item ↔ canonical product; item group → category."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from stdnum import ean

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import EXACT, rounded
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.doubles import item_of
from connectors.exact_online.mapping.values import INCLUDING, code, day, instant
from schemas import canon
from schemas.canon import PriceMode, ProductKind, TextFormat
from schemas.system import Cause

SKU_MAX = 30
NAME_MAX = 60
SHORT_MAX = 255
NET_PRICE_STEP = Decimal("0.0001")
GRAMS = {"kg": Decimal(1000), "g": Decimal(1), "gr": Decimal(1)}
FREE_TEXT = tuple(f"FreeTextField_0{number}" for number in range(1, 6))


def product_from_vendor(raw: bytes) -> canon.Product:
    """A whole item. An item without stock is VIRTUAL, one for hours (IsTime) a SERVICE."""
    whole = item_of(raw)
    item = whole.Item
    instant(item.Modified)  # a time nobody can place stops the record
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
    name = code(whole.Item.SalesVatCode)
    if name and whole.VatType is None and whole.Prices:
        raise MappingError(
            f"Item {whole.Item.Code}: SalesVatCode {name!r} is unknown in the division: do its prices hold VAT?",
            hint="choose another VAT code for the item in Exact",
            cause=Cause.UNKNOWN_VALUE,
        )
    mode = PriceMode.INCL if whole.VatType == INCLUDING else PriceMode.EXCL
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


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Free text fields that hold what Exact has no member for."""

    parent: str | None = None
    options: Mapping[str, str] = {}


def item_to_vendor(product: canon.Product, fields: frozenset[str] | None, places: Places) -> dict[str, Any]:
    """Members of the item: all on create, those of the changed paths on update. A longer SKU is refused, never cut."""
    if not product.sku:
        raise MappingError(
            "product has no SKU, which Exact needs as its code", hint="give it one at the source, or filter it out"
        )
    if len(product.sku) > SKU_MAX:
        raise MappingError(f"SKU has {len(product.sku)} characters, Exact takes {SKU_MAX}", hint="shorten the SKU at the source")
    texts: dict[str, dict[str, Any]] = {
        "name": {"Description": (clean(product.name) or product.sku)[:NAME_MAX].strip()},
        "description_short": {"ExtraDescription": product.description_short[:SHORT_MAX] if product.description_short else None},
        "description_long": {"Notes": product.description_long},
        "gtin": {"Barcode": product.gtin},
        "parent": {places.parent: product.parent.code if product.parent else None} if places.parent else {},
        "options": {member: product.options.get(option) for option, member in places.options.items()},
        "custom_fields": _custom(product),
    }
    if fields is not None:
        return {name: value for path in texts if path in fields for name, value in texts[path].items()}
    body: dict[str, Any] = {"Code": product.sku}
    for path in ("custom_fields", *texts):
        body |= texts[path]
    body |= {"IsSalesItem": True, "IsStockItem": product.kind is ProductKind.SIMPLE and bool(product.stock_tracked)}
    return {name: value for name, value in body.items() if value is not None}


def _custom(product: canon.Product) -> dict[str, Any]:
    """Custom fields that are members of an item, by the names under which they are read."""
    body: dict[str, Any] = {name: product.custom_fields[name].text for name in FREE_TEXT if name in product.custom_fields}
    shop = product.custom_fields.get("IsWebshopItem")
    return body | ({"IsWebshopItem": int(shop.flag)} if shop is not None and shop.flag is not None else {})


def base_price(product: canon.Product) -> canon.ProductPrice | None:
    """The price that goes into the base price row."""
    return next((price for price in product.prices if _is_base(price)), None)


def _is_base(price: canon.ProductPrice) -> bool:
    return price.price_list is None and (price.min_quantity is None or price.min_quantity <= 1)


def price_to_vendor(product: canon.Product, vat_type: str | None, fraction: Decimal | None) -> dict[str, Any] | None:
    """Members of the base price row. Under an including VAT code the price holds VAT: the source's own where it gives both,
    else converted by the code's rate. Raises MappingError when that is unknown.
    """
    price = base_price(product)
    if price is None:
        return None
    mode = PriceMode.INCL if vat_type == INCLUDING else PriceMode.EXCL
    if price.price_mode not in (mode, PriceMode.UNKNOWN):
        same = (other for other in product.prices if _is_base(other) and other.currency == price.currency)
        price = next((other for other in same if other.price_mode is mode), None) or _converted(price, mode, fraction)
    return {"Price": price.value, "Currency": price.currency}


def _converted(price: canon.ProductPrice, mode: PriceMode, fraction: Decimal | None) -> canon.ProductPrice:
    if fraction is None:
        raise MappingError(
            f"the price is {price.price_mode}, the item's VAT code wants {mode}, and its rate is unknown",
            hint="set vat_code of the flow to a code of the other kind",
        )
    factor = 1 + fraction
    value = (
        rounded(price.value * factor) if mode is PriceMode.INCL else rounded(EXACT.divide(price.value, factor), NET_PRICE_STEP)
    )
    return canon.ProductPrice(price_mode=mode, value=value, currency=price.currency)


def picture_of(product: canon.Product, pictures: Mapping[str, bytes], bytes_max: int) -> tuple[str, bytes] | None:
    """The first picture whose bytes are at hand and within the limit, with its sha256: an item holds one."""
    for image in sorted(product.images, key=lambda item: item.position):
        if image.sha256 and 0 < len(pictures.get(image.sha256, b"")) <= bytes_max:
            return image.sha256, pictures[image.sha256]
    return None
