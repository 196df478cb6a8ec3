"""Writes of Exact Online: plans, calls, and searches for what an unclear call may have made.

Exact has no idempotency key and no ETag: a create is found again by a mark the bus chose (SearchCode, Code, YourRef) or by
content within its parent; an update reads first, sends only what changed, and reads back.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from bus.core.errors import MappingError, WriteRejected
from bus.kit.connector import RawRecord, Step, StepResult, Write
from connectors.exact_online.mapping import customer as customers
from connectors.exact_online.mapping import order as orders
from connectors.exact_online.mapping import product as products
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.values import ZONE, code, search_mark
from connectors.exact_online.odata import OData, guid, text
from connectors.exact_online.wholes import ADDRESS, CONTACT, PRICE, Wholes
from schemas import canon
from schemas.system import IdempotencyClass

REFERENCE_MAX = 30
DESCRIPTION_MAX = 60
DELIVERY_TYPE = 4
SETS = {"customer": "crm/Accounts", "product": "logistics/Items", "sales_order": "salesorder/SalesOrders"}


def plan(write: Write) -> Sequence[Step]:
    """The calls of a write. Pure."""
    if write.entity not in SETS:
        raise MappingError(f"Exact Online cannot take a {write.entity}", hint="see `bus connectors show exact_online`")
    if write.action == "update":
        return [Step(name="update", idempotency=IdempotencyClass.REPEATABLE, primary=True, body=_update_body(write))]
    if write.action in ("deactivate", "delete"):
        return [Step(name="deactivate", idempotency=IdempotencyClass.REPEATABLE, primary=True)]
    return {"customer": _plan_customer, "product": _plan_product, "sales_order": _plan_order}[write.entity](write)


def _plan_customer(write: Write) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.Customer)
    mark = search_mark(write.key)
    body = {**customers.account_to_vendor(document, None), "Status": "C", "SearchCode": mark}
    steps = [Step(name="account", idempotency=IdempotencyClass.SEARCH, key=mark, primary=True, body=body)]
    if contact := customers.contact_to_vendor(document):
        steps.append(Step(name="contact", idempotency=IdempotencyClass.SEARCH, key=contact.get("Email"), body=contact))
        steps.append(Step(name="main_contact", idempotency=IdempotencyClass.REPEATABLE))
    if (address := customers.delivery_of(customers.plain(document))) is not None:
        steps.append(Step(name="address", idempotency=IdempotencyClass.SEARCH, body=_address_body(address)))
    return steps


def _plan_product(write: Write) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.Product)
    body = products.item_to_vendor(document, None)
    for name, member in (("vat_code", "SalesVatCode"), ("unit", "Unit")):
        if value := write.value(name):
            body[member] = value
    steps = [Step(name="item", idempotency=IdempotencyClass.CLIENT_ID, key=document.sku, primary=True, body=body)]
    if (price := products.base_price(document)) is not None:
        steps.append(
            Step(name="price", idempotency=IdempotencyClass.SEARCH, body={"Price": price.value, "Currency": price.currency})
        )
    return steps


def _plan_order(write: Write) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.SalesOrder | canon.SalesInvoice)
    if not write.reference:
        raise MappingError("an Exact order needs a reference to be found again", hint="give the flow a `reference`")
    if len(write.reference) > REFERENCE_MAX:
        raise MappingError(f"reference {write.reference!r} is longer than {REFERENCE_MAX}", hint="shorten the flow's reference")
    lines = orders.lines_to_vendor(document, dict(write.ids), list(write.resolved))
    if not lines:
        raise MappingError(
            "the document has no line an Exact order could hold", hint="set product.line_without_product in the flow"
        )
    steps = []
    if (address := _ship_to(document)) is not None:
        steps.append(Step(name="address", idempotency=IdempotencyClass.SEARCH, body=_address_body(address)))
    ordered = document.order_date if isinstance(document, canon.SalesOrder) else document.issue_date
    body = {
        "OrderedBy": write.ids["customer"],
        "OrderDate": ordered.isoformat() if ordered else None,
        "DeliveryDate": document.delivery_date.isoformat() if document.delivery_date else None,
        "YourRef": write.reference,
        "Description": f"{document.number or write.reference}"[:DESCRIPTION_MAX],
        "Currency": document.currency,
        "PaymentCondition": write.value("payment_term"),
        "SalesOrderLines": lines,
    }
    body = {key: value for key, value in body.items() if value is not None}
    steps.append(Step(name="order", idempotency=IdempotencyClass.SEARCH, key=write.reference, primary=True, body=body))
    return steps


def _ship_to(document: canon.SalesOrder | canon.SalesInvoice) -> canon.Address | None:
    """Where the goods go, when it is not where the customer lives."""
    if document.ship_to is None:
        return None
    found = next((a for a in customers.plain(document.ship_to).addresses), None)
    home = customers.billing_of(customers.plain(document.customer)) if document.customer else None
    return found if found is not None and (home is None or customers.content_of(found) != customers.content_of(home)) else None


def _address_body(address: canon.Address) -> dict[str, Any]:
    body = {"Type": DELIVERY_TYPE, **customers.address_to_vendor(address)}
    return {key: value for key, value in body.items() if value is not None}


def _update_body(write: Write) -> dict[str, Any]:
    fields = write.fields or frozenset()
    if isinstance(write.document, canon.Customer):
        return customers.account_to_vendor(write.document, fields)
    if isinstance(write.document, canon.Product):
        return products.item_to_vendor(write.document, fields)
    raise MappingError(f"{write.entity} is written once and never changed", hint="set write: create")


class Writing:
    """Makes the calls."""

    def __init__(self, odata: OData, wholes: Wholes, config: Any, clock: Any) -> None:
        self._odata = odata
        self._wholes = wholes
        self._config = config
        self._clock = clock

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """The call of one step, and its read-back where the answer is thin."""
        return await getattr(self, f"_{step.name}")(write, step, done)  # type: ignore[no-any-return]

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        """What an unclear step may have made."""
        finder = getattr(self, f"_find_{step.name}", None)
        found = await finder(write, step, done) if finder else None
        return StepResult(external_id=found, replayed=True, record=await self._record(write, step, found)) if found else None

    async def _record(self, write: Write, step: Step, external_id: str) -> RawRecord | None:
        return (await self._wholes.read(write.entity, [external_id])).get(external_id) if step.primary else None

    # --- customers ---------------------------------------------------------------------------------------------------------

    async def _account(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        body = dict(step.body)
        assert isinstance(write.document, canon.Customer)
        if self._config.kind_field and (kind := await self._wholes.classification(str(write.document.kind))):
            body[self._config.kind_field] = kind
        created = await self._odata.post("crm/Accounts", body)
        return await self._read_back(write, created["ID"], step.body)

    async def _find_account(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        rows = await self._odata.rows("crm/Accounts", ("ID", "SearchCode"), f"SearchCode eq {text(step.key or '')}")
        return rows[0]["ID"] if rows else None

    async def _contact(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        created = await self._odata.post("crm/Contacts", {**step.body, "Account": done["account"].external_id})
        return StepResult(external_id=created["ID"])

    async def _find_contact(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        rows = await self._odata.rows("crm/Contacts", CONTACT, f"Account eq {guid(done['account'].external_id)}")
        names = ("FirstName", "LastName", "Email")
        return next((row["ID"] for row in rows if all((row.get(n) or None) == step.body.get(n) for n in names)), None)

    async def _main_contact(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        account = done["account"].external_id
        await self._odata.put("crm/Accounts", account, {"MainContact": done["contact"].external_id})
        result = await self._read_back(write, account, {})
        return StepResult(external_id=done["contact"].external_id, record=result.record)

    async def _address(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """A delivery address; one with the same content is used again."""
        account = self._owner(write, done)
        if (known := await self._same_address(account, step)) is not None:
            return StepResult(external_id=known, replayed=True)
        created = await self._odata.post("crm/Addresses", {**step.body, "Account": account})
        record = (await self._read_back(write, account, {})).record if write.entity == "customer" else None
        return StepResult(external_id=created["ID"], record=record)

    async def _find_address(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        return await self._same_address(self._owner(write, done), step)

    @staticmethod
    def _owner(write: Write, done: Mapping[str, StepResult]) -> str:
        return done["account"].external_id if "account" in done else write.ids["customer"]

    async def _same_address(self, account: str, step: Step) -> str | None:
        rows = await self._odata.rows("crm/Addresses", ADDRESS, f"Account eq {guid(account)} and Type eq {DELIVERY_TYPE}")
        wanted = _content(step.body)
        return next((row["ID"] for row in rows if _content(row) == wanted), None)

    # --- products ----------------------------------------------------------------------------------------------------------

    async def _item(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        body = dict(step.body)
        if group := write.value("item_group"):
            body["ItemGroup"] = await self._group(group)
        try:
            created = await self._odata.post("logistics/Items", body)
        except WriteRejected as refusal:
            found = await self._find_item(
                write, step, done
            )  # the text says "exists already" in the user's language: a look-up decides
            if found is None:
                raise
            raise WriteRejected(
                str(refusal), code=refusal.code, existing_id=found, hint="an item with this SKU exists: link it"
            ) from None
        return await self._read_back(write, created["ID"], step.body)

    async def _group(self, name: str) -> str:
        rows = await self._odata.rows("logistics/ItemGroups", ("ID", "Code"), f"Code eq {text(name)}")
        if not rows:
            raise MappingError(f"item group {name!r} does not exist", hint="create it in Exact, or correct the table")
        return str(rows[0]["ID"])

    async def _find_item(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        rows = await self._odata.rows("logistics/Items", ("ID", "Code"), f"Code eq {text(step.key or '')}")
        return rows[0]["ID"] if rows else None

    async def _price(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        item = done["item"].external_id
        created = await self._odata.post(
            "logistics/SalesItemPrices", {**step.body, "Item": item, "Quantity": 1, "StartDate": self._day(0)}
        )
        return StepResult(external_id=created["ID"], record=(await self._read_back(write, item, {})).record)

    async def _find_price(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        rows = await self._odata.rows("logistics/SalesItemPrices", PRICE, f"Item eq {guid(done['item'].external_id)}")
        return next(
            (
                row["ID"]
                for row in rows
                if not row.get("Account")
                and row.get("Currency") == step.body["Currency"]
                and Decimal(str(row.get("Quantity") or 1)) <= 1
            ),
            None,
        )

    # --- orders ------------------------------------------------------------------------------------------------------------

    async def _order(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        body = dict(step.body)
        if "address" in done:
            body["DeliveryAddress"] = done["address"].external_id
        created = await self._odata.post("salesorder/SalesOrders", body)
        if created.get("OrderedBy") != body["OrderedBy"]:
            raise WriteRejected(
                "Exact dropped the debtor of the order in silence",
                hint="the debtor belongs to another division: link the customer anew",
            )
        record = (await self._wholes.orders([created["OrderID"]])).get(created["OrderID"])
        return StepResult(external_id=created["OrderID"], number=str(created.get("OrderNumber") or ""), record=record)

    async def _find_order(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> str | None:
        condition = f"YourRef eq {text(step.key or '')} and OrderedBy eq {guid(write.ids['customer'])}"
        rows = await self._odata.rows("salesorder/SalesOrders", ("OrderID", "YourRef"), condition)
        return rows[0]["OrderID"] if rows else None

    # --- changes -----------------------------------------------------------------------------------------------------------

    async def _update(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        assert write.external_id is not None
        if step.body:
            await self._odata.put(SETS[write.entity], write.external_id, step.body)
        if write.entity == "product" and write.fields and "prices" in write.fields:
            await self._new_price(write)
        if write.entity == "customer" and write.fields and "address.DELIVERY" in write.fields:
            await self._new_delivery(write)
        return await self._read_back(write, write.external_id, step.body)

    async def _new_price(self, write: Write) -> None:
        """A base price of the same currency is changed in place, else a row is added."""
        assert isinstance(write.document, canon.Product)
        price = products.base_price(write.document)
        if price is None:
            return
        rows = await self._odata.rows("logistics/SalesItemPrices", PRICE, f"Item eq {guid(write.external_id or '')}")
        same = next((row for row in rows if not row.get("Account") and row.get("Currency") == price.currency), None)
        if same is not None:
            await self._odata.put("logistics/SalesItemPrices", same["ID"], {"Price": price.value})
        else:
            body = {
                "Item": write.external_id,
                "Price": price.value,
                "Currency": price.currency,
                "Quantity": 1,
                "StartDate": self._day(0),
            }
            await self._odata.post("logistics/SalesItemPrices", body)

    async def _new_delivery(self, write: Write) -> None:
        assert isinstance(write.document, canon.Customer)
        address = customers.delivery_of(customers.plain(write.document))
        if address is None:
            return
        step = Step(name="address", idempotency=IdempotencyClass.SEARCH, body=_address_body(address))
        if await self._same_address(write.external_id or "", step) is None:
            await self._odata.post("crm/Addresses", {**step.body, "Account": write.external_id})

    async def _deactivate(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        """An end date in the past: there is no active flag."""
        assert write.external_id is not None
        await self._odata.put(SETS[write.entity], write.external_id, {"EndDate": self._day(-1)})
        return await self._read_back(write, write.external_id, {})

    def _day(self, days: int) -> str:
        return (self._clock.now().astimezone(ZONE).date() + timedelta(days=days)).isoformat()  # type: ignore[no-any-return]

    async def _read_back(self, write: Write, external_id: str, sent: Mapping[str, Any]) -> StepResult:
        """The object as it is now; `as_sent` says whether what was sent is what stands there."""
        record = (await self._wholes.read(write.entity, [external_id])).get(external_id)
        if record is None:
            return StepResult(external_id=external_id, as_sent=False)
        number = None
        if write.entity == "customer":
            whole = shapes.decoded(record.raw, shapes.WholeAccount, "Account")
            number = code(whole.Account.Code)
        return StepResult(external_id=external_id, number=number, record=record, as_sent=_stands(record, sent))


def _stands(record: RawRecord, sent: Mapping[str, Any]) -> bool:
    """Whether each sent member reads back as sent, blanks of padded codes aside."""
    import msgspec  # noqa: PLC0415 - one use

    whole = msgspec.json.decode(record.raw)
    row = whole.get("Account") or whole.get("Item") or {}
    for name, value in sent.items():
        if name in row and isinstance(value, str) and str(row[name]).strip().upper() != value.strip().upper():
            return False
    return True


def _content(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two addresses the same."""
    names = ("AddressLine1", "AddressLine2", "AddressLine3", "Postcode", "City", "Country")
    return tuple("".join(str(row.get(name) or "").split()).casefold() for name in names)
