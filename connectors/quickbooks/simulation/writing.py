"""Writes: create, full and sparse update, delete, void; each either refused whole or done whole."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from connectors.quickbooks.simulation import members, names, payments, sales
from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.entities import ENTITIES, SALES, Entity, Kind
from connectors.quickbooks.simulation.refusals import missing, stale, unsupported
from connectors.quickbooks.simulation.totals import sales_lines, settle

FIXED = ("CurrencyRef", "Type", "Active")
"""Members that a full update leaves as they were where it omits them."""
KEPT = ("Id", "domain", "Balance", "BalanceWithJobs", "Size", "FileAccessUri", "TempDownloadUri")
"""Members that no update changes."""
VOIDED = "Voided"
VOIDED_BY_OPERATION = ("Invoice",)
VOIDED_BY_INCLUDE = ("SalesReceipt", "RefundReceipt", "Payment")


def create(
    company: Company, entity: str, body: Mapping[str, Any], *, may_repeat_number: bool = False, is_screen: bool = False
) -> Row:
    """A new row. Raises Refused."""
    known = _changeable(entity, "create")
    row = members.typed(members.writable(known, body))
    _prepare(company, known, row, None, may_repeat_number=may_repeat_number, is_screen=is_screen)
    company.add(entity, row)
    _follow(company, entity, row, None)
    return row


def update(
    company: Company, entity: str, body: Mapping[str, Any], *, may_repeat_number: bool = False, is_screen: bool = False
) -> Row:
    """The next version: of the given members alone when `sparse`, else of all. Raises Refused."""
    known = _changeable(entity, "update")
    old = _current(company, entity, body)
    given = members.writable(known, body)
    row = members.typed(given)
    if body.get("sparse") is True:
        nulls = given.keys() - row.keys()
        row = {name: value for name, value in old.items() if name not in nulls} | row
    else:
        kept = {name: old[name] for name in FIXED if name in old and name not in row}
        row = {**kept, **row}
    for name in KEPT:
        if name in old:
            row[name] = old[name]
    row["sparse"] = False
    if "TxnDate" in old:
        sales.check_period(company, old)
    _prepare(company, known, row, old, may_repeat_number=may_repeat_number, is_screen=is_screen)
    company.replace(entity, row)
    _follow(company, entity, row, old)
    return row


def delete(company: Company, entity: str, body: Mapping[str, Any]) -> Row:
    """Takes out a transaction or an attachment; lists cannot be deleted. Raises Refused."""
    if ENTITIES[entity].kind not in (Kind.TRANSACTION, Kind.ATTACHMENT):
        raise unsupported(f"delete of {entity}")
    row = _current(company, entity, body)
    if "TxnDate" in row:
        sales.check_period(company, row)
    if entity == "Payment":
        payments.apply(company, row, is_gone=True)
    else:
        payments.release(company, entity, row)
    company.remove(entity, row)
    return row


def void(company: Company, entity: str, body: Mapping[str, Any]) -> Row:
    """The row stays, with zeros and a note; payments are taken off. Raises Refused."""
    row = _current(company, entity, body)
    sales.check_period(company, row)
    if entity == "Payment":
        row |= {"TotalAmt": Decimal(0), "UnappliedAmt": Decimal(0), "Line": []}
        payments.apply(company, row)
    else:
        payments.release(company, entity, row)
        row["Line"] = [line for line in row["Line"] if line["DetailType"] != "DiscountLineDetail"]
        for line in sales_lines(row["Line"]):
            line["Amount"] = Decimal(0)
            line["SalesItemLineDetail"].update({"Qty": Decimal(0), "UnitPrice": Decimal(0)})
            line["SalesItemLineDetail"].pop("TaxInclusiveAmt", None)
        row[sales.OVERRIDES] = {}
        settle(row, company.rates(), {})
        payments.refresh(company, entity, row)
    row["PrivateNote"] = f"{VOIDED} - {row['PrivateNote']}" if "PrivateNote" in row else VOIDED
    company.replace(entity, row)
    return row


def _changeable(entity: str, verb: str) -> Entity:
    known = ENTITIES[entity]
    if known.kind is Kind.READ_ONLY:
        raise unsupported(f"{verb} of {entity}")
    return known


def _current(company: Company, entity: str, body: Mapping[str, Any]) -> Row:
    """The row a body speaks of, if it speaks of its present version. Raises Refused 2020, 610, 5010."""
    for name in ("Id", "SyncToken"):
        if body.get(name) in (None, ""):
            raise missing(name)
    row = company.row(entity, body["Id"])
    if str(body["SyncToken"]) != row["SyncToken"]:
        raise stale()
    return row


def _prepare(company: Company, entity: Entity, row: Row, old: Row | None, *, may_repeat_number: bool, is_screen: bool) -> None:
    members.check(company, entity, row, old)
    if entity.kind is Kind.LIST:
        names.prepare(company, entity, row, old, is_screen=is_screen)
    elif entity.name in SALES:
        sales.prepare(company, entity.name, row, old, may_repeat_number=may_repeat_number)
    elif entity.name == "Payment":
        payments.prepare(company, row, old)
    else:
        members.check_targets(company, row)


def _follow(company: Company, entity: str, row: Row, old: Row | None) -> None:
    """What a write does to other rows."""
    if entity == "Payment":
        payments.apply(company, row)
    elif entity in SALES:
        payments.refresh(company, entity, row)
        for link in row[sales.ESTIMATES]:
            _close(company, link["TxnId"], row["Id"])
    elif ENTITIES[entity].kind is Kind.LIST and old is not None:
        name = ENTITIES[entity].name_field
        if row[name] != old[name]:
            names.requalify(company, entity)


def _close(company: Company, estimate_id: str, invoice_id: str) -> None:
    """An estimate that was invoiced is closed and knows its invoice."""
    estimate = company.row("Estimate", estimate_id)
    link = {"TxnId": invoice_id, "TxnType": "Invoice"}
    if link not in estimate["LinkedTxn"]:
        estimate |= {"TxnStatus": "Closed", "LinkedTxn": [*estimate["LinkedTxn"], link]}
        company.replace("Estimate", estimate)
