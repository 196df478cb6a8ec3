"""Every failure the bus knows, grouped by what happens next.

    BusError
    ├── TransientError            wait `retry_after_s`, repeat (a write only after its intent is resolved)
    │   ├── RateLimited           the vendor said wait
    │   ├── Unavailable           the vendor answered 5xx without an envelope, or closed for maintenance
    │   └── NetworkFailure        no answer, half an answer, connection refused
    ├── CredentialError           this connection only
    │   ├── TokenExpired          wait for a newer grant, repeat once
    │   └── AccessRevoked         pause the connection, alert; others go on
    ├── RecordError               park or dead-letter this record; the rest go on
    │   ├── MappingError          a value cannot be read or written: names path, value, fix
    │   ├── WriteRejected         the vendor refused it for good, in its own words
    │   ├── WriteConflict         somebody changed the object: read again, compare, repeat
    │   ├── AmbiguousMatch        more than one candidate: a person decides
    │   ├── AmbiguousWrite        a write ended unclear and nothing can tell: a person decides
    │   ├── TotalsMismatch        the target's totals differ from the source's
    │   └── MissingDependency     waits for the objects it names
    ├── StreamError               stop this stream, alert; other streams go on
    │   ├── ApiChanged            an answer has not the promised shape
    │   ├── AccessDenied          scope, rights or licence
    │   ├── CursorInvalid         the vendor no longer knows the position: full read
    │   ├── PageLoop              a page token came twice
    │   └── PageUnmappable        most of a page cannot be mapped: nothing of it is taken
    └── FatalError                clear message, exit
        ├── SettingsError         exit 78
        ├── ManifestError         exit 78
        └── BrokerUnreachable     exit 1

Anything else is a bug of ours: within one record's own step it parks that record with cause BUG, elsewhere it ends the process
before an offset is committed. Library errors are translated at two edges only: `bus.kit.client` (HTTP) and
`bus.runtime.kafka` (Kafka, registry). No message carries personal data or a secret.
"""

from collections.abc import Sequence

from schemas.system import Cause


class BusError(Exception):
    """Root of the tree."""


class TransientError(BusError):
    """Goes away by itself."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(TransientError):
    """The vendor said wait; `retry_after_s` is its own word where it gave one."""


class Unavailable(TransientError):
    """The vendor is down. A write that met it may have happened."""


class NetworkFailure(TransientError):
    """No whole answer. A write that met it may have happened unless `sent` is false."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, sent: bool = True) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.sent = sent


class CredentialError(BusError):
    """The connection's credentials, never another's."""


class TokenExpired(CredentialError):
    """The access token is no longer taken."""


class AccessRevoked(CredentialError):
    """A person must log in again."""


class RecordError(BusError):
    """One record cannot go on; `hint` says what a person can do."""

    cause = Cause.UNKNOWN

    def __init__(self, message: str, *, hint: str = "", cause: Cause | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if cause is not None:
            self.cause = cause


class MappingError(RecordError):
    """A value cannot be read or written; the message names path, value and fix."""

    cause = Cause.MAPPING_ERROR


class WriteRejected(RecordError):
    """A definite refusal: the write did not happen.

    `regenerate` asks for one more try under the next generation, whose plan differs (a name suffix, say).
    """

    cause = Cause.WRITE_REJECTED

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        cause: Cause | None = None,
        code: str = "",
        existing_id: str | None = None,
        regenerate: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, cause=cause)
        self.code = code
        self.existing_id = existing_id
        self.regenerate = regenerate


class WriteConflict(RecordError):
    """The object changed since it was read; the write did not happen."""

    cause = Cause.WRITE_CONFLICT


class AmbiguousMatch(RecordError):
    """More than one candidate answers the match."""

    cause = Cause.AMBIGUOUS_MATCH

    def __init__(self, message: str, *, candidates: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class AmbiguousWrite(RecordError):
    """A write ended unclear and its idempotency class has no means to tell."""

    cause = Cause.AMBIGUOUS_WRITE


class TotalsMismatch(RecordError):
    """The target's totals differ from the source's by more than the limit."""

    cause = Cause.TOTALS_MISMATCH


class MissingDependency(RecordError):
    """Waits for objects; `missing` names them, such as `sku:AB-1`."""

    cause = Cause.MISSING_DEPENDENCY

    def __init__(self, message: str, *, missing: Sequence[str], hint: str = "", cause: Cause | None = None) -> None:
        super().__init__(message, hint=hint, cause=cause)
        self.missing = tuple(missing)


class StreamError(BusError):
    """One stream of one connection cannot go on."""


class ApiChanged(StreamError):
    """An answer has not the promised shape: HTML, half a body, a missing member."""


class AccessDenied(StreamError):
    """Scope, user rights or licence."""


class CursorInvalid(StreamError):
    """The vendor no longer knows the position; a full read is needed."""


class PageLoop(StreamError):
    """A page token came twice."""


class PageUnmappable(StreamError):
    """Most records of a page cannot be mapped: the fault is ours or the vendor's, not theirs."""


class FatalError(BusError):
    """The process cannot start or go on."""

    exit_code = 1


class SettingsError(FatalError):
    """A setting or document is wrong; the message names key, value and fix."""

    exit_code = 78


class ManifestError(FatalError):
    """A connector's manifest is wrong."""

    exit_code = 78


class BrokerUnreachable(FatalError):
    """Neither Kafka nor the registry answers."""
