"""Every connector, found by its manifest, against every behaviour of the contract."""

from typing import Any

import pytest

from bus.kit.registry import discover
from tests.contract.account import ContractAccount
from tests.contract.asserting import NothingToCheck
from tests.contract.checks import CHECKS, DEFECTS, WAIVERS, new_account
from tests.contract.exercises import EXERCISES


def cases() -> list[Any]:
    found = []
    for system in discover():
        for check in CHECKS:
            reason = DEFECTS.get((system, check))
            marks = [pytest.mark.xfail(strict=True, raises=(AssertionError, KeyError), reason=reason)] if reason else []
            found.append(pytest.param(system, check, marks=marks, id=f"{system}-{check}"))
    return found


def test_every_connector_is_exercised() -> None:
    assert sorted(EXERCISES) == discover()


async def judge(account: ContractAccount, check: str) -> None:
    try:
        await CHECKS[check](account)
    except NothingToCheck as error:
        raise LookupError(f"{check} proves nothing for {account.system}: {error}; say why in WAIVERS") from error


@pytest.mark.parametrize(("system", "check"), cases())
async def test_contract(system: str, check: str) -> None:
    account = await new_account(system, check).open()
    try:
        if (system, check) not in WAIVERS:
            await judge(account, check)
            return
        with pytest.raises(NothingToCheck):  # a waiver for what could be checked would hide it
            await CHECKS[check](account)
    finally:
        await account.close()
