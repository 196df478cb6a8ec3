"""JSON logs, one object per line, from which secrets and anything that looks like an e-mail address are taken out.

Redaction works on the finished line, so that no way into it (arguments, extras, tracebacks) goes around it.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

SECRET = "***"  # noqa: S105 - what stands in its place
EMAIL = "<e-mail>"
LINE_CHARS_MAX = 16_384
SECRET_CHARS_MIN = 6
"""Shorter values are no secrets and would blank out half of every line."""

_EMAIL = re.compile(r"[^\s\"'<>(),;:=\[\]{}\\|]+@[^\s\"'<>(),;:=\[\]{}\\|@]+\.[^\s\"'<>(),;:=\[\]{}\\|@.]{2,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_PARAMETER = re.compile(
    r"(?i)\b((?:access|refresh|id)_token|client_secret|password|code|authorization)(\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s&\"'\\,}]{6,}"
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_values: set[str] = set()


def redact_value(secret: SecretStr | str) -> None:
    """From now on this value is taken out of every line, in plain and JSON-escaped form."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if len(text) >= SECRET_CHARS_MIN:
        _values.add(text)
        _values.add(json.dumps(text, ensure_ascii=False)[1:-1])


def redacted(text: str) -> str:
    """A text without known secrets, credentials in headers or parameters, and e-mail addresses."""
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, SECRET)
    text = _BEARER.sub(rf"\1 {SECRET}", text)
    text = _PARAMETER.sub(rf"\1\2{SECRET}", text)
    return _EMAIL.sub(EMAIL, text)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, service, message, extras, traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage()[:LINE_CHARS_MAX],
        }
        entry |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)[-LINE_CHARS_MAX:]
        line = json.dumps(entry, ensure_ascii=False, default=str)
        return redacted(line)


def configure(service: str, level: str = "INFO") -> None:
    """Sends all logging of the process to stderr as JSON. Calling it again replaces the earlier set-up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "asyncio", "aiokafka"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
