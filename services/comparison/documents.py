"""Two forms of one sale: do they say the same where it counts? Pure."""

from collections.abc import Collection
from decimal import Decimal

from bus.core.money import TOLERANCE
from schemas import canon
from services.comparison.fields import FieldDifference, shown
from services.sinks.settlement import vat_by_rate
from services.sinks.task import Document

ZERO = Decimal(0)


def document_differences(
    source: Document,
    target: Document,
    *,
    debtors: Collection[str] = (),
    reference: str | None = None,
    number: str | None = None,
    reads_reference: bool = False,
) -> list[FieldDifference]:
    """Total, VAT by rate, currency, debtor and reference, as far as both sides tell them.

    `debtors` are the ids at the target that the source's customer may have there; none: it is not compared. `number` is what the
    target answered to our write. `reads_reference`: the target holds references where they can be read back.
    """
    found = [*_totals(source, target), *_rates(source, target)]
    if source.currency != target.currency:
        found.append(FieldDifference(path="currency", source=source.currency, target=target.currency))
    debtor = debtor_of(target)
    if debtors and debtor is not None and debtor not in debtors:
        found.append(FieldDifference(path="customer", source=" or ".join(sorted(debtors)), target=debtor))
    if reference is not None and _is_renamed(reference, target, number, reads_reference):
        found.append(FieldDifference(path="reference", source=reference, target=target.customer_reference or target.number))
    return found


def debtor_of(document: Document) -> str | None:
    """Id of the customer a document stands under."""
    party = document.customer
    return party.customer.id if party is not None and party.customer is not None else None


def bears(document: Document, reference: str) -> bool:
    """Whether a document shows a reference."""
    return reference in (document.customer_reference, document.number)


def _totals(source: Document, target: Document) -> list[FieldDifference]:
    ours, theirs = (document.totals.incl if document.totals else None for document in (source, target))
    if ours is None or theirs is None or abs(ours - theirs) <= TOLERANCE:
        return []
    return [FieldDifference(path="totals.incl", source=_money(ours), target=_money(theirs))]


def _rates(source: Document, target: Document) -> list[FieldDifference]:
    """Only where both sides tell VAT by rate: what one does not tell, it does not deny."""
    ours, theirs = vat_by_rate(source), vat_by_rate(target)
    if not (ours and theirs):
        return []
    return [
        FieldDifference(path=f"vat.{rate}", source=_money(ours.get(rate, ZERO)), target=_money(theirs.get(rate, ZERO)))
        for rate in sorted(ours.keys() | theirs.keys())
        if abs(ours.get(rate, ZERO) - theirs.get(rate, ZERO)) > TOLERANCE
    ]


def _is_renamed(reference: str, target: Document, number: str | None, reads_reference: bool) -> bool:
    """A target that counts by itself and keeps references where nobody reads them back holds no other reference."""
    if bears(target, reference):
        return False
    return reads_reference or (number == reference and target.number != number)


def summary(document: Document, reference: str | None) -> list[FieldDifference]:
    """What a document that would be made is told by."""
    incl = document.totals.incl if document.totals is not None else None
    values = {
        "totals.incl": None if incl is None else _money(incl),
        "currency": document.currency,
        "reference": reference,
        "lines": str(len([line for line in document.lines if line.line_type is not canon.LineType.TEXT])),
    }
    return [FieldDifference(path=path, source=shown(value)) for path, value in values.items() if value is not None]


def _money(amount: Decimal) -> str:
    """At least cents, and no digits that say nothing: 121.0000 is 121.00."""
    text = f"{amount.normalize():f}"
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"
