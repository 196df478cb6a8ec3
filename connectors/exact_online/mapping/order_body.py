"""Canonical orders and invoices → the lines and charges of a sales order. Pure.

A document discount is spread over the lines and goes into their prices, because Exact's header discount is in division currency
and has no VAT of its own. Under a VAT code of type I a price holds VAT, and so does its part of the discount.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import MappingError
from bus.core.identity import clean
from bus.core.money import EXACT, allot, rounded
from connectors.exact_online.mapping.values import INCLUDING
from schemas import canon
from schemas.canon import ChargeType
from schemas.system import Cause, Resolved

ZERO = Decimal(0)
TEXT_MAX = 60
PRICE_DECIMALS = (Decimal("0.01"), Decimal("0.0001"), Decimal("0.000001"), Decimal("0.00000001"))
ORDER_CHARGE = "ORDER_CHARGE"
"""Stands for a product where a charge becomes an order charge of its own."""

Document = canon.SalesOrder | canon.SalesInvoice
Body = dict[str, Any]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What lines are made of besides the document."""

    ids: Mapping[str, str]
    resolved: Sequence[Resolved]
    vat_types: Mapping[str, str | None] | None = None
    """Type by VAT code of the division; None while it is not asked (a plan makes no call): then the flow's table says it."""
    charges: Mapping[str, str] = {}
    """Code of the order charge by type of charge."""


class _Part(msgspec.Struct, kw_only=True):
    """What becomes one order line, or one order charge."""

    role: str
    excl: Decimal | None
    incl: Decimal | None
    is_gross: bool
    quantity: Decimal
    vat: str | None
    text: str | None
    tax: str | None
    """The source's tax code, by which its totals per rate are known."""
    kind: ChargeType = ChargeType.UNKNOWN

    @property
    def value(self) -> Decimal:
        """The amount in the mode its VAT code wants. Raises MappingError."""
        found = self.incl if self.is_gross else self.excl
        if found is None:
            raise MappingError(
                f"{self.role} has no amount {'with' if self.is_gross else 'without'} VAT",
                hint="choose a VAT code of the other kind in the table, or give the source line an amount",
            )
        return found


def order_parts(document: Document, asked: Asked) -> tuple[list[Body], list[Body]]:
    """Order lines and order charges. Raises MappingError."""
    parts = _parts(document, asked)
    nets = [part.value - share for part, share in zip(parts, _shares(document, parts), strict=True)]
    lines = [_line(part, net, asked) for part, net in zip(parts, nets, strict=True) if not _is_charge(part, asked)]
    charges = [_charge(part, net, asked) for part, net in zip(parts, nets, strict=True) if _is_charge(part, asked)]
    return lines, charges


def _is_charge(part: _Part, asked: Asked) -> bool:
    return asked.ids[f"product:{part.role}"] == ORDER_CHARGE


# --- parts ---------------------------------------------------------------------------------------------------------------------


def _parts(document: Document, asked: Asked) -> list[_Part]:
    """Lines with a product, then charges."""
    values = {item.line_id: item for item in asked.resolved if item.name == "vat_code" and item.line_id is not None}
    parts = []
    for line in document.lines:
        if f"product:{line.line_id}" not in asked.ids:
            continue
        excl, incl = _both(line.line_excl, line.line_incl, line.taxes)
        part = _Part(
            role=line.line_id,
            excl=excl,
            incl=incl,
            is_gross=_wants_gross(line.line_id, values, asked),
            quantity=line.quantity or Decimal(1),
            vat=_vat_code(line.line_id, values),
            text=line.name,
            tax=_tax_code(line.taxes),
            kind=ChargeType.SHIPPING if line.line_type is canon.LineType.SHIPPING else ChargeType.OTHER,
        )
        parts.append(part)
    for index, charge in enumerate(document.charges):
        role = f"charge:{index}"
        excl, incl = _both(charge.amount, None, charge.taxes)
        part = _Part(
            role=role,
            excl=excl,
            incl=incl,
            is_gross=_wants_gross(role, values, asked),
            quantity=Decimal(1),
            vat=_vat_code(role, values),
            text=charge.reason,
            tax=_tax_code(charge.taxes),
            kind=charge.type,
        )
        parts.append(part)
    return parts


def _both(excl: Decimal | None, incl: Decimal | None, taxes: list[canon.TaxLine]) -> tuple[Decimal | None, Decimal | None]:
    """Both amounts of a part, each from the other and the VAT the source states."""
    amounts = [tax.amount for tax in taxes]
    vat = sum((amount for amount in amounts if amount is not None), ZERO) if None not in amounts else None
    if vat is not None:
        excl = incl - vat if excl is None and incl is not None else excl
        incl = excl + vat if incl is None and excl is not None else incl
    return excl, incl


def _tax_code(taxes: list[canon.TaxLine]) -> str | None:
    return taxes[0].source_code if taxes else None


def _code(role: str, values: Mapping[str, Resolved]) -> str | None:
    return clean(values[role].value) if role in values else None


def _vat_code(role: str, values: Mapping[str, Resolved]) -> str:
    """Raises MappingError without one: Exact would book a default of its own."""
    found = _code(role, values)
    if found is None:
        raise MappingError(f"{role} has no VAT code", hint="add vat_code under `set` of the flow")
    return found


def _wants_gross(role: str, values: Mapping[str, Resolved], asked: Asked) -> bool:
    """Whether the price under the resolved VAT code holds VAT. Raises MappingError for a code the division does not have."""
    if asked.ids[f"product:{role}"] == ORDER_CHARGE or role not in values:
        return False  # an order charge states its amount without VAT whatever its code
    name = _code(role, values)
    if asked.vat_types is None or name is None:
        return values[role].extra.get("price_mode") == "INCL"
    if name not in asked.vat_types:
        raise MappingError(
            f"VAT code {name!r} does not exist in the division",
            hint="correct the flow's table for vat_code, or make the code in Exact",
            cause=Cause.UNKNOWN_VALUE,
        )
    return asked.vat_types[name] == INCLUDING


# --- discount ------------------------------------------------------------------------------------------------------------------


def _shares(document: Document, parts: list[_Part]) -> list[Decimal]:
    """The part of the document discount that each line bears, in the mode of its price.

    The source's totals per tax code say how much of it each code bears (its lines less its base); within a code, and where
    they do not say, it goes by amount.
    """
    discount = sum((allowance.amount for allowance in document.allowances), ZERO)
    if not discount or not parts:
        return [ZERO] * len(parts)
    return _by_totals(document, parts, discount) or _by_amount(parts, discount)


def _by_totals(document: Document, parts: list[_Part], discount: Decimal) -> list[Decimal] | None:
    """Shares by the source's totals; None where those do not explain the whole discount."""
    goals = {tax.source_code: tax for tax in document.vat_breakdown if tax.source_code and tax.base is not None}
    shares: dict[int, Decimal] = {}
    explained = ZERO
    for tax in dict.fromkeys(part.tax for part in parts):
        places = [index for index, part in enumerate(parts) if part.tax == tax]
        goal = goals.get(tax or "")
        excls = [parts[index].excl for index in places]
        if goal is None or goal.base is None or None in excls or len({parts[index].is_gross for index in places}) > 1:
            return None
        borne = sum((excl for excl in excls if excl is not None), ZERO) - goal.base
        explained += borne
        if parts[places[0]].is_gross:
            if goal.amount is None:
                return None
            borne = sum((parts[index].value for index in places), ZERO) - goal.base - goal.amount
        weights = _weights([parts[index] for index in places], [parts[index].value for index in places])
        shares |= dict(zip(places, allot(borne, weights) if any(weights) else weights, strict=True))
    return [shares[index] for index in range(len(parts))] if explained == discount else None


def _by_amount(parts: list[_Part], discount: Decimal) -> list[Decimal]:
    """Shares by amount; under an including code a share is raised by the VAT of its line."""
    amounts = [part.excl for part in parts if part.excl is not None]
    if len(amounts) < len(parts) or not any(amounts):
        raise MappingError(
            f"a discount of {discount} cannot be spread: lines without amounts", hint="give the source's lines their amounts"
        )
    shares = allot(discount, _weights(parts, amounts))
    return [
        rounded(EXACT.divide(share * part.value, part.excl)) if part.is_gross and part.excl else share
        for part, share in zip(parts, shares, strict=True)
    ]


def _weights(parts: list[_Part], amounts: list[Decimal]) -> list[Decimal]:
    """By amount; charges bear nothing while there are goods to bear it."""
    goods = [ZERO if part.role.startswith("charge:") else abs(amount) for part, amount in zip(parts, amounts, strict=True)]
    return goods if any(goods) else [abs(amount) for amount in amounts]


# --- bodies --------------------------------------------------------------------------------------------------------------------


def _line(part: _Part, net: Decimal, asked: Asked) -> Body:
    body: Body = {
        "Item": asked.ids[f"product:{part.role}"],
        "Quantity": part.quantity,
        "NetPrice": unit_price(net, part.quantity),
        "VATCode": part.vat,
        "Description": (clean(part.text) or "")[:TEXT_MAX] or None,
    }
    return _filled(body)


def _charge(part: _Part, net: Decimal, asked: Asked) -> Body:
    """An order charge; `OrderCharge` holds the code until the writer knows its id."""
    if (name := asked.charges.get(str(part.kind))) is None:
        raise MappingError(
            f"a charge of type {part.kind} has no order charge", hint=f"name one in config.order_charges: {{{part.kind}: …}}"
        )
    is_shipping = part.kind is ChargeType.SHIPPING
    return _filled({"OrderCharge": name, "IsShippingCost": is_shipping, "AmountFCExclVAT": rounded(net), "VATCode": part.vat})


def _filled(body: Body) -> Body:
    return {key: value for key, value in body.items() if value is not None}


def unit_price(net: Decimal, quantity: Decimal) -> Decimal:
    """The shortest price that gives the line's amount back to the cent."""
    exact = EXACT.divide(net, quantity)
    for step in PRICE_DECIMALS:
        price = rounded(exact, step)
        if rounded(price * quantity) == rounded(net):
            return price.normalize() + 0
    raise MappingError(f"no price with 8 decimals gives {net} for {quantity} pieces", hint="split the line at the source")
