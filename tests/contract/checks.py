"""The contract, as named behaviours over four modules. Each raises AssertionError when a connector breaks it, and each has a
twin in `broken` that must.

A check that finds nothing to look at raises NothingToCheck. That is a failure too, unless WAIVERS says why.
"""

from types import ModuleType
from typing import Any

from tests.contract import check_answers, check_declared, check_reading, check_writing
from tests.contract.account import ContractAccount
from tests.contract.asserting import Check
from tests.contract.exercises import EXERCISES

PREFIX = "check_"


def _of(module: ModuleType) -> dict[str, Check]:
    return {
        name.removeprefix(PREFIX): check
        for name, check in vars(module).items()
        if name.startswith(PREFIX) and check.__module__ == module.__name__
    }


CHECKS: dict[str, Check] = {**_of(check_reading), **_of(check_writing), **_of(check_declared), **_of(check_answers)}
OPTIONS: dict[str, dict[str, Any]] = {
    "declared_limits_are_never_exceeded": {"real_limits": True},
    "deletes_arrive": {"orders": 15},
    "a_comparison_names_what_exists_and_nothing_else": {"orders": 15},
}
"""How the account of a check is opened, where not as all others."""
WAIVERS: dict[tuple[str, str], str] = {
    ("exact_online", "a_replayed_key_makes_nothing_new"): "Exact has no idempotency key: creates are found again by a search",
    ("exact_online", "document_types_are_those_declared"): "one kind of document is written: the sales order",
    ("exact_online", "a_facet_tells_two_objects_apart"): "an account is invoiced in any currency: one is enough",
    ("exact_online", "a_stale_version_is_a_conflict"): "Exact has no ETag: an update reads first and sends what it names",
    ("quickbooks", "a_full_read_names_every_id"): "no stream is read in full: change data capture tells of deletes",
    ("quickbooks", "what_shows_late_is_found_in_time"): "queries see a write at once; `settle_s` is for calls that end late",
}
"""(system, check) → why there is nothing to check. The check itself must find so."""
DEFECTS: dict[tuple[str, str], str] = {}
"""(system, check) → what is wrong in the connector, by file and line. The check must fail until it is mended."""


def new_account(system: str, check: str) -> ContractAccount:
    """An account for one check."""
    return ContractAccount(system, EXERCISES[system], **OPTIONS.get(check, {}))
