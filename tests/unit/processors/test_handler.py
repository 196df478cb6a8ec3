"""Law 4: every event × flow is one command, the same every time; what cannot be mapped is told and stops nothing else."""

from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest

from bus.core.configuration import parse
from bus.core.policy import decode_policy
from bus.core.topics import DEAD_LETTERS, canonical, event_key
from bus.runtime.codec import Codec
from bus.runtime.deadletters import DEAD_HINT
from schemas import canon
from schemas.canon import (
    AllowanceCharge,
    ChargeType,
    DocumentStatus,
    InvoiceType,
    Line,
    LineType,
    Operation,
    Origin,
    Party,
    PaymentStatus,
    PriceMode,
    Ref,
    TaxLine,
)
from schemas.system import Action, Cause, Command, CommandKind
from services.processors import handler as module
from services.processors.handler import Again, Handler
from services.processors.routes import compile_routes

CONFIGURATION = """
--- {kind: Connection, name: shop, tenant: acme, system: some_shop, secret: shop, source_tax: shop-tax}
--- {kind: Connection, name: ledger, tenant: acme, system: some_ledger, secret: ledger}
--- {kind: Connection, name: till, tenant: acme, system: some_till, secret: till}
---
kind: Flow
name: sales
from: {connection: shop, entity: sales_invoice, types: [INVOICE, RECEIPT]}
to: {connection: ledger, entity: sales_order}
start: {from: 2026-12-01, by: issue_date}
when: source.payment_status == 'PAID' and source.status != 'CANCELLED'
reference: {to: YourRef, value: "'QBO-' ~ source.type[0] ~ source.id", length_max: 30}
write: create
customer: {default: {code: "900001", when: "source.customer.kind != 'COMPANY'"}}
product: {patience: 3d, shipping: VERZEND}
set:
  vat_code: {table: vat, level: line, required: true}
  payment_term: {table: terms}
--- {kind: Flow, name: sales-to-till, from: {connection: shop, entity: sales_invoice}, to: {connection: till, entity: sales_invoice,
     type: "'RECEIPT' if value.payment_term.paid else 'INVOICE'"}, start: beginning, write: create,
     reference: {to: Number, value: "'SH-' ~ source.number"}, set: {payment_term: {table: terms}}}
--- {kind: Flow, name: customers, from: {connection: shop, entity: customer}, to: {connection: ledger, entity: customer},
     start: {existing: link}, write: upsert, on_delete: deactivate, when: not source.is_project}
--- {kind: Flow, name: products, from: {connection: shop, entity: product, without: [PARENT]}, to: {connection: ledger, entity: product},
     start: {existing: send}, write: upsert, on_delete: delete,
     set: {name: "source.name ~ ' (' ~ source.sku ~ ')'", description_long: "source.description_long ~ ' EAN ' ~ source.gtin"}}
--- {kind: Table, name: shop-tax, key: [tax_code], rows: [{tax_code: NL 21% S, category: S, country: NL, rate_pct: "21"},
     {tax_code: EU goods, category: K, country: BE, rate_pct: "0"}, {tax_code: OSS DE, category: S, country: DE, rate_pct: "19",
     scheme: OSS_UNION}]}
--- {kind: Table, name: vat, key: [category, country, rate_pct, price_mode, scheme], rows: [
     {category: S, country: NL, rate_pct: "21", price_mode: EXCL, scheme: DOMESTIC, value: "2"},
     {category: S, country: NL, rate_pct: "21", price_mode: INCL, scheme: DOMESTIC, value: "4"},
     {category: S, country: DE, rate_pct: "19", price_mode: "*", scheme: OSS_UNION, value: D19},
     {category: K, country: "*", rate_pct: "0", price_mode: "*", scheme: "*", value: "7"}]}
--- {kind: Table, name: terms, key: [code], rows: [{code: Net 30, value: "30", paid: false}, {code: Due on receipt, value: PI, paid: true}]}
"""  # noqa: E501

CODEC = Codec.offline()
HANDLER = Handler(CODEC)
OBSERVED = datetime(2026, 12, 3, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def routes():
    return compile_routes(parse(CONFIGURATION).accepted(), 7)


def tax(code, rate="21"):
    return [TaxLine(source_code=code, rate_pct=Decimal(rate), base=Decimal("10.0000"), amount=Decimal("2.1000"))]


def invoice(**changes):
    base = canon.SalesInvoice(
        type=InvoiceType.INVOICE,
        number="1007",
        issue_date=date(2026, 12, 3),
        currency="EUR",
        price_mode=PriceMode.EXCL,
        status=DocumentStatus.OPEN,
        payment_status=PaymentStatus.PAID,
        customer=Party(customer=Ref(id="5"), kind=canon.CustomerKind.COMPANY, company_name="Bakkerij"),
        payment_term=Ref(id="3", code="Net 30"),
        lines=[Line(line_id="1", line_no=1, line_type=LineType.ITEM, sku="A", quantity=Decimal(1), taxes=tax("NL 21% S"))],
        charges=[AllowanceCharge(type=ChargeType.SHIPPING, amount=Decimal("5.0000"), taxes=tax("EU goods", "0"))],
    )
    return msgspec.structs.replace(base, **changes)


EVENTS = {
    "sales_invoice": canon.SalesInvoiceEvent,
    "customer": canon.CustomerEvent,
    "product": canon.ProductEvent,
}


def event(entity, after, *, op=Operation.CREATED, seq=1, **meta):
    made = EVENTS[entity](
        meta=canon.EventMeta(
            event_id="e1", seq=seq, tenant="acme", system="some_shop", connection="shop", entity=entity, source_id="44",
            observed_at=OBSERVED, op=op, content_hash="h", **meta,
        ),
        after=after,
    )  # fmt: skip
    return canonical(entity), event_key("shop", entity, "44"), CODEC.encode(canonical(entity), made)


def run(routes, entity, after, **meta):
    """Commands by flow."""
    commands = {}
    for record in HANDLER.handle(*event(entity, after, **meta), routes):
        command = CODEC.decode(record.topic, record.value)
        assert command.flow not in commands, "one command per event and flow"
        assert (record.partition, record.key) == (0, event_key("shop", entity, "44"))
        commands[command.flow] = command
    return commands


def values(command: Command):
    return {(item.name, item.line_id): item.value for item in command.resolved}


def hint(command: Command) -> str:
    """What a dead command tells the sink that a person can do."""
    return values(command)[DEAD_HINT, None]


def test_one_command_per_flow_with_every_value_and_its_rule(routes):
    commands = run(routes, "sales_invoice", invoice())
    assert set(commands) == {"sales", "sales-to-till"}
    sales = commands["sales"]
    assert (sales.kind, sales.action, sales.reason, sales.config_version, sales.seq) == (
        CommandKind.WRITE, Action.CREATE, None, 7, 1,
    )  # fmt: skip
    assert values(sales) == {
        ("vat_code", "1"): "2",
        ("vat_code", "charge:0"): "7",
        ("payment_term", None): "30",
        ("reference", None): "QBO-I44",
        ("reference.field", None): "YourRef",
    }
    rules = {(item.name, item.line_id): item.rule for item in sales.resolved}
    assert rules["vat_code", "1"] == "table vat[category=S, country=NL, rate_pct=21, price_mode=EXCL, scheme=DOMESTIC]"
    assert rules["payment_term", None] == "table terms[code=Net 30]"
    assert rules["reference", None].startswith("expression ")
    assert decode_policy(sales.policy).product.shipping == "VERZEND"
    assert values(commands["sales-to-till"])["type", None] == "INVOICE"
    assert sales.event == event("sales_invoice", invoice())[2]


def test_same_event_and_configuration_give_the_same_bytes(routes):
    first = HANDLER.handle(*event("sales_invoice", invoice()), routes)
    again = Handler(Codec.offline()).handle(
        *event("sales_invoice", invoice()), compile_routes(parse(CONFIGURATION).accepted(), 7)
    )
    assert first == again
    assert [record.value for record in first] == [record.value for record in again]


def test_another_version_of_object_or_configuration_is_another_command(routes):
    ids = {run(routes, "sales_invoice", invoice(), seq=seq)["sales"].id for seq in (1, 2)}
    other = compile_routes(parse(CONFIGURATION).accepted(), 8)
    ids.add(run(other, "sales_invoice", invoice())["sales"].id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": InvoiceType.CREDIT_NOTE}, "type"),
        ({"issue_date": date(2026, 11, 30)}, "start"),
        ({"issue_date": date(2026, 12, 1)}, None),
        ({"payment_status": PaymentStatus.UNPAID}, "when"),
        ({"status": DocumentStatus.CANCELLED}, "when"),
    ],
)
def test_what_the_filters_refuse_is_a_command_none(routes, changes, reason):
    command = run(routes, "sales_invoice", invoice(**changes))["sales"]
    assert (command.action, command.reason) == ((Action.NONE, reason) if reason else (Action.CREATE, None))
    assert (command.resolved == []) == bool(reason)


def test_a_credit_note_never_enters_an_order_flow_even_without_types(routes):
    text = CONFIGURATION.replace(", types: [INVOICE, RECEIPT]", "")
    command = run(compile_routes(parse(text).accepted(), 1), "sales_invoice", invoice(type=InvoiceType.CREDIT_NOTE))["sales"]
    assert (command.action, command.reason) == (Action.NONE, "type")


@pytest.mark.parametrize(
    ("origin", "sales", "till"),
    [
        (Origin(connection="ledger", entity="sales_order", source_id="x", created=True, echo=True), "echo", None),
        (Origin(connection="ledger", entity="sales_order", source_id="x", created=True), "origin", None),
        (Origin(connection="ledger", entity="sales_order", source_id="x"), None, None),
        (Origin(connection="till", entity="sales_invoice", source_id="x", created=True), None, "origin"),
    ],
)
def test_our_own_writes_are_not_news(routes, origin, sales, till):
    commands = run(routes, "sales_invoice", invoice(), op=Operation.UPDATED, origin=origin)
    assert [commands[name].reason for name in ("sales", "sales-to-till")] == [sales, till]


def test_an_edit_of_a_customer_the_bus_made_is_news(routes):
    made = Origin(connection="ledger", entity="customer", source_id="x", created=True)
    command = run(routes, "customer", canon.Customer(display_name="B"), op=Operation.UPDATED, origin=made)["customers"]
    assert command.action is Action.UPSERT


def test_an_echo_of_master_data_carries_the_values_of_its_flow(routes):
    echo = Origin(connection="ledger", entity="product", source_id="x", echo=True)
    document = canon.Product(sku="A-1", name="Lamp", kind=canon.ProductKind.SIMPLE, description_long="Warm")
    command = run(routes, "product", document, op=Operation.UPDATED, origin=echo)["products"]
    assert (command.action, command.reason) == (Action.NONE, "echo")
    assert {item.name: item.value for item in command.resolved}["name"] == "Lamp (A-1)"


def test_deletions_follow_the_flow(routes):
    deleted = [
        run(routes, entity, None, op=Operation.DELETED)[flow]
        for entity, flow in (("customer", "customers"), ("product", "products"), ("sales_invoice", "sales"))
    ]
    assert [command.action for command in deleted] == [Action.DEACTIVATE, Action.DELETE, Action.NONE]
    assert deleted[2].reason == "deleted"


def test_snapshots_are_existing_objects(routes):
    assert run(routes, "customer", canon.Customer(), op=Operation.SNAPSHOT)["customers"].existing
    assert not run(routes, "customer", canon.Customer(), op=Operation.CREATED)["customers"].existing


def test_a_tombstone_gives_nothing(routes):
    assert HANDLER.handle(canonical("customer"), event_key("shop", "customer", "44"), None, routes) == []


def test_parents_are_filtered_and_expressions_set(routes):
    parent = run(routes, "product", canon.Product(kind=canon.ProductKind.PARENT))["products"]
    assert (parent.action, parent.reason) == (Action.NONE, "type")
    product = run(routes, "product", canon.Product(sku="A-1", name="Koek", kind=canon.ProductKind.SIMPLE))["products"]
    assert values(product) == {("name", None): "Koek (A-1)", ("description_long", None): " EAN "}


def test_a_missing_row_is_dead_with_the_key_spelt_out_and_the_other_flow_goes_on(routes):
    strange = invoice(
        price_mode=PriceMode.INCL,
        charges=[],
        lines=[invoice().lines[0], Line(line_id="2", line_no=2, quantity=Decimal(1), taxes=tax("OSS DE", "19"))],
    )
    fine = run(routes, "sales_invoice", strange)
    assert (values(fine["sales"])["vat_code", "1"], values(fine["sales"])["vat_code", "2"]) == ("4", "D19")
    text = CONFIGURATION.replace('rate_pct: "19", price_mode', 'rate_pct: "18", price_mode')
    commands = run(compile_routes(parse(text).accepted(), 7), "sales_invoice", strange)
    key = "category=S, country=DE, rate_pct=19, price_mode=INCL, scheme=OSS_UNION"
    assert commands["sales"].action is Action.NONE
    assert commands["sales"].reason == f"dead:MISSING_TABLE_ROW:table vat has no row for {key}"
    assert commands["sales-to-till"].action is Action.CREATE
    assert commands["sales"].event == event("sales_invoice", strange)[2], "the sink's dead letter holds the original"
    assert "add that row" in hint(commands["sales"])


def test_an_unknown_tax_code_is_dead_only_where_the_document_would_go(routes):
    strange = invoice(lines=[Line(line_id="1", line_no=1, quantity=Decimal(1), taxes=tax("Brand new"))])
    commands = run(routes, "sales_invoice", strange)
    assert commands["sales"].reason == "dead:MISSING_TABLE_ROW:table shop-tax has no row for tax_code=Brand new"
    unpaid = msgspec.structs.replace(strange, payment_status=PaymentStatus.UNPAID)
    commands = run(routes, "sales_invoice", unpaid)
    assert commands["sales"].reason == "when"
    assert commands["sales-to-till"].reason.startswith("dead:MISSING_TABLE_ROW")


def test_a_rate_that_contradicts_the_table_is_dead(routes):
    wrong = invoice(lines=[Line(line_id="1", line_no=1, quantity=Decimal(1), taxes=tax("NL 21% S", "9"))])
    commands = run(routes, "sales_invoice", wrong)
    assert commands["sales"].reason.startswith("dead:SOURCE_INCONSISTENT:tax code NL 21% S is 9.00 % at the source but 21 %")
    assert "mend the row tax_code=NL 21% S" in hint(commands["sales"])


def test_prices_with_vat_take_another_code(routes):
    command = run(routes, "sales_invoice", invoice(price_mode=PriceMode.INCL))["sales"]
    assert values(command)["vat_code", "1"] == "4"


@pytest.mark.parametrize(
    ("customer", "code"),
    [
        (invoice().customer, None),
        (Party(kind=canon.CustomerKind.PERSON, customer=Ref(id="6")), "900001"),
        (None, "900001"),
    ],
)
def test_the_default_debtor_stands_in(routes, customer, code):
    command = run(routes, "sales_invoice", invoice(type=InvoiceType.RECEIPT, customer=customer))["sales"]
    assert values(command).get(("customer.default_code", None)) == code


def test_a_receipt_without_a_term_has_no_term_and_the_type_follows_the_value(routes):
    commands = run(routes, "sales_invoice", invoice(payment_term=None))
    assert ("payment_term", None) not in values(commands["sales"])
    paid = run(routes, "sales_invoice", invoice(payment_term=Ref(code="Due on receipt")))["sales-to-till"]
    assert values(paid)["type", None] == "RECEIPT"


def test_a_reference_that_would_be_the_same_for_all_is_dead(routes):
    commands = run(routes, "sales_invoice", invoice(number=None))
    assert commands["sales-to-till"].reason.startswith("dead:MAPPING_ERROR:expression `'SH-' ~ source.number` failed")
    assert commands["sales"].action is Action.CREATE


def test_bytes_that_are_no_event_go_to_the_dead_letters_and_the_rest_go_on(routes):
    for raw in (b"", b"junk", CODEC.encode(canonical("customer"), event_of_customer())[:-9]):
        outgoing = HANDLER.handle(canonical("customer"), event_key("shop", "customer", "44"), raw, routes)
        assert [record.topic for record in outgoing] == [DEAD_LETTERS]
        letter = CODEC.decode(DEAD_LETTERS, outgoing[0].value)
        assert (letter.cause, letter.original, letter.source.id) == (Cause.MAPPING_ERROR, raw, "44")


def event_of_customer():
    return canon.CustomerEvent(
        meta=canon.EventMeta(
            event_id="e", seq=1, tenant="t", system="s", connection="shop", entity="customer", source_id="44",
            observed_at=OBSERVED, content_hash="h",
        ),
        after=canon.Customer(display_name="somebody"),
    )  # fmt: skip


def test_a_bug_of_ours_sets_one_record_aside(routes, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("secret@example.test")

    monkeypatch.setattr(module, "resolve", broken)
    command = run(routes, "customer", canon.Customer())["customers"]
    assert command.reason == "dead:BUG:ZeroDivisionError in the mapping"
    assert "example" not in str(command.resolved)


def test_a_command_that_is_too_large_is_told_without_its_event(routes, monkeypatch):
    monkeypatch.setattr(module, "RECORD_BYTES_MAX", 1_500)
    big = canon.Product(sku="A", name="x" * 2_000, kind=canon.ProductKind.SIMPLE)
    command = run(routes, "product", big)["products"]
    assert command.reason.startswith("dead:TOO_LARGE")
    assert command.event is None


def test_an_unknown_operation_is_never_guessed(routes):
    command = run(routes, "customer", canon.Customer(), op=Operation.UNKNOWN)["customers"]
    assert command.reason.startswith("dead:UNKNOWN_VALUE")


def test_events_nobody_asked_for_give_nothing(routes):
    text = CONFIGURATION.replace("connection: shop, entity: customer", "connection: till, entity: customer")
    assert run(compile_routes(parse(text).accepted(), 1), "customer", canon.Customer()) == {}


def test_headers_are_cloud_events_without_personal_data(routes):
    record = HANDLER.handle(*event("customer", canon.Customer(display_name="Jan Jansen")), routes)[0]
    assert record.headers["ce_specversion"] == "1.0"
    assert record.headers["ce_id"] == CODEC.decode(record.topic, record.value).id
    assert "Jansen" not in "".join([*record.headers, *record.headers.values(), record.key])


def test_what_is_asked_for_again_is_the_same_but_for_its_marks(routes):
    topic, _, raw = event("customer", canon.Customer(display_name="B"))
    [live] = HANDLER.commands(HANDLER.read(topic, raw), raw, routes)
    [again] = HANDLER.commands(HANDLER.read(topic, raw), raw, routes, Again(request="r-1", repair=True))
    command = CODEC.decode(again.topic, again.value)
    assert (command.request, command.repair) == ("r-1", True)
    plain = msgspec.structs.replace(command, request=None, repair=False)
    assert (CODEC.encode(live.topic, plain), again.headers, again.key) == (live.value, live.headers, live.key)


def test_what_becomes_of_events_is_told(routes):
    told = []
    handler = Handler(
        CODEC, lambda flow, action, observed_at: told.append((flow.name, action, observed_at)), lambda *what: told.append(what)
    )
    handler.handle(*event("customer", canon.Customer()), routes)
    handler.handle(*event("customer", canon.Customer(), op=Operation.UNKNOWN), routes)
    handler.handle(canonical("customer"), event_key("shop", "customer", "44"), b"junk", routes)
    assert told == [("customers", "UPSERT", OBSERVED), ("customers", "DEAD", OBSERVED), ("shop", Cause.MAPPING_ERROR)]
