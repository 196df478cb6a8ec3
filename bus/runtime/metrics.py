"""Every metric of the bus in one table: name, kind, help, labels. Prometheus text comes from `exposition`.

Labels never hold keys, ids of objects or anything personal: connections, flows, entities and closed words only.
"""

from functools import cache
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metric(NamedTuple):
    """One row of the table."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

TABLE: dict[str, Metric] = {
    "bus_ready": Metric("gauge", "1 when the service is ready", ("service",)),
    "bus_slots_owned": Metric("gauge", "slots this process owns", ("service",)),
    "bus_restore_seconds": Metric(
        "histogram",
        "reading a slot's topic to its end at a takeover, from a local copy (warm) or not",
        ("service", "topic", "how"),
    ),
    "bus_config_version": Metric("gauge", "configuration version this process works with"),
    "bus_commits_total": Metric("counter", "transactions by their end", ("publisher", "outcome")),
    "bus_restarts_total": Metric("counter", "restarts of supervised processes", ("child",)),
    "bus_vendor_calls_total": Metric("counter", "calls to the vendor", ("connection", "purpose", "status")),
    "bus_budget_used": Metric("gauge", "calls used of a vendor limit in its window", ("connection", "limit")),
    "bus_budget_wait_seconds_total": Metric("counter", "time spent waiting for a vendor's limit", ("connection",)),
    "bus_poll_records_total": Metric("counter", "records read, by what became of them", ("connection", "stream", "outcome")),
    "bus_polls_total": Metric("counter", "polls by their end", ("connection", "stream", "outcome")),
    "bus_poll_seconds": Metric("histogram", "length of a poll", ("connection", "stream")),
    "bus_poll_age_seconds": Metric("gauge", "since the last good poll", ("connection", "stream")),
    "bus_held_objects": Metric("gauge", "objects whose echo cannot be judged yet", ("connection",)),
    "bus_stream_paused": Metric("gauge", "1 when a stream is stopped", ("connection", "stream")),
    "bus_deletes_unproven": Metric("gauge", "1 when a span was read whose deletes nobody can tell", ("connection", "stream")),
    "bus_deletes_refused": Metric(
        "gauge", "objects missing at the vendor, too many to be taken for deleted without a person", ("connection", "stream")
    ),
    "bus_loops_total": Metric("counter", "objects that changed at both ends too often", ("connection", "entity")),
    "bus_events_total": Metric("counter", "canonical events × flows, by action", ("flow", "action")),
    "bus_event_seconds": Metric("histogram", "from the event a poller saw to its command", ("flow",)),
    "bus_replayed_total": Metric("counter", "commands made again on request", ("flow",)),
    "bus_replays_open": Metric("gauge", "replays that wait or run", ("connection",)),
    "bus_processor_lag": Metric("gauge", "canonical events not yet processed", ("topic", "partition")),
    "bus_outcomes_total": Metric("counter", "ends of commands", ("connection", "flow", "outcome")),
    "bus_conflicts_total": Metric("counter", "fields edited at both ends since they were last settled", ("connection", "flow")),
    "bus_write_seconds": Metric(
        "histogram", "from the event a poller saw to the committed outcome of its write", ("connection", "entity")
    ),
    "bus_known_objects": Metric("gauge", "objects polling knows and could map, as committed", ("connection", "entity")),
    "bus_standings": Metric("gauge", "source objects by where their newest version stands", ("connection", "flow", "standing")),
    "bus_books_open": Metric(
        "gauge", "objects polling knows less those that stand somewhere in the flow: 0 when the books balance", ("flow",)
    ),
    "bus_outbound_lag": Metric("gauge", "commands not settled yet, unread ones included", ("connection",)),
    "bus_commands_lost_total": Metric("counter", "offsets that retention took before they were read", ("connection",)),
    "bus_parked": Metric("gauge", "commands that wait, by cause", ("connection", "cause")),
    "bus_oldest_waiting_seconds": Metric("gauge", "age of the oldest command that waits", ("connection",)),
    "bus_brake_open": Metric("gauge", "1 while writes stand still; an empty flow is the whole account", ("connection", "flow")),
    "bus_open_intents": Metric("gauge", "writes begun and not known to have ended", ("connection",)),
    "bus_pictures_missing_total": Metric("counter", "pictures a write went without: nobody published them", ("connection",)),
    "bus_dead_letters_total": Metric("counter", "records set aside", ("stage", "connection", "cause")),
    "bus_connection_paused": Metric("gauge", "1 when a connection is paused", ("service", "connection")),
    "bus_grants": Metric("gauge", "1 for the state a grant is in", ("connection", "state")),
    "bus_grant_refreshes_total": Metric("counter", "token refreshes by their end", ("connection", "outcome")),
    "bus_grant_expires_timestamp_seconds": Metric("gauge", "when the access token expires", ("connection",)),
}

REGISTRY = CollectorRegistry()


@cache
def metric(name: str) -> Counter | Gauge | Histogram:
    """A metric of the table, made at first use. Raises KeyError for a name without a row."""
    row = TABLE[name]
    match row.kind:
        case "counter":
            return Counter(name, row.help, row.labels, registry=REGISTRY)
        case "gauge":
            return Gauge(name, row.help, row.labels, registry=REGISTRY)
    return Histogram(name, row.help, row.labels, registry=REGISTRY, buckets=SECONDS)


def _child(name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
    found = metric(name)
    return found.labels(**labels) if labels else found


def count(metric_name: str, amount: float = 1, /, **labels: str) -> None:
    """Raises a counter."""
    child = _child(metric_name, labels)
    assert isinstance(child, Counter), metric_name
    child.inc(amount)


def put(metric_name: str, value: float, /, **labels: str) -> None:
    """Sets a gauge."""
    child = _child(metric_name, labels)
    assert isinstance(child, Gauge), metric_name
    child.set(value)


def observe(metric_name: str, value: float, /, **labels: str) -> None:
    """Adds to a histogram."""
    child = _child(metric_name, labels)
    assert isinstance(child, Histogram), metric_name
    child.observe(value)


def exposition() -> bytes:
    """All metrics as Prometheus text."""
    return generate_latest(REGISTRY)
