"""Which calls a write consists of, and their bodies. Pure, but for the lists it is given."""

from typing import Any, TypeVar

from bus.core.errors import MappingError
from bus.kit.connector import Step, Write
from connectors.quickbooks.lookups import UNASKED, Wanted
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.asked import Company, Names
from connectors.quickbooks.mapping.customer_body import customer_create, customer_update
from connectors.quickbooks.mapping.document_body import document_body, entity_of
from connectors.quickbooks.mapping.parts import decode
from connectors.quickbooks.mapping.product_body import category_body, product_create, product_update
from schemas import canon
from schemas.system import IdempotencyClass

CREATE, UPDATE, DEACTIVATE, IMAGE = "create", "update", "deactivate", "image"
ENTITIES = {"customer": "Customer", "product": "Item", "product_category": "Item"}
SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/jpg": "jpg", "image/gif": "gif", "image/tiff": "tif"}
"""Pictures QuickBooks takes. https://developer.intuit.com/app/developer/qbo/docs/workflows/attach-images-and-notes"""

Body = dict[str, Any]
T = TypeVar("T")


def vendor_entity(write: Write) -> str:
    """The vendor's entity a write goes to. Raises MappingError."""
    if write.entity == "sales_invoice":
        return entity_of(write)
    if write.entity not in ENTITIES:
        raise MappingError(f"QuickBooks has no {write.entity}", hint="send sales_invoice with type ESTIMATE for an order")
    return ENTITIES[write.entity]


def steps_of(write: Write) -> list[Step]:
    """The ordered calls of a write. Raises MappingError when a value has no place or a mandatory one is missing."""
    entity = vendor_entity(write)
    if write.action == "deactivate" and write.entity in ENTITIES:
        body: Body = {"Id": write.external_id, "sparse": True, "Active": False}
        return [Step(name=DEACTIVATE, idempotency=IdempotencyClass.REPEATABLE, primary=True, body=body)]
    if write.action == "delete" or (write.entity == "sales_invoice" and write.action != CREATE):
        raise MappingError(f"the bus does not {write.action} a {entity} in QuickBooks", hint="set on_delete: ignore in the flow")
    body = body_of(write, Wanted(), UNASKED)
    if write.action == UPDATE:
        first = Step(name=UPDATE, idempotency=IdempotencyClass.REPEATABLE, primary=True, body=body)
    elif write.entity == "sales_invoice":
        first = Step(name=CREATE, idempotency=IdempotencyClass.SEARCH, key=write.key, primary=True, body=body)
    else:
        first = Step(name=CREATE, idempotency=IdempotencyClass.KEY, key=write.key, primary=True, body=body)
    return [first, *_image_steps(write)]


def body_of(write: Write, names: Names, company: Company) -> Body:
    """The body of the step that makes or changes the object."""
    document, updates = write.document, write.action == UPDATE
    if isinstance(document, canon.Customer):
        if not updates:
            return customer_create(write, document, names)
        return customer_update(write, document, names, _known(write, shapes.Customer))
    if isinstance(document, canon.Product):
        if not updates:
            return product_create(write, document, names, company)
        return product_update(write, document, names, company, _known(write, shapes.Item))
    if isinstance(document, canon.ProductCategory):
        return category_body(write, document)
    return document_body(write, document, names, company)


def _known(write: Write, kind: type[T]) -> T:
    if write.known is None:
        raise MappingError(f"an update of {write.entity} {write.external_id} without the object as it is now")
    return decode(write.known.raw, kind, write.entity)


# --- pictures ----------------------------------------------------------------------------------------------------------------


def _image_steps(write: Write) -> list[Step]:
    found = picture_of(write)
    if found is None or (write.fields is not None and "images" not in write.fields):
        return []
    name, image = found
    return [Step(name=IMAGE, idempotency=IdempotencyClass.SEARCH, key=name, body={"FileName": name, "Size": image.size_bytes})]


def picture_of(write: Write) -> tuple[str, canon.Image] | None:
    """The first picture whose bytes are at hand, and the name it is uploaded under: its content's hash, by which it is found."""
    images = write.document.images if isinstance(write.document, canon.Product) else []
    for image in sorted(images, key=lambda item: item.position):
        suffix = SUFFIXES.get(image.media_type or "")
        if image.sha256 and suffix and image.sha256 in write.pictures:
            return f"{image.sha256}.{suffix}", image
    return None
