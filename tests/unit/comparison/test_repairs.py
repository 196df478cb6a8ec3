"""What a reconciliation asks for: repairs by key, in requests of a bounded size, and nothing for what is at the target only."""

import msgspec
import pytest

from bus.core.errors import SettingsError
from schemas.system import ObjectRef, RequestKind
from services.comparison.pairs import Finding, Kind, Mend
from services.comparison.reconciling import KEYS_MAX, Reconciliation, flow_of, keys_of, linked_with, repairs, sampled
from services.comparison.selection import Selection, chosen_routes
from tests.unit.comparison.looks import known
from tests.unit.pair.rig import EXACT, QBO, Pair, accepted, example

FLOW = "customers-qbo-to-exact"


def finding(key: str, kind: Kind = "differing", mend: Mend | None = "replay", *, in_flight: bool = False) -> Finding:
    source = ObjectRef(connection=QBO, entity="customer", id=key)
    return Finding(kind=kind, source=source, mend=mend, in_flight=in_flight)


def found(*findings: Finding) -> Reconciliation:
    return Reconciliation(
        flow=FLOW,
        source=QBO,
        target=EXACT,
        configuration=1,
        read={},
        calls={},
        agreeing=0,
        not_wanted=0,
        findings=list(findings),
    )


def test_what_the_event_still_says_is_replayed_and_what_moved_on_is_read_anew() -> None:
    asked = repairs(found(finding("1"), finding("2", "missing", "resync"), finding("3")), accepted(example()).flows[FLOW])
    replay, resync = asked
    assert (replay.kind, replay.connection, keys_of(replay)) == (RequestKind.REPLAY, QBO, ["1", "3"])
    assert replay.args["repair"] == "true"
    assert (replay.args["flow"], replay.args["entity"]) == (FLOW, "customer")
    assert (resync.kind, resync.connection, keys_of(resync)) == (RequestKind.RESYNC, QBO, ["2"])
    assert "repair" not in resync.args


def test_extras_what_is_on_its_way_and_what_nothing_mends_are_left_alone() -> None:
    left = found(finding("1", "extra"), finding("2", in_flight=True), finding("3", "missing", None))
    assert repairs(left, accepted(example()).flows[FLOW]) == []


def test_a_request_names_a_bounded_number_of_objects() -> None:
    asked = repairs(found(*(finding(str(number)) for number in range(2 * KEYS_MAX + 1))), accepted(example()).flows[FLOW])
    assert [len(keys_of(item)) for item in asked] == [KEYS_MAX, KEYS_MAX, 1]


def test_a_reconciliation_agrees_only_without_any_finding() -> None:
    assert found().agrees
    moving = found(finding("1", in_flight=True))
    assert not moving.agrees, "what is on its way differs at this moment"
    assert (moving.of("differing"), len(moving.in_flight())) == ([], 1)


async def test_a_sample_is_of_what_polling_knows_and_reads_what_it_is_linked_with() -> None:
    pair = Pair()
    pair.qbo.simulator.seed(20, 3)
    pair.exact.simulator.seed(20, 3)
    await pair.run(rounds=20)
    bus = known(pair, QBO, EXACT)
    chosen = sampled(bus.seen, "customer", 5)
    assert len(set(chosen)) == 5
    assert all(("customer", key) in bus.seen for key in chosen)
    assert len(sampled(bus.seen, "customer", 10_000)) == sum(entity == "customer" for entity, _ in bus.seen)
    linked = linked_with(bus.target, accepted(example()).flows[FLOW], chosen)
    assert 0 < len(linked) <= 5


def test_an_unknown_flow_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="customers-qbo-to-exact"):
        flow_of(accepted(example()), "nobody")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"connection": "nobody"}, "unknown connection"),
        ({"flows": ("exact-orders-to-qbo",)}, "no flow"),
        ({"entity": "invoice"}, "unknown entity"),
    ],
)
def test_a_wrong_selection_is_told(wrong: dict[str, object], said: str) -> None:
    selection = msgspec.convert({"connection": QBO, **wrong}, Selection)
    with pytest.raises(SettingsError, match=said):
        chosen_routes(Pair().routes, selection)
