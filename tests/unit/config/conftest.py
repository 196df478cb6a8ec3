from collections.abc import Callable

import pytest
from pydantic import BaseModel, ConfigDict

from bus.core.configuration import parse
from bus.kit.manifest import Manifest
from bus.runtime.validation import Report, System, validate

DOCUMENT = (
    *("number", "currency", "price_mode", "status", "payment_status", "fulfilment_status", "invoicing_status", "customer"),
    *("lines", "charges", "vat_breakdown", "totals", "payment_term", "payment_method", "order_date", "issue_date", "type"),
)


def manifest(system: str, **facts) -> Manifest:
    return Manifest.model_validate(
        {
            "id": system,
            "name": system,
            "entry_point": "connector:XConnector",
            "config": "connector:XConfig",
            "base_url": "https://vendor.test",
            "mapping_version": 1,
            "docs": "https://vendor.test/docs",
            "capabilities": ["incremental", "write"],
            "auth": {
                "kind": "oauth2",
                "authorize_url": "https://vendor.test/a",
                "token_url": "https://vendor.test/t",
                "client_auth": "basic",
                "access_token_lifetime_s": 600,
                "refresh_token_rotates": True,
                "refresh_token_lifetime_s": 3600,
            },
            "secrets": ["client_id", "client_secret"],
            "call_timeout_s": 30,
            **facts,
        }
    )


class LedgerConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    division: int
    region: str = "nl"
    kind_field: str | None = None


class ShopConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    realm_id: str
    environment: str = "production"


STEPS = [{"name": "main", "idempotency": "SEARCH"}]


def ledger() -> System:
    customer = ("kind", "number", "display_name", "company_name", "payment_term", "is_project", "active")
    product = ("sku", "kind", "name", "description_long", "gtin", "active", "custom_fields", "vat_class", "prices", "images")
    return System(
        config=LedgerConfig,
        manifest=manifest(
            "exact_online",
            limits=[{"name": "day", "calls": 5000, "per_s": 86_400, "window": "utc_day"}],
            streams=[
                {
                    "name": name,
                    "entities": [name],
                    "kind": "incremental",
                    "poll_s": 300,
                    "calls_per_poll": 2,
                    "page_size_max": 1000,
                }
                for name in ("customer", "product", "sales_order")
            ],
            reads={
                "customer": {"fields": customer},
                "product": {"fields": product},
                "product_category": {"fields": ["code", "name"]},
                "sales_order": {
                    "fields": [item for item in DOCUMENT if item not in ("payment_status", "issue_date", "type")],
                    "enums": {"fulfilment_status": ["NONE", "PARTIAL", "DELIVERED"], "invoicing_status": ["NONE", "INVOICED"]},
                },
            },
            writes={
                "customer": {
                    "actions": ["create", "update"],
                    "steps": STEPS,
                    "fields": customer,
                    "match": ["email", "vat", "number"],
                },
                "product": {"actions": ["create", "update"], "steps": STEPS, "fields": product, "match": ["sku"]},
                "sales_order": {
                    "actions": ["create"],
                    "steps": STEPS,
                    "fields": ["number", "lines", "charges", "payment_term", "currency", "customer", "custom_fields"],
                    "line_values": ["vat_code"],
                    "required_values": ["vat_code"],
                    "reference_fields": {"YourRef": 30},
                },
            },
            cannot={"branch": "sales orders have no branch", "product_category": "the API refuses to create item groups"},
        ),
    )


def shop() -> System:
    customer = ("kind", "display_name", "company_name", "payment_term", "is_project", "active")
    product = ("sku", "kind", "name", "description_long", "active", "images", "prices")
    return System(
        config=ShopConfig,
        manifest=manifest(
            "quickbooks",
            limits=[{"name": "minute", "calls": 500, "per_s": 60}],
            streams=[
                {
                    "name": "cdc",
                    "entities": ["customer", "product", "sales_invoice"],
                    "kind": "incremental",
                    "poll_s": 60,
                    "page_size_max": 1000,
                }
            ],
            reads={
                "customer": {"fields": customer},
                "product": {"fields": product},
                "sales_invoice": {
                    "fields": [item for item in DOCUMENT if item not in ("fulfilment_status", "order_date")],
                    "enums": {
                        "type": ["INVOICE", "RECEIPT", "CREDIT_NOTE"],
                        "payment_status": ["UNPAID", "PARTIAL", "PAID"],
                        "status": ["OPEN", "COMPLETED", "CANCELLED"],
                    },
                },
            },
            writes={
                "customer": {
                    "actions": ["create", "update", "deactivate"],
                    "steps": STEPS,
                    "fields": customer,
                    "match": ["email", "name"],
                    "facet": "currency",
                },
                "product": {
                    "actions": ["create", "update", "deactivate"],
                    "steps": STEPS,
                    "fields": product,
                    "header_values": ["income_account"],
                    "required_values": ["income_account"],
                    "document_types": ["SERVICE", "NON_INVENTORY", "INVENTORY"],
                    "match": ["sku", "name"],
                },
                "sales_invoice": {
                    "actions": ["create"],
                    "steps": STEPS,
                    "fields": ["number", "lines", "charges", "payment_term", "payment_method", "deposit_account", "customer"],
                    "line_values": ["vat_code"],
                    "required_values": ["vat_code"],
                    "document_types": ["INVOICE", "RECEIPT", "ESTIMATE"],
                    "reference_fields": {"DocNumber": 21},
                },
            },
        ),
    )


@pytest.fixture
def systems() -> dict[str, System]:
    return {"exact_online": ledger(), "quickbooks": shop()}


@pytest.fixture
def check(systems: dict[str, System]) -> Callable[..., Report]:
    def run(text: str, missing: tuple[str, ...] = ()) -> Report:
        return validate(parse(text, "acme.yaml"), systems, lambda secret, names: [name for name in names if name in missing])

    return run
