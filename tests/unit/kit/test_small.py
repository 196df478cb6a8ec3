"""Paginators, error table, manifest schema."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import connectors
from bus.core import errors
from bus.core.clock import FrozenClock
from bus.core.errors import ManifestError, PageLoop, SettingsError
from bus.kit import registry
from bus.kit.classify import build, class_of, error_class, retry_after_s
from bus.kit.manifest import Manifest, load_manifest
from bus.kit.pagination import LinkPages, OffsetPages, TokenPages
from bus.kit.schema import manifest_json_schema
from tests.fakes import MANIFEST

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


@pytest.mark.parametrize(
    ("status", "read", "write"),
    [
        (302, errors.ApiChanged, errors.WriteRejected),
        (400, errors.ApiChanged, errors.WriteRejected),
        (401, errors.TokenExpired, errors.TokenExpired),
        (403, errors.AccessDenied, errors.AccessDenied),
        (404, errors.ApiChanged, errors.WriteRejected),
        (405, errors.ApiChanged, errors.WriteRejected),
        (408, errors.Unavailable, errors.Unavailable),
        (409, errors.ApiChanged, errors.WriteRejected),
        (410, errors.CursorInvalid, errors.WriteRejected),
        (412, errors.ApiChanged, errors.WriteConflict),
        (418, errors.ApiChanged, errors.WriteRejected),
        (422, errors.ApiChanged, errors.WriteRejected),
        (429, errors.RateLimited, errors.RateLimited),
        (500, errors.Unavailable, errors.Unavailable),
        (503, errors.Unavailable, errors.Unavailable),
    ],
)
def test_the_table(status: int, read: type, write: type) -> None:
    assert class_of(status, write=False, rows={}) is read
    assert class_of(status, write=True, rows={}) is write


def test_every_class_a_row_may_name_can_be_built() -> None:
    for kind in [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.BusError)]:
        assert isinstance(build(kind, "message", 3.0), kind)


def test_a_code_wins_over_its_status() -> None:
    rows = {"400": "WriteRejected", "400/5010": "WriteConflict"}
    assert class_of(400, write=True, rows=rows, code="5010") is errors.WriteConflict
    assert class_of(400, write=True, rows=rows, code="6000") is errors.WriteRejected


@pytest.mark.parametrize("rows", [{"400": "NoSuchError"}, {"400": "Sequence"}, {"four": "Unavailable"}])
def test_a_wrong_error_row_is_refused(rows: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate({**MANIFEST, "errors": rows})


def test_connectors_are_found_and_loaded_by_their_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for system in ("acme", "zeta"):
        (tmp_path / system).mkdir()
        facts = {**MANIFEST, "id": system, "entry_point": "connector:AcmeConnector", "config": "connector:AcmeConfig"}
        (tmp_path / system / "manifest.toml").write_text(as_toml(facts))
    (tmp_path / "acme" / "connector.py").write_text("class AcmeConnector: ...\nclass AcmeConfig: ...\n")
    monkeypatch.setattr(connectors, "__path__", [str(tmp_path)])
    for cached in (registry.manifest_of, registry.load):
        cached.cache_clear()
    try:
        assert registry.discover() == ["acme", "zeta"]
        loaded = registry.load("acme")
        assert loaded.connector_class.__name__ == "AcmeConnector"
        assert loaded.folder == tmp_path / "acme"
        with pytest.raises(SettingsError, match="there are acme, zeta"):
            registry.load("nobody")
        with pytest.raises(ManifestError, match=r"zeta: .*no connector\.py"):
            registry.load("zeta")
    finally:
        for name in [name for name in sys.modules if name.startswith(("connectors.acme", "connectors.zeta"))]:
            del sys.modules[name]
        for cached in (registry.manifest_of, registry.load):
            cached.cache_clear()


def as_toml(facts: dict[str, Any]) -> str:
    """TOML of plain facts: every value inline."""

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{key} = {value(part)}" for key, part in item.items()) + "}"
        if isinstance(item, list | tuple):
            return "[" + ", ".join(value(part) for part in item) + "]"
        return json.dumps(item)

    return "\n".join(f"{key} = {value(item)}" for key, item in facts.items())


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
