"""Steps that write sales orders, and how each is found again."""

from collections.abc import Iterable, Mapping
from typing import Any

from bus.core.errors import WriteRejected
from bus.kit.connector import Step, StepResult, Write
from connectors.exact_online import plans
from connectors.exact_online.odata import OData, guid, key_of, text
from connectors.exact_online.plans import Call, Done, Find
from connectors.exact_online.references import References

FOREIGN_DEBTOR = "foreign_debtor"


class Orders:
    """Writes sales orders of one division."""

    def __init__(self, odata: OData, references: References, config: Any) -> None:
        self._odata = odata
        self._references = references
        self._config = config
        self.calls: Mapping[str, Call] = {
            "order": self._order,
            "numbered_order": self._numbered_order,
        }
        self.finders: Mapping[str, Find] = {
            "order": self._find_order,
            "numbered_order": self._find_numbered_order,
        }

    async def _order(self, write: Write, step: Step, done: Done) -> StepResult:
        return await self._post_order(write, await self._order_body(write, done))

    async def _numbered_order(self, write: Write, step: Step, done: Done) -> StepResult:
        """Tries the numbers of the range in their fixed order: one that is taken is refused."""
        body = await self._order_body(write, done)
        for number in plans.codes_of(write, self._config.order_number_range):
            try:
                return await self._post_order(write, {**body, "OrderNumber": int(number)})
            except WriteRejected as refusal:
                if refusal.code == FOREIGN_DEBTOR:
                    raise
                rows = await self._orders(number)
                if not rows:
                    raise
                if (found := _own_order(rows, write)) is not None:
                    return StepResult(external_id=found, number=number, replayed=True)
        raise plans.range_full("order_number_range")

    async def _order_body(self, write: Write, done: Done) -> dict[str, Any]:
        """The body with the division's own word on its VAT codes, and ids in place of codes. Nothing has been sent yet."""
        wanted = [item.value for item in write.resolved if item.name == "vat_code"]
        codes = await self._references.vat_codes(wanted)
        body = plans.order_body(write, self._config, {name: vat.type for name, vat in codes.items()})
        for charge in body.get("SalesOrderOrderChargeLines", ()):
            charge["OrderCharge"] = await self._references.charge(charge["OrderCharge"])
        if "address" in done:
            body["DeliveryAddress"] = done["address"].external_id
        return body

    async def _post_order(self, write: Write, body: Mapping[str, Any]) -> StepResult:
        created = await self._odata.post("salesorder/SalesOrders", body, "OrderID")
        if created.get("OrderedBy") != body["OrderedBy"]:
            raise WriteRejected(
                "Exact dropped the debtor of the order in silence",
                hint="the debtor belongs to another division: link the customer anew",
                code=FOREIGN_DEBTOR,
                existing_id=created["OrderID"],
            )
        return StepResult(external_id=created["OrderID"], number=str(created.get("OrderNumber") or "") or None)

    async def _find_order(self, write: Write, step: Step, done: Done) -> str | None:
        condition = f"YourRef eq {text(write.reference or '')} and OrderedBy eq {guid(write.ids['customer'])}"
        rows = await self._odata.rows("salesorder/SalesOrders", ("OrderID", "YourRef"), condition)
        return key_of(rows[0], "OrderID") if rows else None

    async def _find_numbered_order(self, write: Write, step: Step, done: Done) -> str | None:
        """The order under one of our numbers that is ours."""
        rows = [row for number in plans.codes_of(write, self._config.order_number_range) for row in await self._orders(number)]
        return _own_order(rows, write)

    async def _orders(self, number: str) -> list[dict[str, Any]]:
        return await self._odata.rows("salesorder/SalesOrders", ("OrderID", "YourRef", "OrderedBy"), f"OrderNumber eq {number}")


def _own_order(rows: Iterable[Mapping[str, Any]], write: Write) -> str | None:
    """The order of our debtor with our reference."""
    ours = (write.reference, write.ids["customer"])
    return next((key_of(row, "OrderID") for row in rows if (row.get("YourRef"), row.get("OrderedBy")) == ours), None)
