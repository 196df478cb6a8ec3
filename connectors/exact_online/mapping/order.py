"""Sales order ↔ canonical."""

from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import allot, rounded
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.customer import address_of, customer_of
from connectors.exact_online.mapping.values import code, day, percent
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
from schemas.system import Cause, Resolved

STATUS = {12: DocumentStatus.OPEN, 20: DocumentStatus.CONFIRMED, 21: DocumentStatus.COMPLETED, 45: DocumentStatus.CANCELLED}
DELIVERY = {12: FulfilmentStatus.NONE, 20: FulfilmentStatus.PARTIAL, 21: FulfilmentStatus.DELIVERED, 45: FulfilmentStatus.NONE}
INVOICING = {12: InvoicingStatus.NONE, 20: InvoicingStatus.PARTIAL, 21: InvoicingStatus.INVOICED, 45: InvoicingStatus.NONE}
TEXT_MAX = 60
PRICE_DECIMALS = (Decimal("0.01"), Decimal("0.0001"), Decimal("0.000001"), Decimal("0.00000001"))


def order_from_vendor(raw: bytes) -> canon.SalesOrder:
    """A whole order."""
    whole = shapes.decoded(raw, shapes.WholeOrder, "SalesOrder")
    order = whole.Order
    lines = [_line(line, whole) for line in sorted(whole.Lines, key=lambda row: row.LineNumber or 0)]
    charges = [_charge(charge, whole) for charge in whole.Charges]
    discount = order.AmountDiscountExclVat or Decimal(0)
    incl, excl = order.AmountFC, order.AmountFCExclVat
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
        lines=lines,
        allowances=[canon.AllowanceCharge(type=ChargeType.DISCOUNT, amount=discount)] if discount else [],
        charges=charges,
        vat_breakdown=_breakdown(whole),
        totals=canon.Totals(excl=excl, incl=incl, vat=incl - excl if incl is not None and excl is not None else None),
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


def _is_gross(whole: shapes.WholeOrder) -> bool:
    types = {whole.VatTypes.get(code(line.VATCode) or "") for line in whole.Lines}
    return types == {"I"}


def _line(line: shapes.OrderLine, whole: shapes.WholeOrder) -> canon.Line:
    gross = whole.VatTypes.get(code(line.VATCode) or "") == "I"
    amount = line.AmountFC if line.AmountFC is not None else rounded(line.Quantity * (line.NetPrice or Decimal(0)))
    tax = line.VATAmount or Decimal(0)
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
        line_incl=amount + tax,
        taxes=[_tax(line.VATCode, line.VATPercentage, amount, tax)] if code(line.VATCode) else [],
        cost_centre=canon.Ref(code=clean(line.CostCenter)) if clean(line.CostCenter) else None,
        cost_unit=canon.Ref(code=clean(line.CostUnit)) if clean(line.CostUnit) else None,
        qty_shipped=line.QuantityDelivered,
        qty_invoiced=line.QuantityInvoiced,
        delivery_date=day(line.DeliveryDate),
    )


def _charge(charge: shapes.ChargeLine, whole: shapes.WholeOrder) -> canon.AllowanceCharge:
    net = charge.AmountFCExclVAT or Decimal(0)
    gross = charge.AmountFCInclVAT if charge.AmountFCInclVAT is not None else net
    taxes = (
        [_tax(charge.VATCode, whole.VatFractions.get(code(charge.VATCode) or ""), net, gross - net)]
        if code(charge.VATCode)
        else []
    )
    kind = ChargeType.SHIPPING if charge.IsShippingCost else ChargeType.FEE
    return canon.AllowanceCharge(type=kind, amount=net, taxes=taxes)


def _tax(vat_code: str | None, fraction: Decimal | None, base: Decimal, amount: Decimal) -> canon.TaxLine:
    """What Exact says of a line's VAT; what the code means is the source-side table's business."""
    return canon.TaxLine(rate_pct=percent(fraction), base=base, amount=amount, source_code=code(vat_code))


def _breakdown(whole: shapes.WholeOrder) -> list[canon.TaxLine]:
    """VAT per code, from lines and charges."""
    sums: dict[str, list[Decimal]] = {}
    rates: dict[str, Decimal | None] = {}
    rows: list[tuple[str | None, Decimal | None, Decimal, Decimal]] = [
        (line.VATCode, line.VATPercentage, line.AmountFC or Decimal(0), line.VATAmount or Decimal(0)) for line in whole.Lines
    ]
    for charge in whole.Charges:
        net = charge.AmountFCExclVAT or Decimal(0)
        rows.append(
            (charge.VATCode, whole.VatFractions.get(code(charge.VATCode) or ""), net, (charge.AmountFCInclVAT or net) - net)
        )
    for vat_code, fraction, base, amount in rows:
        name = code(vat_code) or ""
        total = sums.setdefault(name, [Decimal(0), Decimal(0)])
        total[0] += base
        total[1] += amount
        rates[name] = percent(fraction)
    return [
        canon.TaxLine(rate_pct=rates[name], base=base, amount=amount, source_code=name)
        for name, (base, amount) in sorted(sums.items())
        if name
    ]


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


def is_whole(whole: shapes.WholeOrder) -> bool:
    """Whether lines and charges add up to the header: half an order would be booked as a smaller one."""
    order = whole.Order
    if order.AmountFCExclVat is None:
        return bool(whole.Lines)
    found = sum((line.AmountFC or Decimal(0) for line in whole.Lines), Decimal(0))
    found += sum((charge.AmountFCExclVAT or Decimal(0) for charge in whole.Charges), Decimal(0))
    found -= order.AmountDiscountExclVat or Decimal(0)
    return bool(whole.Lines) and abs(found - order.AmountFCExclVat) <= Decimal("0.01") * max(1, len(whole.Lines))


# --- to the vendor -----------------------------------------------------------------------------------------------------------


def lines_to_vendor(
    document: canon.SalesOrder | canon.SalesInvoice, ids: dict[str, str], resolved: list[Resolved]
) -> list[dict[str, Any]]:
    """Order lines: items, then charges as lines of their own item.

    A document discount is spread over the lines by largest remainder and goes into their prices, because Exact's header
    discount is in division currency and has no VAT of its own.
    """
    codes = {item.line_id: item for item in resolved if item.name == "vat_code" and item.line_id is not None}
    parts = _parts(document, ids, codes)
    for part, share in zip(parts, _discounts(document, parts), strict=True):
        part.net -= share
    return [_to_line(part) for part in parts]


class _Part(msgspec.Struct, kw_only=True):
    """What becomes one order line."""

    item: str
    quantity: Decimal
    net: Decimal
    vat: Resolved | None
    text: str | None
    tax: str | None
    """The source's tax code, by which its totals per rate are known."""


def _parts(document: canon.SalesOrder | canon.SalesInvoice, ids: dict[str, str], codes: dict[str, Resolved]) -> list[_Part]:
    parts = [
        _Part(
            item=ids[f"product:{line.line_id}"],
            quantity=line.quantity or Decimal(1),
            net=_net(line, codes.get(line.line_id)),
            vat=codes.get(line.line_id),
            text=line.name,
            tax=_tax_code(line.taxes),
        )
        for line in document.lines
        if f"product:{line.line_id}" in ids
    ]
    for index, charge in enumerate(document.charges):
        vat = codes.get(f"charge:{index}")
        parts.append(
            _Part(
                item=ids[f"product:charge:{index}"],
                quantity=Decimal(1),
                net=_charge_net(charge, vat),
                vat=vat,
                text=charge.reason,
                tax=_tax_code(charge.taxes),
            )
        )
    return parts


def _tax_code(taxes: list[canon.TaxLine]) -> str | None:
    return taxes[0].source_code if taxes else None


def _discounts(document: canon.SalesOrder | canon.SalesInvoice, parts: list[_Part]) -> list[Decimal]:
    """The part of the document discount that each line bears.

    The source's totals per tax code say how much of it each code bears (its lines less its base); within a code, and where
    they do not say, it goes by amount.
    """
    discount = sum((allowance.amount for allowance in document.allowances), Decimal(0))
    if not discount or not parts:
        return [Decimal(0)] * len(parts)
    shares: dict[int, Decimal] = {}
    bases = {tax.source_code: tax.base for tax in document.vat_breakdown if tax.source_code and tax.base is not None}
    for tax in {part.tax for part in parts}:
        places = [index for index, part in enumerate(parts) if part.tax == tax]
        nets = [parts[index].net for index in places]
        if tax not in bases or any(_is_gross_code(parts[index].vat) for index in places):
            return allot(discount, [abs(part.net) for part in parts])
        borne = sum(nets, Decimal(0)) - bases[tax]
        shares |= dict(zip(places, allot(borne, [abs(net) for net in nets]) if any(nets) else nets, strict=True))
    if sum(shares.values(), Decimal(0)) != discount:
        return allot(discount, [abs(part.net) for part in parts])
    return [shares[index] for index in range(len(parts))]


def _is_gross_code(item: Resolved | None) -> bool:
    return item is not None and item.extra.get("price_mode") == "INCL"


def _net(line: canon.Line, vat: Resolved | None) -> Decimal:
    value = line.line_incl if _is_gross_code(vat) else line.line_excl
    if value is None:
        raise MappingError(
            f"line {line.line_no} has no amount {'with' if _is_gross_code(vat) else 'without'} VAT",
            hint="choose a VAT code of the other kind in the table, or give the source line an amount",
        )
    return value


def _charge_net(charge: canon.AllowanceCharge, vat: Resolved | None) -> Decimal:
    if not _is_gross_code(vat):
        return charge.amount
    return charge.amount + sum((tax.amount or Decimal(0) for tax in charge.taxes), Decimal(0))


def _to_line(part: _Part) -> dict[str, Any]:
    body: dict[str, Any] = {"Item": part.item, "Quantity": part.quantity, "NetPrice": unit_price(part.net, part.quantity)}
    if part.vat is not None and part.vat.value is not None:
        body["VATCode"] = part.vat.value
    if text := clean(part.text):
        body["Description"] = text[:TEXT_MAX]
    return body


def unit_price(net: Decimal, quantity: Decimal) -> Decimal:
    """The shortest price that gives the line's amount back to the cent."""
    exact = net / quantity
    for step in PRICE_DECIMALS:
        price = rounded(exact, step)
        if rounded(price * quantity) == rounded(net):
            return price.normalize() + 0
    raise MappingError(f"no price with 8 decimals gives {net} for {quantity} pieces", hint="split the line at the source")
