"""What a company says of itself: CompanyInfo and Preferences, as rows that can only be read."""

from typing import Any

from connectors.quickbooks.simulation.company import Company

BEGIN = "2025-01-02T01:00:00-08:00"
FRAME = {
    "domain": "QBO",
    "sparse": False,
    "Id": "1",
    "SyncToken": "0",
    "MetaData": {"CreateTime": BEGIN, "LastUpdatedTime": BEGIN},
}
NAME = "Simulated Trading B.V."


def company_info(company: Company) -> dict[str, Any]:
    """https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/companyinfo"""
    address = {"Id": "1", "Line1": "Herengracht 500", "City": "Amsterdam", "PostalCode": "1017 CB", "Country": company.country}
    values = {"OfferingSku": "QuickBooks Online Plus", "SubscriptionStatus": "SUBSCRIBED", "ItemCategoriesFeature": "true"}
    return {
        **FRAME,
        "CompanyName": NAME,
        "LegalName": NAME,
        "CompanyAddr": address,
        "Country": company.country,
        "FiscalYearStartMonth": "January",
        "DefaultTimeZone": "Europe/Amsterdam",
        "SupportedLanguages": "en",
        "Email": {"Address": "books@simulated.test"},
        "NameValue": [{"Name": name, "Value": value} for name, value in values.items()],
    }


def preferences(company: Company) -> dict[str, Any]:
    """https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/preferences"""
    accounting: dict[str, Any] = {
        "UseAccountNumbers": False,
        "ClassTrackingPerTxn": False,
        "ClassTrackingPerTxnLine": True,
        "TrackDepartments": True,
    }
    if company.close_date is not None:
        accounting["BookCloseDate"] = company.close_date
    return {
        **FRAME,
        "AccountingInfoPrefs": accounting,
        "ProductAndServicesPrefs": {
            "ForSales": True,
            "ForPurchase": True,
            "QuantityOnHand": True,
            "QuantityWithPriceAndRate": True,
        },
        "SalesFormsPrefs": {
            "CustomTxnNumbers": company.custom_txn_numbers,
            "AllowShipping": True,
            "AllowDiscount": True,
            "AllowDeposit": True,
            "AllowEstimates": True,
            "CustomField": [],
        },
        "TaxPrefs": {"UsingSalesTax": True, "PartnerTaxEnabled": False},
        "CurrencyPrefs": {"MultiCurrencyEnabled": True, "HomeCurrency": {"value": company.home}},
    }
