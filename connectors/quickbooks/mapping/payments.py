"""Whether money covers an invoice. A balance of 0 alone says nothing: credit, voiding and discounts empty it too. Pure."""

from collections.abc import Iterator
from decimal import Decimal

from bus.core.identity import clean
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.customer import named_ref
from connectors.quickbooks.mapping.parts import Joined, sure_amount
from connectors.quickbooks.mapping.product import account_ref
from schemas.canon import PaymentRef, PaymentStatus

NOTHING = Decimal(0)
VOIDED = "voided"
"""What voiding leaves in PrivateNote. https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/invoice"""


def is_void(sale: shapes.Sale) -> bool:
    """A voided document keeps its row, with zero amounts and the word in its private note."""
    return sale.total_amt == 0 and VOIDED in (sale.private_note or "").lower()


def payments_of(sale: shapes.Sale, entity: str, joined: Joined) -> list[PaymentRef]:
    """Money received: a receipt's own, an invoice's linked payments. Payments that only apply a credit are left out."""
    if entity == "SalesReceipt" and not is_void(sale):
        return [
            PaymentRef(
                type="PAYMENT",
                amount=sure_amount(sale.total_amt, "TotalAmt"),
                method=named_ref(joined, "PaymentMethod", sale.payment_method_ref),
                account=account_ref(joined, sale.deposit_to_account_ref),
                reference=clean(sale.payment_ref_num),
                paid_on=sale.txn_date,
            )
        ]
    return list(_linked(sale, joined)) if entity == "Invoice" else []


def _linked(sale: shapes.Sale, joined: Joined) -> Iterator[PaymentRef]:
    ids = dict.fromkeys(link.txn_id for link in sale.linked_txn if link.txn_type == "Payment")
    for payment_id in ids:
        payment = joined.find(shapes.Payment, f"Payment:{payment_id}")
        money = _money_for(sale.id, payment) if payment else NOTHING
        if payment is None or money <= 0:
            continue
        yield PaymentRef(
            id=payment.id,
            type="PAYMENT",
            amount=sure_amount(money, f"Payment:{payment.id}"),
            method=named_ref(joined, "PaymentMethod", payment.payment_method_ref),
            account=account_ref(joined, payment.deposit_to_account_ref),
            reference=clean(payment.payment_ref_num),
            paid_on=payment.txn_date,
        )


def _money_for(invoice_id: str, payment: shapes.Payment) -> Decimal:
    """What of a payment's money surely went to an invoice. Where credits took part, only what the other documents left over."""
    ours = others = NOTHING
    for line in payment.line:
        is_ours = any(link.txn_type == "Invoice" and link.txn_id == invoice_id for link in line.linked_txn)
        is_debt = any(link.txn_type != "CreditMemo" for link in line.linked_txn)
        if is_ours:
            ours += line.amount
        elif is_debt:
            others += line.amount
    return max(NOTHING, min(ours, payment.total_amt - payment.unapplied_amt - others))


def paid_of(sale: shapes.Sale, entity: str, payments: list[PaymentRef]) -> Decimal:
    """Money received, deposits included."""
    if entity == "SalesReceipt":
        return sale.total_amt
    return sum((item.amount or NOTHING for item in payments), sale.deposit or NOTHING)


def status_of(sale: shapes.Sale, entity: str, paid: Decimal) -> PaymentStatus:
    """PAID only where money covers the total."""
    if entity == "RefundReceipt" and not is_void(sale):
        return PaymentStatus.REFUNDED
    if is_void(sale) or entity in ("CreditMemo", "RefundReceipt", "Estimate"):
        return PaymentStatus.UNPAID
    if entity == "SalesReceipt":
        return PaymentStatus.PAID
    if sale.total_amt > 0 and paid >= sale.total_amt:
        return PaymentStatus.PAID
    return PaymentStatus.PARTIAL if paid > 0 else PaymentStatus.UNPAID
