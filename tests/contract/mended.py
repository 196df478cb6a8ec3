"""Where a check fails for every connector there is, a connector mended around its defect: else nothing would show that the check
can pass, and that its twins are what it fails on.

An entry goes when the defect does: a check that passes for one connector has no need of it.
"""

from typing import Any

from bus.core.errors import CredentialError, StreamError, Unavailable
from tests.contract.account import ContractAccount
from tests.contract.twins import Twin, redeclare, replace


def unclear_behind_a_write(account: ContractAccount) -> None:
    """What fails behind a call that went through is an unclear end."""
    perform = account.connector.perform

    async def performed(*args: Any) -> Any:
        before = account.written()
        try:
            return await perform(*args)
        except (StreamError, CredentialError, KeyError) as error:
            raise Unavailable(str(error)) if account.written() != before else error from error

    replace(account, perform=performed)


def declares_what_it_spends(account: ContractAccount) -> None:
    """Twenty calls are more than any create takes."""
    redeclare(account, lambda facts: [writes.update(calls_per_create=20) for writes in facts["writes"].values()])


MENDED: dict[str, Twin] = {
    "a_failing_read_back_leaves_a_write_unclear": unclear_behind_a_write,
    "a_write_answered_without_a_key_is_unclear": unclear_behind_a_write,
    "a_create_costs_at_most_what_is_declared": declares_what_it_spends,
}
