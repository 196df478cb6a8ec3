"""The write policy of a flow, as it travels inside each command.

A command carries the policy of the configuration that made it, so that a replayed command decides as it did then and a sink
needs no flow configuration of its own.
"""

from typing import Literal

import msgspec

Ownership = Literal["last_change", "source", "target", "create_only"]


class CustomerPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an order flow does about its customer."""

    match: tuple[Literal["email+kind", "email", "vat", "number"], ...] = ("email+kind",)
    missing: Literal["create", "park", "default"] = "create"
    found: Literal["link"] = "link"
    patience_s: int = 3 * 86_400


class ProductPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an order flow does about its products."""

    match: tuple[Literal["sku", "gtin"], ...] = ("sku",)
    missing: Literal["park"] = "park"
    patience_s: int = 3 * 86_400
    line_without_product: str | None = None
    """SKU of the target's product for lines without one; null parks such documents."""
    shipping: str | None = None
    """SKU (or the vendor's own marker) for shipping charges; null parks documents with shipping."""


class WritePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a sink carries out the commands of one flow."""

    write: Literal["create", "upsert"] = "create"
    on_delete: Literal["ignore", "deactivate", "delete"] = "ignore"
    existing: Literal["send", "link"] = "send"
    create_only: tuple[str, ...] = ()
    owner: dict[str, Ownership] = {}
    match: tuple[str, ...] = ()
    """Match keys of customers and products themselves, in order; empty is the entity's default."""
    customer: CustomerPolicy = CustomerPolicy()
    product: ProductPolicy = ProductPolicy()
    category_flow: str | None = None
    """Flow that brings the categories of this flow's products to the same account; products wait for theirs."""

    def owner_of(self, path: str) -> Ownership:
        """Who owns a field: the flow's own word, else its parent's, else `*`, else the last change."""
        if path in self.create_only or path.split(".", 1)[0] in self.create_only:
            return "create_only"
        return self.owner.get(path) or self.owner.get(path.split(".", 1)[0]) or self.owner.get("*") or "last_change"


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(WritePolicy)


def encode_policy(policy: WritePolicy) -> bytes:
    """Stable bytes: equal policies give equal bytes."""
    return _ENCODER.encode(policy)


def decode_policy(data: bytes) -> WritePolicy:
    """The policy of a command."""
    return _DECODER.decode(data)
