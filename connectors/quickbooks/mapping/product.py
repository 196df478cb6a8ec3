"""QuickBooks items as canonical products and product categories. Pure."""

from bus.core.identity import clean
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.customer import named_ref
from connectors.quickbooks.mapping.parts import Joined, amount, name_of, price
from schemas import canon
from schemas.canon import PriceMode, ProductKind, TextFormat

CATEGORY = "Category"
KINDS = {
    "Inventory": ProductKind.SIMPLE,
    "NonInventory": ProductKind.VIRTUAL,
    "Service": ProductKind.SERVICE,
    "Group": ProductKind.BUNDLE,
}


def product_from_vendor(item: shapes.Item, joined: Joined) -> canon.Product:
    """A product. QuickBooks has no variants, EAN, attributes or units; one sales price in the home currency."""
    description = clean(item.description)
    home = joined.home_currency()
    value = price(item.unit_price, "UnitPrice")
    cost = amount(item.purchase_cost, "PurchaseCost")
    mode = PriceMode.INCL if item.sales_tax_included else PriceMode.EXCL
    return canon.Product(
        sku=clean(item.sku),
        kind=KINDS[item.type],
        name=name_of(item.name, active=item.active),
        description_long=description,
        description_format=TextFormat.TEXT if description else TextFormat.UNKNOWN,
        prices=[canon.ProductPrice(price_mode=mode, value=value, currency=home)] if value is not None else [],
        purchase_price=canon.Money(value=cost, currency=home) if cost is not None else None,
        tax_code=named_ref(joined, "TaxCode", item.sales_tax_code_ref),
        revenue_account=account_ref(joined, item.income_account_ref),
        cost_account=account_ref(joined, item.expense_account_ref),
        asset_account=account_ref(joined, item.asset_account_ref),
        stock_tracked=item.track_qty_on_hand,
        categories=_categories(item, joined),
        active=item.active,
    )


def _categories(item: shapes.Item, joined: Joined) -> list[canon.Ref]:
    """The parent, when it is a category: an item below another item is in none."""
    parent = joined.get(shapes.Item, "Item", item.parent_ref)
    return [category_ref(parent)] if parent is not None and parent.type == CATEGORY else []


def category_ref(category: shapes.Item) -> canon.Ref:
    """A category by its whole path, which is unique."""
    return canon.Ref(id=category.id, code=category_code(category), name=name_of(category.name, active=category.active))


def category_code(category: shapes.Item) -> str | None:
    """`Stationery:Notebooks`; the plain name on the first level."""
    return name_of(category.fully_qualified_name, active=category.active) or name_of(category.name, active=category.active)


def category_from_vendor(item: shapes.Item, joined: Joined) -> canon.ProductCategory:
    """A category item."""
    parent = joined.get(shapes.Item, "Item", item.parent_ref)
    return canon.ProductCategory(
        code=category_code(item),
        name=name_of(item.name, active=item.active),
        parent=category_ref(parent) if parent is not None else None,
        active=item.active,
    )


def account_ref(joined: Joined, ref: shapes.Reference | None) -> canon.Ref | None:
    """A ledger account by its name."""
    account = joined.get(shapes.Account, "Account", ref)
    return (
        None if account is None else canon.Ref(id=account.id, code=clean(account.name), name=clean(account.fully_qualified_name))
    )
