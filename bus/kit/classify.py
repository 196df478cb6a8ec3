"""One table from a vendor's status to what the bus does next. Manifests state only the rows that differ."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from bus.core import errors
from bus.core.clock import Clock
from bus.core.errors import BusError, ManifestError

READ_TABLE: dict[int, str] = {
    400: "ApiChanged",
    401: "TokenExpired",
    403: "AccessDenied",
    404: "ApiChanged",
    405: "ApiChanged",
    406: "ApiChanged",
    408: "Unavailable",
    409: "ApiChanged",
    410: "CursorInvalid",
    413: "ApiChanged",
    422: "ApiChanged",
    425: "Unavailable",
    429: "RateLimited",
}
WRITE_TABLE: dict[int, str] = {
    **READ_TABLE,
    400: "WriteRejected",
    404: "WriteRejected",
    405: "WriteRejected",
    409: "WriteRejected",
    410: "WriteRejected",
    412: "WriteConflict",
    413: "WriteRejected",
    422: "WriteRejected",
}


def error_class(name: str) -> type[BusError]:
    """A class of the tree by its name. Raises ManifestError."""
    found = getattr(errors, name, None)
    if not (isinstance(found, type) and issubclass(found, BusError)):
        raise ManifestError(f"{name} is no error class of bus.core.errors")
    return found


def class_of(status: int, *, write: bool, rows: Mapping[str, str], code: str = "") -> type[BusError] | None:
    """The error class of a status and the vendor's own code; None for success.

    A manifest's row `status/code` wins over its row `status`, that over the table. 3xx and unknown 4xx are no promise any vendor
    made.
    """
    if 200 <= status < 300:
        return None
    if named := rows.get(f"{status}/{code}") or rows.get(str(status)):
        return error_class(named)
    table = WRITE_TABLE if write else READ_TABLE
    if status in table:
        return error_class(table[status])
    if status >= 500:
        return errors.Unavailable
    return errors.WriteRejected if write else errors.ApiChanged


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds of a Retry-After header, in either of its two forms. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after"""
    text = headers.get("retry-after")
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - clock.now()).total_seconds())
    except (ValueError, TypeError):
        return None


def build(kind: type[BusError], message: str, wait_s: float | None) -> BusError:
    """An error of a class, with the vendor's own wait where the class has one."""
    if issubclass(kind, errors.MissingDependency):
        return kind(message, missing=())
    if issubclass(kind, errors.TransientError):
        return kind(message, retry_after_s=wait_s)
    return kind(message)
