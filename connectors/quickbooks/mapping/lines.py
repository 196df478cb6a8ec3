"""Lines of QuickBooks sales as canonical lines, charges and allowances. Pure."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import EXACT, rounded
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.parts import Joined, amount, name_of, pct, price, quantity, ref_of, sure_amount
from connectors.quickbooks.mapping.product import account_ref
from connectors.quickbooks.mapping.taxes import tax_of
from schemas import canon
from schemas.canon import AllowanceCharge, ChargeType, LineType
from schemas.system import Cause

SHIPPING = "SHIPPING_ITEM_ID"
"""What QuickBooks names in place of an item on its shipping line: https://help.developer.intuit.com"""
NOTHING, ONE = Decimal(0), Decimal(1)


class Parts(msgspec.Struct, kw_only=True):
    """What the lines of a sale say, sorted by what they are."""

    lines: list[canon.Line] = msgspec.field(default_factory=list)
    charges: list[AllowanceCharge] = msgspec.field(default_factory=list)
    allowances: list[AllowanceCharge] = msgspec.field(default_factory=list)
    codes: dict[str, shapes.TaxCode] = msgspec.field(default_factory=dict)
    """Tax codes met, by id."""


def parts_of(lines: Sequence[shapes.Line], joined: Joined, day: date) -> Parts:
    """All lines. An unknown kind of line stops the document: nobody knows what it means for the total."""
    parts = Parts()
    for index, line in enumerate(lines):
        _sort(parts, line, joined, day, f"Line[{index}]", parent=None)
    return parts


def _sort(parts: Parts, line: shapes.Line, joined: Joined, day: date, path: str, parent: str | None) -> None:
    match line.detail_type:
        case "SalesItemLineDetail":
            _item(parts, line, joined, day, path, parent)
        case "DiscountLineDetail":
            _discount(parts, line, path)
        case "GroupLineDetail":
            _group(parts, line, joined, day, path)
        case "DescriptionOnly" | "DescriptionLineDetail":
            parts.lines.append(
                canon.Line(
                    line_id=_line_id(parts, line),
                    line_no=len(parts.lines) + 1,
                    line_type=LineType.TEXT,
                    parent_line_id=parent,
                    name=clean(line.description),
                    quantity=NOTHING,
                )
            )
        case "SubTotalLineDetail":
            return  # what the server adds up for display
        case _:
            raise MappingError(
                f"{path}.DetailType: {line.detail_type!r} is no known kind of line",
                hint="the connector must learn what this line means for the total",
                cause=Cause.UNKNOWN_VALUE,
            )


def _line_id(parts: Parts, line: shapes.Line) -> str:
    """The vendor's id, which lasts over updates; else the position."""
    return line.id or f"n{len(parts.lines) + 1}"


def _item(parts: Parts, line: shapes.Line, joined: Joined, day: date, path: str, parent: str | None) -> None:
    detail = line.sales_item_line_detail or shapes.SalesItemDetail()
    booked = sure_amount(line.amount, f"{path}.Amount")
    if code := joined.get(shapes.TaxCode, "TaxCode", detail.tax_code_ref):
        parts.codes[code.id] = code
    if detail.item_ref is not None and detail.item_ref.value == SHIPPING:
        taxes = tax_of(detail.tax_code_ref, joined, day, booked)
        parts.charges.append(
            AllowanceCharge(type=ChargeType.SHIPPING, reason=clean(line.description), amount=booked, taxes=taxes)
        )
        return
    item = joined.get(shapes.Item, "Item", detail.item_ref)
    allowances, net = _line_discount(detail, booked, path)
    product, sku, name = _product(item, line)
    parts.lines.append(
        canon.Line(
            line_id=_line_id(parts, line),
            line_no=len(parts.lines) + 1,
            line_type=LineType.ITEM,
            parent_line_id=parent,
            product=product,
            sku=sku,
            name=name,
            quantity=quantity(detail.qty, f"{path}.Qty") if detail.qty is not None else ONE,
            unit_price_excl=price(detail.unit_price, f"{path}.UnitPrice"),
            allowances=allowances,
            line_excl=net,
            line_incl=amount(detail.tax_inclusive_amt, f"{path}.TaxInclusiveAmt"),
            taxes=tax_of(detail.tax_code_ref, joined, day, net),
            cost_centre=ref_of(detail.class_ref),
            revenue_account=account_ref(joined, detail.item_account_ref),
            delivery_date=detail.service_date,
        )
    )


def _product(item: shapes.Item | None, line: shapes.Line) -> tuple[canon.Ref | None, str | None, str | None]:
    if item is None:
        return None, None, clean(line.description)
    sku, name = clean(item.sku), name_of(item.name, active=item.active)
    return canon.Ref(id=item.id, code=sku, name=name), sku, clean(line.description) or name


def _line_discount(detail: shapes.SalesItemDetail, booked: Decimal, path: str) -> tuple[list[AllowanceCharge], Decimal]:
    """A line's own discount, and the net amount. The amount is gross of it exactly where it is quantity × price."""
    discount = amount(detail.discount_amt, f"{path}.DiscountAmt") or NOTHING
    rate = pct(detail.discount_rate, f"{path}.DiscountRate") or NOTHING
    full = booked
    if detail.unit_price is not None:
        full = rounded(EXACT.multiply(detail.unit_price, detail.qty if detail.qty is not None else ONE))
    if not discount and rate:
        discount = rounded(EXACT.divide(EXACT.multiply(full, rate), Decimal(100)))
    if not discount:
        return [], booked
    net = booked - discount if booked == full else booked
    allowance = AllowanceCharge(type=ChargeType.DISCOUNT, pct=rate or None, amount=sure_amount(discount, path))
    return [allowance], sure_amount(net, path)


def _discount(parts: Parts, line: shapes.Line, path: str) -> None:
    detail = line.discount_line_detail or shapes.DiscountDetail()
    booked = abs(sure_amount(line.amount, f"{path}.Amount"))
    if not booked:
        return
    percent = pct(detail.discount_percent, f"{path}.DiscountPercent") if detail.percent_based else None
    parts.allowances.append(AllowanceCharge(type=ChargeType.DISCOUNT, reason=clean(line.description), pct=percent, amount=booked))


def _group(parts: Parts, line: shapes.Line, joined: Joined, day: date, path: str) -> None:
    """A bundle: the heading carries no money, its parts do."""
    detail = line.group_line_detail or shapes.GroupDetail()
    product, sku, name = _product(joined.get(shapes.Item, "Item", detail.group_item_ref), line)
    heading = canon.Line(
        line_id=_line_id(parts, line),
        line_no=len(parts.lines) + 1,
        line_type=LineType.TEXT,
        product=product,
        sku=sku,
        name=name,
        quantity=quantity(detail.quantity, f"{path}.Quantity") or ONE,
    )
    parts.lines.append(heading)
    for index, part in enumerate(detail.line):
        _sort(parts, part, joined, day, f"{path}.Line[{index}]", parent=heading.line_id)
