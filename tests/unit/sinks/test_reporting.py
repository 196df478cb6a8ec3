"""The metric of the books: what polling knows less what stands somewhere, per flow."""

from datetime import UTC, datetime

from bus.core.configuration import Flow
from bus.runtime import metrics
from bus.runtime.state import AccountState, standing_key
from schemas.system import ObjectRef, Outcome, Standing, StandingRecord, StateRecord
from services.sinks.reporting import tell_books

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
FLOW = Flow.model_validate(
    {
        "kind": "Flow",
        "name": "books-of-orders",
        "from": {"connection": "shop", "entity": "sales_invoice"},
        "to": {"connection": "ledger", "entity": "sales_order"},
        "start": "2026-11-01",
        "write": "create",
    }
)


def put(state: AccountState, source_id: str, standing: Standing) -> None:
    source = ObjectRef(connection="shop", entity="sales_invoice", id=source_id)
    record = StandingRecord(
        flow=FLOW.name, source=source, seq=1, config_version=1, standing=standing, outcome=Outcome.UNKNOWN, settled_at=NOW
    )
    state.apply(standing_key("ledger", FLOW.name, source), StateRecord(connection="ledger", standing=record))


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_the_books_are_open_by_what_stands_nowhere_and_close_when_it_does() -> None:
    state = AccountState("ledger")
    put(state, "1", Standing.WRITTEN)
    put(state, "2", Standing.PARKED)
    tell_books("ledger", state, [FLOW], lambda connection, entity: {("shop", "sales_invoice"): 3}[connection, entity])
    assert value("bus_books_open", flow=FLOW.name) == 1
    put(state, "2", Standing.DEAD)
    put(state, "3", Standing.FILTERED)
    tell_books("ledger", state, [FLOW], lambda _connection, _entity: 3)
    assert value("bus_books_open", flow=FLOW.name) == 0
    labels = {"connection": "ledger", "flow": FLOW.name}
    assert value("bus_standings", standing="parked", **labels) == 0
    assert value("bus_standings", standing="dead", **labels) == 1


def test_before_polling_has_counted_nothing_is_said() -> None:
    quiet = FLOW.model_copy(update={"name": "not-counted-yet"})
    tell_books("ledger", AccountState("ledger"), [quiet], lambda _connection, _entity: None)
    assert value("bus_books_open", flow="not-counted-yet") is None
    tell_books("elsewhere", AccountState("elsewhere"), [quiet], lambda _connection, _entity: 7)
    assert value("bus_books_open", flow="not-counted-yet") is None
