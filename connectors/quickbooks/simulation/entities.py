"""What the company knows of each entity: kind, members that can be asked for, required members, lengths, references.

https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/account
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """How rows of an entity end: lists are made inactive, transactions deleted; taxes and the company can only be read."""

    LIST = "list"
    TRANSACTION = "transaction"
    ATTACHMENT = "attachment"
    READ_ONLY = "read_only"


@dataclass(frozen=True)
class Entity:
    """One entity. `name_field` is what is unique in a list; `group` are the entities that share one name space."""

    name: str
    kind: Kind
    queryable: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    enumerations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    name_field: str = "Name"
    group: tuple[str, ...] = ()
    canonical: str = ""
    is_in_cdc: bool = True


SHIPPING = "SHIPPING_ITEM_ID"
"""Stands for the shipping charge where an item id is asked."""
COMMON = ("Id", "MetaData.CreateTime", "MetaData.LastUpdatedTime")
NAMED = ("Name", "Active", "FullyQualifiedName")
SALE = ("DocNumber", "TxnDate", "CustomerRef", "ProjectRef")
PEOPLE = ("Customer", "Vendor", "Employee")
"""Entities whose DisplayName is unique over all three."""
SALES = ("Invoice", "SalesReceipt", "CreditMemo", "RefundReceipt", "Estimate")
ADDRESS_LENGTHS = {
    **dict.fromkeys(("Line1", "Line2", "Line3", "Line4", "Line5"), 500),
    "City": 255,
    "Country": 255,
    "CountrySubDivisionCode": 255,
    "PostalCode": 30,
}
PHONE_LENGTHS, EMAIL_LENGTHS = {"FreeFormNumber": 30}, {"Address": 100}
NESTED_LENGTHS: Mapping[str, Mapping[str, int]] = {
    **dict.fromkeys(("BillAddr", "ShipAddr", "ShipFromAddr"), ADDRESS_LENGTHS),
    **dict.fromkeys(("PrimaryPhone", "AlternatePhone", "Mobile", "Fax"), PHONE_LENGTHS),
    **dict.fromkeys(("PrimaryEmailAddr", "BillEmail", "BillEmailCc", "BillEmailBcc"), EMAIL_LENGTHS),
    "CustomerMemo": {"value": 1000},
}
PERSON_LENGTHS = {
    "DisplayName": 500,
    "Title": 16,
    "GivenName": 100,
    "MiddleName": 100,
    "FamilyName": 100,
    "Suffix": 16,
    "CompanyName": 100,
}
SALE_LENGTHS = {"DocNumber": 21, "PrivateNote": 4000, "PaymentRefNum": 21}
SALE_REFERENCES = {
    "CustomerRef": "Customer",
    "SalesTermRef": "Term",
    "PaymentMethodRef": "PaymentMethod",
    "DepositToAccountRef": "Account",
    "ClassRef": "Class",
    "DepartmentRef": "Department",
}
ITEM_REFERENCES = {
    "IncomeAccountRef": "Account",
    "ExpenseAccountRef": "Account",
    "AssetAccountRef": "Account",
    "SalesTaxCodeRef": "TaxCode",
    "PurchaseTaxCodeRef": "TaxCode",
    "PrefVendorRef": "Vendor",
    "ParentRef": "Item",
    "ClassRef": "Class",
}
CUSTOMER_REFERENCES = {
    "SalesTermRef": "Term",
    "PaymentMethodRef": "PaymentMethod",
    "DefaultTaxCodeRef": "TaxCode",
    "ParentRef": "Customer",
}
EMAIL_STATUSES = ("NotSet", "NeedToSend", "EmailSent")
TAX_MODES = ("TaxExcluded", "TaxInclusive", "NotApplicable")


def _sale(name: str, required: tuple[str, ...], canonical: str, more: tuple[str, ...] = ()) -> Entity:
    enumerations: dict[str, tuple[str, ...]] = {"GlobalTaxCalculation": TAX_MODES, "EmailStatus": EMAIL_STATUSES}
    if name == "Estimate":
        enumerations["TxnStatus"] = ("Pending", "Accepted", "Closed", "Rejected", "Converted")
    return Entity(
        name,
        Kind.TRANSACTION,
        (*SALE, *more),
        required,
        SALE_REFERENCES,
        enumerations,
        SALE_LENGTHS,
        canonical=canonical,
    )


def _list(
    name: str, name_max: int, canonical: str, references: Mapping[str, str] | None = None, **more: tuple[str, ...]
) -> Entity:
    queryable = (*NAMED, *more.get("queryable", ()))
    enumerations = {"Type": more["types"]} if "types" in more else {}
    return Entity(
        name,
        Kind.LIST,
        queryable,
        ("Name",),
        references or {},
        enumerations,
        {"Name": name_max},
        group=(name,),
        canonical=canonical,
    )


ENTITIES: Mapping[str, Entity] = {
    entity.name: entity
    for entity in (
        Entity(
            "Customer",
            Kind.LIST,
            (
                "DisplayName",
                "GivenName",
                "FamilyName",
                "CompanyName",
                "FullyQualifiedName",
                "Active",
                "Balance",
                "PrimaryEmailAddr",
            ),
            references=CUSTOMER_REFERENCES,
            enumerations={"PreferredDeliveryMethod": ("Print", "Email", "None")},
            lengths=PERSON_LENGTHS,
            name_field="DisplayName",
            group=PEOPLE,
            canonical="customer",
        ),
        *(
            Entity(
                name,
                Kind.LIST,
                ("DisplayName", "GivenName", "FamilyName", "Active"),
                lengths=PERSON_LENGTHS,
                name_field="DisplayName",
                group=PEOPLE,
                canonical=name.lower(),
            )
            for name in ("Vendor", "Employee")
        ),
        Entity(
            "Item",
            Kind.LIST,
            ("Name", "Sku", "Type", "Active", "FullyQualifiedName", "SubItem"),
            ("Name", "Type"),
            ITEM_REFERENCES,
            {"Type": ("Inventory", "Service", "NonInventory", "Category", "Group")},
            {"Name": 100, "Sku": 100, "Description": 4000, "PurchaseDesc": 1000},
            group=("Item",),
            canonical="product",
        ),
        _sale("Invoice", ("CustomerRef", "Line"), "sales_invoice", ("DueDate", "Balance", "SalesTermRef")),
        _sale("SalesReceipt", ("Line",), "sales_invoice"),
        _sale("CreditMemo", ("CustomerRef", "Line"), "sales_invoice"),
        _sale("RefundReceipt", ("Line", "DepositToAccountRef"), "sales_invoice"),
        _sale("Estimate", ("CustomerRef", "Line"), "estimate"),
        Entity(
            "Payment",
            Kind.TRANSACTION,
            ("TotalAmt", "TxnDate", "CustomerRef", "PaymentRefNum", "PaymentMethodRef"),
            ("TotalAmt", "CustomerRef"),
            {name: SALE_REFERENCES[name] for name in ("CustomerRef", "PaymentMethodRef", "DepositToAccountRef")},
            lengths=SALE_LENGTHS,
            canonical="payment",
        ),
        _list("Term", 31, "term", types=("STANDARD", "DATE_DRIVEN")),
        _list("PaymentMethod", 31, "payment_method", types=("CREDIT_CARD", "NON_CREDIT_CARD")),
        _list("Account", 100, "account", {"ParentRef": "Account"}, queryable=("AccountType", "Classification")),
        _list("Class", 100, "class", {"ParentRef": "Class"}),
        _list("Department", 100, "department", {"ParentRef": "Department"}),
        Entity(
            "CompanyCurrency", Kind.LIST, ("Code", "Name", "Active"), ("Code",), name_field="Code", canonical="company_currency"
        ),
        Entity("TaxCode", Kind.READ_ONLY, ("Name", "Active"), is_in_cdc=False),
        Entity("TaxRate", Kind.READ_ONLY, ("Name", "Active"), is_in_cdc=False),
        Entity("CompanyInfo", Kind.READ_ONLY, is_in_cdc=False),
        Entity("Preferences", Kind.READ_ONLY, is_in_cdc=False),
        Entity(
            "Attachable",
            Kind.ATTACHMENT,
            ("FileName", "AttachableRef.EntityRef.Type", "AttachableRef.EntityRef.value"),
            lengths={"FileName": 1000, "Note": 2000},
            canonical="attachable",
        ),
    )
}
READ_ONLY = frozenset(
    (
        "Id",
        "SyncToken",
        "MetaData",
        "domain",
        "sparse",
        "status",
        "time",
        "Balance",
        "BalanceWithJobs",
        "FullyQualifiedName",
        "Level",
        "TotalAmt",
        "HomeTotalAmt",
        "HomeBalance",
        "UnappliedAmt",
        "RemainingCredit",
        "PrintOnCheckName",
    )
)
"""Members the server writes; in a body they are ignored without a word. A payment's TotalAmt is the exception."""
LISTS_WITH_ACTIVE = frozenset(name for name, entity in ENTITIES.items() if "Active" in entity.queryable)


def canonical_name(entity: str, row: Mapping[str, object]) -> str:
    """What the neutral counts call a row."""
    if entity == "Item" and row.get("Type") == "Category":
        return "product_category"
    return ENTITIES[entity].canonical
