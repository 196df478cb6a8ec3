"""What a document refers to at this account: its customer and its products (law 11)."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from bus.core.errors import MissingDependency, RecordError
from bus.core.identity import sku_key
from bus.kit.manifest import Writes
from schemas import canon
from schemas.canon import ChargeType, LineType
from schemas.system import Cause, ObjectRef
from services.sinks.matching import Matcher
from services.sinks.task import Document, Target

MISSED_AGE_MAX = timedelta(seconds=60)
"""How long a SKU that the vendor did not know is not searched again: each order that waits for it would ask."""
NO_PRODUCT = frozenset({LineType.TEXT})


def customer_source(source: ObjectRef, party: canon.Party) -> ObjectRef:
    """The source object a document's customer is: shared with the customer flow, so that both take one lock and one link."""
    if party.customer and party.customer.id:
        return ObjectRef(connection=source.connection, entity="customer", id=party.customer.id)
    return ObjectRef(connection=source.connection, entity="customer", id=f"{source.entity}:{source.id}")


class Products:
    """Finds the products of a document's lines at this account."""

    def __init__(self, matcher: Matcher, target: Target) -> None:
        self._matcher = matcher
        self._state = target.state
        self._hasher = target.hasher
        self._locks = target.locks
        self._clock = target.clock
        self._searched: dict[str, str] = {}
        self._missed: dict[str, datetime] = {}

    async def ids(
        self, source: ObjectRef, document: Document, line_without: str | None, shipping: str | None, facts: Writes
    ) -> Mapping[str, str]:
        """External ids by `product:<line id>` and `product:charge:<n>`. Raises MissingDependency naming every missing SKU."""
        wanted = self._wanted(document, line_without, shipping)
        ids: dict[str, str] = {}
        missing: set[str] = set()
        for role, (product, sku) in wanted.items():
            if sku in facts.product_markers:
                ids[role] = sku
            elif external_id := await self._id(source, product, sku):
                ids[role] = external_id
            else:
                missing.add(sku)
        if missing:
            names = ", ".join(sorted(missing))
            raise MissingDependency(
                f"no product at the target for SKU {names}",
                missing=[f"product|{sku_key(sku, self._hasher)}" for sku in sorted(missing)],
                hint=f"add SKU {names} at the target, or let a product flow do it: the document goes on by itself",
            )
        return ids

    @staticmethod
    def _wanted(document: Document, line_without: str | None, shipping: str | None) -> dict[str, tuple[canon.Ref | None, str]]:
        wanted: dict[str, tuple[canon.Ref | None, str]] = {}
        for line in document.lines:
            if line.line_type in NO_PRODUCT:
                continue
            sku = line.sku or (shipping if line.line_type is LineType.SHIPPING else None) or line_without
            if not sku:
                raise RecordError(
                    f"line {line.line_no} ({line.line_type}) has no product",
                    hint="set product.line_without_product in the flow, or give the line a product at the source",
                    cause=Cause.MISSING_DEPENDENCY,
                )
            wanted[f"product:{line.line_id}"] = (line.product, sku)
        for index, charge in enumerate(document.charges):
            sku = shipping if charge.type is ChargeType.SHIPPING else (line_without or shipping)
            if not sku:
                raise RecordError(
                    f"charge {index + 1} ({charge.type}) has no product to stand for it",
                    hint="set product.shipping in the flow",
                    cause=Cause.MISSING_DEPENDENCY,
                )
            wanted[f"product:charge:{index}"] = (None, sku)
        return wanted

    async def _id(self, source: ObjectRef, product: canon.Ref | None, sku: str) -> str | None:
        """The link first, then our own records, then the vendor's search (remembered)."""
        if product is not None and product.id:
            link = self._state.link("product", ObjectRef(connection=source.connection, entity="product", id=product.id))
            if link is not None and link.state == "ACTIVE":
                return link.external_id
        async with self._locks.hold([f"match|product|{sku_key(sku, self._hasher)}"]):  # who searches or makes it is waited for
            return self._matcher.product_id(sku) or self._searched.get(sku) or await self._search(sku)

    async def _search(self, sku: str) -> str | None:
        """The vendor's word, remembered: that there is none, for a while. What comes meanwhile is in our own records first."""
        now = self._clock.now()
        self._missed = {missed: at for missed, at in self._missed.items() if now - at < MISSED_AGE_MAX}
        if sku in self._missed:
            return None
        found = await self._matcher.product(sku)
        if found is None:
            self._missed[sku] = now
            return None
        self._searched[sku] = found.record.id
        return found.record.id

    def forget(self, external_id: str) -> None:
        """A product changed: what a search said of it is void."""
        self._searched = {sku: known for sku, known in self._searched.items() if known != external_id}


async def default_customer(matcher: Matcher, code: str) -> str:
    """Id of the default debtor. Raises MissingDependency when it does not exist."""
    found = await matcher.by_number(code)
    if found is None:
        raise MissingDependency(
            f"the default debtor {code} does not exist at the target",
            missing=[f"customer|number:{code}"],
            hint=f"create debtor {code} there, or change customer.default.code in the flow",
        )
    return found
