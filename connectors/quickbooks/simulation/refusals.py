"""The vendor's faults, by code.

https://developer.intuit.com/app/developer/qbo/docs/develop/troubleshooting/error-codes
"""

from typing import Any


class Refused(Exception):
    """A fault of the vendor."""

    def __init__(
        self, code: str, message: str, detail: str, *, status: int = 400, kind: str = "ValidationFault", element: str = ""
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.detail, self.status, self.kind, self.element = code, message, detail, status, kind, element

    def body(self, time: str) -> dict[str, Any]:
        """The envelope with capital letters."""
        error = {"Message": self.message, "Detail": self.detail, "code": self.code, "element": self.element}
        return {"Fault": {"Error": [error], "type": self.kind}, "time": time}


def stale() -> Refused:
    """5010."""
    return Refused(
        "5010", "Stale Object Error", "Stale Object Error : You and another user were working on this at the same time."
    )


def not_found(what: str) -> Refused:
    """610."""
    return Refused("610", "Object Not Found", f"Object Not Found : Something you're trying to use has been made inactive. {what}")


def missing(name: str) -> Refused:
    """2020."""
    message = "Required param missing, need to supply the required value for the API"
    return Refused("2020", message, f"Required parameter {name} is missing in the request", element=name)


def too_long(name: str, most: int) -> Refused:
    """2050."""
    return Refused(
        "2050", "String length is either shorter or longer than supported by specification", f"{name} : Max:{most}", element=name
    )


def bad_reference(what: str, value: str) -> Refused:
    """2500."""
    return Refused("2500", "Invalid Reference Id", f"Invalid Reference Id : {what} element id {value} not found")


def business(detail: str) -> Refused:
    """6000."""
    return Refused(
        "6000", "A business validation error has occurred while processing your request", f"Business Validation Error: {detail}"
    )


def duplicate_name(row: dict[str, Any] | None) -> Refused:
    """6240: with the id when the name stands in the same list."""
    where = (
        f"Id={row['Id']}"
        if row
        else "Another customer, vendor or employee is already using this name. Please use a different name."
    )
    return Refused("6240", "Duplicate Name Exists Error", f"The name supplied already exists. : {where}")


def duplicate_number(number: str, kind: str, object_id: str) -> Refused:
    """6140."""
    text = "Duplicate Document Number Error"
    detail = (
        f"{text} : You must specify a different number. DocNumber={number} is assigned to TxnType={kind} with TxnId={object_id}"
    )
    return Refused("6140", text, detail)


def query_error(detail: str, *, parse: bool = False) -> Refused:
    """4000 or 4001."""
    if parse:
        return Refused("4000", "Error parsing query", f"QueryParserError: {detail}")
    return Refused("4001", "Invalid query", f"QueryValidationError: {detail}")
