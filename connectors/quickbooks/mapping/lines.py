"""Lines of QuickBooks sales as canonical lines, charges and allowances. Pure."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

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
NOTHING, ONE = Decimal("0.000000"), Decimal(1)


class Lines:
    """What the lines of a sale say, sorted by what they are."""

    def __init__(self, joined: Joined, day: date) -> None:
        self._joined = joined
        self._day = day
        self.lines: list[canon.Line] = []
        self.charges: list[AllowanceCharge] = []
        self.allowances: list[AllowanceCharge] = []
        self.codes: dict[str, shapes.TaxCode] = {}
        """Tax codes met, by id."""

    def add(self, lines: Sequence[shapes.Line], path: str = "", parent: str | None = None) -> None:
        """All lines. An unknown kind of line stops the document: nobody knows what it means for the total."""
        for index, line in enumerate(lines):
            self._sort(line, f"{path}Line[{index}]", parent)

    def _sort(self, line: shapes.Line, path: str, parent: str | None) -> None:
        match line.detail_type:
            case "SalesItemLineDetail":
                self._item(line, path, parent)
            case "DiscountLineDetail":
                self._discount(line, path)
            case "GroupLineDetail":
                self._group(line, path)
            case "DescriptionOnly" | "DescriptionLineDetail":
                name = clean(line.description)
                self._append(line, line_type=LineType.TEXT, parent_line_id=parent, name=name, quantity=NOTHING)
            case "SubTotalLineDetail":
                return  # what the server adds up for display
            case _:
                raise MappingError(
                    f"{path}.DetailType: {line.detail_type!r} is no known kind of line",
                    hint="the connector must learn what this line means for the total",
                    cause=Cause.UNKNOWN_VALUE,
                )

    def _append(self, line: shapes.Line, **facts: Any) -> canon.Line:
        """A line under the vendor's id, which lasts over updates; else under its position. Parts of a bundle count their own."""
        number = len(self.lines) + 1
        parent, own = facts.get("parent_line_id"), line.id or f"n{number}"
        made = canon.Line(line_id=f"{parent}.{own}" if parent else own, line_no=number, **facts)
        self.lines.append(made)
        return made

    def _item(self, line: shapes.Line, path: str, parent: str | None) -> None:
        detail = line.sales_item_line_detail or shapes.SalesItemDetail()
        booked = sure_amount(line.amount, f"{path}.Amount")
        if code := self._joined.get(shapes.TaxCode, "TaxCode", detail.tax_code_ref):
            self.codes[code.id] = code
        if detail.item_ref is not None and detail.item_ref.value == SHIPPING:
            taxes = tax_of(detail.tax_code_ref, self._joined, self._day, booked)
            reason = clean(line.description)
            self.charges.append(AllowanceCharge(type=ChargeType.SHIPPING, reason=reason, amount=booked, taxes=taxes))
            return
        product, sku, name = _product(self._joined.get(shapes.Item, "Item", detail.item_ref), line)
        allowances, net = _line_discount(detail, booked, path)
        self._append(
            line,
            line_type=LineType.ITEM,
            parent_line_id=parent,
            product=product,
            sku=sku,
            name=name,
            quantity=quantity(detail.qty, f"{path}.Qty"),
            unit_price_excl=price(detail.unit_price, f"{path}.UnitPrice"),
            allowances=allowances,
            line_excl=net,
            line_incl=amount(detail.tax_inclusive_amt, f"{path}.TaxInclusiveAmt"),
            taxes=tax_of(detail.tax_code_ref, self._joined, self._day, net),
            cost_centre=ref_of(detail.class_ref),
            revenue_account=account_ref(self._joined, detail.item_account_ref),
            delivery_date=detail.service_date,
        )

    def _discount(self, line: shapes.Line, path: str) -> None:
        detail = line.discount_line_detail or shapes.DiscountDetail()
        booked = abs(sure_amount(line.amount, f"{path}.Amount"))
        if not booked:
            return
        percent = pct(detail.discount_percent, f"{path}.DiscountPercent") if detail.percent_based else None
        reason = clean(line.description)
        self.allowances.append(AllowanceCharge(type=ChargeType.DISCOUNT, reason=reason, pct=percent, amount=booked))

    def _group(self, line: shapes.Line, path: str) -> None:
        """A bundle: the heading carries no money, its parts do."""
        detail = line.group_line_detail or shapes.GroupDetail()
        product, sku, name = _product(self._joined.get(shapes.Item, "Item", detail.group_item_ref), line)
        count = quantity(detail.quantity, f"{path}.Quantity")
        heading = self._append(line, line_type=LineType.TEXT, product=product, sku=sku, name=name, quantity=count)
        self.add(detail.line, f"{path}.", heading.line_id)


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
