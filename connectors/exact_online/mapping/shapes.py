"""What Exact serves, as far as the bus reads it, and the whole objects the reader puts together.

https://start.exactonline.nl/docs/HlpRestAPIResources.aspx
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from bus.core.errors import MappingError

T = TypeVar("T")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A relation."""

    ID: str
    Name: str
    Code: str | None = None
    Status: str | None = None
    Email: str | None = None
    Phone: str | None = None
    VATNumber: str | None = None
    ChamberOfCommerce: str | None = None
    Language: str | None = None
    AddressLine1: str | None = None
    AddressLine2: str | None = None
    AddressLine3: str | None = None
    Postcode: str | None = None
    City: str | None = None
    State: str | None = None
    Country: str | None = None
    PaymentConditionSales: str | None = None
    SalesVATCode: str | None = None
    SalesCurrency: str | None = None
    DiscountSales: Decimal | None = None
    Remarks: str | None = None
    MainContact: str | None = None
    Blocked: bool | None = None
    EndDate: str | None = None
    Modified: str | None = None
    Classification1: str | None = None
    Classification2: str | None = None
    Classification3: str | None = None
    Classification4: str | None = None
    Classification5: str | None = None
    Classification6: str | None = None
    Classification7: str | None = None
    Classification8: str | None = None


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """A person at a relation."""

    ID: str
    Account: str
    FirstName: str | None = None
    MiddleName: str | None = None
    LastName: str | None = None
    Email: str | None = None
    Phone: str | None = None
    Mobile: str | None = None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Type 1 visit, 2 postal, 3 invoice, 4 delivery."""

    ID: str
    Type: int
    Account: str | None = None
    Main: bool | None = None
    AddressLine1: str | None = None
    AddressLine2: str | None = None
    AddressLine3: str | None = None
    Postcode: str | None = None
    City: str | None = None
    State: str | None = None
    Country: str | None = None


class WholeAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account with its contacts and addresses, and what its classification means."""

    Account: Account
    Contacts: list[Contact] = []
    Addresses: list[Address] = []
    Kind: str | None = None
    Today: str


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An item; StandardSalesPrice is read only and of no use where there are price rows."""

    ID: str
    Code: str
    Description: str | None = None
    ExtraDescription: str | None = None
    Notes: str | None = None
    Barcode: str | None = None
    ItemGroup: str | None = None
    ItemGroupCode: str | None = None
    Unit: str | None = None
    UnitDescription: str | None = None
    SalesVatCode: str | None = None
    IsSalesItem: bool | None = None
    IsStockItem: bool | None = None
    IsWebshopItem: int | None = None
    IsTime: int | None = None
    NetWeight: Decimal | None = None
    NetWeightUnit: str | None = None
    StartDate: str | None = None
    EndDate: str | None = None
    PictureName: str | None = None
    PictureUrl: str | None = None
    FreeTextField_01: str | None = None
    FreeTextField_02: str | None = None
    FreeTextField_03: str | None = None
    FreeTextField_04: str | None = None
    FreeTextField_05: str | None = None
    Modified: str | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """A price row; without Account it is the base price."""

    ID: str
    Item: str
    Price: Decimal
    Account: str | None = None
    Currency: str | None = None
    Quantity: Decimal | None = None
    Unit: str | None = None
    StartDate: str | None = None
    EndDate: str | None = None


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The one picture of an item, by content."""

    sha256: str
    media_type: str
    size_bytes: int


class WholeItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item with its prices, the type of its VAT code, its extra fields and picture."""

    Item: Item
    Prices: list[Price] = []
    VatType: str | None = None
    Extra: dict[str, str] = {}
    picture: Picture | None = msgspec.field(default=None, name="Picture")
    ParentField: str | None = None
    OptionFields: dict[str, str] = {}
    Today: str


class ItemGroup(msgspec.Struct, frozen=True, kw_only=True):
    """An item group: the one category of an item."""

    ID: str
    Code: str
    Description: str | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order header; FC is document currency, DC the division's."""

    OrderID: str
    OrderNumber: int
    OrderedBy: str
    OrderDate: str | None = None
    DeliveryDate: str | None = None
    YourRef: str | None = None
    Description: str | None = None
    Remarks: str | None = None
    Currency: str | None = None
    PaymentCondition: str | None = None
    ShippingMethod: str | None = None
    WarehouseCode: str | None = None
    DeliveryAddress: str | None = None
    AmountDC: Decimal | None = None
    AmountFC: Decimal | None = None
    AmountFCExclVat: Decimal | None = None
    AmountDiscountExclVat: Decimal | None = None
    Status: int | None = None
    DeliveryStatus: int | None = None
    InvoiceStatus: int | None = None
    Modified: str | None = None


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """An order line; VATPercentage is a fraction."""

    ID: str
    OrderID: str
    LineNumber: int | None = None
    Item: str | None = None
    ItemCode: str | None = None
    ItemDescription: str | None = None
    Description: str | None = None
    Quantity: Decimal = Decimal(0)
    QuantityDelivered: Decimal | None = None
    QuantityInvoiced: Decimal | None = None
    UnitPrice: Decimal | None = None
    NetPrice: Decimal | None = None
    AmountFC: Decimal | None = None
    VATCode: str | None = None
    VATAmount: Decimal | None = None
    VATPercentage: Decimal | None = None
    UnitCode: str | None = None
    CostCenter: str | None = None
    CostUnit: str | None = None
    DeliveryDate: str | None = None


class ChargeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A shipping cost or surcharge of an order."""

    ID: str
    OrderID: str
    AmountFCExclVAT: Decimal | None = None
    AmountFCInclVAT: Decimal | None = None
    IsShippingCost: bool | None = None
    VATCode: str | None = None


class WholeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order with all its parts."""

    Order: Order
    Lines: list[OrderLine] = []
    Charges: list[ChargeLine] = []
    Customer: WholeAccount | None = None
    DeliverTo: Address | None = None
    VatTypes: dict[str, str | None] = {}
    VatFractions: dict[str, Decimal] = {}
    Division: int


def decoded(data: bytes, kind: type[T], what: str) -> T:
    """A typed whole object. Raises MappingError with the path of what is wrong."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _other_type(what, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MappingError(f"{what}: not whole JSON", hint="read it again") from None


def converted(row: Mapping[str, Any], kind: type[T], what: str) -> T:
    """A typed row of a list. Raises MappingError with the path of what is wrong."""
    try:
        return msgspec.convert(row, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _other_type(what, error) from None


def _other_type(what: str, error: msgspec.ValidationError) -> MappingError:
    return MappingError(f"{what}: {error}", hint="the vendor served a value of another type: see the original bytes")
