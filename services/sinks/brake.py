"""The brake (law 10): when to stop writing to an account or for a flow, when to probe, when to go on. Pure: no clock, no log.

Two scopes. A flow's brake counts records that cannot go on (refused, unmappable, a bug): a release that breaks its records must
not empty a topic into the dead letters. An account's brake counts calls that found nobody: an outage must not cost one call per
parked object. While a brake is open commands are parked without a call; one at a time is let through as a probe when it is due.

Outcomes are counted per source object, so that one bad record, tried however often, is one.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

import msgspec

from schemas.system import BrakeRecord, Cause, ObjectRef


class Rule(NamedTuple):
    """When a scope's brake opens and how it probes."""

    run_max: int
    """Objects that fail one after another."""
    window: int
    """Newest objects that are looked at."""
    window_min: int | None
    """With so many objects in the window, half of them failing is enough; None: only a run counts."""
    probe_first_s: float
    probe_longest_s: float


FLOW = Rule(run_max=10, window=40, window_min=20, probe_first_s=60, probe_longest_s=3_600)
ACCOUNT = Rule(run_max=10, window=40, window_min=None, probe_first_s=10, probe_longest_s=300)
WHOLE_ACCOUNT = ""
"""The flow name of the account's own brake."""


class Verdict(Enum):
    """What one end says about a scope."""

    GOOD = "good"
    BAD = "bad"
    NEITHER = "neither"
    """It was not put to the test: it waits for another object, nothing had to be written, or the other scope failed."""


class Said(NamedTuple):
    """What the end of one command says."""

    flow: Verdict
    account: Verdict
    cause: Cause | None = None
    detail: str = ""
    wait_s: float | None = None
    """How long the vendor, or our budget for it, wants to be left alone."""


class Brake:
    """One scope."""

    def __init__(self, rule: Rule, record: BrakeRecord) -> None:
        self.record = record
        self._rule = rule
        self._recent: dict[ObjectRef, bool] = {}
        self._probing = False

    @property
    def cause(self) -> Cause:
        """Why commands are parked while it is open."""
        known = (self.record.reason or "").partition(":")[0]
        is_told = not self.record.flow and not self.record.by_hand and known in Cause.__members__
        return Cause(known) if is_told else Cause.BRAKE_OPEN

    def is_due(self, now: datetime) -> bool:
        """Whether a probe may pass. What a person closed opens no door by itself."""
        record = self.record
        due = record.probe_at is not None and now >= record.probe_at
        return record.open and not record.by_hand and not self._probing and due

    def holds(self, now: datetime) -> bool:
        """Whether a command must stay outside."""
        return self.record.open and not self.is_due(now)

    def begin_probe(self) -> None:
        """The next command is the probe."""
        self._probing = True

    def judge(self, source: ObjectRef, verdict: Verdict, said: Said, now: datetime, *, is_probe: bool) -> None:
        """Counts an end; opens, closes or stays. A probe that was not put to the test lets the next one pass at once, unless
        the vendor wants to be left alone."""
        if is_probe:
            self._probing = False
        if not self.record.open:
            self._count(source, verdict, said, now)
        elif is_probe and verdict is Verdict.GOOD:
            self.close()
        elif is_probe and verdict is Verdict.BAD:
            wait_s = min(self._rule.probe_first_s * 2 ** (self.record.probes + 1), self._rule.probe_longest_s)
            self._wait(now, max(wait_s, said.wait_s or 0), self.record.probes + 1)
        elif is_probe and said.wait_s:
            self._wait(now, said.wait_s, self.record.probes)

    def open(self, now: datetime, reason: str, *, by_hand: bool = False) -> None:
        """Stops this scope."""
        self._recent.clear()
        self.record = BrakeRecord(
            flow=self.record.flow,
            open=True,
            by_hand=by_hand,
            reason=reason,
            opened_at=now,
            probe_at=None if by_hand else now + timedelta(seconds=self._rule.probe_first_s),
        )

    def close(self) -> None:
        """Goes on; counting begins anew."""
        self._recent.clear()
        self.record = BrakeRecord(flow=self.record.flow, open=False)

    def _wait(self, now: datetime, wait_s: float, probes: int) -> None:
        self.record = msgspec.structs.replace(self.record, probes=probes, probe_at=now + timedelta(seconds=wait_s))

    def _count(self, source: ObjectRef, verdict: Verdict, said: Said, now: datetime) -> None:
        if verdict is Verdict.NEITHER:
            return
        self._recent.pop(source, None)
        self._recent[source] = verdict is Verdict.BAD
        while len(self._recent) > self._rule.window:
            del self._recent[next(iter(self._recent))]
        if verdict is Verdict.BAD and (why := self._too_bad()) is not None:
            cause = said.cause or Cause.UNKNOWN
            self.open(now, f"{cause}: {why}; the last: {said.detail}")

    def _too_bad(self) -> str | None:
        run, bad = 0, sum(self._recent.values())
        for failed in reversed(self._recent.values()):
            if not failed:
                break
            run += 1
        if run >= self._rule.run_max:
            return f"{run} objects failed one after another"
        enough = self._rule.window_min is not None and len(self._recent) >= self._rule.window_min
        return f"{bad} of the last {len(self._recent)} objects failed" if enough and 2 * bad >= len(self._recent) else None


class Passage(NamedTuple):
    """How a command came past the brakes, or which of them holds it."""

    held_by: Brake | None = None
    probes: tuple[Brake, ...] = ()


class Brakes:
    """All brakes of one account."""

    def __init__(self, records: Mapping[str, BrakeRecord]) -> None:
        self.account = Brake(ACCOUNT, records.get(WHOLE_ACCOUNT) or BrakeRecord(flow=WHOLE_ACCOUNT, open=False))
        self._flows = {flow: Brake(FLOW, record) for flow, record in records.items() if flow != WHOLE_ACCOUNT}

    def of(self, flow: str) -> Brake:
        """The brake of a flow, or with an empty name the account's own."""
        if flow == WHOLE_ACCOUNT:
            return self.account
        if flow not in self._flows:
            self._flows[flow] = Brake(FLOW, BrakeRecord(flow=flow, open=False))
        return self._flows[flow]

    def enter(self, flow: str, now: datetime) -> Passage:
        """Lets a command pass or holds it. A command that passes an open brake is its probe; `judge` must hear of its end."""
        scopes = (self.account, self.of(flow))
        for brake in scopes:
            if brake.holds(now):
                return Passage(held_by=brake)
        probes = tuple(brake for brake in scopes if brake.record.open)
        for brake in probes:
            brake.begin_probe()
        return Passage(probes=probes)

    def judge(self, flow: str, source: ObjectRef, said: Said, passage: Passage, now: datetime) -> Brake | None:
        """Counts the end of a command. Returns the brake that must hold it all the same: one that is open and that it failed."""
        held_by = None
        for brake, verdict in ((self.account, said.account), (self.of(flow), said.flow)):
            was_open = brake.record.open
            brake.judge(source, verdict, said, now, is_probe=brake in passage.probes)
            if verdict is Verdict.BAD and brake.record.open and (was_open or brake is self.account):
                held_by = held_by or brake
        return held_by

    def records(self) -> Iterator[BrakeRecord]:
        """What every brake stands at."""
        yield self.account.record
        for brake in self._flows.values():
            yield brake.record
