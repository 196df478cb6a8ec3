"""Every connector, found by its manifest, against every behaviour of the contract."""

import pytest

from bus.kit.registry import discover
from tests.contract.account import ContractAccount
from tests.contract.checks import CHECKS, REAL_LIMITS
from tests.contract.exercises import EXERCISES


def test_every_connector_is_exercised() -> None:
    assert sorted(EXERCISES) == discover()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("system", discover())
async def test_contract(system: str, check: str) -> None:
    account = await ContractAccount(system, EXERCISES[system], real_limits=check in REAL_LIMITS).open()
    try:
        await CHECKS[check](account)
    finally:
        await account.close()
