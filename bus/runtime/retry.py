"""How long to wait before the next attempt. The arithmetic is tenacity's."""

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_random_exponential

FIRST_S = 2.0
LONGEST_S = 900.0


def wait_s(attempt: int, *, longest_s: float = LONGEST_S) -> float:
    """Seconds before the next attempt: exponential with full jitter, at least a second, at most `longest_s`."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = max(1, attempt)
    return max(1.0, wait_random_exponential(multiplier=FIRST_S, max=longest_s)(state))
