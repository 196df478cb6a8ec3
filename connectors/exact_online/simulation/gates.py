"""What stands before every call: the token endpoint's answers, call limits in the vendor's headers, the error budget."""

from collections import defaultdict, deque
from datetime import datetime, timedelta

from starlette.responses import JSONResponse, Response

from bus.simulation.limits import CallLimit
from bus.simulation.tokens import Issued, RefreshRefused, Refusal
from connectors.exact_online.simulation.state import Watch

ERRORS_MAX = 10
ERROR_WINDOW = timedelta(hours=1)
COUNTED = {400, 401, 403, 404}
TOO_EARLY = "Rate limit exceeded: access_token not expired"


class ErrorBudget:
    """More than ten counted answers within an hour for one endpoint block it for an hour, doubled each time."""

    def __init__(self, watch: Watch, *, enabled: bool) -> None:
        self._watch = watch
        self._enabled = enabled
        self._errors: dict[str, deque[datetime]] = defaultdict(deque)
        self._blocks: dict[str, int] = defaultdict(int)
        self._until: dict[str, datetime] = {}

    def is_blocked(self, endpoint: str) -> bool:
        """Whether calls to an endpoint are refused now."""
        until = self._until.get(endpoint)
        return self._enabled and until is not None and self._watch.now() < until

    def note(self, endpoint: str, status: int) -> None:
        """Counts an answer."""
        if status not in COUNTED or self.is_blocked(endpoint):
            return
        now, errors = self._watch.now(), self._errors[endpoint]
        errors.append(now)
        while errors and errors[0] <= now - ERROR_WINDOW:
            errors.popleft()
        if len(errors) > ERRORS_MAX:
            self._until[endpoint] = now + ERROR_WINDOW * 2 ** self._blocks[endpoint]
            self._blocks[endpoint] += 1
            errors.clear()


def limit_headers(limits: list[CallLimit]) -> dict[str, str]:
    """The trio of each limit; resets in epoch milliseconds."""
    headers = {}
    for limit in limits:
        prefix = "X-RateLimit-Minutely" if limit.name == "minute" else "X-RateLimit"
        headers[f"{prefix}-Limit"] = str(limit.calls)
        headers[f"{prefix}-Remaining"] = str(limit.remaining())
        if limit.resets_at is not None:
            headers[f"{prefix}-Reset"] = str(int(limit.resets_at.timestamp()) * 1000)
    return headers


def throttled(limit: CallLimit) -> Response:
    """429 with an empty body and only the headers of the limit that was hit."""
    return Response(status_code=429, headers=limit_headers([limit]))


def token_answer(issued: Issued, lifetime_s: int) -> Response:
    """A pair of tokens; the lifetime is a string."""
    body = {"access_token": issued.access_token, "token_type": "bearer", "expires_in": str(lifetime_s)}
    return JSONResponse({**body, "refresh_token": issued.refresh_token})


def token_error(status: int, error: str, description: str | None = None) -> Response:
    """A refusal of the token endpoint."""
    body = {"error": error} if description is None else {"error": error, "error_description": description}
    return JSONResponse(body, status_code=status)


def refresh_error(refused: RefreshRefused, now: datetime) -> Response:
    """What each refused refresh is answered with."""
    match refused.reason:
        case Refusal.TOO_EARLY:
            answer = token_error(400, "access_denied", TOO_EARLY)
            answer.headers["Reason"] = f"TooEarlyToRefreshTokens: {TOO_EARLY}"
            return answer
        case Refusal.REUSED:
            return token_error(401, "unauthorized_client", "Old refresh token used.")
        case Refusal.EXPIRED if refused.expired_at is not None:
            until, current = _american(refused.expired_at), _american(now)
            return token_error(400, "invalid_request", f"The refresh token expired at {until} and it is now {current}")
        case Refusal.REVOKED:
            return token_error(400, "invalid_grant", "Token is not allowed, because of invalid or empty chainId")
    return token_error(400, "invalid_request")


def _american(moment: datetime) -> str:
    hour = moment.hour % 12 or 12
    half = "PM" if moment.hour >= 12 else "AM"
    return f"{moment.month}/{moment.day}/{moment.year} {hour}:{moment:%M:%S} {half}"
