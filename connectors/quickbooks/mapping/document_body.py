"""Canonical orders and invoices as QuickBooks invoices, sales receipts and estimates. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from bus.core.errors import MappingError
from bus.core.money import EXACT, rounded, vat_in
from connectors.quickbooks.mapping.asked import Asked, Company, Names, cut, fits, named, plain
from connectors.quickbooks.mapping.customer_body import EMAIL_MAX, address_body
from connectors.quickbooks.mapping.lines import SHIPPING
from schemas import canon
from schemas.canon import AddressType, LineType, PartyPii, PriceMode

ENTITIES = {"INVOICE": "Invoice", "RECEIPT": "SalesReceipt", "ESTIMATE": "Estimate"}
DOC_NUMBER_MAX, REFERENCE_MAX, MEMO_MAX, DESCRIPTION_MAX = 21, 1000, 1000, 4000
"""Characters. PrivateNote holds 4,000: the marker and a reference always fit, and nothing else goes there."""
PRICE_DECIMALS = Decimal("0.0000001")
ONE = Decimal(1)
Document = canon.SalesOrder | canon.SalesInvoice


def entity_of(asked: Asked) -> str:
    """The vendor's entity for a document type."""
    kind = asked.document_type or "INVOICE"
    if kind not in ENTITIES:
        raise MappingError(f"type {kind!r} is none of {', '.join(ENTITIES)}", hint="mend `to.type` of the flow")
    return ENTITIES[kind]


def marker_of(key: str) -> str:
    """What tells our document from another with the same customer and date."""
    return f"bus:{key}"


def holds_marker(private_note: str | None, key: str) -> bool:
    """Whether a private note is that of our document."""
    return marker_of(key) in (private_note or "").split()


def document_day(document: Document) -> str:
    """The day it is booked on. Never moved, whatever the books say."""
    day = document.order_date if isinstance(document, canon.SalesOrder) else document.issue_date
    if day is None:
        raise MappingError("the document has no date", hint="fill the order or invoice date at the source")
    return day.isoformat()


def document_body(asked: Asked, document: Document, names: Names, company: Company) -> dict[str, Any]:
    """The whole document. Raises MappingError when a mandatory value is missing or a value has no place."""
    entity = entity_of(asked)
    inclusive = _is_inclusive(document)
    body: dict[str, Any] = {
        "CustomerRef": _customer(asked, entity),
        "TxnDate": document_day(document),
        "DocNumber": _number(asked, company),
        "PrivateNote": _note(asked),
        "CustomerMemo": {"value": cut(document.customer_reference, MEMO_MAX)} if document.customer_reference else None,
        "CurrencyRef": _currency(document, company),
        "GlobalTaxCalculation": "TaxInclusive" if inclusive else "TaxExcluded",
        "ShipDate": document.delivery_date.isoformat() if document.delivery_date else None,
        "BillEmail": _email(document),
        "BillAddr": _address(document.bill_to, AddressType.BILLING) or _address(document.customer, AddressType.BILLING),
        "ShipAddr": _address(document.ship_to, AddressType.DELIVERY),
        "Line": _lines(asked, document, names, inclusive=inclusive),
        **_terms(asked, document, names, entity),
    }
    return {member: value for member, value in body.items() if value}


def _customer(asked: Asked, entity: str) -> dict[str, str] | None:
    if customer := asked.ids.get("customer"):
        return {"value": customer}
    if entity == "SalesReceipt":
        return None
    raise MappingError(f"an {entity} needs a customer", hint="set customer.default in the flow")


def _number(asked: Asked, company: Company) -> str | None:
    """The flow's reference, only where the company numbers by hand: otherwise QuickBooks counts."""
    if asked.reference_field != "DocNumber" or company.custom_numbers is False:
        return None
    return fits(asked.reference, DOC_NUMBER_MAX, "reference")


def _note(asked: Asked) -> str:
    """The marker, by which the document is found again, and the reference: neither may be cut. Raises MappingError."""
    return " ".join(part for part in (marker_of(asked.key), fits(asked.reference, REFERENCE_MAX, "reference")) if part)


def _currency(document: Document, company: Company) -> dict[str, str] | None:
    if company.multi_currency is False:
        if company.home_currency and document.currency != company.home_currency:
            raise MappingError(
                f"the document is in {document.currency}, and the company has {company.home_currency} only",
                hint="switch on multicurrency in QuickBooks, or filter such documents",
            )
        return None
    return {"value": document.currency}


def _terms(asked: Asked, document: Document, names: Names, entity: str) -> dict[str, Any]:
    if entity == "SalesReceipt":
        reference = next((item.reference for item in document.payments if item.reference), None)
        return {
            "PaymentMethodRef": named(asked, names, "payment_method", "PaymentMethod", document.payment_method),
            "DepositToAccountRef": named(asked, names, "deposit_account", "Account"),
            "PaymentRefNum": reference if reference and len(reference) <= DOC_NUMBER_MAX else None,
        }
    return {
        "SalesTermRef": named(asked, names, "payment_term", "Term", document.payment_term),
        "DueDate": document.due_date.isoformat() if document.due_date and entity == "Invoice" else None,
    }


def _email(document: Document) -> dict[str, str] | None:
    for party in (document.bill_to, document.customer):
        pii = party.pii if party else None
        if isinstance(pii, PartyPii) and pii.emails and len(pii.emails[0].value) <= EMAIL_MAX:
            return {"Address": pii.emails[0].value}
    return None


def _address(party: canon.Party | None, kind: AddressType) -> dict[str, str]:
    pii = party.pii if party else None
    if not isinstance(pii, PartyPii) or not pii.addresses:
        return {}
    found = next((item for item in pii.addresses if item.type is kind), pii.addresses[0])
    return address_body(found, with_names=True)


# --- lines -------------------------------------------------------------------------------------------------------------------


def _is_inclusive(document: Document) -> bool:
    """Gross only where every line says what it is gross; charges are stated net."""
    sold = [line for line in document.lines if not _is_text(line)]
    return document.price_mode is PriceMode.INCL and bool(sold) and all(line.line_incl is not None for line in sold)


def _is_text(line: canon.Line) -> bool:
    return line.line_type is LineType.TEXT


def _lines(asked: Asked, document: Document, names: Names, *, inclusive: bool) -> list[dict[str, Any]]:
    lines = [_line(asked, line, names, inclusive=inclusive) for line in document.lines]
    lines += [_charge(asked, index, charge, names, inclusive=inclusive) for index, charge in enumerate(document.charges)]
    discount = sum((item.amount for item in document.allowances), Decimal(0))
    if discount:
        lines.append(
            {
                "DetailType": "DiscountLineDetail",
                "Amount": _money(discount),
                "DiscountLineDetail": {"PercentBased": False},
                **_description([item.reason for item in document.allowances]),
            }
        )
    if not any(line["DetailType"] == "SalesItemLineDetail" for line in lines):
        raise MappingError("the document sells nothing: it has no line with a product", hint="filter such documents in the flow")
    return lines


def _line(asked: Asked, line: canon.Line, names: Names, *, inclusive: bool) -> dict[str, Any]:
    if _is_text(line):
        return {"DetailType": "DescriptionOnly", "DescriptionLineDetail": {}, **_description([line.name])}
    net = line_net(line)
    gross = line.line_incl if inclusive else None
    detail: dict[str, Any] = {
        "ItemRef": {"value": _product(asked, line.line_id, f"line {line.line_no}")},
        "TaxCodeRef": _tax_code(asked, line.line_id, names, f"line {line.line_no}"),
        **_quantity(line, net),
        "TaxInclusiveAmt": _money(gross) if gross is not None else None,
        "ServiceDate": line.delivery_date.isoformat() if line.delivery_date else None,
    }
    return {
        "DetailType": "SalesItemLineDetail",
        "Amount": _money(net),
        **_description([line.name]),
        "SalesItemLineDetail": {member: value for member, value in detail.items() if value is not None},
    }


def line_net(line: canon.Line) -> Decimal:
    """The line's net amount, to the cent: the source's own, else its gross amount less the VAT in it, else quantity × price."""
    if line.line_excl is not None:
        return rounded(line.line_excl)
    if line.line_incl is not None:
        rates = {tax.rate_pct for tax in line.taxes}
        if len(rates) != 1 or (rate := next(iter(rates))) is None:
            raise MappingError(f"line {line.line_no} has a gross amount and no single VAT rate", hint="give it one at the source")
        return rounded(line.line_incl) - vat_in(rounded(line.line_incl), rate)
    if line.unit_price_excl is None:
        raise MappingError(f"line {line.line_no} has neither amount nor price", hint="fill its amount at the source")
    full = rounded(EXACT.divide(EXACT.multiply(line.quantity, line.unit_price_excl), line.price_base_quantity or ONE))
    return full - sum((rounded(item.amount) for item in line.allowances), Decimal(0))


def _quantity(line: canon.Line, net: Decimal) -> dict[str, Decimal]:
    """Quantity and a price that multiply to the amount, or neither: QuickBooks refuses anything else (6070).
    The price is the source's own where that works, else the effective one after discounts."""
    if not line.quantity:
        return {}
    prices = []
    if line.unit_price_excl is not None:
        prices.append(EXACT.divide(line.unit_price_excl, line.price_base_quantity or ONE))
    prices.append(EXACT.divide(net, line.quantity))
    for exact in prices:
        price = rounded(exact, PRICE_DECIMALS)
        if rounded(EXACT.multiply(line.quantity, price)) == net:
            return {"Qty": plain(line.quantity), "UnitPrice": plain(price)}
    return {}


def _charge(asked: Asked, index: int, charge: canon.AllowanceCharge, names: Names, *, inclusive: bool) -> dict[str, Any]:
    role = f"charge:{index}"
    product = _product(asked, role, f"charge {index + 1}")
    net = _money(charge.amount)
    detail: dict[str, Any] = {
        "ItemRef": {"value": product},
        "TaxCodeRef": _tax_code(asked, role, names, f"charge {index + 1}"),
    }
    if product != SHIPPING:
        detail |= {"Qty": ONE, "UnitPrice": net}
    rates = {tax.rate_pct for tax in charge.taxes}
    if inclusive and len(rates) == 1 and (rate := next(iter(rates))) is not None:
        detail["TaxInclusiveAmt"] = _money(net + rounded(EXACT.divide(net * rate, Decimal(100))))
    return {
        "DetailType": "SalesItemLineDetail",
        "Amount": net,
        **_description([charge.reason]),
        "SalesItemLineDetail": detail,
    }


def _product(asked: Asked, role: str, what: str) -> str:
    found = asked.ids.get(f"product:{role}")
    if found is None:
        raise MappingError(f"{what} has no product in QuickBooks", hint="set product.line_without_product in the flow")
    return found


def _tax_code(asked: Asked, line_id: str, names: Names, what: str) -> dict[str, str] | None:
    """Mandatory on every sold line outside the United States (6000 otherwise)."""
    code = asked.value("vat_code", line_id)
    if code is None:
        raise MappingError(f"{what} has no tax code", hint="add vat_code under `set` of the flow")
    return names.ref("TaxCode", code, path="vat_code", must=True)


def _description(texts: Sequence[str | None]) -> dict[str, str]:
    text = cut(", ".join(text for text in texts if text), DESCRIPTION_MAX)
    return {"Description": text} if text else {}


def _money(value: Decimal) -> Decimal:
    return rounded(value)
