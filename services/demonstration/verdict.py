"""The verdict: do the two simulators' books agree, by their own words? Pure.

Our counters are not asked. What an example expects is stated beside it in `expected.toml`: which documents of which system must
stand at which other one, exactly once, equal in total and per VAT rate.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from bus.core.money import TOLERANCE

PROBLEMS_SHOWN_MAX = 20


class Expectation(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """Documents of one connection that must stand at another."""

    flow: str
    source: str
    target: str
    kinds: Mapping[str, Sequence[str]]
    """Kind at the source → kinds it may have at the target."""
    where: Mapping[str, Sequence[str]] = {}
    """Members of the source document and the values one of which they must have."""
    unless_reference: Sequence[str] = ()
    """Prefixes of references by which a source document is known as the bus's own."""
    reference: str
    """Reference at the target, with `{id}`, `{kind}` and `{number}` of the source document."""
    dated_from_start: bool = True


class Finding(msgspec.Struct, kw_only=True):
    """What one expectation came to."""

    flow: str
    expected: int = 0
    found: int = 0
    missing: list[str] = []
    twice: list[str] = []
    unequal: list[str] = []
    unexpected: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether nothing is missing, doubled, unequal or too much."""
        return not (self.missing or self.twice or self.unequal or self.unexpected)


def read_expectations(path: Path) -> list[Expectation]:
    """The expectations of an example."""
    return msgspec.convert(tomllib.loads(path.read_text())["expected"], list[Expectation])


def check_documents(
    expectation: Expectation, source: Mapping[str, Any], target: Mapping[str, Any], start: str, allowed: Mapping[str, str]
) -> Finding:
    """Each expected document exactly once at the target, equal per VAT rate.

    `allowed` names source documents that are rightly not there (waiting, set aside), with the reason.
    """
    finding = Finding(flow=expectation.flow)
    kinds = {kind for kinds in expectation.kinds.values() for kind in kinds}
    by_reference: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for document in target["documents"]:
        if document["kind"] in kinds and document["reference"]:
            by_reference[document["reference"]].append(document)
    wanted: dict[str, Mapping[str, Any]] = {}
    for document in source["documents"]:
        if _is_expected(expectation, document, start):
            wanted[expectation.reference.format(**document)] = document
    finding.expected = len(wanted)
    for reference, document in wanted.items():
        there = by_reference.get(reference, [])
        finding.found += bool(there)
        if not there and document["id"] not in allowed:
            finding.missing.append(reference)
        elif len(there) > 1:
            finding.twice.append(reference)
        elif there and (difference := _difference(document, there[0])):
            finding.unequal.append(f"{reference}: {difference}")
    prefix = expectation.reference.split("{", 1)[0]
    finding.unexpected = [reference for reference in by_reference if reference.startswith(prefix) and reference not in wanted]
    return finding


def _is_expected(expectation: Expectation, document: Mapping[str, Any], start: str) -> bool:
    return (
        document["kind"] in expectation.kinds
        and all(document[name] in values for name, values in expectation.where.items())
        and not str(document["reference"] or "").startswith(tuple(expectation.unless_reference) or "\0")
        and (not expectation.dated_from_start or document["date"] >= start)
    )


def _difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    if left["currency"] != right["currency"]:
        return f"currency {left['currency']} became {right['currency']}"
    if abs(Decimal(left["total_incl"]) - Decimal(right["total_incl"])) > TOLERANCE:
        return f"total {left['total_incl']} became {right['total_incl']}"
    ours, theirs = _rates(left), _rates(right)
    for rate in ours.keys() | theirs.keys():
        if abs(ours.get(rate, Decimal(0)) - theirs.get(rate, Decimal(0))) > TOLERANCE:
            return f"VAT at {rate} % {ours.get(rate, 0)} became {theirs.get(rate, 0)}"
    return ""


def _rates(document: Mapping[str, Any]) -> dict[str, Decimal]:
    return {rate: Decimal(amount) for rate, amount in document["vat_by_rate"].items() if Decimal(amount) != 0}


def read_creates(path: Path) -> dict[str, dict[str, str]]:
    """Per connection: what the simulator's log calls the create of each entity."""
    found: dict[str, dict[str, str]] = tomllib.loads(path.read_text())["creates"]
    return found


def check_creates(written: Mapping[str, int], names: Mapping[str, str], claimed: Counter[str]) -> list[str]:
    """Successful creates in the simulator's log against the links the bus holds as created, by entity."""
    return [
        f"{entity}: {written.get(name, 0)} in the call log, {claimed.get(entity, 0)} claimed"
        for entity, name in sorted(names.items())
        if written.get(name, 0) != claimed.get(entity, 0)
    ]


def check_reads(served: Mapping[str, int], read: Mapping[str, int]) -> list[str]:
    """Versions the simulator served against records the pollers took."""
    return [
        f"{entity}: {served.get(entity, 0)} served, {read.get(entity, 0)} read"
        for entity in sorted(served.keys() | read.keys())
        if served.get(entity, 0) != read.get(entity, 0)
    ]


def shown(problems: Sequence[str]) -> str:
    """A list of problems for people, cut where it gets long."""
    rest = len(problems) - PROBLEMS_SHOWN_MAX
    return "\n".join([*problems[:PROBLEMS_SHOWN_MAX], *([f"… and {rest} more"] if rest > 0 else [])])
