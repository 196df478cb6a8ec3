"""Makes the calls of a write, and finds out what an unclear one made.

Answers of creates are thin, so the last step of a write reads the object back. Once a call is answered nothing may make it look
unsent: a read-back that fails leaves the step without a record, never without its id.
"""

import base64
import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from bus.core.errors import BusError, MappingError, WriteRejected
from bus.kit.connector import RawRecord, Step, StepResult, Write
from connectors.exact_online import plans
from connectors.exact_online.mapping import product as products
from connectors.exact_online.mapping import shapes
from connectors.exact_online.mapping.customer import DELIVERY_TYPE
from connectors.exact_online.mapping.doubles import order_of
from connectors.exact_online.mapping.order import is_whole
from connectors.exact_online.mapping.values import code, iso_day, padded
from connectors.exact_online.odata import OData, guid, key_of, text
from connectors.exact_online.plans import SETS
from connectors.exact_online.references import References
from connectors.exact_online.wholes import ADDRESS, CONTACT, PRICE, Wholes
from schemas import canon

log = logging.getLogger(__name__)

Done = Mapping[str, StepResult]
ACCOUNT_STEPS = ("account", "numbered_account")
FOREIGN_DEBTOR = "foreign_debtor"


class Writing:
    """Writes to one division."""

    def __init__(self, odata: OData, wholes: Wholes, references: References, config: Any) -> None:
        self._odata = odata
        self._wholes = wholes
        self._references = references
        self._config = config

    async def perform(self, write: Write, step: Step, done: Done) -> StepResult:
        """The call of one step; the last one shows the object as it then stands."""
        return await self._shown(write, step, done, await getattr(self, f"_{step.name}")(write, step, done))

    async def search(self, write: Write, step: Step, done: Done) -> StepResult | None:
        """What an unclear step may have made."""
        finder = getattr(self, f"_find_{step.name}", None)
        found = await finder(write, step, done) if finder else None
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

    # --- customers ---------------------------------------------------------------------------------------------------------

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
        raise self._range_full("code_range")

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

    # --- products ----------------------------------------------------------------------------------------------------------

    async def _item(self, write: Write, step: Step, done: Done) -> StepResult:
        body = dict(step.body)
        if group := write.value("item_group"):
            body["ItemGroup"] = await self._group(group)
        assert isinstance(write.document, canon.Product)
        if vat_code := body.get("SalesVatCode"):
            await self._price_body(write.document, vat_code)  # what cannot be priced is not made
        try:
            created = await self._odata.post("logistics/Items", body)
        except WriteRejected as refusal:
            # The text says "exists already" in the user's language: a look-up decides.
            found = await self._find_item(write, step, done)
            if found is None:
                raise
            raise WriteRejected(
                str(refusal), code=refusal.code, existing_id=found, hint="an item with this SKU exists: link it"
            ) from None
        return StepResult(external_id=created["ID"])

    async def _group(self, name: str) -> str:
        rows = await self._odata.rows("logistics/ItemGroups", ("ID", "Code"), f"Code eq {text(name)}")
        if not rows:
            raise MappingError(f"item group {name!r} does not exist", hint="create it in Exact, or correct the table")
        return key_of(rows[0], "ID")

    async def _find_item(self, write: Write, step: Step, done: Done) -> str | None:
        rows = await self._odata.rows("logistics/Items", ("ID", "Code"), f"Code eq {text(step.key or '')}")
        return key_of(rows[0], "ID") if rows else None

    async def _price(self, write: Write, step: Step, done: Done) -> StepResult:
        """The base price, in the mode the item's VAT code wants: the row in force, else a new one from today."""
        item = self._item_of(write, done)
        body = await self._price_in_mode(write, item)
        known = await self._price_row(item, body["Currency"])
        if known is not None:
            await self._odata.put("logistics/SalesItemPrices", key_of(known, "ID"), {"Price": body["Price"]})
            return StepResult(external_id=key_of(known, "ID"))
        begin = {"Item": item, "Quantity": 1, "StartDate": self._references.day(0)}
        return StepResult(external_id=(await self._odata.post("logistics/SalesItemPrices", {**body, **begin}))["ID"])

    async def _find_price(self, write: Write, step: Step, done: Done) -> str | None:
        """The row in force, where it holds the price: another price there is an older one, and has to be changed."""
        item = self._item_of(write, done)
        body = await self._price_in_mode(write, item)
        known = await self._price_row(item, body["Currency"])
        return key_of(known, "ID") if known and Decimal(str(known.get("Price"))) == body["Price"] else None

    async def _price_in_mode(self, write: Write, item: str) -> dict[str, Any]:
        """What the row of the base price has to hold. The item is asked for its VAT code unless this write gives it."""
        assert isinstance(write.document, canon.Product)
        vat_code = write.value("vat_code") if write.action == "create" else None
        if vat_code is None:
            rows = await self._odata.rows("logistics/Items", ("ID", "SalesVatCode"), f"ID eq {guid(item)}")
            vat_code = rows[0].get("SalesVatCode") if rows else None
        body = await self._price_body(write.document, code(vat_code))
        assert body is not None, "a plan has the step only for a product with a price"
        return body

    @staticmethod
    def _item_of(write: Write, done: Done) -> str:
        """The item being changed, or just made."""
        return write.external_id or done["item"].external_id

    async def _price_body(self, document: canon.Product, vat_code: str | None) -> dict[str, Any] | None:
        """Raises MappingError for a VAT code the division does not have, and for a price that cannot be put in its mode."""
        codes = await self._references.vat_codes([vat_code])
        if vat_code and vat_code not in codes:
            raise MappingError(f"VAT code {vat_code!r} does not exist in the division", hint="correct vat_code of the flow")
        vat = codes.get(vat_code or "")
        return products.price_to_vendor(document, vat.type if vat else None, vat.fraction if vat else None)

    async def _price_row(self, item: str, currency: str) -> dict[str, Any] | None:
        """The base price in force today: of nobody in particular, from the first piece."""
        rows = await self._odata.rows("logistics/SalesItemPrices", PRICE, f"Item eq {guid(item)}")
        today = self._references.today()
        fitting = [
            row
            for row in rows
            if not row.get("Account")
            and row.get("Currency") == currency
            and Decimal(str(row.get("Quantity") or 1)) <= 1
            and iso_day(row.get("StartDate")) <= today
            and (not row.get("EndDate") or iso_day(row.get("EndDate")) >= today)
        ]
        return max(fitting, key=lambda row: (iso_day(row.get("StartDate")), key_of(row, "ID")), default=None)

    async def _image(self, write: Write, step: Step, done: Done) -> StepResult:
        """The picture, over whatever was there: an item holds one. https://start.exactonline.nl/docs/HlpRestAPIResourcesDetails.aspx?name=LogisticsItems"""
        assert isinstance(write.document, canon.Product)
        found = products.picture_of(write.document, write.pictures, self._config.picture_bytes_max)
        if found is None:
            raise MappingError("the picture's bytes are not at hand", hint="nothing to do: it is sent with the next change")
        item = self._item_of(write, done)
        await self._odata.put("logistics/Items", item, {"Picture": base64.b64encode(found[1]).decode()})
        return StepResult(external_id=item)

    # --- orders ------------------------------------------------------------------------------------------------------------

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
        raise self._range_full("order_number_range")

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

    # --- changes -----------------------------------------------------------------------------------------------------------

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

    # --- common --------------------------------------------------------------------------------------------------------------

    async def _read_back(self, write: Write, external_id: str, sent: Mapping[str, Any]) -> StepResult:
        """The object as it is now; `as_sent` says whether what was sent is what stands there."""
        try:
            record = (await self._wholes.read(write.entity, [external_id])).get(external_id)
            if record is not None:
                number, as_sent = _number(record), _stands(record, sent)
                return StepResult(external_id=external_id, number=number, record=record, as_sent=as_sent)
        except BusError as error:  # the write is done, whatever became of the look at it
            log.info("%s %s was written; reading it back failed: %s", write.entity, external_id, type(error).__name__)
        return StepResult(external_id=external_id, as_sent=False)

    @staticmethod
    def _range_full(name: str) -> WriteRejected:
        return WriteRejected(
            f"{plans.NUMBERS_TRIED} numbers of {name} are taken by others", hint=f"give config.{name} more room", regenerate=True
        )


def _own_account(rows: Iterable[Mapping[str, Any]], step: Step) -> str | None:
    """The account that bears our mark or, where somebody edited that, our name and address."""
    for row in rows:
        same = all((row.get(name) or None) == step.body.get(name) for name in ("Name", "Email"))
        if row.get("SearchCode") == step.body["SearchCode"] or same:
            return key_of(row, "ID")
    return None


def _own_order(rows: Iterable[Mapping[str, Any]], write: Write) -> str | None:
    """The order of our debtor with our reference."""
    ours = (write.reference, write.ids["customer"])
    return next((key_of(row, "OrderID") for row in rows if (row.get("YourRef"), row.get("OrderedBy")) == ours), None)


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


def _content(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two addresses the same."""
    names = ("AddressLine1", "AddressLine2", "AddressLine3", "Postcode", "City", "Country")
    return tuple("".join(str(row.get(name) or "").split()).casefold() for name in names)
