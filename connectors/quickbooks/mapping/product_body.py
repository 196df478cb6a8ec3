"""Canonical products and categories as QuickBooks items. Pure."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from bus.core.errors import MappingError
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.asked import Asked, Company, Names, cut, fits, named, plain
from connectors.quickbooks.mapping.names import NAME_MAX, joined_name, spaced, unique_suffix
from connectors.quickbooks.mapping.parts import name_of
from schemas import canon
from schemas.canon import PriceMode

SKU_MAX, DESCRIPTION_MAX = 100, 4000
TYPES = {"SERVICE": "Service", "NON_INVENTORY": "NonInventory", "INVENTORY": "Inventory"}
DEFAULT_TYPE = "NON_INVENTORY"
"""Stock and cost of goods would be booked twice otherwise; Inventory is a choice."""

MEMBERS: Mapping[str, tuple[str, ...]] = {
    "name": ("Name",),
    "sku": ("Sku",),
    **dict.fromkeys(("description_long", "description_short"), ("Description",)),
    "prices": ("UnitPrice", "SalesTaxIncluded"),
    "purchase_price": ("PurchaseCost",),
    "tax_code": ("SalesTaxCodeRef",),
    "revenue_account": ("IncomeAccountRef",),
    "cost_account": ("ExpenseAccountRef",),
    "asset_account": ("AssetAccountRef",),
    "categories": ("SubItem", "ParentRef"),
    "active": ("Active",),
}
CLEARED: Mapping[str, Any] = {"Sku": "", "Description": "", "SubItem": False}


def product_create(asked: Asked, product: canon.Product, names: Names, company: Company) -> dict[str, Any]:
    """The whole item. Raises MappingError when what its type needs is missing."""
    kind = asked.document_type or DEFAULT_TYPE
    if kind not in TYPES:
        raise MappingError(f"type {kind!r} is none of {', '.join(TYPES)}", hint="mend `to.type` of the flow")
    body = {"Name": item_name(asked, product.name or product.sku, product.sku), "Type": TYPES[kind]}
    body |= _members(asked, product, names, company)
    if "IncomeAccountRef" not in body:
        raise MappingError("an item that is sold needs an income account", hint="add income_account under `set` of the flow")
    if kind == "INVENTORY":
        body |= _inventory(asked, body)
    return body


def _inventory(asked: Asked, body: Mapping[str, Any]) -> dict[str, Any]:
    missing = [
        name
        for name, member in (("expense_account", "ExpenseAccountRef"), ("asset_account", "AssetAccountRef"))
        if member not in body
    ]
    start = asked.value("inventory_start_date")
    missing += [] if start else ["inventory_start_date"]
    if missing:
        raise MappingError(f"an inventory item needs {', '.join(missing)}", hint="add them under `set` of the flow")
    try:
        day = date.fromisoformat(start or "")
    except ValueError:
        raise MappingError(f"inventory_start_date {start!r} is no day", hint="write it like 2026-01-01") from None
    return {"TrackQtyOnHand": True, "QtyOnHand": Decimal(0), "InvStartDate": day.isoformat()}


def product_update(asked: Asked, product: canon.Product, names: Names, company: Company, known: shapes.Item) -> dict[str, Any]:
    """A sparse body with the asked fields only. The type of an item stays what it is."""
    fields = asked.fields or frozenset()
    whole = _members(asked, product, names, company) | {"Name": item_name(asked, product.name or product.sku, product.sku)}
    held = {"Sku": known.sku, "Description": known.description, "SubItem": known.parent_ref}
    body: dict[str, Any] = {}
    for path in sorted(fields):
        for member in MEMBERS.get(path, ()):
            if member in whole:
                body[member] = whole[member]
            elif held.get(member):
                body[member] = CLEARED[member]
    if body.get("Name") == name_of(known.name, active=known.active):
        del body["Name"]
    return body


def item_name(asked: Asked, name: str | None, number: str | None) -> str:
    """A unique name: cut, and with the SKU behind it once the plain one was refused."""
    text = spaced(name)
    if text is None:
        raise MappingError("the product has neither name nor SKU", hint="fill one of them at the source")
    return joined_name(text, unique_suffix(asked, number), NAME_MAX)


def _members(asked: Asked, product: canon.Product, names: Names, company: Company) -> dict[str, Any]:
    price = sales_price(product, company.home_currency)
    cost = product.purchase_price
    if cost is not None and company.home_currency is not None and cost.currency != company.home_currency:
        cost = None
    category = next((asked.ids[key] for ref in product.categories if (key := f"category:{ref.id}") in asked.ids), None)
    body: dict[str, Any] = {
        "Sku": fits(product.sku, SKU_MAX, "sku"),
        "Description": cut(product.description_long or product.description_short, DESCRIPTION_MAX),
        "SalesTaxCodeRef": named(asked, names, "tax_code", "TaxCode", product.tax_code),
        "IncomeAccountRef": _account(asked, names, "income_account", "revenue_account"),
        "ExpenseAccountRef": _account(asked, names, "expense_account", "cost_account"),
        "AssetAccountRef": _account(asked, names, "asset_account"),
    }
    body = {member: value for member, value in body.items() if value}
    if price is not None:
        body |= {"UnitPrice": plain(price.value), "SalesTaxIncluded": price.price_mode is PriceMode.INCL}
    if cost is not None:
        body["PurchaseCost"] = plain(cost.value)
    if category is not None:
        body |= {"SubItem": True, "ParentRef": {"value": category}}
    if asked.fields is not None:
        body["Active"] = product.active
    return body


def _account(asked: Asked, names: Names, *given: str) -> dict[str, str] | None:
    """An account only by the flow's word: the source's own ledger is another one."""
    for name in given:
        if (value := asked.value(name)) is not None:
            return names.ref("Account", value, path=name, must=True)
    return None


def sales_price(product: canon.Product, home_currency: str | None) -> canon.ProductPrice | None:
    """The one sales price QuickBooks has a place for: the general one in its home currency, net before gross."""
    general = [
        price
        for price in product.prices
        if price.price_list is None
        and (price.min_quantity is None or price.min_quantity <= 1)
        and price.valid_from is None
        and (home_currency is None or price.currency == home_currency)
    ]
    return min(general, key=lambda price: price.price_mode is PriceMode.INCL, default=None)


def category_body(asked: Asked, category: canon.ProductCategory) -> dict[str, Any]:
    """A category item; its parent must have been written before. Four levels at most.
    https://developer.intuit.com/app/developer/qbo/docs/workflows/manage-inventory/item-hierarchies-using-categories"""
    fields = asked.fields
    body: dict[str, Any] = {}
    if fields is None or "name" in fields:
        body["Name"] = item_name(asked, category.name or category.code, category.code)
    if fields is None:
        body["Type"] = "Category"
    elif "active" in fields:
        body["Active"] = category.active
    if category.parent is not None and (fields is None or "parent" in fields):
        parent = asked.ids.get(f"category:{category.parent.id}")
        if parent is None:
            raise MappingError("the parent category is not in QuickBooks yet", hint="send the parent first, then this one again")
        body |= {"SubItem": True, "ParentRef": {"value": parent}}
    return body
