"""What the contract suite needs to know of each vendor beside its manifest."""

from tests.contract.account import Exercise

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
            "sales_order": {"Description": "Another text"},
        },
        deletes={"customer": {"_delete": True}},
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
            "sales_invoice": {"PrivateNote": "another note"},
        },
        deletes={"sales_invoice": {"_delete": True}},
        product_values={"income_account": "Sales of Product Income"},
        product_type="NON_INVENTORY",
    ),
}
