"""How long each cause is waited for, and how often: one table (law 10).

Waits are exponential with full jitter, so that what failed together is not tried together. A vendor's own word on when to come
back counts instead. What has an end becomes a dead letter when it is reached; what has none goes on by itself for ever.
"""

from typing import Literal, NamedTuple, TypeAlias

from bus.core.errors import CredentialError, RateLimited, StreamError, TransientError, WriteConflict
from bus.runtime.privacy import MissingSubjectKey
from bus.runtime.retry import wait_s
from schemas.system import Cause
from services.sinks.writing import Settle

Blame: TypeAlias = Literal["nothing", "record", "account"]
"""What a failed attempt speaks against: neither, the records of its flow, or the connection."""

HOUR_S = 3_600.0


class Patience(NamedTuple):
    """How a cause is waited for."""

    longest_s: float
    """Longest wait between two attempts, in seconds."""
    steady_s: float | None = None
    """Seconds between all attempts where waiting longer and longer makes no sense."""
    attempts_max: int | None = None
    """After so many attempts in a row that end this way the record is dead; None: never."""


TABLE: dict[Cause, Patience] = {
    # An outage or a login ends some day, and nothing is wrong with the record.
    Cause.CONNECTION_UNAVAILABLE: Patience(longest_s=900),
    Cause.CREDENTIAL: Patience(longest_s=30, steady_s=30),
    Cause.SUBJECT_KEY_MISSING: Patience(longest_s=60),
    Cause.BACKFILL_INCOMPLETE: Patience(longest_s=HOUR_S),
    # Each attempt reads and compares three times: who still collides after ten of them is no accident.
    Cause.WRITE_CONFLICT: Patience(longest_s=900, attempts_max=10),
    # A release that mends the bug is there within days, or a person must look: the letter keeps the bytes.
    Cause.BUG: Patience(longest_s=HOUR_S, steady_s=HOUR_S, attempts_max=72),
    # The end is the flow's own `patience`, counted from the first parking.
    Cause.MISSING_DEPENDENCY: Patience(longest_s=HOUR_S),
}
OTHERWISE = Patience(longest_s=HOUR_S)
"""Other causes that name what they wait for; the flow's `patience` ends them too."""


PARKED_BY: tuple[tuple[type[Exception], Cause, Blame], ...] = (
    (MissingSubjectKey, Cause.SUBJECT_KEY_MISSING, "nothing"),
    (RateLimited, Cause.CONNECTION_UNAVAILABLE, "nothing"),
    (Settle, Cause.CONNECTION_UNAVAILABLE, "nothing"),
    (TransientError, Cause.CONNECTION_UNAVAILABLE, "account"),
    (CredentialError, Cause.CREDENTIAL, "account"),
    (StreamError, Cause.CONNECTION_UNAVAILABLE, "record"),
    (WriteConflict, Cause.WRITE_CONFLICT, "nothing"),
)
"""Errors that park a record, the first that fits; a budget that is used up, or an end that cannot be told yet, is no outage."""


def parking_of(error: Exception) -> tuple[Cause, Blame] | None:
    """Why an error parks its record and whom it speaks against; None where it does not park it."""
    return next(((cause, blame) for kind, cause, blame in PARKED_BY if isinstance(error, kind)), None)


def next_wait_s(cause: Cause, attempts: int, asked_s: float | None = None) -> float | None:
    """Seconds until the next attempt after `attempts` in a row ended with a cause; None when patience is over.

    `asked_s` is the vendor's own word, or our budget's.
    """
    patience = TABLE.get(cause, OTHERWISE)
    if patience.attempts_max is not None and attempts >= patience.attempts_max:
        return None
    if asked_s is not None:
        return asked_s
    return patience.steady_s or wait_s(attempts, longest_s=patience.longest_s)
