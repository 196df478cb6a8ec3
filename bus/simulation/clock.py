"""The simulator's clock: real, and movable."""

from datetime import UTC, datetime, timedelta


class SimClock:
    """Wall clock plus what was advanced; `freeze` stops it for tests."""

    def __init__(self, start: datetime | None = None) -> None:
        self._offset = timedelta() if start is None else start - datetime.now(UTC)
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """Aware, UTC."""
        return self._frozen if self._frozen is not None else datetime.now(UTC) + self._offset

    def advance(self, seconds: float) -> None:
        """Moves forward."""
        step = timedelta(seconds=seconds)
        if self._frozen is not None:
            self._frozen += step
        else:
            self._offset += step

    def set(self, moment: datetime) -> None:
        """Jumps to a moment, and goes on from there unless frozen."""
        if self._frozen is not None:
            self._frozen = moment
        else:
            self._offset = moment - datetime.now(UTC)

    def freeze(self, moment: datetime | None = None) -> None:
        """Stands still, moved by `advance` only."""
        self._frozen = moment or self.now()
