"""What the simulated division says when it refuses, in the vendor's shapes."""

from typing import Any

FIELD_NAMES = {
    "Account": "Relatie",
    "Code": "Code",
    "Currency": "Valuta",
    "Description": "Omschrijving",
    "Item": "Artikel",
    "Name": "Naam",
    "OrderCharge": "Orderkosten",
    "OrderedBy": "Besteld door",
    "PaymentCondition": "Betalingsconditie",
    "PaymentConditionSales": "Betalingsconditie",
    "SalesOrderLines": "Verkooporderregels",
    "SalesVATCode": "Btw-code",
    "SalesVatCode": "Btw-code",
    "Unit": "Eenheid",
    "VATCode": "Btw-code",
    "VATNumber": "Btw-nummer",
}


class Refused(Exception):
    """A refusal with its status, the text in the envelope (None: empty body) and the `Reason` header."""

    def __init__(self, status: int, text: str | None, reason: str | None = None) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text
        self.reason = reason

    def body(self) -> dict[str, Any] | None:
        """The error envelope: `code` is always empty, the text stands in the language of the consenting user."""
        if self.text is None:
            return None
        return {"error": {"code": "", "message": {"lang": "", "value": self.text}}}


def bad_request(text: str) -> Refused:
    """400: the call itself is wrong."""
    return Refused(400, text)


def validation(text: str) -> Refused:
    """500 with an envelope: a business rule refuses."""
    return Refused(500, text)


def forbidden(text: str, reason: str | None = None) -> Refused:
    """403: rights, licence, division, or a set that is never written."""
    return Refused(403, text, reason)


def not_found(segment: str) -> Refused:
    """404: no such set or key."""
    return Refused(404, f"Resource not found for the segment '{segment}'.")


def mandatory(field: str) -> Refused:
    """A field that must be filled is not."""
    return validation(f"Verplicht: {FIELD_NAMES.get(field, field)}")


def invalid(field: str) -> Refused:
    """A field holds what it cannot."""
    return validation(f"Ongeldig: {FIELD_NAMES.get(field, field)}")


def duplicate() -> Refused:
    """A key that exists already."""
    return validation("Gegeven bestaat reeds.")


def conversion(field: str, type_name: str) -> Refused:
    """A value that is not of the property's type."""
    return bad_request(
        "Error processing request stream. Error encountered in converting the value from request payload "
        f"for property '{field}' to type '{type_name}'."
    )
