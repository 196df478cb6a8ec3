"""What stands before the company: the token endpoint's answers, faults of the gateway, throttling, JSON or XML.

https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0
"""

import base64
import binascii
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bus.simulation.tokens import Issued

LIFETIME_S = 3600
REFRESH_LIFETIME_S = 8_726_400
NAMESPACE = "http://schema.intuit.com/finance/v3"
XML_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
ENCODER = msgspec.json.Encoder(decimal_format="number")


def client_of(request: Request) -> tuple[str, str] | None:
    """Client id and secret from the Basic header; None where there is none."""
    scheme, _, coded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, separator, secret = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (client_id, secret) if separator else None


def token_answer(issued: Issued) -> Response:
    """A new pair of tokens."""
    return JSONResponse(
        {
            "token_type": "bearer",
            "access_token": issued.access_token,
            "expires_in": LIFETIME_S,
            "refresh_token": issued.refresh_token,
            "x_refresh_token_expires_in": REFRESH_LIFETIME_S,
        }
    )


def token_error(status: int, error: str, description: str | None = None) -> Response:
    """A refusal of the token endpoint."""
    return JSONResponse({"error": error, **({"error_description": description} if description else {})}, status_code=status)


def gateway_fault(status: int, code: str, name: str, detail: str, kind: str, now: datetime) -> Response:
    """A fault of the gateway: small letters, `time` in milliseconds since 1970."""
    message = f"message={name}; errorCode={code.zfill(6)}; statusCode={status}"
    error = {"message": message, "detail": detail, "code": code, "element": None}
    nothing = dict.fromkeys(("warnings", "intuitObject", "report", "queryResponse", "syncErrorResponse", "requestId", "status"))
    lists: dict[str, list[Any]] = {name: [] for name in ("batchItemResponse", "attachableResponse", "cdcresponse")}
    body = {**nothing, "fault": {"error": [error], "type": kind}, **lists, "time": int(now.timestamp() * 1000)}
    return JSONResponse(body, status_code=status)


def throttled(time: str) -> Response:
    """XML, whatever was asked for."""
    error = (
        '<Error code="3001"><Message>message=ThrottleExceeded; errorCode=003001; statusCode=429</Message>'
        "<Detail>The request limit was reached.  Try again later</Detail></Error>"
    )
    body = f'{XML_HEAD}<IntuitResponse time="{time}" xmlns="{NAMESPACE}"><Fault type="SERVICE">{error}</Fault></IntuitResponse>'
    return Response(body, status_code=429, media_type="application/xml")


def answer(request: Request, body: dict[str, Any], status: int = 200) -> Response:
    """JSON for those who ask for it, XML for the rest."""
    headers = {"intuit_tid": f"1-simulated-{id(request):x}", "QBO-Version": "1975.100"}
    if "application/json" in request.headers.get("accept", ""):
        return Response(ENCODER.encode(body), status_code=status, headers=headers, media_type="application/json")
    time = quoteattr(str(body.get("time", "")))
    inner = "".join(_xml(name, value) for name, value in body.items() if name != "time")
    document = f"{XML_HEAD}<IntuitResponse time={time} xmlns={quoteattr(NAMESPACE)}>{inner}</IntuitResponse>"
    return Response(document, status_code=status, headers=headers, media_type="application/xml")


def _xml(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join(_xml(name, item) for item in value)
    if isinstance(value, dict):
        value = "".join(_xml(member, item) for member, item in value.items())
        return f"<{name}>{value}</{name}>"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"<{name}>{escape(text)}</{name}>"
