"""Every check can fail: a connector broken in the one property the check is about must not pass it."""

from typing import Any

import pytest

from bus.kit.registry import discover
from tests.contract import break_answers, break_reading, break_writing
from tests.contract.asserting import NothingToCheck
from tests.contract.checks import CHECKS, DEFECTS, WAIVERS, new_account
from tests.contract.twins import TWINS, Twin

CAPABILITIES = {
    "incremental": "a_second_poll_yields_exactly_the_changes",
    "full": "a_full_read_names_every_id",
    "deletes": "deletes_arrive",
    "write": "a_lost_answer_at_any_step_leaves_one_of_each",
    "idempotency_key": "a_replayed_key_makes_nothing_new",
    "attachments": "steps_are_those_declared",
}
"""The check that proves a capability of the manifest."""


def cases() -> list[Any]:
    """Waived checks have nothing to fail on; where a connector fails already, its twins would prove nothing."""
    return [
        pytest.param(system, check, twin, id=f"{system}-{check}-{twin.__name__}")
        for system in discover()
        for check in CHECKS
        if (system, check) not in WAIVERS and (system, check) not in DEFECTS
        for twin in TWINS.get(check, [])
    ]


@pytest.mark.parametrize(("system", "check", "twin"), cases())
async def test_a_broken_twin_is_noticed(system: str, check: str, twin: Twin) -> None:
    account = await new_account(system, check).open()
    twin(account)
    try:
        with pytest.raises(AssertionError) as noticed:  # any other exception is a crash of the twin, and no proof
            await CHECKS[check](account)
        assert not isinstance(noticed.value, NothingToCheck), "the twin took away what was to be checked"
    finally:
        await account.close()


def test_every_check_has_a_twin_and_no_twin_is_left_over() -> None:
    assert set(TWINS) == set(CHECKS)
    made = {
        name
        for module in (break_answers, break_reading, break_writing)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and is_twin(value)
    }
    assert made == {twin.__name__ for twins in TWINS.values() for twin in twins}


def is_twin(value: object) -> bool:
    annotations = getattr(value, "__annotations__", {})
    return list(annotations) == ["account", "return"] and annotations["return"] is None


def test_every_check_is_proven_for_some_connector() -> None:
    for check in CHECKS:
        proven = [system for system in discover() if (system, check) not in {*WAIVERS, *DEFECTS}]
        assert proven, f"{check}: no connector passes it, so nothing shows that it can be passed"


def test_waivers_and_defects_name_what_exists() -> None:
    for system, check in [*WAIVERS, *DEFECTS]:
        assert system in discover()
        assert check in CHECKS
    assert not set(WAIVERS) & set(DEFECTS)
    assert all(len(reason) > 20 for reason in [*WAIVERS.values(), *DEFECTS.values()])


@pytest.mark.parametrize("system", discover())
def test_every_declared_capability_is_proven(system: str) -> None:
    declared = new_account(system, "").manifest.capabilities
    assert set(declared) <= set(CAPABILITIES), "a capability that no check proves"
    for capability, check in CAPABILITIES.items():
        if capability in declared:
            assert check in CHECKS
            assert (system, check) not in WAIVERS, f"{capability} is declared, and its proof waived"
