"""The call log: what a simulator was asked, in order."""

import hashlib
from collections import Counter
from typing import Any


class CallLog:
    """Every vendor call with its answer's status; counts of versions served and of writes that succeeded."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.served: Counter[str] = Counter()
        self.written: Counter[str] = Counter()

    def add(
        self,
        *,
        method: str,
        path: str,
        query: str,
        status: int,
        write: bool,
        at: str,
        body: bytes,
        exceeded: bool,
        touched: str | None = None,
    ) -> None:
        """Logs one call. `touched` is the object it is about (`entity:id`), as far as its route said so; status 0 means the call
        was never handled.
        """
        self.calls.append(
            {
                "n": len(self.calls) + 1,
                "method": method,
                "path": path,
                "query": query,
                "status": status,
                "write": write,
                "object": touched,
                "at": at,
                "limit_exceeded": exceeded,
                "body_sha256": hashlib.sha256(body).hexdigest() if body else None,
            }
        )

    def serve(self, entity: str, versions: int = 1) -> None:
        """Versions of an entity were served to a reader."""
        self.served[entity] += versions

    def write(self, entity: str, verb: str) -> None:
        """A write succeeded (a replayed answer is none)."""
        self.written[f"{entity}.{verb}"] += 1

    def writes(self) -> list[dict[str, Any]]:
        """The write calls that the vendor took."""
        return [call for call in self.calls if call["write"] and 200 <= call["status"] < 300]

    def exceeded(self) -> list[dict[str, Any]]:
        """The calls that went over a declared limit."""
        return [call for call in self.calls if call["limit_exceeded"]]

    def since(self, number: int) -> dict[str, Any]:
        """Calls after a number."""
        return {"next": len(self.calls), "calls": self.calls[number:]}
