"""Sales order → canonical."""

from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import CENT, EXACT, allot, rounded
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.customer import address_of, customer_of
from connectors.exact_online.mapping.doubles import order_of
from connectors.exact_online.mapping.values import INCLUDING, code, day, instant, percent
from schemas import canon
from schemas.canon import (
    AddressType,
    ChargeType,
    CustomerKind,
    DocumentStatus,
    FulfilmentStatus,
    InvoicingStatus,
    LineType,
    PriceMode,
    TaxLevel,
)
from schemas.system import Cause

STATUS = {12: DocumentStatus.OPEN, 20: DocumentStatus.CONFIRMED, 21: DocumentStatus.COMPLETED, 45: DocumentStatus.CANCELLED}
DELIVERY = {12: FulfilmentStatus.NONE, 20: FulfilmentStatus.PARTIAL, 21: FulfilmentStatus.DELIVERED, 45: FulfilmentStatus.NONE}
INVOICING = {12: InvoicingStatus.NONE, 20: InvoicingStatus.PARTIAL, 21: InvoicingStatus.INVOICED, 45: InvoicingStatus.NONE}
ZERO = Decimal(0)
HALF_CENT = CENT / 2


def order_from_vendor(raw: bytes) -> canon.SalesOrder:
    """A whole order."""
    whole = order_of(raw)
    _check_codes(whole)
    order = whole.Order
    instant(order.Modified)  # a time nobody can place stops the record
    discount = discount_of(whole)
    term = code(order.PaymentCondition)
    return canon.SalesOrder(
        number=str(order.OrderNumber),
        external_ref=f"EXACT:{whole.Division}:{order.OrderID}",
        customer_reference=clean(order.YourRef),
        order_date=day(order.OrderDate),
        delivery_date=day(order.DeliveryDate),
        currency=code(order.Currency) or "EUR",
        price_mode=PriceMode.INCL if _is_gross(whole) else PriceMode.EXCL,
        tax_level=TaxLevel.PER_LINE,
        status=_known(STATUS, order.Status, "Status"),
        fulfilment_status=_known(DELIVERY, order.DeliveryStatus, "DeliveryStatus"),
        invoicing_status=_known(INVOICING, order.InvoiceStatus, "InvoiceStatus"),
        customer=_party(whole.Customer) if whole.Customer else None,
        ship_to=_ship_to(whole),
        lines=[_line(line, whole) for line in sorted(whole.Lines, key=lambda row: row.LineNumber or 0)],
        allowances=[canon.AllowanceCharge(type=ChargeType.DISCOUNT, amount=discount)] if discount else [],
        charges=[_charge(charge, whole) for charge in whole.Charges],
        vat_breakdown=_breakdown(whole, discount),
        totals=_totals(whole, discount),
        payment_term=canon.Ref(id=term, code=term) if term else None,
        shipping_method=canon.Ref(id=order.ShippingMethod) if order.ShippingMethod else None,
        warehouse=canon.Ref(code=clean(order.WarehouseCode)) if clean(order.WarehouseCode) else None,
        subject=f"customer:{order.OrderedBy}",
        note=canon.NotePii(text=remarks) if (remarks := clean(order.Remarks)) else None,
    )


def _known(table: dict[int, Any], value: int | None, name: str) -> Any:
    if value not in table:
        raise MappingError(f"SalesOrder.{name} {value!r} is unknown", hint="extend the mapping", cause=Cause.UNKNOWN_VALUE)
    return table[value]


def _check_codes(whole: shapes.WholeOrder) -> None:
    """A VAT code the division does not list says neither rate nor whether prices hold VAT: it stops the order."""
    for vat_code in (*(line.VATCode for line in whole.Lines), *(charge.VATCode for charge in whole.Charges)):
        if (name := code(vat_code)) and name not in whole.VatTypes:
            raise MappingError(
                f"SalesOrder {whole.Order.OrderNumber}: VATCode {name!r} is unknown in the division",
                hint="look at the VAT code of the order's lines in Exact",
                cause=Cause.UNKNOWN_VALUE,
            )


# --- amounts -------------------------------------------------------------------------------------------------------------------


def _rate(order: shapes.Order) -> Decimal:
    """Document currency per division currency, from the two totals."""
    if not order.AmountDC or order.AmountFC is None or order.AmountFC == order.AmountDC:
        return Decimal(1)
    return EXACT.divide(order.AmountFC, order.AmountDC)


def _parts_excl(whole: shapes.WholeOrder) -> Decimal:
    """Lines and charges without VAT."""
    lines = sum((_amounts(line, whole)[0] for line in whole.Lines), ZERO)
    return lines + sum((charge.AmountFCExclVAT or ZERO for charge in whole.Charges), ZERO)


def is_whole(whole: shapes.WholeOrder) -> bool:
    """Whether lines and charges, less the discount, add up to the header: half an order would be booked as a smaller one.

    The header states its discount in division currency: in another currency it is known to about a cent times the rate.
    """
    order = whole.Order
    if not whole.Lines or order.AmountFCExclVat is None:
        return bool(whole.Lines)
    rate, stated = _rate(order), order.AmountDiscountExclVat or ZERO
    slack = CENT * len(whole.Lines)
    if rate != 1 and stated and order.AmountDC and order.AmountFC:
        slack += abs(rate) * HALF_CENT + abs(stated * rate) * HALF_CENT * (1 / abs(order.AmountDC) + 1 / abs(order.AmountFC))
    return abs(_parts_excl(whole) - stated * rate - order.AmountFCExclVat) <= slack


def discount_of(whole: shapes.WholeOrder) -> Decimal:
    """The header's discount without VAT, in document currency: what lies between the parts and the total where Exact states it in
    division currency only."""
    order = whole.Order
    stated = order.AmountDiscountExclVat or ZERO
    if not stated or _rate(order) == 1 or order.AmountFCExclVat is None:
        return stated
    return rounded(_parts_excl(whole) - order.AmountFCExclVat)


def _totals(whole: shapes.WholeOrder, discount: Decimal) -> canon.Totals:
    excl, incl = whole.Order.AmountFCExclVat, whole.Order.AmountFC
    return canon.Totals(
        lines=sum((_amounts(line, whole)[0] for line in whole.Lines), ZERO),
        allowances=discount,
        charges=sum((charge.AmountFCExclVAT or ZERO for charge in whole.Charges), ZERO),
        excl=excl,
        vat=incl - excl if incl is not None and excl is not None else None,
        incl=incl,
    )


class _Sum(msgspec.Struct):
    """What one VAT code adds up to."""

    base: Decimal = ZERO
    amount: Decimal = ZERO
    of_lines: Decimal = ZERO
    vat_of_lines: Decimal = ZERO
    rate_pct: Decimal | None = None


def _breakdown(whole: shapes.WholeOrder, discount: Decimal) -> list[canon.TaxLine]:
    """VAT per code, from lines and charges, less what the header's discount takes off each."""
    sums: dict[str, _Sum] = {}
    for line in whole.Lines:
        net, vat = _amounts(line, whole)
        found = sums.setdefault(code(line.VATCode) or "", _Sum())
        found.base, found.amount = found.base + net, found.amount + vat
        found.of_lines, found.vat_of_lines = found.of_lines + net, found.vat_of_lines + vat
        found.rate_pct = percent(line.VATPercentage)
    for charge in whole.Charges:
        net = charge.AmountFCExclVAT or ZERO
        found = sums.setdefault(code(charge.VATCode) or "", _Sum())
        found.base, found.amount = found.base + net, found.amount + _charge_vat(charge)
        found.rate_pct = percent(whole.VatFractions.get(code(charge.VATCode) or ""))
    if discount:
        _take_off(list(sums.values()), discount, whole.Order)
    return [
        canon.TaxLine(rate_pct=item.rate_pct, base=item.base, amount=item.amount, source_code=name)
        for name, item in sorted(sums.items())
        if name
    ]


def _take_off(sums: list[_Sum], discount: Decimal, order: shapes.Order) -> None:
    """Spreads the discount over the codes of the lines by amount, and its VAT by theirs, so that the header's totals come out."""
    weights = [item.of_lines for item in sums]
    if sum(weights, ZERO):
        for item, share in zip(sums, allot(discount, weights), strict=True):
            item.base -= share
    if order.AmountFC is None or order.AmountFCExclVat is None:
        return
    vat = sum((item.amount for item in sums), ZERO) - (order.AmountFC - order.AmountFCExclVat)
    taxes = [item.vat_of_lines for item in sums]
    if sum(taxes, ZERO):
        for item, share in zip(sums, allot(vat, taxes), strict=True):
            item.amount -= share


# --- parts ---------------------------------------------------------------------------------------------------------------------


def _is_gross_code(vat_code: str | None, whole: shapes.WholeOrder) -> bool:
    return whole.VatTypes.get(code(vat_code) or "") == INCLUDING


def _is_gross(whole: shapes.WholeOrder) -> bool:
    """Whether all prices hold VAT."""
    return bool(whole.Lines) and all(_is_gross_code(line.VATCode, whole) for line in whole.Lines)


def _amounts(line: shapes.OrderLine, whole: shapes.WholeOrder) -> tuple[Decimal, Decimal]:
    """A line without VAT, and its VAT."""
    vat = line.VATAmount or ZERO
    if line.AmountFC is not None:
        return line.AmountFC, vat
    amount = rounded(line.Quantity * (line.NetPrice or ZERO))
    return (amount - vat if _is_gross_code(line.VATCode, whole) else amount), vat


def _line(line: shapes.OrderLine, whole: shapes.WholeOrder) -> canon.Line:
    gross = _is_gross_code(line.VATCode, whole)
    amount, vat = _amounts(line, whole)
    sku = clean(line.ItemCode)
    return canon.Line(
        line_id=line.ID,
        line_no=line.LineNumber or 0,
        line_type=LineType.ITEM,
        product=canon.Ref(id=line.Item, code=sku) if line.Item else None,
        sku=sku,
        name=clean(line.Description) or clean(line.ItemDescription),
        quantity=line.Quantity,
        unit=code(line.UnitCode),
        unit_price_excl=None if gross else line.NetPrice,
        unit_price_incl=line.NetPrice if gross else None,
        line_excl=amount,
        line_incl=amount + vat,
        taxes=_taxes(line.VATCode, line.VATPercentage, amount, vat),
        cost_centre=canon.Ref(code=clean(line.CostCenter)) if clean(line.CostCenter) else None,
        cost_unit=canon.Ref(code=clean(line.CostUnit)) if clean(line.CostUnit) else None,
        qty_shipped=line.QuantityDelivered,
        qty_invoiced=line.QuantityInvoiced,
        delivery_date=day(line.DeliveryDate),
    )


def _charge_vat(charge: shapes.ChargeLine) -> Decimal:
    net = charge.AmountFCExclVAT or ZERO
    return (charge.AmountFCInclVAT if charge.AmountFCInclVAT is not None else net) - net


def _charge(charge: shapes.ChargeLine, whole: shapes.WholeOrder) -> canon.AllowanceCharge:
    net = charge.AmountFCExclVAT or ZERO
    fraction = whole.VatFractions.get(code(charge.VATCode) or "")
    kind = ChargeType.SHIPPING if charge.IsShippingCost else ChargeType.FEE
    return canon.AllowanceCharge(type=kind, amount=net, taxes=_taxes(charge.VATCode, fraction, net, _charge_vat(charge)))


def _taxes(vat_code: str | None, fraction: Decimal | None, base: Decimal, amount: Decimal) -> list[canon.TaxLine]:
    """What Exact says of VAT; what the code means is the source-side table's business."""
    name = code(vat_code)
    return [canon.TaxLine(rate_pct=percent(fraction), base=base, amount=amount, source_code=name)] if name else []


def _party(whole: shapes.WholeAccount) -> canon.Party:
    customer = customer_of(whole)
    return canon.Party(
        customer=canon.Ref(id=whole.Account.ID, code=customer.number),
        kind=customer.kind,
        company_name=customer.company_name,
        vat_number=customer.vat_number,
        registration_number=customer.registration_number,
        currency=customer.currency,
        language=customer.language,
        country_code=customer.country_code,
        subject=customer.subject,
        pii=customer.pii,
    )


def _ship_to(whole: shapes.WholeOrder) -> canon.Party | None:
    address = address_of(whole.DeliverTo, AddressType.DELIVERY) if whole.DeliverTo else None
    if address is None:
        return None
    return canon.Party(
        kind=CustomerKind.UNKNOWN,
        country_code=address.country_code,
        subject=f"customer:{whole.Order.OrderedBy}",
        pii=canon.PartyPii(addresses=[address]),
    )
