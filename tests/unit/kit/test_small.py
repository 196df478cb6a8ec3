"""Paginators, error table, manifest schema."""

from pathlib import Path

import pytest

from bus.core import errors
from bus.core.clock import FrozenClock
from bus.core.errors import ManifestError, PageLoop
from bus.kit.classify import class_of, error_class, retry_after_s
from bus.kit.manifest import load_manifest
from bus.kit.pagination import LinkPages, OffsetPages, TokenPages
from bus.kit.schema import manifest_json_schema

ROOT = Path(__file__).parents[3]


def test_a_link_that_comes_twice_is_a_loop() -> None:
    pages = LinkPages("invoices")
    assert pages.next("http://a.test/1") == "http://a.test/1"
    assert pages.next(None) is None
    with pytest.raises(PageLoop, match="invoices"):
        pages.next("http://a.test/1")


def test_a_poll_has_a_last_page_whatever_the_vendor_says() -> None:
    pages = TokenPages("invoices", pages_max=3)
    for number in range(3):
        pages.next(str(number))
    with pytest.raises(PageLoop, match="more than 3"):
        pages.next("3")


@pytest.mark.parametrize(("rows", "start"), [(99, None), (100, 101), (0, None)])
def test_a_short_page_is_the_last(rows: int, start: int | None) -> None:
    assert OffsetPages("items", size=100).next(rows) == start


def test_a_manifest_row_wins_over_the_table() -> None:
    assert class_of(500, write=True, rows={"500": "WriteRejected"}) is errors.WriteRejected
    assert class_of(500, write=True, rows={}) is errors.Unavailable
    assert class_of(204, write=True, rows={}) is None
    with pytest.raises(ManifestError):
        error_class("NoSuchError")


def test_retry_after_comes_in_two_forms() -> None:
    clock = FrozenClock()
    assert retry_after_s({"retry-after": "12"}, clock) == 12
    assert retry_after_s({"retry-after": "Sat, 21 Nov 2026 09:01:00 GMT"}, clock) == 60
    assert retry_after_s({"retry-after": "soon"}, clock) is None


def test_the_exported_schema_is_fresh() -> None:
    assert (ROOT / "schemas/manifest.schema.json").read_text() == manifest_json_schema()


def test_a_wrong_manifest_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "acme" / "manifest.toml"
    path.parent.mkdir()
    path.write_text('id = "acme"\nname = 7\n')
    with pytest.raises(ManifestError, match=r"acme.manifest\.toml: name"):
        load_manifest(path)
