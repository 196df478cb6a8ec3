"""What the contract suite needs to know of each vendor beside its manifest."""

from decimal import Decimal
from typing import Any

from tests.contract.account import Exercise, Spoil

FLOAT_SUM = Decimal("0.30000000000000004")


def fill_accounts(simulator: Any, count: int) -> None:
    for number in range(count + 1):
        simulator.edit("customer", "new", {"Name": f"Bulk {number}", "Status": "C"})


def fill_items(simulator: Any, count: int) -> None:
    for number in range(count + 1):
        simulator.edit("product", "new", {"Code": f"BULK-{number}", "Description": f"Bulk {number}", "IsSalesItem": True})


def fill_groups(simulator: Any, count: int) -> None:
    for number in range(count + 1):
        simulator.division.insert("logistics/ItemGroups", {"Code": f"B{number}", "Description": f"Bulk {number}"})


def endless_link(request: Any, body: Any) -> Any:
    """Every page of the accounts names itself as the next."""
    if "sync/CRM/Accounts" in request.url.path:
        body["d"]["__next"] = str(request.url.copy_merge_params({"$skiptoken": "1L"}))
    return body


def late(simulator: Any, seconds: float) -> None:
    simulator.division.search_lag_s = seconds


def fill_company(simulator: Any, count: int) -> None:
    for number in range(count + 1):
        simulator.edit("customer", "new", {"DisplayName": f"Bulk {number}"})


def one_page_for_ever(request: Any, body: Any) -> Any:
    """Whatever start is asked for, the same thousand customers are served."""
    rows = body.get("QueryResponse", {}).get("Customer")
    if rows and "FROM Customer" in request.url.params.get("query", ""):
        body["QueryResponse"]["Customer"] = [{**rows[0], "Id": str(number)} for number in range(1, 1001)]
    return body


EXERCISES = {
    "exact_online": Exercise(
        document="sales_order",
        values={"vat_code": "2"},
        header={"payment_term": "30"},
        document_type=None,
        reference_field="YourRef",
        edits={
            "customer": {"Phone": "+31205559999"},
            "product": {"Description": "Another name"},
            "sales_order": {"YourRef": "Another reference"},
        },
        deletes={name: {"_delete": True} for name in ("customer", "product", "sales_order")},
        rests={"customer": {"EndDate": "2026-01-31"}, "product": {"EndDate": "2026-01-31"}},
        product_values={"item_group": "ALG", "vat_code": "2", "unit": "stuk"},
        fill={"customer": fill_accounts, "product": fill_items, "product_category": fill_groups},
        spoils={
            "enum": Spoil("sales_order", "OrderID", "Status", 99, beside="OrderNumber"),
            "amount": Spoil("sales_order", "OrderID", "VATAmount", FLOAT_SUM),
            "word": Spoil("sales_order", "OrderID", "AmountFC", "a lot", beside="OrderNumber"),
            "key": Spoil("customer", "ID", "ID", None, beside="Name"),
            "date": Spoil("customer", "ID", "Modified", "2026-11-20T10:00:00", beside="Name"),
        },
        loop=endless_link,
        looping_stream="customer",
        pages_rows=250,
        lag=late,
        lag_s=179,
        config={"order_charges": {"SHIPPING": "VERZEND"}},
        variants=({"code_range": (500_000, 599_999), "order_number_range": (500_000, 599_999)},),
    ),
    "quickbooks": Exercise(
        document="sales_invoice",
        values={"vat_code": "NL 21% S"},
        header={"payment_term": "Net 30"},
        document_type="INVOICE",
        reference_field="DocNumber",
        edits={
            "customer": {"Notes": "another note"},
            "product": {"Description": "Another text"},
            "product_category": {"Name": "Another name"},
            "sales_invoice": {"DueDate": "2027-01-31"},
        },
        shown_in={"product_category": ("product",)},
        deletes={"sales_invoice": {"_delete": True}},
        rests={name: {"_delete": True} for name in ("customer", "product")},
        product_values={"income_account": "Sales of Product Income"},
        product_type="NON_INVENTORY",
        fill={"cdc": fill_company},
        spoils={
            "enum": Spoil("product", "Id", "Type", "Hologram", beside="UnitPrice"),
            "amount": Spoil("sales_invoice", "Id", "TotalAmt", FLOAT_SUM, beside="TxnDate"),
            "word": Spoil("sales_invoice", "Id", "TotalAmt", "a lot", beside="TxnDate"),
            "key": Spoil("customer", "Id", "Id", None, beside="DisplayName"),
            "date": Spoil("customer", "Id", "MetaData.LastUpdatedTime", "2026-11-20T10:00:00", beside="DisplayName"),
        },
        loop=one_page_for_ever,
        looping_stream="cdc",
    ),
}
