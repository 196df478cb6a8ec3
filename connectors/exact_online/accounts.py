"""Steps that write accounts, with their contacts and delivery addresses, and how each is found again."""

from collections.abc import Iterable, Mapping
from typing import Any

from bus.core.errors import WriteRejected
from bus.kit.connector import Step, StepResult, Write
from connectors.exact_online import plans
from connectors.exact_online.mapping.customer import DELIVERY_TYPE
from connectors.exact_online.mapping.values import padded
from connectors.exact_online.odata import OData, guid, key_of, text
from connectors.exact_online.plans import Call, Done, Find
from connectors.exact_online.references import References
from connectors.exact_online.wholes import ADDRESS, CONTACT
from schemas import canon

ACCOUNT_STEPS = ("account", "numbered_account")


class Accounts:
    """Writes accounts of one division, and addresses of orders."""

    def __init__(self, odata: OData, references: References, config: Any) -> None:
        self._odata = odata
        self._references = references
        self._config = config
        self.calls: Mapping[str, Call] = {
            "account": self._account,
            "numbered_account": self._numbered_account,
            "contact": self._contact,
            "main_contact": self._main_contact,
            "address": self._address,
        }
        self.finders: Mapping[str, Find] = {
            "account": self._find_account,
            "numbered_account": self._find_numbered_account,
            "contact": self._find_contact,
            "address": self._find_address,
        }

    async def _account(self, write: Write, step: Step, done: Done) -> StepResult:
        created = await self._odata.post("crm/Accounts", await self._account_body(write, step))
        return StepResult(external_id=created["ID"])

    async def _account_body(self, write: Write, step: Step) -> dict[str, Any]:
        """With the classification that says what the account is. Raises MappingError when that does not exist."""
        assert isinstance(write.document, canon.Customer)
        kind = await self._references.classification(str(write.document.kind))
        return {**step.body, **({self._config.kind_field: kind} if kind else {})}

    async def _find_account(self, write: Write, step: Step, done: Done) -> str | None:
        rows = await self._odata.rows("crm/Accounts", ("ID", "SearchCode"), f"SearchCode eq {text(step.key or '')}")
        return key_of(rows[0], "ID") if rows else None

    async def _numbered_account(self, write: Write, step: Step, done: Done) -> StepResult:
        """Tries the numbers of the range in their fixed order: one that is taken is refused."""
        body = await self._account_body(write, step)
        for number in plans.codes_of(write, self._config.code_range):
            try:
                created = await self._odata.post("crm/Accounts", {**body, "Code": number})
            except WriteRejected:
                rows = await self._accounts(number)
                if not rows:
                    raise
                if (found := _own_account(rows, step)) is not None:
                    return StepResult(external_id=found, number=number, replayed=True)
                continue
            return StepResult(external_id=created["ID"], number=number)
        raise plans.range_full("code_range")

    async def _find_numbered_account(self, write: Write, step: Step, done: Done) -> str | None:
        """The account under one of our numbers that is ours."""
        rows = [row for number in plans.codes_of(write, self._config.code_range) for row in await self._accounts(number)]
        return _own_account(rows, step)

    async def _accounts(self, number: str) -> list[dict[str, Any]]:
        return await self._odata.rows("crm/Accounts", ("ID", "SearchCode", "Name", "Email"), f"Code eq {text(padded(number))}")

    async def _contact(self, write: Write, step: Step, done: Done) -> StepResult:
        created = await self._odata.post("crm/Contacts", {**step.body, "Account": self._owner(write, done)})
        return StepResult(external_id=created["ID"])

    async def _find_contact(self, write: Write, step: Step, done: Done) -> str | None:
        rows = await self._odata.rows("crm/Contacts", CONTACT, f"Account eq {guid(self._owner(write, done))}")
        names = ("FirstName", "MiddleName", "LastName", "Email")
        return next((key_of(row, "ID") for row in rows if all((row.get(n) or None) == step.body.get(n) for n in names)), None)

    async def _main_contact(self, write: Write, step: Step, done: Done) -> StepResult:
        account, contact = self._owner(write, done), done["contact"].external_id
        await self._odata.put("crm/Accounts", account, {"MainContact": contact})
        return StepResult(external_id=contact)

    async def _address(self, write: Write, step: Step, done: Done) -> StepResult:
        """A delivery address. An account just made has none; else one with the same content is used again, and becomes the main
        one where the customer moved there: the old one stays, it may stand on orders."""
        account = self._owner(write, done)
        known = None if write.entity == "customer" and write.action == "create" else await self._same_address(account, step.body)
        if known is None:
            created = await self._odata.post("crm/Addresses", {**step.body, "Account": account})
            return StepResult(external_id=created["ID"])
        is_main = bool(known.get("Main")) or not step.body.get("Main")
        if not is_main:
            await self._odata.put("crm/Addresses", key_of(known, "ID"), {"Main": True})
        return StepResult(external_id=key_of(known, "ID"), replayed=is_main)

    async def _find_address(self, write: Write, step: Step, done: Done) -> str | None:
        found = await self._same_address(self._owner(write, done), step.body)
        return key_of(found, "ID") if found and (found.get("Main") or not step.body.get("Main")) else None

    @staticmethod
    def _owner(write: Write, done: Done) -> str:
        """The account that contacts and addresses belong to: just made, being changed, or the order's debtor."""
        made = next((done[name].external_id for name in ACCOUNT_STEPS if name in done), None)
        return made or write.external_id or write.ids["customer"]

    async def _same_address(self, account: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        rows = await self._odata.rows("crm/Addresses", ADDRESS, f"Account eq {guid(account)} and Type eq {DELIVERY_TYPE}")
        wanted = _content(body)
        same = [row for row in rows if _content(row) == wanted]
        return next((row for row in same if row.get("Main")), same[0] if same else None)


def _own_account(rows: Iterable[Mapping[str, Any]], step: Step) -> str | None:
    """The account that bears our mark or, where somebody edited that, our name and address."""
    for row in rows:
        same = all((row.get(name) or None) == step.body.get(name) for name in ("Name", "Email"))
        if row.get("SearchCode") == step.body["SearchCode"] or same:
            return key_of(row, "ID")
    return None


def _content(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two addresses the same."""
    names = ("AddressLine1", "AddressLine2", "AddressLine3", "Postcode", "City", "Country")
    return tuple("".join(str(row.get(name) or "").split()).casefold() for name in names)
