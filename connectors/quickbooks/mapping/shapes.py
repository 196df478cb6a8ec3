"""Objects as QuickBooks serves them, as far as the bus reads them.

Types come from the vendor's schema definitions and entity pages
(https://developer.intuit.com/app/developer/qbo/docs/api/accounting/most-commonly-used/account and its neighbours). Members
the bus does not read are left out; the decoder passes over them. Numbers are Decimals from the first byte.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec

Instant: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""An instant with an offset: a time without one is refused, because nobody knows which hour it means."""


class Vendor(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base: members are spelt `LikeThis`."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to another object. `name` is only for display."""

    value: str
    name: str | None = None


class MetaData(Vendor, frozen=True, kw_only=True):
    """When an object was made and last changed, in Pacific time."""

    create_time: Instant | None = None
    last_updated_time: Instant | None = None


class Head(Vendor, frozen=True, kw_only=True):
    """What reading needs of any object before it is mapped."""

    id: str
    sync_token: str | None = None
    type: str | None = None
    status: str | None = msgspec.field(default=None, name="status")
    """`Deleted` in change data capture: the transaction is gone."""


class DatedHead(Head, frozen=True, kw_only=True):
    """The same with its dates."""

    meta_data: MetaData | None = None


class Numbered(Vendor, frozen=True, kw_only=True):
    """The number people know a document by; lists have none."""

    doc_number: str | None = None


class Named(Vendor, frozen=True, kw_only=True):
    """An object of a plain name list: Term, PaymentMethod, TaxCode."""

    id: str
    name: str


class Account(Vendor, frozen=True, kw_only=True):
    """A ledger account."""

    id: str
    name: str
    acct_num: str | None = None
    fully_qualified_name: str | None = None


class TaxRateDetail(Vendor, frozen=True, kw_only=True):
    """One rate of a tax code."""

    tax_rate_ref: Reference
    tax_type_applicable: str | None = None


class TaxRateList(Vendor, frozen=True, kw_only=True):
    """Rates of a tax code, on sales or on purchases."""

    tax_rate_detail: list[TaxRateDetail] = []


class TaxCode(Vendor, frozen=True, kw_only=True):
    """A tax code."""

    id: str
    name: str
    sales_tax_rate_list: TaxRateList | None = None


class EffectiveRate(Vendor, frozen=True, kw_only=True):
    """A rate and the days it holds."""

    rate_value: Decimal
    effective_date: str | None = None
    end_date: str | None = None


class TaxRate(Vendor, frozen=True, kw_only=True):
    """A tax rate, in percent."""

    id: str
    name: str | None = None
    rate_value: Decimal | None = None
    effective_tax_rate: list[EffectiveRate] = []


class CurrencyPrefs(Vendor, frozen=True, kw_only=True):
    """Currency settings of a company."""

    home_currency: Reference | None = None
    multi_currency_enabled: bool = False


class SalesFormsPrefs(Vendor, frozen=True, kw_only=True):
    """Settings of sales forms."""

    custom_txn_numbers: bool = False
    allow_shipping: bool = False
    allow_discount: bool = False


class AccountingInfoPrefs(Vendor, frozen=True, kw_only=True):
    """Settings of the books."""

    book_close_date: date | None = None


class Preferences(Vendor, frozen=True, kw_only=True):
    """Settings of a company."""

    currency_prefs: CurrencyPrefs = CurrencyPrefs()
    sales_forms_prefs: SalesFormsPrefs = SalesFormsPrefs()
    accounting_info_prefs: AccountingInfoPrefs = AccountingInfoPrefs()


class NameValue(Vendor, frozen=True, kw_only=True):
    """A fact of a company by name."""

    name: str
    value: str | None = None


class CompanyInfo(Vendor, frozen=True, kw_only=True):
    """Who a company is."""

    company_name: str | None = None
    legal_name: str | None = None
    country: str | None = None
    default_time_zone: str | None = None
    name_value: list[NameValue] = []


class Email(Vendor, frozen=True, kw_only=True):
    """E-mail addresses, separated by commas."""

    address: str | None = None


class Phone(Vendor, frozen=True, kw_only=True):
    """A phone number as typed."""

    free_form_number: str | None = None


class PostalAddress(Vendor, frozen=True, kw_only=True):
    """A postal address. Country is ISO 3166-1 alpha-3 in answers."""

    id: str | None = None
    line1: str | None = None
    line2: str | None = None
    line3: str | None = None
    line4: str | None = None
    line5: str | None = None
    city: str | None = None
    country: str | None = None
    country_sub_division_code: str | None = None
    postal_code: str | None = None


class Customer(Vendor, frozen=True, kw_only=True):
    """A customer, job or project. https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/customer"""

    id: str
    sync_token: str | None = None
    meta_data: MetaData | None = None
    active: bool = True
    display_name: str | None = None
    company_name: str | None = None
    given_name: str | None = None
    middle_name: str | None = None
    family_name: str | None = None
    primary_email_addr: Email | None = None
    primary_phone: Phone | None = None
    alternate_phone: Phone | None = None
    mobile: Phone | None = None
    fax: Phone | None = None
    bill_addr: PostalAddress | None = None
    ship_addr: PostalAddress | None = None
    primary_tax_identifier: str | None = None
    currency_ref: Reference | None = None
    sales_term_ref: Reference | None = None
    payment_method_ref: Reference | None = None
    default_tax_code_ref: Reference | None = None
    parent_ref: Reference | None = None
    job: bool = False
    is_project: bool = False
    notes: str | None = None


class Item(Vendor, frozen=True, kw_only=True):
    """A product, service, bundle or category.
    https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/item"""

    id: str
    sync_token: str | None = None
    meta_data: MetaData | None = None
    name: str
    fully_qualified_name: str | None = None
    type: Literal["Inventory", "Service", "NonInventory", "Category", "Group"]
    active: bool = True
    sku: str | None = None
    description: str | None = None
    unit_price: Decimal | None = None
    sales_tax_included: bool = False
    purchase_cost: Decimal | None = None
    sales_tax_code_ref: Reference | None = None
    income_account_ref: Reference | None = None
    expense_account_ref: Reference | None = None
    asset_account_ref: Reference | None = None
    track_qty_on_hand: bool | None = None
    parent_ref: Reference | None = None


class SalesItemDetail(Vendor, frozen=True, kw_only=True):
    """What is sold on a line."""

    item_ref: Reference | None = None
    class_ref: Reference | None = None
    item_account_ref: Reference | None = None
    tax_code_ref: Reference | None = None
    unit_price: Decimal | None = None
    qty: Decimal | None = None
    tax_inclusive_amt: Decimal | None = None
    discount_rate: Decimal | None = None
    discount_amt: Decimal | None = None
    service_date: date | None = None


class DiscountDetail(Vendor, frozen=True, kw_only=True):
    """A discount on the whole document."""

    percent_based: bool = False
    discount_percent: Decimal | None = None


class GroupDetail(Vendor, frozen=True, kw_only=True):
    """A bundle with its parts."""

    group_item_ref: Reference | None = None
    quantity: Decimal | None = None
    line: "list[Line]" = []


class Line(Vendor, frozen=True, kw_only=True):
    """A line; `detail_type` names the member that is filled."""

    id: str | None = None
    line_num: int | None = None
    description: str | None = None
    amount: Decimal | None = None
    detail_type: str
    sales_item_line_detail: SalesItemDetail | None = None
    discount_line_detail: DiscountDetail | None = None
    group_line_detail: GroupDetail | None = None


class TaxLineDetail(Vendor, frozen=True, kw_only=True):
    """VAT of one rate."""

    tax_rate_ref: Reference | None = None
    tax_percent: Decimal | None = None
    net_amount_taxable: Decimal | None = None


class TaxLine(Vendor, frozen=True, kw_only=True):
    """VAT of one rate with its amount."""

    amount: Decimal | None = None
    tax_line_detail: TaxLineDetail | None = None


class TxnTaxDetail(Vendor, frozen=True, kw_only=True):
    """VAT of a document."""

    total_tax: Decimal | None = None
    tax_line: list[TaxLine] = []


class LinkedTxn(Vendor, frozen=True, kw_only=True):
    """A transaction this one is applied to or made from."""

    txn_id: str
    txn_type: str


class PaymentLine(Vendor, frozen=True, kw_only=True):
    """Which documents a part of a payment pays or uses up."""

    amount: Decimal
    linked_txn: list[LinkedTxn] = []


class Payment(Vendor, frozen=True, kw_only=True):
    """A customer's payment; a credit memo is applied by a payment of 0.
    https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/payment"""

    id: str
    total_amt: Decimal
    unapplied_amt: Decimal = Decimal(0)
    txn_date: date | None = None
    payment_method_ref: Reference | None = None
    deposit_to_account_ref: Reference | None = None
    payment_ref_num: str | None = None
    line: list[PaymentLine] = []


class Memo(msgspec.Struct, frozen=True, kw_only=True):
    """A message to the customer."""

    value: str | None = None


class CustomField(Vendor, frozen=True, kw_only=True):
    """A custom field of a sales form."""

    definition_id: str
    name: str | None = None
    string_value: str | None = None


class ShipMethod(msgspec.Struct, frozen=True, kw_only=True):
    """Free text in both members, although it looks like a reference."""

    value: str | None = None
    name: str | None = None


class Sale(Vendor, frozen=True, kw_only=True):
    """Invoice, SalesReceipt, CreditMemo, RefundReceipt or Estimate: one shape.
    https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/invoice"""

    id: str
    sync_token: str | None = None
    meta_data: MetaData | None = None
    doc_number: str | None = None
    txn_date: date
    due_date: date | None = None
    ship_date: date | None = None
    currency_ref: Reference | None = None
    exchange_rate: Decimal | None = None
    global_tax_calculation: Literal["TaxExcluded", "TaxInclusive", "NotApplicable"] | None = None
    private_note: str | None = None
    customer_memo: Memo | None = None
    customer_ref: Reference | None = None
    bill_addr: PostalAddress | None = None
    ship_addr: PostalAddress | None = None
    bill_email: Email | None = None
    line: list[Line] = []
    txn_tax_detail: TxnTaxDetail | None = None
    total_amt: Decimal
    balance: Decimal | None = None
    deposit: Decimal | None = None
    remaining_credit: Decimal | None = None
    linked_txn: list[LinkedTxn] = []
    sales_term_ref: Reference | None = None
    payment_method_ref: Reference | None = None
    deposit_to_account_ref: Reference | None = None
    payment_ref_num: str | None = None
    department_ref: Reference | None = None
    ship_method_ref: ShipMethod | None = None
    invoice_ref: Reference | None = None
    custom_field: list[CustomField] = []
    txn_status: Literal["Pending", "Accepted", "Closed", "Rejected", "Converted"] | None = None


class AttachedTo(Vendor, frozen=True, kw_only=True):
    """What a file is attached to."""

    entity_ref: "EntityReference | None" = None


class EntityReference(msgspec.Struct, frozen=True, kw_only=True):
    """An object by kind and id."""

    type: str | None = None
    value: str | None = None


class Attachable(Vendor, frozen=True, kw_only=True):
    """An uploaded file. https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/attachable"""

    id: str
    file_name: str | None = None
    attachable_ref: list[AttachedTo] = []
