"""Makes the calls of a write, and finds out what an unclear one made.

Answers of creates are thin, so the last step of a write reads the object back. Once a call is answered nothing may make it look
unsent: a read-back that fails leaves the step without a record, never without its id.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from bus.core.errors import BusError
from bus.kit.connector import RawRecord, Step, StepResult, Write
from connectors.exact_online import plans
from connectors.exact_online.accounts import Accounts
from connectors.exact_online.items import Items
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.doubles import order_of
from connectors.exact_online.mapping.order import is_whole
from connectors.exact_online.mapping.values import code
from connectors.exact_online.odata import OData
from connectors.exact_online.orders import Orders
from connectors.exact_online.plans import SETS, Call, Done, Find
from connectors.exact_online.references import References
from connectors.exact_online.wholes import Wholes
from connectors.exact_online.writing_back import WrittenBack
from schemas import canon

ORDER_STEPS = frozenset({"order", "numbered_order"})
"""Steps that leave the debtor as it is."""

log = logging.getLogger(__name__)


class Writing:
    """Writes to one division."""

    def __init__(self, odata: OData, wholes: Wholes, references: References, config: Any) -> None:
        self._odata = odata
        self._wholes = wholes
        self._back = WrittenBack(odata, references, config)
        self._references = references
        self._config = config
        kinds = (Accounts(odata, references, config), Items(odata, references, config), Orders(odata, references, config))
        self._calls: dict[str, Call] = {"update": self._update, "deactivate": self._deactivate}
        self._finders: dict[str, Find] = {}
        for kind in kinds:
            self._calls |= kind.calls
            self._finders |= kind.finders

    async def perform(self, write: Write, step: Step, done: Done) -> StepResult:
        """The call of one step; the last one shows the object as it then stands."""
        try:
            result = await self._calls[step.name](write, step, done)
        finally:
            if step.name not in ORDER_STEPS:
                self._back.forget(write.external_id or write.ids.get("customer", ""))
        return await self._shown(write, step, done, result)

    async def search(self, write: Write, step: Step, done: Done) -> StepResult | None:
        """What an unclear step may have made."""
        find = self._finders.get(step.name)
        found = await find(write, step, done) if find else None
        if found is None:
            return None
        result = await self._shown(write, step, done, StepResult(external_id=found, replayed=True))
        return msgspec.structs.replace(result, as_sent=True)

    async def _shown(self, write: Write, step: Step, done: Done, result: StepResult) -> StepResult:
        """A step's result: that of the last one with the object as it then stands. One look is enough for all of them, and the
        day's calls are few."""
        steps = plans.steps_of(write, self._config)
        if step.name != steps[-1].name:
            return result
        primary = next(item for item in steps if item.primary)
        made = result if step.primary else done[primary.name]
        seen = await self._read_back(write, write.external_id or made.external_id, primary.body)
        return msgspec.structs.replace(
            seen,
            external_id=result.external_id,
            number=result.number or seen.number,
            replayed=result.replayed and all(earlier.replayed for earlier in done.values()),
        )

    async def _update(self, write: Write, step: Step, done: Done) -> StepResult:
        assert write.external_id is not None
        fields, body = write.fields or frozenset(), dict(step.body)
        if isinstance(write.document, canon.Product) and "active" in fields:
            body |= {"EndDate": None, "IsSalesItem": True} if write.document.active else {"EndDate": self._references.day(-1)}
        if body:
            await self._odata.put(SETS[write.entity], write.external_id, body)
        return StepResult(external_id=write.external_id, replayed=not body)

    async def _deactivate(self, write: Write, step: Step, done: Done) -> StepResult:
        """An end date in the past: there is no active flag."""
        assert write.external_id is not None
        await self._odata.put(SETS[write.entity], write.external_id, {"EndDate": self._references.day(-1)})
        return StepResult(external_id=write.external_id)

    async def _read_back(self, write: Write, external_id: str, sent: Mapping[str, Any]) -> StepResult:
        """The object as it is now; `as_sent` says whether what was sent is what stands there."""
        try:
            wholes = self._back if write.entity == "sales_order" else self._wholes
            record = (await wholes.read(write.entity, [external_id])).get(external_id)
            if record is not None:
                number, as_sent = _number(record), _stands(record, sent)
                return StepResult(external_id=external_id, number=number, record=record, as_sent=as_sent)
        except BusError as error:  # the write is done, whatever became of the look at it
            log.info("%s %s was written; reading it back failed: %s", write.entity, external_id, type(error).__name__)
        return StepResult(external_id=external_id, as_sent=False)


def _number(record: RawRecord) -> str | None:
    """What people call it."""
    if record.entity == "customer":
        return code(shapes.decoded(record.raw, shapes.WholeAccount, "Account").Account.Code)
    if record.entity == "sales_order":
        return str(order_of(record.raw).Order.OrderNumber)
    return None


def _stands(record: RawRecord, sent: Mapping[str, Any]) -> bool:
    """Whether each sent member reads back as sent, blanks of padded codes aside; an order, whether its lines are there."""
    if record.entity == "sales_order":
        return is_whole(order_of(record.raw))
    whole = msgspec.json.decode(record.raw)
    row = whole.get("Account") or whole.get("Item") or {}
    for name, value in sent.items():
        if name in row and isinstance(value, str) and str(row[name]).strip().upper() != value.strip().upper():
            return False
    return True
