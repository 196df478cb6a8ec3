"""Where a check fails for every connector there is, a connector mended around its defect: else nothing would show that the check
can pass, and that its twins are what it fails on.

An entry goes when the defect does: a check that passes for one connector has no need of it.
"""

from tests.contract.account import ContractAccount
from tests.contract.twins import Twin, redeclare


def declares_what_it_spends(account: ContractAccount) -> None:
    """Twenty calls are more than any create takes."""
    redeclare(account, lambda facts: [writes.update(calls_per_create=20) for writes in facts["writes"].values()])


MENDED: dict[str, Twin] = {
    "a_create_costs_at_most_what_is_declared": declares_what_it_spends,
}
