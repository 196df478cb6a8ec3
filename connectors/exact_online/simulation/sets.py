"""The entity sets: properties, verbs, reading rules, feeds. Facts of the vendor's REST reference, no behaviour.

https://start.exactonline.nl/docs/HlpRestAPIResources.aspx
"""

from dataclasses import dataclass, field

from connectors.exact_online.simulation.fields import Field, parse_fields
from connectors.exact_online.simulation.tables import (
    ACCOUNT,
    ADDRESS,
    CHARGE_LINE,
    CLASSIFICATION,
    CONTACT,
    DELETED,
    DELIVERY,
    DELIVERY_LINE,
    DIVISION,
    GL_ACCOUNT,
    ITEM,
    ITEM_GROUP,
    JOURNAL,
    ME,
    ORDER,
    ORDER_CHARGE,
    ORDER_LINE,
    PAYMENT_CONDITION,
    PRICE,
    SHIPPING_METHOD,
    STAMPS,
    UNIT,
    VAT_CODE,
    WAREHOUSE,
)

READ = frozenset({"GET"})
ALL = frozenset({"GET", "POST", "PUT", "DELETE"})
PAGE_ROWS = 60
WIDE_PAGE_ROWS = 1000


@dataclass(frozen=True)
class EntitySet:
    """One set. `forbidden` sets answer 403 to writes, others 405 to verbs they lack."""

    path: str
    model: str
    fields: dict[str, Field]
    key: str = "ID"
    verbs: frozenset[str] = READ
    forbidden: bool = False
    select_needed: bool = False
    filter_needed: bool = False
    filter_fields: frozenset[str] = frozenset()
    """Properties of which a filter must name one, where `filter_needed`; empty: any."""
    thin: bool = False
    children: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Property → (set of the children, property there that holds our key)."""
    deleted_type: int | None = None
    search: tuple[str, ...] = ()
    """Properties with an index."""

    @property
    def segment(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class View:
    """A way to read a set: plain, `bulk/` (1000 rows a page) or `sync/` (1000 rows, by Timestamp)."""

    path: str
    base: EntitySet
    family: str
    fields: dict[str, Field]

    @property
    def page_rows(self) -> int:
        """Rows of a full page."""
        return PAGE_ROWS if self.family == "plain" else WIDE_PAGE_ROWS


def _set(path: str, model: str, table: str, *, stamped: bool = True, **facts: object) -> EntitySet:
    fields = parse_fields(table + (STAMPS if stamped else ""))
    return EntitySet(path, model, fields, **facts)  # type: ignore[arg-type]


def _names(text: str) -> frozenset[str]:
    return frozenset(parse_fields("\n".join(f"{name} text R" for name in text.split())))


ACCOUNT_FILTERS = _names(
    "ID Code Name SearchCode Email Phone VATNumber ChamberOfCommerce RSIN Status Type IsSales IsSupplier Blocked City Postcode "
    "Country AddressLine{1-3} MainContact Parent InvoiceAccount PriceList Classification{1-8} StartDate EndDate Created Modified"
)
ITEM_FILTERS = _names(
    "ID Code Barcode SearchCode Description ExtraDescription ItemGroup ItemGroupCode Unit SalesVatCode Class_{01-10} "
    "FreeTextField_{01-10} FreeNumberField_{01-08} FreeDateField_{01-05} FreeBoolField_{01-05} GLRevenue GLCosts GLStock "
    "IsSalesItem IsPurchaseItem IsStockItem IsFractionAllowedItem IsSerialItem IsWebshopItem IsBatchItem IsMakeItem IsTime "
    "IsOnDemandItem CostPriceNew StartDate EndDate Created Modified"
)
ORDER_FILTERS = _names(
    "OrderID OrderNumber OrderedBy DeliverTo InvoiceTo YourRef Description PaymentReference Status DeliveryStatus InvoiceStatus "
    "ApprovalStatus OrderDate DeliveryDate ShippingMethod WarehouseID Salesperson Created Modified"
)
LINE_FILTERS = _names(
    "ID OrderID OrderNumber Item LineNumber OrderStatus DeliveryStatus InvoiceStatus VATCode CostCenter CostUnit Project"
)
ORDERS = "salesorder/SalesOrders"
ORDER_LINES = "salesorder/SalesOrderLines"
CHARGE_LINES = "salesorder/SalesOrderOrderChargeLines"
ACCOUNTS = "crm/Accounts"
CONTACTS = "crm/Contacts"
ADDRESSES = "crm/Addresses"
ITEMS = "logistics/Items"
PRICES = "logistics/SalesItemPrices"
DELIVERIES = "salesorder/GoodsDeliveries"
DELIVERY_LINES = "salesorder/GoodsDeliveryLines"
DELETED_SET = "sync/Deleted"

SETS = {
    entity_set.path: entity_set
    for entity_set in (
        _set("current/Me", "System.Me", ME, key="UserID", stamped=False),
        _set("system/Divisions", "System.Division", DIVISION, key="Code"),
        _set(
            ACCOUNTS,
            "Account",
            ACCOUNT,
            verbs=ALL,
            filter_needed=True,
            filter_fields=ACCOUNT_FILTERS,
            thin=True,
            deleted_type=2,
            search=("Code", "Email", "SearchCode", "Name"),
        ),
        _set(CONTACTS, "Contact", CONTACT, verbs=ALL, filter_needed=True, thin=True, deleted_type=5, search=("Account", "Email")),
        _set(ADDRESSES, "Address", ADDRESS, verbs=ALL, filter_needed=True, thin=True, deleted_type=3, search=("Account",)),
        _set("crm/AccountClassifications", "AccountClassification", CLASSIFICATION),
        _set(
            ITEMS,
            "Item",
            ITEM,
            verbs=ALL,
            filter_needed=True,
            filter_fields=ITEM_FILTERS,
            thin=True,
            deleted_type=9,
            search=("Code",),
        ),
        _set(
            PRICES,
            "Logistics.SalesItemPrice",
            PRICE,
            verbs=ALL,
            select_needed=True,
            filter_needed=True,
            thin=True,
            deleted_type=8,
            search=("Item",),
        ),
        _set("logistics/ItemGroups", "ItemGroup", ITEM_GROUP, forbidden=True),
        _set("logistics/Units", "Unit", UNIT, stamped=False),
        _set(
            ORDERS,
            "SalesOrder",
            ORDER,
            key="OrderID",
            verbs=ALL,
            filter_needed=True,
            filter_fields=ORDER_FILTERS,
            children={"SalesOrderLines": (ORDER_LINES, "OrderID"), "SalesOrderOrderChargeLines": (CHARGE_LINES, "OrderID")},
            deleted_type=32,
            search=("OrderNumber", "YourRef", "OrderedBy"),
        ),
        _set(
            ORDER_LINES,
            "SalesOrderLine",
            ORDER_LINE,
            verbs=ALL,
            filter_needed=True,
            filter_fields=LINE_FILTERS,
            deleted_type=33,
            search=("OrderID", "Item"),
        ),
        _set(CHARGE_LINES, "SalesOrderOrderChargeLine", CHARGE_LINE, verbs=ALL, filter_needed=True, search=("OrderID",)),
        _set(
            DELIVERIES,
            "GoodsDelivery",
            DELIVERY,
            key="EntryID",
            verbs=frozenset({"GET", "POST"}),
            select_needed=True,
            children={"GoodsDeliveryLines": (DELIVERY_LINES, "EntryID")},
            deleted_type=16,
        ),
        _set(DELIVERY_LINES, "GoodsDeliveryLine", DELIVERY_LINE, deleted_type=17, search=("EntryID",)),
        _set("sales/OrderCharges", "OrderCharge", ORDER_CHARGE),
        _set("sales/ShippingMethods", "ShippingMethod", SHIPPING_METHOD, forbidden=True),
        _set("vat/VATCodes", "VATCode", VAT_CODE),
        _set("cashflow/PaymentConditions", "PaymentCondition", PAYMENT_CONDITION),
        _set("inventory/Warehouses", "Warehouse", WAREHOUSE),
        _set("financial/GLAccounts", "GLAccount", GL_ACCOUNT),
        _set("financial/Journals", "Journal", JOURNAL),
        _set(DELETED_SET, "Sync.Deleted", DELETED, stamped=False, key="Timestamp"),
    )
}

TIMESTAMP = parse_fields("Timestamp int64 R")
FEEDS = {
    "sync/CRM/Accounts": ACCOUNTS,
    "sync/CRM/Contacts": CONTACTS,
    "sync/CRM/Addresses": ADDRESSES,
    "sync/Logistics/Items": ITEMS,
    "sync/Logistics/SalesItemPrices": PRICES,
    "sync/SalesOrder/SalesOrderHeaders": ORDERS,
    "sync/SalesOrder/SalesOrderLines": ORDER_LINES,
    "sync/SalesOrder/GoodsDeliveries": DELIVERIES,
    "sync/SalesOrder/GoodsDeliveryLines": DELIVERY_LINES,
    DELETED_SET: DELETED_SET,
}
BULK = {
    "bulk/CRM/Accounts": ACCOUNTS,
    "bulk/CRM/Contacts": CONTACTS,
    "bulk/CRM/Addresses": ADDRESSES,
    "bulk/Logistics/Items": ITEMS,
    "bulk/Logistics/SalesItemPrices": PRICES,
    "bulk/SalesOrder/SalesOrders": ORDERS,
    "bulk/SalesOrder/SalesOrderLines": ORDER_LINES,
    "bulk/SalesOrder/GoodsDeliveries": DELIVERIES,
    "bulk/SalesOrder/GoodsDeliveryLines": DELIVERY_LINES,
}


def _feed_fields(base: EntitySet) -> dict[str, Field]:
    flat = {name: item for name, item in base.fields.items() if item.kind != "children"}
    # Headers have their key under its own name and as ID, the stable key of every feed.
    return {**parse_fields("ID guid R"), **flat, **TIMESTAMP}


def _views() -> dict[str, View]:
    views = [View(path, base, "plain", base.fields) for path, base in SETS.items() if path != DELETED_SET]
    views.append(View("hrm/Divisions", SETS["system/Divisions"], "plain", SETS["system/Divisions"].fields))
    views += [View(path, SETS[base], "bulk", SETS[base].fields) for path, base in BULK.items()]
    views += [View(path, SETS[base], "sync", _feed_fields(SETS[base])) for path, base in FEEDS.items()]
    return {view.path.lower(): view for view in views}


VIEWS = _views()
"""Every readable path, in lower case: the vendor does not mind the case of a path."""
