"""The property tables of the sets, in the form `simulation.fields.parse_fields` reads.

Names, types and write rights are facts of the vendor's reference (HlpRestAPIResourcesDetails.aspx, one page per set); lengths and
widths where the reference or observed traffic gives them.
"""

STAMPS = """
Created date R
Modified date R
Creator guid R
Modifier guid R
Division int R
"""
ME = """
UserID guid R
CurrentDivision int R
AccountingDivision int R
UserName text R
FullName text R
Email text R
LanguageCode text R
Legislation int64 R
DivisionCustomerCode text R left=18
ServerTime text R
ServerUtcOffset double R
PackageCode text R
"""
DIVISION = """
Code int R
Description text R
CustomerName text R
Country text R right=3
Currency text R
Current flag R
Hid int64 R
Legislation text R
Status int R
BlockingStatus int R
IsMainDivision flag R
DivisionMoveDate date R
"""
ACCOUNT = """
ID guid R
Code text CU left=18 most=18
Name text CU! cut=50
Status text CU most=1
IsSales flag R
IsPurchase flag R
IsSupplier flag CU
IsReseller flag CU
Blocked flag CU
Type text R
AddressLine{1-3} text CU
Postcode text CU
City text CU
State text CU
Country text CU right=3
CountryName text R
Email text CU
Phone text CU
Website text CU
Language text CU
SearchCode text CU
TradeName text CU
Remarks text CU
VATNumber text CU
ChamberOfCommerce text CU
RSIN text CU
BSN text CU
OINNumber text CU
EORINumber text CU
GlnNumber text CU
MainContact guid CU to=crm/Contacts
Parent guid CU to=crm/Accounts
InvoiceAccount guid CU to=crm/Accounts
AccountManager guid CU
Classification{1-8} guid CU to=crm/AccountClassifications
PriceList guid CU
ShippingMethod guid CU to=sales/ShippingMethods
GLAccountSales guid CU to=financial/GLAccounts
GLAR guid CU to=financial/GLAccounts
PaymentConditionSales text CU
SalesVATCode text CU right=3
SalesCurrency text CU
VATLiability text CU
CreditLineSales double CU
DiscountSales double CU
DeliveryAdvice byte CU
InvoicingMethod int CU
PeppolIdentifier text CU
PeppolIdentifierType int CU
StartDate date CU
EndDate date CU
CustomerSince date R
CostPaid byte R
IsAccountant byte R
CustomField text R
BankAccounts children R
"""
CONTACT = """
ID guid R
Account guid C! to=crm/Accounts
Code text R left=18
FirstName text CU
MiddleName text CU
LastName text CU
Initials text CU
Title text CU
Gender text CU
FullName text R
Email text CU
BusinessEmail text CU
Phone text CU
BusinessPhone text CU
Mobile text CU
JobTitleDescription text CU
Language text CU right=10
Notes text CU
IsMainContact flag R
AccountIsCustomer flag R
AccountName text R
"""
ADDRESS = """
ID guid R
Account guid CU to=crm/Accounts
AccountName text R
Type int CU!
Main flag CU
AddressLine{1-3} text CU
Postcode text CU
City text CU
State text CU
Country text CU right=3
CountryName text R
Phone text CU
Notes text CU
Contact guid CU to=crm/Contacts
Warehouse guid CU to=inventory/Warehouses
FreeTextField_{01-05} text CU
FreeNumberField_{01-05} double CU
FreeDateField_{01-05} date CU
FreeBoolField_{01-05} flag CU
"""
CLASSIFICATION = """
ID guid R
Code text R
Description text R
"""
ITEM = """
ID guid R
StandardSalesPrice double R
Code text CU! most=30
Description text CU! cut=60
ExtraDescription text CU most=255
Notes text CU
Barcode text CU most=20
SearchCode text CU most=20
ItemGroup guid CU to=logistics/ItemGroups
ItemGroupCode text R
ItemGroupDescription text R
Unit text CU right=8
UnitDescription text R
UnitType text R
SalesVatCode text CU right=3
IsSalesItem flag CU
IsPurchaseItem flag CU
IsStockItem flag CU
IsFractionAllowedItem flag CU
IsSerialItem flag CU
IsWebshopItem byte CU
IsBatchItem byte CU
IsMakeItem byte CU
IsTime byte CU
IsOnDemandItem byte CU
CostPriceStandard double C
AverageCost double C
CostPriceNew double CU
CostPriceCurrency text CU
GLRevenue guid CU to=financial/GLAccounts
GLCosts guid CU to=financial/GLAccounts
GLStock guid CU to=financial/GLAccounts
Class_{01-10} text CU
FreeTextField_{01-10} text CU
FreeNumberField_{01-08} double CU
FreeDateField_{01-05} date CU
FreeBoolField_{01-05} flag CU
StartDate date CU
EndDate date CU
NetWeight double CU
GrossWeight double CU
NetWeightUnit text CU
Stock double R
StatisticalCode text R
Picture binary W
PictureName text R
PictureUrl text R
PictureThumbnailUrl text R
CustomField text R
"""
PRICE = """
ID guid R
Account guid CU to=crm/Accounts
Item guid CU! to=logistics/Items
ItemCode text R
ItemDescription text R
Price double CU!
Currency text CU
Quantity double CU
Unit text CU right=8
NumberOfItemsPerUnit double CU
StartDate date CU
EndDate date CU
"""
ITEM_GROUP = """
ID guid R
Code text R
Description text R
IsDefault byte R
GLRevenue guid R
GLRevenueCode text R
GLRevenueDescription text R
Notes text R
"""
UNIT = """
ID guid R
Code text R
Description text R
Type text R
Main byte R
Active flag R
"""
ORDER = """
OrderID guid R
OrderNumber int CU
OrderedBy guid C! to=crm/Accounts
OrderedByName text R
OrderedByContactPerson guid CU to=crm/Contacts
DeliverTo guid C to=crm/Accounts
DeliverToName text R
DeliverToContactPerson guid CU to=crm/Contacts
DeliveryAddress guid CU to=crm/Addresses
InvoiceTo guid C to=crm/Accounts
InvoiceToName text R
InvoiceToContactPerson guid CU to=crm/Contacts
OrderDate date CU
DeliveryDate date CU
YourRef text CU most=30
Description text CU
Remarks text CU
PaymentReference text CU
Currency text CU
PaymentCondition text CU
ShippingMethod guid CU to=sales/ShippingMethods
WarehouseID guid CU to=inventory/Warehouses
WarehouseCode text R
Salesperson guid CU
SalesChannel guid CU
SelectionCode guid CU
Discount double CU
AmountDiscount double CU
AmountDiscountExclVat double CU
AmountDC double R
AmountFC double R
AmountFCExclVat double R
Status int R
StatusDescription text R
DeliveryStatus int R
DeliveryStatusDescription text R
InvoiceStatus int R
InvoiceStatusDescription text R
ApprovalStatus int CU
ApprovalStatusDescription text R
CustomField text R
SalesOrderLines children C!
SalesOrderOrderChargeLines children C
"""
ORDER_LINE = """
ID guid R
OrderID guid C! to=salesorder/SalesOrders
OrderNumber int R
LineNumber int R
Item guid CU! to=logistics/Items
ItemCode text R
ItemDescription text R
Quantity double CU
UnitPrice double CU
NetPrice double CU
Discount double CU
VATCode text CU right=3
VATAmount double CU
VATPercentage double CU
AmountFC double CU
Description text CU
Notes text CU
UnitCode text CU
DeliveryDate date CU
CostCenter text CU
CostUnit text CU
Project guid CU
Pricelist guid CU
UseDropShipment byte CU
QuantityDelivered double R
QuantityInvoiced double R
OrderStatus int R
DeliveryStatus int R
InvoiceStatus int R
"""
CHARGE_LINE = """
ID guid R
OrderID guid C! to=salesorder/SalesOrders
LineNumber int R
OrderCharge guid CU! to=sales/OrderCharges
OrderChargeCode text R
OrderChargeDescription text R
IsShippingCost flag CU
AmountFCExclVAT double CU
AmountFCInclVAT double CU
VATCode text CU right=3
VATPercentage double R
"""
DELIVERY = """
EntryID guid R
EntryNumber int R
DeliveryNumber int R
DeliveryDate date C!
DeliveryAccount guid R
DeliveryAccountCode text R left=18
DeliveryAccountName text R
DeliveryAddress guid R
Description text C
ShippingMethod guid C to=sales/ShippingMethods
ShippingMethodCode text R
TrackingNumber text CU
Remarks text CU
Warehouse guid R
WarehouseCode text R
GoodsDeliveryLines children C!
"""
DELIVERY_LINE = """
ID guid R
EntryID guid R
SalesOrderLineID guid C! to=salesorder/SalesOrderLines
QuantityDelivered double C!
Description text C
TrackingNumber text CU
Notes text CU
Item guid R
ItemCode text R
LineNumber int R
QuantityOrdered double R
SalesOrderNumber int R
SalesOrderLineNumber int R
"""
ORDER_CHARGE = """
ID guid R
Code text R
Description text R
VATCode text R right=3
"""
SHIPPING_METHOD = """
ID guid R
Code text R
Description text R
Active flag R
TrackingURL text R
ShippingRatesURL text R
Notes text R
"""
VAT_CODE = """
ID guid R
Code text R right=3
Description text R
Percentage double R
Type text R
VATTransactionType text R
IsBlocked flag R
OssCountry text R
"""
PAYMENT_CONDITION = """
ID guid R
Code text R
Description text R
PaymentDays int R
PaymentEndOfMonths int R
PaymentMethod text R
Percentage double R
DiscountPercentage double R
DiscountPaymentDays int R
DiscountCalculation text R
"""
WAREHOUSE = """
ID guid R
Code text R
Description text R
Main byte R
UseStorageLocations byte R
"""
GL_ACCOUNT = """
ID guid R
Code text R
Description text R
SearchCode text R
Type int R
BalanceSide text R
BalanceType text R
VATCode text R right=3
UseCostcenter byte R
UseCostunit byte R
IsBlocked flag R
Matching byte R
"""
JOURNAL = """
ID guid R
Code text R
Description text R
Type int R
AllowVAT flag R
AllowVariableCurrency flag R
Currency text R
IsBlocked flag R
"""
DELETED = """
ID guid R
EntityKey guid R
EntityType int R
DeletedBy guid R
DeletedDate date R
Division int R
Timestamp int64 R
"""
