"""The table of the campaign."""

from tests.faults import bothways, changes, edges, killing, ordering, outages, poison, tokens, vendors, zombies
from tests.faults.campaign import Scenario

SCENARIOS = (
    Scenario(
        1,
        "kill -9 of the poller at random moments",
        "lost 0; read-committed duplicates 0",
        killing.poller_killed,
        broken=("known-first", "events-first"),
    ),
    Scenario(
        2,
        "kill -9 of the processor at random moments",
        "lost 0; order breaks per object 0",
        killing.processor_killed,
        broken=("early-ack", "any-order"),
    ),
    Scenario(
        3,
        "kill -9 of the sink between the vendor's answer and the commit",
        "second creates 0",
        killing.sink_killed,
        broken=("no-guard",),
    ),
    Scenario(
        4,
        "broker stopped 20 s under load; kill -9 of the broker",
        "lost 0; no hung transactions; no restart",
        outages.broker_away,
        broken=("believed",),
    ),
    Scenario(5, "network cut; half-open connections", "recovery time; detection time", outages.network_cut, broken=("patient",)),
    Scenario(
        6,
        "500 and 502 in bursts on 30 % of calls, 429 with and without Retry-After",
        "calls above budget 0 after the first",
        vendors.failing_vendor,
        broken=("no-budget",),
    ),
    Scenario(
        7,
        "the vendor commits, then silence until the caller gives up",
        "second creates 0",
        vendors.silent_vendor,
        broken=("no-guard",),
    ),
    Scenario(8, "the last 5,000 commands delivered again", "writes caused 0", ordering.delivered_again, broken=("blind",)),
    Scenario(9, "versions of each object in an order of chance", "stale overwrites 0", ordering.swapped, broken=("older-taken",)),
    Scenario(10, "one slow object, 5 s per call", "p99 of the others", ordering.slow_object, broken=("one-lane",)),
    Scenario(
        11,
        "records that cannot be carried out: one in many, then every one",
        "others flow; the brake opens within its limit and goes on without loss",
        poison.poison,
        broken=("no-brake", "no-letter", "held-dropped"),
    ),
    Scenario(
        12,
        "tokens that live seconds, single use, 4 processes; kill -9 between refresh and store",
        "grants lost 0; else one clear alert each",
        tokens.tokens,
        broken=("cancelled",),
    ),
    Scenario(
        13,
        "equal timestamps at page edges, clock skew, DST nights, changes while paging",
        "missed 0",
        edges.edges,
        broken=("no-overlap", "own-clock", "cap-ignored"),
    ),
    Scenario(
        14,
        "edits at both ends, also of one field at once, and restarts",
        "echo writes 0; conflicts recorded",
        bothways.both_ways,
        broken=("no-echo", "no-conflict"),
    ),
    Scenario(
        15,
        "registry down, caches lost, configuration changed mid-flow, rolling replacement of each service",
        "safe wait, rebuild, lost 0",
        changes.changes,
        broken=("registry-needed", "no-replay", "no-rebuild"),
    ),
    Scenario(
        16,
        "two of everything, a half of it stopped longer than its session",
        "the zombie is fenced, second creates 0",
        zombies.two_of_everything,
        broken=("no-fencing",),
    ),
)
