"""Which calls a write to Exact consists of, and their bodies. Pure.

Exact has no idempotency key: a create is found again by what the bus chose (SearchCode, Code, OrderNumber, YourRef) or by content
within its parent. A number of a reserved range is refused twice, which makes it the strongest of these.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from bus.core.errors import MappingError, WriteRejected
from bus.kit.connector import Step, StepResult, Write
from connectors.exact_online.mapping import customer as customers
from connectors.exact_online.mapping import product as products
from connectors.exact_online.mapping.order_body import Asked, Body, order_parts
from connectors.exact_online.mapping.values import numbers, search_mark
from schemas import canon
from schemas.system import IdempotencyClass

Done: TypeAlias = Mapping[str, StepResult]
"""Results of the steps before, by name."""
Call: TypeAlias = Callable[[Write, Step, Done], Awaitable[StepResult]]
"""Makes the call of one step."""
Find: TypeAlias = Callable[[Write, Step, Done], Awaitable[str | None]]
"""Id of what an unclear step made."""
REFERENCE_MAX = 30
DESCRIPTION_MAX = 60
NUMBERS_TRIED = 5
"""Numbers of a reserved range that one object may try, when other objects have the first."""
SETS = {"customer": "crm/Accounts", "product": "logistics/Items", "sales_order": "salesorder/SalesOrders"}
SEARCH, CLIENT_ID, REPEATABLE = IdempotencyClass.SEARCH, IdempotencyClass.CLIENT_ID, IdempotencyClass.REPEATABLE


def steps_of(write: Write, config: Any) -> Sequence[Step]:
    """The ordered calls of a write. Raises MappingError when a value has no place or a mandatory one is missing."""
    if write.entity not in SETS:
        raise MappingError(f"Exact Online cannot take a {write.entity}", hint="see `bus connectors show exact_online`")
    if write.entity == "sales_order" and write.action != "create":
        raise MappingError("an Exact order is written once and never changed", hint="set on_delete: ignore in the flow")
    if write.action == "delete":
        raise MappingError(
            f"the bus does not delete a {write.entity} in Exact", hint="set on_delete: deactivate, or ignore, in the flow"
        )
    if write.action == "deactivate":
        return [Step(name="deactivate", idempotency=REPEATABLE, primary=True)]
    if write.action == "update":
        return _updates(write, config)
    return {"customer": _customer, "product": _product, "sales_order": _order}[write.entity](write, config)


# --- customers ---------------------------------------------------------------------------------------------------------------


def _customer(write: Write, config: Any) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.Customer)
    mark = search_mark(write.key)
    body = {**customers.account_to_vendor(document, None, defaults_of(write)), "Status": "C", "SearchCode": mark}
    steps = [Step(name="account", idempotency=SEARCH, key=mark, primary=True, body=body)]
    if codes := codes_of(write, config.code_range):
        steps = [Step(name="numbered_account", idempotency=CLIENT_ID, key=codes[0], primary=True, body=body)]
    contact = customers.contact_to_vendor(document)
    if contact:
        steps.append(Step(name="contact", idempotency=SEARCH, key=contact.get("Email"), body=contact))
    steps += _delivery(document)
    if contact:
        steps.append(Step(name="main_contact", idempotency=REPEATABLE))
    return steps


def defaults_of(write: Write) -> Mapping[str, str]:
    """Codes of the division that a flow set on the customer. A customer made with its first document gets none: what that flow
    sets is the document's."""
    if write.value("reference") is not None:
        return {}
    found = {name: write.value(name) for name in ("payment_term", "vat_code")}
    return {name: value for name, value in found.items() if value is not None}


def _delivery(document: canon.Customer) -> Sequence[Step]:
    """The customer's own delivery address, where it has one: the main one, so that places of single orders stay behind it."""
    address = customers.delivery_of(customers.plain(document))
    return [Step(name="address", idempotency=SEARCH, body={**address_body(address), "Main": True})] if address else []


def address_body(address: canon.Address) -> Body:
    """A delivery address."""
    body = {"Type": customers.DELIVERY_TYPE, **customers.address_to_vendor(address)}
    return {key: value for key, value in body.items() if value is not None}


# --- products ----------------------------------------------------------------------------------------------------------------


def places_of(config: Any) -> products.Places:
    """Where parent and options of variants go."""
    return products.Places(parent=config.parent_field, options=config.option_fields)


def _product(write: Write, config: Any) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.Product)
    body = products.item_to_vendor(document, None, places_of(config))
    for name, member in (("vat_code", "SalesVatCode"), ("unit", "Unit")):
        if value := write.value(name):
            body[member] = value
    steps = [Step(name="item", idempotency=CLIENT_ID, key=document.sku, primary=True, body=body)]
    return [*steps, *_price(document), *_image(write, config)]


def _price(document: canon.Product) -> Sequence[Step]:
    """The base price, where the source has one."""
    if (price := products.base_price(document)) is None:
        return []
    return [Step(name="price", idempotency=SEARCH, body={"Price": price.value, "Currency": price.currency})]


def _image(write: Write, config: Any) -> Sequence[Step]:
    """The one picture an item holds. Its bytes stay out of the plan: their hash says which it is."""
    assert isinstance(write.document, canon.Product)
    found = products.picture_of(write.document, write.pictures, config.picture_bytes_max)
    return [Step(name="image", idempotency=REPEATABLE, key=found[0], body={"Picture": found[0]})] if found else []


# --- orders ------------------------------------------------------------------------------------------------------------------


def _order(write: Write, config: Any) -> Sequence[Step]:
    document = write.document
    assert isinstance(document, canon.SalesOrder | canon.SalesInvoice)
    if not write.reference:
        raise MappingError("an Exact order needs a reference to be found again", hint="give the flow a `reference`")
    if len(write.reference) > REFERENCE_MAX:
        raise MappingError(f"reference {write.reference!r} is longer than {REFERENCE_MAX}", hint="shorten the flow's reference")
    steps = []
    if (address := _ship_to(document)) is not None:
        steps.append(Step(name="address", idempotency=SEARCH, body=address_body(address)))
    body = order_body(write, config, None)
    if codes := codes_of(write, config.order_number_range):
        return [*steps, Step(name="numbered_order", idempotency=CLIENT_ID, key=codes[0], primary=True, body=body)]
    return [*steps, Step(name="order", idempotency=SEARCH, key=write.reference, primary=True, body=body)]


def order_body(write: Write, config: Any, vat_types: Mapping[str, str | None] | None) -> Body:
    """Header, lines and charges in one body. Raises MappingError."""
    document = write.document
    assert isinstance(document, canon.SalesOrder | canon.SalesInvoice)
    asked = Asked(ids=write.ids, resolved=write.resolved, vat_types=vat_types, charges=config.order_charges)
    lines, charges = order_parts(document, asked)
    if not lines:
        raise MappingError(
            "the document has no line an Exact order could hold", hint="set product.line_without_product in the flow"
        )
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
        "SalesOrderOrderChargeLines": charges or None,
    }
    return {key: value for key, value in body.items() if value is not None}


def _ship_to(document: canon.SalesOrder | canon.SalesInvoice) -> canon.Address | None:
    """Where the goods go, when it is not where the customer lives."""
    if document.ship_to is None:
        return None
    found = next((a for a in customers.plain(document.ship_to).addresses), None)
    home = customers.billing_of(customers.plain(document.customer)) if document.customer else None
    return found if found is not None and (home is None or customers.content_of(found) != customers.content_of(home)) else None


# --- common --------------------------------------------------------------------------------------------------------------------


def range_full(name: str) -> WriteRejected:
    """All numbers of a reserved range that a write may try are others': the next generation tries others."""
    return WriteRejected(
        f"{NUMBERS_TRIED} numbers of {name} are taken by others", hint=f"give config.{name} more room", regenerate=True
    )


def codes_of(write: Write, reserved: tuple[int, int] | None) -> list[str]:
    """The numbers of a reserved range an object may get, in the order of trying; none without a range."""
    return [str(number) for number in numbers(write.key, *reserved, NUMBERS_TRIED)] if reserved else []


def _updates(write: Write, config: Any) -> Sequence[Step]:
    """The object itself first, then what lies beside it and may have to be made: each is a step that is searched, never repeated
    blindly."""
    fields, document = write.fields or frozenset(), write.document
    steps: list[Step] = []
    if isinstance(document, canon.Customer):
        body = customers.account_to_vendor(document, fields, defaults_of(write))
        steps += _delivery(document) if "address.DELIVERY" in fields else []
    else:
        assert isinstance(document, canon.Product)
        body = products.item_to_vendor(document, fields, places_of(config))
        steps += _price(document) if "prices" in fields else []
        steps += _image(write, config) if "images" in fields else []
    return [Step(name="update", idempotency=REPEATABLE, primary=True, body=body), *steps]
