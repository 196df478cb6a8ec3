"""Every wrong configuration is refused with file, line, key and fix, all at once, nothing half-applied."""

from pathlib import Path

import pytest

from bus.core.configuration import ConfigurationRefused, load, parse

GOOD = """\
kind: Connection
name: exact-nl
tenant: acme
system: exact_online
secret: exact-nl
config: {division: 1}
---
kind: Connection
name: qbo-nl
tenant: acme
system: quickbooks
secret: qbo-nl
config: {realm_id: "9", source_tax: qbo-tax}
---
kind: Table
name: qbo-tax
key: [tax_code]
rows:
  - {tax_code: NL 21% S, category: S, country: NL, rate_pct: "21"}
---
kind: Table
name: exact-vat
key: [category, country, rate_pct]
rows:
  - {category: S, country: NL, rate_pct: "21", value: "2"}
---
kind: Flow
name: invoices
from: {connection: qbo-nl, entity: sales_invoice}
to: {connection: exact-nl, entity: sales_order}
start: 2026-12-01
when: source.payment_status == 'PAID'
reference: {to: YourRef, value: "'QBO-' ~ source.id"}
write: create
set:
  vat_code: {table: exact-vat}
"""


def test_the_good_one_is_good(check):
    report = check(GOOD)
    assert report.problems == ()
    assert report.configuration.flows["invoices"].set["vat_code"].level == "line"
    assert report.configuration.flows["invoices"].set["vat_code"].required
    assert report.configuration.flows["invoices"].reference.length_max == 30


BAD = [
    ("rows:\n  - {tax_code: NL", "rows:\n  - {tax_code: [NL", 19, "document", "not YAML", "brackets"),
    ("start: 2026-12-01\n", "", 27, "start", "is missing", "no default"),
    ("tenant: acme\nsystem: exact", "tennant: acme\nsystem: exact", 3, "tennant", "not a key here", "'tenant'"),
    ("config: {division: 1}", "config: {divison: 1}", 6, "config.divison", "not a key of exact_online", "'division'"),
    ("system: exact_online", "system: exact_onlin", 4, "system", "no connector", "'exact_online'"),
    ("from: {connection: qbo-nl,", "from: {connection: qbo,", 29, "from.connection", "no connection 'qbo'", "'qbo-nl'"),
    ("entity: sales_order}", "entity: product_category}", 30, "to.entity", "takes no product_category", "refuses to create"),
    ("entity: sales_order}", "entity: sales_ordr}", 30, "to.entity", "'sales_ordr' is not allowed", "'sales_order'"),
    ("write: create", "write: upsert", 34, "write", "cannot update", "It can: create"),
    ("vat_code: {table: exact-vat}", "vat_code: {table: exakt-vat}", 36, "set.vat_code.table", "no table", "'exact-vat'"),
    ("  vat_code: {table: exact-vat}", "  branch: \"'20'\"", 36, "set.branch", "has no place", "Sales orders have no branch"),
    ("set:\n  vat_code: {table: exact-vat}\n", "", 27, "set", "needs 'vat_code'", "under set"),
    ("source.payment_status ==", "source.payment_state ==", 32, "when", "no field 'payment_state'", "'payment_status'"),
    ("== 'PAID'", "== 'PAYED'", 32, "when", "never 'PAYED'", "'PAID'"),
    ("== 'PAID'", "== 'REFUNDED'", 32, "when", "never gives 'REFUNDED'", "UNPAID, PARTIAL, PAID"),
    ("source.payment_status", "source.fulfilment_status", 32, "when", "never fills fulfilment_status", "Use a field"),
    ("source.payment_status == 'PAID'", "source.customer.pii", 32, "when", "personal data", "customer.kind"),
    ("source.payment_status == 'PAID'", "source.customer.email != ''", 32, "when", "sealed", "customer.kind"),
    ("source.payment_status == 'PAID'", "source.note", 32, "when", "personal data", "no personal data"),
    ("source.payment_status == 'PAID'", "source.payment_status = 'PAID'", 32, "when", "the expression", "expression"),
    ("source.payment_status == 'PAID'", "payment_status == 'PAID'", 32, "when", "no name 'payment_status'", "quotes"),
    ("to: YourRef", "to: YourReference", 33, "reference.to", "cannot hold a reference", "'YourRef'"),
    ("'QBO-' ~ source.id", "'QBO-'", 33, "reference.value", "the same for every document", "source.id"),
    ("'QBO-' ~ source.id", "'QUICKBOOKS-ONLINE-INVOICE-NUMBER-' ~ source.id", 33, "reference.value", "30", "Shorten"),
    ('reference: {to: YourRef, value: "\'QBO-\' ~ source.id"}\n', "", 27, "reference", "needs a reference", "YourRef"),
    ("start: 2026-12-01", "start: {existing: link}", 31, "start", "begin at a date", "2026-12-01"),
    ("start: 2026-12-01", "start: {from: 2026-12-01, by: order_date}", 31, "start.by", "gives no date", "issue_date"),
    ("start: 2026-12-01", "start: tomorrow", 31, "start", "is no start", "2026-12-01"),
    ("key: [tax_code]", "key: [code]", 17, "key", "found by tax_code alone", "[tax_code]"),
    ("category: S, country: NL, rate_pct: \"21\"}\n", "category: T, country: NL}\n", 19, "rows[0].category", "'T'", "Write one of"),  # noqa: E501
    ("value: \"2\"}", "valeu: \"2\"}", 25, "rows[0]", "no `value`", "'valeu'"),
    ("{category: S, country: NL, rate_pct: \"21\", value", "{category: S, rate_pct: \"21\", value", 25, "rows[0]", "no 'country'", "'*'"),  # noqa: E501
    ("key: [category, country, rate_pct]", "key: [category, land, rate_pct]", 36, "set.vat_code.table", "'land'", "by:"),
    ("tenant: acme\nsystem: quick", "tenant: other\nsystem: quick", 30, "to.connection", "tenant 'acme'", "never crosses"),
    ("source_tax: qbo-tax", "source_tax: qbo-taxes", 13, "config.source_tax", "no table 'qbo-taxes'", "'qbo-tax'"),
    ("config: {division: 1}", "config: {division: 1, poll_s: {order: 5}}", 6, "config.poll_s.order", "no stream", "sales_order"),
    ("config: {division: 1}", "config: {division: 1, poll_s: {customer: 20}}", 6, "config.poll_s", "vendor's limit 'day'", "less often"),  # noqa: E501
    ("name: qbo-nl", "name: exact-nl", 9, "name", "already in", "Rename"),
    ("kind: Table\nname: qbo-tax", "kind: Tabel\nname: qbo-tax", 15, "kind", "unknown", "'Table'"),
    ("  vat_code: {table: exact-vat}", "  vat_code: {tabel: exact-vat}", 36, "set.vat_code.tabel", "not a key here", "'table'"),
    ("write: create", "write: create\ncustomer: {missing: default}", 35, "customer.missing", "no default debtor", "default"),
    ("write: create", "write: create\nproduct: {patience: 3}", 35, "product.patience", "not a duration", "3d"),
    ("write: create", "write: create\non_delete: delete", 35, "on_delete", "cannot delete", "ignore"),
    ("entity: sales_invoice}", "entity: sales_invoice, types: [BILL]}", 29, "from.types[0]", "type 'BILL'", "INVOICE"),
    ("write: create", "write: create\nwrite: create", 35, "write", "given twice", "line 34"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "what", "fix"), BAD, ids=[f"{row[3]}-{number}" for number, row in enumerate(BAD)]
)
def test_bad_input_names_file_line_key_and_fix(check, old, new, line, key, what, fix):
    assert GOOD.count(old) == 1 or old in ("tenant: acme\n", "name: qbo-nl")
    problems = check(GOOD.replace(old, new, 1)).problems
    told = [str(problem) for problem in problems]
    assert any(
        problem.file == "acme.yaml"
        and problem.line == line
        and problem.key == key
        and what in problem.what
        and fix in problem.fix
        for problem in problems
    ), told


def test_all_problems_come_at_once(check):
    text = (
        GOOD.replace("== 'PAID'", "== 'PAYED'")
        .replace("table: exact-vat}", "table: nowhere}")
        .replace("write: create", "write: upsert")
    )
    assert {item.key for item in check(text).problems} == {"when", "write", "set.vat_code.table"}
    with pytest.raises(ConfigurationRefused) as refused:
        check(text).accepted()
    assert refused.value.exit_code == 78


def test_missing_secret(check):
    problems = check(GOOD, missing=("client_secret",)).problems
    assert [(item.line, item.key) for item in problems] == [(5, "secret"), (12, "secret")]
    assert "BUS_SECRET_EXACT_NL_CLIENT_SECRET" in problems[0].fix


def test_two_connections_of_one_account(check):
    text = (
        GOOD + "---\n{kind: Connection, name: again, tenant: acme, system: exact_online, secret: again, config: {division: 1}}\n"
    )
    assert any("same account" in item.what for item in check(text).problems)


def test_documents_both_ways_warn(check):
    text = (
        GOOD
        + """---
kind: Flow
name: back
from: {connection: exact-nl, entity: sales_order}
to: {connection: qbo-nl, entity: sales_invoice, type: "'INVOICE'"}
start: 2026-12-01
reference: {to: DocNumber, value: "'EX-' ~ source.number"}
write: create
set: {vat_code: "'x'"}
"""
    )
    report = check(text)
    assert report.problems == ()
    assert "both ways" in report.warnings[0].what


def test_values_of_accountants_mean_what_they_look_like():
    rows = parse("kind: Table\nname: t\nkey: [code]\nrows:\n- {code: 014, country: NO, pct: 21.50, on: yes, paid: true}\n")
    assert rows.problems == ()
    assert rows.configuration.tables["t"].rows[0] == {"code": "014", "country": "NO", "pct": "21.50", "on": "yes", "paid": True}


def test_anchors_are_refused():
    assert "anchors" in parse("a: &x 1\nb: *x\n").problems[0].what


def test_folder_and_missing_path(tmp_path):
    (tmp_path / "b.yaml").write_text("kind: Table\nname: t\nkey: [x]\nrows: []\n")
    (tmp_path / "a.yml").write_text(
        "--- {kind: Table, name: u, key: [x], rows: []}\n--- {kind: Table, name: v, key: [x], rows: []}\n"
    )
    assert set(load(tmp_path).accepted().tables) == {"t", "u", "v"}
    assert "does not exist" in load(tmp_path / "nowhere").problems[0].what


def test_the_pair_of_an_accountant_is_valid(check):
    text = (Path(__file__).parent / "pair.yaml").read_text()
    text += """
--- {kind: Table, name: exact-terms, key: [code], rows: [{code: Net 30, value: "30"}]}
--- {kind: Table, name: qbo-vat, key: [category, country, rate_pct],
     rows: [{category: S, country: NL, rate_pct: 21, value: NL 21% S}]}
--- {kind: Table, name: qbo-income, key: [vat_class], rows: [{vat_class: "*", value: Sales}]}
"""
    assert check(text).problems == ()
