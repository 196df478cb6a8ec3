"""QuickBooks sales as canonical sales invoices. Pure."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import CENT
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.customer import kind_of, named_ref, person_of, phones_of, subject_of
from connectors.quickbooks.mapping.lines import Lines
from connectors.quickbooks.mapping.parts import (
    Joined,
    address_of,
    amount,
    emails_of,
    fx_rate,
    name_of,
    ref_of,
    sure_amount,
    vat_number_of,
)
from connectors.quickbooks.mapping.payments import is_void, paid_of, payments_of, status_of
from connectors.quickbooks.mapping.product import account_ref
from connectors.quickbooks.mapping.taxes import breakdown_of
from schemas import canon
from schemas.canon import AddressType, CustomerKind, DocumentStatus, InvoiceType, PartyPii, PriceMode, TaxLevel
from schemas.system import Cause

TYPES = {
    "Invoice": InvoiceType.INVOICE,
    "SalesReceipt": InvoiceType.RECEIPT,
    "CreditMemo": InvoiceType.CREDIT_NOTE,
    "RefundReceipt": InvoiceType.CREDIT_NOTE,
    "Estimate": InvoiceType.UNKNOWN,
}
"""Canonical type by entity. An estimate is only ever read back after a write; the streams do not serve it."""
MODES = {"TaxInclusive": PriceMode.INCL, "TaxExcluded": PriceMode.EXCL, "NotApplicable": PriceMode.EXCL, None: PriceMode.EXCL}
PARENTS_MAX = 10


def split_id(document_id: str) -> tuple[str, str]:
    """`Invoice:238` → Invoice, 238. Ids of QuickBooks are unique within one kind of document only."""
    entity, _, number = document_id.partition(":")
    if entity not in TYPES or not number:
        raise MappingError(f"{document_id!r} is no id of a sales document: it reads like Invoice:238")
    return entity, number


def document_from_vendor(sale: shapes.Sale, entity: str, realm_id: str, joined: Joined) -> canon.SalesInvoice:
    """A sale of any kind, amounts positive. `realm_id` makes the external reference unique among companies."""
    home = None if sale.currency_ref else joined.home_currency()
    currency = sale.currency_ref.value if sale.currency_ref else (home or "")
    parts = Lines(joined, sale.txn_date)
    parts.add(sale.line)
    payments = payments_of(sale, entity, joined)
    paid = paid_of(sale, entity, payments)
    totals = _totals(sale, entity, parts, paid)
    memo = clean(sale.customer_memo.value if sale.customer_memo else None)
    rate = fx_rate(sale.exchange_rate, "ExchangeRate")
    return canon.SalesInvoice(
        type=TYPES[entity],
        number=clean(sale.doc_number),
        external_ref=f"QBO:{realm_id}:{entity}:{sale.id}",
        issue_date=sale.txn_date,
        due_date=sale.due_date,
        delivery_date=sale.ship_date,
        currency=currency,
        fx=canon.Fx(rate=rate) if rate is not None and rate != 1 else None,
        price_mode=MODES[sale.global_tax_calculation],
        tax_level=TaxLevel.PER_LINE,
        status=_status(sale, entity),
        payment_status=status_of(sale, entity, paid),
        customer=_debtor(sale, joined),
        bill_to=_party_at(sale.bill_addr, AddressType.BILLING, "BillAddr", sale),
        ship_to=_party_at(sale.ship_addr, AddressType.DELIVERY, "ShipAddr", sale),
        lines=parts.lines,
        allowances=parts.allowances,
        charges=parts.charges,
        vat_breakdown=breakdown_of(sale.txn_tax_detail, parts.codes.values()),
        totals=totals,
        payments=payments,
        payment_term=named_ref(joined, "Term", sale.sales_term_ref),
        payment_method=named_ref(joined, "PaymentMethod", sale.payment_method_ref),
        deposit_account=account_ref(joined, sale.deposit_to_account_ref),
        shipping_method=_shipping_method(sale),
        branch=ref_of(sale.department_ref),
        order_refs=[canon.Ref(id=f"Estimate:{link.txn_id}") for link in sale.linked_txn if link.txn_type == "Estimate"],
        preceding=canon.Ref(id=f"Invoice:{sale.invoice_ref.value}") if sale.invoice_ref else None,
        custom_fields=_custom_fields(sale),
        subject=subject_of(sale.customer_ref.value) if sale.customer_ref else None,
        note=canon.NotePii(text=memo) if memo else None,
    )


def _status(sale: shapes.Sale, entity: str) -> DocumentStatus:
    if is_void(sale) or sale.txn_status == "Rejected":
        return DocumentStatus.CANCELLED
    if entity == "Estimate":
        return DocumentStatus.COMPLETED if sale.txn_status in ("Closed", "Converted") else DocumentStatus.OPEN
    if entity == "CreditMemo":
        rest = sale.remaining_credit if sale.remaining_credit is not None else sale.balance
    elif entity == "Invoice":
        rest = sale.balance
    else:
        rest = Decimal(0)
    return DocumentStatus.OPEN if rest is None or rest > 0 else DocumentStatus.COMPLETED


def _totals(sale: shapes.Sale, entity: str, parts: Lines, paid: Decimal) -> canon.Totals:
    """The source's totals, never our own sum. Raises MappingError when its own lines contradict them."""
    vat = amount(sale.txn_tax_detail.total_tax if sale.txn_tax_detail else None, "TxnTaxDetail.TotalTax") or Decimal("0.0000")
    incl = sure_amount(sale.total_amt, "TotalAmt")
    lines = _sum(line.line_excl for line in parts.lines)
    allowances, charges = _sum(item.amount for item in parts.allowances), _sum(item.amount for item in parts.charges)
    gap = abs(lines - allowances + charges + vat - incl)
    limit = CENT * max(1, len(parts.lines) + len(parts.charges) + len(parts.allowances))
    if gap > limit and not is_void(sale):
        raise MappingError(
            f"lines, discounts, charges and VAT add up to {gap} less or more than TotalAmt {incl}",
            hint="save the document again in QuickBooks; if that does not help, it has a line the connector does not know",
            cause=Cause.SOURCE_INCONSISTENT,
        )
    due = Decimal(0) if entity in ("SalesReceipt", "RefundReceipt") else sale.balance
    return canon.Totals(
        lines=lines,
        allowances=allowances,
        charges=charges,
        excl=incl - vat,
        vat=vat,
        incl=incl,
        paid=amount(paid, "paid"),
        due=amount(due, "Balance"),
    )


def _sum(values: Iterable[Decimal | None]) -> Decimal:
    return sum((value for value in values if value is not None), Decimal("0.0000"))


def _debtor(sale: shapes.Sale, joined: Joined) -> canon.Party | None:
    """Who owes it: for a job or project the customer above it. E-mail addresses are the customer's own, so that one person is
    matched alike from a document and from the customer list; the document's address stands in where there is none."""
    customer = joined.get(shapes.Customer, "Customer", sale.customer_ref)
    if customer is None:
        return None
    for _ in range(PARENTS_MAX):
        if not (customer.job or customer.is_project) or customer.parent_ref is None:
            break
        customer = joined.get(shapes.Customer, "Customer", customer.parent_ref) or customer
    kind = kind_of(customer)
    is_company = kind is CustomerKind.COMPANY
    display_name = name_of(customer.display_name, active=customer.active)
    address, country = _billing_address(sale, customer)
    person = PartyPii() if is_company else person_of(customer)
    pii = msgspec.structs.replace(
        person,
        full_name=None if is_company else person.full_name or display_name,
        emails=emails_of(customer.primary_email_addr) or emails_of(sale.bill_email),
        phones=phones_of(customer, country),
        addresses=[address] if address else [],
    )
    return canon.Party(
        customer=canon.Ref(id=customer.id, name=display_name if is_company else None),
        kind=kind,
        company_name=name_of(customer.company_name, active=customer.active),
        vat_number=vat_number_of(customer.primary_tax_identifier),
        currency=customer.currency_ref.value if customer.currency_ref else None,
        country_code=country,
        subject=subject_of(customer.id),
        pii=pii if pii != PartyPii() else None,
    )


def _billing_address(sale: shapes.Sale, customer: shapes.Customer) -> tuple[canon.Address | None, str | None]:
    """The document's address, else the customer's, and the country: documents often repeat the customer's address without it."""
    own = address_of(customer.bill_addr, AddressType.BILLING, "Customer.BillAddr")
    given = address_of(sale.bill_addr, AddressType.BILLING, "BillAddr")
    own_country = own.country_code if own else None
    if given is None:
        return own, own_country
    if given.country_code is None and own is not None and given.source_id == own.source_id:
        given = msgspec.structs.replace(given, country_code=own_country)
    return given, given.country_code or own_country


def _party_at(address: shapes.PostalAddress | None, kind: AddressType, path: str, sale: shapes.Sale) -> canon.Party | None:
    """Where the document goes."""
    found = address_of(address, kind, path)
    if found is None:
        return None
    emails = emails_of(sale.bill_email) if kind is AddressType.BILLING else []
    return canon.Party(
        country_code=found.country_code,
        subject=subject_of(sale.customer_ref.value) if sale.customer_ref else None,
        pii=PartyPii(emails=emails, addresses=[found]),
    )


def _shipping_method(sale: shapes.Sale) -> canon.Ref | None:
    text = clean((sale.ship_method_ref.name or sale.ship_method_ref.value) if sale.ship_method_ref else None)
    return canon.Ref(code=text) if text else None


def _custom_fields(sale: shapes.Sale) -> dict[str, canon.CustomValue]:
    return {
        field.name or field.definition_id: canon.CustomValue(text=field.string_value)
        for field in sale.custom_field
        if clean(field.string_value)
    }
