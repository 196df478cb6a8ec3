"""The vendor's faults, by code, in its own envelope.

https://developer.intuit.com/app/developer/qbo/docs/develop/troubleshooting/error-codes
"""

from typing import Any

NAME_TAKEN = "Another customer, vendor or employee is already using this name. Please use a different name."
MADE_INACTIVE = "Something you're trying to use has been made inactive."


class Refused(Exception):
    """A fault of the vendor."""

    def __init__(
        self, code: str, message: str, detail: str, *, status: int = 400, kind: str = "ValidationFault", element: str = ""
    ) -> None:
        super().__init__(f"{code} {detail}")
        self.code, self.message, self.detail, self.status, self.kind, self.element = code, message, detail, status, kind, element

    def fault(self) -> dict[str, Any]:
        """The member `Fault`, capital letters as everywhere behind the gateway."""
        error = {"Message": self.message, "Detail": self.detail, "code": self.code, "element": self.element}
        return {"Error": [error], "type": self.kind}


def unsupported(operation: str) -> Refused:
    """A route or an operation there is none of."""
    return Refused("500", "Unsupported Operation", f"Operation {operation} is not supported.")


def unreadable(detail: str) -> Refused:
    """2010: a body that cannot be read."""
    return Refused("2010", "Request has invalid or unsupported property", detail)


def stale() -> Refused:
    """5010: the SyncToken is not the present one."""
    text = "Stale Object Error"
    who = "You and Simulated User were working on this at the same time. Simulated User finished before you did"
    return Refused("5010", text, f"{text} : {who}, so your work was not saved.")


def not_found(what: str, element: str = "") -> Refused:
    """610: missing, or inactive."""
    return Refused("610", "Object Not Found", f"Object Not Found : {MADE_INACTIVE} ({what})", element=element)


def missing(name: str) -> Refused:
    """2020: `name` is the path of the member."""
    message = "Required param missing, need to supply the required value for the API"
    return Refused("2020", message, f"Required parameter {name} is missing in the request", element=name.rpartition(".")[2])


def too_long(name: str, length_max: int, length: int) -> Refused:
    """2050."""
    message = "String length is either shorter or longer than supported by specification"
    return Refused("2050", message, f"Min:0 Max:{length_max} supported. Supplied length:{length}", element=name)


def bad_format(name: str, value: object) -> Refused:
    """2080."""
    return Refused("2080", "Invalid data type or format", f"Invalid value for {name} : {value}", element=name)


def bad_enumeration(name: str, value: object) -> Refused:
    """2170."""
    return Refused("2170", "Invalid Enumeration", f"Invalid Enumeration : {value} is no value of {name}", element=name)


def bad_reference(entity: str, value: str, element: str = "") -> Refused:
    """2500: the id never existed. The vendor groups lists under names of its own."""
    groups = {"Customer": "Names", "Vendor": "Names", "Employee": "Names", "Class": "Klasses", "Department": "Depts"}
    group = groups.get(entity, f"{entity}s")
    detail = f"Invalid Reference Id : {group} element id {value} not found"
    return Refused("2500", "Invalid Reference Id", detail, element=element)


def business(detail: str) -> Refused:
    """6000: free text."""
    message = "A business validation error has occurred while processing your request"
    return Refused("6000", message, f"Business Validation Error: {detail}")


def wrong_amount(supplied: object) -> Refused:
    """6070."""
    text = "Amount calculation incorrect in the request"
    return Refused("6070", text, f"{text} : Amount is not equal to UnitPrice * Qty. Supplied value:{supplied}")


def period_closed(date: str) -> Refused:
    """6210."""
    text = "Account Period Closed, Cannot Update Through Services API"
    return Refused("6210", text, f"The account period has closed and the account books cannot be updated: {date}.")


def duplicate_name(same_list_id: str | None) -> Refused:
    """6240: with the id only when the name stands in the same list."""
    where = NAME_TAKEN if same_list_id is None else f"Id={same_list_id}"
    return Refused("6240", "Duplicate Name Exists Error", f"The name supplied already exists. : {where}")


def duplicate_number(number: str, entity: str, object_id: str) -> Refused:
    """6140."""
    text = "Duplicate Document Number Error"
    where = f"DocNumber={number} is assigned to TxnType={entity} with TxnId={object_id}"
    return Refused("6140", text, f"{text} : You must specify a different number. This number has already been used. {where}")


def parser_error(detail: str) -> Refused:
    """4000: a statement that cannot be read."""
    return Refused("4000", "Error parsing query", f"QueryParserError: {detail}")


def query_error(detail: str) -> Refused:
    """4001: a statement that can be read and cannot be answered."""
    return Refused("4001", "Invalid query", f"QueryValidationError: {detail}")
