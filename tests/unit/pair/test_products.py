"""Products and categories: kinds, names, prices, variants, what is never overwritten."""

import hashlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest

from bus.core import topics
from bus.core.identity import Entity
from bus.kit.connector import Connector, RawRecord
from bus.simulation.faults import Fault
from schemas import canon
from schemas.system import Cause, Outcome, Standing
from tests.unit.pair.rig import Pair, changed

Make = Callable[..., Pair]
DOWN, UP = "products-exact-to-qbo", "products-qbo-to-exact"
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64


def item(pair: Pair, sku: str) -> dict[str, Any]:
    """The row of a QuickBooks item."""
    (found,) = [row for row in pair.qbo.simulator.company.tables["Item"].values() if row.get("Sku") == sku]
    return found  # type: ignore[no-any-return]


def article(pair: Pair, sku: str) -> dict[str, Any]:
    """The row of an Exact item."""
    found: dict[str, Any] = pair.exact.simulator.division.first("logistics/Items", "Code", sku).values
    return found


def prices(pair: Pair, sku: str) -> list[tuple[str, Decimal]]:
    rows = pair.exact.simulator.division.table("logistics/SalesItemPrices").by("Item", article(pair, sku)["ID"])
    return [(row.values["Currency"], row.values["Price"]) for row in rows]


async def from_quickbooks(pair: Pair, sku: str = "NEW-1", name: str = "New lamp", **fields: Any) -> str:
    """An item made in QuickBooks after the start."""
    await pair.run()
    made = pair.qbo_item(sku, name, **fields)["value"]
    await pair.run()
    return made


# --- kinds ---


@pytest.mark.parametrize(
    ("fields", "type_"),
    [
        ({"IsStockItem": True}, "NonInventory"),
        ({"IsStockItem": False}, "Service"),
        ({"IsStockItem": False, "IsTime": 1}, "Service"),
    ],
)
async def test_articles_become_items_without_stock(pair: Pair, fields: dict[str, Any], type_: str) -> None:
    pair.exact_item("KIND-1", "Kind", **fields)
    await pair.run()
    row = item(pair, "KIND-1")
    assert row["Type"] == type_
    assert row["IncomeAccountRef"]["value"] == pair.qbo_id("Account", "Sales of Product Income")


@pytest.mark.parametrize("type_", ["Service", "NonInventory"])
async def test_items_become_articles_without_stock(pair: Pair, type_: str) -> None:
    await from_quickbooks(pair, Type=type_)
    assert article(pair, "NEW-1")["IsStockItem"] is False


async def test_inventory_is_a_choice_and_needs_its_accounts(make: Make) -> None:
    type_ = "type: \"'SERVICE' if source.kind in ['SERVICE', 'VIRTUAL'] else 'NON_INVENTORY'\""
    income = "  income_account: {value: Sales of Product Income}"
    more = "\n  expense_account: {value: Cost of sales}\n  asset_account: {value: Inventory Asset}"
    day = "\n  inventory_start_date: {value: 2026-11-01}"
    bare = make(changed((type_, "type: \"'INVENTORY'\"")))
    bare.exact_item("INV-1", "Inventory", IsStockItem=True)
    await bare.run()
    assert not [row for row in bare.qbo.books("products") if row["sku"] == "INV-1"]
    assert any("account" in letter.detail for letter in bare.letters())
    whole = make(changed((type_, "type: \"'INVENTORY'\""), (income, income + more + day)))
    whole.exact_item("INV-1", "Inventory", IsStockItem=True)
    await whole.run()
    row = item(whole, "INV-1")
    assert (row["Type"], row["AssetAccountRef"]["value"]) == ("Inventory", whole.qbo_id("Account", "Inventory Asset"))


# --- SKU and name ---


async def test_a_sku_of_31_characters_is_refused_and_never_cut(pair: Pair) -> None:
    sku = "ABCDEFGHIJ" * 3 + "X"
    made = await from_quickbooks(pair, sku)
    assert pair.standing(UP, made).standing is Standing.DEAD
    assert "SKU has 31 characters, Exact takes 30" in pair.standing(UP, made).detail
    assert not [row for row in pair.exact.books("products") if row["sku"].startswith("ABCDEFGHIJ")]
    short = await from_quickbooks(pair, sku[:30], "Another")
    assert pair.standing(UP, short).outcome is Outcome.CREATED


async def test_a_product_without_a_sku_is_told(pair: Pair) -> None:
    await pair.run()
    made = pair.qbo_item(None, "Without a number")["value"]
    await pair.run()
    assert "no SKU" in pair.standing(UP, made).detail


async def test_a_cut_name_is_not_sent_back(pair: Pair) -> None:
    name = "A lamp with a name that is far longer than the sixty characters it may have"
    made = await from_quickbooks(pair, "LONG-1", name)
    assert article(pair, "LONG-1")["Description"] == name[:60]
    assert pair.qbo.simulator.company.row("Item", made)["Name"] == name
    pair.exact_edit("product", "LONG-1", Barcode="8712345600013")
    pair.exact_edit("product", "LONG-1", ExtraDescription="short text")
    await pair.run()
    assert pair.qbo.simulator.company.row("Item", made)["Name"] == name


async def test_a_taken_item_name_gets_the_sku(pair: Pair) -> None:
    pair.qbo_item("OTHER-1", "Desk lamp")
    pair.exact_item("DESK-1", "Desk lamp")
    await pair.run()
    assert item(pair, "DESK-1")["Name"] == "Desk lamp (DESK-1)"
    assert item(pair, "OTHER-1")["Name"] == "Desk lamp"


async def test_two_active_items_of_one_sku_are_for_a_person_to_decide(pair: Pair) -> None:
    for name in ("First", "Second"):
        pair.qbo_item("TWICE-1", name)
    pair.exact_item("TWICE-1", "Twice")
    await pair.run()
    standing = pair.standing(DOWN, article(pair, "TWICE-1")["ID"])
    assert (standing.standing, standing.cause) == (Standing.DEAD, Cause.AMBIGUOUS_MATCH)
    assert len([row for row in pair.qbo.books("products") if row["sku"] == "TWICE-1"]) == 2


# --- prices ---


async def test_a_price_is_a_row_of_the_price_list(pair: Pair) -> None:
    await from_quickbooks(pair, UnitPrice=Decimal("12.50"))
    assert prices(pair, "NEW-1") == [("EUR", Decimal("12.50"))]
    writes = [call.rpartition("/1234567/")[2] for call in pair.exact.writes()]
    assert writes == ["logistics/Items", "logistics/SalesItemPrices"]


async def test_exact_owns_prices(pair: Pair) -> None:
    lamp = article(pair, "LAMP-1")["ID"]
    pair.exact_row("logistics/SalesItemPrices", Item=lamp, Price=Decimal(20), Currency="EUR", Quantity=1)
    await pair.run()
    assert item(pair, "LAMP-1")["UnitPrice"] == 20
    pair.qbo_edit("Item", item(pair, "LAMP-1")["Id"], UnitPrice=Decimal(99))
    await pair.run()
    assert prices(pair, "LAMP-1") == [("EUR", Decimal(20))]
    row = next(iter(pair.exact.simulator.division.table("logistics/SalesItemPrices").by("Item", lamp)))
    pair.exact_edit("logistics/SalesItemPrices", row.id, Price=Decimal(21))
    await pair.run()
    assert item(pair, "LAMP-1")["UnitPrice"] == 21


async def test_a_price_takes_effect_on_its_day_without_a_changed_row(pair: Pair) -> None:
    lamp = article(pair, "LAMP-1")["ID"]
    today = pair.clock.now().date()
    later = today.replace(day=today.day + 2) if today.day < 27 else today.replace(month=today.month % 12 + 1, day=2)
    own = {"Item": lamp, "Currency": "EUR", "Quantity": 1}
    pair.exact_row("logistics/SalesItemPrices", **own, Price=Decimal(20), StartDate=today.isoformat())
    pair.exact_row("logistics/SalesItemPrices", **own, Price=Decimal(25), StartDate=later.isoformat())
    await pair.run()
    assert item(pair, "LAMP-1")["UnitPrice"] == 20
    pair.clock.advance((later - today).days * 86_400)
    await pair.run()
    assert item(pair, "LAMP-1")["UnitPrice"] == 25


async def test_a_price_that_includes_vat_stays_one_by_the_type_of_its_code(pair: Pair) -> None:
    gross = pair.exact_item("GROSS-1", "Gross", SalesVatCode="4")
    pair.exact_row("logistics/SalesItemPrices", Item=gross, Price=Decimal("12.10"), Currency="EUR", Quantity=1)
    await pair.run()
    (event,) = [event for event in pair.events("product", "exact-nl") if event.meta.source_id == gross][-1:]
    assert [(price.price_mode, price.value) for price in event.after.prices] == [("INCL", Decimal("12.10"))]
    assert item(pair, "GROSS-1").get("SalesTaxIncluded") is True


# --- create only ---


async def test_an_improved_description_stays(pair: Pair) -> None:
    pair.exact_item("TEXT-1", "Text", Notes="As Exact says it")
    await pair.run()
    row = item(pair, "TEXT-1")
    assert row["Description"] == "As Exact says it"
    pair.qbo_edit("Item", row["Id"], Description="Much better said")
    await pair.run()
    pair.exact_edit("product", "TEXT-1", Notes="As Exact says it now")
    await pair.run()
    assert item(pair, "TEXT-1")["Description"] == "Much better said"
    assert article(pair, "TEXT-1")["Notes"] == "As Exact says it now"


async def test_an_ean_goes_into_the_description_by_an_expression(make: Make) -> None:
    income = "  income_account: {value: Sales of Product Income}"
    pair = make(changed((income, income + "\n  description_long: source.description_long ~ '\\nEAN ' ~ (source.gtin or '')")))
    pair.exact_item("EAN-1", "Ean", Notes="Bright", Barcode="8712345600013")
    await pair.run()
    assert item(pair, "EAN-1")["Description"] == "Bright\nEAN 8712345600013"


# --- variants, categories ---


async def test_a_variant_is_a_product_with_its_parent_and_options_in_named_fields(make: Make) -> None:
    kind = "  kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    fields = "\n  parent_field: FreeTextField_02\n  option_fields: {color: FreeTextField_03}"
    pair = make(changed((kind, kind + fields)))
    for color in ("red", "blue"):
        pair.exact_item(f"SHADE-{color}", f"Shade {color}", FreeTextField_02="SHADE", FreeTextField_03=color)
    await pair.run()
    read = {event.after.sku: event.after for event in pair.events("product", "exact-nl")}
    assert {(read[f"SHADE-{color}"].parent.code, read[f"SHADE-{color}"].options["color"]) for color in ("red", "blue")} == {
        ("SHADE", "red"),
        ("SHADE", "blue"),
    }
    assert {item(pair, f"SHADE-{color}")["Type"] for color in ("red", "blue")} <= {"NonInventory", "Service"}


def test_parents_are_left_out_by_what_apply_adds(pair: Pair) -> None:
    flows = [route.flow for routes in pair.routes.by_source.values() for route in routes if route.flow.name in (DOWN, UP)]
    assert [flow.from_.without for flow in flows] == [("PARENT",), ("PARENT",)]


async def test_item_groups_become_categories_and_hold_their_items(pair: Pair) -> None:
    await pair.run()
    company = pair.qbo.simulator.company
    (category,) = [row for row in company.tables["Item"].values() if row["Type"] == "Category" and row["Name"] == "Lampen"]
    group = pair.exact.simulator.division.first("logistics/ItemGroups", "Code", "LAMP").id
    pair.exact_item("GROUP-1", "Grouped", ItemGroup=group)
    await pair.run()
    assert item(pair, "GROUP-1")["ParentRef"]["value"] == category["Id"]


async def test_an_item_that_came_before_its_category_gets_it_later(pair: Pair) -> None:
    group = pair.exact.simulator.division.first("logistics/ItemGroups", "Code", "LAMP").id
    pair.exact_item("GROUP-1", "Grouped", ItemGroup=group)
    await pair.run()
    pair.clock.advance(86_400)
    await pair.run()
    company = pair.qbo.simulator.company
    (category,) = [row for row in company.tables["Item"].values() if row["Type"] == "Category" and row["Name"] == "Lampen"]
    assert item(pair, "GROUP-1").get("ParentRef", {}).get("value") == category["Id"]


GROUPS = """
---
kind: Table
name: exact-groups
key: [kind]
rows:
  - {kind: VIRTUAL, value: LAMP}
  - {kind: SERVICE, value: NOWHERE}
---
"""


async def test_an_existing_item_group_is_chosen_by_a_table_and_never_made(make: Make) -> None:
    anchor = "create_only: [description_long]\n"
    pair = make(GROUPS.join(["", changed((anchor, anchor + "set:\n  item_group: {table: exact-groups}\n"))]))
    await from_quickbooks(pair)
    group = pair.exact.simulator.division.first("logistics/ItemGroups", "Code", "LAMP").id
    assert article(pair, "NEW-1")["ItemGroup"] == group
    made = await from_quickbooks(pair, "NEW-2", "New work", Type="Service")
    assert pair.standing(UP, made).standing is Standing.DEAD
    assert "item group 'NOWHERE' does not exist" in pair.standing(UP, made).detail
    assert not any("ItemGroups" in call for call in pair.exact.writes())


# --- pictures, extra fields ---


async def test_the_placeholder_is_no_picture_and_a_real_one_needs_the_token(pair: Pair) -> None:
    division = pair.exact.simulator.division
    row = division.first("logistics/Items", "Code", "LAMP-1")
    pair.exact_item("BARE-1", "Bare")
    row.picture = PNG
    division.change("logistics/Items", row, {"PictureName": "lamp.png"})
    await pair.run()
    read = {event.after.sku: event.after for event in pair.events("product", "exact-nl")}
    assert read["BARE-1"].images == []
    (picture,) = read["LAMP-1"].images
    assert (len(picture.sha256), picture.media_type, picture.size_bytes) == (64, "image/png", len(PNG))
    calls = [call for call in pair.exact.simulator.calls.since(0)["calls"] if "SysImage" in call["path"]]
    assert {call["status"] for call in calls} == {200}


async def test_a_picture_above_the_limit_is_left_out(make: Make) -> None:
    kind = "  kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    pair = make(changed((kind, kind + "\n  picture_bytes_max: 10")))
    division = pair.exact.simulator.division
    row = division.first("logistics/Items", "Code", "LAMP-1")
    row.picture = PNG
    division.change("logistics/Items", row, {"PictureName": "lamp.png"})
    await pair.run()
    read = {event.after.sku: event.after for event in pair.events("product", "exact-nl")}
    assert read["LAMP-1"].images == []


def attached(pair: Pair) -> list[tuple[str, str]]:
    """Name and item of what is attached in QuickBooks."""
    rows = pair.qbo.simulator.company.tables["Attachable"].values()
    return [(row["FileName"], ref["EntityRef"]["value"]) for row in rows for ref in row["AttachableRef"]]


async def test_a_picture_of_an_article_is_attached_to_its_item_once(pair: Pair) -> None:
    pair.exact_picture(pair.exact_item("PIC-1", "Pictured"), PNG)
    await pair.run()
    (event,) = [event for event in pair.events("product", "exact-nl") if event.after.sku == "PIC-1"]
    (named,) = event.after.images
    assert [(r.key, r.value) for r in pair.log.topic(topics.PICTURES)] == [(named.sha256, PNG)]
    assert attached(pair) == [(f"{named.sha256}.png", item(pair, "PIC-1")["Id"])]
    uploads = sum("upload" in call for call in pair.qbo.writes())
    pair.exact_edit("product", "PIC-1", Description="Pictured and renamed")
    await pair.run()
    assert item(pair, "PIC-1")["Name"] == "Pictured and renamed"
    assert (sum("upload" in call for call in pair.qbo.writes()), uploads) == (1, 1)


async def test_a_create_only_picture_stays_and_another_follows(make: Make) -> None:
    """The example leaves pictures alone after the create; without that a new one is attached too."""
    once = make()
    follows = make(changed(("create_only: [description_long, images]", "create_only: [description_long]")))
    for pair in (once, follows):
        made = pair.exact_item("PIC-1", "Pictured")
        pair.exact_picture(made, PNG)
        await pair.run()
        pair.exact_picture(made, PNG + b"1")
        await pair.run()
    assert (len(attached(once)), len(attached(follows))) == (1, 2)
    assert len({name for name, _ in attached(follows)}) == 2


async def test_two_articles_of_one_picture_have_it_each(pair: Pair) -> None:
    for sku in ("PIC-1", "PIC-2"):
        pair.exact_picture(pair.exact_item(sku, f"Pictured {sku}"), PNG)
    await pair.run()
    assert len(pair.log.topic(topics.PICTURES)) == 1
    assert {target for _, target in attached(pair)} == {item(pair, "PIC-1")["Id"], item(pair, "PIC-2")["Id"]}


class Illustrated:
    """A connector whose products have a picture: QuickBooks' own serves none."""

    def __init__(self, inner: Connector, data: bytes) -> None:
        self._inner = inner
        self._data = data
        self._image = canon.Image(sha256=hashlib.sha256(data).hexdigest(), media_type="image/png", size_bytes=len(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        whole = await self._inner.complete(records)
        pictures = {self._image.sha256 or "": self._data}
        return [r if isinstance(r, Exception) or r.deleted else msgspec.structs.replace(r, pictures=pictures) for r in whole]

    def to_canonical(self, record: RawRecord) -> Entity:
        document = self._inner.to_canonical(record)
        return msgspec.structs.replace(document, images=[self._image]) if isinstance(document, canon.Product) else document


async def test_a_picture_of_another_source_is_put_into_exact(pair: Pair) -> None:
    pair.qbo.connector = cast(Connector, Illustrated(pair.qbo.connector, PNG))
    made = await from_quickbooks(pair)
    assert pair.standing(UP, made).outcome is Outcome.CREATED
    row = pair.exact.simulator.division.first("logistics/Items", "Code", "NEW-1")
    assert (row.picture, row.values["PictureName"]) == (PNG, "NEW-1.png")
    writes = pair.exact.writes()
    pair.clock.advance(3600)
    await pair.run()
    assert pair.exact.writes() == writes


async def test_extra_fields_are_read_per_item(make: Make) -> None:
    kind = "  kind_field: Classification1 # its values COMPANY and PERSON say what an account is"
    pair = make(changed((kind, kind + "\n  read_extra_fields: true")))
    await pair.run()
    pair.exact_edit("product", "LAMP-1", _extra=[[1, "Material", "Oak"]])
    await pair.run()
    last = {event.after.sku: event.after for event in pair.events("product", "exact-nl")}
    assert last["LAMP-1"].attributes == {"Material": "Oak"}
    asked = [call["path"] for call in pair.exact.simulator.calls.since(0)["calls"] if "ItemExtraField" in call["path"]]
    assert asked


# --- idempotency ---


async def test_a_lost_answer_of_an_article_is_found_by_its_code(pair: Pair) -> None:
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/logistics/Items"))
    made = await from_quickbooks(pair)
    assert pair.standing(UP, made).standing is Standing.WRITTEN
    assert len([row for row in pair.exact.books("products") if row["sku"] == "NEW-1"]) == 1
    assert len(prices(pair, "NEW-1")) == 1


async def test_a_lost_answer_of_a_price_makes_no_second_one(pair: Pair) -> None:
    pair.exact.process.broken.add(Fault("lost_reply", method="POST", path_prefix="/api/v1/1234567/logistics/SalesItemPrices"))
    await from_quickbooks(pair)
    assert len(prices(pair, "NEW-1")) == 1


async def test_a_lost_answer_of_an_item_repeats_its_request(pair: Pair) -> None:
    path = "/v3/company/9130357849036726/item"
    await pair.run()
    pair.qbo.process.broken.add(Fault("lost_reply", method="POST", path_prefix=path))
    pair.exact_item("LOST-1", "Lost")
    await pair.run()
    assert item(pair, "LOST-1")["Name"] == "Lost"


async def test_items_with_stock_figures_have_no_flow(pair: Pair) -> None:
    assert {route.flow.to.entity for routes in pair.routes.by_source.values() for route in routes} == {
        "customer",
        "product",
        "product_category",
        "sales_order",
        "sales_invoice",
    }
    assert "stock" in pair.qbo.connector.manifest.cannot
