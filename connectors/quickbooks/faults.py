"""What QuickBooks' error answers mean. By code only: the words are in the language of the company.

Codes: https://developer.intuit.com/app/developer/qbo/docs/develop/troubleshooting/handling-common-errors
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bus.core.clock import Clock
from bus.core.errors import (
    AccessDenied,
    AmbiguousWrite,
    ApiChanged,
    BusError,
    RateLimited,
    TokenExpired,
    Unavailable,
    WriteConflict,
    WriteRejected,
)
from bus.kit.classify import class_of, retry_after_s
from bus.kit.client import Answer
from bus.kit.manifest import Manifest

THROTTLED_WAIT_S = 60.0
"""https://developer.intuit.com/app/developer/qbo/docs/learn/limits-and-throttles"""
THROTTLED, TOKEN, NOT_FOUND, STALE, CLASHED, DUPLICATE_NAME, DUPLICATE_NUMBER = (
    "3001",
    "3200",
    "610",
    "5010",
    "600",
    "6240",
    "6140",
)

_TOKENS = frozenset({TOKEN})
_ACCESS = frozenset({"100", "120", "3100"})
_PASSING = frozenset({"500", "503", "10000"})
_HINTS: Mapping[str, str] = {
    NOT_FOUND: "something the object refers to is gone or inactive: make it active, or change the table that names it",
    "5020": "the company's subscription lacks this feature: switch it on, or take it out of the flow",
    "6000": "every line needs a tax code; otherwise read QuickBooks' own words",
    "6190": "the company's subscription is not active",
    "6210": "the books are closed for that date: open the period or book by hand; the bus never moves a date",
    DUPLICATE_NUMBER: "the number is taken: look at that document, then link it or change the flow's prefix",
}
_QUOTABLE = frozenset({"2020", "2500", "4000", "4001", "4002", "5010", "5020", "6000", "6070", "6100", "6190", "6210", "6540"})
"""Codes whose `Detail` names fields and ids only: elsewhere it may repeat names and addresses."""
_XML_CODE = re.compile(rb'<Error code="0*(\d+)"')


class Fault(msgspec.Struct, frozen=True):
    """The first error of an answer."""

    code: str
    kind: str = ""
    message: str = ""
    detail: str = ""
    element: str = ""


def fault_of(body: bytes) -> Fault | None:
    """The fault in a body, in any of the vendor's three shapes; None when there is none."""
    if match := _XML_CODE.search(body[:4096]):
        return Fault(match[1].decode(), kind="XML")
    if b'"Fault"' not in body and b'"fault"' not in body:
        return None
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return _fault_in(data) if isinstance(data, dict) else None


def _fault_in(data: dict[str, Any]) -> Fault | None:
    for uploaded in data.get("AttachableResponse") or ():
        if isinstance(uploaded, dict) and "Fault" in uploaded:
            return _fault_in(uploaded)
    fault = data.get("Fault") or data.get("fault")
    if not isinstance(fault, dict):
        return None
    errors = fault.get("Error") or fault.get("error") or [{}]
    first = {str(key).lower(): value for key, value in errors[0].items()}
    text = {key: str(first.get(key) or "") for key in ("code", "message", "detail", "element")}
    return Fault(text["code"].lstrip("0"), str(fault.get("type") or ""), text["message"], text["detail"], text["element"])


class Classifier:
    """Reads every answer: an error of `bus.core.errors`, or None for success."""

    def __init__(self, manifest: Manifest, clock: Clock) -> None:
        self._manifest = manifest
        self._clock = clock

    def __call__(self, answer: Answer) -> BusError | None:
        """The error of an answer. A fault inside a 200 is an error too."""
        fault = fault_of(answer.body)
        words = _words(answer, fault)
        if answer.status == 429 or (fault and fault.code == THROTTLED):
            return RateLimited(words, retry_after_s=retry_after_s(answer.headers, self._clock) or THROTTLED_WAIT_S)
        if answer.status == 401 or (fault and fault.code in _TOKENS):
            return TokenExpired(words)
        if fault is None or not fault.code:
            return self._by_status(answer, fault, words)
        if fault.code in _ACCESS:
            return AccessDenied(words)
        if fault.code in _PASSING or fault.kind == "SystemFault":
            return Unavailable(words)
        return _refused(answer, fault, words)

    def _by_status(self, answer: Answer, fault: Fault | None, words: str) -> BusError | None:
        if fault is not None and 200 <= answer.status < 300:
            return Unavailable(words) if answer.write else ApiChanged(words)
        kind = class_of(answer.status, write=answer.write, rows=self._manifest.errors)
        return None if kind is None else kind(words)


def _refused(answer: Answer, fault: Fault, words: str) -> BusError:
    hint = _HINTS.get(fault.code, "")
    if fault.code == STALE:
        return WriteConflict(words, hint="nothing to do: it is read again and compared")
    if fault.code == CLASHED:
        return AmbiguousWrite(words, hint="a write with this request id was made with other content: look for it in QuickBooks")
    if answer.write or fault.code == NOT_FOUND:
        holder = holder_of_number(fault) if fault.code == DUPLICATE_NUMBER else None
        return WriteRejected(words, hint=hint, code=fault.code, existing_id=holder)
    return AccessDenied(words) if fault.code == "5020" else ApiChanged(words)


def _words(answer: Answer, fault: Fault | None) -> str:
    """The vendor's own words as far as they cannot hold personal data, and its trace id for its support."""
    parts = [f"QuickBooks answered {answer.status} for {answer.path.rsplit('/', 1)[-1]}"]
    if fault and fault.code:
        parts.append(f"code {fault.code}")
        parts += [fault.detail or fault.message] if fault.code in _QUOTABLE else []
        parts += [f"element {fault.element}"] if fault.element else []
    if trace := answer.headers.get("intuit_tid"):
        parts.append(f"intuit_tid {trace}")
    return ": ".join(part for part in parts if part)


_TAKEN = re.compile(r"TxnType=(\w+) with TxnId=(\d+)")


def holder_of_number(fault: Fault) -> str | None:
    """Who has a document number already, as far as the fault names it: `Invoice:396`."""
    match = _TAKEN.search(fault.detail)
    return f"{match[1]}:{match[2]}" if match else None
