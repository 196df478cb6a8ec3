"""What the source's tax codes mean: the account's own table gives category, country, rate and scheme (law 16: unknown stops)."""

from collections.abc import Iterator
from typing import TypeAlias, TypeVar

import msgspec

from bus.core.errors import MappingError
from bus.core.money import EXACT, rounded
from bus.core.tables import LookupTable, Row
from schemas import canon
from schemas.canon import TaxCategory, TaxLine, TaxScheme
from schemas.system import Cause

Document: TypeAlias = canon.SalesOrder | canon.SalesInvoice
_Owner = TypeVar("_Owner", canon.Line, canon.AllowanceCharge)

KEY = "tax_code"
_DOMESTIC = frozenset({TaxCategory.S, TaxCategory.Z, TaxCategory.E})


def classify(document: Document, table: LookupTable) -> tuple[Document, MappingError | None]:
    """The document with its VAT classified, and the first code the table does not know (its lines stay as they were).

    The error is given back and not raised, because a document that no filter lets through needs no table row.
    """
    wrong: list[MappingError] = []

    def lines(taxes: list[TaxLine]) -> list[TaxLine]:
        return [_classified(tax, table, wrong) for tax in taxes]

    def owners(items: list[_Owner]) -> list[_Owner]:
        return [msgspec.structs.replace(item, taxes=lines(item.taxes)) if item.taxes else item for item in items]

    changed = msgspec.structs.replace(
        document,
        lines=[
            msgspec.structs.replace(line, allowances=owners(line.allowances)) if line.allowances else line
            for line in owners(document.lines)
        ],
        charges=owners(document.charges),
        allowances=owners(document.allowances),
        vat_breakdown=lines(document.vat_breakdown),
    )
    return changed, (wrong[0] if wrong else None)


def _classified(tax: TaxLine, table: LookupTable, wrong: list[MappingError]) -> TaxLine:
    if tax.source_code is None:
        return tax
    row = table.find({KEY: tax.source_code})
    if row is None:
        wrong.append(table.missing({KEY: tax.source_code}))
        return tax
    try:
        return _apply(tax, row)
    except MappingError as error:
        wrong.append(error)
        return tax


def _apply(tax: TaxLine, row: Row) -> TaxLine:
    category = TaxCategory(str(row.columns["category"]))
    scheme, rate, country = row.columns.get("scheme"), row.columns.get("rate_pct"), row.columns.get("country")
    rate_pct = tax.rate_pct if rate is None else EXACT.create_decimal(str(rate))
    if category is TaxCategory.S and tax.rate_pct is not None and rate_pct is not None and tax.rate_pct != rate_pct:
        raise MappingError(
            f"tax code {tax.source_code} is {rounded(tax.rate_pct)} % at the source but {rate_pct} % in table {row.table}",
            hint=f"mend the row {KEY}={tax.source_code} of table {row.table}, or the code at the source",
            cause=Cause.SOURCE_INCONSISTENT,
        )
    return msgspec.structs.replace(
        tax,
        category=category,
        country=tax.country if country is None else str(country),
        rate_pct=rate_pct,
        scheme=TaxScheme(str(scheme)) if scheme else _plain_scheme(category),
    )


def _plain_scheme(category: TaxCategory) -> TaxScheme:
    """A row without a scheme is an ordinary sale in the country it names, or none of the special schemes."""
    return TaxScheme.DOMESTIC if category in _DOMESTIC else TaxScheme.NONE


def places(document: Document) -> Iterator[tuple[str, canon.Line | canon.AllowanceCharge]]:
    """Everything of a document that carries VAT, by the line id that values are set under."""
    for line in document.lines:
        yield line.line_id, line
    for index, charge in enumerate(document.charges):
        yield f"charge:{index}", charge
    for index, allowance in enumerate(document.allowances):
        yield f"allowance:{index}", allowance
