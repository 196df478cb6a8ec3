"""QuickBooks objects to canonical entities and back. Pure: bytes and structs in, structs and bodies out."""

from collections.abc import Mapping

from bus.core.errors import MappingError
from bus.core.identity import Entity
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.customer import customer_from_vendor
from connectors.quickbooks.mapping.document import document_from_vendor, split_id
from connectors.quickbooks.mapping.parts import Joined, decode
from connectors.quickbooks.mapping.product import category_from_vendor, product_from_vendor


def canonical(entity: str, object_id: str, raw: bytes, joined: Mapping[str, bytes], realm_id: str) -> Entity:
    """The canonical entity of an object and what was joined to it. Raises MappingError with path, value and fix."""
    known = Joined(joined)
    match entity:
        case "customer":
            return customer_from_vendor(decode(raw, shapes.Customer, "Customer"), known)
        case "product":
            return product_from_vendor(decode(raw, shapes.Item, "Item"), known)
        case "product_category":
            return category_from_vendor(decode(raw, shapes.Item, "Item"), known)
        case "sales_invoice":
            kind, _ = split_id(object_id)
            return document_from_vendor(decode(raw, shapes.Sale, kind), kind, realm_id, known)
        case _:
            raise MappingError(f"QuickBooks has no {entity}")
