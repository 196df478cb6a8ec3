"""What objects refer to: fetched by id in few calls, remembered for a while, refreshed by what polling sees."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from bus.core.clock import Clock
from bus.core.errors import MappingError, RecordError
from bus.kit.connector import RawRecord
from connectors.quickbooks.api import PAGE_SIZE_MAX, Api
from connectors.quickbooks.mapping import shapes
from connectors.quickbooks.mapping.document import split_id
from connectors.quickbooks.mapping.lines import SHIPPING
from connectors.quickbooks.mapping.parts import decode
from schemas.system import Cause

FRESH_S = 900
"""How long a reference is believed without being asked again."""
BYTES_MAX = 48 * 1024 * 1024
ROUNDS_MAX = 8
"""References of references: an item's categories, a tax code's rates, a project's customer."""
PREFERENCES = "Preferences"
ALWAYS_FRESH = frozenset({"Payment"})
"""Never remembered: change data capture does not tell of them here."""
OPTIONAL = frozenset({"Payment"})
"""Where a missing object is an answer: a payment that is gone pays nothing."""


class _Id(shapes.Vendor, frozen=True, kw_only=True):
    id: str


class References:
    """A bounded memory of referred objects by `Entity:id`."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._known: OrderedDict[str, tuple[datetime, bytes]] = OrderedDict()
        self._bytes = 0
        self._lists: dict[str, tuple[datetime, Sequence[bytes]]] = {}

    def remember(self, key: str, raw: bytes) -> None:
        """A fresh object."""
        self.forget(key)
        self._known[key] = (self._clock.now(), raw)
        self._bytes += len(raw)
        while self._bytes > BYTES_MAX:
            _, (_, old) = self._known.popitem(last=False)
            self._bytes -= len(old)

    def forget(self, key: str) -> None:
        """An object that is gone or changed."""
        if known := self._known.pop(key, None):
            self._bytes -= len(known[1])

    def _fresh(self, key: str) -> bytes | None:
        known = self._known.get(key)
        if known is None or not self._is_fresh(known[0]):
            return None
        self._known.move_to_end(key)
        return known[1]

    def _is_fresh(self, since: datetime) -> bool:
        return self._clock.now() - since < timedelta(seconds=FRESH_S)

    async def preferences(self) -> bytes:
        """The company's settings."""
        if known := self._fresh(PREFERENCES):
            return known
        raw = await self._api.preferences()
        self.remember(PREFERENCES, raw)
        return raw

    async def names(self, entity: str) -> Sequence[bytes]:
        """A whole reference list, active rows and others."""
        known = self._lists.get(entity)
        if known is not None and self._is_fresh(known[0]):
            return known[1]
        rows: list[bytes] = []
        while True:
            page = (await self._api.query(entity, start=len(rows) + 1)).rows
            rows += [bytes(raw) for raw in page]
            if len(page) < PAGE_SIZE_MAX:
                break
        self._lists[entity] = (self._clock.now(), rows)
        for raw in rows:  # what a body names is what the written object refers to
            self.remember(f"{entity}:{decode(raw, _Id, entity).id}", raw)
        return rows

    async def joined(self, records: Sequence[RawRecord]) -> list[RawRecord | Exception]:
        """The records with everything they refer to, or a RecordError in place of one that cannot be joined."""
        wanted: list[set[str] | Exception] = [_needs(record) for record in records]
        known = await self._collect(set().union(*(keys for keys in wanted if isinstance(keys, set))))
        return [
            keys if isinstance(keys, Exception) else _with_joined(record, keys, known)
            for record, keys in zip(records, wanted, strict=True)
        ]

    async def _collect(self, wanted: set[str]) -> dict[str, "_Referred"]:
        known: dict[str, _Referred] = {}
        open_keys = wanted
        for _ in range(ROUNDS_MAX):
            if not open_keys:
                break
            fetched = {key: _Referred(raw, _further(key, raw)) for key, raw in (await self._fetch(open_keys)).items()}
            known |= fetched
            behind = set().union(*(item.behind for item in fetched.values() if not isinstance(item.behind, Exception)))
            open_keys = behind - known.keys()
        return known

    async def _fetch(self, keys: Iterable[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        missing: dict[str, list[str]] = {}
        for key in sorted(keys):
            if key == PREFERENCES:
                found[key] = await self.preferences()
            elif raw := self._fresh(key):
                found[key] = raw
            else:
                entity, _, object_id = key.partition(":")
                missing.setdefault(entity, []).append(object_id)
        for entity, ids in missing.items():
            for row in await self._api.by_ids(entity, ids):
                raw = bytes(row)
                key = f"{entity}:{decode(raw, _Id, entity).id}"
                found[key] = raw
                if entity not in ALWAYS_FRESH:
                    self.remember(key, raw)
        return found


class _Referred(NamedTuple):
    """An object referred to by records of a page."""

    raw: bytes
    behind: list[str] | MappingError
    """Keys of what it refers to itself, in order; an error stops the records that refer to it, not the page."""


def _with_joined(record: RawRecord, keys: set[str], known: Mapping[str, _Referred]) -> RawRecord | Exception:
    """Its own references and those behind them. A reference to nothing stops this record only."""
    joined: dict[str, bytes] = {}
    waiting = sorted(keys)
    while waiting:
        key = waiting.pop()
        if key in joined:
            continue
        if key not in known:
            if key.partition(":")[0] in OPTIONAL:
                continue
            return RecordError(
                f"{record.entity} {record.id} refers to {key}, which does not exist",
                hint="correct the reference in QuickBooks: the object is read again when it changes",
                cause=Cause.UNRESOLVED_REFERENCE,
            )
        joined[key], behind = known[key]
        if isinstance(behind, MappingError):
            return behind
        waiting += [further_key for further_key in behind if further_key not in joined]
    return msgspec.structs.replace(record, joined=joined)


# --- who refers to whom ------------------------------------------------------------------------------------------------------


def _needs(record: RawRecord) -> set[str] | Exception:
    if record.deleted:
        return set()
    try:
        return needs(record)
    except MappingError as error:
        return error


def needs(record: RawRecord) -> set[str]:
    """Keys of what a record refers to. Raises MappingError when it cannot be read."""
    match record.entity:
        case "customer":
            return {PREFERENCES} | _of_customer(decode(record.raw, shapes.Customer, "Customer"))
        case "product" | "product_category":
            return {PREFERENCES} | _of_item(decode(record.raw, shapes.Item, "Item"))
        case _:
            entity, _ = split_id(record.id)
            return _of_sale(decode(record.raw, shapes.Sale, entity))


def further(key: str, raw: bytes) -> set[str]:
    """Keys of what a referred object refers to itself, as far as a mapping reads it."""
    entity, _, _ = key.partition(":")
    match entity:
        case "TaxCode":
            code = decode(raw, shapes.TaxCode, key)
            details = code.sales_tax_rate_list.tax_rate_detail if code.sales_tax_rate_list else []
            return {f"TaxRate:{detail.tax_rate_ref.value}" for detail in details}
        case "Customer":
            customer = decode(raw, shapes.Customer, key)
            return _keys(("Customer", customer.parent_ref)) if customer.job or customer.is_project else set()
        case "Item":
            return _keys(("Item", decode(raw, shapes.Item, key).parent_ref))
        case "Payment":
            payment = decode(raw, shapes.Payment, key)
            return _keys(("PaymentMethod", payment.payment_method_ref), ("Account", payment.deposit_to_account_ref))
        case _:
            return set()


def _further(key: str, raw: bytes) -> list[str] | MappingError:
    try:
        return sorted(further(key, raw))
    except MappingError as error:
        return error


def _keys(*refs: tuple[str, shapes.Reference | None]) -> set[str]:
    return {f"{entity}:{ref.value}" for entity, ref in refs if ref is not None}


def _of_customer(customer: shapes.Customer) -> set[str]:
    return _keys(
        ("Term", customer.sales_term_ref),
        ("PaymentMethod", customer.payment_method_ref),
        ("TaxCode", customer.default_tax_code_ref),
    )


def _of_item(item: shapes.Item) -> set[str]:
    return _keys(
        ("Item", item.parent_ref),
        ("TaxCode", item.sales_tax_code_ref),
        ("Account", item.income_account_ref),
        ("Account", item.expense_account_ref),
        ("Account", item.asset_account_ref),
    )


def _of_sale(sale: shapes.Sale) -> set[str]:
    keys = _keys(
        ("Customer", sale.customer_ref),
        ("Term", sale.sales_term_ref),
        ("PaymentMethod", sale.payment_method_ref),
        ("Account", sale.deposit_to_account_ref),
    )
    keys |= {f"Payment:{link.txn_id}" for link in sale.linked_txn if link.txn_type == "Payment"}
    if sale.currency_ref is None:
        keys.add(PREFERENCES)
    return keys | _of_lines(sale.line)


def _of_lines(lines: Sequence[shapes.Line]) -> set[str]:
    keys: set[str] = set()
    for line in lines:
        if detail := line.sales_item_line_detail:
            keys |= _keys(("TaxCode", detail.tax_code_ref), ("Account", detail.item_account_ref))
            if detail.item_ref is not None and detail.item_ref.value != SHIPPING:
                keys |= _keys(("Item", detail.item_ref))
        if group := line.group_line_detail:
            keys |= _keys(("Item", group.group_item_ref)) | _of_lines(group.line)
    return keys
