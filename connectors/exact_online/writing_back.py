"""Orders as they stand after their write. Their debtors are remembered for minutes: reading them again is half of an order's
calls. A debtor that somebody edited meanwhile makes the order no echo, and loses nothing.
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from bus.kit.connector import RawRecord
from connectors.exact_online.odata import OData
from connectors.exact_online.references import References
from connectors.exact_online.wholes import Wholes

DEBTOR_AGE_MAX = timedelta(minutes=5)
DEBTORS_MAX = 1_000


class WrittenBack(Wholes):
    """Reads back the orders of one division."""

    def __init__(self, odata: OData, references: References, config: Any) -> None:
        super().__init__(odata, references, config)
        self._clock = references.clock
        self._debtors: OrderedDict[str, tuple[datetime, RawRecord]] = OrderedDict()

    async def customers(self, ids: Sequence[str]) -> dict[str, RawRecord]:
        """Whole accounts by id, remembered ones among them."""
        since = self._clock.now() - DEBTOR_AGE_MAX
        known = {key: self._debtors[key][1] for key in ids if key in self._debtors and self._debtors[key][0] > since}
        for key, record in (await super().customers([key for key in ids if key not in known])).items():
            self.forget(key)
            self._debtors[key] = (self._clock.now(), record)
            known[key] = record
        while len(self._debtors) > DEBTORS_MAX:
            self._debtors.popitem(last=False)
        return known

    def forget(self, key: str) -> None:
        """A debtor that is written to."""
        self._debtors.pop(key, None)
