"""What QuickBooks says of VAT: a tax code and its rates, never a category. The account's source table gives the meaning. Pure."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

from bus.core.identity import clean
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.parts import Joined, amount, pct
from schemas.canon import TaxLine

ON_AMOUNT = (None, "TaxOnAmount")


def tax_of(ref: shapes.Reference | None, joined: Joined, day: date, base: Decimal | None) -> list[TaxLine]:
    """The tax of a line: `source_code` is the code's name, which the source table speaks of; the category stays UNKNOWN."""
    code = joined.get(shapes.TaxCode, "TaxCode", ref)
    if code is None:
        return []
    return [TaxLine(source_code=clean(code.name), rate_pct=rate_of(code, joined, day), base=base)]


def rate_of(code: shapes.TaxCode, joined: Joined, day: date) -> Decimal | None:
    """The code's whole rate on a day: its rates add up (a reverse charge is +21 and -21), unless one is a tax on tax."""
    details = rates_of(code)
    if not details or any(detail.tax_type_applicable not in ON_AMOUNT for detail in details):
        return None
    values = [_value_on(joined.get(shapes.TaxRate, "TaxRate", detail.tax_rate_ref), day) for detail in details]
    known = [value for value in values if value is not None]
    return pct(sum(known, Decimal(0)), "TaxRate.RateValue") if len(known) == len(values) else None


def rates_of(code: shapes.TaxCode) -> list[shapes.TaxRateDetail]:
    """The code's rates on sales."""
    return code.sales_tax_rate_list.tax_rate_detail if code.sales_tax_rate_list else []


def _value_on(rate: shapes.TaxRate | None, day: date) -> Decimal | None:
    if rate is None:
        return None
    for dated in rate.effective_tax_rate:
        begins, ends = (dated.effective_date or "")[:10], (dated.end_date or "")[:10]
        if (not begins or begins <= day.isoformat()) and (not ends or day.isoformat() <= ends):
            return dated.rate_value
    return rate.rate_value


def breakdown_of(detail: shapes.TxnTaxDetail | None, codes: Iterable[shapes.TaxCode]) -> list[TaxLine]:
    """VAT per rate as QuickBooks booked it. The code is named where the document uses only one with that rate."""
    by_rate: dict[str, set[str]] = {}
    for code in codes:
        for rate in rates_of(code):
            by_rate.setdefault(rate.tax_rate_ref.value, set()).add(code.name.strip())
    found = []
    for index, line in enumerate(detail.tax_line if detail else []):
        about = line.tax_line_detail or shapes.TaxLineDetail()
        names = by_rate.get(about.tax_rate_ref.value, set()) if about.tax_rate_ref else set()
        path = f"TxnTaxDetail.TaxLine[{index}]"
        found.append(
            TaxLine(
                source_code=next(iter(names)) if len(names) == 1 else None,
                rate_pct=pct(about.tax_percent, f"{path}.TaxPercent"),
                base=amount(about.net_amount_taxable, f"{path}.NetAmountTaxable"),
                amount=amount(line.amount, f"{path}.Amount"),
            )
        )
    return found
